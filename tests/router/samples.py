"""Very small random models of several architectures, and ragged sequences, for the tests of this package."""

from __future__ import annotations

import numpy as np
import peft
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from learners.policy.model import PolicyModel
from trajectories.types import Sequence

VOCABULARY = 64
LAYERS = 2
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
ARCHITECTURES = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**SIZES, **more)),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**SIZES, **more)),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16, **more)),
}


def language_model(architecture: str = "qwen3", key_value_heads: int = 2, tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    return ARCHITECTURES[architecture](num_key_value_heads=key_value_heads, tie_word_embeddings=tied)


def policy(lm: PreTrainedModel | peft.PeftModel | None = None, dtype: torch.dtype = torch.float32) -> PolicyModel:
    return PolicyModel(lm if lm is not None else language_model(), dtype)


def with_adapter(lm: PreTrainedModel) -> peft.PeftModel:
    """An adapter that acts: PEFT's own start is the zero matrix. One projection goes without."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    adapted = peft.get_peft_model(lm, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    assert isinstance(adapted, peft.PeftModel)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted


def make_sequence(name: str, length: int, seed: int, trained_share: float = 0.4, temperature: float = 1.0) -> Sequence:
    rng = np.random.default_rng(seed)
    trained = rng.random(length) < trained_share
    trained[0], trained[-1] = False, True
    return Sequence(
        sequence_id=name,
        episode_id=name,
        group_id="g",
        token_ids=rng.integers(1, VOCABULARY, length).astype(np.int32),
        trained=trained,
        logprobs=np.zeros(length, np.float32),
        turns=(),
        version_spans=(),
        temperature=temperature,
    )


def ragged(lengths: tuple[int, ...] = (9, 40, 3, 23, 5, 64, 17)) -> list[Sequence]:
    return [make_sequence(f"t{number}", length, seed=number) for number, length in enumerate(lengths)]
