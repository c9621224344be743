"""The evaluations of a run as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from cluster.reporting.estimators import WonLost
from cluster.reporting.evaluation import Evaluation, Evaluations
from cluster.reporting.paired import NO_EXPERIENCE, Paired, paired_with_earlier, paired_without_experience

INTERVAL = "success [95 %]"
MEANS = {"score": "score", "action_validity": "valid", "judge": "judge"}
"""Rewards that have a column, where the environment has them and they are not 1 throughout. Headings are short: a table
with all of them fits the 80 letters of a terminal."""


def evaluation_tables(evaluations: Evaluations) -> list[Table]:
    """A table for each panel: success with its 95 % interval, and the means of rewards that say how it was played; and,
    where earlier weights played the same tasks, a second one of what was won and lost since."""
    tables = []
    for key in dict.fromkeys(result.panel_key for results in evaluations.values() for result in results):
        played = {
            name: on_panel
            for name, results in evaluations.items()
            if (on_panel := tuple(result for result in results if result.panel_key == key))
        }
        tables.append(_success_table(played))
        if pairs := paired_with_earlier(played) + paired_without_experience(played):
            tables.append(paired_table(pairs, _paired_title(pairs)))
    return tables


def _success_table(evaluations: Evaluations) -> Table:
    """A row for the greedy play of each evaluation and, below it, one for the sampled. Columns that would be empty are
    left out."""
    rows = [(name.replace("_", " "), result) for name, results in evaluations.items() for result in results]
    first = rows[0][1]
    sampled = [result.sampled for _, result in rows if result.sampled]
    tries = min((max(outcome.pass_at, default=1) for outcome in sampled), default=1)
    rewards = [outcome.rewards for _, result in rows for outcome in result.arms.values()]
    means = {name: heading for name, heading in MEANS.items() if any(of.get(name, 1.0) != 1.0 for of in rewards)}
    ways = ", greedy and sampled" if sampled else ""
    table = Table(title=f"Evaluation on {first.panel} (panel {first.panel_hash[:8]}){ways}", title_justify="left")
    several = [f"pass@{tries}"] if tries > 1 else []
    for heading in ("weights", "solved", INTERVAL, *several, *means.values(), "turns"):
        table.add_column(heading, no_wrap=True)
    for name, result in rows:
        for way, outcome in result.arms.items():
            rate = outcome.success
            cells = [name if way == "greedy" else f"  {way}", f"{rate.wins}/{rate.episodes}", str(rate)]
            cells += [f"{outcome.pass_at[tries]:.3f}" if way.startswith("sampled") else ""] if several else []
            cells += [f"{outcome.rewards.get(name, 0.0):.3f}" for name in means]
            table.add_row(*cells, f"{outcome.mean_turns:.1f}")
    return table


def paired_table(pairs: Sequence[Paired], title: str) -> Table:
    """What was won and lost task by task, greedily, and the difference of the sampled shares."""
    sampled = any(pair.sampled for pair in pairs)
    table = Table(title=title, title_justify="left")
    for heading in ("weights", "against", "won", "lost", "p", *(["sampled, difference [95 %]"] if sampled else [])):
        table.add_column(heading)
    for pair in pairs:
        names = (name.replace("_", " ") for name in (pair.weights, pair.against))
        difference = [str(pair.sampled or "")] if sampled else []
        table.add_row(*names, str(pair.greedy.won), str(pair.greedy.lost), p_value(pair.greedy), *difference)
    return table


def _paired_title(pairs: tuple[Paired, ...]) -> str:
    kinds = {"without experience" if pair.against == NO_EXPERIENCE else "by earlier weights" for pair in pairs}
    return f"The same tasks {' and '.join(sorted(kinds))}"


def p_value(result: WonLost) -> str:
    """Two digits that count, and no pretended precision below a thousandth."""
    return "<0.001" if result.p < 0.001 else f"{result.p:.2g}"


def type_tables(result: Evaluation) -> list[Table]:
    """A table for each way of playing: success by task type, and what there is for all together: pass@k of several
    samples, and the mean score where the environment has one."""
    tables = []
    for way, outcome in result.arms.items():
        episodes = max((task.episodes for task in outcome.tasks), default=0)
        sampling = f"sampled {episodes}x at temperature {outcome.temperature:g}" if outcome.temperature else "greedy"
        without = ", no experience" if way not in result.outcomes else ""
        table = Table(title=f"{result.panel}, {sampling}{without}", title_justify="left")
        for heading in ("task type", "solved", INTERVAL):
            table.add_column(heading)
        for kind, rate in {**outcome.by_type, "all": outcome.success}.items():
            table.add_row(kind, f"{rate.wins}/{rate.episodes}", str(rate))
        for k, share in outcome.pass_at.items():
            if k > 1:
                table.add_row(f"pass@{k}", "", f"{share:.3f}")
        if "score" in outcome.rewards:
            table.add_row("mean score", "", f"{outcome.rewards['score']:.3f}")
        tables.append(table)
    return tables
