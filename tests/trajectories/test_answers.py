"""Reading answers: any text gives an action or a named violation, and what models really write is understood."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajectories.answers import FORMATS, NO_ACTION, Violation, as_admissible, read_answer, write_answer

PIECES = [
    "<think>", "</think>", "<action>", "</action>", "</Think>", "Action:", "action :", "**Action:** ", "Thought:",
    "Observation:", "```", "```text", "\n", "\r\n", " ", ".", "`", '"', "go to desk 1", "search[red]", "İ", "\u2028",
]  # fmt: skip
anything = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
formats = st.sampled_from(sorted(FORMATS))


@given(formats, anything, st.booleans())
def test_any_text_gives_an_action_or_a_named_violation(format: str, response: str, finished: bool) -> None:
    answer = read_answer(format, response, finished)
    start, end = answer.span
    if answer.violation is None:
        assert answer.action == response[start:end] == answer.action.strip() != NO_ACTION
        assert not {"\n", "\r"} & set(answer.action)
    else:
        assert answer.violation in Violation and answer.action == NO_ACTION and start == end


@given(formats, anything)
def test_only_a_complete_action_counts_where_the_budget_ended_the_response(format: str, response: str) -> None:
    """What is read from the cut text is read from every text that goes on where it was cut, but for later actions."""
    cut = read_answer(format, response, finished=False)
    if cut.violation is None:
        assert cut == read_answer(format, response)
        assert response[cut.span[1] :].lstrip(" \t`*\"'.”")
    else:
        assert cut.violation is Violation.CUT_OFF


@given(
    formats,
    st.text("abc 1[]<>/", min_size=1).map(str.strip).filter(lambda text: text.strip(' >"') == text != ""),
    st.one_of(st.text("abc .,\n"), anything),
)
def test_what_is_written_in_a_format_is_read_back(format: str, action: str, thought: str) -> None:
    assert read_answer(format, write_answer(format, action, thought)).action == action  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("response", ["action" + " " * 50_000, "observation" + " " * 50_000, "Action" + "*" * 50_000])
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_an_answer_of_nothing_but_blanks_is_read_at_once(format: str, response: str) -> None:
    started = time.process_time()
    read_answer(format, response)
    assert time.process_time() - started < 1.0


READ = {
    "action": [
        ("go to desk 1", "go to desk 1"),
        ("  Go to desk 1.\n", "Go to desk 1"),
        ("```\ngo to desk 1\n```", "go to desk 1"),
        ("```text\ngo to desk 1\n```\n", "go to desk 1"),
        ("> go to desk 1", "go to desk 1"),
        ("**go to desk 1**", "go to desk 1"),
        ("`go to desk 1`.", "go to desk 1"),
        ("Action: go to desk 1", "go to desk 1"),
        ("<think>There is a desk.\nI go.</think>\n\ngo to desk 1", "go to desk 1"),
        ("There is a desk.\n</think>\n\ngo to desk 1", "go to desk 1"),
        ("search[red shoes]", "search[red shoes]"),
        ("-3.5", "-3.5"),
    ],
    "react": [
        ("Thought: The mug may be on the desk.\nAction: go to desk 1", "go to desk 1"),
        ("Thought: I shop.\n\nAction:\nsearch[red shoes]", "search[red shoes]"),
        ("Thought 1: I look.\nAction 1: look", "look"),
        ("THOUGHT: x\nACTION: go to desk 1.", "go to desk 1"),
        ("**Thought:** x\n**Action:** `go to desk 1`", "go to desk 1"),
        ("Thought: x\nAction: look\nWait, no.\nAction: go to desk 1", "go to desk 1"),
        ("Action: look\nObservation: You see a mug.\nThought: y\nAction: take mug 1", "look"),
        ("Action: ```go to desk 1```", "go to desk 1"),
        ("<think>Action: look</think>Action: go to desk 1", "go to desk 1"),
    ],
    "tagged": [
        ("<think>\nThe mug may be on the desk.\n</think>\n<action>go to desk 1</action>", "go to desk 1"),
        ("The template has opened it.</think><action>go to desk 1</action>", "go to desk 1"),
        ("<think>I could <action>look</action>.</think><action>\ngo to desk 1\n</action>", "go to desk 1"),
        ("<action>click[Buy Now]</action>", "click[Buy Now]"),
        ("<ACTION>Go to desk 1.</ACTION> Done!", "Go to desk 1"),
        ("<action><action>look</action>", "look"),
        ("```\n<action>look</action>\n```", "look"),
    ],
}


@pytest.mark.parametrize(("format", "response", "action"), [(f, *case) for f, cases in READ.items() for case in cases])
def test_what_models_write_is_read(format: str, response: str, action: str) -> None:
    assert read_answer(format, response).action == action


@pytest.mark.parametrize(
    ("format", "response", "violation"),
    [
        ("action", "", Violation.EMPTY),
        ("action", " ```\n``` ", Violation.EMPTY),
        ("action", "I see a desk.\ngo to desk 1", Violation.SEVERAL_LINES),
        ("action", "<think>go to desk 1", Violation.UNCLOSED_TAG),
        ("react", "\n", Violation.EMPTY),
        ("react", "Thought: I go to desk 1.", Violation.MISSING_ACTION),
        ("react", "Thought: I go.\nAction:", Violation.EMPTY),
        ("react", "Observation: You win.\nAction: look", Violation.EMPTY),
        ("tagged", "", Violation.EMPTY),
        ("tagged", "go to desk 1", Violation.MISSING_ACTION),
        ("tagged", "<think>x</think><action>go to", Violation.UNCLOSED_TAG),
        ("tagged", "<think>x<action>look</action>", Violation.UNCLOSED_TAG),
        ("tagged", "<action> </action>", Violation.EMPTY),
        ("tagged", "<action>look\ninventory</action>", Violation.SEVERAL_LINES),
    ],
)
def test_a_violation_has_its_name(format: str, response: str, violation: Violation) -> None:
    assert read_answer(format, response).violation is violation


@pytest.mark.parametrize(
    ("format", "response", "action"),
    [
        ("react", "Action: go to desk 1", NO_ACTION),
        ("react", "Action: go to desk 1\n", "go to desk 1"),
        ("tagged", "<action>go to desk 1</action> and th", "go to desk 1"),
        ("action", "go to desk 1", NO_ACTION),
    ],
)
def test_half_an_action_is_none(format: str, response: str, action: str) -> None:
    answer = read_answer(format, response, finished=False)
    assert answer.action == action and (answer.violation is Violation.CUT_OFF) == (action == NO_ACTION)


ALIASES = {"put (.+) in (.+)": r"move \1 to \2"}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Go to  Desk 1", "go to desk 1"),
        ("Put mug 1 in desk 1", "move mug 1 to desk 1"),
        ("put pen 1 in desk 1", "put pen 1 in desk 1"),
        ("click[BUY NOW]", "click[Buy Now]"),
        ("click[red]", "click[red]"),
        ("Dance", "Dance"),
        ("click [Buy Now]", "click[Buy Now]"),
        ("Put mug1 in desk1", "move mug 1 to desk 1"),
        ("move mug1 to desk1", "move mug 1 to desk 1"),
        ("click[5  0]", "click[5 0]"),
        ("Click[50]", "click[50]"),
        ("click[50 ]", "click[50 ]"),
    ],
)
def test_words_that_mean_one_admissible_action_become_it(said: str, meant: str) -> None:
    admissible = ("go to desk 1", "move mug 1 to desk 1", "click[Buy Now]", "click[Red]", "click[RED]")
    admissible += ("click[5 0]", "click[50]")
    assert as_admissible(said, admissible, ALIASES) == meant
    assert all(as_admissible(action, admissible, ALIASES) == action for action in admissible)


@pytest.mark.parametrize("said", ["search[Red shoes]", "Search[Red shoes]", "SEARCH [Red shoes]"])
def test_a_search_is_forgiven_its_capitals_and_blanks_as_a_click_is(said: str) -> None:
    assert as_admissible(said, (), {}, searches=True) == "search[Red shoes]"
    assert as_admissible(said, (), {}) == said
    assert as_admissible("Search it", (), {}, searches=True) == "Search it"
