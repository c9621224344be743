"""Slips are actions that the environment refuses, near to those it accepts, and they come in runs."""

import random

import pytest

from envs import load_panel, make_environment
from envs.base import Observation
from envs.slips import LONGEST_RUN, Slips

SEEN = Observation("", ("go to desk 1", "take mug 2 from desk 1", "click[b0x9k2]"))


def test_a_slip_is_not_admissible():
    slips = Slips(random.Random(0), rate=1.0, again=1.0)
    drawn = [slips.draw(SEEN) for _ in range(200)]
    assert not set(drawn) & set(SEEN.admissible_actions)


def test_a_misread_click_is_not_a_search_which_a_shop_takes():
    seen = Observation("", ("click[back to search]", "click[buy now]"))
    slips = Slips(random.Random(0), rate=1.0, again=1.0)
    drawn = [slip for _ in range(2000) if (slip := slips.draw(seen))]
    assert drawn and not any(slip.startswith("search[") for slip in drawn)
    assert any("[search" in slip for slip in drawn), "it is drawn elsewhere"


def test_slips_come_at_their_rate_and_in_bounded_runs():
    slips = Slips(random.Random(0), rate=0.2, again=0.9)
    slipped = [slips.draw(SEEN) is not None for _ in range(5000)]
    starts = sum(now and not before for before, now in zip([False, *slipped], slipped, strict=False))
    chances = sum(not before for before in [False, *slipped][:-1])
    longest = max(map(len, "".join("x" if slip else " " for slip in slipped).split()))
    assert starts / chances == pytest.approx(0.2, abs=0.03)
    assert longest == LONGEST_RUN


def test_without_a_rate_nobody_slips():
    slips = Slips(random.Random(0), rate=0.0)
    assert all(slips.draw(SEEN) is None for _ in range(100))


def test_where_nothing_is_known_to_be_admissible_nobody_slips():
    assert Slips(random.Random(0), rate=1.0).draw(Observation("a question")) is None


@pytest.mark.parametrize(
    ("name", "answer"), [("alfworld/generated/train", "Nothing happens."), ("webshop/train", None)]
)
def test_environments_refuse_slips(name, answer):
    panel = load_panel(name, data="generated" if name.startswith("webshop") else None)
    environment = make_environment(panel.environment, "generated" if answer is None else None)
    rng = random.Random(1)
    slips = Slips(rng, rate=0.5)
    drawn = 0
    for task_id in panel.task_ids[:5]:
        observation = environment.reset(task_id)
        for _ in range(15):
            slip = slips.draw(observation)
            harmless = [action for action in observation.admissible_actions if "buy" not in action]
            step = environment.step(slip or (rng.choice(harmless) if harmless else "search[red]"))
            if slip is not None:
                drawn += 1
                assert not step.info["action_valid"], slip
                assert answer in (None, step.observation.text)
            observation = step.observation
    assert drawn > 20
