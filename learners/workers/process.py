"""How a learner worker's process uses its machine, where that machine has no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
EXACT = 1e-5
"""Greatest error of a product of float32 matrices, as a share of its largest entry; bfloat16 is off by 1e-3."""


def cores_of_worker() -> int:
    """Cores of one worker, if the workers of its machine share all that they may use."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def keep_freed_memory() -> None:
    """Let the C library re-use what freed tensors held, instead of giving it back to the system and asking again with
    the next pass: an eighth of a training step goes into these page faults otherwise. No effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc accepts
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def multiplies_bfloat16() -> bool:
    """Whether this process's device multiplies bfloat16 natively: an accelerator that says so, or a CPU with AMX or
    AVX512-BF16. Elsewhere bfloat16 is emulated, and up to 20 times slower than float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def multiply_with_onednn() -> bool:
    """Have oneDNN multiply float32 matrices, if it does so exactly on this CPU; whether it does.

    torch asks MKL otherwise, which keeps to AVX2 on AMD's processors: oneDNN's AVX-512 is 2.3 times as fast there. The
    one way to it is leave to round to bfloat16. oneDNN takes that leave where the CPU multiplies bfloat16 in tiles
    (AMX), and computes in float32 elsewhere, which the test product tells apart.
    """
    import torch  # here, because it takes seconds that only a worker's process should pay

    products: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 256, generator=draw), torch.randn(256, 256, generator=draw)
    product = left.double() @ right.double()
    exact = bool((left @ right - product).abs().max() <= EXACT * product.abs().max())
    if not exact:
        products.fp32_precision = before
    return exact
