"""The recorded expert episodes, played again: nothing on the screen may differ."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from envs.webshop import Catalogue, WebShopEnvironment
from envs.webshop.prices import NO_CAP, cap_text
from envs.webshop.recordings import RecordedEpisode, read_episodes, read_recordings
from tests.data import SHARED, require
from tests.envs.webshop.conftest import WEBSHOP_DATA

RECORDINGS = SHARED / "data" / "demos" / "webshop_agenttraj_413.jsonl"
CAP = re.compile(r", and price lower than (\d+\.\d\d) dollars \[SEP\]")


@pytest.fixture
def recordings() -> list[RecordedEpisode]:
    return list(read_episodes(require(RECORDINGS)))


def recorded_cap(recording: RecordedEpisode) -> float:
    found = CAP.search(recording.turns[0].observation)
    return float(found[1]) if found else NO_CAP


def with_caps(monkeypatch: pytest.MonkeyPatch, caps: dict[int, float]) -> None:
    """Each recorded process had drawn price caps of its own; everything else of a goal is canonical."""
    canonical = Catalogue.goal

    def goal(catalogue: Catalogue, kind, index: int):
        drawn = canonical(catalogue, kind, index)
        text = drawn.instruction.removesuffix(cap_text(drawn.price_upper)) + cap_text(caps[index])
        return replace(drawn, instruction=text, price_upper=caps[index])

    monkeypatch.setattr(Catalogue, "goal", goal)


def test_every_observation_and_nearly_every_reward_is_the_recorded_one(
    original: WebShopEnvironment, recordings: list[RecordedEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_caps(monkeypatch, {int(recording.task_id): recorded_cap(recording) for recording in recordings})
    observations, scores = 0, []
    for recording in recordings:
        observation, rewards = original.reset(recording.task_id), {}
        for turn in recording.turns:
            assert observation.text == turn.observation, f"goal {recording.task_id} before {turn.action}"
            observations += 1
            result = original.step(turn.action)
            assert result.info["action_valid"], f"goal {recording.task_id}: {turn.action}"
            observation, rewards = result.observation, result.rewards
        assert result.done
        scores.append(rewards["score"])
    assert (len(recordings), observations) == (413, 2089)
    assert sum(scores) / len(scores) >= 0.999


def test_goal_order_is_the_canonical_one(original: WebShopEnvironment, recordings: list[RecordedEpisode]) -> None:
    assert original.catalogue.goal_count("synthetic") == 6910
    for recording in recordings:
        original.reset(recording.task_id)
        goal = original.goal
        uncapped = goal.instruction.removesuffix(cap_text(goal.price_upper))
        assert f"[SEP] {uncapped}{cap_text(recorded_cap(recording))} [SEP]" in recording.turns[0].observation


def test_recordings_of_evaluation_goals_are_told_apart(recordings: list[RecordedEpisode]) -> None:
    read = list(read_recordings(RECORDINGS, WEBSHOP_DATA))
    refused = [int(task) for recording in read for task in recording.evaluated]
    assert sum(index < 500 for index in refused) == 30
    assert sum(500 <= index < 1500 for index in refused) == 53
    accepted = [int(task) for recording in read for task in recording.training]
    assert len(accepted) == 330 and min(accepted) >= 1500
    assert all(recording.opening for recording in read), "each is recognised by its instruction"
