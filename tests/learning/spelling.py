"""The smallest thing to learn: type the letter that was asked for. One letter is a bandit, three are an episode."""

from __future__ import annotations

import hashlib
import random
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from envs.base import Observation, StepResult
from learners.tiny.build import ASSISTANT, Shape, build_model, save_checkpoint, train_tokenizer

LETTERS, TYPE, COPY = "ABCD", "Type", "Copy"
WORDS = {length: tuple("".join(word) for word in product(LETTERS, repeat=length)) for length in (1, 3)}


class Spelling:
    """Asks for the letters of a word, one a turn; the task id is `split/word`. An episode takes all its turns.

    Rewards of a step: `success`: 1.0 on the last step if every letter was right. `progress`: the share of the word that
    this step got right.
    """

    reward_names = ("success", "progress")

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        self._word, self._said = task_id.rpartition("/")[2], ""
        return self._asked()

    def step(self, action: str) -> StepResult:
        right = action == self._word[len(self._said)]
        self._said += action if right else "-"
        done = len(self._said) == len(self._word)
        rewards = {"success": float(self._said == self._word), "progress": right / len(self._word)}
        digest = hashlib.blake2b(f"{self._word}/{self._said}".encode(), digest_size=7).digest()
        info = {"action_valid": action in tuple(LETTERS), "state_hash": int.from_bytes(digest, "big")}
        return StepResult(Observation("Done.") if done else self._asked(), rewards, done, info)

    def close(self) -> None: ...

    def expert(self, seed: int = 0) -> Speller:
        return Speller()

    def _asked(self) -> Observation:
        return Observation(f"{TYPE} {self._word[len(self._said)]}.", tuple(LETTERS))


class Speller:
    """Says what it is asked to say."""

    def reset(self, observation: Observation) -> None: ...

    def act(self, observation: Observation) -> str:
        return observation.text[-2]


def conversation(word: str, said: str, verb: str) -> list[dict[str, str]]:
    """Question and answer, letter by letter."""
    turns = [
        [{"role": "user", "content": f"{verb} {asked}."}, {"role": "assistant", "content": answer}]
        for asked, answer in zip(word, said, strict=True)
    ]
    return [message for turn in turns for message in turn]


def save_guesser(folder: Path, steps: int = 400) -> Path:
    """A small model that knows how to copy a letter, but when it is told to type one answers with any of the four."""
    tokenizer = train_tokenizer([LETTERS], vocab_size=260, max_length=128)  # bytes and markers
    model, draw = build_model(tokenizer, Shape(hidden_size=64, layers=2, intermediate_size=192)), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def drawn() -> list[dict[str, str]]:
        word, other = draw.choice(WORDS[3]), draw.choice(WORDS[3])
        return conversation(word, word, COPY) if draw.random() < 0.75 else conversation(word, other, TYPE)

    for _ in range(steps):
        tokens, answers = _batch(tokenizer, [drawn() for _ in range(32)])
        logits = model(tokens).logits[:, :-1]
        loss = F.cross_entropy(logits[answers[:, 1:]], tokens[:, 1:][answers[:, 1:]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_checkpoint(model, tokenizer, folder)
    return folder


def _batch(
    tokenizer: PreTrainedTokenizerFast, conversations: list[list[dict[str, str]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T], and which of them are an answer's: the letter and the end of its turn."""
    texts: Any = [tokenizer.apply_chat_template(each, tokenize=False) for each in conversations]
    tokens = torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])
    assistant = tokens.eq(int(tokenizer.vocab[ASSISTANT]))
    answers = torch.zeros_like(assistant)
    answers[:, 1:] |= assistant[:, :-1]
    answers[:, 2:] |= assistant[:, :-2]
    return tokens, answers
