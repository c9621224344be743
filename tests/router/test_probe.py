from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Phi3Config, Phi3ForCausalLM

from learners.policy.model import PolicyModel
from router import geometry, probe
from router.network import PROJECTIONS
from router.probe import ProbeResult
from router.probing import Sample
from router.taps import NormRecorder, random_signs
from tests.router import samples
from trajectories.batch import collate
from trajectories.errors import UserError
from trajectories.packing import plan_batches
from trajectories.types import Sequence


def assert_same(result: ProbeResult, expected: ProbeResult, tolerance: float) -> None:
    assert (result.sequence_ids, result.trajectories) == (expected.sequence_ids, expected.trajectories)
    assert (expected.norms > 0).all()
    torch.testing.assert_close(result.norms, expected.norms, rtol=tolerance, atol=0.0)
    torch.testing.assert_close(result.losses, expected.losses, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(result.hidden, expected.hidden, rtol=tolerance, atol=10 * tolerance)
    for mine, theirs in zip(result.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("key_value_heads", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("architecture", samples.ARCHITECTURES)
def test_batched_equals_sequential(architecture: str, key_value_heads: int, tied: bool) -> None:
    policy = samples.policy(samples.language_model(architecture, key_value_heads, tied))
    sequences = samples.ragged()
    expected = probe.sequential(policy, sequences)
    assert expected.norms.shape == (len(sequences), 7 * samples.LAYERS)
    assert_same(probe.batched(policy, sequences), expected, tolerance=1e-4)


@pytest.mark.parametrize("token_budget", [1, 50, 130, 10_000])
def test_how_sequences_share_passes_changes_nothing(token_budget: int) -> None:
    policy, sequences = samples.policy(), samples.ragged()
    expected = probe.sequential(policy, sequences)
    assert_same(probe.batched(policy, sequences, token_budget), expected, tolerance=1e-4)


@pytest.mark.parametrize("last", range(1, samples.LAYERS + 1))
@pytest.mark.parametrize("token_budget", [30, 10_000])
def test_the_last_layers_are_measured_as_in_a_whole_probe(last: int, token_budget: int) -> None:
    """Also where a trajectory takes several passes; losses, states and log-probabilities are those of the whole."""
    policy, sequences = samples.policy(), turns()
    whole = probe.batched(policy, sequences, token_budget)
    part = probe.batched(policy, sequences, token_budget, Sample(layers=last))
    expected = replace(whole, norms=whole.norms[:, -7 * last :], entries=whole.entries[-7 * last :])
    assert_same(part, expected, tolerance=1e-5)
    assert part.entries == expected.entries


def test_more_layers_than_there_are_cannot_be_measured() -> None:
    with pytest.raises(UserError, match=rf"9 layers of a model of {samples.LAYERS}: set router.sample_layers"):
        probe.batched(samples.policy(), samples.ragged(), sample=Sample(layers=9))


@pytest.mark.parametrize("token_budget", [30, 10_000])
def test_a_sketch_is_the_norm_of_the_gradient_times_the_layers_random_signs(token_budget: int) -> None:
    """Against the weight gradients of autograd, also where a trajectory takes several passes."""
    policy, sequences = samples.policy(), turns("aaabb")
    weights = [layer.weight for layer in probe.projections(policy).values()]
    found = probe.batched(policy, sequences, token_budget, Sample(sketch=5)).norms
    for row, name in enumerate("ab"):
        mine = [sequence for sequence in sequences if sequence.episode_id == name]
        logprobs = torch.cat([policy(collate([sequence], torch.device("cpu"))) for sequence in mine])
        for column, grad in enumerate(torch.autograd.grad(-logprobs.mean(), weights)):
            expected = (grad @ random_signs(column, grad.shape[1], 5)).norm()
            torch.testing.assert_close(found[row, column], expected, rtol=1e-4, atol=0.0)


def test_sketched_squares_are_right_in_the_mean_within_their_spread() -> None:
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    draws = torch.stack([(matrix @ random_signs(draw, 30, 8)).square().sum() for draw in range(400)])
    ratios = draws / matrix.square().sum()
    assert ratios.mean().item() == pytest.approx(1.0, abs=0.03)
    assert ratios.std().item() < (2 / 8) ** 0.5
    assert set((random_signs(3, 30, 4) * 2).unique().tolist()) == {-1.0, 1.0}


def turns(owners: str = "aabbbcab") -> list[Sequence]:
    """Sequences of the trajectories that the letters name."""
    lengths = (9, 40, 8, 23, 5, 64, 17, 12)[: len(owners)]
    return [replace(row, episode_id=owner) for row, owner in zip(samples.ragged(lengths), owners, strict=True)]


@pytest.mark.parametrize("token_budget", [1, 30, 70, 200, 10_000])
def test_the_norm_of_a_trajectory_is_that_of_its_mean_gradient(token_budget: int) -> None:
    """Against one loss over all trained tokens of its turns, whether these share a pass or take several."""
    policy, sequences = samples.policy(), turns()
    result = probe.batched(policy, sequences, token_budget)
    assert result.trajectories == ("a", "b", "c")
    weights = [layer.weight for layer in probe.projections(policy).values()]
    expected = []
    for name in result.trajectories:
        mine = [sequence for sequence in sequences if sequence.episode_id == name]
        logprobs = torch.cat([policy(collate([sequence], torch.device("cpu"))) for sequence in mine])
        expected.append(torch.stack([grad.norm() for grad in torch.autograd.grad(-logprobs.mean(), weights)]))
    torch.testing.assert_close(result.norms, torch.stack(expected), rtol=1e-4, atol=0.0)
    assert_same(result, probe.sequential(policy, sequences), tolerance=1e-4)
    alone = probe.batched(policy, [replace(sequence, episode_id=sequence.sequence_id) for sequence in sequences])
    assert (result.norms[0] < 0.99 * alone.norms[[0, 1, 6]].mean(0)).any(), "turns that differ undo each other"


def test_turns_that_undo_each_other_have_no_gradient_to_speak_of() -> None:
    """The mean of the turns' norms would not see it."""
    recorded = NormRecorder([layer := nn.Linear(3, 2)])
    inputs = torch.randn(1, 4, 3).repeat(2, 1, 1).requires_grad_()
    with recorded.recording((4, 4), (0, 0)):
        outputs = layer(inputs)
        torch.autograd.grad((outputs[0, :3] - outputs[1, :3]).sum(), inputs)
    assert recorded.norms().item() == pytest.approx(0.0, abs=1e-4)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(2, 50)), min_size=1, max_size=14), st.integers(1, 120))
def test_a_plan_keeps_every_trajectory_whole_within_the_budget(rows: list[tuple[str, int]], budget: int) -> None:
    made = [samples.make_sequence(str(at), length, at) for at, (_, length) in enumerate(rows)]
    plan = probe._plan([replace(row, episode_id=name) for row, (name, _) in zip(made, rows, strict=True)], budget)
    assert sorted(row for unit in plan for part in unit for row in part) == list(range(len(rows)))
    for unit in plan:
        owners = [{rows[row][0] for row in part} for part in unit]
        assert len(unit) == 1 or len(set().union(*owners)) == 1
        for part in unit:
            assert len(part) == 1 or len(part) * max(rows[row][1] for row in part) <= budget
    for name in {name for name, _ in rows}:
        assert sum(any(rows[row][0] == name for part in unit for row in part) for unit in plan) == 1
    if len({name for name, _ in rows}) == len(rows):
        assert [unit[0] for unit in plan] == plan_batches([length for _, length in rows], budget)


def test_rows_are_batched_by_whole_trajectories() -> None:
    assert probe.by_trajectory(["a", "b", "a"]) == {"a": [0, 2], "b": [1]}
    assert probe.whole_batches(["a", "a", "b", "c", "c"], 3) == [[0, 1, 2], [3, 4]]
    assert probe.whole_batches([], 3) == []


@pytest.mark.parametrize("architecture", samples.ARCHITECTURES)
def test_with_an_adapter_the_base_matrices_are_measured(architecture: str) -> None:
    lm = samples.language_model(architecture)
    base = probe.batched(samples.policy(lm), samples.ragged())
    policy = samples.policy(samples.with_adapter(lm))
    expected = probe.sequential(policy, samples.ragged())
    assert_same(probe.batched(policy, samples.ragged()), expected, tolerance=1e-4)
    assert not torch.allclose(expected.norms, base.norms, rtol=1e-2)  # the adapter acts
    with policy.without_adapter():
        assert_same(probe.batched(policy, samples.ragged()), base, tolerance=1e-4)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("probing", [probe.sequential, probe.batched])
def test_gradient_checkpointing_changes_nothing(adapted: bool, probing: probe.Probe) -> None:
    lm = samples.language_model()
    expected = probing(samples.policy(samples.with_adapter(lm) if adapted else lm), samples.ragged())
    lm = samples.language_model()
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    lm.enable_input_require_grads()
    policy = samples.policy(samples.with_adapter(lm) if adapted else lm).train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in policy.modules())
    assert_same(probing(policy, samples.ragged()), expected, tolerance=1e-5)


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", samples.ARCHITECTURES)
def test_bfloat16_agrees_within_its_precision(architecture: str, adapted: bool) -> None:
    lm = samples.language_model(architecture)
    lm = samples.with_adapter(lm.bfloat16()) if adapted else lm
    policy = samples.policy(lm, torch.bfloat16)
    # With three tokens the keys' gradient is the difference of two nearly equal terms: bfloat16 alone is 7 % off there.
    sequences = samples.ragged(lengths=(9, 40, 8, 23, 64, 17))
    expected, result = probe.sequential(policy, sequences), probe.batched(policy, sequences)
    torch.testing.assert_close(result.norms, expected.norms, rtol=2e-2, atol=0.0)
    torch.testing.assert_close(result.losses, expected.losses, rtol=2e-2, atol=0.0)
    assert result.norms.dtype == expected.norms.dtype == torch.float32


def test_norms_are_those_of_a_plain_backward_pass() -> None:
    """The reference itself, against a loss written out with the model's logits."""
    lm, sequence = samples.language_model(), samples.make_sequence("s", 20, seed=3, temperature=0.7)
    result = probe.sequential(samples.policy(lm), [sequence])
    ids = torch.tensor(sequence.token_ids).long()[None]
    output = lm(ids, output_hidden_states=True)
    logprobs = (output.logits[0, :-1] / 0.7).log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
    trained = torch.tensor(sequence.trained[1:])
    loss = -logprobs[trained].mean()
    loss.backward()
    expected = [
        lm.model.layers[layer].get_submodule(name).weight.grad.norm()
        for layer in range(samples.LAYERS)
        for name in PROJECTIONS
    ]
    torch.testing.assert_close(result.norms[0], torch.stack(expected), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(result.losses[0], loss.detach())
    torch.testing.assert_close(result.hidden[0], output.hidden_states[-1][0, -1].detach())
    expected_logprobs = np.where(sequence.trained, np.append(0.0, logprobs.detach()), 0.0)
    assert result.logprobs[0].dtype == np.float32
    np.testing.assert_allclose(result.logprobs[0], expected_logprobs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("probing", [probe.sequential, probe.batched])
def test_the_model_is_left_as_it_was(probing: probe.Probe) -> None:
    policy = samples.policy(samples.with_adapter(samples.language_model()))
    flags = {name: parameter.requires_grad for name, parameter in policy.named_parameters()}
    weights = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    with torch.no_grad():  # as a caller that scores may have it
        result = probing(policy, samples.ragged())
    assert not result.norms.requires_grad and not result.hidden.requires_grad
    for name, parameter in policy.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == flags[name]
        assert torch.equal(parameter, weights[name])
    assert not any(module._forward_hooks for module in policy.modules())


def test_batched_computes_no_weight_gradient() -> None:
    policy = samples.policy()
    touched: list[str] = []
    for name, parameter in policy.named_parameters():
        parameter.register_hook(lambda _, name=name: touched.append(name))
    probe.batched(policy, samples.ragged())
    assert not touched
    probe.sequential(policy, samples.ragged())
    assert touched


def test_padding_and_prompt_tokens_carry_no_loss_of_their_own() -> None:
    policy = samples.policy()
    sequence = samples.make_sequence("s", 30, seed=1)
    shorter = replace(sequence, trained=sequence.trained & (np.arange(30) < 10))
    cut = replace(shorter, token_ids=shorter.token_ids[:10], trained=shorter.trained[:10], logprobs=np.zeros(10))
    full, short = probe.batched(policy, [shorter]), probe.batched(policy, [cut])
    torch.testing.assert_close(full.norms, short.norms, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("probing", [probe.sequential, probe.batched])
def test_an_empty_corpus_and_untrained_sequences_are_refused(probing: probe.Probe) -> None:
    policy = samples.policy()
    with pytest.raises(UserError, match="the corpus holds no sequence"):
        probing(policy, [])
    sequence = samples.make_sequence("demo-7", 6, seed=0)
    only_first = replace(sequence, trained=np.array([True] + [False] * 5))
    with pytest.raises(UserError, match="trajectory demo-7 has no trained token"):
        probing(policy, [*samples.ragged(), only_first])


@pytest.mark.parametrize("probing", [probe.sequential, probe.batched])
def test_gradients_that_are_not_finite_are_refused_by_the_statistics_with_the_trajectory(probing: probe.Probe) -> None:
    policy, sequences = samples.policy(), samples.ragged()
    sequences[2] = replace(sequences[2], temperature=float("nan"))
    result = probing(policy, sequences)
    with pytest.raises(UserError, match="trajectory t2 has a gradient that is not finite"):
        geometry.gini(result.norms, result.sequence_ids)


def test_a_model_with_other_layers_is_refused() -> None:
    sizes: dict[str, Any] = samples.SIZES | {"num_key_value_heads": 2, "pad_token_id": 0}
    with pytest.raises(UserError, match=r"layer 0 of Phi3ForCausalLM has no linear layer self_attn\.q_proj"):
        probe.batched(samples.policy(Phi3ForCausalLM(Phi3Config(**sizes))), samples.ragged())


def test_dropout_is_refused_in_training_and_harmless_otherwise() -> None:
    def model(training: bool) -> PolicyModel:
        policy = samples.policy().train(training)
        attention: Any = policy.layers[0].self_attn
        attention.attention_dropout = 0.1
        return policy

    with pytest.raises(UserError, match=r"layers\.0\.self_attn drops out a share of 0\.1"):
        probe.batched(model(training=True), samples.ragged())
    probe.batched(model(training=False), samples.ragged())
    adapted = samples.policy().train()
    adapted.layers[1].get_submodule("mlp").add_module("dropout", nn.Dropout(0.2))
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.dropout drops out a share of 0\.2"):
        probe.batched(adapted, samples.ragged())


def test_projections_are_in_the_order_of_the_columns() -> None:
    policy = samples.policy(samples.with_adapter(samples.language_model()))
    found = probe.projections(policy)
    assert list(found) == [f"{layer}.{name}" for layer in range(samples.LAYERS) for name in PROJECTIONS]
    assert all(type(layer) is nn.Linear for layer in found.values())
