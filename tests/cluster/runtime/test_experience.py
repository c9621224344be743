"""Experience in a run, its actor in this process: what groups are told, what comes back, and what a death costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from actors.experience import ExperienceActor, transcript
from actors.policy_chat import ServedPolicy
from cluster.inputs.experience_plan import check_experience
from cluster.loop.ports import FinishedGroup, GroupTask, finished_group
from cluster.reporting.metric_table import defined
from cluster.runtime import experience as module
from cluster.runtime.experience import ExperiencedRollouts
from envs import Observation
from experience.advice import type_of
from experience.experience_settings import ExperienceSettings
from experience.memory import Memory
from experience.records import Experience, Item
from tests.cluster.simulation import SimulatedRollouts, trajectory
from tests.experience.scripted import WordEmbedder
from tests.trajectories import samples
from trajectories.builder import PromptSettings, make_builder
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.prompt_settings import Instructions
from trajectories.schema import to_tables

SETTINGS = ExperienceSettings(enabled=True, pairs=0.25)
TASK = GroupTask("grpo-3", "alfworld", "train/pick_heat-Egg/trial_1", tuple(range(8)), 1.0, "train")
TYPE = type_of(TASK.environment, TASK.task_id)
ITEMS = tuple(Item.of(TYPE.id, text) for text in ("Look.", "Go.", "Stop.", "Think."))


class Remote:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class InProcess:
    """An experience actor without Ray. While `dead`, it answers as Ray does for one that is gone."""

    def __init__(
        self,
        memory: Path,
        settings: ExperienceSettings = SETTINGS,
        model: str = "no-model",
        snapshot: int | None = None,
    ) -> None:
        self._actor = ExperienceActor(str(memory), [TYPE], settings, ServedPolicy(model, ()), snapshot)
        self.dead = self.stuck = False
        self.told, self.observe = (Remote(self._call(name)) for name in ("told", "observe"))

    def _call(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            if self.stuck:
                await asyncio.Event().wait()
            if self.dead:
                raise RayActorError
            return await getattr(self._actor, name)(*arguments)

        return call


class Plays(SimulatedRollouts):
    """Told members succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[GroupTask] = []

    async def run_group(self, task: GroupTask) -> FinishedGroup:
        self.played.append(task)
        members = []
        for number in range(len(task.seeds)):
            one = trajectory(task, number, version=0)
            told = task.advice is not None and number < len(task.seeds) - task.advice.without
            ids = task.advice.order if task.advice and told else ()
            shown = str(task.advice.snapshot) if task.advice and told else None
            played = replace(one.episode, success=told, memory_snapshot=shown, memory_ids=ids)
            members.append(replace(one, episode=played))
        episodes, sequences = to_tables(members)
        return finished_group(episodes, SimpleNamespace(episodes=episodes, sequences=sequences))


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    Memory.open(str(tmp_path / "memory"), WordEmbedder()).write(
        replace(TYPE, experience=Experience(ITEMS[:2], ITEMS[2:]))
    )
    return tmp_path / "memory"


async def started(actor: InProcess, settings: ExperienceSettings = SETTINGS) -> tuple[ExperiencedRollouts, Plays, list]:
    plays, said = Plays(), []
    rollouts = ExperiencedRollouts(plays, actor, settings, "run-1", said.append)
    await rollouts.start()
    return rollouts, plays, said


async def test_a_part_of_every_group_plays_without_and_the_difference_is_on_disk(memory: Path) -> None:
    rollouts, plays, said = await started(InProcess(memory))
    for number in range(4):
        await rollouts.run_group(replace(TASK, group_id=f"grpo-{number}"))
    await rollouts.close()
    halves = [set(task.advice.experience.items) for task in plays.played if task.advice]
    assert all(halves) and len(set(map(frozenset, halves))) > 1
    assert {task.advice.without for task in plays.played if task.advice} == {2}
    pairs = Memory.inspect(str(memory)).pairs_of(TYPE.id)
    assert [(pair.with_experience, pair.without) for pair in pairs] == [(1.0, 0.0)] * 4
    assert {pair.id for pair in pairs} == {f"run-1/grpo-{number}" for number in range(4)}
    gauges = rollouts.gauges()
    assert all(defined(name)[0].name.startswith("experience/") for name in gauges)
    assert (gauges["experience/pairs"], gauges["experience/utility"], gauges["experience/off"]) == (4, 1, 0)
    assert not said


@pytest.mark.parametrize(("read_only", "shown"), [(False, 2), (True, 4)])
async def test_a_run_that_goes_on_has_the_memory_of_its_checkpoint(memory: Path, read_only: bool, shown: int) -> None:
    settings = SETTINGS.model_copy(update={"pairs": 0.0, "read_only": read_only})
    written = Memory.open(str(memory), WordEmbedder())
    checkpoint = written.revise(TYPE.id, Experience(ITEMS[:2]))
    written.revise(TYPE.id, Experience(ITEMS))
    rollouts, plays, _ = await started(InProcess(memory, settings, snapshot=checkpoint), settings)
    await rollouts.run_group(TASK)
    await rollouts.close()
    (task,) = plays.played
    assert task.advice is not None and len(task.advice.experience.items) == shown
    assert rollouts.snapshot == Memory.inspect(str(memory)).snapshot == checkpoint + (1 if read_only else 2)


async def test_the_same_group_is_told_the_same_when_it_is_played_again(memory: Path) -> None:
    rollouts, *_ = await started(InProcess(memory))
    first, again = [rollouts._advice(TASK) for _ in range(2)]
    assert first == again and first is not None
    await rollouts.close()


@pytest.mark.parametrize("fault", ["dead", "stuck"])
async def test_when_the_actor_is_gone_training_goes_on_without_experience_and_says_so_once(
    memory: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    actor = InProcess(memory)
    rollouts, plays, said = await started(actor)
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    setattr(actor, fault, True)
    for _ in range(3):
        assert (await rollouts.run_group(TASK)).members == 8
        await asyncio.sleep(0.1)
    await rollouts.close()
    assert [task.advice is None for task in plays.played] == [False, True, True]
    (line,) = said
    assert line.startswith("experience: the run goes on without it: ")
    assert rollouts.book is None and rollouts.gauges()["experience/off"] == 1


async def test_a_memory_that_cannot_be_used_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    class Ray(InProcess):
        def _call(self, name: str) -> Callable[..., Any]:
            async def call() -> Any:
                try:
                    await getattr(self._actor, name)()
                except UserError as error:
                    raise RuntimeErrorOfRay(error) from None

            return call

    class RuntimeErrorOfRay(Exception):
        def __init__(self, cause: UserError) -> None:
            self.cause = cause

    with pytest.raises(UserError, match="there is no memory"):
        await started(Ray(tmp_path / "nothing"))


def test_a_run_without_memory_and_endpoint_is_refused_and_so_is_another_embedder(memory: Path, tmp_path: Path) -> None:
    check_experience(ExperienceSettings(), tmp_path)
    check_experience(SETTINGS.model_copy(update={"memory": str(memory)}), tmp_path)
    with pytest.raises(UserError, match=r"name one with experience\.memory, or a chat model"):
        check_experience(SETTINGS, tmp_path / "run")
    learning = ExperienceSettings(enabled=True, base_url="http://h/v1", model="m")
    check_experience(learning, tmp_path / "run")
    with pytest.raises(UserError, match=r"holds vectors of words, not of all-MiniLM.*experience\.embedder=words"):
        check_experience(learning.model_copy(update={"memory": str(memory)}), tmp_path)


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_an_episode_is_told_to_the_chat_model_without_its_block(mode: str) -> None:
    chat = ChatTokenizer(samples.byte_tokenizer(samples.CHATML))
    builder = make_builder(
        chat, PromptSettings.model_validate({"mode": mode}), Instructions(advice="<experience>\nno\n</experience>")
    )
    builder.begin(Observation("Find a mug."))
    for action in ("look", "take mug"):
        ids = chat.encode_response(action)
        builder.add_response(ids, [0.0] * len(ids), 0, True)
        builder.add_observation(Observation("Done."), 0.0, 0, True)
    task, done = transcript(chat, builder.sequences("s", "e", "g", 1.0))
    assert "Find a mug." in task and "no" not in task
    assert done.index("look") < done.index("take mug")


@pytest.mark.timeout(200)
async def test_an_endpoint_that_is_down_costs_its_rounds_and_is_told_once(tmp_path: Path, tiny_model_dir: Path) -> None:
    settings = ExperienceSettings(enabled=True, pairs=0.25, base_url="http://127.0.0.1:9/v1", model="m")
    rollouts, plays, said = await started(InProcess(tmp_path / "memory", settings, str(tiny_model_dir)), settings)

    async def failed(rounds: int) -> None:
        while rollouts.gauges()["experience/rounds_failed"] < rounds:
            await asyncio.sleep(0.1)
            await rollouts.start()  # hears what the actor says

    for number in range(5):
        await rollouts.run_group(replace(TASK, group_id=f"grpo-{number}"))
    await failed(1)
    await rollouts.run_group(replace(TASK, group_id="grpo-5"))
    await failed(2)
    await rollouts.close()
    (line,) = said
    assert "a round of learning failed" in line and "http://127.0.0.1:9/v1 failed 4 times" in line
    assert rollouts.book is not None and len(plays.played) == 6 and rollouts.gauges()["experience/off"] == 0
    assert Memory.inspect(str(tmp_path / "memory")).types() == {}
