"""Which reward channels a run has, checked against its environments before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cluster.config.run import RunSettings
from cluster.inputs.models import resolve_model
from cluster.loop.tasks import TaskMixture
from envs import Panel, make_environment
from learners.rewards.answers import Rater
from learners.rewards.open_channels import KL, OF_ANY_EPISODE, OF_QUESTIONS, OpenChannels
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError, did_you_mean


def reward_channels(config: RunSettings, tasks: TaskMixture) -> tuple[str, ...]:
    """Those of `reward.channels`, else all that every environment of the run gives by itself; for questions, where
    several channels are weighed, also those that the policy's view and a reward model add. What `single` trains on is
    one of them, whoever gives it.

    Raises:
        UserError: an environment does not give a channel, the outcome or a weighed reward.
    """
    reward = config.reward
    given = {
        panel.environment: make_environment(panel.environment, *config.opening(panel.environment)).reward_names
        for panel in tasks.panels
    }
    wanted = {"channels": reward.channels, "weights": tuple(reward.weights)}
    for environment, names in given.items():
        more = OF_QUESTIONS if environment == "questions" else OF_ANY_EPISODE
        # Where several channels are weighed the outcome judges them, which a channel of the policy's own view cannot.
        _check("outcome", (reward.outcome,), environment, (*names, *more) if reward.scalariser == "single" else names)
        for key, channels in wanted.items():
            _check(key, channels, environment, (*names, *more))
    channels = reward.channels or _all_channels(config, given)
    if reward.outcome in OF_QUESTIONS and reward.outcome not in channels:
        channels = (*channels, reward.outcome)
    if left_out := [name for name in reward.weights if name not in channels]:
        raise UserError(
            f"reward.weights names {left_out[0]!r}, which is not among the channels of this run "
            f"({', '.join(channels)}): name all that are weighed in reward.channels."
        )
    if "preference" in channels and reward.preference_model is None:
        raise UserError(
            "this run has the channel 'preference', which needs a reward model: set reward.preference_model."
        )
    if reward.preference_model is not None:
        if "preference" not in channels:
            raise UserError(
                "reward.preference_model is not used: name 'preference' in reward.channels, or leave it out."
            )
        resolve_model(reward.preference_model)
    if "judge" in channels and not reward.judge.active:
        raise UserError(
            "this run has the channel 'judge', which needs a chat model: set reward.judge.base_url and "
            "reward.judge.model."
        )
    if reward.judge.active and "judge" not in channels:
        raise UserError("reward.judge is not used: name 'judge' in reward.channels, or leave it out.")
    return channels


def check_evaluator(config: RunSettings, panels: Sequence[Panel]) -> None:
    """Raises UserError where a judge has no answers to grade."""
    if config.evaluation.judge.active and all(panel.environment != "questions" for panel in panels):
        raise UserError(
            "evaluation.judge grades answers to questions, and no panel of questions is evaluated: name one in "
            "evaluation.panels, or leave the judge out."
        )


def _all_channels(config: RunSettings, given: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    first, *others = given.values()
    common = tuple(name for name in first if all(name in names for names in others))
    if config.reward.scalariser == "single" or set(given) != {"questions"}:
        return common
    rated = {"preference": config.reward.preference_model is not None, "judge": config.reward.judge.active}
    return common + tuple(name for name in OF_QUESTIONS if rated.get(name, True))


def open_channels(
    config: RunSettings, channels: Sequence[str], model: str, raters: Mapping[str, Rater]
) -> Callable[[], OpenChannels] | None:
    """Makes, in another process, those of the channels that no environment gives, and the penalty where there is one;
    None where there are none.

    Args:
        raters: who gives the channels that somebody rates.
    """
    names = [name for name in channels if name in OF_QUESTIONS] + [KL] * config.grpo.folds_kl
    if not names:
        return None
    return partial(_make, names, model, config, raters)


def _make(names: Sequence[str], model: str, config: RunSettings, raters: Mapping[str, Rater]) -> OpenChannels:
    return OpenChannels(
        names,
        ChatTokenizer.from_pretrained(model),
        config.rollout.max_response_tokens,
        config.reward,
        config.data.get("questions"),
        raters,
    )


def _check(key: str, channels: Sequence[str], environment: str, known: Sequence[str]) -> None:
    for name in channels:
        if name not in known:
            raise UserError(
                f"reward.{key} names {name!r}, which {environment} does not give: choose among "
                f"{', '.join(known)}.{did_you_mean(name, known)}"
            )
