"""Signals outside the training loop: one line within two seconds, the end within ten, exit code 128 and the number."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.loop.checkpoint import has_checkpoint
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import REPO, RunProcess, title, train_arguments

SAID = "concerto: interrupted, ending what was started\n"
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WAITING = """
import sys, time
import envs
from cluster import cli
def wait(*arguments):
    try:
        print("playing", flush=True)
        time.sleep(60)
    finally:
        {finally_}
envs.load_panel = wait
sys.argv = ["concerto", "tasks", "alfworld/train"]
cli.main()
"""


def interrupted(finally_: str, *signals: signal.Signals) -> tuple[int, str, float]:
    """Exit code, what was said, and seconds until the end of a command that does `finally_` on its way out."""
    code = WAITING.format(finally_=finally_)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "playing\n"
        started = time.monotonic()
        for number in signals:
            process.send_signal(number)
            time.sleep(0.5)
        return process.wait(30), process.communicate()[1], time.monotonic() - started


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_a_command_in_order_with_one_line(number):
    code, said, _ = interrupted("print('tidied up', file=sys.stderr)", number)
    assert (code, said) == (CODES[number], f"{SAID}tidied up\n")


def test_a_command_under_nohup_outlives_its_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        code, said, _ = interrupted("pass", signal.SIGHUP, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert (code, said) == (143, SAID)


def test_what_fails_on_the_way_out_is_not_told():
    assert interrupted("raise OSError('gone')", signal.SIGTERM)[:2] == (143, SAID)


def test_what_does_not_end_by_itself_is_ended():
    code, said, seconds = interrupted("time.sleep(60)", signal.SIGINT)
    assert (code, said) == (130, SAID) and seconds < 10


def test_a_second_signal_ends_the_command_at_once():
    code, said, seconds = interrupted("time.sleep(60)", signal.SIGTERM, signal.SIGINT)
    assert (code, said) == (143, SAID) and seconds < 3


@pytest.fixture
def commands(tmp_path: Path, tiny_model_dir: Path) -> dict[str, list[str]]:
    import pyarrow.parquet as pq  # with what follows, seconds that the quick tests need not wait

    from tests.learners.samples import make_sequences
    from trajectories.schema import sequences_to_table

    corpus, model = tmp_path / "corpus.parquet", ["--model", str(tiny_model_dir)]
    pq.write_table(sequences_to_table(make_sequences(20)), corpus)
    evaluated = ["--panel", "alfworld/generated/heldout", "--out", str(tmp_path / "result.json")]
    return {
        "train": train_arguments(tmp_path / "run", tiny_model_dir),
        "eval": ["eval", *model, *evaluated],
        "probe": ["probe", *model, "--corpus", str(corpus), "--out", str(tmp_path / "scores.parquet")],
    }


@pytest.mark.real
@pytest.mark.parametrize(
    ("command", "process", "number"),
    [
        ("train", "raylet", signal.SIGINT),  # Ray has just started
        ("train", "RolloutActor", signal.SIGINT),
        ("train", "RolloutActor", signal.SIGTERM),
        ("eval", "RolloutActor", signal.SIGTERM),
        ("eval", "RolloutActor", signal.SIGHUP),
        ("probe", "ProbeActor", signal.SIGTERM),
    ],
)
def test_a_start_can_be_interrupted(commands, tmp_path, command, process, number):
    with RunProcess(commands[command], tmp_path / "log") as run:
        run.wait_until(process, lambda: any(process in title(one) for one in run.descendants()))
        run.descendants()
        run.process.send_signal(number)
        started = time.monotonic()
        while SAID not in run.log():
            assert time.monotonic() - started < 2, "nothing was said for two seconds"
            time.sleep(0.02)
        assert run.wait(10) == CODES[number], run.log()
        run.assert_nothing_left()
    assert run.log().count("concerto: ") == 1 and "Traceback" not in run.log() and "***" not in run.log(), run.log()


@pytest.mark.real
@pytest.mark.timeout(900)
def test_a_run_whose_terminal_closes_ends_its_step_and_writes_a_checkpoint(tmp_path: Path, tiny_model_dir: Path):
    run_dir = tmp_path / "run"
    arguments = train_arguments(run_dir, tiny_model_dir, schedule__sft_steps=500, checkpoint__every=1000)
    ours, theirs = pty.openpty()
    with RunProcess(arguments, tmp_path / "log", terminal=theirs) as run:
        os.close(theirs)
        run.wait_until("its second step", lambda: len(read_metrics(run_dir)) > 1)
        assert not has_checkpoint(run_dir)
        os.close(ours)  # its process group, which Ray's processes are in, gets SIGHUP
        assert run.wait(120) == 130, run.log()
        run.assert_nothing_left()
    assert has_checkpoint(run_dir) and "Traceback" not in run.log()
