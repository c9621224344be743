"""A real run on questions with a judge, a preference model and a judged evaluation; the judge goes down on the way."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from cluster.inputs.models import TINY
from cluster.reporting.evaluation import run_evaluations
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, train_arguments
from tests.experience.endpoint import completion, endpoint
from tests.learners.rewards.test_channels import write_reward_model
from tests.trajectories.samples import CHATML

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

JUDGED = {
    "tasks": "questions",
    "schedule__sft_steps": 0,
    "schedule__grpo_steps": 2,
    "schedule__max_staleness": 0,
    "reward__scalariser": "uniform",
    "reward__channels": "[format,judge,preference]",
    "reward__judge__model": "m",
    "reward__judge__votes": 2,
    "evaluation__judge__model": "m",
    "evaluation__judge__votes": 1,
    "evaluation__samples": 0,
}


def test_a_run_with_raters_is_graded_and_goes_on_when_its_judge_is_gone(tmp_path: Path) -> None:
    run_dir, told = tmp_path / "run", []

    def respond(request: dict[str, Any]) -> tuple[int, str]:
        if read_metrics(run_dir):  # the first step is done
            return 503, "{}"
        prompt = request["messages"][0]["content"]
        told.append(prompt)
        grade = {"reasoning": "as the script of this test says", "grade": zlib.crc32(prompt.encode()) % 11}
        return 200, completion(json.dumps(grade))

    model = write_reward_model(tmp_path / "reward", 1, CHATML)
    with endpoint(respond) as url:
        changes = JUDGED | {"reward__judge__base_url": url, "evaluation__judge__base_url": url}
        arguments = train_arguments(run_dir, Path(TINY), reward__preference_model=model, **changes)
        with RunProcess(arguments, tmp_path / "log") as run:
            assert run.wait() == 0, run.log()
            run.assert_nothing_left()
    first, second = read_metrics(run_dir)
    assert first["judge/unanswered"] == 0 and first["judge/tokens"] == 4 * 2 * 10
    assert len(told) == 2 + 4 * 2 and all("<question>" in prompt for prompt in told)
    assert first["reward/judge/spread"] > 0 and first["reward/preference/spread"] > 0
    assert second["judge/unanswered"] == 4 and second["reward/judge/mean"] == 0.5
    assert min(record[key] for record in (first, second) for key in ("judge_s", "preference_s")) > 0
    before, after = (results[0].greedy.rewards for results in run_evaluations(run_dir).values())
    assert before["judge_unanswered"] == 0 and 0 <= before["judge"] <= 1
    assert (after["judge"], after["judge_unanswered"]) == (0.5, 1.0)
    lines = [line for line in run.log().splitlines() if line.startswith("judge: ")]
    assert len(lines) == 2, "once for the reward and once for the evaluations"
    assert all("the last with: HTTP 503" in line for line in lines)
