"""What a turn is rewarded with."""

from __future__ import annotations

import pytest

from actors.episode import TurnRewardSettings


def test_by_default_a_turn_earns_its_success_alone() -> None:
    earned = {"success": 1.0, "progress": 0.5, "format": 0.0}
    assert TurnRewardSettings().of(earned, action_valid=False) == 1.0


def test_progress_adds_and_what_is_wrong_costs() -> None:
    settings = TurnRewardSettings(progress=0.3, invalid_action=0.1, format_violation=0.2, turn=0.01)
    assert settings.of({"success": 0.0, "progress": 0.5, "format": 1.0}, action_valid=True) == pytest.approx(0.14)
    assert settings.of({"success": 0.0, "format": 0.0}, action_valid=False) == pytest.approx(-0.31)
