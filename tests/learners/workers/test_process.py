"""What a worker takes of its machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from learners.workers.process import EXACT, cores_of_worker, multiply_with_onednn

PRODUCTS: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]


def test_workers_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for workers, cores in ((1, 6), (2, 3), (4, 1), (9, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(workers))
        assert cores_of_worker() == cores


@pytest.fixture
def products() -> Iterator[None]:
    """Gives the process its way of multiplying back."""
    before = PRODUCTS.fp32_precision
    yield
    PRODUCTS.fp32_precision = before


@pytest.mark.usefixtures("products")
def test_products_stay_exact_whoever_multiplies() -> None:
    taken = multiply_with_onednn()
    assert taken == (PRODUCTS.fp32_precision == "bf16")
    left, right = torch.randn(300, 500), torch.randn(500, 200)
    product = left.double() @ right.double()
    assert (left @ right - product).abs().max() <= EXACT * product.abs().max()


@pytest.mark.usefixtures("products")
def test_a_processor_that_would_round_keeps_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PRODUCTS.fp32_precision
    multiply = torch.Tensor.__matmul__

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        rounds = left.dtype == torch.float32 and PRODUCTS.fp32_precision == "bf16"
        return multiply(left.bfloat16(), right.bfloat16()).float() if rounds else multiply(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounding)
    assert not multiply_with_onednn()
    assert PRODUCTS.fp32_precision == before
