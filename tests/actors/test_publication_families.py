"""Publishing what the engine already holds changes nothing, whatever the family of the model. Tiny random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.engine import EngineSettings
from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.policy.shard import PolicyShard
from tests.actors.sending import publish

pytestmark = [pytest.mark.real, pytest.mark.asyncio]

SIZES = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
FAMILIES = {
    "qwen3_moe": EXPERTS | {"head_dim": 32, "norm_topk_prob": True},
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 64},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 32},
    "llama": {},
}
SETTINGS = EngineSettings(dtype="float32", max_model_len=256, max_num_seqs=8, cpu_kv_cache_mib=64)
SEQUENCE = np.arange(20, 90, dtype=np.int32)


def random_model(family: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # or all experts would be nearly the same
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def make_shard(folder: Path) -> PolicyShard:
    return PolicyShard(PolicySettings(model=str(folder)), OptimizerSettings())


def reference(shard: PolicyShard) -> np.ndarray:
    ids = torch.as_tensor(SEQUENCE.astype(np.int64))
    with torch.no_grad():
        table = shard.model.causal_lm(ids[None]).logits[0, :-1].float().log_softmax(-1)
    return np.concatenate([[0.0], table.gather(1, ids[1:, None])[:, 0].numpy()])


@pytest.mark.parametrize("family", FAMILIES)
async def test_publishing_unchanged_weights_changes_nothing_and_changed_ones_arrive(
    family: str, tmp_path: Path
) -> None:
    from actors.vllm_engine import VllmEngine

    shard = make_shard(random_model(family, tmp_path / "model"))
    engine = await VllmEngine.start(str(tmp_path / "model"), SETTINGS)
    try:
        (before,) = await engine.score_logprobs([SEQUENCE])
        for version in (1, 2):
            await publish(engine.publish, shard.weights(), version, str(tmp_path))
            (after,) = await engine.score_logprobs([SEQUENCE])
            assert np.abs(after - before).max() < 1e-5
        with torch.no_grad():
            for parameter in shard.model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        await publish(engine.publish, shard.weights(), 3, str(tmp_path))
        (after,) = await engine.score_logprobs([SEQUENCE])
        assert np.abs(after - before).max() > 1e-2
        assert np.abs(after - reference(shard)).max() < 1e-4
    finally:
        await engine.close()
