"""Policies learn: each objective, with whole weights and adapters, from guessing to knowing, through the real engine.

A wrong sign, mask or normalisation, or weights that do not arrive, leave success where it was or drive it down;
docs/results/learning.md tells what each test gave when its part was broken.
"""

from __future__ import annotations

import pytest

from cluster.config.sections import ScheduleSettings
from learners.learner_settings import GRPOSettings, LearnerSettings, LoraSettings, OptimizerSettings, PolicySettings
from tests.learning.conftest import LORA_RANK, SIZE, School

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

GUESSED, KNOWN = 0.4, 0.65
"""Shares of right answers. Policies end near 1, but now and then lose one letter of four for good: 0.7."""


def settings(school: School, lr: float, lora: LoraSettings | None = None, **grpo: object) -> LearnerSettings:
    return LearnerSettings(
        policy=PolicySettings(model=str(school.model), lora=lora),
        optimizer=OptimizerSettings(lr=lr, warmup_steps=2, token_budget=4096),
        grpo=GRPOSettings.model_validate({"lr_scale": {"end": 0.2, "steps": 30}} | grpo),
    )


def schedule(**changes: object) -> ScheduleSettings:
    """Steps that teach nothing do not end it: that is how a policy ends that knows everything."""
    defaults = {"grpo_steps": 0, "groups_per_step": 8, "group_size": SIZE, "sft_batch": 4, "max_idle": 1000}
    return ScheduleSettings.model_validate(defaults | changes)


def assert_learned(success: list[float], known: float = KNOWN) -> None:
    """From guessing in the first three steps, which nothing published can have improved much, to knowing in the last
    five."""
    assert sum(success[:3]) / 3 < GUESSED and sum(success[-5:]) / 5 > known, [round(share, 2) for share in success]


async def test_grpo_learns_which_answer_is_rewarded(school: School) -> None:
    assert_learned(await school.learn(settings(school, lr=1e-3), schedule(grpo_steps=70)))


async def test_minibatches_of_informative_groups_alone_learn_too(school: School) -> None:
    dense = schedule(grpo_steps=35, dynamic_sampling=True, max_skipped=16)
    # Groups that know it all are skipped, so that what is left hardly ever does.
    assert_learned(await school.learn(settings(school, lr=2e-3, minibatches=2), dense), known=0.65)


async def test_adapters_learn_by_grpo(adapter_school: School) -> None:
    adapted = settings(adapter_school, lr=6e-3, lora=LoraSettings(rank=LORA_RANK, alpha=2.0 * LORA_RANK))
    assert_learned(await adapter_school.learn(adapted, schedule(grpo_steps=60)))


async def test_sft_teaches_what_is_shown(school: School) -> None:
    (success,) = await school.learn(settings(school, lr=2e-3), schedule(sft_steps=30, grpo_steps=1))
    assert success > KNOWN


async def test_a_mixed_stage_learns(school: School) -> None:
    assert_learned(await school.learn(settings(school, lr=2e-3), schedule(mixed_steps=50)))


async def test_credit_by_turn_spells_words_that_are_hardly_ever_right_by_chance(school: School) -> None:
    by_turn = settings(school, lr=2e-3, advantage="gigpo", minibatches=2)
    assert_learned(await school.learn(by_turn, schedule(grpo_steps=50), length=3))
