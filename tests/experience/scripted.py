"""A chat model that follows a script, an embedder without a model, and a fixed set of reference texts."""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experience.protocols import Completion, Message
from experience.records import Reference

WHY = "as the script of this test says"
OPENINGS = {
    "Which type of task": "name",
    "Is one of the known types": "match",
    "Experience with other types": "sources",
    "Carry experience over": "transfer",
    "Merge two pieces": "merge",
    "Make a new question": "question",
    "Answer the question": "answer",
    "Is this answer": "judge",
    "Learn from these answers": "induce",
}
"""First words of a prompt → its step."""


class WordEmbedder:
    """Words by their checksums: texts with words in common lie near each other."""

    dimension = 64

    def __init__(self, name: str = "words") -> None:
        self.name = name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, zlib.crc32(word.encode()) % self.dimension] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


class FixedReferences:
    """The same texts for every question."""

    def __init__(self, count: int = 6) -> None:
        self._references = [Reference(f"text-{number}", f"text number {number}") for number in range(1, count + 1)]

    def nearest(self, text: str, count: int) -> list[Reference]:
        return self._references[:count]


@dataclass
class Script:
    """What the model says where it does not say the usual.

    Attributes:
        naming: question → (name, description); usually of the kind and the question's number.
        matches: question → names that are voted for; usually the kind's name, or none where it is unknown.
        sources: question → names of the types that are picked; usually none.
        judgements: (question, reference) → votes; usually correct, correct.
        suggestions: question → number of suggestions that are induced; usually one, and one for every wrong example.
    """

    naming: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    matches: Mapping[int, Sequence[str]] = field(default_factory=dict)
    sources: Mapping[int, Sequence[str]] = field(default_factory=dict)
    judgements: Mapping[tuple[int, int], Sequence[str]] = field(default_factory=dict)
    suggestions: Mapping[int, int] = field(default_factory=dict)


class ScriptedModel:
    """Reads a prompt as a model would, by its tags, and replies by the script. Questions are `[kind] question N`.

    Attributes:
        asked: (question, step) → times.
        prompts: all, in their order.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._now, self._kind = 0, ""
        self.asked: Counter[tuple[int, str]] = Counter()
        self.prompts: list[str] = []

    async def complete(
        self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int, temperature: float
    ) -> Completion:
        (message,) = messages
        prompt = message["content"]
        self.prompts.append(prompt)
        step = next(step for opening, step in OPENINGS.items() if prompt.startswith(opening))
        if step == "name":
            kind, number = re.findall(r"\[(\w+)\] question (\d+)", prompt)[0]
            self._now, self._kind = int(number), kind
        reply = getattr(self, f"_{step}")(prompt)
        self.asked[self._now, step] += 1
        return Completion(json.dumps(reply), len(prompt) // 4, 10)

    def _name(self, prompt: str) -> dict[str, Any]:
        usual = (f"{self._kind} {self._now}", f"questions of the kind {self._kind} like {self._now}")
        name, description = self._script.naming.get(self._now, usual)
        return {"name": name, "description": description}

    def _match(self, prompt: str) -> dict[str, Any]:
        known = {name.split()[0]: label for label, name in _known(prompt)}
        usual = [self._kind if self._kind in known else "none"]
        votes = self._script.matches.get(self._now, usual * 2)
        vote = votes[self.asked[self._now, "match"]]
        return {"reasoning": WHY, "answer": known.get(vote, vote)}

    def _sources(self, prompt: str) -> dict[str, Any]:
        picked = self._script.sources.get(self._now, ())
        labels = [label for label, name in _known(prompt) if name.split()[0] in picked]
        return {"reasoning": WHY, "sources": labels}

    def _transfer(self, prompt: str) -> dict[str, Any]:
        suggestions, all_labels = [], []
        for source in re.findall(r"<source>(.*?)</source>", prompt, re.DOTALL):
            (name,) = re.findall(r"<name>(\w+) \d+</name>", source)
            lists = _lists(source)
            suggestions.append({"text": f"general: {name}", "basis": [label for label, _ in lists[0]][:10]})
            all_labels += [label for label, _ in lists[0] + lists[1]]
        suggestions.sort(key=lambda one: one["text"], reverse=True)
        return _insights(suggestions, [{"text": "adapted", "basis": all_labels[:10]}])

    def _merge(self, prompt: str) -> dict[str, Any]:
        """Both in their order, the same text once; the last twenty."""
        lists = _lists(prompt)
        return _insights(_union(lists[0], lists[2]), _union(lists[1], lists[3]))

    def _question(self, prompt: str) -> dict[str, Any]:
        (reference,) = re.findall(r"text number (\d+)", prompt)
        return {"question": f"[{self._kind}] practice {self._now} on {reference}"}

    def _answer(self, prompt: str) -> dict[str, Any]:
        *_, asked = re.findall(r"<question>\n(.*?)\n</question>", prompt, re.DOTALL)
        return {"plan": WHY, "reasoning": WHY, "answer": f"answer to {asked}"}

    def _judge(self, prompt: str) -> dict[str, Any]:
        (reference,) = map(int, re.findall(r"text number (\d+)", prompt))
        votes = self._script.judgements.get((self._now, reference), ("correct", "correct"))
        vote = votes[self.asked[self._now, f"judge {reference}"]]
        self.asked[self._now, f"judge {reference}"] += 1
        return {"reasoning": WHY, "verdict": vote}

    def _induce(self, prompt: str) -> dict[str, Any]:
        now, examples = self._now, re.findall(r'label="(\d+)" verdict="(\w+)"', prompt)
        labels = [label for label, _ in examples]
        wrong = [
            {"text": f"avoid {now}-{label}", "basis": [label]} for label, verdict in examples if verdict == "wrong"
        ]
        usual = [{"text": f"heed {now}", "basis": labels}]
        if now in self._script.suggestions:
            usual = [{"text": f"many {now}-{n}", "basis": labels} for n in range(1, self._script.suggestions[now] + 1)]
        return _insights(wrong + usual, [{"text": f"step {now}", "basis": labels}, {"text": "check", "basis": labels}])


def _insights(suggestions: list[dict[str, Any]], procedure: list[dict[str, Any]]) -> dict[str, Any]:
    return {"reasoning": WHY, "suggestions": suggestions, "procedure": procedure}


def _known(prompt: str) -> list[tuple[str, str]]:
    """(label, name) of the types that the prompt shows."""
    return re.findall(r'<known label="(\d+)">\n<name>(.*?)</name>', prompt)


def _lists(prompt: str) -> list[list[tuple[str, str]]]:
    """(label, text) of the items of every list that the prompt shows."""
    bodies = re.findall(r"<(?:suggestions|procedure)>(.*?)</(?:suggestions|procedure)>", prompt, re.DOTALL)
    return [re.findall(r'<item label="(\d+)">(.*?)</item>', body) for body in bodies]


def _union(first: list[tuple[str, str]], second: list[tuple[str, str]]) -> list[dict[str, Any]]:
    bases: dict[str, list[str]] = {}
    for label, text in first + second:
        bases.setdefault(text, []).append(label)
    return [{"text": text, "basis": basis} for text, basis in bases.items()][-20:]
