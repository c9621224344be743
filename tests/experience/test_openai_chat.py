"""The chat model behind an endpoint that works, is down, slow, overloaded, or answers garbage."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from experience.asking import ANSWER, NAME, BudgetSpent, Prompter, Spending, StepFailed
from experience.openai_chat import ATTEMPTS, EndpointDown, OpenAIChat
from experience.prompts.replies import Answer, Naming
from experience.protocols import RefusedRequest
from tests.experience.endpoint import Respond, completion, endpoint, slow
from trajectories.errors import UserError

SCHEMA = Naming.model_json_schema()
MESSAGES = [{"role": "user", "content": "Hello"}]


async def ask(base_url: str, timeout_s: float = 5.0) -> Any:
    model = OpenAIChat(base_url, "m", timeout_s=timeout_s, first_wait_s=0.01)
    try:
        return await model.complete(MESSAGES, SCHEMA, 64, 1.0)
    finally:
        await model.close()


async def test_a_completion_is_bound_to_the_schema_and_its_tokens_are_told() -> None:
    requests = []
    with endpoint(lambda request: (requests.append(request), (200, completion("{}")))[1]) as url:
        found = await ask(url)
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("{}", 7, 3)
    (request,) = requests
    assert request["response_format"] == {"type": "json_schema", "json_schema": {"name": "Naming", "schema": SCHEMA}}
    assert (request["max_tokens"], request["temperature"], request["messages"]) == (64, 1.0, MESSAGES)


async def test_an_endpoint_that_is_down_is_tried_a_bounded_number_of_times(caplog: pytest.LogCaptureFixture) -> None:
    with endpoint(slow(0)) as url:
        pass  # closed again: nobody listens there
    with caplog.at_level(logging.WARNING), pytest.raises(EndpointDown) as raised:
        await ask(url)
    assert f"failed {ATTEMPTS} times" in str(raised.value) and "\n" not in str(raised.value)
    assert "--base-url" in str(raised.value) and "goes on" in raised.value.fix
    assert len([record for record in caplog.records if "failed" in record.message]) == ATTEMPTS


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (slow(0.6), "no answer in time"),
        (lambda request: (503, "{}"), "HTTP 503"),
        (lambda request: (429, "{}"), "HTTP 429"),
        (lambda request: (200, "<html>nginx</html>"), "no chat completion came back"),
        (lambda request: (200, '{"choices": []}'), "no chat completion came back"),
        (lambda request: (200, '{"choices": [{"message": {"content": 7}}]}'), "no chat completion came back"),
        (lambda request: (200, "[1, 2]"), "no chat completion came back"),
    ],
)
async def test_what_is_no_answer_is_tried_again_and_named(respond: Respond, reason: str) -> None:
    calls = []
    counted = endpoint(lambda request: (calls.append(1), respond(request))[1])
    with counted as url, pytest.raises(EndpointDown, match=reason):
        await ask(url, timeout_s=0.2 if reason == "no answer in time" else 5.0)
    assert len(calls) == ATTEMPTS


async def test_an_endpoint_that_recovers_is_heard() -> None:
    statuses = iter((503, 503, 200))
    with endpoint(lambda request: (next(statuses), completion("{}"))) as url:
        assert (await ask(url)).text == "{}"


@pytest.mark.parametrize(
    ("status", "error", "fix"),
    [(401, UserError, "OPENAI_API_KEY"), (404, UserError, "check --model"), (400, RefusedRequest, "too long")],
)
async def test_what_no_further_attempt_changes_is_told_at_once(status: int, error: type[Exception], fix: str) -> None:
    calls = []
    body = json.dumps({"error": {"message": "the prompt is too long"}})
    with endpoint(lambda request: (calls.append(1), (status, body))[1]) as url, pytest.raises(error, match=fix):
        await ask(url)
    assert len(calls) == 1


class Saying:
    """Replies with these texts, one after the other."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    async def complete(self, messages: Any, schema: Any, max_tokens: int, temperature: float) -> Any:
        from experience.protocols import Completion

        return Completion(self.texts.pop(0), 10, 5)


async def test_a_reply_that_cannot_be_used_is_asked_for_again_and_costs_what_it_costs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, spending = Saying("no JSON", '{"name": ""}', '{"name": "sums", "description": "of numbers"}'), Spending()
    with caplog.at_level(logging.INFO, "experience"):
        reply = await Prompter(model, spending).ask(NAME, Naming, question="?")
    assert reply.name == "sums"
    assert spending.totals() == {"name": {"calls": 3, "retries": 2, "prompt_tokens": 30, "completion_tokens": 15}}
    assert [record.message.split(":")[0] for record in caplog.records] == ["name"] * 2
    assert "name: String should have at least 1 character" in caplog.records[1].message


@pytest.mark.parametrize(
    ("around", "description"),
    [
        ("<think>{{}} or not?</think>\n\n{}", "adds numbers"),
        ("```json\n{}\n```", "adds ```"),
        ("</think>\n```\n{}```\n", "adds numbers"),
        (" \n{}\n", "``` says </think> ```"),
    ],
)
async def test_a_reply_is_read_behind_a_thought_and_within_a_fence(around: str, description: str) -> None:
    """Of endpoints that do not bind their decoder to the schema."""
    naming = Naming(name="sums", description=description)
    spending = Spending()
    model = Saying(around.format(naming.model_dump_json()))
    assert await Prompter(model, spending).ask(NAME, Naming, question="?") == naming
    assert not spending.retries


async def test_garbage_ends_a_step_after_its_attempts_with_the_last_reason() -> None:
    model = Saying(*["garbage"] * 30)
    with pytest.raises(StepFailed, match="name: no usable reply in 10 attempts, the last: Invalid JSON"):
        await Prompter(model, Spending()).ask(NAME, Naming, question="?")
    assert len(model.texts) == 20


async def test_reasoning_that_is_too_short_is_asked_for_again() -> None:
    good = '{"plan": "p", "reasoning": "one and one are two", "answer": "2"}'
    short = '{"plan": "p", "reasoning": "so", "answer": "3"}'
    model = Saying(short, good.replace("two", "two, so"))
    reply = await Prompter(model, Spending()).ask(ANSWER, Answer, question="?", experience=(), demonstrations=())
    assert reply.answer == "2"


async def test_a_spent_budget_stops_before_the_next_request() -> None:
    prompter = Prompter(Saying("x", "x", "x"), Spending(budget=20))
    with pytest.raises(BudgetSpent, match=r"budget of 20 is spent \(30 tokens\)"):
        await prompter.ask(NAME, Naming, question="?")


async def test_the_line_end_of_a_file_of_secrets_is_no_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    with endpoint(lambda request: (200, completion("{}"))) as url:
        assert (await ask(url)).text == "{}"
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-tw…o", "sk-\x7ftwo"])
async def test_a_key_that_no_header_can_hold_is_refused_and_not_told(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="set it again") as raised:
        await ask("http://localhost:8000/v1")
    assert "sk-" not in str(raised.value)


@pytest.mark.parametrize("address", ["http://me:secret@localhost:8000/v1", "https://secret@localhost/v1"])
def test_an_address_with_a_password_is_refused_and_not_told(address: str) -> None:
    with pytest.raises(UserError, match=r"--base-url http.*: it holds a name or password") as raised:
        OpenAIChat(address, "m")
    assert "secret" not in str(raised.value)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="--base-url localhost:8000: it is no address: write it as http://HOST:PORT/v1"):
        OpenAIChat("localhost:8000", "m")
