"""The episode loop and groups, on a scripted engine and environment."""

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest

from actors.engine import EngineDied, EngineError, EngineSettings, SamplingParameters
from actors.episode import EnvironmentFailure, TurnRewardSettings
from actors.rollout_group import GroupRequest, RolloutParts, RolloutSettings, play_group
from experience.advice import Advice, written
from experience.records import Experience, Item
from tests.actors.scripted import Countdown, LocalEnvironments, LocalSession, ScriptedEngine
from trajectories.builder import PromptSettings, make_builder
from trajectories.errors import UserError
from trajectories.prompt_settings import Instructions
from trajectories.types import StopReason

REQUEST = GroupRequest("g", "countdown", "3", (5, 6), weights_version=0, temperature=1.0, split="train")
SETTINGS = RolloutSettings(max_turns=10, engine=EngineSettings(max_model_len=500))


@pytest.fixture
def play(chat):
    """Plays a group and returns its trajectories."""

    async def run(engine, environments=None, request=REQUEST, settings=SETTINGS, prompt=PromptSettings()):  # noqa: B008
        environments = environments or LocalEnvironments(slots=8)
        trajectories = await play_group(
            request,
            settings,
            RolloutParts(engine, chat, environments),
            lambda advice: make_builder(chat, prompt, Instructions(prompt.system, advice=advice)),
        )
        assert [trajectory.episode.member for trajectory in trajectories] == list(range(len(request.seeds)))
        return trajectories

    return run


@pytest.fixture
def engine(chat):
    return lambda *responses, **options: ScriptedEngine(chat.encode_response, responses, **options)


def failed(trajectories):
    return [trajectory for trajectory in trajectories if trajectory.episode.stop_reason is StopReason.ERROR]


async def test_an_episode_ends_when_the_environment_says_so(play, engine):
    trajectories = await play(engine("down"))
    for trajectory in trajectories:
        episode = trajectory.episode
        assert (episode.stop_reason, episode.success, episode.turns) == (StopReason.DONE, True, 3)
        assert episode.rewards == pytest.approx({"success": 1, "progress": 1, "format": 1, "action_validity": 1})
        (sequence,) = trajectory.sequences
        assert [turn.state_hash for turn in sequence.turns] == [2, 1, 0]
        assert [turn.reward for turn in sequence.turns] == [0, 0, 1]
    assert not failed(trajectories)


async def test_exactly_the_sampled_tokens_are_trained(play, engine, chat):
    trajectory, _ = await play(engine("down"))
    (sequence,) = trajectory.sequences
    assert sequence.token_ids[sequence.trained].tolist() == chat.encode_response("down") * 3
    assert np.all(sequence.logprobs[sequence.trained] == -0.5) and not sequence.logprobs[~sequence.trained].any()


async def test_the_turn_limit_ends_an_episode(play, engine):
    trajectory, _ = await play(engine("wait"))
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.TURN_LIMIT, 10)
    assert not trajectory.episode.success


@pytest.mark.parametrize(("max_turns", "turns"), [(None, 10), (4, 4), (12, 12)])
async def test_a_request_may_bring_a_turn_limit_of_its_own(play, engine, max_turns, turns):
    trajectories = await play(engine("wait"), request=replace(REQUEST, max_turns=max_turns))
    assert [trajectory.episode.turns for trajectory in trajectories] == [turns, turns]


async def test_the_context_limit_ends_an_episode_before_its_prompt_is_too_long(play, engine):
    settings = SETTINGS.model_copy(update={"engine": EngineSettings(max_model_len=100)})
    trajectory, _ = await play(engine("wait"), settings=settings)
    assert trajectory.episode.stop_reason is StopReason.LENGTH_LIMIT and 0 < trajectory.episode.turns < 10
    assert all(len(sequence.token_ids) <= 100 for sequence in trajectory.sequences)


async def test_short_answers_use_all_of_the_context_whatever_a_response_may_take(play, engine):
    """The issue's case: a budget of 300 in a context of 512, and answers of a few tokens."""
    long = {"max_turns": 99, "engine": EngineSettings(max_model_len=512)}
    few, _ = await play(engine("wait"), settings=SETTINGS.model_copy(update=long | {"max_response_tokens": 24}))
    many, _ = await play(engine("wait"), settings=SETTINGS.model_copy(update=long | {"max_response_tokens": 300}))
    assert many.episode.turns == few.episode.turns > 10
    assert (many.episode.stop_reason, few.episode.stop_reason) == (StopReason.LENGTH_LIMIT, StopReason.LENGTH_LIMIT)
    (sequence,) = many.sequences
    assert 512 - 40 < len(sequence.token_ids) <= 512


async def test_an_answer_that_the_context_cuts_off_is_not_played(play, engine, chat):
    answer = "down " * 99
    assert len(chat.encode_response(answer)) > 120
    settings = SETTINGS.model_copy(update={"engine": EngineSettings(max_model_len=120), "max_response_tokens": 100})
    request = replace(REQUEST, seeds=(5,))
    (trajectory,) = await play(engine("wait", answer), settings=settings, request=request)
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.LENGTH_LIMIT, 1)
    (sequence,) = trajectory.sequences
    assert sequence.token_ids[sequence.trained].tolist() == chat.encode_response("wait")


async def test_an_answer_that_its_own_budget_cuts_off_is_played(play, engine):
    settings = SETTINGS.model_copy(update={"max_response_tokens": 3})
    trajectory, _ = await play(engine("wait for a long time"), settings=settings)
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.TURN_LIMIT, 10)


async def test_a_task_that_does_not_fit_at_all_gives_an_episode_without_sequences(play, engine):
    settings = SETTINGS.model_copy(update={"engine": EngineSettings(max_model_len=20)})
    scripted = engine("wait")
    scripted.version = 5
    trajectory, _ = await play(scripted, settings=settings)
    assert (trajectory.episode.stop_reason, trajectory.sequences) == (StopReason.LENGTH_LIMIT, ())
    assert trajectory.episode.version_min == 5, "no older than the weights that would have played it"


async def test_rewards_of_single_actions_are_averaged(play, engine):
    request = GroupRequest("g", "countdown", "3", (1,), 0, 1.0, "train")
    (trajectory,) = await play(engine("jump", "down"), request=request)
    assert trajectory.episode.rewards["action_validity"] == pytest.approx(3 / 4)
    assert [turn.action_valid for turn in trajectory.sequences[0].turns] == [False, True, True, True]


async def test_windowed_prompts_give_one_sequence_a_turn(play, engine):
    trajectory, _ = await play(engine("down"), prompt=PromptSettings(mode="windowed"))
    assert len(trajectory.sequences) == 3


async def test_versions_are_recorded_per_turn(play, engine):
    changing = engine("down")
    generate = changing.generate

    async def with_publications(*args):
        generation = await generate(*args)
        changing.version += 1
        return generation

    changing.generate = with_publications
    request = GroupRequest("g", "countdown", "3", (1,), 0, 1.0, "train")
    (trajectory,) = await play(changing, request=request)
    assert [span.version for span in trajectory.sequences[0].version_spans] == [0, 1, 2]
    assert (trajectory.episode.version_min, trajectory.episode.version_max) == (0, 2)


async def test_every_turn_and_member_has_its_own_sampling_seed(play, engine):
    seeded = engine("down")
    await play(seeded)
    assert len(set(seeded.seeds)) == 6


async def test_all_members_start_from_the_environment_seed_of_the_first(play, engine):
    seen = []

    class Watched(LocalSession):
        async def reset(self, task_id, seed):
            seen.append((task_id, seed))
            return await super().reset(task_id, seed)

    environments = LocalEnvironments(8, lambda lease: Watched())
    trajectories = await play(engine("down"), environments, replace(REQUEST, seeds=(5, 6, 7)))
    assert seen == [("3", 5)] * 3
    assert [trajectory.episode.seed for trajectory in trajectories] == [5, 6, 7], "sampling has its own"


async def test_no_more_episodes_run_than_there_are_environments(play, engine):
    environments = LocalEnvironments(slots=2)
    request = GroupRequest("g", "countdown", "2", tuple(range(6)), 0, 1.0, "train")
    trajectories = await play(engine("down", seconds=0.05), environments, request)
    assert environments.most == 2
    waits = [trajectory.episode.waiting_seconds for trajectory in trajectories]
    assert waits[-1] - waits[0] > 0.1, "two episodes of 0.1 s were played before it"


async def test_a_short_episode_does_not_wait_for_a_long_one(play, engine):
    """Two groups share two slots: four short episodes pass through one slot while the long one holds the other."""
    environments = LocalEnvironments(slots=2)
    short = GroupRequest("short", "countdown", "1", (1, 2, 3, 4), 0, 1.0, "train")
    long = GroupRequest("long", "countdown", "10", (1,), 0, 1.0, "train")
    finished: list[str] = []

    async def group(request):
        await play(engine("down", seconds=0.02), environments, request)
        finished.append(request.group_id)

    await asyncio.gather(group(long), group(short))
    assert finished == ["short", "long"]


async def test_seconds_are_told_apart(play, engine):
    started = time.perf_counter()
    trajectory, _ = await play(engine("down", seconds=0.02))
    assert 0.06 <= trajectory.episode.generation_seconds <= time.perf_counter() - started
    assert trajectory.episode.environment_seconds < trajectory.episode.generation_seconds


class Failing(LocalSession):
    async def step(self, action):
        raise EnvironmentFailure("the process died")


async def test_a_failed_episode_is_retried_in_a_fresh_environment(play, engine):
    environments = LocalEnvironments(8, lambda lease: Failing() if lease == 1 else LocalSession())
    trajectories = await play(engine("down"), environments)
    assert not failed(trajectories) and environments.leases == 3
    assert all(trajectory.episode.success for trajectory in trajectories)


async def test_an_episode_that_fails_for_good_is_recorded_with_its_error(play, engine):
    environments = LocalEnvironments(1, lambda lease: Failing() if lease != 2 else LocalSession())
    trajectories = await play(engine("down"), environments)
    (broken,) = failed(trajectories)
    assert broken.episode.error == "the process died" and broken.sequences == ()
    assert set(broken.episode.rewards) == set(Countdown.reward_names)


async def test_an_unknown_task_is_the_callers_error(play, engine):
    with pytest.raises(UserError, match="use a number"):
        await play(engine("down"), request=GroupRequest("g", "countdown", "x", (1, 2), 0, 1.0, "train"))


async def test_a_dead_engine_is_not_retried(play, engine):
    dead = engine("down")

    async def died(*args):
        raise EngineDied("generate: the engine died: out of memory")

    dead.generate = died
    environments = LocalEnvironments(8)
    with pytest.raises(EngineDied, match="out of memory"):
        await play(dead, environments)
    assert environments.leases == 2 and environments.leased == 0


async def test_a_group_for_newer_weights_is_refused(play, engine):
    with pytest.raises(EngineError, match=r"version 3, but this actor holds version 0.*publish to it first"):
        await play(engine("down"), request=GroupRequest("g", "countdown", "3", (1,), 3, 1.0, "train"))


TOLD = PromptSettings(format="tagged", system="Count.")


async def test_an_action_is_read_out_of_the_answer_and_its_tokens_stay_as_they_are(play, engine, chat):
    answer = "<think>One less.</think><action>Down.</action>"
    settings = SETTINGS.model_copy(update={"max_response_tokens": 64})
    trajectory, _ = await play(engine(answer), settings=settings, prompt=TOLD)
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.DONE, 3)
    assert trajectory.episode.rewards["format"] == 1.0
    (sequence,) = trajectory.sequences
    assert sequence.token_ids[sequence.trained].tolist() == chat.encode_response(answer) * 3


async def test_a_violation_earns_no_format_and_does_nothing(play, engine):
    """The environment of this test gives every text `format` 1; the answer broke it all the same."""
    turn_reward = TurnRewardSettings(format_violation=0.25)
    settings = SETTINGS.model_copy(update={"max_turns": 4, "turn_reward": turn_reward})
    trajectory, _ = await play(engine("down"), settings=settings, prompt=TOLD)
    episode = trajectory.episode
    assert (episode.stop_reason, episode.turns, episode.success) == (StopReason.TURN_LIMIT, 4, False)
    assert (episode.rewards["format"], episode.rewards["action_validity"], episode.rewards["progress"]) == (0, 0, 0)
    assert [turn.reward for turn in trajectory.sequences[0].turns] == [-0.25] * 4


async def test_of_a_response_that_its_budget_cut_off_no_half_action_is_played(play, engine, chat):
    prompt = PromptSettings(format="action", system="Count.")
    settings = SETTINGS.model_copy(update={"max_turns": 2, "max_response_tokens": len(chat.encode("down"))})
    trajectory, _ = await play(engine("down"), settings=settings, prompt=prompt)
    assert trajectory.episode.rewards["format"] == 0 and trajectory.episode.rewards["progress"] == 0
    assert [turn.truncated for turn in trajectory.sequences[0].turns] == [True, True]


@pytest.mark.parametrize("temperature", [0.001, 0.0099, 2.1, -1.0, float("nan")])
def test_a_temperature_that_the_engine_would_change_is_refused(temperature):
    with pytest.raises(EngineError, match=r"take 0 \(greedy\), or one from 0\.01 to 2"):
        SamplingParameters(temperature=temperature)
    assert [SamplingParameters(temperature=taken).temperature for taken in (0.0, 0.01, 2.0)] == [0.0, 0.01, 2.0]


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_an_episode_is_begun_exactly_as_often_as_the_settings_say(play, engine, attempts):
    settings, one = SETTINGS.model_copy(update={"episode_attempts": attempts}), replace(REQUEST, seeds=(5,))
    broken = LocalEnvironments(1, lambda lease: Failing())
    trajectories = await play(engine("down"), broken, one, settings)
    assert (len(failed(trajectories)), broken.leases) == (1, attempts)
    sound_at_last = LocalEnvironments(1, lambda lease: LocalSession() if lease == attempts else Failing())
    trajectories = await play(engine("down"), sound_at_last, one, settings)
    assert (len(failed(trajectories)), sound_at_last.leases) == (0, attempts)


ITEMS = tuple(Item.of("t", text) for text in ("Say down.", "Do not wait.", "Count."))
ADVICE = Advice("t", 7, "state", Experience(ITEMS[:1], ITEMS[1:]), (ITEMS[2].id, ITEMS[0].id, ITEMS[1].id), 500, 1)


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
async def test_told_members_read_the_advice_and_the_others_play_as_if_there_were_none(play, engine, chat, mode):
    prompt = PromptSettings(mode=mode)
    request = replace(REQUEST, seeds=(5, 6, 7), advice=ADVICE)
    played = await play(engine("down"), request=request, prompt=prompt)
    plain = await play(engine("down"), request=replace(request, advice=None), prompt=prompt)
    for trajectory in played[:2]:
        assert trajectory.episode.memory_snapshot == "7" and trajectory.episode.memory_ids == ADVICE.order
        for sequence in trajectory.sequences:
            text = chat.decode(sequence.token_ids.tolist())
            assert text.count("<experience>") == 1
            assert "- Say down.\nSteps:\n1. Do not wait.\n2. Count.\n</experience>\n\nCount down from 3." in text
    assert (played[2].episode.memory_snapshot, played[2].episode.memory_ids) == (None, ())
    for with_advice, without in zip(played[2].sequences, plain[2].sequences, strict=True):
        assert with_advice.token_ids.tolist() == without.token_ids.tolist()


async def test_the_block_keeps_its_cap_and_only_what_it_holds_is_recorded(play, engine, chat):
    whole = written(ADVICE, lambda text: len(chat.encode(text)))
    room = len(chat.encode(whole.text)) - 1
    request = replace(REQUEST, advice=replace(ADVICE, max_tokens=room, without=0))
    first, _ = await play(engine("down"), request=request)
    assert first.episode.memory_ids == ADVICE.order[:2], "the last in the order had no room"
    text = chat.decode(first.sequences[0].token_ids.tolist())
    block = text[text.index("<experience>") : text.index("</experience>") + len("</experience>")]
    assert len(chat.encode(block)) <= room and ITEMS[1].text not in block


async def test_where_nothing_is_known_yet_the_prompt_has_no_block(play, engine, chat):
    nothing = replace(ADVICE, experience=Experience(), order=(), state="", without=0)
    told, _ = await play(engine("down"), request=replace(REQUEST, advice=nothing))
    plain, _ = await play(engine("down"))
    assert (told.episode.memory_snapshot, told.episode.memory_ids) == ("7", ())
    assert told.sequences[0].token_ids.tolist() == plain.sequences[0].token_ids.tolist()
