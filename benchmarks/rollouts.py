"""Episodes per minute: independent asynchronous episodes against a lockstep loop, on the same engine and tasks.

    python -m benchmarks.rollouts --model DIR [--out FILE]

In the lockstep loop, as in verl-agent and its descendants, a batch of episodes takes its turns together: generate for
all, wait for the slowest response, step all, wait for the slowest environment. Finished episodes stay in the batch and
keep generating until the last one has ended; then the next batch begins. Both loops use the same prompt builders,
environment hosts, engine settings and number of episodes at once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ray

from actors.engine import Engine, EngineSettings, SamplingParameters
from actors.environment_host import EnvironmentPool, start_environment_host
from actors.episode import Agent, EpisodeTask, Rules, Session, play
from actors.rollout_group import RolloutSettings
from benchmarks.figures import Figure, write_figures
from envs import load_panel, make_environment
from trajectories.builder import PromptBuilder, make_builder
from trajectories.chat import ChatTokenizer


@dataclass(frozen=True)
class Bench:
    """What both loops share."""

    engine: Engine
    pool: EnvironmentPool
    environment: str
    tokenizer: ChatTokenizer
    settings: RolloutSettings
    sampling: SamplingParameters
    task_ids: tuple[str, ...]

    def builder(self) -> PromptBuilder:
        return make_builder(self.tokenizer, self.settings.prompt)

    def agent(self) -> Agent:
        return Agent(self.engine, self.builder(), self.sampling)

    @property
    def limits(self) -> Rules:
        return Rules(self.settings.max_turns, self.settings.engine.max_model_len, self.settings.turn_reward)


@dataclass(frozen=True)
class Outcome:
    """Of one loop over all tasks."""

    seconds: float
    turns: tuple[int, ...]
    successes: int
    generated_tokens: int

    @property
    def rate(self) -> float:
        """Episodes a minute."""
        return 60 * len(self.turns) / self.seconds

    def __str__(self) -> str:
        return (
            f"{self.rate:7.1f} episodes/min, {self.generated_tokens / self.seconds:6.1f} tokens/s, "
            f"{sum(self.turns) / len(self.turns):.1f} turns an episode, {self.successes}/{len(self.turns)} solved"
        )


async def asynchronous(bench: Bench) -> list[tuple[int, bool]]:
    """(turns, solved) of every episode; each goes its own way."""

    async def episode(index: int, task_id: str) -> tuple[int, bool]:
        task = EpisodeTask(str(index), "bench", index, "bench", "bench", task_id, index, index, None)
        async with bench.pool.lease(bench.environment) as session:
            record = await play(task, bench.agent(), session, bench.limits)
        return record.episode.turns, record.episode.success

    return list(await asyncio.gather(*(episode(index, task) for index, task in enumerate(bench.task_ids))))


@dataclass
class _Seat:
    """One episode of a lockstep batch."""

    index: int
    session: Session
    builder: PromptBuilder
    turns: int = 0
    solved: bool = False
    done: bool = False

    async def step(self, action: str) -> None:
        result = await self.session.step(action)
        self.turns += 1
        self.done, self.solved = result.done, result.rewards["success"] >= 1.0
        self.builder.add_observation(result.observation, 0.0, 0, True)


async def lockstep(bench: Bench) -> list[tuple[int, bool]]:
    """(turns, solved) of every episode; a batch takes its turns together."""
    outcomes: list[tuple[int, bool]] = []
    size = bench.settings.episodes
    for start in range(0, len(bench.task_ids), size):
        async with AsyncExitStack() as stack:
            seats = [
                _Seat(index, await stack.enter_async_context(bench.pool.lease(bench.environment)), bench.builder())
                for index in range(start, min(start + size, len(bench.task_ids)))
            ]
            await _lockstep_batch(bench, seats)
        outcomes += [(seat.turns, seat.solved) for seat in seats]
    return outcomes


async def _lockstep_batch(bench: Bench, seats: list[_Seat]) -> None:
    tasks = bench.task_ids
    starts = await asyncio.gather(*(seat.session.reset(tasks[seat.index], seat.index) for seat in seats))
    for seat, observation in zip(seats, starts, strict=True):
        seat.builder.begin(observation)
    for turn in range(bench.limits.max_turns):
        for seat in seats:
            seat.done |= len(seat.builder.prompt()) + bench.sampling.max_tokens > bench.limits.max_model_len
        if all(seat.done for seat in seats):
            break
        room = bench.limits.max_model_len - bench.sampling.max_tokens
        responses = await asyncio.gather(
            *(
                bench.engine.generate(seat.builder.prompt()[:room], bench.sampling, seat.index * 65_537 + turn)
                for seat in seats
            )
        )
        playing = []
        for seat, response in zip(seats, responses, strict=True):
            if not seat.done:
                answer = seat.builder.add_response(
                    response.token_ids, response.logprobs, response.version, response.finished
                )
                playing.append(seat.step(answer.action))
        await asyncio.gather(*playing)


async def measure(bench: Bench, loop: Callable[[Bench], Awaitable[list[tuple[int, bool]]]]) -> Outcome:
    tokens, started = bench.engine.stats().generated_tokens, time.perf_counter()
    episodes = await loop(bench)
    seconds = time.perf_counter() - started
    turns, solved = zip(*episodes, strict=True)
    return Outcome(seconds, turns, sum(solved), bench.engine.stats().generated_tokens - tokens)


async def run(arguments: argparse.Namespace) -> list[tuple[Outcome, Outcome]]:
    """Outcomes of both loops, asynchronous and lockstep, of each repeat."""
    from actors.vllm_engine import VllmEngine

    environment = arguments.panel.partition("/")[0]
    panel = load_panel(arguments.panel, arguments.data)
    task_ids = tuple(panel.task_ids[index % len(panel.task_ids)] for index in range(arguments.episodes))
    settings = RolloutSettings(
        engine=EngineSettings(dtype=arguments.dtype, max_model_len=arguments.max_model_len),
        episodes=arguments.at_once,
        max_turns=arguments.max_turns,
    )
    openers = {environment: partial(make_environment, environment, arguments.data)}
    hosts = [start_environment_host(openers, {"num_cpus": 0.1}) for _ in range(arguments.hosts)]
    pool = await EnvironmentPool.open(hosts, "bench", settings.episodes, settings.environment_timeout_s)
    tokenizer = ChatTokenizer.from_pretrained(arguments.model)
    started = time.perf_counter()
    engine = await VllmEngine.start(arguments.model, settings.engine)
    print(f"engine ready after {time.perf_counter() - started:.1f} s")
    sampling = SamplingParameters(arguments.temperature, settings.max_response_tokens, tokenizer.stop_token_ids)
    bench = Bench(engine, pool, environment, tokenizer, settings, sampling, task_ids)
    try:
        await measure(replace(bench, task_ids=task_ids[: settings.episodes]), asynchronous)
        pairs = []
        for _ in range(arguments.repeats):
            fresh = await measure(bench, asynchronous)
            print(f"asynchronous {fresh}")
            locked = await measure(bench, lockstep)
            print(f"lockstep     {locked}")
            pairs.append((fresh, locked))
        print("ratio        " + ", ".join(f"{fresh.rate / locked.rate:.2f}" for fresh, locked in pairs))
        return pairs
    finally:
        await engine.close()


def figures(pairs: list[tuple[Outcome, Outcome]]) -> list[Figure]:
    """Medians over repeats."""
    fresh, locked = (statistics.median(outcome.rate for outcome in loop) for loop in zip(*pairs, strict=True))
    ratio = statistics.median(fresh.rate / locked.rate for fresh, locked in pairs)
    return [
        Figure("asynchronous", fresh, "episodes a minute"),
        Figure("lockstep", locked, "episodes a minute"),
        Figure("episodes a minute", ratio, "times lockstep's"),
    ]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory or name")
    parser.add_argument("--panel", default="alfworld/generated/train", help="tasks, taken in order")
    parser.add_argument("--data", default=None, help="the environment's data; default: what is embedded")
    parser.add_argument("--episodes", type=int, default=384)
    parser.add_argument("--at-once", type=int, default=48, help="episodes at once, the size of a lockstep batch")
    parser.add_argument("--max-turns", type=int, default=50)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--hosts", type=int, default=1, help="environment processes")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="concerto-ray-") as folder:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        try:
            pairs = asyncio.run(run(arguments))
        finally:
            ray.shutdown()
    write_figures(arguments.out, "rollouts", figures(pairs))


if __name__ == "__main__":
    main()
