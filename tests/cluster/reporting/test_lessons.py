"""What a run says of its lessons at its end."""

from __future__ import annotations

from cluster.reporting.lessons import costs, lessons


def test_every_stage_says_what_it_learned_from() -> None:
    routing = {"stage": "routing", "router/sft": 4.0}
    imitated = {"stage": "sft", "trained_tokens": 1500.0}
    played = {"stage": "grpo", "episodes": 8.0, "groups": 2.0, "truncated": 0.25, "informative_groups": 0.5}
    steps = [played | {"trained_tokens": tokens} for tokens in (300.0, 0.0, 340.0)]
    assert list(lessons([routing, imitated, imitated, *steps])) == [
        "sft learned from 3,000 tokens in 2 steps",
        "grpo learned from 640 tokens in 3 steps, 1 of which trained nothing: 24 episodes, 25% of them truncated, in 6 "
        "groups, 3 of them informative",
    ]


def test_a_run_without_steps_has_no_lessons() -> None:
    assert list(lessons([])) == []


def test_the_cost_is_that_of_routing_and_of_every_stage_with_their_shares() -> None:
    routing = {"stage": "routing", "probe_s": 8.0, "routing_s": 10.0}
    steps = [{"stage": "sft", "step_s": 15.0}] * 2 + [{"stage": "grpo", "step_s": 60.0}]
    parts = "probe 8.0 s (8%), other routing 2.0 s (2%), sft 30.0 s (30%), grpo 60.0 s (60%)"
    assert costs([routing, *steps]) == f"cost: {parts}"
    assert costs([{"stage": "mixed", "step_s": 10.0, "probe_s": 4.0}]) == "cost: probe 4.0 s (40%), mixed 6.0 s (60%)"
    saved = {"stage": "sft", "step_s": 6.0, "checkpoint_s": 2.0}
    assert costs([saved, {"stage": "grpo", "step_s": 2.0}]) == (
        "cost: sft 6.0 s (60%), grpo 2.0 s (20%), checkpoints 2.0 s (20%)"
    )
    assert costs([]) is None
