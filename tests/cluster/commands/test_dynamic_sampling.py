"""A run with dynamic sampling on real Ray and real vLLM, killed on the way: what became of every position."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.inputs.models import TINY
from cluster.loop.checkpoint import load_manifest, sound_checkpoint
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import REPO, RunProcess, train_arguments
from trajectories.store import TrajectoryStore

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

STEPS, BATCH = 8, 2
SAMPLED = {
    "schedule__sft_steps": 0,
    "schedule__grpo_steps": STEPS,
    "schedule__groups_per_step": BATCH,
    "schedule__dynamic_sampling": True,
    "schedule__max_skipped": 3,
    "checkpoint__every": 2,
    "reward__outcome": "action_validity",
    "evaluation__panels": "[]",
}
"""Pairs of the embedded model, which now and then acts validly all along, and so do both: nothing to compare."""


def trained_positions(run_dir: Path) -> list[int]:
    store = TrajectoryStore(run_dir / "trajectories")
    groups = [set(store.read(number)[0]["group_id"].to_pylist()) for number in range(len(store))]
    return sorted(int(group.removeprefix("grpo-")) for part in groups for group in part)


def test_a_run_with_dynamic_sampling_that_is_killed_and_resumed_accounts_for_every_position(tmp_path):
    run_dir = tmp_path / "run"
    arguments = train_arguments(run_dir, Path(TINY), **SAMPLED)
    with RunProcess(arguments, tmp_path / "log") as run:
        run.wait_until("the third step", lambda: len(read_metrics(run_dir)) >= 3)
        run.process.kill()
        run.process.wait(30)
    saved = load_manifest(sound_checkpoint(run_dir)[0])
    frontier, pending = saved.frontier, [group.position for group in saved.frontier.pending]
    held = [*frontier.trained, *frontier.filtered, *frontier.skipped, *frontier.ready, *pending]
    assert sorted(held) == list(range(frontier.cursor))
    assert 0 < saved.step < STEPS and frontier.skipped

    with RunProcess([*arguments, "--resume"], tmp_path / "log-resumed") as resumed:
        assert resumed.wait() == 0, resumed.log()
        resumed.assert_nothing_left()
    records, trained = read_metrics(run_dir), trained_positions(run_dir)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for record in records:
        parts = ("groups_accepted", "groups_filtered", "groups_skipped", "groups_running")
        assert record["groups_submitted"] == sum(record[part] for part in parts)
        assert 0 <= record["truncated"] <= 1 and 0 <= record["duplicates"] < 1
    skipped = int(records[-1]["groups_skipped"])
    assert len(trained) == len(set(trained)) == STEPS * BATCH and records[-1]["groups_filtered"] == 0
    assert set(trained).isdisjoint(frontier.skipped) and set(frontier.trained) <= set(trained)
    left = set(range(STEPS * BATCH + skipped)) - set(trained)
    assert len(left) == skipped, f"trained {trained}, skipped {skipped}"
    assert sum(record["skipped_turns"] for record in records) > 0
    command = [sys.executable, "-m", "cluster", "replay", str(run_dir)]
    replay = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=120)
    assert (
        replay.stdout.count("grpo/loss") == sum("grpo/loss" in record for record in records)
        and "Largest difference in a loss: 0.0e+00." in replay.stdout
    )
