from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from router.taps import NormRecorder, gradient_norm


def norm_reference(inputs: np.ndarray, gradients: np.ndarray) -> float:
    total = np.zeros((gradients.shape[1], inputs.shape[1]))
    for a, e in zip(inputs, gradients, strict=True):
        total += np.outer(e, a)
    return float(np.sqrt((total**2).sum()))


@given(st.integers(0, 60), st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000))
@settings(deadline=None)
def test_gradient_norm_is_that_of_the_summed_outer_products(tokens: int, wide: int, high: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, gradients = rng.normal(size=(tokens, wide)), rng.normal(size=(tokens, high))
    expected = norm_reference(inputs, gradients)
    inputs, gradients = torch.tensor(inputs).float(), torch.tensor(gradients).float()
    assert float(gradient_norm(inputs, gradients)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("tokens", [3, 300])  # Gram matrices, direct product
def test_gradient_norm_in_bfloat16(tokens: int) -> None:
    rng = np.random.default_rng(0)
    inputs, gradients = rng.normal(size=(tokens, 48)), rng.normal(size=(tokens, 32)) * 1e-6
    value = gradient_norm(torch.tensor(inputs).bfloat16(), torch.tensor(gradients).bfloat16())
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(norm_reference(inputs, gradients), rel=2e-2)


def test_short_sequences_never_see_a_matrix_of_the_weights_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the direct product was used")

    monkeypatch.setattr(torch.linalg, "vector_norm", refuse)
    gradient_norm(torch.ones(5, 100), torch.ones(5, 100))
    with pytest.raises(AssertionError):
        gradient_norm(torch.ones(50, 100), torch.ones(50, 100))


def gradients(layer: nn.Linear, inputs: torch.Tensor, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    """Autograd's own weight gradient of each row's loss."""
    losses = [layer(inputs[row, : length - 1]).square().sum() for row, length in enumerate(lengths)]
    return [torch.autograd.grad(loss, layer.weight)[0] for loss in losses]


def run_pass(layer: nn.Linear, inputs: torch.Tensor, lengths: Many[int]) -> None:
    outputs = layer(inputs)
    loss = torch.stack([outputs[row, : length - 1].square().sum() for row, length in enumerate(lengths)]).sum()
    torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 0), (0, 0, 0)])
def test_recorder_measures_each_trajectory_and_leaves_no_hook_behind(owners: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    inputs, lengths = torch.randn(3, 8, 6, requires_grad=True), (8, 5, 2)
    recorder = NormRecorder([layer])
    with recorder.recording(lengths, owners):
        run_pass(layer, inputs, lengths)
    by_row = gradients(layer, inputs, lengths)
    for owner in set(owners):
        total = torch.stack([gradient for gradient, other in zip(by_row, owners, strict=True) if other == owner]).sum(0)
        assert recorder.norms()[owner, 0] == pytest.approx(float(total.norm()), rel=1e-5)
    assert not layer._forward_hooks


def test_a_trajectory_of_several_passes_is_summed_up_before_its_norm_is_taken() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    inputs, lengths = torch.randn(3, 8, 6), (8, 5, 2)
    recorder = NormRecorder([layer], passes=2)
    for rows in ([0], [1, 2]):
        some = inputs[rows].requires_grad_()
        with recorder.recording([lengths[row] for row in rows], [0] * len(rows)):
            run_pass(layer, some, [lengths[row] for row in rows])
    total = torch.stack(gradients(layer, inputs, lengths)).sum(0)
    assert recorder.norms().tolist() == [[pytest.approx(float(total.norm()), rel=1e-5)]]


def test_a_layer_that_the_backward_pass_missed_is_reported() -> None:
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    recorder = NormRecorder(layers)
    inputs = torch.ones(1, 3, 2, requires_grad=True)
    with recorder.recording((3,), (0,)):
        torch.autograd.grad(layers[0](inputs).sum(), inputs)
    with pytest.raises(RuntimeError, match="went past 1 of 2"):
        recorder.norms()
