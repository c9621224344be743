"""Several processes that write to one memory, and one that is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experience.memory import Memory
from experience.records import Example, Experience, Item, PlayedPair, TaskType
from tests.experience.scripted import WordEmbedder

WRITERS, WRITES = 8, 6


def kind(writer: int) -> TaskType:
    return TaskType.new(f"kind {writer}", f"tasks of the kind {writer}")


def write(path: str, writer: int, writes: int, done: Path) -> None:
    """Each write is noted in `done` once the memory has taken it."""
    memory, known = Memory.open(path, WordEmbedder()), kind(writer)
    for number in range(writes):
        name = f"{writer}/{number}"
        item = Item.of(known.id, f"advice {number}", [name])
        example = Example(name, known.id, "", "question", "answer", "correct", ("correct",))
        memory.write(replace(known, experience=Experience((item,), ()), rounds=number + 1, taught_by=name), [example])
        memory.add_pair(PlayedPair(name, known.id, "state", memory.snapshot, (item.id,), 1.0, 0.0, time.time()))
        with done.open("a") as file:
            file.write(f"{name}\n")


@pytest.mark.timeout(280)
def test_eight_writers_of_which_one_is_killed_lose_nothing_that_was_written(tmp_path: Path) -> None:
    path, spawn = str(tmp_path / "memory"), multiprocessing.get_context("spawn")
    Memory.open(path, WordEmbedder())
    files = [tmp_path / f"done-{writer}" for writer in range(WRITERS)]
    counts = [WRITES] * (WRITERS - 1) + [10_000]
    processes = [
        spawn.Process(target=write, args=(path, writer, counts[writer], files[writer])) for writer in range(WRITERS)
    ]
    for process in processes:
        process.start()
    victim = processes[-1]
    while not files[-1].exists() or len(files[-1].read_text().splitlines()) < 3:
        assert victim.is_alive()
        time.sleep(0.02)
    os.kill(victim.pid or 0, signal.SIGKILL)
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0] * (WRITERS - 1) + [-signal.SIGKILL]

    memory = Memory.open(path, WordEmbedder())
    types, examples = memory.types(), memory.examples()
    for writer, file in enumerate(files):
        noted = file.read_text().splitlines()
        known = types[kind(writer).id]
        assert known.rounds - len(noted) in (0, 1), "the write that was cut off is there or not"
        assert set(noted) <= {pair.id for pair in memory.pairs_of(known.id)} and set(noted) <= set(examples)
        assert {name for item in known.experience.items for name in item.examples} <= set(examples)
