"""The examples run, and do what they say."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from envs.base import Environment
from envs.experts import play_expert
from examples import own_environment, own_router_policy, own_scalariser
from router import tables


def test_the_expert_of_the_own_environment_wins_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    own_environment.main()
    assert capsys.readouterr().out.startswith("panel shelf/test: 10 tasks")
    environment, tasks = own_environment.Shelf(), own_environment.ShelfTasks()
    assert isinstance(environment, Environment)
    for task_id in (*tasks.task_ids("train"), *tasks.task_ids("test")):
        *_, (_, _, last) = play_expert(environment, task_id)
        assert last.done and last.rewards["success"] == 1.0
    environment.reset("test/40")
    assert environment.step("sing").info["action_valid"] is False


def test_the_own_scalariser_learns_where_plain_grpo_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    own_scalariser.main()
    plain, own = capsys.readouterr().out.splitlines()
    assert plain == "plain GRPO: advantages [1.15, -0.58, -0.58, 0.0, 0.0, 0.0]"
    assert own == "own: advantages [1.15, -0.58, -0.58, 1.0, 0.0, -1.0]"


def test_the_own_router_policy_writes_routes_that_a_run_takes(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = torch.eye(5, 14).double() * torch.arange(5)[:, None] + 1.0
    rows = [
        {"trajectory": f"t{row}", "tokens": 9, "trained_tokens": 3, "loss": loss, "norms": norms[row].tolist()}
        for row, loss in enumerate((0.5, 0.01, 0.7, 0.4, 0.9))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=tables.MEASURED), tmp_path / "scores.parquet")
    own_router_policy.main([str(tmp_path / "scores.parquet"), str(tmp_path / "routes.parquet")])
    assert capsys.readouterr().out == "{'sft': 2, 'drop': 1, 'grpo': 2}\n"
    routes = pq.read_table(tmp_path / "routes.parquet")
    assert routes.schema == tables.ROUTES
    assert routes["route"].to_pylist() == ["sft", "drop", "sft", "grpo", "grpo"]
