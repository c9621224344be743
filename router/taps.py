"""Measures, during backward passes, the weight gradients of linear layers, trajectory by trajectory, without forming
them for the batch.

For y = W a the gradient of one sequence's loss by W is G = sum_t e_t a_t^T, with e_t the loss gradient by y at token t.
Rows of a padded batch do not mix, so one backward pass of the summed losses brings every sequence's own e; the gradient
of a trajectory's loss is the sum over the tokens of all its sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Measure = Callable[[Tensor, Tensor], None]


def gradient_norm(inputs: Tensor, gradients: Tensor) -> Tensor:
    """|| sum_t e_t a_t^T ||_F, float32 scalar, by the cheaper way.

    Directly it costs T * in * out multiplications; as sum_st (a_s . a_t) (e_s . e_t), the sum over the product of the
    two Gram matrices, T^2 * (in + out). So short sequences in wide layers never see a matrix of the weight's size.

    Args:
        inputs: a, [T, in]. gradients: e, [T, out]. Both float32 or bfloat16.
    """
    (tokens, wide), high = inputs.shape, gradients.shape[1]
    if tokens * (wide + high) >= wide * high:
        # In the gradient's own precision, as autograd would: rounding single entries hardly moves their norm.
        return torch.linalg.vector_norm(gradients.T @ inputs.to(gradients.dtype), dtype=torch.float32)
    # Entries of Gram matrices cancel, so these need float32.
    a, e = inputs.float(), gradients.float()
    return torch.dot((a @ a.T).flatten(), (e @ e.T).flatten()).clamp(min=0.0).sqrt()


@lru_cache(maxsize=1024)
def random_signs(column: int, width: int, count: int) -> Tensor:
    """float32 [width, count] of +-1 / sqrt(count), the same on every machine: ||G R||^2 has the mean ||G||^2.

    A matrix is that of its layer's number: all trajectories share it, which keeps their order.
    """
    draw = torch.Generator().manual_seed(column)
    signs = torch.randint(2, (width, count), generator=draw) * 2 - 1
    return signs / count**0.5


class NormRecorder:
    """Collects norms[trajectory, matrix] while backward passes run. A trajectory's gradient is the sum over its rows.

    Rows of one pass are measured at once, without a matrix of the weight's size where these are short. A trajectory
    that takes several passes is summed up from pass to pass: meanwhile one such matrix is kept for each layer.
    """

    def __init__(self, layers: Many[nn.Module], passes: int = 1, sketch: int = 0) -> None:
        """
        Args:
            layers: the linear layers to measure; inputs [B, T, in], outputs [B, T, out].
            passes: how many there are; with several, all are of one trajectory.
            sketch: columns of the random matrix that stands before every gradient, see `router.probing.Sample`.
        """
        self._layers, self._passes, self._sketch = tuple(layers), passes, sketch
        self._columns: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}

    @contextmanager
    def recording(self, lengths: Many[int], owners: Many[int]) -> Iterator[None]:
        """One forward and backward pass run inside: recomputed activations need their taps as well.

        Args:
            lengths: tokens of each row of the batch.
            owners: the trajectory of each row, counted from 0.
        """
        with ExitStack() as stack:
            for column, layer in enumerate(self._layers):
                handle = layer.register_forward_hook(self._tap(column, lengths, owners))
                stack.callback(handle.remove)
            yield

    def norms(self) -> Tensor:
        """float32 [trajectories, number of layers].

        Raises:
            RuntimeError: a backward pass did not go through every layer.
        """
        self._columns |= {column: torch.linalg.vector_norm(total)[None] for column, total in self._sums.items()}
        if missing := len(self._layers) - len(self._columns):
            raise RuntimeError(f"the backward pass went past {missing} of {len(self._layers)} probed layers")
        return torch.stack([self._columns[column] for column in range(len(self._layers))], dim=1)

    def _tap(
        self, column: int, lengths: Many[int], owners: Many[int]
    ) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def measure(inputs: Tensor, gradients: Tensor) -> None:
            if self._sketch and self._sketch < inputs.shape[-1]:
                signs = random_signs(column, inputs.shape[-1], self._sketch)
                inputs = inputs @ signs.to(inputs.device, inputs.dtype)
            # The last token of a sequence predicts nothing: its gradient, like that of the padding behind, is zero.
            rows = [(a[: n - 1], e[: n - 1]) for a, e, n in zip(inputs, gradients, lengths, strict=True)]
            if self._passes > 1:
                total = sum((e.T @ a.to(e.dtype)).float() for a, e in rows)
                self._sums[column] = self._sums[column] + total if column in self._sums else torch.as_tensor(total)
            else:
                self._columns[column] = torch.stack([gradient_norm(*tokens) for tokens in _by_owner(rows, owners)])

        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return _Tap.apply(output, args[0].detach(), measure)  # pyright: ignore[reportReturnType]

        return hook


def _by_owner(rows: Many[tuple[Tensor, Tensor]], owners: Many[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [T, in] and [T, out] of all rows of each owner, in the order of its number."""
    for owner in range(max(owners) + 1):
        mine = [row for row, other in zip(rows, owners, strict=True) if other == owner]
        yield mine[0] if len(mine) == 1 else (torch.cat([a for a, _ in mine]), torch.cat([e for _, e in mine]))


class _Tap(torch.autograd.Function):
    """Identity. The layer's input is a saved tensor, not part of a closure, so activation checkpointing can drop it in
    the forward pass and recompute it."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, measure: Measure) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.measure = measure
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        (gradients,) = grad_outputs
        (inputs,) = ctx.saved_tensors
        ctx.measure(inputs, gradients)
        return gradients, None, None
