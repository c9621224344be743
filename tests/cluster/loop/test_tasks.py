"""The task order: every epoch a permutation, the same for the same seed."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.tasks import TaskMixture, index_at, member_seeds
from envs.panels import Panel


@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 5))
def test_every_epoch_visits_every_task_once(size, seed, epoch):
    visited = [index_at(size, seed, epoch * size + offset) for offset in range(size)]
    assert sorted(visited) == list(range(size))


def test_epochs_and_seeds_differ():
    order = [[index_at(50, seed, at) for at in range(start, start + 50)] for seed, start in [(0, 0), (0, 50), (1, 0)]]
    assert order[0] != order[1] != order[2] != order[0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**31), st.integers(0, 60))
def test_any_stretch_of_a_mixture_has_equal_shares(sizes, seed, position):
    panels = tuple(Panel(f"env{at}/train", tuple(map(str, range(size))), "") for at, size in enumerate(sizes))
    mixture = TaskMixture(panels)
    start = position * len(panels)
    drawn = [mixture.at(seed, at)[0].name for at in range(start, start + len(panels))]
    assert sorted(drawn) == [panel.name for panel in panels]


@given(st.integers(0, 2**31))
def test_each_panel_of_a_mixture_is_walked_as_a_whole(seed):
    short, long = Panel("a/train", ("x", "y"), ""), Panel("b/train", tuple(map(str, range(6))), "")
    tasks = [TaskMixture((short, long)).at(seed, at) for at in range(12)]
    assert sorted(task for panel, task in tasks if panel is long) == sorted(long.task_ids)
    assert sorted(task for panel, task in tasks if panel is short) == sorted(short.task_ids * 3)


@given(st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 200))
def test_one_panel_alone_is_walked_in_its_own_order(size, seed, position):
    panel = Panel("a/train", tuple(map(str, range(size))), "")
    assert TaskMixture((panel,)).at(seed, position) == (panel, panel.task_ids[index_at(size, seed, position)])


def test_members_get_their_own_seeds_the_same_every_time():
    assert member_seeds(1, 5, 8) == member_seeds(1, 5, 8)
    assert len(set(member_seeds(1, 5, 8) + member_seeds(1, 6, 8) + member_seeds(2, 5, 8))) == 24
