"""Metrics: one JSON line a step; a resumed run replaces the lines of the steps that it repeats."""

from cluster.reporting.metrics import MetricsWriter, read_metrics


def test_lines_after_the_resumed_step_are_replaced(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, "grpo", {"loss": float(step)})
    writer.close()
    resumed = MetricsWriter(tmp_path, from_step=3)
    resumed.write(3, "grpo", {"loss": 30.0})
    resumed.close()
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_no_file_means_no_records(tmp_path):
    assert read_metrics(tmp_path) == []
