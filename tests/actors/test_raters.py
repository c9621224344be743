"""Raters in processes of their own: replicas that share batches and may die, and a judge that nobody can reach."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.raters import (
    RESTARTS,
    JudgeActor,
    PreferencePool,
    RemoteJudge,
    batches_by_length,
    start_judge,
    start_preference,
)
from cluster.runtime.raters import JudgeWatch, Raters
from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from learners.rewards.answers import AnswerReader, Answers
from learners.rewards.preference import PreferenceModel
from learners.rewards.reward_settings import JudgeSettings
from tests.experience.endpoint import completion, endpoint, slow
from tests.learners.rewards.test_channels import write_reward_model
from tests.learners.rewards.test_open_channels import CHAT, SOME_SILENT
from tests.trajectories.samples import CHATML
from trajectories.errors import RunError, UserError

ASKED = tuple(Question(f"What is {number} and {number}?", references=(str(2 * number),)) for number in range(7))
SAID = tuple("word " * number + "end" for number in range(7))
ANSWERS = Answers(ASKED, SAID, ("a",) * 3 + ("b",) * 4)


@pytest.fixture
def kept() -> Iterator[list[Any]]:
    """Actors that are ended."""
    handles: list[Any] = []
    yield handles
    for handle in handles:
        ray.kill(handle)


class DyingActor:
    """Its process ends whenever it is asked, until a file has so many lines."""

    def __init__(self, file: str, deaths: int) -> None:
        self._file, self._deaths = Path(file), deaths

    def score(self, rows: list[int], prompts: list[str], responses: list[str]) -> tuple[list[int], list[float]]:
        died = len(self._file.read_text()) if self._file.exists() else 0
        if died < self._deaths:
            self._file.write_text("x" * (died + 1))
            os._exit(1)
        return rows, [float(len(said)) for said in responses]


def test_batches_hold_every_answer_once_and_answers_of_like_length() -> None:
    batches = batches_by_length(ANSWERS, 3)
    assert batches == [[6, 5, 4], [3, 2, 1], [0]]
    assert batches_by_length(Answers((), (), ()), 3) == []


async def test_an_evaluation_grades_an_episode_without_a_response_as_nothing() -> None:
    reply = {"reasoning": "It is right, as far as it goes.", "grade": 8}
    with endpoint(lambda _: (200, completion(json.dumps(reply)))) as url:
        settings = JudgeSettings(base_url=url, model="m", votes=1, timeout_s=20.0)
        judge = JudgeActor(settings, "evaluation.judge", lambda: AnswerReader(CHAT, QuestionLibrary.open()))
        found = await judge.judge_group(*SOME_SILENT)
    assert found == {"judge": pytest.approx((0.8 + 0.8 + 0 + 0) / 4), "judge_unanswered": 0.0}


@pytest.mark.real
async def test_replicas_share_the_batches_and_give_the_models_own_scores(
    ray_session: None, tmp_path: Path, kept: list[Any]
) -> None:
    model = str(write_reward_model(tmp_path, 1, CHATML))
    kept += [start_preference(model, 0.0, {"num_cpus": 0}) for _ in range(2)]
    pool = PreferencePool(tuple(kept), batch=2)
    await Raters(preference=pool).ready(120)
    rating = pool.rate(ANSWERS)
    alone = PreferenceModel(model)
    expected = [alone.score([asked.prompt], [said]).item() for asked, said in zip(ASKED, SAID, strict=True)]
    assert list(rating.values) == pytest.approx(expected, abs=1e-5) and len(set(rating.values)) == 7
    assert rating.metrics["preference_s"] > 0
    assert pool.rate(Answers((), (), ())).values == []


@pytest.mark.real
async def test_a_model_that_cannot_judge_is_refused_before_the_run_begins(
    ray_session: None, tmp_path: Path, kept: list[Any]
) -> None:
    kept.append(start_preference(str(write_reward_model(tmp_path, 3, CHATML)), 0.0, {"num_cpus": 0}))
    with pytest.raises(UserError, match=r"^.* has 3 outputs; a reward model has one"):
        await Raters(preference=PreferencePool(tuple(kept), 8)).ready(120)
    nowhere = start_preference("nowhere", 0.0, {"num_cpus": 0, "resources": {"moon": 1}})
    kept.append(nowhere)
    with pytest.raises(RunError, match=r"^the preference model was not loaded within 0\.2 s: see with `concerto plan`"):
        await Raters(preference=PreferencePool((nowhere,), 8)).ready(0.2)


@pytest.mark.real
@pytest.mark.parametrize("deaths", [1, 9])
def test_a_replica_that_dies_is_started_again_or_ends_the_run_in_one_line(
    ray_session: None, tmp_path: Path, kept: list[Any], deaths: int
) -> None:
    actor: Any = ray.remote(DyingActor).options(num_cpus=0, **RESTARTS)
    kept.append(actor.remote(str(tmp_path / "deaths"), deaths))
    pool = PreferencePool(tuple(kept), batch=8)
    if deaths == 1:
        assert pool.rate(ANSWERS).values == [float(len(said)) for said in SAID]
        return
    with pytest.raises(RunError, match=r"^a replica of the preference model died each time .* --resume$") as error:
        pool.rate(ANSWERS)
    assert "\n" not in str(error.value)


def judge_at(url: str, kept: list[Any]) -> RemoteJudge:
    settings = JudgeSettings(base_url=url, model="m", votes=1, timeout_s=20.0)
    judge = start_judge(settings, "reward.judge", lambda: None, {})  # type: ignore[arg-type]
    kept.append(judge.handle)
    return judge


@pytest.mark.real
async def test_a_judge_that_is_down_gives_neutral_scores_is_counted_and_told_once(
    ray_session: None, kept: list[Any]
) -> None:
    with endpoint(slow(0)) as url:
        pass  # closed again: nobody listens there
    judge, told = judge_at(url, kept), []
    rating = judge.rate(ANSWERS)
    assert list(rating.values) == [0.5] * 7
    assert rating.metrics["judge/unanswered"] == 7 and rating.metrics["judge/tokens"] == 0
    assert 0 < rating.metrics["judge_s"] < 20
    watch = JudgeWatch(judge, told.append)
    for metrics in ({"judge/unanswered": 0.0}, rating.metrics, {"judge_unanswered": 1.0}, rating.metrics):
        await watch.look(metrics)
    (line,) = told
    assert (
        line.startswith("judge: answers without a vote get the mean of their group") and "reward.judge.base_url" in line
    )


@pytest.mark.real
def test_a_judge_fills_gaps_within_a_group_and_names_a_wrong_setting(ray_session: None, kept: list[Any]) -> None:
    def respond(request: dict[str, Any]) -> tuple[int, str]:
        said = request["messages"][0]["content"].partition("<answer>\n")[2].partition("\n</answer>")[0]
        number = SAID.index(said)
        reply = {"reasoning": "as the script of this test says", "grade": number}
        return 200, completion("garbage" if number in (1, 6) else json.dumps(reply))

    with endpoint(respond) as url:
        rating = judge_at(url, kept).rate(ANSWERS)
    assert list(rating.values) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.4])
    assert rating.metrics["judge/unanswered"] == 2
    with (
        endpoint(lambda request: (404, "{}")) as url,
        pytest.raises(UserError, match=r"knows no model 'm' .* check reward\.judge\.model"),
    ):
        judge_at(url, kept).rate(ANSWERS)
