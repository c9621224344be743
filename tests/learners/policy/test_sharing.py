"""Passes that compute what sequences begin with alike only once give what padded passes give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from benchmarks.families import FAMILIES, SIZES, write_family
from learners.learner_settings import GRPOSettings, LoraSettings, OptimizerSettings, PolicySettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.policy import attention
from learners.policy import model as model_module
from learners.policy.loading import load_policy
from learners.policy.model import PolicyModel
from learners.policy.shard import PolicyShard, Term
from tests.learners.samples import begun_alike, published
from trajectories.batch import PaddedBatch, collate
from trajectories.types import Sequence

CPU = torch.device("cpu")
SHARING = sorted(attention.FAMILIES)
GROUPS = {
    "a group": begun_alike([20, 20, 20], [29, 14, 11, 17]),
    "lengths far apart": begun_alike([12, 12, 12], [13, 70, 2, 40]),
    "all but one token": begun_alike([30, 30, 30], [31, 1, 1, 1]),
    "a tree": begun_alike([10, 25, 12, 30, 30], [30, 20, 20, 20, 3, 8], seed=1),
    "the same": begun_alike([25, 25], [25, 0, 0]),
}
"""By what is shared with the member before; half of all tokens are trained, also before the members part."""


def in_both_ways(sequences: list[Sequence]) -> tuple[PaddedBatch, PaddedBatch]:
    """The batch that shares, and the padded one."""
    shared, padded = collate(sequences, CPU, share=True), collate(sequences, CPU)
    assert shared.shared is not None and len(shared.shared.first) < sum(shared.lengths)
    return shared, padded


def found(policy: PolicyModel, batch: PaddedBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Log-probabilities, entropies, and gradients of a sum of both with a weight of its own for every token."""
    policy.zero_grad()
    logprobs, entropies = policy.read(batch, entropy_gradient=True)
    weights = torch.linspace(-1.0, 2.0, len(logprobs))
    (weights * logprobs + weights.flip(0) * entropies).sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    return logprobs.detach(), entropies.detach(), gradients


def assert_same(policy: PolicyModel, sequences: list[Sequence]) -> None:
    (ours, entropies, gradients), (theirs, others, expected) = (found(policy, b) for b in in_both_ways(sequences))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, others, atol=1e-5, rtol=0)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_family_finds_the_same(family: str, checkpointing: bool, tmp_path: Path) -> None:
    settings = PolicySettings(model=str(write_family(family, tmp_path)), gradient_checkpointing=checkpointing)
    policy = load_policy(settings, 0, CPU).train()
    assert policy.shares
    assert_same(policy, GROUPS["a tree"])


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("lora", [False, True])
def test_every_way_to_begin_alike_finds_the_same(group: str, lora: bool, untied_model: Path) -> None:
    settings = PolicySettings(model=str(untied_model), lora=LoraSettings(rank=4) if lora else None)
    policy = load_policy(settings, 0, CPU)
    for name, weight in policy.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.1)
    assert_same(policy, GROUPS[group])


def test_the_shared_states_are_computed_once(untied_model: Path) -> None:
    policy, widths = load_policy(PolicySettings(model=str(untied_model)), 0, CPU), []
    policy.layers[0].register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[:2]))
    batch, padded = in_both_ways(GROUPS["all but one token"])
    policy(batch)
    policy(padded)
    assert widths == [(1, 34), (4, 31)]


def test_in_bfloat16_both_ways_are_as_near_to_float32(untied_model: Path) -> None:
    exact = load_policy(PolicySettings(model=str(untied_model)), 0, CPU)
    rough = load_policy(PolicySettings(model=str(untied_model), dtype="bfloat16"), 0, CPU)
    shared, padded = in_both_ways(GROUPS["a tree"])
    with torch.no_grad():
        expected = exact(padded)
        errors = [(rough(batch) - expected).abs().mean() for batch in (shared, padded)]
    assert errors[0] < 1.2 * errors[1] < 0.01


@pytest.mark.parametrize("layer", ["last", "first"])
@pytest.mark.parametrize("tokens", ["last", "mean"])
def test_final_states_are_those_of_the_rows(layer: str, tokens: str, untied_model: Path) -> None:
    policy, states = load_policy(PolicySettings(model=str(untied_model)), 0, CPU), []
    for batch in in_both_ways(GROUPS["lengths far apart"]):
        with policy.final_states(batch, layer, tokens) as rows, torch.no_grad():
            policy(batch)
        states += rows
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


def steps(model: Path, budget: int) -> tuple[list[dict[str, float]], dict[str, Tensor], list[np.ndarray]]:
    """Three GRPO steps on two groups and a loner that shares nothing."""
    policy = PolicyShard(PolicySettings(model=str(model)), OptimizerSettings(lr=1e-3, token_budget=budget))
    sequences = [*GROUPS["a group"], *begun_alike([], [30], seed=2), *GROUPS["a tree"]]
    examples = [Example(s, 1.0, ((-1.0) ** number,)) for number, s in enumerate(sequences)]
    metrics = [policy.step([Term(GRPOObjective(GRPOSettings()), examples)]) for _ in range(3)]
    return metrics, published(policy), policy.token_logprobs(sequences)


@pytest.mark.parametrize("budget", [64, 1000])
def test_steps_and_reads_are_those_of_padded_passes(
    budget: int, untied_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, weights, logprobs = steps(untied_model, budget)
    monkeypatch.setattr(model_module, "can_share", lambda config: False)
    plain, expected, theirs = steps(untied_model, budget)
    assert metrics == [pytest.approx(step, rel=1e-4, abs=1e-5) for step in plain]
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0)
    for one, other in zip(logprobs, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_padded_pass_is_to_the_bit_what_transformers_computes(untied_model: Path) -> None:
    policy = load_policy(PolicySettings(model=str(untied_model)), 0, CPU)
    plain = AutoModelForCausalLM.from_pretrained(untied_model, attn_implementation=attention.PLAIN)
    batch = collate(GROUPS["a group"], CPU)
    with torch.no_grad():
        ours = policy.causal_lm(input_ids=batch.input_ids).logits
        assert torch.equal(ours, plain(input_ids=batch.input_ids).logits)


def configured(family: str, **more: object) -> PreTrainedConfig:
    return AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {}), **more})


def test_whose_attention_is_not_plain_goes_on_as_before() -> None:
    for family in FAMILIES.keys() - attention.FAMILIES:
        assert attention.implementation(configured(family)) in ("sdpa", "eager"), family
    assert attention.implementation(configured("mistral", sliding_window=64)) == "sdpa"
    assert attention.implementation(configured("qwen2", use_sliding_window=True, max_window_layers=1)) == "sdpa"
    assert attention.implementation(configured("qwen2")) == attention.SHARING
    assert attention.implementation(configured("gpt2")) == "sdpa"


def test_a_saved_model_does_not_name_our_attention(tmp_path: Path, untied_model: Path) -> None:
    PolicyShard(PolicySettings(model=str(untied_model)), OptimizerSettings()).save_pretrained(tmp_path)
    assert attention.SHARING not in (tmp_path / "config.json").read_text()
    written, read = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, untied_model))
    assert {**written, "dtype": ""} == {**read, "dtype": ""}
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
