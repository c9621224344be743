"""A run whose episodes are played by an agent program with the plain `openai` client: real Ray and real vLLM."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.reporting.metrics import read_metrics
from tests.cluster.runs import RunProcess, train_arguments
from trajectories.schema import from_tables
from trajectories.store import TrajectoryStore
from trajectories.types import StopReason

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PROGRAM = f"[{sys.executable},-m,examples.openai_agent]"


def reference(token_ids: torch.Tensor) -> np.ndarray:
    """float32 [T], what transformers says of these tokens by the weights that the run began with."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(resolve_model(TINY), dtype=torch.float32)
    with torch.no_grad():
        logits = model(token_ids[None]).logits[0, :-1]
    scores = torch.log_softmax(logits, -1).gather(1, token_ids[1:, None])[:, 0]
    return np.concatenate([[0.0], scores.numpy()]).astype(np.float32)


def test_the_example_plays_alfworld_and_is_trained_for_two_steps(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    changes = {
        "rollout__program__command": PROGRAM,
        "schedule__sft_steps": 0,
        "schedule__grpo_steps": 2,
        "evaluation__panels": "[]",
        "reward__outcome": "action_validity",  # members differ in it; hardly a game is solved in four turns
    }
    with RunProcess(train_arguments(run_dir, Path(TINY), **changes), tmp_path / "log") as run:
        assert run.wait(800.0) == 0, run.log()
        run.assert_nothing_left()
    records = read_metrics(run_dir)
    assert [record["stage"] for record in records] == ["grpo"] * 2
    assert sum(record["trained_tokens"] for record in records) > 0, run.log()
    assert all(record["parity_error"] <= 1e-3 for record in records)

    store, tokenizer = TrajectoryStore(run_dir / "trajectories"), load_tokenizer(resolve_model(TINY))
    trajectories = [one for part in range(len(store)) for one in from_tables(*store.read(part)[:2])]
    assert len(trajectories) == 8 and any(one.episode.version_max == 0 for one in trajectories)
    for trajectory in trajectories:
        episode, (sequence,) = trajectory.episode, trajectory.sequences
        assert episode.stop_reason in (StopReason.TURN_LIMIT, StopReason.DONE) and episode.error is None
        assert len(sequence.turns) == episode.turns > 0, "one clean sequence"
        assert (sequence.logprobs[sequence.trained] < 0).any() and np.isfinite(sequence.logprobs).all()
        if episode.version_max == 0:
            gap = sequence.logprobs - reference(torch.tensor(sequence.token_ids, dtype=torch.int64))
            assert np.abs(gap[sequence.trained]).max() < 1e-3
        assert "Your task is to:" in tokenizer.decode(sequence.token_ids.tolist())
