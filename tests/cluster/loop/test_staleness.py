"""The gate's formula against its worked values, and its invariant under any history."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.staleness import StalenessGate, is_stale


def test_worked_examples_of_the_formula():
    assert StalenessGate(concurrency=8, max_staleness=0, batch=4, total=100).capacity(0) == 4
    assert StalenessGate(concurrency=8, max_staleness=1, batch=4, total=100).capacity(0) == 8
    assert StalenessGate(8, 1, 4, 100, submitted=8, accepted=5, running=3).capacity(0) == 0
    assert StalenessGate(8, 1, 4, 100, submitted=8, accepted=5, running=3).capacity(1) == 4
    assert StalenessGate(8, 9, 4, total=10, submitted=9, accepted=9).capacity(0) == 1


def test_stale_is_strictly_older_than_the_bound():
    assert not is_stale(oldest_version=4, version=5, max_staleness=1)
    assert is_stale(oldest_version=3, version=5, max_staleness=1)


@given(
    st.lists(st.sampled_from(["submit", "accept", "filter", "skip", "drop", "step"])),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_groups_add_up_and_the_bound_holds_under_any_history(events, max_staleness, batch):
    gate = StalenessGate(concurrency=5, max_staleness=max_staleness, batch=batch, total=30)
    version = 0
    for event in events:
        if event == "submit" and gate.capacity(version):
            gate.submit()
        elif event == "accept" and gate.running:
            gate.accept()
        elif event == "filter" and gate.running:
            gate.filter()
        elif event == "skip" and gate.running:
            gate.skip()
        elif event == "drop" and gate.accepted:
            gate.drop_stale()
        elif event == "step":
            version += 1
        gate.check()
        assert gate.running <= 5
        assert gate.accepted + gate.running <= min(30, (max_staleness + version + 1) * batch)
