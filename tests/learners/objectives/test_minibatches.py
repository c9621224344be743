"""How a batch is dealt into minibatches, and what becomes of their metrics."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from learners.objectives.minibatches import averaged, dealt, walk

names = st.sets(st.text(max_size=4), max_size=12)


@given(names, st.integers(1, 6), st.integers(-3, 3))
def test_every_group_is_dealt_once_and_evenly(groups: set[str], parts: int, seed: int) -> None:
    found = dealt(groups, parts, (seed,))
    assert sorted(name for part in found for name in part) == sorted(groups)
    sizes = [len(part) for part in found]
    assert len(sizes) == parts and max(sizes) - min(sizes) <= 1


@given(names, st.integers(1, 6))
def test_the_order_in_which_groups_are_seen_does_not_matter(groups: set[str], parts: int) -> None:
    assert dealt(sorted(groups), parts, (1, 2)) == dealt(sorted(groups, reverse=True), parts, (1, 2))


@given(names, names, st.integers(1, 5), st.integers(1, 3))
def test_each_epoch_walks_through_all_groups_once(
    compared: set[str], imitated: set[str], minibatches: int, epochs: int
) -> None:
    plan = walk(compared, imitated, minibatches, epochs, (0,))
    parts = max(1, min(minibatches, len(compared)))
    assert len(plan) == parts * epochs
    for epoch in range(epochs):
        steps = plan[epoch * parts : (epoch + 1) * parts]
        assert sorted(name for step in steps for name in step) == sorted(compared | imitated)
        assert all(step & compared for step in steps) or not compared


def test_epochs_and_learner_steps_deal_differently() -> None:
    groups = {f"g{number}" for number in range(16)}
    first, second = (walk(groups, (), 4, 2, (0, step)) for step in range(2))
    assert first[:4] != first[4:] and first[:4] != second[:4]


def test_demonstrations_are_spread_over_the_minibatches() -> None:
    plan = walk({"a", "b"}, {"x", "y", "z", "w", "a"}, 2, 1, (0,))
    assert [len(step - {"a", "b"}) for step in plan] == [2, 2]


def test_metrics_are_means_over_optimiser_steps_and_counts_those_of_the_batch() -> None:
    steps = [
        {"trained_tokens": 30.0, "grpo/tokens": 30.0, "grpo/sequences": 3.0, "lr": 0.1, "grad_norm": 1.0},
        {"trained_tokens": 10.0, "grpo/tokens": 10.0, "grpo/sequences": 1.0, "lr": 0.3, "grad_norm": 2.0},
    ] * 2
    steps[3] = {"trained_tokens": 0.0, "grpo/tokens": 0.0, "grpo/sequences": 0.0}
    assert averaged(steps[:2], epochs=1) == {
        "optimiser_steps": 2.0,
        "trained_tokens": 40.0,
        "grpo/tokens": 40.0,
        "grpo/sequences": 4.0,
        "lr": 0.2,
        "grad_norm": 1.5,
    }
    found = averaged([*steps[:3], steps[1]], epochs=2)
    assert (found["trained_tokens"], found["grad_norm"], found["optimiser_steps"]) == (40.0, 1.5, 4.0)
    assert averaged([steps[0], steps[3]], epochs=1)["grad_norm"] == 1.0
