"""The policy network: a Hugging Face causal language model that returns log-probabilities of trained tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

from learners.learner_settings import LoraSettings, PolicySettings
from trajectories.batch import PaddedBatch
from trajectories.errors import UserError, first_line

LOGITS_AT_ONCE = 1 << 27
"""Most logits held at a time (512 MB in float32); beyond, the output head runs in pieces and is recomputed."""


class PolicyModel(nn.Module):
    """Wraps the language model, so that sharding sees one forward pass from token ids to log-probabilities.

    Attributes:
        lm: the model, or the PEFT model around it.
    """

    def __init__(self, lm: PreTrainedModel | peft.PeftModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.lm = lm
        self._dtype = dtype

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The language model itself; adapters live inside its layers."""
        lm = self.lm.get_base_model() if isinstance(self.lm, peft.PeftModel) else self.lm
        assert isinstance(lm, PreTrainedModel)
        return lm

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers: the units of sharding."""
        return list(getattr(self.causal_lm, self.causal_lm.base_model_prefix).layers)

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Inside, the network is the base model."""
        return self.lm.disable_adapter() if isinstance(self.lm, peft.PeftModel) else nullcontext()

    def forward(self, batch: PaddedBatch) -> Tensor:
        """log p(trained token | tokens before it) at the batch's temperatures, float32 [N]."""
        with self._autocast(batch):
            selected, head = self._selected(batch)
            return selective_logprobs(selected, head, batch.targets, batch.temperature)

    @torch.no_grad()
    def read(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """As `forward`, and the entropy of the distribution that each trained token was drawn from, in nats; both
        float32 [N], without gradient."""
        with self._autocast(batch):
            selected, head = self._selected(batch)
            rows = max(1, LOGITS_AT_ONCE // head.out_features)  # pyright: ignore[reportOperatorIssue]
            parts = zip(selected.split(rows), batch.targets.split(rows), batch.temperature.split(rows), strict=True)
            found = [
                _logprobs_and_entropies(head(piece).float() / temperature[:, None], targets)
                for piece, targets, temperature in parts
            ]
        logprobs, entropies = zip(*found, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    @contextmanager
    def final_states(self, batch: PaddedBatch) -> Iterator[list[Tensor]]:
        """The state after the last token of each row, float32 [B, H], of the forward pass inside."""
        states: list[Tensor] = []
        ends = torch.tensor(batch.lengths, device=batch.input_ids.device) - 1

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            hidden = output.last_hidden_state.detach()
            states.append(hidden[torch.arange(len(ends), device=ends.device), ends].float())

        lm = self.causal_lm
        handle = getattr(lm, lm.base_model_prefix).register_forward_hook(keep)
        try:
            yield states
        finally:
            handle.remove()

    def _autocast(self, batch: PaddedBatch) -> AbstractContextManager[Any]:
        return torch.autocast(batch.input_ids.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _selected(self, batch: PaddedBatch) -> tuple[Tensor, nn.Module]:
        """Final states [N, H] that predict the trained tokens, and the output head."""
        lm = self.causal_lm
        backbone, head = getattr(lm, lm.base_model_prefix), lm.get_output_embeddings()
        assert head is not None
        hidden = backbone(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, batch.positions), head


def _logprobs_and_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """float32 [N] each, of logits [N, V]."""
    table = logits.log_softmax(1)
    return table.gather(1, targets[:, None]).squeeze(1), torch.special.entr(table.exp()).sum(1)


def selective_logprobs(hidden: Tensor, head: nn.Module, targets: Tensor, temperature: Tensor) -> Tensor:
    """log softmax(head(hidden) / temperature) at the targets, float32 [N].

    Args:
        hidden: [N, H].
        targets: int64 [N].
        temperature: float32 [N], > 0.
    """
    rows = max(1, LOGITS_AT_ONCE // head.out_features)  # pyright: ignore[reportOperatorIssue]

    def piece(hidden: Tensor, targets: Tensor, temperature: Tensor) -> Tensor:
        logits = head(hidden).float().div_(temperature[:, None])
        return -F.cross_entropy(logits, targets, reduction="none")

    if len(hidden) <= rows:
        return piece(hidden, targets, temperature)
    pieces = zip(hidden.split(rows), targets.split(rows), temperature.split(rows), strict=True)
    return torch.cat([checkpoint(piece, *parts, use_reentrant=False) for parts in pieces])  # pyright: ignore


def load_policy(config: PolicySettings, seed: int) -> PolicyModel:
    """Load the model on the CPU, with fresh adapters if configured.

    Weights that train are float32; a frozen base model is kept in `config.dtype`.

    Raises:
        UserError: there is no such model.
    """
    dtype = getattr(torch, config.dtype)
    try:
        lm = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=dtype if config.lora else torch.float32, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        place = "directory" if Path(config.model).exists() else "directory or hub model"
        raise UserError(
            f"{config.model} is no {place} with a Hugging Face causal language model ({first_line(error)}); "
            "set policy.model to one that holds config.json and model.safetensors"
        ) from error
    _silence_dropout(lm)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.enable_input_require_grads()
    return PolicyModel(_with_adapters(lm, config.lora, seed) if config.lora else lm, dtype)


def _with_adapters(lm: PreTrainedModel, config: LoraSettings, seed: int) -> peft.PeftModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(
            lm,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
                target_modules=list(config.target_modules),
                task_type="CAUSAL_LM",
            ),
        )
    assert isinstance(adapted, peft.PeftModel)
    return adapted


def _silence_dropout(lm: PreTrainedModel) -> None:
    """Ratios compare two passes over the same tokens, so the passes must be deterministic."""
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # pyright: ignore[reportArgumentType]
