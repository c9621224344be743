"""Channels for open answers: what the policy is given to read, and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from actors.group_references import GroupTables
from actors.router import RouterActor
from envs import load_panel, make_environment
from envs.questions.library import QuestionLibrary
from learners.learner_settings import GRPOSettings
from learners.objectives import advantages
from learners.rewards.answers import AnswerReader, Answers, Rating, SoundEpisodes
from learners.rewards.channels import Reading
from learners.rewards.open_channels import KL, OpenChannels
from learners.rewards.reward_settings import RewardSettings
from learners.rewards.scalarisers import pure_scalariser
from learners.tiny import embedded_model_path
from tests.actors.scripted import GroupsAtHand
from trajectories.chat import ChatTokenizer
from trajectories.schema import sequences_from_table, to_tables
from trajectories.types import Episode, Sequence, StopReason, Trajectory, Turn

CHAT = ChatTokenizer(AutoTokenizer.from_pretrained(embedded_model_path()))
TASK = load_panel("questions/train").task_ids[0]
EPISODE = Episode("e", "g", 0, "questions", "train", TASK, 0, 0, 0, StopReason.DONE, False, {}, 1, 0.0, 0.0, 0.0)


def answered(name: str, response: str, stop: StopReason = StopReason.DONE, group: str = "g") -> Trajectory:
    """A whole episode of one question."""
    question = make_environment("questions").reset(TASK).text
    prompt = CHAT.encode(CHAT.render([{"role": "user", "content": question}]))
    ids = np.array([*prompt, *CHAT.encode_response(response)], np.int32)
    trained = np.arange(len(ids)) >= len(prompt)
    logprobs = np.where(trained, -1.0, 0.0).astype(np.float32)
    given = {"success": 0.0, "format": 1.0}
    episode = replace(EPISODE, episode_id=name, group_id=group, rewards=given, stop_reason=stop)
    turns = (Turn(len(prompt), len(ids), 0.0, 0, action_valid=True),)
    return Trajectory(episode, (Sequence(f"{name}-0", name, group, ids, trained, logprobs, turns, (), 1.0),))


def silent(name: str, stop: StopReason, group: str = "g") -> Trajectory:
    """An episode that ended before its first response."""
    return replace(answered(name, "", stop, group), sequences=())


PLAYED = to_tables(
    [
        answered("plain", "7"),
        answered("broken", "8", StopReason.ERROR),
        answered("reasoned", "I count.\nAnswer: 7"),
    ]
)


def test_the_reference_is_read_after_the_reasoning_in_place_of_the_answer() -> None:
    rows = sequences_from_table(OpenChannels(("reference",), CHAT, 24).to_read(*PLAYED))
    environment = make_environment("questions")
    prompt = environment.reset(TASK).text
    solution = environment.expert().act(environment.reset(TASK))  # type: ignore[attr-defined]
    texts = [CHAT.decode(row.token_ids.tolist()) for row in rows]
    start = CHAT.render([{"role": "user", "content": prompt}])
    assert texts == [f"{start}{solution}", f"{start}I count.\nAnswer: {solution}"]
    assert [CHAT.decode(row.token_ids[row.trained].tolist()) for row in rows] == [solution, f" {solution}"]
    written = CHAT.encode(f"I count.\nAnswer: {solution}")
    assert rows[1].token_ids[-len(written) :].tolist() == written, "split into tokens as the policy would write it"


def test_every_sound_episode_gets_a_value_in_each_channel() -> None:
    given = OpenChannels(("entropy", "length", "reference"), CHAT, response_limit=24)
    rows = sequences_from_table(given.to_read(*PLAYED))
    assert [row.sequence_id for row in rows] == ["plain-0", "reasoned-0", "plain-0/reference", "reasoned-0/reference"]
    counts = [int(row.trained.sum()) for row in rows]
    reading = Reading(
        tuple(np.full(count, -0.5 * at) for at, count in enumerate(counts)),
        tuple(np.full(count, 0.1 * at) for at, count in enumerate(counts)),
    )
    found = given.values(*PLAYED, reading)
    assert found["length"] == pytest.approx([1 - counts[0] / 24, 1 - counts[1] / 24])
    assert found["entropy"] == pytest.approx([0.0, -0.1])
    reasoning = len(CHAT.encode("I count.\nAnswer:"))
    assert found["reference"] == pytest.approx([-1.0, -1.5 / (1 + np.log(reasoning))])


def test_sign_and_shape_are_those_of_the_settings() -> None:
    reward = RewardSettings(entropy_sign=1, length_shape="target", length_target=0.25)
    given = OpenChannels(("entropy", "length"), CHAT, 24, reward)
    counts = [int(row.trained.sum()) for row in sequences_from_table(given.to_read(*PLAYED))]
    reading = Reading(tuple(np.zeros(n) for n in counts), tuple(np.full(n, 0.3) for n in counts))
    found = given.values(*PLAYED, reading)
    assert found["entropy"] == pytest.approx([0.3, 0.3])
    assert found["length"] == pytest.approx([1 - abs(count / 24 - 0.25) for count in counts])


def test_the_divergence_is_taken_off_the_reward_before_rewards_are_compared() -> None:
    grpo = GRPOSettings(kl_weight=0.5, kl_in="reward", advantage="dr_grpo")
    reward = RewardSettings(channels=("success", "format"))
    make = lambda: OpenChannels((KL,), CHAT, 24)  # noqa: E731 (as the actor is given it)
    router: Any = RouterActor(grpo, reward, reward.channels, 0, make)
    groups = GroupsAtHand(GroupTables(*PLAYED))
    rows = sequences_from_table(router.to_read(groups))
    counts = [int(row.trained.sum()) for row in rows]
    now = tuple(np.full(count, -1.0) for count in counts)
    initial = tuple(np.full(count, value) for count, value in zip(counts, (-1.0, -3.0), strict=True))
    _, batch, metrics = router.assign((), Reading(now, now, initial), groups)
    assert batch.names == ("success", "format") and batch.penalty.tolist() == pytest.approx([0.0, 0.5 * 2.0])
    assert metrics["reward/kl"] == pytest.approx(1.0)
    scalarise = pure_scalariser(reward, 0, advantages.dr_grpo)
    assert scalarise(batch).advantages.tolist() == pytest.approx([0.5, -0.5])


def test_the_length_is_that_of_a_response_however_many_an_action_took() -> None:
    """An agent program may ask three times before it acts once: the environment counts one turn."""
    thrice = answered("thrice", "I count. Answer: 7")
    (sequence,) = thrice.sequences
    (turn,) = sequence.turns
    cuts = [turn.start, turn.start + 2, turn.start + 4, turn.end]
    turns = tuple(replace(turn, start=start, end=end) for start, end in pairwise(cuts))
    asked = replace(thrice, sequences=(replace(sequence, turns=turns),))
    count = turn.end - turn.start
    found = OpenChannels(("length",), CHAT, response_limit=24).values(*to_tables([asked]), None)
    assert asked.episode.turns == 1 and found["length"] == pytest.approx([1 - count / 3 / 24])


class Lengths:
    """Rates an answer by its letters."""

    def rate(self, answers: Answers) -> Rating:
        return Rating([float(len(said)) for said in answers.responses], {"preference_s": 2.0})


SOME_SILENT = to_tables(
    [
        answered("plain", "7"),
        silent("full", StopReason.LENGTH_LIMIT),
        answered("reasoned", "I count.\nAnswer: 7"),
        silent("left", StopReason.GAVE_UP, "other"),
    ]
)


def test_an_episode_without_a_response_has_the_mean_of_its_group_in_each_channel_and_zero_without_any() -> None:
    names = ("entropy", "length", "reference", KL, "preference")
    given = OpenChannels(names, CHAT, 24, raters={"preference": Lengths()})
    rows = sequences_from_table(given.to_read(*SOME_SILENT))
    assert [row.sequence_id for row in rows] == ["plain-0", "reasoned-0", "plain-0/reference", "reasoned-0/reference"]
    counts = [int(row.trained.sum()) for row in rows]
    now = tuple(np.full(count, -0.5 * at) for at, count in enumerate(counts))
    reading = Reading(now, tuple(0.1 * row for row in now), tuple(row - 1.0 - at for at, row in enumerate(now)))
    rated, _ = given.rated(*SOME_SILENT)
    found = {**given.values(*SOME_SILENT, reading), **rated}
    assert found.keys() == set(names)
    for plain, full, reasoned, left in found.values():
        assert plain != reasoned and full == pytest.approx((plain + reasoned) / 2) and left == 0.0


def test_groups_in_which_nobody_responds_end_no_run() -> None:
    nobody = to_tables([silent("full", StopReason.LENGTH_LIMIT), silent("left", StopReason.GAVE_UP)])
    given = OpenChannels(("entropy", "length", "reference", KL, "judge"), CHAT, 24, raters={"judge": Lengths()})
    assert given.to_read(*nobody).num_rows == 0
    found = {**given.values(*nobody, Reading((), (), ())), **given.rated(*nobody)[0]}
    assert len(found) == 5 and all(column == [0.0, 0.0] for column in found.values())


def test_a_rater_reads_the_questions_and_responses_of_sound_episodes() -> None:
    given = OpenChannels(("preference",), CHAT, 24, raters={"preference": Lengths(), "judge": Lengths()})
    assert given.to_read(*PLAYED).num_rows == 0 and given.values(*PLAYED, None) == {}
    assert given.rated(*PLAYED) == ({"preference": [1.0, 18.0]}, {"preference_s": 2.0}), "and only for a channel"
    answers = AnswerReader(CHAT, QuestionLibrary.open()).answers(SoundEpisodes.of(*PLAYED))
    question = make_environment("questions").reset(TASK).text
    assert [asked.prompt for asked in answers.questions] == [question] * 2
    assert answers.responses == ("7", "I count.\nAnswer: 7") and answers.groups == ("g", "g")


def test_the_router_actor_takes_what_raters_give_and_what_they_cost() -> None:
    reward = RewardSettings(scalariser="uniform", channels=("format", "preference"))
    make = lambda: OpenChannels(("preference",), CHAT, 24, raters={"preference": Lengths()})  # noqa: E731
    router: Any = RouterActor(GRPOSettings(), reward, reward.channels, 0, make)
    _, batch, metrics = router.assign((), None, GroupsAtHand(GroupTables(*PLAYED)))
    assert batch.rewards[:, 1].tolist() == [1.0, 18.0]
    assert metrics["preference_s"] == 2.0 and metrics["reward/preference/mean"] == pytest.approx(9.5)


def test_the_router_actor_weighs_open_channels_beside_those_of_the_environment() -> None:
    reward = RewardSettings(scalariser="uniform", channels=("format", "length"))
    router: Any = RouterActor(GRPOSettings(), reward, reward.channels, 0, lambda: OpenChannels(("length",), CHAT, 24))
    _, batch, metrics = router.assign((), None, GroupsAtHand(GroupTables(*PLAYED)))
    assert batch is not None and batch.names == ("format", "length")
    assert batch.rewards[0, 1] > batch.rewards[1, 1]  # the shorter answer
    assert metrics["reward/length/spread"] > 0
    lengths = [int(row.trained.sum()) for row in sequences_from_table(PLAYED[1])]  # one turn each
    assert metrics["response_tokens"] == sum(lengths) / len(lengths)
