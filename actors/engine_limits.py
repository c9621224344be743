"""What the engine cannot serve, told without it: vLLM itself finds out after half a minute, or at its first answer."""

from __future__ import annotations

from transformers import PretrainedConfig

from actors.engine import EngineSettings
from trajectories.errors import UserError

LORA_RANKS = (8, 16, 32, 64, 128, 256, 512)
"""Ranks that vLLM reserves room for."""

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths of an attention head that vLLM's CPU kernels are compiled for (`v1/attention/backends/cpu_attn.py`)."""


def parallel_sizes(heads: int, key_heads: int, width: int) -> tuple[int, ...]:
    """Numbers of workers over which vLLM can spread a decoder: each holds as many heads, and as much of the
    feed-forward part's width, as every other. Key heads are shared evenly too, or each is on equally many workers.

    >>> parallel_sizes(heads=28, key_heads=4, width=18944)  # Qwen2.5-7B
    (1, 2, 4)
    """

    def even(size: int) -> bool:
        return key_heads % size == 0 or size % key_heads == 0

    return tuple(size for size in range(1, heads + 1) if heads % size == 0 and width % size == 0 and even(size))


def check_engine(settings: EngineSettings, model: PretrainedConfig, on_cpu: bool) -> None:
    """Whether the engine can serve a model with these settings. A hybrid's several kinds of heads are left to vLLM.

    Raises:
        UserError: the context is longer than the model's, the width of its heads has no kernel on a CPU, the model
            cannot be spread over so many workers, or adapters of too high a rank.
    """
    text = model.get_text_config()
    longest = getattr(text, "max_position_embeddings", None)
    scaled = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default") != "default"
    if longest is not None and settings.max_model_len > longest and not scaled:
        raise UserError(
            f"rollout.engine.max_model_len={settings.max_model_len} is more than the {longest} tokens that the model "
            f"was made for: set it to {longest} or less"
        )
    width = _head_width(text)
    if on_cpu and width is not None and width not in CPU_HEAD_SIZES:
        raise UserError(
            f"the attention heads of the model are {width} wide, and on a CPU the engine has kernels for "
            f"{', '.join(map(str, CPU_HEAD_SIZES))} only: choose another model, or a GPU with placement.rollout_gpus=1"
        )
    setting = "rollout.engine.tensor_parallel" if on_cpu else "placement.rollout_gpus"
    _check_parallel(settings.tensor_parallel, text, setting)
    if settings.lora is not None and settings.lora.max_rank > LORA_RANKS[-1]:
        raise UserError(f"adapters of rank {settings.lora.max_rank}: the engine serves up to rank {LORA_RANKS[-1]}")


def _check_parallel(workers: int, text: PretrainedConfig, setting: str) -> None:
    heads = getattr(text, "num_attention_heads", None)
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None)
    if not (isinstance(heads, int) and isinstance(key_heads, int) and isinstance(width, int)):
        return
    sizes = parallel_sizes(heads, key_heads, width)
    if workers not in sizes:
        raise UserError(
            f"the model's {heads} attention heads, {key_heads} key heads and feed-forward width of {width} cannot be "
            f"shared by {workers} workers of an engine: set {setting} to one of {', '.join(map(str, sizes))}"
        )


def _head_width(text: PretrainedConfig) -> int | None:
    width = getattr(text, "head_dim", None)
    if width is not None:
        return width
    hidden, heads = getattr(text, "hidden_size", None), getattr(text, "num_attention_heads", None)
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
