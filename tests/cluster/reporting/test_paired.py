"""Evaluations against earlier ones: which are compared, and the tables of a run's end."""

from __future__ import annotations

import pytest
from rich.console import Console
from rich.table import Table

from cluster.reporting.estimators import WonLost
from cluster.reporting.evaluation_tables import evaluation_tables, p_value, type_tables
from cluster.reporting.paired import paired_with_earlier
from tests.cluster.reporting.samples import evaluation

BASE = evaluation([False, False, True, True], [0, 0, 2, 4])
LATER = evaluation([True, True, True, False], [2, 0, 4, 4])


def printed(table: Table, width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_later_weights_stand_against_the_base_and_against_those_before_rl():
    evaluations = {name: (LATER,) for name in ("base", "step_000020", "after_sft", "step_000040", "after_grpo")}
    assert [(pair.weights, pair.against) for pair in paired_with_earlier(evaluations)] == [
        ("step_000020", "base"),
        ("after_sft", "base"),
        ("step_000040", "base"),
        ("step_000040", "after_sft"),
        ("after_grpo", "base"),
        ("after_grpo", "after_sft"),
    ]


def test_won_and_lost_are_greedy_and_the_difference_is_of_the_samples():
    (pair,) = paired_with_earlier({"base": (BASE,), "after_grpo": (LATER,)})
    assert (pair.greedy.won, pair.greedy.lost, pair.greedy.p) == (2, 1, 1.0)
    assert pair.sampled and pair.sampled.difference == 0.25


@pytest.mark.parametrize("other", [{"panel_hash": "decade"}, {"limit": 4}, {"panel": "alfworld/y"}])
def test_other_tasks_are_never_compared(other):
    later = LATER.model_copy(update=other)
    assert paired_with_earlier({"base": (BASE,), "after_grpo": (later,)}) == ()
    assert len(evaluation_tables({"base": (BASE,), "after_grpo": (later,)})) == 2, "a table for each, none of pairs"


@pytest.mark.parametrize(
    "later", [evaluation([True] * 4), LATER.model_copy(update={"sampled": evaluation([True] * 4).greedy})]
)
def test_samples_are_compared_at_one_temperature_only(later):
    (pair,) = paired_with_earlier({"base": (BASE,), "after_grpo": (later,)})
    assert pair.sampled is None


def test_without_samples_the_tables_speak_of_greedy_play_alone():
    success, pairs = evaluation_tables({"base": (evaluation([False] * 6),), "after_sft": (evaluation([True] * 6),)})
    assert [column.header for column in success.columns] == [
        "weights",
        "solved",
        "success [95 %]",
        "turns",
    ]
    row = next(line for line in printed(pairs).splitlines() if "after sft" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["after sft", "base", "6", "0", "0.031"]


def test_with_samples_both_ways_of_playing_stand_below_each_other_in_80_columns():
    tables = evaluation_tables({"base": (BASE,), "after_sft": (LATER,), "after_grpo": (BASE,)})
    text = "".join(map(printed, tables))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert lines[0][:2] == ["base", "2/4"] and lines[0][3] == ""
    assert lines[1][:2] == ["sampled", "6/16"] and lines[1][3] == "0.500", "pass@4: two of four tasks"
    assert lines[-1][:2] == ["after grpo", "after sft"] and lines[-1][5].startswith("-0.250 [")
    assert len(lines) == 6 + 3, "no cell is broken over two lines"


@pytest.mark.parametrize(("p", "shown"), [(1.0, "1"), (0.0625, "0.062"), (0.00123, "0.0012"), (1e-9, "<0.001")])
def test_p_has_two_digits_and_no_false_precision(p, shown):
    assert p_value(WonLost(won=0, lost=0, p=p)) == shown


def test_the_types_of_an_evaluation_have_a_table_for_each_way_of_playing():
    greedy, sampled = type_tables(BASE)
    assert "greedy" in str(greedy.title) and "sampled 4x at temperature 1" in str(sampled.title)
    assert "pass@4" in printed(sampled) and "pass@" not in printed(greedy)
    assert len(type_tables(evaluation([True]))) == 1


def test_a_score_and_samples_and_long_names_fit_into_80_columns():
    scored = {play: outcome.model_copy(update={"rewards": {"score": 0.4}}) for play, outcome in BASE.outcomes.items()}
    long = BASE.model_copy(update=scored | {"panel": "webshop/dev"})
    text = printed(evaluation_tables({"base": (long,), "step_000260": (long,)})[0])
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 4 and "step 000260" in rows[2] and all("0.400" in row for row in rows) and "…" not in text
