"""Makes `docs/metrics.md` of the definitions: `python -m cluster.reporting.metric_page > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.reporting.metric_table import SECTIONS, Kind, Metric

HEAD = """# Metrics

Every number that a run logs. Made of `cluster/reporting/metric_table.py` by `make docs`; a test fails when this page is
stale.

A line of `RUN/metrics.jsonl` has `step`, `stage`, `time` and those of the following that the step gave; TensorBoard has
them as `<stage>/<name>`. In Ray's Prometheus endpoint each is a gauge that shows the last record of the run, with the
labels `run` and `stage`, and a third where the name has a part in braces; what the last record lacks is not there.

"""
KINDS = {
    Kind.MEAN: "an average over what the step trained or played",
    Kind.SUM: "of this step alone: over several steps it adds up",
    Kind.TOTAL: "counted since the stage began; what is said of experience, since the run was started or resumed",
    Kind.STATE: "as it is at the end of the step",
}
TABLE = "| name | in Prometheus | kind | unit | what it says |\n| --- | --- | --- | --- | --- |"


def page() -> str:
    """The page in Markdown."""
    kinds = "\n".join(f"- *{kind}*: {meaning}." for kind, meaning in KINDS.items())
    return HEAD + "Kinds:\n\n" + kinds + "\n\n" + "\n".join(_sections()).rstrip("\n") + "\n"


def _sections() -> Iterator[str]:
    for title, metrics in SECTIONS.items():
        yield from (f"## {title}", "", TABLE, *(_row(metric) for metric in metrics), "")


def _row(metric: Metric) -> str:
    cells = (f"`{metric.name}`", f"`{metric.series}`", metric.kind, metric.unit, metric.help)
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
