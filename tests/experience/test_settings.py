"""The section `experience` of a run's configuration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.loading import load_config
from experience.experience_settings import ExperienceSettings
from trajectories.errors import UserError


@given(st.floats(0, 0.999), st.integers(1, 64))
def test_a_pair_has_two_sides_wherever_there_are_two_members(pairs: float, members: int) -> None:
    without = ExperienceSettings(pairs=pairs).without(members)
    assert (without == 0) if pairs == 0 or members == 1 else (1 <= without < members)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("base_url=http://localhost:1/v1", "set experience.model too"),
        ("model=m", "set experience.base_url too"),
        ("base_url=localhost", "write it as http://HOST:PORT/v1"),
        ("pairs=1", "experience.pairs=1"),
        ("max_tokens=0", "experience.max_tokens=0"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_fix(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config("local", overrides=[f"experience.{override}"])


def test_the_policy_needs_no_name_and_its_engines_can_be_bound_to_a_schema() -> None:
    asked = ["experience.base_url=policy", "experience.enabled=true"]
    config = load_config("local", overrides=asked)
    assert config.experience.learns and config.experience.by_policy
    assert config.fitted_rollout.engine.structured_outputs
    assert not load_config("local", overrides=asked[:1]).fitted_rollout.engine.structured_outputs
    with pytest.raises(UserError, match="which needs no name: leave out model"):
        load_config("local", overrides=[*asked, "experience.model=m"])


def test_a_memory_that_is_only_read_is_not_added_to() -> None:
    endpoint = ["experience.base_url=http://h/v1", "experience.model=m"]
    assert load_config("local", overrides=[*endpoint, "experience.enabled=true"]).experience.learns
    with pytest.raises(UserError, match="leave out base_url and model"):
        load_config("local", overrides=[*endpoint, "experience.read_only=true"])


def test_a_block_that_leaves_no_room_for_a_prompt_is_refused_where_there_is_one() -> None:
    wide = ["experience.max_tokens=4000"]
    assert load_config("local", overrides=wide)
    with pytest.raises(UserError, match="leave no room for a prompt"):
        load_config("local", overrides=[*wide, "experience.enabled=true"])


def test_an_address_with_a_password_gets_into_no_configuration_and_no_message() -> None:
    settings = ["experience.base_url=http://me:secret@host/v1", "experience.model=m"]
    with pytest.raises(UserError, match=r"experience\.base_url.*it holds a name or password") as raised:
        load_config("local", None, settings)
    assert "secret" not in str(raised.value)
