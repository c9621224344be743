"""`concerto replay` on runs as small as it needs them; real runs are replayed where they are made."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands.replay import run_replay
from cluster.loop.checkpoint import step_dir
from cluster.reporting.metrics import read_metrics
from tests.cluster.reporting.report_runs import write_run
from trajectories.errors import UserError
from trajectories.store import TrajectoryStore

TINY = ["policy.model=concerto-tiny"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of GRPO alone: three steps from the embedded model."""
    folder = write_run(tmp_path / "run", settings=TINY)
    rewrite(folder, [record for record in read_metrics(folder) if record["stage"] != "sft"], first=1)
    return folder


def rewrite(folder: Path, records: list[dict], first: int) -> None:
    lines = (json.dumps(record | {"step": at}) for at, record in enumerate(records, first))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def replayed(folder: Path, start: int | None = None, steps: int | None = None) -> tuple[float, str]:
    said = io.StringIO()
    return run_replay(folder, start, steps, Console(file=said, width=100)), said.getvalue()


def test_recorded_rollouts_give_the_same_losses_to_the_bit_and_a_changed_one_does_not(run):
    first, said = replayed(run)
    assert first > 0, "the recorded losses are invented"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if "grpo/loss" in line]
    assert [row[0] for row in rows] == ["1", "2", "3"] and replayed(run) == (first, said)
    losses = [record | {"grpo/loss": float(row[3])} for record, row in zip(read_metrics(run), rows, strict=True)]
    rewrite(run, losses, first=1)
    assert replayed(run)[0] < 1e-7, "what it prints has seven digits"
    assert len(replayed(run, steps=2)[1].split("grpo/loss")) == 3
    rewrite(run, [losses[0] | {"grpo/loss": 5.0}], first=1)
    assert replayed(run)[0] > 4


def no_part(run: Path) -> None:
    TrajectoryStore(run / "trajectories").truncate(1)


def torn_part(run: Path) -> None:
    (file,) = (run / "trajectories").glob("*0001/sequences.parquet")
    file.write_bytes(file.read_bytes()[:-9])


def no_assignments(run: Path) -> None:
    (file,) = (run / "trajectories").glob("*0001/assignments.parquet")
    file.unlink()


def sft(run: Path) -> None:
    rewrite(run, [record | {"stage": "sft"} for record in read_metrics(run)], first=1)


def damaged_checkpoint(run: Path) -> None:
    step_dir(run, 2).mkdir(parents=True)
    (step_dir(run, 2) / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("fault", "start", "words"),
    [
        (no_part, None, r"cannot read .*trajectories \(No such file .*\): restore part 1, or name a later checkpoint"),
        (torn_part, None, r"cannot read .*: restore part 1"),
        (no_assignments, None, r"part 1 of .* says not how it was trained: restore its assignments"),
        (sft, None, r"step 1 of .* is one of SFT, whose batches are not recorded: name a checkpoint of a later stage"),
        (damaged_checkpoint, 2, r"is no readable checkpoint"),
        (damaged_checkpoint, 7, r"has no checkpoint after step 7: choose one of 0, 2\."),
        (lambda run: rewrite(run, [], first=1), None, r"has no step after 0: name an earlier checkpoint"),
        (lambda run: (run / "config.yaml").unlink(), None, r"cannot read .*config\.yaml"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(run, fault: Callable[[Path], None], start, words):
    fault(run)
    with pytest.raises(UserError, match=words):
        replayed(run, start)
