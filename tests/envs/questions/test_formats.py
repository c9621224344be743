"""The fields of each data set, and rows that are refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.questions.formats import FORMATS, Row, RowError, format_of
from envs.questions.library import QuestionLibrary
from envs.questions.question import Question
from envs.questions.scoring import judge
from tests.envs.questions.files import write_data_sets, write_parquet

EXPECTED = {
    "mmlu/test/astronomy_test.csv/1": Question.multiple_choice(
        "Which planet, of these, is red?", ("Mars, it is", "Venus", "Earth", "Pluto"), 0
    ),
    "e-care/dev_full.jsonl/1": Question.multiple_choice(
        "The lamp fell.\nWhat is the more plausible effect?", ("It sang.", "It broke."), 1
    ),
    "socialiqa-train-dev/train.jsonl/1": Question.multiple_choice(
        "Kim fell asleep.\nWhy?", ("bored", "wet", "loud"), 0
    ),
    "socialIQa_v1.4/socialIQa_v1.4_tst.jsonl/1": Question.multiple_choice(
        "Lee woke.\nWhy?", ("bored", "wet", "loud"), 2
    ),
    "winogrande_1.1/dev.jsonl/1": Question.multiple_choice(
        "The box held the ball, as _ was big.\nWhat does _ stand for?", ("box", "ball"), 0
    ),
    "output_en/pmb_train_v1.0.tsv/1": Question.multiple_choice(
        "Premise: No dog ran .\nHypothesis: No poodle ran .\nDoes the premise entail the hypothesis, or is it neutral?",
        ("entailment", "neutral"),
        0,
    ),
    "LOGIQA/test.txt/1": Question.multiple_choice(
        "All of the four came.\nWho came?", ("One", "Two", "Three", "Four"), 3
    ),
}


def test_the_six_data_sets_are_read_from_their_own_files(tmp_path: Path) -> None:
    write_data_sets(tmp_path)
    library = QuestionLibrary.open(tmp_path)
    ids = {split: library.task_ids(split) for split in ("train", "dev", "test")}
    assert ids == {
        "train": ("output_en/pmb_train_v1.0.tsv/1", "socialiqa-train-dev/train.jsonl/1"),
        "dev": ("e-care/dev_full.jsonl/1", "winogrande_1.1/dev.jsonl/1"),
        "test": (
            "LOGIQA/test.txt/1",
            "mmlu/test/astronomy_test.csv/1",
            "socialIQa_v1.4/socialIQa_v1.4_tst.jsonl/1",
        ),
    }
    assert {task_id: library.question(task_id) for split in ids.values() for task_id in split} == EXPECTED
    assert library.refused == ()


def test_parquet_files_of_the_hubs_kind(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "astronomy/test-00000-of-00001.parquet",
        {"question": "Red?", "subject": "astronomy", "choices": ["Mars", "Venus"], "answer": 0},
    )
    write_parquet(
        tmp_path / "siqa/validation-00000-of-00001.parquet",
        {"context": "c", "question": "q?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3\n"},
    )
    library = QuestionLibrary.open(tmp_path)
    assert library.question("astronomy/test-00000-of-00001.parquet/1").solution == "A"
    assert library.question("siqa/validation-00000-of-00001.parquet/1").solution == "C"


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"question": "2 + 2?", "answer": 4}, Question("2 + 2?", references=("4",))),
        ({"question": "Capital?", "answer": ["Paris", "paname"]}, Question("Capital?", references=("Paris", "paname"))),
        ({"question": "Tell a story."}, Question("Tell a story.")),
        ({"question": "Tell.", "answer": None, "choices": None}, Question("Tell.")),
        (
            {"context": "It rained.", "question": "Wet?", "answer": "yes"},
            Question("It rained.\nWet?", (), None, ("yes",)),
        ),
        ({"question": "Q?", "choices": ["x", 2], "answer": 1}, Question.multiple_choice("Q?", ("x", "2"), 1)),
        ({"question": "Q?", "choices": ["x", "y"], "answer": "B"}, Question.multiple_choice("Q?", ("x", "y"), 1)),
        ({"question": "Q?", "choices": ["x", "y"], "answer": "0"}, Question.multiple_choice("Q?", ("x", "y"), 0)),
        ({"question": " \ud800? ", "answer": "x"}, Question("??", references=("x",))),
    ],
)
def test_concertos_own_format(row: Row, question: Question) -> None:
    known = format_of(row)
    assert known is not None and known.name == "Concerto" and known.parse(row) == question


GOOD = {
    "MMLU": {"question": "q", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "A"},
    "e-CARE": {"premise": "p", "ask-for": "cause", "hypothesis1": "x", "hypothesis2": "y", "label": 0},
    "SocialIQA": {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "1"},
    "WinoGrande": {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "2"},
    "HELP": {"ori_sentence": "a", "new_sentence": "b", "gold_label": "neutral"},
    "LogiQA 2.0": {"text": "t", "question": "q", "options": ["x", "y", "z", "w"], "answer": 0},
    "Concerto": {"question": "q", "choices": ["x", "y"], "answer": 0},
}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("MMLU", {"answer": "E"}, "answer is 'E', not a letter from A to D"),
        ("MMLU", {"C": ""}, "C is missing or empty"),
        ("e-CARE", {"ask-for": "reason"}, "ask-for is 'reason', not cause or effect"),
        ("e-CARE", {"label": 2}, "label is '2', not a number from 0 to 1"),
        ("SocialIQA", {"label": "0"}, "label is '0', not a number from 1 to 3"),
        ("SocialIQA", {"label": None}, "label is missing or empty"),
        ("SocialIQA", {"correct": "D"}, "correct is 'D', not a letter from A to C"),
        ("WinoGrande", {"sentence": "no blank"}, "the sentence has no blank _"),
        ("WinoGrande", {"answer": ""}, "answer is missing or empty"),
        ("HELP", {"gold_label": "contradiction"}, "gold_label is 'contradiction', not entailment or neutral"),
        ("LogiQA 2.0", {"options": "x"}, "options must be a list of texts"),
        ("LogiQA 2.0", {"options": ["x", None]}, "options is missing or empty"),
        ("LogiQA 2.0", {"answer": True}, "answer must be text, not bool"),
        ("LogiQA 2.0", {"answer": "9" * 5000}, "answer is '9999999999999999999999999999999999999999', not a number"),
        ("Concerto", {"choices": ["x"]}, "1 choices, not 2 to 26"),
        ("Concerto", {"choices": ["x"] * 27, "answer": 1}, "27 choices, not 2 to 26"),
        ("Concerto", {"answer": None}, "answer is missing or empty"),
        ("Concerto", {"choices": None, "answer": "?!"}, "answer has nothing but punctuation"),
        ("Concerto", {"choices": None, "answer": "2 + 2\n#### "}, "answer has nothing but punctuation"),
        ("Concerto", {"choices": None, "answer": []}, "answer must be a list of texts"),
        ("Concerto", {"question": "  "}, "question is missing or empty"),
    ],
)
def test_bad_rows_are_refused_with_a_reason(name: str, change: Row, reason: str) -> None:
    known = format_of(GOOD[name])
    assert known is not None and known.name == name
    assert known.parse(GOOD[name]).answer is not None
    with pytest.raises(RowError) as refusal:
        known.parse({**GOOD[name], **change})
    assert str(refusal.value).startswith(reason)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["A", "1", "_", "cause"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(FORMATS), st.data())
def test_any_row_is_a_question_or_refused(known, data: st.DataObject) -> None:
    optional = {"label", "answer", "correct", "context", "choices"}
    row = {field: data.draw(JSON, label=field) for field in sorted(known.fields)}
    row |= data.draw(st.dictionaries(st.sampled_from(sorted(optional)), JSON))
    try:
        question = known.parse(row)
    except RowError:
        return
    assert question.prompt.encode() and len(question.content_hash) == 64
    assert (question.answer is None) == (not question.choices)


def test_the_answer_to_a_row_of_gsm8k_stands_behind_its_working() -> None:
    """What is right would else be the whole text, which no answer ever is."""
    row = {"question": "How many?", "answer": "In May <<48/2=24>>24.\nIn all <<48*20+24=984>>984, or so.\n#### 1,008"}
    known = format_of(row)
    assert known is not None
    question = known.parse(row)
    assert question.references == ("1,008",)
    for response in (question.solution, "The answer is 1008.", "It is 1,008.\n#### 1008", "\\boxed{1008}"):
        assert judge(question, response).right
    assert not judge(question, "984").right
