"""Two steps of each arm of PRISM's and MAESTRO's comparisons that no other test runs whole.

Epochs and the sketched probe run in `test_routed_epochs`, judge and preference model in `test_judged`, the Conductor
as published, staged and online routing by the median in `test_train`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.config.loading import load_config
from router.geometry import gini
from tests.cluster.here import run_here

COMMON = {
    "schedule.demonstrations": 8,
    "schedule.sft_batch": 4,
    "schedule.groups_per_step": 2,
    "schedule.group_size": 4,
    "schedule.max_idle": 3,
    "schedule.parity_tolerance": 1e6,  # nobody speaks for these weights
    "evaluation.panels": "[]",
    "rollout.max_turns": 10,  # in fewer the expert wins hardly a game
    "tasks": "questions",  # whose expert is never lost, and which are compiled in no time
    "reward.outcome": "length",  # nobody solves anything
    "learner.lr": 1e-3,
    "learner.warmup_steps": 0,
}
RESPONSES = ("look", "inventory", "...", "Answer: 7", "I think so.\nAnswer: 12")
"""To questions, the dots are no answer at all."""
STAGED = {"router.policy": "median_split", "schedule.sft_steps": 1, "schedule.grpo_steps": 1}
ONLINE = {"router.policy": "median_split", "router.mode": "online", "schedule.mixed_steps": 2}
PLAYED = {"schedule.sft_steps": 0, "schedule.grpo_steps": 2}
CONDUCTED = PLAYED | {"reward.scalariser": "conductor", "reward.conductor.update_every": 1}
CONDUCTED |= {"reward.channels": "[format,length]", "reward.outcome": "format"}
BOTH = {"tasks": "[alfworld,questions]"}

Records = list[dict[str, Any]]


def half_of_each(records: Records, run_dir: Path) -> None:
    routing = records[0]
    for environment in ("alfworld", "questions"):
        assert (routing[f"router/sft/{environment}"], routing[f"router/grpo/{environment}"]) == (2, 2)
    assert routing["router/threshold/alfworld"] != routing["router/threshold/questions"]


def one_threshold(records: Records, run_dir: Path) -> None:
    assert (records[0]["router/sft"], records[0]["router/grpo"]) == (4, 4)
    assert records[0]["router/threshold/alfworld"] == records[0]["router/threshold/questions"]


def a_quarter(records: Records, run_dir: Path) -> None:
    assert (records[0]["router/sft"], records[0]["router/grpo"]) == (2, 6)
    assert records[1]["sft/sequences"] == 2


def of_the_last_layer(records: Records, run_dir: Path) -> None:
    assert {len(norms) for norms in pq.read_table(run_dir / "measured.parquet")["norms"].to_pylist()} == {7}


def normalised_norms(records: Records, run_dir: Path) -> None:
    measured = pq.read_table(run_dir / "measured.parquet")
    norms, entries = (np.stack(measured[name].to_numpy()) for name in ("norms", "entries"))
    scores = pq.read_table(run_dir / "routes.parquet")["score"].to_numpy()
    np.testing.assert_allclose(scores, gini(norms / np.sqrt(entries)).numpy())
    assert np.abs(scores - gini(norms).numpy()).max() > 1e-3


def windows_of_a_step(records: Records, run_dir: Path) -> None:
    """Three scores fill a window: two of the second step do not, where those of the first are forgotten."""
    assert sum(map(scored, records)) >= 3, "most tasks have a demonstration"
    assert [record["router/waiting"] for record in records] == list(map(scored, records))


def windows_of_two_steps(records: Records, run_dir: Path) -> None:
    assert sum(map(scored, records)) >= 3
    assert [record["router/waiting"] for record in records] == [scored(records[0]), 0.0]


def scored(record: dict[str, Any]) -> float:
    """Groups that a reference was found for."""
    return record["router/sft"] + record["router/grpo"]


def channel(name: str) -> Callable[[Records, Path], None]:
    def check(records: Records, run_dir: Path) -> None:
        for record in records:
            assert record[f"reward/{name}/weight"] == 1.0 and record["read_s"] > 0
            assert record[f"reward/{name}/spread"] > 0

    return check


def divergence_in_the_reward(records: Records, run_dir: Path) -> None:
    first, second = (record["reward/kl"] for record in records)
    assert first == pytest.approx(0.0, abs=1e-6) and second > 1e-6
    assert all(record["grpo/reference_kl"] == 0.0 for record in records), "and not in the loss"


def two_updates(records: Records, run_dir: Path) -> None:
    assert [record["conductor/version"] for record in records] == [1.0, 2.0]
    assert all(0 < record["conductor/entropy"] <= 1 for record in records)


def open_shapes(records: Records, run_dir: Path) -> None:
    for record in records:
        assert record["reward/entropy/mean"] > 0, "uncertain responses are better"
        assert 0.5 < record["reward/length/mean"] <= 1, "at a distance of less than a half from the target"


ARMS: dict[str, tuple[dict[str, Any], Callable[[Records, Path], None]]] = {
    "a quarter to SFT": (STAGED | {"router.share": 0.25}, a_quarter),
    "a threshold an environment": (STAGED | BOTH, half_of_each),
    "one threshold, windowed prompts": (
        STAGED | BOTH | {"router.thresholds": "corpus", "rollout.prompt.mode": "windowed"},
        one_threshold,
    ),
    "norms per entry": (STAGED | {"router.metric": "gini_per_entry"}, normalised_norms),
    "the last layer": (STAGED | {"router.sample_layers": 1}, of_the_last_layer),
    "windows of a step": (ONLINE | {"router.window_fill": 3, "router.window_steps": 1}, windows_of_a_step),
    "windows of two steps": (ONLINE | {"router.window_fill": 3, "router.window_steps": 2}, windows_of_two_steps),
    "outcome, leave one out": (CONDUCTED | {"reward.conductor.meta_signal": "outcome"}, two_updates),
    "outcome, no baseline": (
        CONDUCTED | {"reward.conductor.meta_signal": "outcome", "reward.conductor.baseline": "none"},
        two_updates,
    ),
    "first layer": (CONDUCTED | {"reward.conductor.context_layer": "first"}, two_updates),
    "mean of tokens": (CONDUCTED | {"reward.conductor.context_tokens": "mean"}, two_updates),
    "NOVER": (PLAYED | {"reward.outcome": "reference"}, channel("reference")),
    "EM-GRPO": (PLAYED | {"reward.outcome": "entropy"}, channel("entropy")),
    "KL in the reward": (PLAYED | {"grpo.kl_in": "reward", "grpo.kl_weight": 0.1}, divergence_in_the_reward),
    "open shapes": (
        PLAYED
        | {"reward.scalariser": "uniform", "reward.channels": "[entropy,length]", "reward.outcome": "success"}
        | {"reward.entropy_sign": 1, "reward.length_shape": "target"},
        open_shapes,
    ),
}


@pytest.mark.parametrize("arm", ARMS)
async def test_an_arm_takes_two_steps(
    arm: str, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, check = ARMS[arm]
    settings = COMMON | {"schedule.grpo_steps": 0, "schedule.sft_steps": 0} | changes
    overrides = [f"{name}={value}" for name, value in (settings | {"policy.model": tiny_model_dir}).items()]
    records = await run_here(monkeypatch, load_config("local", None, overrides), tmp_path / "run", RESPONSES)
    steps = [record for record in records if record["step"]]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(record["trained_tokens"] > 0 for record in steps)
    check(records, tmp_path / "run")
