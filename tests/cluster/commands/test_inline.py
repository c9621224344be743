"""A run in one process beside the same run on Ray: the same steps, the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config.loading import load_config
from cluster.reporting.metrics import read_metrics
from learners.learner_settings import TINY
from tests.cluster.runs import RunProcess, train_arguments
from trajectories.errors import UserError


@pytest.mark.real
@pytest.mark.timeout(900)
def test_losses_are_those_of_a_run_on_ray(tmp_path: Path) -> None:
    records = []
    for inline in ("false", "true"):
        run_dir = tmp_path / inline
        changes = {"placement__inline": inline, "schedule__max_staleness": 0, "schedule__grpo_steps": 2}
        changes |= {"schedule__group_size": 4, "rollout__max_turns": 8}
        with RunProcess(train_arguments(run_dir, Path(TINY), **changes), tmp_path / f"{inline}.log") as run:
            if inline == "true":
                run.wait_until("the first step", lambda: read_metrics(run_dir) != [])  # noqa: B023
                assert not [one for one in run.descendants() if "raylet" in one.name() or "gcs" in one.name()]
            assert run.wait() == 0, run.log()
            run.assert_nothing_left()
        records.append(read_metrics(run_dir))
    on_ray, here = records
    assert [record["step"] for record in here] == [record["step"] for record in on_ray] == [1, 2, 3, 4]
    for name in ("sft/loss", "grpo/loss", "grad_norm", "success"):
        found = [[record[name] for record in run if name in record] for run in (here, on_ray)]
        assert found[0] and found[0] == pytest.approx(found[1], abs=1e-6), name


@pytest.mark.parametrize("wrong", ["placement.address=auto", "placement.learner_workers=2"])
def test_one_process_is_no_cluster(wrong: str) -> None:
    with pytest.raises(UserError, match="inline is one process: leave out address, and set learner_workers=1"):
        load_config("inline", None, [wrong])
