"""The channel `judge`: a chat model grades each answer, several times, and the grades become one score.

The prompt is `experience/prompts/grade.jinja`, the form of its reply `Grade` beside it. Whatever the endpoint does, a
run goes on: what has no grade in time has no score, and `answers.filled` puts something neutral in its place.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from envs.questions.question import Question
from experience.asking import GRADE, Prompter, Spending, StepFailed
from experience.prompts.replies import BEST_GRADE, Grade
from experience.protocols import ChatModel, EndpointDown
from learners.rewards.answers import Answers
from learners.rewards.reward_settings import JudgeSettings

logger = logging.getLogger(__name__)

NEUTRAL = 0.5
"""The score of an answer where no member of its group has one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge makes of B answers.

    Attributes:
        scores: B numbers in [0, 1]; None where no vote came.
        tokens: read and written by the chat model.
        trouble: why a vote is missing, the latest reason; empty where none is.
    """

    scores: tuple[float | None, ...]
    tokens: int
    trouble: str = ""

    @property
    def unanswered(self) -> int:
        return self.scores.count(None)


class Judge:
    """Grades answers. At most `settings.concurrency` requests are under way, whoever asks for them.

    Its calls belong to one event loop.
    """

    def __init__(self, model: ChatModel, settings: JudgeSettings) -> None:
        self._model, self._settings = model, settings
        self._free = asyncio.Semaphore(settings.concurrency)

    async def judge(self, answers: Answers) -> Judged:
        """Votes on every answer, within `settings.timeout_s` seconds; votes that have come by then count.

        Once the endpoint is down, nothing more is asked of it in this call.

        Raises:
            UserError: the endpoint knows no such model, or does not let us in.
        """
        ballot = _Ballot(Prompter(self._model, Spending()), len(answers))
        pairs = list(enumerate(zip(answers.questions, answers.responses, strict=True)))
        votes = [
            asyncio.create_task(self._vote(ballot, at, *pair))
            for _ in range(self._settings.votes)
            for at, pair in pairs
        ]
        if votes:
            _, late = await asyncio.wait(votes, timeout=self._settings.timeout_s, return_when=asyncio.FIRST_EXCEPTION)
            for vote in late:
                vote.cancel()
            ends = await asyncio.gather(*votes, return_exceptions=True)
            for error in ends:
                if isinstance(error, Exception):
                    raise error
            if late:
                ballot.trouble = f"{len(late)} votes did not come within {self._settings.timeout_s:g} s"
        scores = tuple(score(grades, self._settings.combine) for grades in ballot.grades)
        return Judged(scores, ballot.prompter.spending.tokens, ballot.trouble)

    async def _vote(self, ballot: _Ballot, at: int, question: Question, response: str) -> None:
        async with self._free:
            if ballot.down:
                return
            asked = {"question": question.prompt, "references": question.references, "answer": response}
            try:
                ballot.grades[at].append((await ballot.prompter.ask(GRADE, Grade, **asked)).grade)
            except StepFailed as error:
                ballot.trouble = str(error)
            except EndpointDown as error:
                ballot.trouble, ballot.down = str(error), True


class _Ballot:
    """The votes of one call."""

    def __init__(self, prompter: Prompter, answers: int) -> None:
        self.prompter = prompter
        self.grades: list[list[int]] = [[] for _ in range(answers)]
        self.trouble, self.down = "", False


def score(grades: Sequence[int], combine: str) -> float | None:
    """The median or mean of some grades as a number in [0, 1]; None without any.

    >>> score([2, 9, 10], "median"), score([2, 9, 10], "mean"), score([], "mean")
    (0.9, 0.7, None)
    """
    if not grades:
        return None
    middle = statistics.median(grades) if combine == "median" else statistics.fmean(grades)
    return middle / BEST_GRADE
