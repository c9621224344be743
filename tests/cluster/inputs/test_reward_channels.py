"""Which reward channels a run has."""

from __future__ import annotations

import pytest

from cluster.config.loading import load_config
from cluster.config.run import RunSettings
from cluster.inputs.reward_channels import check_evaluator, open_channels, reward_channels
from cluster.loop.tasks import TaskMixture
from envs import load_panel, training_panel
from trajectories.errors import UserError
from trajectories.schema import to_tables

JUDGE = ("reward.judge.base_url=http://h/v1", "reward.judge.model=m")
ALFWORLD = ("success", "progress", "format", "action_validity", "efficiency")


def channels_of(*overrides: str) -> tuple[str, ...]:
    config = load_config("local", overrides=["data.webshop=generated", *overrides])
    return reward_channels(config, mixture(config))


def mixture(config: RunSettings) -> TaskMixture:
    return TaskMixture(tuple(training_panel(name, config.data.get(name)) for name in config.tasks))


def test_a_run_weighs_what_all_its_environments_give():
    assert channels_of() == ALFWORLD
    both = channels_of("tasks=[webshop,alfworld]", "reward.scalariser=uniform")
    assert both == ("success", "format", "action_validity", "efficiency")
    assert channels_of("reward.channels=[progress,length]") == ("progress", "length")


def test_questions_have_open_channels_where_several_are_weighed(tiny_model_dir):
    assert channels_of("tasks=questions") == ("success", "format")
    weighed = ["tasks=questions", "reward.scalariser=conductor"]
    assert channels_of(*weighed) == ("success", "format", "entropy", "length", "reference")
    preferred = channels_of(*weighed, f"reward.preference_model={tiny_model_dir}")
    assert preferred[-1] == "preference"
    assert channels_of(*weighed, *JUDGE)[-2:] == ("reference", "judge")


def test_a_channel_must_be_given_by_every_environment():
    with pytest.raises(UserError, match=r"reward\.channels names 'progress', which webshop does not give"):
        channels_of("tasks=[alfworld,webshop]", "reward.channels=[progress]")
    for scalariser in ("uniform", "conductor"):
        with pytest.raises(UserError, match=r"reward\.outcome names 'length', which alfworld does not give"):
            channels_of("reward.outcome=length", f"reward.scalariser={scalariser}")


def test_a_single_reward_may_be_any_channel(tiny_model_dir):
    """NOVER trains on the perplexity of the reference, EM-GRPO on the policy's own entropy."""
    assert channels_of("tasks=questions", "reward.outcome=reference") == ("success", "format", "reference")
    assert channels_of("tasks=questions", "reward.outcome=entropy") == ("success", "format", "entropy")
    assert channels_of("reward.outcome=entropy") == (*ALFWORLD, "entropy")
    judged = channels_of("tasks=questions", "reward.outcome=preference", f"reward.preference_model={tiny_model_dir}")
    assert judged == ("success", "format", "preference")
    with pytest.raises(
        UserError, match=r"the channel 'preference', which needs a reward model: set reward\.preference"
    ):
        channels_of("tasks=questions", "reward.outcome=preference")
    with pytest.raises(UserError, match=r"reward\.outcome names 'reference', which alfworld does not give"):
        channels_of("reward.outcome=reference")


def test_a_judge_and_its_channel_belong_together():
    assert channels_of("tasks=questions", "reward.outcome=judge", *JUDGE) == ("success", "format", "judge")
    with pytest.raises(
        UserError, match=r"^this run has the channel 'judge', which needs a chat model: set reward\.judge"
    ):
        channels_of("tasks=questions", "reward.outcome=judge")
    with pytest.raises(UserError, match=r"^reward\.judge is not used: name 'judge' in reward\.channels"):
        channels_of("tasks=questions", *JUDGE)
    with pytest.raises(UserError, match=r"reward\.channels names 'judge', which alfworld does not give"):
        channels_of("reward.channels=[judge]", *JUDGE)
    for half in JUDGE:
        with pytest.raises(UserError, match=r"base_url and model of a judge belong together"):
            load_config("local", overrides=[half])
    with pytest.raises(UserError, match=r"reward\.judge\.base_url='host'.*write it as http://HOST:PORT/v1"):
        load_config("local", overrides=["reward.judge.base_url=host", "reward.judge.model=m"])


def test_an_evaluation_with_a_judge_has_questions():
    overrides = [setting.replace("reward", "evaluation") for setting in JUDGE]
    config = load_config("local", overrides=overrides)
    check_evaluator(config, [load_panel("questions/test")])
    check_evaluator(load_config("local"), [])
    with pytest.raises(UserError, match=r"^evaluation\.judge grades answers to questions, and no panel of questions"):
        check_evaluator(config, [load_panel("alfworld/generated/heldout")])


def test_a_weighed_channel_must_be_one_of_the_run():
    with pytest.raises(UserError, match=r"reward\.weights names 'length', which is not among the channels of this run"):
        channels_of("reward.scalariser=static", "reward.weights={success: 1, length: 1}")
    with pytest.raises(
        UserError, match=r"reward\.weights names 'preference'.*name all that are weighed in reward\.chan"
    ):
        channels_of("tasks=questions", "reward.scalariser=gdpo", "reward.weights={preference: 1}")


def test_nothing_is_opened_for_channels_that_the_environment_gives(tiny_model_dir):
    config = load_config("local")
    assert open_channels(config, ALFWORLD, str(tiny_model_dir), {}) is None
    make = open_channels(config, ("success", "length"), str(tiny_model_dir), {})
    assert make is not None
    assert make().to_read(*to_tables([])).num_rows == 0
