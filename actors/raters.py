"""Who rates answers, in processes of their own: replicas of the preference model where the plan puts them, and a judge.

The router actor asks them while it makes rewards, so that a large model never sits on its CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from actors import runtime
from learners.rewards.answers import AnswerReader, Answers, Rating, SoundEpisodes, filled
from learners.rewards.judge import NEUTRAL, Judge, Judged
from learners.rewards.reward_settings import JudgeSettings
from learners.workers.losses import own_words
from trajectories.errors import RunError, last_line

RESTARTS = {"max_restarts": -1, "max_task_retries": 2}
"""Ray's options of an actor that remembers nothing: it is started again, and a call is repeated twice."""


class PreferenceActor:
    """One copy of the reward model, loaded with the first call."""

    def __init__(self, model: str, device: str) -> None:
        self._name, self._device = model, device
        self._model: Any = None

    def load(self) -> None:
        """Raises UserError where the model is no reward model."""
        if self._model is None:
            from learners.rewards.preference import PreferenceModel  # here, because it takes seconds

            self._model = PreferenceModel(self._name, self._device)

    def score(
        self, rows: Sequence[int], prompts: Sequence[str], responses: Sequence[str]
    ) -> tuple[Sequence[int], list[float]]:
        """`rows` as they came, and the score of each pair."""
        self.load()
        return rows, self._model.score(prompts, responses).tolist()


@dataclass(frozen=True, slots=True)
class PreferencePool:
    """The rater `preference`: replicas that take batches as they become free.

    Attributes:
        replicas: handles of `PreferenceActor`.
        batch: most pairs of one pass.
    """

    replicas: tuple[ActorHandle, ...]
    batch: int

    def rate(self, answers: Answers) -> Rating:
        """Raises RunError where a replica died three times over the same batch, or cannot go on."""
        started = time.monotonic()
        values = [0.0] * len(answers)
        with preference_in_words():
            pool = ActorPool(list(self.replicas))
            batches = batches_by_length(answers, self.batch)
            for rows, scores in pool.map_unordered(lambda actor, rows: _score(actor, rows, answers), batches):
                for row, score in zip(rows, scores, strict=True):
                    values[row] = score
        return Rating(values, {"preference_s": time.monotonic() - started})


def batches_by_length(answers: Answers, most: int) -> list[list[int]]:
    """Rows in batches of answers of like length, so that little is padded; the longest first, so that replicas end
    together."""
    lengths = [len(asked.prompt) + len(said) for asked, said in zip(answers.questions, answers.responses, strict=True)]
    order = sorted(range(len(answers)), key=lambda row: -lengths[row])
    return [order[first : first + most] for first in range(0, len(order), most)]


def _score(actor: Any, rows: list[int], answers: Answers) -> Any:
    return actor.score.remote(
        rows, [answers.questions[at].prompt for at in rows], [answers.responses[at] for at in rows]
    )


@contextmanager
def preference_in_words() -> Iterator[None]:
    """What ends the run for the preference model's sake, in one line."""
    try:
        with own_words():
            yield
    except RayTaskError as error:
        raise RunError(
            f"the preference model failed: {last_line(error)}; lower reward.preference_batch, or give it more with "
            "placement.preference_gpus or placement.preference_cpus"
        ) from None
    except RayActorError as error:
        raise RunError(
            f"a replica of the preference model died each time it was started ({last_line(error)}): see that "
            "reward.preference_model fits into the memory of its node, and lower reward.preference_batch; then go on "
            "with --resume"
        ) from None


class JudgeActor:
    """Waits for a judge's votes, of many groups at once.

    Args:
        section: of the settings, as `reward.judge`, for what is said of them.
        reader: makes what reads the answers of whole groups; called where such come.
    """

    def __init__(self, settings: JudgeSettings, section: str, reader: Callable[[], AnswerReader]) -> None:
        from experience.openai_chat import OpenAIChat, OptionNames  # here, because it takes seconds

        names = OptionNames.of_section(section)
        chat = OpenAIChat(settings.base_url or "", settings.model or "", settings.timeout_s, names=names)
        self._judge, self._make_reader = Judge(chat, settings), reader
        self._reader: AnswerReader | None = None
        self._trouble = ""

    async def judge(self, answers: Answers) -> Judged:
        """See `Judge.judge`."""
        judged = await self._judge.judge(answers)
        self._trouble = judged.trouble or self._trouble
        return judged

    async def judge_group(self, episodes: pa.Table, sequences: pa.Table) -> dict[str, float]:
        """What an evaluation tells of a group: `judge`, the mean score, and `judge_unanswered`, the share without one.
        An episode without a response has the score 0: it is as good as an empty answer.

        Raises:
            UserError: as `Judge.judge`.
        """
        if self._reader is None:
            self._reader = self._make_reader()
        played = SoundEpisodes.of(episodes, sequences)
        answers = self._reader.answers(played)
        judged = await self.judge(answers)
        scores, count = filled(judged.scores, answers.groups, NEUTRAL), len(played.all)
        return {"judge": sum(scores) / count, "judge_unanswered": judged.unanswered / count}

    async def trouble(self) -> str:
        """Why a vote was missing the last time that one was; empty where none ever was."""
        return self._trouble


@dataclass(frozen=True, slots=True)
class RemoteJudge:
    """A `JudgeActor` in another process: the rater `judge`, and the evaluator of an evaluation."""

    handle: Any

    def rate(self, answers: Answers) -> Rating:
        """Raises ConcertoError where the endpoint lets nobody in, or the actor keeps dying."""
        started = time.monotonic()
        with judge_in_words():
            judged: Judged = runtime.get(self.handle.judge.remote(answers))
        metrics = {
            "judge_s": time.monotonic() - started,
            "judge/tokens": float(judged.tokens),
            "judge/unanswered": float(judged.unanswered),
        }
        return Rating(filled(judged.scores, answers.groups, NEUTRAL), metrics)

    async def of_group(self, group: Any) -> dict[str, float]:
        """See `JudgeActor.judge_group`; `group` is a `GroupReferences`."""
        with judge_in_words():
            return await self.handle.judge_group.remote(group.episodes, group.sequences)

    async def trouble(self) -> str:
        """See `JudgeActor.trouble`."""
        with judge_in_words():
            return await self.handle.trouble.remote()


@contextmanager
def judge_in_words() -> Iterator[None]:
    """What ends the run for the judge's sake, in one line."""
    try:
        with own_words():
            yield
    except RayActorError as error:
        raise RunError(
            f"the judge's actor died each time it was started ({last_line(error)}): go on with --resume"
        ) from None


def start_preference(model: str, gpus: float, options: Any) -> ActorHandle:
    """A `PreferenceActor` as a Ray actor, on a GPU where it has a share of one."""
    device = "cuda" if gpus else "cpu"
    return runtime.start(PreferenceActor, {**RESTARTS, **options}, model, device)


def start_judge(settings: JudgeSettings, section: str, reader: Callable[[], AnswerReader], options: Any) -> RemoteJudge:
    """A `JudgeActor` as a Ray actor, on no CPU: it only waits."""
    return RemoteJudge(runtime.start(JudgeActor, {"num_cpus": 0, **RESTARTS, **options}, settings, section, reader))
