"""An episode that an agent program plays: a process of its own which speaks with the policy through the gateway.

The program sees two addresses, both of this episode alone: an OpenAI-compatible endpoint and the environment. Whatever
it says to the policy and the policy answers becomes the episode's training sequences; what its actions earn is the
reward. Knows neither Ray nor vLLM.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from pydantic import PositiveFloat

from actors.chat_requests import ChatRequest, Refusal
from actors.engine import Engine, SamplingParameters
from actors.episode import EpisodeTask, Rules, Session, Tally, sampling_seed
from envs.base import Observation
from trajectories.chat_builder import ChatBuilder
from trajectories.errors import ConcertoError, UserError, first_line
from trajectories.settings import Settings
from trajectories.types import StopReason, Trajectory

if TYPE_CHECKING:
    from actors.gateway import Gateway  # a web server, which those need not load who only read settings

ENVIRONMENT_URL = "CONCERTO_ENVIRONMENT_URL"
GRACE_SECONDS = 5.0
"""For a program to end by itself after its episode."""


class ProgramSettings(Settings):
    """An agent program that plays the episodes in place of Concerto's own loop (docs/bring-your-own.md)."""

    command: tuple[str, ...] = ()
    """The program and its arguments, as in [python,my_agent.py]: one process an episode, with OPENAI_BASE_URL,
    OPENAI_API_KEY and CONCERTO_ENVIRONMENT_URL in its environment. It writes its own prompts, so that rollout.prompt
    shapes demonstrations only. Empty: none. Tuning: a program that starts fast; on a cluster it must lie where all
    nodes see it."""
    timeout_s: PositiveFloat = 600.0
    """Seconds of an episode, after which its program is ended and the episode has failed. Tuning: several times the
    seconds that an episode takes."""


def check_program(settings: ProgramSettings) -> None:
    """Raises UserError where this node has no such program."""
    if shutil.which(settings.command[0]) is None:
        raise UserError(f"there is no program {settings.command[0]!r}: check rollout.program.command on every node")


class ProgramFailure(ConcertoError):
    """The program broke off or took too long. The episode is lost; it may be played again."""


@dataclass(frozen=True, slots=True)
class ProgramAgent:
    """Who plays one episode: the program, what speaks for it, and what remembers its conversations."""

    settings: ProgramSettings
    gateway: Gateway
    engine: Engine
    builder: ChatBuilder
    sampling: SamplingParameters


@dataclass(frozen=True, slots=True)
class Answered:
    """What the policy said: its text, what the prompt and the answer were in tokens, whether it came to its end."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finished: bool


class ProgramEpisode:
    """What the gateway serves to one program. Its requests are answered one after the other, however many come at once,
    so that turns have an order.

    Attributes:
        over: set when the episode has ended; `stop` says why, unless `failure` holds an error of ours.
    """

    def __init__(
        self,
        task: EpisodeTask,
        agent: ProgramAgent,
        session: Session,
        rules: Rules,
        tally: Tally,
        observation: Observation,
    ) -> None:
        self._task, self._agent, self._session, self._rules = task, agent, session, rules
        self._observation = observation
        self._one_at_a_time = asyncio.Lock()
        self._answers = 0
        self._open: _Turn | None = None
        self._state = 0
        self.tally = tally
        self.over = asyncio.Event()
        self.stop = StopReason.GAVE_UP
        self.failure: Exception | None = None

    async def complete(self, request: ChatRequest) -> Answered:
        """The policy's answer, as the run samples it. Raises Refusal."""
        async with self._one_at_a_time:
            self._check_running()
            self._close_turn()
            try:
                question = self._agent.builder.ask(request.messages)
            except Exception as error:  # a chat template is a program, and raises what it likes
                raise Refusal(f"the chat template does not take these messages ({first_line(error)})") from error
            sampling = self._agent.sampling
            wanted = min(sampling.max_tokens, request.max_tokens or sampling.max_tokens)
            room = self._rules.room(len(question.token_ids), wanted)
            if room is None:
                raise self._too_long(len(question.token_ids))
            seed = sampling_seed(self._task.seed, self._answers)
            call = self._agent.engine.generate(question.token_ids, replace(sampling, max_tokens=room), seed)
            response = await self.tally.clock.generating(call)
            if room < wanted and not response.finished:
                raise self._too_long(len(question.token_ids))
            self.tally.versions.add(response.version)
            self._answers += 1
            self._open = _Turn()
            ids = response.token_ids
            text = self._agent.builder.add_response(
                question, ids, response.logprobs, response.version, response.finished
            )
            return Answered(text, len(question.token_ids), len(ids), response.finished)

    def look(self) -> dict[str, Any]:
        """What the environment shows now."""
        shown = self._observation
        actions = [*(("search[words]",) if shown.can_search else ()), *shown.admissible_actions]
        return {"observation": shown.text, "admissible_actions": actions, "done": self.over.is_set()}

    async def act(self, action: str) -> dict[str, Any]:
        """Play an action; what the environment shows then. Raises Refusal."""
        async with self._one_at_a_time:
            self._check_running()
            try:
                step = await self.tally.clock.playing(self._session.step(action))
            except Exception as error:
                self.fail(error)  # here, since nobody hears of it where the program has hung up
                raise
            self.tally.add(step.rewards)
            self._state = step.info.get("state_hash", 0)
            valid = step.info.get("action_valid", True)
            if self._open is not None:
                self._open.earn(self._rules.turn_reward.of(step.rewards, valid), valid)
            self._observation = step.observation
            if step.done:
                self._end(StopReason.DONE)
            elif self.tally.turns >= self._rules.max_turns:
                self._end(StopReason.TURN_LIMIT)
            return self.look()

    def fail(self, error: Exception) -> None:
        """End the episode with an error that is not the program's. The first one counts."""
        self.failure = self.failure or error
        self.over.set()

    async def trajectory(self, waiting_seconds: float) -> Trajectory:
        """The episode as it was played. An answer after which nothing was done is not trained.

        Raises what ended the episode where that was an error.
        """
        self.over.set()
        async with self._one_at_a_time:
            if self.failure is not None:
                raise self.failure
            if self._open is not None and self._open.acted:
                self._close_turn()
            task, agent = self._task, self._agent
            sequences = agent.builder.sequences(task.episode_id, task.group_id, agent.sampling.temperature)
            return Trajectory(self.tally.episode(task, self.stop, agent.engine, waiting_seconds), sequences)

    def _check_running(self) -> None:
        if self.over.is_set():
            raise Refusal(f"the episode is over ({self.stop}): end the program", code="episode_over")

    def _close_turn(self) -> None:
        if self._open is not None:
            self._agent.builder.close_turn(self._open.reward, self._state, self._open.valid)
            self._open = None

    def _too_long(self, prompt_tokens: int) -> Refusal:
        self._end(StopReason.LENGTH_LIMIT)
        return Refusal(
            f"the messages are {prompt_tokens} tokens, which leaves too few of rollout.engine.max_model_len "
            f"{self._rules.max_model_len} for an answer: the episode is over",
            code="context_length_exceeded",
        )

    def _end(self, stop: StopReason) -> None:
        self.stop = stop
        self.over.set()


@dataclass(slots=True)
class _Turn:
    """What came of an answer so far: an agent may act once, several times or not at all before it asks again."""

    reward: float = 0.0
    valid: bool = True
    acted: bool = False

    def earn(self, reward: float, valid: bool) -> None:
        self.reward += reward
        self.valid, self.acted = self.valid and valid, True


async def play_program(
    task: EpisodeTask, agent: ProgramAgent, session: Session, rules: Rules, waiting_seconds: float = 0.0
) -> Trajectory:
    """Let the program play one episode to its end, or to the program's.

    Args:
        waiting_seconds: what the episode spent before it got its environment; only recorded.
    Raises:
        ProgramFailure, EnvironmentFailure, EngineError: the episode is lost and may be tried again.
        UserError: no environment knows this task, or the program cannot be started.
    """
    tally = Tally(session.reward_names)
    observation = await tally.clock.playing(session.reset(task.task_id, task.environment_seed))
    episode = ProgramEpisode(task, agent, session, rules, tally, observation)
    with agent.gateway.serving(episode) as address:
        async with _running(agent.settings.command, address) as (process, said):
            await _ended(process, episode, agent.settings)
            if episode.failure is not None:
                raise episode.failure
            if process.returncode and not episode.over.is_set():
                raise ProgramFailure(f"the agent program ended with exit code {process.returncode}: {_last(said)}")
    return await episode.trajectory(waiting_seconds)


async def _ended(process: asyncio.subprocess.Process, episode: ProgramEpisode, settings: ProgramSettings) -> None:
    """Wait for the process or the episode, and after the episode a little for the process. Raises ProgramFailure."""
    exited, over = asyncio.create_task(process.wait()), asyncio.create_task(episode.over.wait())
    try:
        done, _ = await asyncio.wait({exited, over}, timeout=settings.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise ProgramFailure(
                f"the agent program did not end its episode within rollout.program.timeout_s {settings.timeout_s:g}"
            )
        if episode.failure is None:
            await asyncio.wait({exited}, timeout=GRACE_SECONDS)
    finally:
        exited.cancel()
        over.cancel()


@asynccontextmanager
async def _running(
    command: tuple[str, ...], address: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, IO[bytes]]]:
    """The program as a process, and what it says; it and all that it started are ended behind the block."""
    with tempfile.TemporaryFile() as said:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **surroundings(address, os.environ)},
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(
                f"the agent program {command[0]!r} cannot be started ({error.strerror}): check rollout.program.command "
                "on every node"
            ) from error
        try:
            yield process, said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def surroundings(address: str, outer: Mapping[str, str]) -> dict[str, str]:
    """What a program finds in its environment variables, beside `outer`; no proxy stands between it and us."""
    direct = ",".join(filter(None, (outer.get("NO_PROXY", outer.get("no_proxy", "")), "127.0.0.1")))
    return {
        "OPENAI_BASE_URL": f"{address}/v1",
        "OPENAI_API_KEY": "concerto",
        ENVIRONMENT_URL: f"{address}/environment",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def _last(said: IO[bytes]) -> str:
    """The last line that the program said."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - 2000))
    lines = said.read().decode(errors="replace").split("\n")
    return next((line.strip()[-300:] for line in reversed(lines) if line.strip()), "it said nothing")
