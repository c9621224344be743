"""vLLM beside the learner on one machine: do they agree, how long does a publication take, how fast are responses?

    python -m benchmarks.engine --model DIR [--dtype bfloat16] [--lora 16] [--out FILE]

Engine and learner hold the same model. Differences of log-probabilities are in nats over all trained tokens: of the
weights as loaded, of the same weights published (which must change nothing), and after optimiser steps that move them.
Then responses are sampled at several numbers of episodes at once, all prompts beginning alike, as turns of a group do.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig

from actors.engine import AdapterSettings, EngineSettings, SamplingParameters
from actors.vllm_engine import VllmEngine
from benchmarks.models import machine, transcripts, write_results
from learners.learner_settings import LoraSettings, OptimizerSettings, PolicySettings, SFTSettings
from learners.objectives.objective import Example
from learners.objectives.sft import SFTObjective
from learners.policy.shard import PolicyShard, Term
from learners.policy.transport import WeightSender
from learners.policy.weight_update import WeightOffer
from trajectories.types import Sequence


async def differences(engine: VllmEngine, policy: PolicyShard, sequences: list[Sequence]) -> dict[str, float]:
    """Mean, 99th percentile and maximum of |engine - learner|, in nats."""
    by_engine = await engine.score_logprobs([sequence.token_ids for sequence in sequences])
    by_learner = policy.token_logprobs(sequences)
    found = np.concatenate(
        [
            np.abs(ours - theirs)[sequence.trained]
            for ours, theirs, sequence in zip(by_engine, by_learner, sequences, strict=True)
        ]
    )
    return {"mean": float(found.mean()), "p99": float(np.quantile(found, 0.99)), "max": float(found.max())}


async def published(engine: VllmEngine, policy: PolicyShard, sender: WeightSender, version: int) -> dict[str, float]:
    """Seconds of a publication to the engine, what the learner does for it included."""
    started = time.perf_counter()
    if policy.config.lora:
        update = policy.export(version)
        assert update is not None
        await engine.publish(update)
    else:
        dtype, lives = getattr(torch, policy.config.dtype), {"engine": ("engine/1", 1)}
        sending = asyncio.to_thread(sender.send, policy.weights(), lives, dtype, 240.0)
        failed, _ = await asyncio.gather(sending, engine.publish(WeightOffer(version, *sender.address(), "engine/1")))
        assert failed == {}
    return {"publish_s": round(time.perf_counter() - started, 3)}


async def throughput(engine: VllmEngine, prompt: np.ndarray, episodes: int, tokens: int) -> dict[str, float]:
    """Responses of so many tokens to prompts that differ in their last token, one at a time from each episode."""
    sampling = SamplingParameters(temperature=1.0, max_tokens=tokens)

    async def one(number: int) -> int:
        ids = np.append(prompt, np.int32(10 + number % 100)).astype(np.int32)
        return len((await engine.generate(ids, sampling, seed=number)).token_ids)

    started = time.perf_counter()
    made = sum(await asyncio.gather(*(one(number) for number in range(episodes))))
    seconds = time.perf_counter() - started
    return {
        "episodes": episodes,
        "response": tokens,
        "tokens_per_s": round(made / seconds),
        "seconds": round(seconds, 2),
    }


async def measure(arguments: argparse.Namespace) -> None:
    lora = LoraSettings(rank=arguments.lora) if arguments.lora else None
    settings = EngineSettings(
        dtype=arguments.dtype,
        max_model_len=arguments.tokens * 2,
        max_num_seqs=max(arguments.episodes),
        gpu_memory_utilization=0.4,
        enforce_eager=arguments.eager,
        lora=AdapterSettings(max_rank=arguments.lora) if lora else None,
    )
    results: dict[str, Any] = {"machine": machine(), "dtype": arguments.dtype, "lora": arguments.lora}
    started = time.perf_counter()
    engine = await VllmEngine.start(arguments.model, settings)
    results["start_s"] = round(time.perf_counter() - started, 1)
    try:
        policy = PolicyShard(
            PolicySettings(model=arguments.model, dtype=arguments.dtype, lora=lora),
            OptimizerSettings(lr=1e-5, warmup_steps=0),
        )
        sender = WeightSender()
        sequences = transcripts(8, arguments.tokens, AutoConfig.from_pretrained(arguments.model).vocab_size)
        results["as_loaded"] = await differences(engine, policy, sequences)
        results["unchanged"] = await published(engine, policy, sender, 1) | await differences(engine, policy, sequences)
        objective = SFTObjective(SFTSettings())
        for _ in range(3):
            policy.step([Term(objective, [Example(sequence, 1.0) for sequence in sequences])])
        results["trained"] = await published(engine, policy, sender, 2) | await differences(engine, policy, sequences)
        write_results(arguments.out, results)
        prompt = sequences[0].token_ids[: arguments.tokens // 2]
        await throughput(engine, prompt, max(arguments.episodes), 8)  # compiles and warms up
        results["sampling"] = [await throughput(engine, prompt, count, 64) for count in arguments.episodes]
        write_results(arguments.out, results)
    finally:
        await engine.close()
    for key, value in results.items():
        print(key, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--lora", type=int, default=0, help="rank of adapters; 0 publishes all weights")
    parser.add_argument("--tokens", type=int, default=1000, help="mean tokens of a scored transcript")
    parser.add_argument("--episodes", type=int, nargs="+", default=[1, 16, 64, 256], help="responses at once")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs, no compilation")
    parser.add_argument("--out", type=Path, help="JSON file")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
