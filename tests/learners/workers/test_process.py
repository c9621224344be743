"""What a worker takes of its machine."""

from __future__ import annotations

import os

import pytest

from learners.workers.process import cores_of_worker


def test_workers_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    for workers, cores in ((1, 6), (2, 3), (4, 1), (9, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(workers))
        assert cores_of_worker() == cores
