"""A chat model behind any OpenAI-compatible endpoint, vLLM's own server included."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from experience.protocols import Completion, EndpointDown, Message, RefusedRequest
from trajectories.errors import UserError, first_line
from trajectories.settings import address_fault, without_password

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Times that a request is made before the endpoint counts as down."""
FIRST_WAIT_S = 0.5
"""Seconds before the second attempt; twice as long before every further one."""
TIMEOUT_S = 120.0
"""Seconds after which an attempt without an answer is given up."""


@dataclass(frozen=True, slots=True)
class OptionNames:
    """What its address and model are called where a user gives them, for what is said of them."""

    base_url: str = "--base-url"
    model: str = "--model"

    @classmethod
    def of_section(cls, section: str) -> OptionNames:
        """The settings of a section of a run."""
        return cls(f"{section}.base_url", f"{section}.model")


COMMAND = OptionNames()


class OpenAIChat:
    """Chat completions under a JSON schema (`response_format`); the key is `OPENAI_API_KEY`, if the endpoint wants one.

    Connection errors, timeouts, overload (429) and errors of the server (5xx) are tried again, `ATTEMPTS` times in all,
    each with its reason in the log. The schema goes without `strict`, which some endpoints bind to a part of JSON
    schema; vLLM holds its decoder to the whole of it anyway.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        timeout_s: float = TIMEOUT_S,
        first_wait_s: float = FIRST_WAIT_S,
        names: OptionNames = COMMAND,
    ) -> None:
        """Raises UserError where `base_url` is no address or holds a password."""
        if fault := address_fault(base_url):
            raise UserError(f"{names.base_url} {without_password(base_url)}: {fault}")
        self._base_url = base_url
        self._model = model
        self._first_wait_s = first_wait_s
        self._names = names
        self._key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"  # files of secrets end with a line end
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=self._key, timeout=timeout_s, max_retries=0)

    async def complete(
        self, messages: Sequence[Message], schema: Mapping[str, Any], max_tokens: int, temperature: float
    ) -> Completion:
        """One completion.

        Raises:
            RefusedRequest: the endpoint takes requests, but not this one (400, 413, 422).
            UserError: it knows no such model or path (404), or does not let us in (401, 403), or the key is none.
            EndpointDown: all attempts failed.
        """
        if not (self._key.isascii() and self._key.isprintable()):  # else the HTTP library would quote it in its error
            raise UserError("OPENAI_API_KEY has letters that no key has: set it again, as the endpoint's owner gave it")
        request = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "response_format": {"type": "json_schema", "json_schema": {"name": _name(schema), "schema": dict(schema)}},
        }
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._first_wait_s * 2 ** (attempt - 1))
            try:
                return _completion(await self._client.chat.completions.create(**request))
            except openai.APIStatusError as error:
                self._raise_what_stays(error)
                reason = f"HTTP {error.status_code}"
            except openai.APITimeoutError:
                reason = "no answer in time"
            except openai.APIConnectionError as error:
                reason = first_line(error.__cause__ or error)
            except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
                reason = f"no chat completion came back: {first_line(error)[:120]}"
            logger.warning("attempt %d of %d at %s failed: %s", attempt + 1, ATTEMPTS, self._base_url, reason)
        raise EndpointDown(
            f"{self._base_url} failed {ATTEMPTS} times, the last with: {reason}; see that it runs and that "
            f"{self._names.base_url} is right"
        )

    async def close(self) -> None:
        await self._client.close()

    def _raise_what_stays(self, error: openai.APIStatusError) -> None:
        """Raises for a status that no further attempt changes."""
        said = first_line(error)[:200]
        match error.status_code:
            case 400 | 413 | 422:
                raise RefusedRequest(said) from error
            case 401 | 403:
                raise UserError(f"{self._base_url} does not let us in ({said}): set OPENAI_API_KEY") from error
            case 404:
                raise UserError(
                    f"{self._base_url} knows no model {self._model!r} ({said}): check {self._names.model}, and that "
                    f"{self._names.base_url} ends as the endpoint wants, mostly in /v1"
                ) from error


def _completion(response: Any) -> Completion:
    """Raises AttributeError, TypeError or IndexError where the response has not the form of a chat completion."""
    text, usage = response.choices[0].message.content, response.usage
    if text is not None and not isinstance(text, str):
        raise TypeError("the message is no text")
    prompt_tokens = usage.prompt_tokens if usage else 0
    return Completion(text or "", prompt_tokens, usage.completion_tokens if usage else 0)


def _name(schema: Mapping[str, Any]) -> str:
    """A name that endpoints take: letters, digits and underscores, at most 64."""
    return re.sub(r"\W+", "_", str(schema.get("title", "reply")))[:64].strip("_")
