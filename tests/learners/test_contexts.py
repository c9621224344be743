"""Terminal states of rollouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from learners.contexts import last_sequences, terminal_states
from learners.rewards import RewardError
from learners.worker import LearnerWorker
from tests.learners.samples import learner_config, make_sequences
from trajectories import schema


@pytest.mark.parametrize("lora", [False, True], ids=["full weights", "lora"])
def test_terminal_states_are_those_after_the_last_token(untied_model: Path, lora: bool) -> None:
    policy = LearnerWorker(learner_config(untied_model, lora=lora)).policy.model
    sequences = make_sequences(7)
    reference = AutoModelForCausalLM.from_pretrained(untied_model, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = torch.stack([
            reference(torch.tensor(s.token_ids)[None].long(), output_hidden_states=True).hidden_states[-1][0, -1]
            for s in sequences
        ])  # fmt: skip
    for budget in (1, 64, 10_000):
        torch.testing.assert_close(terminal_states(policy, sequences, budget), expected, atol=1e-5, rtol=1e-4)


def test_they_are_what_the_probe_finds(untied_model: Path) -> None:
    worker = LearnerWorker(learner_config(untied_model))
    sequences = make_sequences(5)
    probed = worker.probe(schema.sequences_to_table(sequences), 64)
    torch.testing.assert_close(terminal_states(worker.policy.model, sequences, 64), probed.hidden, atol=1e-6, rtol=1e-5)


def test_a_worker_with_less_to_do_runs_idle(untied_model: Path) -> None:
    policy = LearnerWorker(learner_config(untied_model)).policy.model
    passes = []
    handle = policy.register_forward_hook(lambda *_: passes.append(1))
    assert terminal_states(policy, [], 64, most=lambda mine: 3).shape == (0, 32)
    assert len(passes) == 3
    handle.remove()


def test_an_episode_ends_in_its_last_sequence() -> None:
    first, second, third = make_sequences(3)
    turns = [replace(first, episode_id="a"), replace(second, episode_id="b"), replace(third, episode_id="a")]
    assert [s.sequence_id for s in last_sequences(turns, ("b", "a"))] == ["s1", "s2"]
    with pytest.raises(RewardError, match="episode c has no sequence, so the Conductor has no context for it"):
        last_sequences(turns, ("a", "c"))
