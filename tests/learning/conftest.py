"""A loop that learns: the real coordinator, engine, environment host, router actor and learner, on a task of letters.

The engines start once a session. The learner is a `LearnerWorker` in this process; the pool around it has tests of its
own, and its start would take longer than the learning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio
import ray

from actors.engine import AdapterSettings, EngineSettings
from actors.environment_host import start_environment_host
from actors.episode import TurnRewardSettings
from actors.rollout import start_rollout_actor
from actors.rollout_group import RolloutSettings
from actors.router import RouterActor
from cluster.config.sections import CheckpointSettings, EvaluationSettings, ScheduleSettings
from cluster.inputs.demonstrations import Transcriber
from cluster.loop.checkpoint import Manifest
from cluster.loop.coordinator import Coordinator
from cluster.loop.ports import Parts
from cluster.loop.programme import Programme
from cluster.loop.tasks import TaskMixture
from cluster.runtime.fleet import RolloutFleet
from cluster.runtime.learner import RayLearner
from cluster.runtime.publisher import ParitySequences, Publisher
from cluster.runtime.steps import NothingToRead, PlainRouting, PlainTraining
from cluster.runtime.weights import Publication
from envs.experts import play_expert
from envs.panels import Panel
from learners.learner_settings import LearnerSettings
from learners.policy.parity import ParityWatch
from learners.rewards.reward_settings import RewardSettings
from learners.workers.worker import LearnerWorker
from tests.cluster.simulation import Log
from tests.learning.spelling import WORDS, Spelling, save_guesser
from trajectories.builder import PromptSettings
from trajectories.chat import ChatTokenizer
from trajectories.schema import sequences_to_table

HOST = "concerto:learning:env-0"
EPISODES, SIZE = 64, 8
CHANNELS = ("success", "progress")
ENGINE = EngineSettings(dtype="float32", max_model_len=128, max_num_seqs=EPISODES, cpu_kv_cache_mib=64)
LORA_RANK = 8
TURN_REWARD = TurnRewardSettings(progress=1.0)


class InlinePool:
    """One learner worker, called as a pool of them is."""

    def __init__(self, settings: LearnerSettings) -> None:
        self._worker = LearnerWorker(settings)

    async def call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(self._worker, method)(*map(_fetched, arguments))]

    async def call_refs(self, method: str, *arguments: Any) -> list[Any]:
        return [ray.put(answer) for answer in await self.call(method, *arguments)]


def _fetched(argument: Any) -> Any:
    if isinstance(argument, ray.ObjectRef):
        return ray.get(argument)
    return [_fetched(item) for item in argument] if isinstance(argument, list) else argument


class NoRecorder:
    """Nothing of these runs is kept."""

    async def truncate(self, parts: int) -> None: ...

    async def write(self, part: int, groups: Any, assignments: Any) -> None: ...

    async def keep(self, folder: Path, ready: Any) -> None: ...

    async def read(self, folder: Path, position: int) -> Any: ...


@dataclass
class School:
    """Engines that any number of policies learn with, one after the other: each goes on with the versions.

    Attributes:
        model: what every policy starts from.
        folder: for checkpoints, of which there are none before a run's end.
    """

    model: Path
    folder: Path
    fleet: RolloutFleet
    version: int = 0

    async def learn(self, settings: LearnerSettings, schedule: ScheduleSettings, length: int = 1) -> list[float]:
        """The success of the training episodes, step by step, on words of this length; without episodes, nothing."""
        log = Log()
        learner, rows = self._learner(settings)
        publisher = Publisher(learner, self.fleet, rows, ParityWatch(None, "float32", pytest.fail))

        async def nothing(name: str) -> None: ...

        programme = Programme(
            seed=settings.seed,
            tasks=TaskMixture((words(length),)),
            demonstrations=range(len(WORDS[1])),
            compared=("success",),
            schedule=schedule,
            evaluation=EvaluationSettings(panels=()),
            checkpoint=CheckpointSettings(every=10_000),
        )
        parts: Any = Parts(self.fleet, learner, NoRecorder(), publisher.publish, nothing, nothing, log)
        coordinator = Coordinator(self.folder / f"{self.version}", programme, parts, Manifest(version=self.version))
        await coordinator.run()
        self.version = coordinator.manifest.version + 1
        return [metrics["success"] for metrics in log.metrics if "success" in metrics]

    def _learner(self, settings: LearnerSettings) -> tuple[RayLearner, ParitySequences]:
        table = demonstrations(self.model)
        options = {"num_cpus": 0}
        actor: Any = ray.remote(RouterActor).options(**options)
        router = actor.remote(settings.grpo, RewardSettings(), CHANNELS, settings.seed, None)
        pool: Any = InlinePool(settings)
        publication = Publication(settings.policy.lora is not None, timeout_s=60)
        learner = RayLearner(pool, PlainRouting(router, NothingToRead(), table), PlainTraining(pool, None), publication)
        return learner, ParitySequences.put(table)


def words(length: int) -> Panel:
    """All words of this length."""
    return Panel("spelling/train", tuple(f"train/{word}" for word in WORDS[length]), "")


def demonstrations(model: Path) -> pa.Table:
    """Every letter, said as it was asked for."""
    transcriber = Transcriber(ChatTokenizer.from_pretrained(str(model)), PromptSettings(), ENGINE.max_model_len)
    played = [(letter, play_expert(Spelling(), f"train/{letter}")) for letter in WORDS[1]]
    return sequences_to_table([row for letter, steps in played for row in transcriber.sequences(steps, letter)])


@pytest.fixture(scope="session")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers with any letter."""
    return save_guesser(tmp_path_factory.mktemp("guesser"))


@pytest.fixture(scope="session")
def spelling_host(ray_session: None) -> Iterator[None]:
    host = start_environment_host({"spelling": Spelling}, {"num_cpus": 0.1, "name": HOST})
    yield
    ray.kill(host)


@asynccontextmanager
async def opened(
    model: Path, folder: Path, engine: EngineSettings, name: str, turn_reward: TurnRewardSettings = TURN_REWARD
) -> AsyncIterator[School]:
    rollout = RolloutSettings(
        engine=engine, episodes=EPISODES, max_turns=3, max_response_tokens=2, turn_reward=turn_reward
    )
    options = {"name": f"concerto:learning:{name}", "num_cpus": 0.5}
    actor = start_rollout_actor(rollout, str(model), (HOST,), options)
    fleet = RolloutFleet({name: actor}, EPISODES, start_timeout_s=120)
    try:
        await fleet.start()
        yield School(model, folder, fleet)
    finally:
        await fleet.close()
        ray.kill(actor)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def school(spelling_host: None, guesser: Path, tmp_path_factory: Any) -> AsyncIterator[School]:
    """For whole weights."""
    async with opened(guesser, tmp_path_factory.mktemp("school"), ENGINE, "rollout-0") as school:
        yield school


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def adapter_school(spelling_host: None, guesser: Path, tmp_path_factory: Any) -> AsyncIterator[School]:
    """For adapters."""
    engine = ENGINE.model_copy(update={"lora": AdapterSettings(max_rank=LORA_RANK)})
    async with opened(guesser, tmp_path_factory.mktemp("adapter-school"), engine, "rollout-1") as school:
        yield school
