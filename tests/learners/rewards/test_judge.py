"""The judge: votes of a chat model that works, is down, slow, or answers garbage."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.questions.question import Question
from experience.openai_chat import ATTEMPTS, OpenAIChat, OptionNames
from learners.rewards.answers import Answers, filled
from learners.rewards.judge import NEUTRAL, Judge, Judged, score
from learners.rewards.reward_settings import JudgeSettings
from tests.experience.endpoint import Respond, completion, endpoint, slow
from trajectories.errors import UserError

OPEN = Question("How many legs has a spider?", references=("8", "eight"))
BARE = Question("Write a line about rain.")
NAMES = OptionNames.of_section("reward.judge")


def answers(*said: str, question: Question = OPEN) -> Answers:
    return Answers((question,) * len(said), said, ("g",) * len(said))


def grade(number: object) -> str:
    return completion(json.dumps({"reasoning": "as the script of this test says", "grade": number}))


def grading(grades: dict[str, list[int]]) -> Respond:
    """The grades of each answer, one vote after the other."""
    left = {said: iter(numbers) for said, numbers in grades.items()}

    def respond(request: dict[str, Any]) -> tuple[int, str]:
        prompt = request["messages"][0]["content"]
        said = prompt.partition("<answer>\n")[2].partition("\n</answer>")[0]
        return 200, grade(next(left[said]))

    return respond


def judged(respond: Respond, asked: Answers, timeout_s: float = 5.0, **settings: Any) -> Judged:
    """What a judge behind an endpoint makes of some answers."""

    async def ask(url: str) -> Judged:
        chat = OpenAIChat(url, "m", timeout_s, first_wait_s=0.01, names=NAMES)
        how = JudgeSettings(base_url=url, model="m", timeout_s=timeout_s, **settings)
        try:
            return await Judge(chat, how).judge(asked)
        finally:
            await chat.close()

    with endpoint(respond) as url:
        return asyncio.run(ask(url))


def test_the_votes_of_each_answer_become_its_score_and_their_tokens_are_counted() -> None:
    grades = {"8": [10, 9, 2], "six": [0, 1, 5]}
    found = judged(grading(grades), answers("8", "six"))
    assert found == Judged((0.9, 0.1), tokens=6 * 10)
    assert judged(grading(grades), answers("8", "six"), combine="mean").scores == pytest.approx((0.7, 0.2))
    assert judged(grading(grades), answers("six"), votes=1).scores == (0.0,)
    assert judged(grading({}), answers()) == Judged((), 0)


@pytest.mark.parametrize(("question", "references"), [(OPEN, ["8", "eight"]), (BARE, [])])
def test_the_judge_reads_question_references_and_answer_under_a_schema(
    question: Question, references: list[str]
) -> None:
    requests: list[dict[str, Any]] = []
    respond = grading({"&lt;|im_end|&gt;": [4]})
    judged(
        lambda request: (requests.append(request), respond(request))[1],
        answers("<|im_end|>", question=question),
        votes=1,
    )
    (request,) = requests
    prompt = request["messages"][0]["content"]
    assert f"<question>\n{question.prompt}\n</question>" in prompt
    assert [part.partition("\n</reference>")[0] for part in prompt.split("<reference>\n")[1:]] == references
    assert ("rely on the references" in prompt) == bool(references)
    schema = request["response_format"]["json_schema"]["schema"]
    bounds = schema["properties"]["grade"]
    assert (bounds["type"], bounds["minimum"], bounds["maximum"]) == ("integer", 0, 10)
    assert list(schema["properties"]) == ["reasoning", "grade"], "what is written first is thought first"


def test_one_answer_that_gets_garbage_keeps_the_others_scores() -> None:
    tried: Counter[str] = Counter()

    def respond(request: dict[str, Any]) -> tuple[int, str]:
        said = "six" if "\nsix\n" in request["messages"][0]["content"] else "8"
        tried[said] += 1
        return 200, completion("I like it!") if said == "six" else grade(8)

    found = judged(respond, answers("8", "six"), votes=2)
    assert found.scores == (0.8, None) and found.unanswered == 1
    assert "no usable reply in 3 attempts" in found.trouble
    assert tried == {"8": 2, "six": 2 * 3}, "asked again, a bounded number of times"
    assert found.tokens == 10 * (2 + 6), "what is no use costs as much"


@pytest.mark.parametrize("number", [-1, 11, 7.5, "good", None])
def test_a_grade_off_the_scale_is_no_vote(number: object) -> None:
    assert judged(lambda request: (200, grade(number)), answers("8"), votes=1).scores == (None,)


def test_an_endpoint_that_is_down_is_asked_no_more() -> None:
    calls: list[int] = []
    found = judged(lambda request: (calls.append(1), (503, "{}"))[1], answers(*"abcdef"), votes=3, concurrency=1)
    assert found.scores == (None,) * 6 and found.tokens == 0
    assert len(calls) == ATTEMPTS
    assert "failed 4 times, the last with: HTTP 503; see that it runs and that reward.judge.base_url is right" in (
        found.trouble
    )


def test_a_slow_endpoint_costs_no_more_than_the_time_it_has() -> None:
    def respond(request: dict[str, Any]) -> tuple[int, str]:
        late = "\nsix\n" in request["messages"][0]["content"]
        return slow(2.0)(request) if late else (200, grade(8))

    started = time.monotonic()
    found = judged(respond, answers("8", "six"), timeout_s=0.5, votes=2)
    assert found.scores == (0.8, None) and found.trouble == "2 votes did not come within 0.5 s"
    assert time.monotonic() - started < 4.5, "the server's own two seconds included"


@pytest.mark.parametrize(
    ("status", "told"), [(404, "check reward.judge.model, and that reward.judge.base_url"), (401, "OPENAI_API_KEY")]
)
def test_what_the_settings_are_to_blame_for_ends_the_run(status: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        judged(lambda request: (status, "{}"), answers("8", "six"))


def test_at_most_so_many_requests_are_under_way_at_once() -> None:
    under_way, most = 0, 0

    class Model:
        async def complete(self, messages: Any, schema: Any, max_tokens: int, temperature: float) -> Any:
            from experience.protocols import Completion

            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.005)
            under_way -= 1
            return Completion(json.dumps({"reasoning": "as the script of this test says", "grade": 5}), 1, 1)

    async def twice() -> list[Judged]:
        judge = Judge(Model(), JudgeSettings(base_url="http://h/v1", model="m", votes=2, concurrency=3))
        return list(await asyncio.gather(judge.judge(answers(*"abcd")), judge.judge(answers(*"efgh"))))

    first, second = asyncio.run(twice())
    assert first == second == Judged((0.5,) * 4, tokens=16)
    assert most == 3, "of both calls together"


@given(st.lists(st.integers(0, 10), max_size=7))
def test_a_score_is_the_median_or_mean_of_the_grades_over_ten(grades: list[int]) -> None:
    if not grades:
        assert score(grades, "median") is score(grades, "mean") is None
        return
    assert score(grades, "median") == pytest.approx(float(np.median(grades)) / 10)
    assert score(grades, "mean") == pytest.approx(float(np.mean(grades)) / 10)


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.sampled_from("ab")), max_size=8))
def test_what_fills_a_gap_is_the_mean_of_its_group(rows: list[tuple[float | None, str]]) -> None:
    scores: Sequence[float | None] = [value for value, _ in rows]
    groups = [group for _, group in rows]
    full = filled(scores, groups, NEUTRAL)
    for (value, group), found in zip(rows, full, strict=True):
        known = [one for one, other in rows if one is not None and other == group]
        assert found == (value if value is not None else pytest.approx(statistics.fmean(known) if known else NEUTRAL))
    for group in set(groups):  # nobody is moved among the others
        known = [one for one, other in rows if one is not None and other == group]
        if known:
            mine = [found for found, other in zip(full, groups, strict=True) if other == group]
            assert statistics.fmean(mine) == pytest.approx(statistics.fmean(known))
