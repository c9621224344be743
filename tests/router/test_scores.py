"""What is told of scores."""

from __future__ import annotations

import pytest

from router.scores import score_percentiles


def test_percentiles_are_of_the_scores_that_there_are() -> None:
    told = score_percentiles([None, 2.0, 1.0, None, 3.0])
    assert told == pytest.approx({"router/score_p10": 1.2, "router/score_p50": 2.0, "router/score_p90": 2.8})
    assert score_percentiles([None]) == score_percentiles([]) == {}
