"""The gateway to agent programs: a real server, the real `openai` client, and programs in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest
import pytest_asyncio

from actors.chat_requests import Refusal, read_request
from actors.engine import EngineDied, EngineSettings, SamplingParameters
from actors.episode import EnvironmentFailure, EpisodeTask, Rules, Tally, TurnRewardSettings
from actors.gateway import Gateway
from actors.program import (
    ENVIRONMENT_URL,
    ProgramAgent,
    ProgramEpisode,
    ProgramSettings,
    check_program,
    surroundings,
)
from actors.rollout_group import GroupRequest, RolloutParts, RolloutSettings, play_group
from tests.actors.scripted import LocalEnvironments, LocalSession, ScriptedEngine
from tests.experience.endpoint import completion, endpoint
from trajectories.chat_builder import ChatBuilder
from trajectories.errors import UserError
from trajectories.prompt_settings import PromptSettings
from trajectories.types import StopReason, Trajectory

TASK = EpisodeTask("g-0", "g", 0, "countdown", "train", "3", seed=5, environment_seed=5)
ROOM = [{"role": "user", "content": "Count down from 3."}]
EXAMPLE = Path(__file__).parents[2] / "examples" / "openai_agent.py"


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Gateway]:
    gateway = await Gateway.start()
    yield gateway
    await gateway.close()


class Served:
    """One episode of Countdown behind the gateway, and a client of each side of it."""

    def __init__(self, episode: ProgramEpisode, engine: ScriptedEngine, address: str) -> None:
        self.episode, self.engine, self.address = episode, engine, address
        self.client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="any")

    async def ask(self, messages: list[Any], **options: Any) -> Any:
        return await self.client.chat.completions.create(model="m", messages=messages, **options)

    async def environment(self, body: Any = None) -> tuple[int, Any]:
        method = "GET" if body is None else "POST"
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, f"{self.address}/environment", json=body) as answer,
        ):
            return answer.status, await answer.json()

    async def act(self, action: str) -> Any:
        status, shown = await self.environment({"action": action})
        assert status == 200, shown
        return shown


@pytest.fixture
def serve(gateway, chat):
    """Serves an episode: `async with serve("down") as served`."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def served(*says: str, session=None, seconds=0.0, max_turns=10, max_model_len=500, **rewards):
        engine = ScriptedEngine(chat.encode_response, says, seconds)
        session = session or LocalSession()
        sampling = SamplingParameters(1.0, 24, chat.stop_token_ids)
        agent = ProgramAgent(ProgramSettings(), gateway, engine, ChatBuilder(chat, PromptSettings()), sampling)
        rules, tally = Rules(max_turns, max_model_len, TurnRewardSettings(**rewards)), Tally(session.reward_names)
        first = await session.reset(TASK.task_id, TASK.environment_seed)
        episode = ProgramEpisode(TASK, agent, session, rules, tally, first)
        with gateway.serving(episode) as address:
            yield Served(episode, engine, address)

    return served


async def test_tokens_are_recorded_as_the_engine_sampled_them_and_the_environment_says_the_reward(serve, chat) -> None:
    async with serve("down") as served:
        messages: list[Any] = list(ROOM)
        assert (await served.environment())[1] == {
            "observation": "Count down from 3.",
            "admissible_actions": ["down", "wait"],
            "done": False,
        }
        for left in (2, 1, 0):
            answer = await served.ask(messages)
            choice = answer.choices[0]
            assert (choice.message.content, choice.finish_reason) == ("down", "stop")
            assert answer.usage.completion_tokens == len(chat.encode_response("down"))
            shown = await served.act("down")
            assert (shown["observation"], shown["done"]) == (f"{left} left.", left == 0)
            messages += [{"role": "assistant", "content": "down"}, {"role": "user", "content": shown["observation"]}]
        trajectory = await served.episode.trajectory(0.0)
    episode, (sequence,) = trajectory.episode, trajectory.sequences
    assert (episode.stop_reason, episode.success, episode.turns) == (StopReason.DONE, True, 3)
    assert episode.rewards == pytest.approx({"success": 1, "progress": 1, "format": 1, "action_validity": 1})
    assert sequence.token_ids[sequence.trained].tolist() == chat.encode_response("down") * 3
    assert (sequence.logprobs[sequence.trained] == -0.5).all() and not sequence.logprobs[~sequence.trained].any()
    assert [(turn.state_hash, turn.reward) for turn in sequence.turns] == [(2, 0), (1, 0), (0, 1)]
    assert len(set(served.engine.seeds)) == 3


async def test_a_turn_has_what_was_earned_until_the_next_answer(serve) -> None:
    """Plan, act twice, plan and act, and at last talk to no end."""
    async with serve("words", progress=3.0, invalid_action=0.25) as served:
        await served.ask(ROOM)
        await served.ask([{"role": "user", "content": "And now?"}])
        await served.act("down"), await served.act("jump")
        await served.ask([{"role": "user", "content": "Go on."}])
        await served.act("down")
        await served.ask([{"role": "user", "content": "How was it?"}])
        trajectory = await served.episode.trajectory(0.0)
    turns = [turn for sequence in trajectory.sequences for turn in sequence.turns]
    assert [turn.reward for turn in turns] == pytest.approx([0.0, 0.75, 1.0])
    assert [turn.action_valid for turn in turns] == [True, False, True]
    assert [turn.state_hash for turn in turns] == [0, 2, 1]
    assert (trajectory.episode.turns, trajectory.episode.stop_reason) == (3, StopReason.GAVE_UP)


async def test_requests_at_once_are_answered_one_after_the_other(serve) -> None:
    async with serve("one", "two", "three", seconds=0.05) as served:
        answers = await asyncio.gather(*(served.ask(ROOM) for _ in range(3)))
        await served.act("down")
        trajectory = await served.episode.trajectory(0.0)
    assert sorted(answer.choices[0].message.content for answer in answers) == ["one", "three", "two"]
    assert [len(sequence.turns) for sequence in trajectory.sequences] == [1, 1, 1]


async def test_an_answer_that_nobody_waits_for_is_not_recorded(serve) -> None:
    async with serve("slow", "down", seconds=1.5) as served:
        impatient = served.client.with_options(timeout=0.1, max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            await impatient.chat.completions.create(model="m", messages=ROOM)  # pyright: ignore[reportArgumentType]
        await served.ask(ROOM)
        await served.act("down")
        trajectory = await served.episode.trajectory(0.0)
    assert [len(sequence.turns) for sequence in trajectory.sequences] == [1]


async def test_an_answer_has_at_most_the_tokens_that_are_asked_for(serve) -> None:
    async with serve("down down down") as served:
        answer = await served.ask(ROOM, max_completion_tokens=2, temperature=0.0)
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (2, "length")
        await served.act("down")
        (sequence,) = (await served.episode.trajectory(0.0)).sequences
    assert sequence.turns[0].truncated and sequence.temperature == 1.0, "how it is sampled is the run's business"


async def test_messages_that_leave_no_room_end_the_episode(serve) -> None:
    async with serve("down", max_model_len=60) as served:
        await served.ask(ROOM)
        await served.act("down")
        with pytest.raises(openai.BadRequestError, match=r"leaves too few of rollout.engine.max_model_len 60") as told:
            await served.ask([{"role": "user", "content": "words " * 60}])
        assert told.value.code == "context_length_exceeded"
        status, body = await served.environment({"action": "down"})
        assert (status, body["error"]["code"]) == (400, "episode_over")
        trajectory = await served.episode.trajectory(0.0)
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.LENGTH_LIMIT, 1)


async def test_the_turn_limit_ends_the_episode(serve) -> None:
    async with serve("wait", max_turns=2) as served:
        assert [(await served.act("wait"))["done"] for _ in range(2)] == [False, True]
        with pytest.raises(openai.BadRequestError, match=r"the episode is over \(turn_limit\): end the program"):
            await served.ask(ROOM)
        assert (await served.episode.trajectory(0.0)).episode.stop_reason is StopReason.TURN_LIMIT


async def test_without_its_key_an_episode_cannot_be_reached_and_nobody_else_hears_the_gateway(serve, gateway) -> None:
    async with serve("down") as served, serve("down") as other:
        keys = {one.address.rpartition("/")[2] for one in (served, other)}
        assert len(keys) == 2 and all(len(key) >= 43 for key in keys), "256 bits"
        assert gateway.address.startswith("http://127.0.0.1:")
        guessed = openai.AsyncOpenAI(base_url=f"{gateway.address}/{'x' * 43}/v1", api_key="any")
        with pytest.raises(openai.NotFoundError, match="no episode is played at this address"):
            await guessed.chat.completions.create(model="m", messages=ROOM)  # pyright: ignore[reportArgumentType]
    with pytest.raises(openai.NotFoundError, match="no episode is played at this address"):
        await served.ask(ROOM)


async def test_what_is_not_offered_is_told_as_openai_tells_it(serve) -> None:
    async with serve("down") as served:
        with pytest.raises(openai.NotFoundError, match=r"'responses' is not offered .*ask for chat/completions"):
            await served.client.responses.create(model="m", input="Hello")
        with pytest.raises(openai.BadRequestError, match="tools is not offered while a policy is trained") as told:
            await served.ask(ROOM, tools=[{"type": "function", "function": {"name": "f"}}])
        assert (told.value.type, told.value.code) == ("invalid_request_error", "unsupported_parameter")
        async with aiohttp.ClientSession(f"{served.address}/v1/") as http:
            for data, charset in ((b"{", "utf-8"), (b"\xff", "utf-8"), (b"[" * 100_000, "utf-8"), (b"{}", "none")):
                kind = {"Content-Type": f"a/b; charset={charset}"}
                async with http.post("chat/completions", data=data, headers=kind) as answer:
                    assert (await answer.json())["error"]["message"] == "the body is no JSON"
        for body in ({}, {"action": 5}, ["down"]):
            assert "with a text" in (await served.environment(body))[1]["error"]["message"]
        assert not served.episode.over.is_set(), "the program may do better"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ([], "the body is no JSON object"),
        ({"messages": []}, "messages is no list of one message or more"),
        ({"messages": ["Hello"]}, r"messages\[0\] has the role None: take system, user or assistant"),
        ({"messages": [{"role": ["user"], "content": ""}]}, r"messages\[0\] has the role \['user'\]"),
        ({"messages": [{"role": "tool", "content": ""}]}, r"messages\[0\] has the role 'tool'"),
        ({"messages": [{"role": "assistant", "content": None}]}, r"messages\[0\].content is no text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "calls tools, which are not offered"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts that are no text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
        ({"messages": ROOM, "n": 2}, "n is not offered"),
        ({"messages": ROOM, "stream": True}, "stream is not offered"),
        ({"messages": ROOM, "stop": ["\n"]}, "stop is not offered"),
        ({"messages": ROOM, "response_format": {"type": "json_object"}}, "response_format is not offered"),
        ({"messages": ROOM, "max_tokens": 0}, "max_tokens is 0, no whole number above 0"),
        ({"messages": ROOM, "max_completion_tokens": "9"}, "max_completion_tokens is '9', no whole number"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_in_one_line(request_: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said) as told:
        read_request(request_)
    assert "\n" not in str(told.value)


def test_a_request_is_read_with_what_asks_for_nothing() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Play."}, {"role": "user", "content": parts, "name": "me"}]
    neutral = {"n": 1, "stream": False, "tools": [], "stop": None, "response_format": {"type": "text"}, "top_p": 0.3}
    found = read_request({"messages": messages, "max_tokens": 9, "max_completion_tokens": 7, **neutral})
    assert found.messages == ({"role": "system", "content": "Play."}, {"role": "user", "content": "ab"})
    assert found.max_tokens == 7 and read_request({"messages": messages}).max_tokens is None


def test_a_program_finds_its_addresses_and_no_proxy_between() -> None:
    found = surroundings("http://127.0.0.1:1/key", {"NO_PROXY": "example.org"})
    assert found["OPENAI_BASE_URL"] == "http://127.0.0.1:1/key/v1"
    assert found[ENVIRONMENT_URL] == "http://127.0.0.1:1/key/environment"
    assert found["NO_PROXY"] == found["no_proxy"] == "example.org,127.0.0.1"


# Programs in processes of their own


@pytest.fixture
def play(gateway, chat, tmp_path):
    """Plays a group by a program of these lines, or by this command; returns trajectories."""

    async def run(program: str | tuple[str, ...], engine=None, seeds=(5,), environments=None, **settings):
        if isinstance(program, str):
            (tmp_path / "program.py").write_text(program)
            program = (sys.executable, str(tmp_path / "program.py"))
        config = RolloutSettings(
            max_turns=10,
            engine=EngineSettings(max_model_len=500),
            program=ProgramSettings(command=program, **settings),
            episode_attempts=2,
        )
        engine = engine or ScriptedEngine(chat.encode_response, ["down"])
        parts = RolloutParts(engine, chat, environments or LocalEnvironments(slots=4), gateway)
        request = GroupRequest("g", "countdown", "3", seeds, weights_version=0, temperature=1.0, split="train")
        return await play_group(request, config, parts, lambda advice: pytest.fail("nobody builds our prompts"))

    return run


ACTS = """
import json, os, sys, urllib.request
def act(action):
    body = json.dumps({"action": action}).encode()
    with urllib.request.urlopen(os.environ["CONCERTO_ENVIRONMENT_URL"], body) as answer:
        return json.load(answer)
"""


async def test_the_example_plays_unchanged_and_its_tokens_are_trained(play, chat) -> None:
    trajectories: list[Trajectory] = await play((sys.executable, str(EXAMPLE)), seeds=(5, 6))
    for trajectory in trajectories:
        episode, (sequence,) = trajectory.episode, trajectory.sequences
        assert (episode.stop_reason, episode.success, episode.turns) == (StopReason.DONE, True, 3)
        assert sequence.token_ids[sequence.trained].tolist() == chat.encode_response("down") * 3
        assert episode.generation_seconds > 0 and episode.environment_seconds > 0
    assert len({trajectory.episode.episode_id for trajectory in trajectories}) == 2


async def test_the_same_file_plays_by_any_other_endpoint(tmp_path) -> None:
    """Given only another base URL."""
    asked: list[Any] = []
    with endpoint(lambda request: (asked.append(request), (200, completion("look")))[1]) as url:
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": "x",
            "PYTHONPATH": str(EXAMPLE.parents[1]),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(EXAMPLE), env=environment, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert process.returncode == 0 and len(asked) == 20
    assert asked[-1]["messages"][-2] == {"role": "assistant", "content": "look"}
    assert said.decode().count("> look") == 20


async def test_a_program_that_gives_up_has_played_and_its_end_says_so(play) -> None:
    (trajectory,) = await play(ACTS + "act('down')")
    assert (trajectory.episode.stop_reason, trajectory.episode.turns) == (StopReason.GAVE_UP, 1)
    assert not trajectory.episode.success and trajectory.episode.error is None and trajectory.sequences == ()


async def test_a_program_that_breaks_is_tried_again_and_its_last_line_recorded(play) -> None:
    environments = LocalEnvironments(slots=4)
    (trajectory,) = await play(ACTS + "act('down')\nraise ValueError('no idea')", environments=environments)
    assert trajectory.episode.stop_reason is StopReason.ERROR and environments.leases == 2
    assert trajectory.episode.error == "the agent program ended with exit code 1: ValueError: no idea"


async def test_how_a_program_ends_after_its_episode_does_not_matter(play) -> None:
    (trajectory,) = await play(ACTS + "[act('down') for _ in range(3)]\nsys.exit(3)")
    assert (trajectory.episode.stop_reason, trajectory.episode.success) == (StopReason.DONE, True)


async def test_a_program_that_hangs_is_ended_with_all_that_it_started(play, tmp_path) -> None:
    file = tmp_path / "pid"
    child = f"import subprocess; print(subprocess.Popen(['sleep', '60']).pid, file=open({str(file)!r}, 'w'))"
    async with asyncio.timeout(40):
        (trajectory,) = await play(f"{child}\nimport time; time.sleep(60)", timeout_s=5.0)
    assert trajectory.episode.error == ("the agent program did not end its episode within rollout.program.timeout_s 5")
    pid = int(file.read_text())
    async with asyncio.timeout(10):  # it has been killed, and dies when it next gets a core
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


async def test_a_dead_engine_is_no_fault_of_the_program(play, chat) -> None:
    dead: Any = ScriptedEngine(chat.encode_response, ["down"])

    async def died(*args: Any) -> Any:
        raise EngineDied("generate: the engine died: out of memory")

    dead.generate = died
    with pytest.raises(EngineDied, match="out of memory"):
        await play((sys.executable, str(EXAMPLE)), dead)


async def test_an_environment_that_dies_is_begun_again(play) -> None:
    class Failing(LocalSession):
        async def step(self, action: str) -> Any:
            raise EnvironmentFailure("the process died")

    environments = LocalEnvironments(4, lambda lease: Failing() if lease == 1 else LocalSession())
    (trajectory,) = await play(ACTS + "[act('down') for _ in range(3)]", environments=environments)
    assert trajectory.episode.success and environments.leases == 2


async def test_an_environment_that_dies_after_the_program_has_hung_up_is_begun_again(play) -> None:
    class Failing(LocalSession):
        async def step(self, action: str) -> Any:
            await asyncio.sleep(0.5)
            raise EnvironmentFailure("the process died")

    environments = LocalEnvironments(4, lambda lease: Failing() if lease == 1 else LocalSession())
    hanging_up = ACTS.replace("body)", "body, timeout=0.1)") + "try: act('down')\nexcept OSError: pass"
    (trajectory,) = await play(hanging_up, environments=environments)
    assert environments.leases == 2 and trajectory.episode.error is None


async def test_a_program_that_is_not_there_stops_the_run_in_one_line(play) -> None:
    with pytest.raises(UserError, match=r"there is no program 'no-such-agent': check rollout.program.command"):
        check_program(ProgramSettings(command=("no-such-agent",)))
    with pytest.raises(UserError, match=r"'/no/agent' cannot be started \(No such file or directory\): check"):
        await play(("/no/agent",))
    check_program(ProgramSettings(command=(sys.executable, "-c", "")))


async def test_a_program_is_not_told_the_runs_own_secrets_of_openai(play, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-real-one")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.org/v1")
    out = tmp_path / "seen"
    await play(f"import os, json; json.dump(dict(os.environ), open({str(out)!r}, 'w'))")
    seen = json.loads(out.read_text())
    assert seen["OPENAI_API_KEY"] != "the-real-one" and seen["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
