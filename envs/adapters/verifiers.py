"""Environments of the `verifiers` package before 0.4 (tried with 0.1.14 and 0.3.1): rows of prompt and answer,
`env_response`, a rubric.

One line in a module of your own names one, as in `--set tasks=my_package.games.reverse`:

    reverse = VerifiersTasks(partial(vf.load_environment, "reverse-text"))

Such an environment runs a rollout itself and asks a client for every answer. Here the client is Concerto: what it is
asked is the observation, and the action is what it answers. So turns, stop conditions and scores are all the
environment's own. The interface is that of https://docs.primeintellect.ai/verifiers; version 0.4 has another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from envs.base import Observation, StepResult
from trajectories.errors import UserError, first_line

DEV_SHARE = 10
"""Where there are no rows for evaluation, one in so many is kept for it."""
OURS = ("success", "score")
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of each split."""
Result = TypeVar("Result")


class VerifiersTasks:
    """An environment of `verifiers` under a name; task `train/7` is row 7 of its dataset, `dev/7` of its evaluation
    dataset. Where it has none, each tenth row is left to `dev`.

    It stands where a module stands that has `open_environment` and `open_tasks`.

    Args:
        load: gives the environment.
        solved_at: reward of the rubric with which an episode is a success.
    """

    train_split, heldout_split, test_splits = "train", "dev", ()

    def __init__(self, load: Callable[[], Any], solved_at: float = 1.0) -> None:
        self._load, self._solved_at = load, solved_at

    def open_environment(self, data: str | Path | None = None) -> VerifiersPlay:
        if data is not None:
            raise UserError(f"an environment of verifiers brings its own rows, so leave out data.…={data}")
        return VerifiersPlay(self._environment, self._rows, self._solved_at)

    def open_tasks(self, data: str | Path | None = None) -> VerifiersTasks:
        return self

    def task_ids(self, split: str) -> tuple[str, ...]:
        if split not in self._rows:
            raise UserError(f"no split {split!r} of this environment of verifiers; choose train or dev")
        return tuple(f"{split}/{at}" for at in range(len(self._rows[split])))

    def content_hash(self, task_id: str) -> str:
        row = json.dumps(_row(self._rows, task_id), sort_keys=True, default=str)
        return hashlib.sha256(row.encode(errors="surrogatepass")).hexdigest()

    @cached_property
    def _environment(self) -> Any:
        try:
            return self._load()
        except Exception as error:  # whatever the loading of an environment from outside does
            raise UserError(
                f"the environment of verifiers cannot be loaded ({type(error).__name__}: {first_line(error)}): see "
                "that verifiers<0.4 and the environment's own package are installed on every node"
            ) from error

    @cached_property
    def _rows(self) -> Rows:
        environment = self._environment
        rows = list(environment.get_dataset())
        if environment.build_eval_dataset() is not None:
            return {"train": rows, "dev": list(environment.get_eval_dataset())}
        kept = [row for at, row in enumerate(rows) if at % DEV_SHARE]
        return {"train": kept, "dev": rows[::DEV_SHARE]}


class VerifiersPlay:
    """Rewards of a step, all 0.0 but on the last: `success`; `score`: the rubric's reward; and each function of the
    rubric under its own name. States are equal whose conversations are."""

    def __init__(self, environment: Any, rows: Rows, solved_at: float) -> None:
        if environment.rubric.has_group_rewards:
            raise UserError(
                "a function of this rubric compares the rollouts of a group, which is the advantages' business here: "
                "leave it out of the rubric"
            )
        names = environment.rubric._get_reward_func_names()
        self.reward_names: tuple[str, ...] = (*OURS, *(name for name in dict.fromkeys(names) if name not in OURS))
        self._environment, self._rows, self._solved_at = environment, rows, solved_at
        self._talk: _Talk | None = None

    def reset(self, task_id: str, seed: int = 0) -> Observation:
        """Start the rollout of a row; `seed` changes nothing."""
        self.close()
        talk = _Talk(self._environment, _row(self._rows, task_id))
        shown = _wait(talk.begin())
        if shown is None:
            raise UserError(f"{task_id} of this environment of verifiers ends before anything is asked: leave it out")
        self._talk = talk
        return Observation(shown)

    def step(self, action: str) -> StepResult:
        if self._talk is None:
            raise RuntimeError("no episode is under way: reset first")
        talk, rewards = self._talk, dict.fromkeys(self.reward_names, 0.0)
        shown = _wait(talk.answer(action))
        if shown is None:
            state = _wait(talk.score())
            found = {**(state["metrics"] or {}), "score": state["reward"]}
            found["success"] = float(found["score"] >= self._solved_at)
            rewards = {name: float(found.get(name) or 0.0) for name in self.reward_names}
            self._talk = None
        info = {"action_valid": True, "state_hash": talk.state_hash()}
        return StepResult(Observation(shown or ""), rewards, done=shown is None, info=info)

    def close(self) -> None:
        if self._talk is not None:
            _wait(self._talk.break_off())
            self._talk = None


class _Talk:
    """One rollout, which asks and is answered. Everything runs in the loop of `_loop`."""

    def __init__(self, environment: Any, row: Mapping[str, Any]) -> None:
        self._environment, self._row = environment, row
        self._questions: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._read = 0
        """Messages of the latest question, with the answer to it."""
        self._said: list[str] = []

    async def begin(self) -> str | None:
        rollout = self._environment.rollout(dict(self._row), _client(self._ask), "policy", {})
        self._rollout: asyncio.Task[Any] = asyncio.create_task(rollout)
        return await self._next()

    async def answer(self, action: str) -> str | None:
        """What is asked next; None where the rollout has ended."""
        self._said.append(action)
        self._answers.put_nowait(action)
        return await self._next()

    async def score(self) -> Mapping[str, Any]:
        """The state of the ended rollout, with its reward."""
        state = self._rollout.result()
        if state.get("error") is not None:
            raise RuntimeError(f"the rollout failed: {first_line(state['error'])}")
        await self._environment.rubric.score_rollout(state)
        return state

    async def break_off(self) -> None:
        self._rollout.cancel()
        await asyncio.wait({self._rollout})

    def state_hash(self) -> int:
        digest = hashlib.blake2b("\0".join(self._said).encode(errors="surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    async def _next(self) -> str | None:
        asked = asyncio.create_task(self._questions.get())
        await asyncio.wait({asked, self._rollout}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            asked.cancel()
            self._rollout.result()  # raises what the rollout raised
            return None
        messages = asked.result()
        shown = "\n\n".join(map(_text, messages[self._read :] if len(messages) > self._read else messages))
        self._read = len(messages) + 1
        self._said.append(shown)
        return shown

    async def _ask(self, messages: Any, tools: Any) -> str:
        """What the environment's client does."""
        if tools:
            raise UserError(
                "this environment of verifiers calls tools, which are not offered: take one that reads text"
            )
        self._questions.put_nowait(messages)
        return await self._answers.get()


def _client(ask: Callable[[Any, Any], Coroutine[Any, Any, str]]) -> Any:
    """A client of `verifiers` whose answers come from `ask`."""
    from verifiers.clients import OpenAIChatCompletionsClient  # pyright: ignore[reportMissingImports]
    from verifiers.types import Response, ResponseMessage  # pyright: ignore[reportMissingImports]

    class Asking(OpenAIChatCompletionsClient):
        async def get_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **_: Any) -> Any:
            said = await ask(prompt, tools)
            message = ResponseMessage(content=said, finish_reason="stop", is_truncated=False)
            return Response(id="concerto", created=0, model=model, message=message)

    return Asking(None)  # pyright: ignore[reportArgumentType]  # it calls nobody


def _row(rows: Rows, task_id: str) -> Mapping[str, Any]:
    split, _, at = task_id.partition("/")
    if not at.isdecimal() or int(at) >= len(rows.get(split, ())):
        raise UserError(f"no task {task_id!r} of this environment of verifiers; task ids read like train/0")
    return rows[split][int(at)]


def _text(message: Any) -> str:
    content = message["content"]
    if not isinstance(content, str):
        raise UserError("this environment of verifiers shows more than text: take one that is read")
    return content


@lru_cache
def _loop() -> asyncio.AbstractEventLoop:
    """Where all rollouts of this process run, whoever calls."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="verifiers", daemon=True).start()
    return loop


def _wait(call: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(call, _loop()).result()
