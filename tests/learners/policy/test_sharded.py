"""Two gloo workers that start without weights hold, compute and train what one worker does."""

from __future__ import annotations

import json
import weakref
from collections import deque
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from learners.learner_settings import LoraSettings, OptimizerSettings, PolicySettings
from learners.objectives.assign import pending_assignments
from learners.policy.loading import load_policy
from learners.policy.shard import PolicyShard
from learners.policy.transport import buckets
from learners.workers import worker as worker_module
from learners.workers.worker import LearnerWorker
from tests.learners.rewards.test_weigher import scalariser, single_sequence_episodes
from tests.learners.samples import (
    SIZES,
    begun_alike,
    learner_settings,
    make_tables,
    published,
    tables_of_step,
    write_model,
)
from trajectories import schema
from trajectories.errors import UserError

CPU = torch.device("cpu")
REDUCE = DefaultReduceScatter.__call__
GATHER = DTensor.full_tensor
UNITS = 3
"""Of sharding: two layers and the rest."""
STEPS = 10
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1}


def write_models(folder: Path) -> dict[str, PolicySettings]:
    """Qwen3, a tied one, one of experts and in several files, and one without the prefix that causal models have."""
    write_model(folder / "untied")
    torch.manual_seed(1)
    tied = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True))  # pyright: ignore
    tied.save_pretrained(folder / "tied")
    GenerationConfig(do_sample=True, temperature=0.6).save_pretrained(folder / "tied")
    experts = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SIZES | EXPERTS))
    experts.save_pretrained(folder / "experts", max_shard_size="50KB")
    write_model(folder / "headless", tied=True)
    weights = load_file(folder / "headless" / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    save_file(bare, folder / "headless" / "model.safetensors", metadata={"format": "pt"})
    lora, rough = LoraSettings(rank=4, alpha=8), "bfloat16"
    settings = {name: PolicySettings(model=str(folder / name)) for name in ("untied", "tied", "experts", "headless")}
    settings["lora"] = PolicySettings(model=str(folder / "tied"), lora=lora)
    settings["rough lora"] = PolicySettings(model=str(folder / "untied"), lora=lora, dtype=rough)
    settings["checkpointed"] = PolicySettings(model=str(folder / "untied"), gradient_checkpointing=True, dtype=rough)
    return settings


def content(settings: PolicySettings) -> dict[str, Any]:
    """All there is in a loaded model: weights, which are whole, and what else is saved with it."""
    model = load_policy(settings, 3, CPU)
    lm, held, found = model.causal_lm, 0, {}
    for name, weight in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        local = weight
        if isinstance(weight, DTensor):
            local, weight = weight.to_local(), weight.full_tensor()
            assert local.untyped_storage().nbytes() == local.nbytes, "no view of the mapped file"
        held += local.numel() * (name != "lm.lm_head.weight")
        found[name] = weight.detach().clone()
    dropout = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    about = (lm.config.to_dict(), lm.generation_config.to_dict(), lm.is_gradient_checkpointing, dropout)
    tied = lm.get_parameter("lm_head.weight") is lm.get_parameter("model.embed_tokens.weight")
    about = (*about, tied)
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    return {"tensors": found, "held": held, "about": json.dumps(about, default=str), "trains": trains}


@mock.patch.object(worker_module, "cores_of_worker", return_value=1)
def training(model: Path, _: mock.Mock) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Ten steps of SFT, then ten of GRPO on groups that begin alike. On one core, or two workers would fight for those
    there are."""
    settings = learner_settings(model)
    optimizer = OptimizerSettings(lr=1e-4, warmup_steps=2, token_budget=256)
    worker = LearnerWorker(settings.model_copy(update={"optimizer": optimizer}))
    groups = [begun_alike([12, 12, 20, 9], [20, 8, 15, 11, 4], seed) for seed in range(STEPS)]
    metrics = [worker.train("sft", *tables_of_step(number, 5)) for number in range(STEPS)]
    metrics += [worker.train("grpo", *make_tables(group, number)) for number, group in enumerate(groups)]
    return [{**step, "seconds": 0.0} for step in metrics], published(worker.policy)


def reductions(model: Path, when: Literal["step", "pass"]) -> tuple[dict[str, float], int, int]:
    """Metrics of a step of as many passes as sequences, weighed by the Conductor or not; how often gradients were
    reduced in its first half, and in all of it."""
    optimizer = OptimizerSettings(lr=1e-4, token_budget=1, reduce_gradients=when)
    worker = LearnerWorker(learner_settings(model).model_copy(update={"optimizer": optimizer}))
    rows, batch = single_sequence_episodes(12)
    table = schema.sequences_to_table(rows)
    with mock.patch.object(DefaultReduceScatter, "__call__", autospec=True, side_effect=REDUCE) as reduce:
        metrics = worker.train("sft", *tables_of_step(0, 6))
        first = reduce.call_count
        weighed, _ = worker.train_weighing("grpo", table, pending_assignments(table, batch), batch, scalariser())
    return {**metrics, **weighed, "seconds": 0.0}, first, reduce.call_count


def held_at_once(model: Path) -> tuple[int, int]:
    """Numbers in the whole weights that this worker holds as the policy is sent: at most at a time, and in all."""
    policy, alive = PolicyShard(PolicySettings(model=str(model)), OptimizerSettings()), []
    most = total = 0

    def gathered(weight: DTensor) -> torch.Tensor:
        nonlocal most, total
        whole = GATHER(weight)
        size = whole.numel()
        alive.append(size)
        weakref.finalize(whole, alive.remove, size)
        most, total = max(most, sum(alive)), total + size
        return whole

    with mock.patch.object(DTensor, "full_tensor", gathered):
        weights = policy.weights()
        deque(weights if dist.get_rank() else buckets(weights, torch.float32), maxlen=0)
    return most, total


def refusal(settings: PolicySettings) -> str:
    with pytest.raises(UserError) as caught:
        load_policy(settings, 0, CPU)
    return str(caught.value)


def load_on(rank: int, folder: Path, settings: dict[str, PolicySettings], spoiled: list[PolicySettings]) -> None:
    join(rank, folder)
    loaded = {name: content(one) for name, one in settings.items()}
    torch.save((loaded, [refusal(one) for one in spoiled]), folder / f"loaded-{rank}.pt")
    dist.destroy_process_group()


def train_on(rank: int, folder: Path, models: list[Path]) -> None:
    join(rank, folder)
    reduced = [reductions(models[0], when) for when in ("step", "pass")]
    torch.save(([training(model) for model in models], reduced), folder / f"trained-{rank}.pt")
    dist.destroy_process_group()


def send_on(rank: int, folder: Path) -> None:
    join(rank, folder)
    torch.save(held_at_once(folder / "deep"), folder / f"held-{rank}.pt")
    dist.destroy_process_group()


def join(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)


def spoil(folder: Path) -> list[PolicySettings]:
    """A checkpoint without a weight, one with a weight of another shape, and one without safetensors."""
    for name in ("lacking", "narrow", "old"):
        write_model(folder / name)
    for name in ("lacking", "narrow"):
        weights = load_file(folder / name / "model.safetensors")
        weight = weights.pop("model.layers.1.mlp.up_proj.weight")
        if name == "narrow":
            weights["model.layers.1.mlp.up_proj.weight"] = weight[:-2].contiguous()
        save_file(weights, folder / name / "model.safetensors", metadata={"format": "pt"})
    (folder / "old" / "model.safetensors").rename(folder / "old" / "pytorch_model.bin")
    return [PolicySettings(model=str(folder / name)) for name in ("lacking", "narrow", "old")]


def test_two_workers_load_half_a_model_each(tmp_path: Path) -> None:
    settings, spoiled = write_models(tmp_path), spoil(tmp_path)
    mp.spawn(load_on, args=(tmp_path, settings, spoiled), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    ranks = [torch.load(tmp_path / f"loaded-{rank}.pt", weights_only=False) for rank in range(2)]
    for name, one in settings.items():
        whole = content(one)
        for loaded, _ in ranks:
            mine = loaded[name]
            assert mine["tensors"].keys() == whole["tensors"].keys()
            for key, tensor in whole["tensors"].items():
                assert torch.equal(mine["tensors"][key], tensor) and mine["tensors"][key].dtype == tensor.dtype, key
            assert mine["about"] == whole["about"] and mine["trains"] == whole["trains"]
            assert mine["held"] < 0.55 * whole["held"], "half of the rows, and whole buffers"
    assert ranks[0][1] == ranks[1][1]
    words = ("mlp.up_proj.weight as its config.json", "mlp.up_proj.weight as its config.json", "no model.safetensors")
    for said, line in zip(words, ranks[0][1], strict=True):
        assert said in line and "\n" not in line


def test_two_workers_hold_a_layer_and_a_weight_at_most_while_they_send_all(tmp_path: Path) -> None:
    sizes = SIZES | {"num_hidden_layers": 12, "vocab_size": 64}
    deep = Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16))  # pyright: ignore[reportArgumentType]
    deep.save_pretrained(tmp_path / "deep")
    mp.spawn(send_on, args=(tmp_path,), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    layer = [weight.numel() for weight in deep.model.layers[0].parameters()]
    for rank in range(2):
        most, total = torch.load(tmp_path / f"held-{rank}.pt")
        assert total == sum(weight.numel() for weight in deep.parameters())
        assert sum(layer) <= most <= sum(layer) + max(layer) < total / 5


def test_two_workers_train_as_one_within_1e_5(tmp_path: Path) -> None:
    models = [Path(write_models(tmp_path)[name].model) for name in ("untied", "tied")]
    mp.spawn(train_on, args=(tmp_path, models), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    first, second = (torch.load(tmp_path / f"trained-{rank}.pt", weights_only=False) for rank in range(2))
    for model, (theirs, sharded), (same, gathered) in zip(models, first[0], second[0], strict=True):
        metrics, weights = training(model)
        assert theirs == same and sharded.keys() == gathered.keys()
        assert theirs == [pytest.approx(step, rel=1e-5, abs=1e-5) for step in metrics]
        assert metrics[STEPS - 1]["sft/loss"] != metrics[0]["sft/loss"]
        assert sharded.keys() == weights.keys()
        for key, tensor in weights.items():
            assert torch.equal(sharded[key], gathered[key])
            torch.testing.assert_close(sharded[key], tensor, atol=1e-5, rtol=0)
    for (once, *counts), (often, *more) in (first[1], second[1]):
        assert once == pytest.approx(often, rel=1e-5, abs=1e-5)
        assert counts == [UNITS, 2 * UNITS], "two layers and the rest, once a step"
        assert more[0] > UNITS and more[1] - more[0] > UNITS, "in each of several passes"


def test_adapters_begin_as_peft_makes_them_and_leave_the_random_state_alone(untied_model: Path) -> None:
    before = torch.get_rng_state()
    settings = PolicySettings(model=str(untied_model), lora=LoraSettings(rank=4))
    first, again, other = (load_policy(settings, seed, CPU).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.items():
        if ".lora_A." in name:
            bound = weight.shape[1] ** -0.5
            assert weight.abs().max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.2)
            assert torch.equal(weight, again[name]) and not torch.equal(weight, other[name])
        elif ".lora_B." in name:
            assert not weight.any()
