"""The memory plan of a learner worker: against published sizes, against autograd itself, and in its proportions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from learners.learner_settings import LoraSettings, OptimizerSettings, PolicySettings
from learners.policy.memory import (
    Shape,
    activations,
    adapter_weights,
    learner_memory,
    logits,
    saved_by_layer,
    shape_of,
)
from learners.policy.outline import outline

LARGE: dict[str, dict[str, Any]] = {
    name: dict(
        zip(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), sizes, strict=True)
    )
    | {"num_key_value_heads": keys, "vocab_size": vocabulary, "tie_word_embeddings": tied, "model_type": family}
    for name, family, sizes, keys, vocabulary, tied in (
        ("0.5b", "qwen2", (896, 4864, 24, 14), 2, 151936, True),
        ("1.5b", "qwen2", (1536, 8960, 28, 12), 2, 151936, True),
        ("7b", "qwen2", (3584, 18944, 28, 28), 4, 152064, False),
        ("8b", "llama", (4096, 14336, 32, 32), 8, 128256, False),
    )
}
"""config.json of Qwen2.5-0.5B, 1.5B, 7B and of Llama-3.1-8B, as far as it counts here."""
WEIGHTS = {"0.5b": 494_032_768, "1.5b": 1_543_714_304, "7b": 7_615_616_512, "8b": 8_030_261_248}
CACHE = {"0.5b": 12_288, "1.5b": 28_672, "7b": 57_344, "8b": 131_072}
"""Bytes of one token in a bfloat16 KV cache, as published for these models."""
SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def large(name: str, folder: Path) -> Shape:
    (folder / "config.json").write_text(json.dumps(LARGE[name]))
    return shape_of(outline(str(folder)))


@pytest.mark.parametrize("name", LARGE)
def test_a_configuration_alone_gives_the_published_sizes(name: str, tmp_path: Path) -> None:
    shape = large(name, tmp_path)
    assert shape.weights == WEIGHTS[name]
    assert 2 * shape.cache_numbers == CACHE[name]


def kept_by_autograd(family: str, dtype: torch.dtype, autocast: bool, tokens: int) -> tuple[Shape, int]:
    """Bytes of everything that the backward pass of the decoder layers keeps, weights and their copies not counted."""
    lm: Any = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, head_dim=16, **SMALL), attn_implementation="sdpa"
    )
    lm = lm.to(torch.float32 if autocast else dtype)
    matrices = [parameter.detach() for parameter in lm.parameters() if parameter.ndim == 2]
    sizes = {matrix.shape for matrix in (*matrices, *(matrix.T for matrix in matrices))}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in sizes:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    unchanged = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with unchanged, torch.autocast("cpu", dtype, enabled=autocast):
        output = lm.model(input_ids=torch.randint(0, 320, (1, tokens)), use_cache=False)
    assert output.last_hidden_state.requires_grad
    return shape_of(lm), sum(kept.values())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_activations_are_what_autograd_keeps(family: str, dtype: torch.dtype, autocast: bool) -> None:
    tokens = 256
    shape, kept = kept_by_autograd(family, dtype, autocast, tokens)
    planned = activations(shape, dtype.itemsize, tokens, checkpointing=False, autocast=autocast)
    assert planned == pytest.approx(kept, rel=0.25 if family == "qwen3" else 0.06), "Qwen3 norms queries and keys too"


def test_checkpointing_keeps_an_input_a_layer_and_computes_one_again(tmp_path: Path) -> None:
    shape = large("7b", tmp_path)
    assert activations(shape, 2, 1, True) == 28 * 2 * 3584 + saved_by_layer(shape, 2)
    assert activations(shape, 2, 100, False) == 100 * 28 * saved_by_layer(shape, 2)


def test_logits_are_bounded_by_what_is_held_at_a_time(tmp_path: Path) -> None:
    shape = large("0.5b", tmp_path)
    assert logits(shape, 2, 10) == 10 * 151936 * 14
    assert logits(shape, 2, 10**6) == 2**27 * 14


def memory(shape: Shape, workers: int, lora: bool = False, reference: bool = False, **optimizer: Any) -> dict[str, int]:
    policy = PolicySettings(model="m", dtype="bfloat16", lora=LoraSettings(rank=32) if lora else None)
    return learner_memory(shape, policy, OptimizerSettings(**optimizer), workers, reference)


def test_states_are_sixteen_bytes_a_weight_shared_by_the_workers(tmp_path: Path) -> None:
    shape = large("7b", tmp_path)
    names = ("weights", "gradients", "optimiser")
    one, four = memory(shape, 1), memory(shape, 4, reduce_gradients="pass")
    assert sum(one[name] for name in names) == 16 * shape.weights
    assert one["weights in use"] == 2 * shape.weights, "autocast's copies"
    at_once = shape.weights - 28 * shape.layer_weights  # embedding and head, reduced together
    assert sum(four[name] for name in names) == 4 * shape.weights + 4 * at_once
    assert memory(shape, 4)["gradients"] - four["gradients"] == 4 * shape.weights, "whole until they are reduced"
    assert memory(shape, 4, reference=True)["weights"] == 2 * four["weights"]


def test_what_a_group_holds_at_once_counts_for_all_of_its_passes(tmp_path: Path) -> None:
    shape = large("1.5b", tmp_path)
    policy, optimizer = PolicySettings(model="m", dtype="bfloat16"), OptimizerSettings(token_budget=4096)
    alone = learner_memory(shape, policy, optimizer, 1)
    group = learner_memory(shape, policy, optimizer, 1, together=3 * 4096)
    assert group["activations"] == 3 * alone["activations"] and group["logits"] == 3 * alone["logits"]
    assert {**group, "activations": 0, "logits": 0} == {**alone, "activations": 0, "logits": 0}
    assert learner_memory(shape, policy, optimizer, 1, together=100) == alone, "less than one pass holds"


def test_adapters_train_little_beside_a_frozen_model(tmp_path: Path) -> None:
    shape = large("7b", tmp_path)
    by_hand = 28 * 32 * (2 * 2 * 3584 + 2 * (3584 + 512) + 3 * (3584 + 18944))
    assert adapter_weights(shape, LoraSettings(rank=32)) == by_hand
    found = memory(shape, 1, lora=True)
    assert found["weights"] == 2 * shape.weights + 4 * by_hand
    assert found["optimiser"] == 8 * by_hand
