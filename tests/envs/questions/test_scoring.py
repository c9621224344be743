"""The rule by which a response is right, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.questions.question import Question
from envs.questions.scoring import final_answer, judge, named_choice, normalise, reasoning

CITIES = ("Paris", "Rome", "The Hague")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("", ""),
        (" \n\t\n", ""),
        ("4", "4"),
        ("2 + 2\n\n 4 \n", "4"),
        ("Answer: 4", "4"),
        ("2 + 2 it is.\nANSWER: 4\nGood bye.", "4"),
        ("**Answer:** 4", "4"),
        ("**Answer**: `4`", "4"),
        ("Answer:\n\n4\nBye", "4"),
        ("Answer: 3? No. Answer: 4", "4"),
        ("I think the answer is 4.", "4."),
        ("The answer is: -4", "-4"),
        ("Answer:", ""),
        ("My answers: 4", "My answers: 4"),
        ("<think>The answer is 3? No.\nIt is 4.</think>\n\n4", "4"),
        ("<think>\\boxed{3}? No.</think>4", "4"),
        ("The answer is 3? No.</think>\nAnswer: 4", "4"),
        ("<think>Answer: 3</think>", ""),
        ("<think>The answer is 3", ""),
        ("<think>3</think>\n<think>Answer: 4", ""),
    ],
)
def test_final_answer(response: str, expected: str) -> None:
    assert final_answer(response) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("don't", "dont"),
        ("U.S.A.", "usa"),
        ("STRASSE", normalise("Straße")),
        ("$1,000.50", "1000.50"),
        ("1,2", "1,2"),
        ("(1, 2)", "1 2"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("\N{MINUS SIGN}3", "-3"),
        ("x+1", "x+1"),
        ("1/2", "1/2"),
        ("12:30", "12:30"),
        ("50 %", "50"),
        ("`4`", "4"),
        ("fullwidth: \uff14", "fullwidth 4"),
        ("a", "a"),
        ("the", "the"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "pair", [("3.5", "35"), ("-3", "3"), ("x+1", "x-1"), ("1/2", "12"), ("1,2", "12"), ("0.5", "05")]
)
def test_different_numbers_stay_different(pair: tuple[str, str]) -> None:
    assert normalise(pair[0]) != normalise(pair[1])


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B", 1),
        ("b", 1),
        ("(b).", 1),
        ("B)", 1),
        ("B. Rome", 1),
        ("B: whatever follows", 1),
        ("B - Rome", 1),
        ("Option B", 1),
        ("choice (b): Rome", 1),
        ("B-Rome", None),
        ("Optional", None),
        ("rome!", 1),
        ("Hague", 2),
        ("D", None),
        ("B or C", None),
        ("Rome or Paris", None),
        ("Vienna", None),
        ("", None),
    ],
)
def test_named_choice(answer: str, choice: int | None) -> None:
    assert named_choice(CITIES, answer) == choice


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"So it is $\boxed{4}$." + "\nI hope this helps.", "4"),
        (r"First \boxed{3}, no: \fbox{9} \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"**Answer:** \(\boxed{\text{B}}\)", "B"),
        (r"\boxed{1} it seemed." + "\nAnswer: 2", "2"),
        ("答案 Answer：B", "B"),
        (r"\boxed{never closed", r"\boxed{never closed"),
        (r"\boxed{}", ""),
    ],
)
def test_a_box_holds_the_answer(response: str, answer: str) -> None:
    assert final_answer(response) == answer


def test_a_hundred_thousand_open_braces_are_read_before_the_test_s_time_is_up() -> None:
    assert final_answer(r"\boxed{" * 20_000 + "{" * 20_000 + "x" * 100_000).endswith("x")


def test_a_text_that_two_choices_share_names_neither() -> None:
    assert named_choice(("yes", "Yes!", "no"), "yes") is None
    assert named_choice(("yes", "Yes!", "no"), "B") == 1


def test_letters_come_before_texts() -> None:
    assert named_choice(("B", "A"), "A") == 0
    assert named_choice(("x", "y"), "X") == 0


def test_multiple_choice_verdicts() -> None:
    question = Question.multiple_choice("Which city is in Italy?", CITIES, 1)
    assert [judge(question, text).right for text in ("B", "Answer: Rome", "A", "none of them")] == [
        True,
        True,
        False,
        False,
    ]
    assert judge(question, "none of them").answer == "" and judge(question, "Paris").answer == "A"


def test_open_verdicts() -> None:
    question = Question("How many?", references=("1,000", "a thousand"))
    right = ["1000", "1,000.", "$1000", "Thousand", "Let me see.\nAnswer: a thousand"]
    assert all(judge(question, text).right for text in right)
    assert not any(judge(question, text).right for text in ("", "100", "1000 or 100", "Answer:"))


def test_a_question_without_reference_is_never_answered_right() -> None:
    assert judge(Question("Tell me a story."), "Once upon a time.") == judge(Question("?"), "once upon A time")
    assert not judge(Question("Tell me a story."), "Once upon a time.").right


@given(st.text(), st.booleans())
def test_any_response_gets_a_verdict(response: str, choices: bool) -> None:
    question = Question.multiple_choice("?", CITIES, 0) if choices else Question("?", references=("4",))
    verdict = judge(question, response)
    assert not verdict.right or verdict.answer


@given(st.text())
def test_normalised_texts_have_single_blanks(text: str) -> None:
    assert normalise(text) == " ".join(normalise(text).split())


@pytest.mark.parametrize(
    ("response", "before"),
    [
        ("2 + 2.\nAnswer: 4", "2 + 2.\nAnswer: "),
        ("4", ""),
        ("<think>Answer: 3? No.</think>\n\n4", "<think>Answer: 3? No.</think>\n\n"),
        ("<think>No.</think>\nThe answer is 4", "<think>No.</think>\nThe answer is "),
        ("<think>Answer: 3", ""),
        ("<think>No.</think>\n", ""),
    ],
)
def test_reasoning_is_what_stands_before_the_final_answer(response: str, before: str) -> None:
    assert reasoning(response) == before
