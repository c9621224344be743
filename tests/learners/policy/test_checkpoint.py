"""A checkpoint of one worker is restored by three, and one of three by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from learners.learner_settings import LearnerSettings, SFTSettings
from learners.policy import checkpoint
from learners.workers.worker import LearnerWorker
from tests.learners.samples import SIZES, learner_settings, save, tables_of_step, write_model

WORKERS = 3
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}
"""Four experts on three workers: the last has none."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def content(worker: LearnerWorker) -> dict[str, Any]:
    """Everything that the next step depends on but the random state."""
    model, optimizer = worker.policy.model, worker.policy._optimizer
    tensors = {name: whole(weight.detach()) for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        for kind, value in optimizer.adam.state.get(weight, {}).items():
            tensors[f"{kind}.{name}"] = whole(value)
    queued = [(example.sequence.sequence_id, example.weight) for example in worker.sft.waiting()]
    steps = (optimizer.steps, optimizer.stage, worker.sft.steps, worker.grpo.steps)
    return {"tensors": tensors, "queued": queued, "steps": steps}


def restored(config: LearnerSettings, directory: Path) -> LearnerWorker:
    worker = LearnerWorker(config)
    worker.train("grpo", *tables_of_step(7, 6))  # other weights, moments and queues, which must all go
    worker.restore(directory)
    return worker


def run_rank(rank: int, folder: Path, configs: dict[str, LearnerSettings]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORKERS)
    for name, config in configs.items():
        worker = restored(config, folder / name / "one")
        torch.save(content(worker), folder / f"{name}-{rank}.pt")
        save(worker, folder / name / "three")
    dist.destroy_process_group()


def test_it_is_restored_on_another_number_of_workers(tmp_path: Path) -> None:
    write_model(tmp_path / "tied", tied=True)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SIZES | EXPERTS)).save_pretrained(
        tmp_path / "experts"
    )
    sft = SFTSettings(max_sequences=2)
    configs = {
        "tied": learner_settings(tmp_path / "tied", sft=sft),
        "experts": learner_settings(tmp_path / "experts", sft=sft),
        "lora": learner_settings(tmp_path / "tied", lora=True, sft=sft),
    }
    before = {}
    for name, config in configs.items():
        worker = LearnerWorker(config)
        for number in range(2):
            worker.train("sft", *tables_of_step(number, 9))
        save(worker, tmp_path / name / "one")
        before[name] = content(worker)
        assert len(before[name]["queued"]) > WORKERS and before[name]["steps"] == (2, "sft", 2, 0)
        assert any(key.startswith("exp_avg_sq.") for key in before[name]["tensors"])
    mp.spawn(run_rank, args=(tmp_path, configs), nprocs=WORKERS)  # pyright: ignore[reportPrivateImportUsage]
    for name, config in configs.items():
        ranks = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in range(WORKERS)]
        again = content(restored(config, tmp_path / name / "three"))
        for found in (*ranks, again):
            assert found["steps"] == before[name]["steps"]
            assert found["tensors"].keys() == before[name]["tensors"].keys()
            for key, tensor in before[name]["tensors"].items():
                assert torch.equal(found["tensors"][key], tensor), key
        queued = sorted(before[name]["queued"])
        assert sorted(item for rank in ranks for item in rank["queued"]) == sorted(again["queued"]) == queued
        assert json.loads((tmp_path / name / "three" / "policy.json").read_text())["workers"] == WORKERS


def test_large_tensors_are_spread_over_files() -> None:
    third = torch.empty(checkpoint.FILE_BYTES // 3, dtype=torch.uint8, device="meta")
    large = torch.empty(2 * checkpoint.FILE_BYTES, dtype=torch.uint8, device="meta")
    files = checkpoint._files({"a": third, "b": third, "c": third, "d": third, "e": large, "f": third})
    assert files == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 3, "f": 4}
