"""Families of models, tiny and random: the learner's log-probabilities are those of the model's own forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.families import FAMILIES, SIZES, agreement, write_family
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy import model as model_module
from learners.policy.loading import load_policy
from learners.policy.outline import outline
from learners.policy.shard import PolicyShard
from tests.learners.samples import make_sequences
from trajectories.batch import collate
from trajectories.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of a model whose attention and logits are far from uniform."""
    return write_family(request.param, tmp_path)


def own(folder: Path) -> torch.nn.Module:
    """The model as its authors compute it."""
    lm = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return lm.eval()


@pytest.mark.parametrize("at_once", [1 << 27, 3 * 320], ids=["whole", "in pieces"])
def test_logprobs_and_gradients_are_those_of_the_models_own_forward_pass(family, at_once, monkeypatch):
    monkeypatch.setattr(model_module, "LOGITS_AT_ONCE", at_once)
    policy, lm = load_policy(PolicySettings(model=str(family)), 0, CPU), own(family)
    batch = collate(make_sequences(3, temperature=1.0), CPU)
    found = policy(batch)
    table = lm(input_ids=batch.input_ids).logits.float().log_softmax(-1).flatten(0, 1)
    expected = table[batch.positions, batch.targets]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    found.sum().backward()
    expected.sum().backward()
    ours = dict(policy.causal_lm.named_parameters())
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-3, rtol=1e-3, msg=name)


def test_a_read_gives_the_same_logprobs_and_the_entropy_of_the_same_distribution(family):
    policy, lm = load_policy(PolicySettings(model=str(family)), 0, CPU), own(family)
    batch = collate(make_sequences(2, temperature=0.7), CPU)
    with torch.no_grad():
        logprobs, entropy = policy.read(batch, entropy_gradient=False)
        logits = lm(input_ids=batch.input_ids).logits.float().flatten(0, 1)[batch.positions] / 0.7
    table = logits.log_softmax(-1)
    np.testing.assert_allclose(logprobs, table.gather(1, batch.targets[:, None])[:, 0], atol=1e-4)
    np.testing.assert_allclose(entropy, -(table.exp() * table).sum(-1), atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}),
        ("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.01}),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.01}),
    ],
)
def test_two_passes_agree_to_the_bit_whatever_noise_the_model_was_trained_with(name, noise, checkpointing, tmp_path):
    AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SIZES, **noise})).save_pretrained(tmp_path)
    settings = PolicySettings(model=str(tmp_path), gradient_checkpointing=checkpointing)
    policy, batch = PolicyShard(settings, OptimizerSettings()).model, collate(make_sequences(3), CPU)
    first, second = policy(batch), policy(batch)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    (first.sum() + second.sum()).backward()


def test_layers_run_again_in_the_backward_pass_where_activations_are_recomputed(tmp_path):
    folder = write_family("llama", tmp_path)
    for checkpointing, times in ((False, 1), (True, 2)):
        settings, runs = PolicySettings(model=str(folder), gradient_checkpointing=checkpointing), []
        policy = PolicyShard(settings, OptimizerSettings()).model
        policy.layers[0].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))  # pyright: ignore
        policy(collate(make_sequences(2), CPU)).sum().backward()
        assert len(runs) == times


def test_a_step_leaves_the_model_as_it_is_built(family):
    shard = PolicyShard(PolicySettings(model=str(family)), OptimizerSettings())
    before = [name for name, _ in shard.model.named_modules()]
    shard.token_logprobs(make_sequences(2))
    assert [name for name, _ in shard.model.named_modules()] == before


def test_a_model_that_sees_is_refused_in_a_line(tmp_path: Path) -> None:
    text = {**SIZES, "head_dim": 32}
    seen = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoConfig.for_model("gemma3", text_config=text, vision_config=seen).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"\(gemma3\) is not a language model alone, .*: set policy\.model to one that"):
        outline(str(tmp_path))


def test_what_a_forward_pass_looks_up_in_its_backbone_is_the_backbones_own(tmp_path: Path) -> None:
    """Falcon-H1 multiplies logits by a factor that its backbone holds."""
    sizes = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "lm_head_multiplier": 0.25}
    config = AutoConfig.for_model("falcon_h1", **{**SIZES, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    policy, batch = load_policy(PolicySettings(model=str(tmp_path)), 0, CPU), collate(make_sequences(2), CPU)
    with torch.no_grad():
        logits = own(tmp_path)(input_ids=batch.input_ids).logits.flatten(0, 1)[batch.positions]
        table = (logits / batch.temperature[:, None]).log_softmax(-1)
        torch.testing.assert_close(policy(batch), table.gather(1, batch.targets[:, None])[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_units_of_sharding_are_the_decoder_layers(name: str, tmp_path: Path) -> None:
    layers = load_policy(PolicySettings(model=str(write_family(name, tmp_path))), 0, CPU).layers
    assert len(layers) == SIZES["num_hidden_layers"] and len({type(layer) for layer in layers}) == 1


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere2"])
async def test_engine_and_learner_agree_where_logits_are_scaled_or_capped(name: str, tmp_path: Path) -> None:
    """`benchmarks.families` has all families; these three are what a head alone would get wrong."""
    found = await agreement(write_family(name, tmp_path))
    assert max(one["max"] for one in found.values()) < 1e-3, found
