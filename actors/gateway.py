"""The gateway: an OpenAI-compatible endpoint and an environment for every episode that an agent program plays.

It listens on the loopback alone, and every episode has a path of its own with a key that cannot be guessed:

    POST /KEY/v1/chat/completions   as https://platform.openai.com/docs/api-reference/chat/create
    GET  /KEY/environment           {"observation": "…", "admissible_actions": […], "done": false}
    POST /KEY/environment           {"action": "…"} → the same
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from actors.chat_requests import Refusal, read_request
from actors.program import Answered, ProgramEpisode

logger = logging.getLogger(__name__)

LARGEST_REQUEST = 16 * 2**20
"""Bytes; more than any model reads."""


class Gateway:
    """One server for all episodes of a rollout actor; make it with `start`."""

    def __init__(self) -> None:
        self._episodes: dict[str, ProgramEpisode] = {}
        app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[self._refusing])
        app.add_routes(
            [
                web.post("/{key}/v1/chat/completions", self._complete),
                web.get("/{key}/environment", self._look),
                web.post("/{key}/environment", self._act),
            ]
        )
        # A program that hangs up has no answer, so there is none to record.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)

    @classmethod
    async def start(cls) -> Gateway:
        gateway = cls()
        await gateway._runner.setup()
        await web.TCPSite(gateway._runner, "127.0.0.1", 0).start()
        return gateway

    @property
    def address(self) -> str:
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @contextmanager
    def serving(self, episode: ProgramEpisode) -> Iterator[str]:
        """The address of an episode, below which it is served within the block."""
        key = secrets.token_urlsafe(32)
        self._episodes[key] = episode
        try:
            yield f"{self.address}/{key}"
        finally:
            del self._episodes[key]

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        episode, asked = self._episode(request), read_request(await _body(request))
        return web.json_response(_completion(await episode.complete(asked)))

    async def _look(self, request: web.Request) -> web.Response:
        return web.json_response(self._episode(request).look())

    async def _act(self, request: web.Request) -> web.Response:
        episode, body = self._episode(request), await _body(request)
        action = body.get("action") if isinstance(body, dict) else None
        if not isinstance(action, str):
            raise Refusal('the body is no {"action": "…"} with a text')
        # An environment cannot take half a step: whoever hangs up, it is played to its end.
        return web.json_response(await asyncio.shield(episode.act(action)))

    def _episode(self, request: web.Request) -> ProgramEpisode:
        if (episode := self._episodes.get(request.match_info["key"])) is None:
            raise Refusal("no episode is played at this address", "unknown_address", status=404)
        return episode

    @web.middleware
    async def _refusing(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Every error as OpenAI's endpoints have them. 400, since a client asks again after 408, 409, 429 and 5xx."""
        try:
            return await handler(request)
        except Refusal as refusal:
            return _error(str(refusal), refusal.code, refusal.status)
        except web.HTTPException as error:
            where = f"{request.method} {request.path.rpartition('/')[2]!r}"
            return _error(
                f"{where} is not offered ({error.reason}): ask for chat/completions", "not_offered", error.status
            )
        except Exception as error:
            logger.warning("a request of an agent program failed: %s", error)
            self._episode(request).fail(error)
            return _error("the episode has failed: end the program", "episode_failed", 400)


async def _body(request: web.Request) -> Any:
    try:
        return await request.json()
    except (ValueError, LookupError, RecursionError):  # of the text, the character set, the depth
        raise Refusal("the body is no JSON") from None


def _error(message: str, code: str, status: int) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)


def _completion(answered: Answered) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answered.text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop" if answered.finished else "length",
    }
    usage = {
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "total_tokens": answered.prompt_tokens + answered.completion_tokens,
    }
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "policy",
        "choices": [choice],
        "usage": usage,
    }
