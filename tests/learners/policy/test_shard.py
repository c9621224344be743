from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from learners.learner_settings import (
    GRPOSettings,
    LoraSettings,
    OptimizerSettings,
    PolicySettings,
    RampSettings,
    SFTSettings,
)
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.objectives.sft import SFTObjective
from learners.policy import model as model_module
from learners.policy.shard import PolicyShard, Term
from learners.policy.transport import buckets
from tests.learners.samples import make_sequences, published
from trajectories.errors import UserError
from trajectories.types import Sequence

OPTIMIZER = OptimizerSettings(lr=1e-2, warmup_steps=2, token_budget=64)


def make_shard(
    model: Path, lora: bool = False, optimizer: OptimizerSettings = OPTIMIZER, **options: bool
) -> PolicyShard:
    adapters = LoraSettings(rank=4, alpha=8) if lora else None
    return PolicyShard(PolicySettings(model=str(model), lora=adapters), optimizer, **options)


def terms(sequences: list[Sequence], grpo: GRPOSettings | None = None, sft: SFTSettings | None = None) -> list[Term]:
    """The first half to SFT, the second to GRPO, the middle one to both."""
    half = len(sequences) // 2
    return [
        Term(
            GRPOObjective(grpo or GRPOSettings()),
            [Example(s, 1.0, ((-1.0) ** i,)) for i, s in enumerate(sequences[half:])],
        ),
        Term(SFTObjective(sft or SFTSettings()), [Example(s, 0.5 + i) for i, s in enumerate(sequences[: half + 1])]),
    ]


def plain_logprobs(model: torch.nn.Module, sequence: Sequence) -> Tensor:
    """[T], nothing clever: one sequence, all logits."""
    ids = torch.tensor(sequence.token_ids.astype(np.int64))
    table = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].float() / sequence.temperature, -1)
    return torch.cat([torch.zeros(1), table.gather(1, ids[1:, None])[:, 0]])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
def test_token_logprobs_are_those_of_the_plain_model(
    untied_model: Path, lora: bool, pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces:
        monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", 3 * 320)
    sequences = make_sequences(7)
    scored = make_shard(untied_model, lora).token_logprobs(sequences)
    plain = AutoModelForCausalLM.from_pretrained(untied_model)
    for sequence, ours in zip(sequences, scored, strict=True):
        expected = plain_logprobs(plain, sequence).detach().numpy() * sequence.trained
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_one_step_is_the_plain_gradient_of_the_sum_of_globally_averaged_objectives(tied_model: Path) -> None:
    """Written out in full: SFT mean over its weighted tokens plus the GRPO mean over its own, then one AdamW step."""
    sequences = make_sequences(6)
    weight = RampSettings(start=0.25, end=0.25)
    shard = make_shard(tied_model)
    metrics = shard.step(terms(sequences, sft=SFTSettings(weight=weight)))

    plain = AutoModelForCausalLM.from_pretrained(tied_model)
    sft, grpo, sft_tokens, grpo_tokens = torch.zeros(()), torch.zeros(()), 0, 0
    for index, sequence in enumerate(sequences):
        trained = torch.tensor(sequence.trained)
        logprobs = plain_logprobs(plain, sequence)[trained]
        if index <= 3:
            sft, sft_tokens = sft - (0.5 + index) * logprobs.sum(), sft_tokens + len(logprobs)
        if index >= 3:
            ratio = torch.exp(logprobs - torch.tensor(sequence.logprobs)[trained])
            truncated = torch.where(ratio > 2, 2 * logprobs, ratio)  # the gradient of 2 log pi; values do not matter
            sign = (-1.0) ** (index - 3)
            gain = torch.where((ratio - 1) * sign > (0.28 if sign > 0 else 0.2), 0.0, truncated * sign)
            grpo, grpo_tokens = grpo - gain.sum(), grpo_tokens + len(logprobs)
    (0.25 * sft / sft_tokens + grpo / grpo_tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.optim.AdamW(plain.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0).step()

    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert (metrics["sft/tokens"], metrics["grpo/tokens"]) == (sft_tokens, grpo_tokens)
    assert metrics["lr"] == 5e-3, "second half of the warm-up is still to come"
    ours = dict(shard.model.causal_lm.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name], parameter, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True])
def test_the_token_budget_changes_nothing(untied_model: Path, lora: bool) -> None:
    sequences = make_sequences(9)
    grpo = GRPOSettings(ratio="sequence", aggregation="sequence", clip_low=0.5, clip_high=0.5)
    weights, norms = [], []
    for budget in (1, 64, 10_000):
        shard = make_shard(untied_model, lora, OPTIMIZER.model_copy(update={"token_budget": budget}))
        norms.append([shard.step(terms(sequences, grpo))["grad_norm"] for _ in range(3)])
        weights.append(published(shard))
    np.testing.assert_allclose(norms[1:], [norms[0]] * 2, rtol=1e-4)
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            torch.testing.assert_close(other[name], tensor, atol=1e-4, rtol=1e-3)


def test_gradient_checkpointing_changes_nothing(untied_model: Path) -> None:
    sequences = make_sequences(6)
    config = PolicySettings(model=str(untied_model))
    plain = PolicyShard(config, OPTIMIZER)
    checkpointed = PolicyShard(config.model_copy(update={"gradient_checkpointing": True}), OPTIMIZER)
    for _ in range(2):
        ours, theirs = checkpointed.step(terms(sequences)), plain.step(terms(sequences))
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_training_raises_the_probability_of_demonstrations(untied_model: Path) -> None:
    shard, sequences = make_shard(untied_model), make_sequences(4, temperature=1.0)
    examples = [Example(sequence, 1.0) for sequence in sequences]
    losses = [shard.step([Term(SFTObjective(SFTSettings()), examples)])["sft/loss"] for _ in range(30)]
    assert losses[0] == pytest.approx(np.log(320), rel=0.1)
    assert losses[-1] < 1.0


def test_bfloat16_computes_roughly_the_same_with_float32_weights(untied_model: Path) -> None:
    shard = PolicyShard(PolicySettings(model=str(untied_model), dtype="bfloat16"), OPTIMIZER)
    full = make_shard(untied_model)
    sequences = make_sequences(6)
    assert shard.step(terms(sequences))["sft/loss"] == pytest.approx(full.step(terms(sequences))["sft/loss"], rel=1e-2)
    assert {parameter.dtype for parameter in shard.model.parameters()} == {torch.float32}
    assert {flat.dtype for _, flat in buckets(shard.weights(), torch.bfloat16)} == {torch.bfloat16}


@pytest.mark.parametrize("lora", [False, True])
def test_the_divergence_is_measured_from_the_initial_weights(untied_model: Path, lora: bool) -> None:
    shard = make_shard(untied_model, lora, reference=True)
    sequences = make_sequences(6)
    measured = [shard.step(terms(sequences, GRPOSettings(kl_weight=0.1)))["grpo/reference_kl"] for _ in range(3)]
    assert measured[0] == pytest.approx(0, abs=1e-6)
    assert measured[2] > 1e-4


def test_a_sequence_drawn_twice_counts_twice(untied_model: Path) -> None:
    once, other = make_sequences(2)
    drawn, weighted = make_shard(untied_model), make_shard(untied_model)
    ours = drawn.step([Term(SFTObjective(SFTSettings()), [Example(s, 1.0) for s in (once, other, once)])])
    theirs = weighted.step([Term(SFTObjective(SFTSettings()), [Example(once, 2.0), Example(other, 1.0)])])
    assert ours["sft/tokens"] == theirs["sft/tokens"] == once.trained.sum() + other.trained.sum()
    counted = ours["sft/tokens"] + once.trained.sum()
    assert ours["grad_norm"] * counted == pytest.approx(theirs["grad_norm"] * theirs["sft/tokens"], rel=1e-4)
    assert ours["sft/loss"] == pytest.approx(theirs["sft/loss"], rel=1e-5)


def test_nothing_to_train_is_no_step(untied_model: Path) -> None:
    shard, sequences = make_shard(untied_model), make_sequences(3)
    metrics = shard.step([Term(GRPOObjective(GRPOSettings()), [Example(s, 0.0) for s in sequences])])
    assert metrics["trained_tokens"] == 0 and shard.steps == 0


def test_a_gradient_that_is_not_finite_changes_no_weight_and_names_the_fix(untied_model: Path) -> None:
    shard = make_shard(untied_model)
    before = {name: parameter.clone() for name, parameter in shard.model.named_parameters()}
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        shard.step([Term(SFTObjective(SFTSettings()), [Example(make_sequences(1)[0], float("inf"))])])
    assert all(torch.equal(before[name], parameter) for name, parameter in shard.model.named_parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_is_sent_once_a_tied_output_head_as_the_embedding(
    untied_model: Path, tied_model: Path, tied: bool
) -> None:
    path = tied_model if tied else untied_model
    shard = make_shard(path)
    shard.step(terms(make_sequences(6)))
    names = [name for name, _ in shard.weights()]
    plain = AutoModelForCausalLM.from_pretrained(path)
    assert len(names) == len(set(names)) and set(names) == set(dict(plain.named_parameters()))
    assert ("lm_head.weight" in names) != tied
    plain.load_state_dict(dict(shard.weights()), strict=not tied)
    for sequence, ours in zip(make_sequences(4), shard.token_logprobs(make_sequences(4)), strict=True):
        np.testing.assert_allclose(ours, plain_logprobs(plain, sequence).detach().numpy() * sequence.trained, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_lora_export_is_a_peft_adapter(untied_model: Path, tied_model: Path, tied: bool, tmp_path: Path) -> None:
    path = tied_model if tied else untied_model
    shard = make_shard(path, lora=True)
    for _ in range(3):
        shard.step(terms(make_sequences(6)))
    update = shard.export(1)
    assert update is not None and update.version == 1
    (tmp_path / "adapter_model.safetensors").write_bytes(update.tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(update.adapter_config))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), str(tmp_path))
    for sequence, ours in zip(make_sequences(4), shard.token_logprobs(make_sequences(4)), strict=True):
        np.testing.assert_allclose(ours, plain_logprobs(plain, sequence).detach().numpy() * sequence.trained, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_directory_gives_the_same_logprobs(
    untied_model: Path, tied_model: Path, tied: bool, lora: bool, tmp_path: Path
) -> None:
    shard = make_shard(tied_model if tied else untied_model, lora)
    for _ in range(3):
        shard.step(terms(make_sequences(6)))
    shard.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) != tied
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    for sequence, ours in zip(make_sequences(4), shard.token_logprobs(make_sequences(4)), strict=True):
        np.testing.assert_allclose(ours, plain_logprobs(plain, sequence).detach().numpy() * sequence.trained, atol=1e-5)


def test_a_directory_that_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set policy\.model to one that holds config\.json") as caught:
        make_shard(tmp_path)
    assert "\n" not in str(caught.value)
