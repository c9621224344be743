"""Bad input through the real command: one line that names the fix, exit code 2, no traceback, nothing started."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.cli import main
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from router.tables import MEASURED
from tests.cluster.conftest import Result
from tests.envs.webshop.rows import annotation, product_row, write_data
from trajectories.errors import ConcertoError, UserError

REPO = Path(__file__).parents[2]


def run_process(*arguments: str) -> Result:
    """The command as a user starts it; Ray and vLLM live and end with it."""
    command = [sys.executable, "-m", "cluster", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=200)
    return Result(done.returncode, done.stdout, done.stderr)


def assert_user_error(result: Result, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("concerto: ")]
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--preset", "locl"], ["unknown preset 'locl'", "Did you mean 'local'?"]),
        (["--set", "learner.rl=1"], ["unknown key 'learner.rl'", "Did you mean"]),
        (["--set", "learner.lr=quick"], ["learner.lr='quick' does not fit", "valid number"]),
        (["--config", "nowhere.yaml"], ["cannot read --config nowhere.yaml"]),
        (["--set", "policy.model=/nowhere"], ["no model at '/nowhere'", "config.json"]),
        (["--set", "schedule.grpo_steps=0", "--set", "schedule.sft_steps=0"], ["the schedule has no steps"]),
        (["--set", "data.alfworld=/nowhere"], ["no ALFWorld data at /nowhere"]),
        (["--set", "data.alfwrld=/nowhere"], ["unknown environment 'alfwrld'", "Did you mean 'alfworld'?"]),
        (["--set", "tasks=[alfworld,webshp]"], ["unknown environment 'webshp'", "Did you mean 'webshop'?"]),
        (["--set", "tasks=alfworld/trian"], ["trian"]),
        (["--set", "tasks=[alfworld,alfworld/generated/train]"], ["names a panel twice"]),
        (["--set", "evaluation.panels=[webshop/tset]"], ["no split 'tset'"]),
        (["--resume"], ["holds no run to resume"]),
        (["--set", "router.policy=medain"], ["router.policy='medain' does not fit", "'median_split'"]),
        (["--set", "reward.scalariser=conducter"], ["reward.scalariser='conducter' does not fit", "'conductor'"]),
        (["--set", "reward.channels=[progres]"], ["'progres'", "alfworld does not give", "Did you mean 'progress'?"]),
        (["--set", "reward.outcome=score"], ["reward.outcome names 'score', which alfworld does not give"]),
        (["--set", "reward.channels=[preference]", "--set", "tasks=questions"], ["set reward.preference_model"]),
        (["--set", "reward.preference_model=x/y"], ["reward.preference_model is not used"]),
        (
            ["--set", "reward.scalariser=conductor", "--set", "grpo.max_sequences=3"],
            ["grpo.max_sequences", "whole groups"],
        ),
        (
            ["--set", "reward.scalariser=conductor", "--set", "grpo.epochs=2"],
            ["grpo.epochs=2", "leave it at 1", "reward.conductor.context_pass=own"],
        ),
        (["--set", "router.policy=chord"], ["mixes both objectives", "router.mode=online"]),
    ],
)
def test_wrong_input_to_train(concerto, tmp_path, tiny_model_dir, arguments, parts):
    defaults = ["--set", f"policy.model={tiny_model_dir}"]
    assert_user_error(concerto("train", "--out", str(tmp_path / "run"), *defaults, *arguments), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_panel_without_tasks_is_refused_by_every_command_before_anything_starts(
    concerto, tmp_path, monkeypatch, tiny_model_dir, split
):
    monkeypatch.setenv("CONCERTO_CACHE", str(tmp_path / "cache"))
    data = write_data(tmp_path / "data", [product_row()], {"B000000001": annotation()})
    reason = f"webshop/{split} has no tasks", "a catalogue of 1 gives 2 synthetic goals"
    evaluated = ["--model", str(tiny_model_dir), "--panel", f"webshop/{split}", "--out", str(tmp_path / "x.json")]
    trained = [
        "--out",
        str(tmp_path / "run"),
        "--set",
        f"policy.model={tiny_model_dir}",
        "--set",
        f"data.webshop={data}",
    ]
    assert_user_error(concerto("tasks", f"webshop/{split}", "--data", str(data)), *reason)
    assert_user_error(concerto("eval", *evaluated, "--data", str(data)), *reason)
    assert_user_error(concerto("train", *trained, "--set", f"tasks=webshop/{split}"), *reason)
    assert_user_error(concerto("train", *trained, "--set", f"evaluation.panels=[webshop/{split}]"), *reason)
    assert not (tmp_path / "run").exists() and not (tmp_path / "x.json").exists()


def test_a_default_panel_that_the_data_lack_can_be_left_out(concerto, tmp_path, tiny_model_dir):
    file = tmp_path / "train.jsonl"
    file.write_text('{"question": "Which?", "answer": "x"}\n')
    settings = [f"policy.model={tiny_model_dir}", "tasks=questions", f"data.questions={file}"]
    config = load_config("local", None, settings)
    reason = r"^questions/test has no tasks: these questions are 1 in train; .* out with evaluation\.panels=\[\]\.$"
    with pytest.raises(UserError, match=reason):
        plan_run(config, tmp_path / "run", resume=False)
    config = load_config("local", None, [*settings, "evaluation.panels=[]"])
    assert plan_run(config, tmp_path / "run", resume=False).eval_panels == ()


def test_wrong_input_to_probe_and_route(concerto, tmp_path, tiny_model_dir):
    files = ["--corpus", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "scores.parquet")]
    model = ["--model", str(tiny_model_dir)]
    assert_user_error(concerto("probe", *model, *files), "cannot read", "none.parquet")
    assert_user_error(concerto("probe", *model, *files, "--metric", "ginni"), "metric='ginni' does not fit", "'gini'")
    files = ["--scores", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "routes.parquet")]
    assert_user_error(concerto("route", *files), "cannot read", "none.parquet")
    assert_user_error(concerto("route", *files, "--policy", "x"), "policy='x' does not fit", "'median_split'")
    pq.write_table(MEASURED.empty_table(), tmp_path / "none.parquet")
    assert_user_error(concerto("route", *files), "none.parquet holds no rows")
    assert [file.name for file in tmp_path.iterdir()] == ["none.parquet"]


def test_an_unknown_task_and_environment_to_play(concerto):
    assert_user_error(concerto("play", "alfworld", "generated/heldout/none/trial"), "unknown ALFWorld task")
    assert_user_error(concerto("play", "alfwrld", "x"), "unknown environment 'alfwrld'", "alfworld")


def test_the_module_is_the_command_and_wrong_input_ends_it_with_code_2():
    assert_user_error(run_process("train", "--out", "nowhere", "--preset", "locl"), "unknown preset 'locl'")


def test_a_person_plays(concerto):
    task = concerto("tasks", "alfworld/generated/heldout").stdout.splitlines()[0]
    result = concerto("play", "alfworld", task, text="?\nlook\n\n")
    assert result.returncode == 0
    assert "Welcome to TextWorld" in result.stdout and "Not solved. 1 actions." in result.stdout


def test_a_person_shops(concerto):
    result = concerto("play", "webshop", "17", text="?\nsearch[shoes]\n?\n\n")
    assert result.returncode == 0
    assert "> search[words]" in result.stdout and "click[back to search]" in result.stdout
    assert "Not solved. 1 actions." in result.stdout


def test_a_person_answers_a_question(concerto):
    task = concerto("tasks", "questions/train").stdout.splitlines()[0]
    result = concerto("play", "questions", task, text="I do not know\n")
    assert result.returncode == 0 and "Not solved. 1 actions." in result.stdout
    assert_user_error(concerto("play", "questions", "nothing"), "no question 'nothing'")


def test_installed_products_are_what_later_commands_find(concerto, tmp_path, monkeypatch):
    monkeypatch.setenv("CONCERTO_DATA", str(tmp_path / "installed"))
    source = write_data(tmp_path / "source", [product_row()], {"B000000001": annotation()})
    result = concerto("data", "webshop", "--from", str(source))
    assert result.returncode == 0 and "1 products with 2 goals" in " ".join(result.stdout.split())
    assert concerto("tasks", "webshop/test").stdout.split() == ["0", "1"]


@pytest.mark.real
def test_resources_that_no_node_has_print_the_shortfall(tmp_path, tiny_model_dir):
    demand = ["--set", f"policy.model={tiny_model_dir}", "--set", "placement.rollout_cpus=1000"]
    result = run_process("train", "--out", str(tmp_path / "run"), *demand, "--set", "placement.wait_s=1")
    assert_user_error(result, "1 of 3 actors fit on no node", "--set")
    assert "(rollout-0)" in result.stderr, "a table of demanded against free follows"
    assert not (tmp_path / "run").exists()
    plan = run_process("plan", "--preset", "local", "--set", "placement.rollout_cpus=1000")
    assert_user_error(plan, "1 of 3 actors fit on no node")
    assert "rollout-0" in plan.stdout


@pytest.mark.real
def test_the_local_plan_fits_this_machine():
    result = run_process("plan", "--preset", "local")
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in ("rollout-0", "env-0", "learner-0"))


def test_a_run_directory_that_is_taken(concerto, tmp_path, tiny_model_dir):
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    model = ["--set", f"policy.model={tiny_model_dir}"]
    assert_user_error(concerto("train", "--out", str(tmp_path), *model), "already holds a run", "--resume")
    assert_user_error(concerto("train", "--out", str(tmp_path), *model, "--resume"), "'seed' differs")


def test_the_version_is_printed(concerto):
    result = concerto("--version")
    assert result.returncode == 0 and result.stdout.startswith("concerto ")


def test_a_tilde_is_the_user_s_home_wherever_a_path_is_given(concerto, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text('{"question": "Which?", "answer": "x"}\n')
    (tmp_path / "mine.yaml").write_text("data: {questions: ~/mine.jsonl}\n")
    assert concerto("tasks", "questions/train", "--data=~/mine.jsonl").stdout.splitlines()
    assert concerto("tasks", "questions/train", "--set", "data.questions=~/mine.jsonl").stdout.splitlines()
    settings = ["data.questions=~/mine.jsonl", "router.routes=~/r", "schedule.demonstrations_file=~/d"]
    config = load_config("local", tmp_path / "mine.yaml", settings[1:])
    assert config == load_config("local", None, settings)
    assert [*config.data.values(), config.router.routes, config.schedule.demonstrations_file] == [
        f"{tmp_path}/mine.jsonl",
        f"{tmp_path}/r",
        f"{tmp_path}/d",
    ]
    result = concerto("train", "--config=~/none.yaml", "--out=~/run")
    assert_user_error(result, f"cannot read --config {tmp_path}/none.yaml")


@pytest.mark.parametrize(
    ("matrix", "part"),
    [
        ("", "it holds no keys. A matrix has preset, settings, seeds, arms, reference."),
        ("[1]", "it holds no keys"),
        ("armz: {a: {}}", "unknown key 'armz'. A matrix has preset, settings, seeds, arms, reference. Did you mean"),
        ("seeds: [0]", "it has no arms: What each arm changes, by its name."),
        ("arms: {1: {}}", "the arm 1: a name is text, of letters, digits, _ and - (a number in quotes)"),
        ("arms: {a b: {}}", "the arm 'a b': a name is text"),
        ("arms: {a: 3}", "arms.a=3: give sections such as `learner: {lr: 1e-5}`, or {}"),
        ("arms: [a]", "arms=['a']: give sections"),
        ("arms: {a: {}}\nseeds: [x]", "seeds.0='x' does not fit: input should be a valid integer"),
        ("arms: {a: {learner: {rl: 1}}}", "arm a: unknown key 'learner.rl'"),
    ],
)
def test_a_wrong_matrix_is_told_in_words_of_a_matrix(concerto, tmp_path, matrix, part):
    (tmp_path / "m.yaml").write_text(matrix)
    result = concerto("compare", str(tmp_path / "m.yaml"), "--out", str(tmp_path / "out"))
    assert_user_error(result, part)
    assert "instance of" not in result.stderr and "[key]" not in result.stderr


class Strike(ConcertoError):
    """A class that no other file has heard of."""

    exit_code = 7
    fix = "pay the players"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Strike("the orchestra is on strike"), 7, "concerto: the orchestra is on strike; pay the players\n"),
        (asyncio.CancelledError(), 130, "concerto: interrupted\n"),
    ],
)
def test_an_error_ends_the_command_with_its_own_exit_code_and_one_line(concerto, monkeypatch, error, code, said):
    def end(*arguments):
        raise error

    monkeypatch.setattr("envs.load_panel", end)
    result = concerto("tasks", "alfworld/generated/heldout")
    assert (result.returncode, result.stderr) == (code, said)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_the_system_refuses_is_one_line(concerto, monkeypatch, number):
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number), "/data/games")

    monkeypatch.setattr("envs.load_panel", refuse)
    assert_user_error(concerto("tasks", "alfworld/generated/heldout"), f"/data/games: {os.strerror(number)}", "check")


class Full(io.StringIO):
    """A stream to a file on a disk without room, which is found out when it is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_under_what_is_printed_is_one_line(concerto, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Full())
    assert_user_error(concerto("tasks", "questions/train"), "where this prints to: No space left on device")


def test_an_error_of_the_system_that_names_no_file_keeps_its_traceback(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr("envs.load_panel", refuse)
    monkeypatch.setattr(sys, "argv", ["concerto", "tasks", "alfworld/generated/heldout"])
    with pytest.raises(ConnectionResetError):
        main()
