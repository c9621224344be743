"""The channel `preference`: a reward model, that is any sequence classifier with one output, reads prompt and response.

Where `reward.preference_model` names none there is no such channel, and nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BatchEncoding

from trajectories.chat import CLOCK, DATE, pretrained_tokenizer
from trajectories.control_tokens import ControlTokens
from trajectories.errors import UserError, first_line


class PreferenceModel:
    """A reward model on one device, in the precision it was saved in."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load the directory or hub model. Raises UserError."""
        try:
            self._tokenizer: Any = pretrained_tokenizer(model)
            self._tokenizer.truncation_side = "left"
            self._model = AutoModelForSequenceClassification.from_pretrained(model, dtype="auto").eval()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{model} holds no sequence-classification model with its tokenizer ({first_line(error)}); "
                "set reward.preference_model to one that does"
            ) from error
        if self._model.config.num_labels != 1:
            raise UserError(
                f"{model} has {self._model.config.num_labels} outputs; a reward model has one: "
                "set reward.preference_model to such a model"
            )
        self._device = torch.device(device)
        self._model.to(self._device)
        self._control = ControlTokens(self._tokenizer)
        self._config = self._model.config.get_text_config()
        self._names_padding = self._config.pad_token_id is not None
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.convert_ids_to_tokens(self._config.pad_token_id or 0)
        self._config.pad_token_id = self._tokenizer.pad_token_id
        # The smaller of both: RoBERTa has 514 positions and numbers them from 2 on, so it reads 512 tokens.
        positions = getattr(self._config, "max_position_embeddings", self._tokenizer.model_max_length)
        self._limit = min(positions, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """The model's output for each of B pairs in one pass, float64 [B]; higher is preferred.

        With a chat template the pair is a user's and an assistant's message, else two segments. What is longer than the
        model can read loses its beginning.
        """
        encoded = self._encode(prompts, responses)
        if not self._names_padding:
            self._keep_ends(encoded)
        return self._model(**encoded.to(self._device)).logits[:, 0].double().cpu()

    def _keep_ends(self, encoded: BatchEncoding) -> None:
        """A model that names no padding is read at the last token of a text, be it the end of sequence. transformers
        takes the last one that is not padding: so pad with a token that ends none of these texts."""
        ids, mask = torch.as_tensor(encoded["input_ids"]), torch.as_tensor(encoded["attention_mask"])
        last = (mask * torch.arange(mask.shape[1])).argmax(1, keepdim=True)
        ends = set(ids.gather(1, last).flatten().tolist())
        padding = next(number for number in range(len(ends) + 1) if number not in ends)
        encoded["input_ids"] = ids.masked_fill(mask == 0, padding)
        self._config.pad_token_id = padding

    def _encode(self, prompts: Sequence[str], responses: Sequence[str]) -> BatchEncoding:
        """Neither prompt nor response can write a control token."""
        if self._tokenizer.chat_template is None:
            options = {"padding": True, "truncation": True, "max_length": self._limit, "return_tensors": "pt"}
            return self._tokenizer(list(prompts), list(responses), split_special_tokens=True, **options)
        pairs = zip(prompts, responses, strict=True)
        ids = [self._control.encode(self._conversation(*pair))[-self._limit :] for pair in pairs]
        return self._tokenizer.pad({"input_ids": ids}, return_tensors="pt")

    def _conversation(self, prompt: str, response: str) -> str:
        messages = [
            {"role": "user", "content": self._control.quote(prompt)},
            {"role": "assistant", "content": self._control.quote(response)},
        ]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **{CLOCK: DATE.strftime}))
