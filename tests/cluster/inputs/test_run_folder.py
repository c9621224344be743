"""The folder of a run: what begins in it, what goes on, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands import train
from cluster.config.loading import load_config
from cluster.inputs import run_folder
from cluster.inputs.run_folder import CONFIG, LEFT_BY_A_START, Start, find_start, held, save_config, saved_config
from cluster.inputs.run_plan import Plan, plan_run
from cluster.loop.checkpoint import Manifest, checkpoint_steps, step_dir
from trajectories.digests import digests_of, files_without, write_digests
from trajectories.errors import UserError, WorkersLost

CONFIGURED, CORRECTED = (load_config("local", None, [f"learner.lr={rate}", "evaluation.panels=[]"]) for rate in (1, 2))


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A folder in which a run has begun, and has not reached its first checkpoint."""
    save_config(CONFIGURED, tmp_path)
    for name in (*LEFT_BY_A_START, "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def checkpoint(run_dir: Path) -> Path:
    folder = step_dir(run_dir, 3)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(Manifest(step=3).model_dump_json())
    return folder


def test_the_saved_configuration_comes_back(tmp_path):
    save_config(CONFIGURED, tmp_path)
    assert saved_config(tmp_path) == CONFIGURED


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_without_a_checkpoint_starts_anew_with_a_corrected_command(started, resume):
    start = find_start(CORRECTED, started, resume)
    assert start == Start(None, True, tuple(started / name for name in LEFT_BY_A_START))


def test_the_same_run_keeps_what_it_made_before_its_first_checkpoint_when_it_is_resumed(started):
    assert find_start(CONFIGURED, started, resume=True) == Start(None, True, ())
    assert find_start(CONFIGURED, started, resume=False).stale, "without --resume it is another run"


def test_a_run_with_a_checkpoint_goes_on_and_is_never_begun_anew(started):
    folder = checkpoint(started)
    assert find_start(CONFIGURED, started, resume=True) == Start(folder)
    with pytest.raises(UserError, match="already holds a run: add --resume"):
        find_start(CONFIGURED, started, resume=False)
    with pytest.raises(UserError, match="the section 'learner' differs"):
        find_start(CORRECTED, started, resume=True)


def test_a_trained_model_is_never_begun_anew(started):
    (started / "model").mkdir()
    with pytest.raises(UserError, match="already holds a run"):
        find_start(CORRECTED, started, resume=False)


@pytest.mark.parametrize("text", ["hydra: {run: x}", "- a list", "", "learner: [", "\0"])
def test_a_folder_with_a_configuration_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is no configuration of a run .*: remove that file"):
        find_start(CONFIGURED, tmp_path, resume=False)


def test_a_folder_of_the_user_s_own_loses_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert find_start(CONFIGURED, tmp_path, resume=False) == Start()
    with pytest.raises(UserError, match="holds no run to resume"):
        find_start(CONFIGURED, tmp_path, resume=True)


def test_a_second_process_does_not_begin_anew_what_a_first_is_doing(tmp_path):
    command = (
        "from pathlib import Path; from cluster.inputs.run_folder import held\n"
        f"with held(Path({str(tmp_path)!r})): pass"
    )
    with held(tmp_path):
        other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
        assert "UserError: another process trains in" in other.stderr
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


@pytest.fixture
def without_ray(monkeypatch):
    async def enough(*parts: object, **options: object) -> None: ...

    monkeypatch.setattr(train, "ray_cluster", lambda placement: nullcontext())
    monkeypatch.setattr(train, "check_resources", enough)


def test_a_new_start_removes_what_the_one_before_left_and_says_so(started, without_ray, monkeypatch):
    async def done(*parts: object) -> None: ...

    monkeypatch.setattr(train, "_train", done)
    told = StringIO()
    train.run_training(plan_run(CORRECTED, started, resume=False), Console(file=told, width=300))
    assert told.getvalue().count("reached no checkpoint: the run begins anew") == 1
    assert {path.name for path in started.iterdir()} == {CONFIG, ".lock", "notes.txt"}
    assert saved_config(started) == CORRECTED


def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(started, without_ray, monkeypatch):
    panels = {panel.name: panel.hash for panel in plan_run(CONFIGURED, started / "new", resume=False).tasks.panels}
    for step in (2, 3):
        folder = step_dir(started, step)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(Manifest(step=step, panels=panels).model_dump_json())
        write_digests(folder, digests_of(folder, files_without(folder)))
    (folder / "manifest.json").write_text("{}")
    went_on = []

    async def done(plan: Plan, *parts: object) -> None:
        went_on.append(plan.checkpoint)

    monkeypatch.setattr(train, "_train", done)
    told = StringIO()
    train.run_training(plan_run(CONFIGURED, started, resume=True), Console(file=told, width=300))
    assert went_on == [step_dir(started, 2)] and checkpoint_steps(started) == [2]
    assert "step-000003 is damaged (manifest.json is not as it was written): set aside as step-000003.damaged, " in (
        told.getvalue()
    )


def test_a_full_disk_is_not_taken_for_dead_workers_again_and_again(tmp_path, without_ray, monkeypatch):
    async def die(*parts: object) -> None:
        monkeypatch.setattr(run_folder, "LEAST_FREE", 2**60)
        raise WorkersLost("save: rank 0: Traceback")

    monkeypatch.setattr(train, "_train", die)
    plan = plan_run(CONFIGURED, tmp_path / "run", resume=False)
    with pytest.raises(UserError, match=r"no room for .*run: .* MiB are free"):
        train.run_training(plan, Console(quiet=True))


def test_a_run_goes_on_with_the_demonstrations_that_it_began_with(started):
    checkpoint(started)
    slips = load_config("local", None, ["learner.lr=1", "evaluation.panels=[]", "schedule.demonstrations_kind=slips"])
    with pytest.raises(UserError, match="the section 'schedule' differs"):
        find_start(slips, started, resume=True)
