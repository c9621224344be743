"""Trains a small reward model on the generated training questions, for the channel `preference` where no other is at
hand: it prefers a question's own answer to that of another question. (Which of a question's choices is right the
embedded model did not learn in an epoch: it preferred that one in 0.51 of held-out pairs.)

    python -m benchmarks.reward_model --out runs/reward-model

The embedded base model with one output in place of its head, by the logistic loss of Bradley and Terry on pairs. Prints
how often it prefers a question's own answer, on training questions that it was not trained on.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForSequenceClassification

from envs import load_panel
from envs.questions.library import QuestionLibrary
from learners.tiny import embedded_model_path

Pair = tuple[str, str]
"""The whole conversation with the question's own answer, and with that of another question."""


def pairs(tokenizer: PreTrainedTokenizerBase, seed: int) -> list[Pair]:
    """One a training question."""
    rng, library = random.Random(seed), QuestionLibrary.open()
    questions = [library.question(task_id) for task_id in load_panel("questions/train").task_ids]
    answers = [question.solution for question in questions]
    found = []
    for question in questions:
        other = rng.choice([answer for answer in answers if answer != question.solution])
        found.append(tuple(_conversation(tokenizer, question.prompt, answer) for answer in (question.solution, other)))
    rng.shuffle(found)
    return found


def _conversation(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> str:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    model = Qwen3ForSequenceClassification.from_pretrained(
        embedded_model_path(), num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )

    def margins(batch: list[Pair]) -> torch.Tensor:
        """Output for the own answer less that for the other, [n]."""
        texts = [text for pair in batch for text in pair]
        encoded = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        outputs = model(**encoded).logits[:, 0]
        return outputs[0::2] - outputs[1::2]

    data = pairs(tokenizer, seed=0)
    held, data = data[:100], data[100:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for epoch in range(arguments.epochs):
        random.Random(epoch).shuffle(data)
        for first in range(0, len(data), 20):
            loss = -logsigmoid(margins(data[first : first + 20])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            own = (margins(held) > 0).float().mean().item()
        print(f"epoch {epoch + 1}: prefers the own answer in {own:.2f} of {len(held)} held-out pairs", flush=True)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
