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

GUESSED, KNOWN = 0.45, 0.9


def settings(school: School, lr: float = 2e-3, lora: LoraSettings | None = None, **grpo: object) -> LearnerSettings:
    return LearnerSettings(
        policy=PolicySettings(model=str(school.model), lora=lora),
        optimizer=OptimizerSettings(lr=lr, warmup_steps=2, token_budget=4096),
        grpo=GRPOSettings.model_validate(grpo),
    )


def schedule(**steps: int) -> ScheduleSettings:
    defaults = {"grpo_steps": 0, "groups_per_step": 8, "group_size": SIZE, "sft_batch": 4}
    return ScheduleSettings.model_validate(defaults | steps)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


async def test_grpo_learns_which_answer_is_rewarded(school: School) -> None:
    success = await school.learn(settings(school), schedule(grpo_steps=40))
    assert mean(success[:3]) < GUESSED and mean(success[-5:]) > KNOWN, success


async def test_adapters_learn_by_grpo(adapter_school: School) -> None:
    adapted = settings(adapter_school, lr=3e-2, lora=LoraSettings(rank=LORA_RANK, alpha=2.0 * LORA_RANK))
    success = await adapter_school.learn(adapted, schedule(grpo_steps=40))
    assert mean(success[:3]) < GUESSED and mean(success[-5:]) > KNOWN, success


async def test_sft_teaches_what_is_shown(school: School) -> None:
    success = await school.learn(settings(school), schedule(sft_steps=25, grpo_steps=1))
    assert success[0] > KNOWN


async def test_a_mixed_stage_learns_from_both(school: School) -> None:
    success = await school.learn(settings(school), schedule(mixed_steps=30))
    assert mean(success[:2]) < GUESSED and mean(success[-3:]) > KNOWN, success


@pytest.mark.parametrize("advantage", ["grpo", "gigpo"])
async def test_credit_by_turn_spells_words_that_are_never_right_by_chance(school: School, advantage) -> None:
    success = await school.learn(
        settings(school, advantage=advantage, step_weight=1.0), schedule(grpo_steps=40), length=3
    )
