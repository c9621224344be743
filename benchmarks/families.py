"""Do engine and learner agree, family by family? Tiny random models, all of whose numbers matter.

    python -m benchmarks.families [--family granite gemma2] [--out FILE]

Differences of log-probabilities are in nats over all trained tokens, in float32: of the weights as they were loaded, of
the same weights published (which must change nothing), and after optimiser steps that move them. A family that the
engine does not serve here has its reason in place of numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.engine import EngineError, EngineSettings
from actors.vllm_engine import VllmEngine
from benchmarks.engine import differences, published
from benchmarks.models import machine, transcripts, write_results
from learners.learner_settings import OptimizerSettings, PolicySettings, SFTSettings
from learners.objectives.objective import Example
from learners.objectives.sft import SFTObjective
from learners.policy.shard import PolicyShard, Term
from learners.policy.transport import WeightSender
from trajectories.errors import last_line

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 1.0,
    },
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    "granitemoe": {"logits_scaling": 8.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
    "gpt2": {"n_positions": 256},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
}
"""Configurations by Transformers' name of the family; what is scaled or capped is so much so that it shows."""


def write_family(name: str, folder: Path) -> Path:
    """Write a model whose attention and logits are far from uniform; `folder`, which is returned."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **FAMILIES[name]})
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    lm.save_pretrained(folder)
    return folder


async def agreement(folder: Path) -> dict[str, dict[str, float]]:
    """The differences of a model in float32. Raises EngineError where the engine does not serve it."""
    settings = EngineSettings(dtype="float32", max_model_len=256, max_num_seqs=8, cpu_kv_cache_mib=64)
    engine = await VllmEngine.start(str(folder), settings)
    try:
        optimizer = OptimizerSettings(lr=1e-2, warmup_steps=0)
        policy, sender = PolicyShard(PolicySettings(model=str(folder)), optimizer), WeightSender()
        sequences = transcripts(8, 100, SIZES["vocab_size"])
        found = {"as_loaded": await differences(engine, policy, sequences)}
        await published(engine, policy, sender, 1)
        found["unchanged"] = await differences(engine, policy, sequences)
        for _ in range(3):
            policy.step([Term(SFTObjective(SFTSettings()), [Example(sequence, 1.0) for sequence in sequences])])
        await published(engine, policy, sender, 2)
        found["trained"] = await differences(engine, policy, sequences)
        return found
    finally:
        await engine.close()


async def measure(families: list[str], out: Path | None) -> None:
    """Measure one family after the other; a table on the terminal, and JSON in `out`."""
    results: dict[str, Any] = {"machine": machine(), "families": {}}
    print("| family | as loaded: p99, most | unchanged weights published | after three steps |\n|---|---|---|---|")
    for name in families:
        with tempfile.TemporaryDirectory(prefix="concerto-bench-") as folder:
            try:
                found: Any = await agreement(write_family(name, Path(folder)))
                cells = [f"{one['p99']:.1e}, {one['max']:.1e}" for one in found.values()]
            except EngineError as error:
                found, cells = last_line(error), [last_line(error), "", ""]
        results["families"][name] = found
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        write_results(out, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asyncio.run(measure(arguments.family, arguments.out))


if __name__ == "__main__":
    main()
