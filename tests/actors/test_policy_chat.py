"""The policy as a chat model: real Ray, a real engine bound to a schema, a real kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors import policy_chat
from actors.environment_host import start_environment_host
from actors.policy_chat import PolicyChat
from actors.rollout import start_rollout_actor
from actors.rollout_group import GroupRequest, RolloutSettings
from experience.protocols import EndpointDown, RefusedRequest
from tests.actors.conftest import SETTINGS
from tests.actors.scripted import Countdown
from trajectories.types import StopReason

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

NAME, HOST = "concerto:chat:rollout-0", "concerto:chat:env-0"
ENGINE = SETTINGS.model_copy(update={"structured_outputs": True})
ROLLOUT = RolloutSettings(engine=ENGINE, episodes=8, max_turns=4, max_response_tokens=8)
VERDICT = {
    "type": "object",
    "properties": {"verdict": {"enum": ["correct", "wrong"]}},
    "required": ["verdict"],
    "additionalProperties": False,
}
QUESTION = ({"role": "user", "content": "Is <|end|> it clean?"},)


@pytest.fixture(scope="module")
def actor(ray_session: None, tiny_model_dir: Any) -> Iterator[Any]:
    host = start_environment_host({"countdown": Countdown}, {"num_cpus": 0.1, "name": HOST})
    actor = start_rollout_actor(ROLLOUT, str(tiny_model_dir), (HOST,), {"name": NAME, "num_cpus": 0.5})
    yield actor
    ray.kill(actor)
    ray.kill(host)


async def test_replies_fit_the_schema_while_groups_are_played(actor: Any) -> None:
    episodes, _ = actor.run_group.remote(GroupRequest("beside", "countdown", "3", (1, 2, 3, 4), 0, 1.0, "train"))
    chat = PolicyChat([NAME])
    replies = await asyncio.gather(*(chat.complete(QUESTION, VERDICT, 40, 1.0) for _ in range(12)))
    verdicts = {json.loads(reply.text)["verdict"] for reply in replies}
    assert verdicts == {"correct", "wrong"}, "a model that knows nothing says both"
    assert all(0 < reply.completion_tokens < 40 and reply.prompt_tokens > 10 for reply in replies)
    assert StopReason.ERROR not in (await episodes)["stop_reason"].to_pylist()


async def test_a_prompt_that_leaves_no_room_is_refused_with_the_setting(actor: Any) -> None:
    long = ({"role": "user", "content": "clean mug " * 200},)
    with pytest.raises(RefusedRequest, match=r"leave no room for a reply in rollout\.engine\.max_model_len 256: raise"):
        await PolicyChat([NAME]).complete(long, VERDICT, 40, 1.0)


async def test_an_engine_that_dies_is_asked_again_when_it_is_back(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_chat, "ATTEMPTS", 60)
    monkeypatch.setattr(policy_chat, "WAIT_S", 1.0)
    os.kill((await actor.check_health.remote()).pid, signal.SIGKILL)
    reply = await PolicyChat([NAME]).complete(QUESTION, VERDICT, 40, 1.0)
    assert json.loads(reply.text)["verdict"]


async def test_where_no_engine_answers_it_counts_as_down(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_chat, "WAIT_S", 0.01)
    with pytest.raises(EndpointDown, match=r"asked 4 times, the last time concerto:none:rollout-0: "):
        await PolicyChat(["concerto:none:rollout-0"]).complete(QUESTION, VERDICT, 40, 1.0)
