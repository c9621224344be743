"""What is done for a memory beside the paper's steps: the replay of earlier questions, and the union of types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from experience.asking import Prompter, Spending
from experience.learning import Learner
from experience.memory import Memory
from experience.protocols import Completion, Message
from experience.upkeep import Upkeep
from tests.experience.scripted import FixedReferences, Script, ScriptedModel, WordEmbedder


class Forgetful(ScriptedModel):
    """Once it is told `heed N` it answers what it answered before wrongly, and its answers are judged by that."""

    def __init__(self, spoils: str) -> None:
        super().__init__(Script())
        self._spoils = spoils
        self.replayed = 0

    async def complete(
        self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int, temperature: float
    ) -> Completion:
        prompt = messages[0]["content"]
        if prompt.startswith("Answer") and f"<item>{self._spoils}</item>" in prompt:
            return Completion(json.dumps({"plan": "p" * 20, "reasoning": "r" * 20, "answer": "spoilt"}), 1, 1)
        if "The right answer: " in prompt:
            self.replayed += 1
            verdict = "wrong" if "spoilt" in prompt else "correct"
            return Completion(json.dumps({"reasoning": "r" * 20, "verdict": verdict}), 1, 1)
        return await super().complete(messages, schema, max_tokens, temperature)


async def learned(path: Path, model: ScriptedModel, questions: int, upkeep: Upkeep) -> Memory:
    memory = Memory.open(str(path), WordEmbedder())
    learner = Learner(Prompter(model, Spending()), memory, FixedReferences(10), upkeep=upkeep)
    for number in range(1, questions + 1):
        await learner.serve(f"q{number}", f"[sum] question {number}")
    return memory


def suggestions(memory: Memory) -> list[str]:
    (known,) = memory.types().values()
    return [item.text for item in known.experience.suggestions]


@pytest.mark.parametrize(
    ("replay", "kept"), [(0, ["heed 1", "heed 2", "heed 3"]), (6, ["heed 1", "heed 2"])], ids=["without", "with"]
)
async def test_advice_that_spoils_what_was_right_is_not_kept(tmp_path: Path, replay: int, kept: list[str]) -> None:
    model = Forgetful(spoils="heed 3")
    memory = await learned(tmp_path / "memory", model, 3, Upkeep(replay=replay))
    assert suggestions(memory) == kept
    (known,) = memory.types().values()
    assert (known.rounds, known.correct) == (3, 15), "its practice counts all the same"
    assert model.replayed == 0 if not replay else model.replayed > 0


async def test_advice_that_does_no_harm_is_kept_after_replay(tmp_path: Path) -> None:
    memory = await learned(tmp_path / "memory", Forgetful(spoils="nothing"), 3, Upkeep(replay=6))
    assert suggestions(memory) == ["heed 1", "heed 2", "heed 3"]


TWINS = Script(
    naming={
        1: ("sum 1", "questions of the kind sum like 1"),
        2: ("total 2", "questions of the kind sum like 1 1"),
        3: ("total 2", "questions of the kind sum like 1 1"),
    },
    matches={2: ("none", "none", "sum", "sum"), 3: ("sum", "sum", "sum", "sum")},
)
APART = Script(naming=TWINS.naming, matches={2: ("none",) * 4, 3: ("total",) * 4})


async def test_types_that_a_vote_calls_identical_become_one_in_one_write(tmp_path: Path) -> None:
    memory = await learned(tmp_path / "memory", ScriptedModel(TWINS), 2, Upkeep(unite=True))
    (known,) = memory.types().values()
    assert known.name == "sum 1" and (known.rounds, known.correct, known.error_free) == (2, 10, 1)
    assert suggestions(memory) == ["heed 1", "heed 2"]
    assert [len(memory.types(snapshot)) for snapshot in memory.snapshots] == [0, 1, 2, 1]
    assert memory.taught_by("q2") == known, "a killed process finds the round of its question"


async def test_types_that_a_vote_tells_apart_stay_two(tmp_path: Path) -> None:
    memory = await learned(tmp_path / "memory", ScriptedModel(APART), 2, Upkeep(unite=True))
    assert sorted(known.name for known in memory.types().values()) == ["sum 1", "total 2"]


async def test_types_are_united_only_where_that_is_asked_for(tmp_path: Path) -> None:
    memory = await learned(tmp_path / "memory", ScriptedModel(TWINS), 2, Upkeep())
    assert len(memory.types()) == 2
