"""What a run makes of its groups, with a learner that is simulated: items help or harm its success."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from experience.advice import Advice, half_of, type_of, types_of
from experience.asking import Prompter, Spending, StepFailed
from experience.keeper import Keeper, PlayedGroup
from experience.memory import Memory
from experience.protocols import Completion
from experience.records import Example, Experience, Item
from tests.experience.scripted import Script, ScriptedModel, WordEmbedder
from trajectories.types import Episode, StopReason

TASK = ("alfworld", "train/pick_heat-Egg/trial_1")
TYPE = type_of(*TASK)
GOOD, BAD, IDLE = (Item.of(TYPE.id, text) for text in ("Open the fridge first.", "Put it back at once.", "Be calm."))
PLANTED = Experience((BAD, IDLE), (GOOD,))


def planted(path: Path, experience: Experience = PLANTED) -> Memory:
    memory = Memory.open(str(path), WordEmbedder())
    memory.write(replace(TYPE, experience=experience))
    return memory


def episode(number: int, advice: Advice, told: bool, success: bool) -> Episode:
    ids = tuple(item.id for item in advice.experience.items) if told else ()
    return Episode(
        episode_id=f"{number}", group_id="g", member=0, environment=TASK[0], split="train", task_id=TASK[1], seed=0,
        version_min=0, version_max=0, stop_reason=StopReason.DONE, success=success, rewards={}, turns=1,
        generation_seconds=0.0, environment_seconds=0.0, waiting_seconds=0.0,
        memory_snapshot=str(advice.snapshot) if told else None, memory_ids=ids,
    )  # fmt: skip


def play(keeper: Keeper, number: int, effects: Mapping[str, float], rng: random.Random) -> None:
    """A group of six told members and two others, whose success the items shown change."""
    advice = keeper.book().advice(*TASK, 500)
    advice = half_of(advice, f"run/{number}")
    chance = 0.5 + sum(effects.get(item.id, 0.0) for item in advice.experience.items)
    told = [episode(at, advice, True, rng.random() < chance) for at in range(6)]
    plain = [episode(at, advice, False, rng.random() < 0.5) for at in range(6, 8)]
    keeper.note(PlayedGroup(f"run/{number}", advice, told + plain))


@pytest.mark.parametrize("seed", range(2))
def test_pairs_rank_a_planted_good_item_above_a_planted_bad_one_and_drop_the_bad(tmp_path: Path, seed: int) -> None:
    memory, rng = planted(tmp_path / "memory"), random.Random(seed)
    keeper = Keeper(memory, types_of([TASK]))
    for number in range(80):
        play(keeper, number, {GOOD.id: 0.3, BAD.id: -0.4}, rng)
    shown = memory.get(TYPE.id)
    assert shown is not None and BAD not in shown.experience.items and GOOD in shown.experience.items
    assert keeper.book().pages[TYPE.id].order[0] == GOOD.id
    assert keeper.gauges()["dropped"] >= 1 and keeper.utilities(TYPE.id)[GOOD.id].low > 0


def test_what_is_only_read_is_measured_and_stays(tmp_path: Path) -> None:
    memory, rng = planted(tmp_path / "memory"), random.Random(0)
    before, keeper = memory.snapshot, Keeper(memory, types_of([TASK]), read_only=True)
    book = keeper.book()
    for number in range(30):
        play(keeper, number, {BAD.id: -0.5, GOOD.id: -0.5}, rng)
    assert keeper.gauges()["utility_high"] < 0 and keeper.gauges()["pairs"] == 30
    assert (memory.snapshot, memory.pairs_of(TYPE.id), keeper.book()) == (before, [], book)


def test_evidence_outlives_the_process_and_a_group_that_is_played_again_counts_once(tmp_path: Path) -> None:
    memory, rng = planted(tmp_path / "memory"), random.Random(0)
    keeper = Keeper(memory, types_of([TASK]))
    for number in (0, 1, 2, 1, 2):
        play(keeper, number, {GOOD.id: 0.5}, rng)
    again = Keeper(Memory.inspect(str(tmp_path / "memory")), types_of([TASK]))
    assert again.utilities(TYPE.id) == keeper.utilities(TYPE.id) and len(memory.pairs_of(TYPE.id)) == 3


def test_a_state_that_does_harm_is_rolled_back_to_the_one_before_its_round(tmp_path: Path) -> None:
    memory, rng = planted(tmp_path / "memory", Experience((), (GOOD,))), random.Random(0)
    worse = Experience((BAD,), (Item.of(TYPE.id, "Close your eyes."),))
    memory.write(replace(TYPE, experience=worse, rounds=1))
    keeper = Keeper(memory, types_of([TASK]))
    effects = {item.id: -0.5 for item in worse.items}
    for number in range(20):
        play(keeper, number, effects, rng)
    known = memory.get(TYPE.id)
    assert known is not None and known.experience.items == (GOOD,) and keeper.counts["rolled_back"] == 1


def example(number: int, verdict: str = "correct") -> Example:
    return Example(f"run/{number}", TYPE.id, "", f"[egg] question {number}", "open fridge", verdict, ())  # pyright: ignore


def noted(keeper: Keeper, *numbers: int) -> None:
    for number in numbers:
        advice = keeper.book().advice(*TASK, 500)
        keeper.note(PlayedGroup(f"run/{number}", advice, [episode(0, advice, True, True)], example(number)))


async def test_five_episodes_of_a_type_make_a_round_of_learning(tmp_path: Path) -> None:
    memory = Memory.open(str(tmp_path / "memory"), WordEmbedder())
    keeper = Keeper(memory, types_of([TASK]), prompter=Prompter(ScriptedModel(Script()), Spending()))
    noted(keeper, 0, 1, 2, 3)
    assert not keeper.due(TYPE.id)
    noted(keeper, 4)
    assert keeper.due(TYPE.id)
    await keeper.learn(TYPE.id)
    known = memory.get(TYPE.id)
    assert known is not None and (known.rounds, known.correct, known.error_free) == (1, 5, 1) and known.experience
    assert keeper.book().pages[TYPE.id].experience == known.experience and not keeper.due(TYPE.id)
    assert set(memory.examples()) == {f"run/{number}" for number in range(5)}


class Babbler:
    """Says nothing that can be used."""

    async def complete(self, messages: object, schema: object, max_tokens: int, temperature: float) -> Completion:
        return Completion("no JSON", 1, 1)


async def test_a_round_that_fails_changes_nothing_and_is_tried_again(tmp_path: Path) -> None:
    memory = Memory.open(str(tmp_path / "memory"), WordEmbedder())
    keeper = Keeper(memory, types_of([TASK]), prompter=Prompter(Babbler(), Spending()))
    noted(keeper, 0, 1, 2, 3, 4)
    with pytest.raises(StepFailed, match="no usable reply"):
        await keeper.learn(TYPE.id)
    assert memory.types() == {} and keeper.counts["rounds_failed"] == 1 and not keeper.due(TYPE.id)
    noted(keeper, 5)
    assert keeper.due(TYPE.id)
