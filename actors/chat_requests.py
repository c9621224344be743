"""What an OpenAI client asks of the gateway: read, and refused in one line where a run cannot do it.

The form is that of https://platform.openai.com/docs/api-reference/chat/create. How an answer is sampled is the run's
own business: a temperature that a program asks for changes nothing, since behaviour log-probabilities must be those of
the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trajectories.chat import Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
READ = ("messages", "max_tokens", "max_completion_tokens")
SAMPLING = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
BOOKKEEPING = ("model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
WITHOUT_EFFECT = frozenset((*SAMPLING, *BOOKKEEPING))
"""May be asked for, and changes nothing."""
NEUTRAL: tuple[Any, ...] = (None, False, [], {}, {"type": "text"})
"""Values by which any other parameter asks for nothing."""


class Refusal(Exception):
    """A request that is not done. One line for the program's author.

    Attributes:
        code: for programs, as OpenAI's endpoints have one.
    """

    def __init__(self, message: str, code: str = "invalid_request", status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`max_tokens`: the longest answer that is asked for; None: as long as the run allows."""

    messages: tuple[Message, ...]
    max_tokens: int | None = None


def read_request(body: Any) -> ChatRequest:
    """A request for a chat completion. Raises Refusal."""
    if not isinstance(body, Mapping):
        raise Refusal("the body is no JSON object: send messages")
    for name in sorted(body.keys() - WITHOUT_EFFECT - set(READ)):
        if body[name] not in NEUTRAL and not (name == "n" and body[name] == 1):
            raise Refusal(f"{name} is not offered while a policy is trained: leave it out", "unsupported_parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal("messages is no list of one message or more")
    limits = [_limit(name, body[name]) for name in READ[1:] if body.get(name) is not None]
    return ChatRequest(tuple(_message(at, message) for at, message in enumerate(messages)), min(limits, default=None))


def _limit(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Refusal(f"{name} is {value!r}, no whole number above 0")
    return value


def _message(at: int, message: Any) -> Message:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in ROLES:
        raise Refusal(f"messages[{at}] has the role {role!r}: take system, user or assistant")
    if message.get("tool_calls"):
        raise Refusal(f"messages[{at}] calls tools, which are not offered: write what was done as text")
    return {"role": ROLES[role], "content": _text(f"messages[{at}].content", message.get("content"))}


def _text(where: str, content: Any) -> str:
    """A text, or the text of parts."""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise Refusal(f"{where} has parts that are no text: only text is read")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise Refusal(f"{where} is no text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise Refusal(f"{where} holds half a character (a lone surrogate): send valid text") from None
    return content
