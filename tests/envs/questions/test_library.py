"""Files as tasks: splits, ids, rows left out, files refused, and no training question that is evaluated."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envs import load_panel, make_environment
from envs.questions.files import READERS, split_of
from envs.questions.library import QuestionLibrary
from tests.envs.questions.files import HELP_HEADER, write, write_lines, write_parquet
from trajectories.errors import UserError


def asked(number: int, answer: str = "x") -> dict:
    return {"question": f"Question {number}?", "answer": answer}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("socialIQa_v1.4_trn.jsonl", "train"),
        ("pmb_train_v1.0.tsv", "train"),
        ("auxiliary_train/arc_easy.csv", "train"),
        ("mmlu/val/anatomy_val.csv", "dev"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("socialiqa-train-dev/train.jsonl", "train"),
        ("socialiqa-train-dev/x.jsonl", "dev"),
        ("dev/test.jsonl", "test"),
        ("latest.jsonl", None),
        ("questions.jsonl", None),
    ],
)
def test_the_split_is_told_by_names(name: str, split: str | None) -> None:
    assert split_of(Path("/train/root") / name, Path("/train/root")) == split


def test_bad_rows_are_left_out_and_reported_with_file_and_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a" / "train.jsonl"
    write_lines(path, "{broken", "", asked(1), "[1]", {"answer": "x"}, {"question": 7.5, "answer": {}}, asked(2))
    with caplog.at_level(logging.WARNING):
        library = QuestionLibrary.open(tmp_path)
    assert library.task_ids("train") == ("a/train.jsonl/3", "a/train.jsonl/7")
    reports = [report.partition(": ")[::2] for report in library.refused]
    assert [place for place, _ in reports] == [f"a/train.jsonl row {number}" for number in (1, 4, 5, 6)]
    assert [reason.split(" (")[0] for _, reason in reports] == [
        "no JSON",
        "must be an object, not list",
        "question is missing or empty",
        "answer must be text, not dict",
    ]
    assert len(caplog.records) == 1 and "left out 4 rows of" in caplog.text and "row 1: no JSON" in caplog.text


def test_rows_with_too_few_or_too_many_columns(tmp_path: Path) -> None:
    write(tmp_path / "test/x.csv", 'q,a,b,c,d,A\nq,a,b,c,A\n"two\nlines",a,b,c,d,B\n')
    write(tmp_path / "test/y.tsv", f"{HELP_HEADER}\n0\tf\tno\tm\tneutral\tt\ts\tm\tOne .\tTwo .\n1\tf\n")
    library = QuestionLibrary.open(tmp_path)
    assert library.task_ids("test") == ("test/x.csv/1", "test/x.csv/3", "test/y.tsv/1")
    assert library.refused == ("test/x.csv row 2: 5 columns, not 6", "test/y.tsv row 2: 2 columns, not 10")


def test_blind_test_sets_are_left_out(tmp_path: Path) -> None:
    row = {"qID": "1", "sentence": "A _ .", "option1": "x", "option2": "y"}
    write_lines(tmp_path / "test.jsonl", row)
    write_lines(tmp_path / "dev.jsonl", {**row, "sentence": "B _ .", "answer": "1"})
    library = QuestionLibrary.open(tmp_path)
    assert library.refused == ("test.jsonl row 1: label is missing or empty",)
    with pytest.raises(
        UserError,
        match=r"^questions/test has no tasks: these questions are 1 in dev \(rows left out: 1, the first: test\.jsonl "
        r"row 1: label is missing or empty\); give a folder that has a file with test in its name, or name another "
        r"split$",
    ):
        load_panel("questions/test", tmp_path)
    with pytest.raises(UserError, match=r"^no split 'tset' in these questions; choose one of dev$"):
        load_panel("questions/tset", tmp_path)


def test_no_training_question_is_in_an_evaluated_split(tmp_path: Path) -> None:
    choices = {"question": "Which?", "choices": ["x", "y"], "answer": 0}
    turned = {"question": "Which?", "choices": ["y", "x"], "answer": 1}
    write_lines(tmp_path / "train.jsonl", asked(1), asked(2), asked(2), turned, asked(3))
    write_lines(tmp_path / "dev.jsonl", asked(3), asked(4))
    write_lines(tmp_path / "test.jsonl", asked(1), asked(1), choices, asked(4, "other answer"))
    library = QuestionLibrary.open(tmp_path)
    assert library.task_ids("train") == ("train.jsonl/2", "train.jsonl/3")
    assert library.task_ids("dev") == ("dev.jsonl/1",)
    assert library.task_ids("test") == tuple(f"test.jsonl/{row}" for row in (1, 2, 3, 4))
    assert library.refused == (
        "dev.jsonl row 2: the same question is in test as test.jsonl/4",
        "train.jsonl row 1: the same question is in test as test.jsonl/1",
        "train.jsonl row 4: the same question is in test as test.jsonl/3",
        "train.jsonl row 5: the same question is in dev as dev.jsonl/1",
    )


def test_a_single_file_without_a_split_is_divided_by_its_questions(tmp_path: Path) -> None:
    rows = [asked(number) for number in range(400)]
    forwards = QuestionLibrary.open(write_lines(tmp_path / "mine.jsonl", *rows))
    backwards = QuestionLibrary.open(write_parquet(tmp_path / "turned.parquet", *reversed(rows)))
    texts = [
        {split: {library.question(id_).text for id_ in library.task_ids(split)} for split in ("train", "test")}
        for library in (forwards, backwards)
    ]
    assert texts[0] == texts[1]
    assert 20 <= len(texts[0]["test"]) <= 60 and len(texts[0]["train"]) == 400 - len(texts[0]["test"])


def test_other_files_in_a_folder_are_not_read(tmp_path: Path) -> None:
    write(tmp_path / "README.txt", "no questions")
    write(tmp_path / "test/notes.md", "no questions")
    write_lines(tmp_path / "test.jsonl", asked(1))
    assert QuestionLibrary.open(tmp_path).task_ids("test") == ("test.jsonl/1",)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "test.jsonl", asked(1))
    library = QuestionLibrary.open(path)
    assert QuestionLibrary.open(path) is library
    before = load_panel("questions/test", path)
    write_lines(path, asked(1, "y"))
    os.utime(path, ns=(0, 0))
    after = load_panel("questions/test", path)
    assert before.task_ids == after.task_ids and before.hash != after.hash


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "test.jsonl",
            '{"prompt": "?", "label": 1}\n',
            r"is in no known format \(fields prompt, label\); give its rows",
        ),
        ("test.jsonl", "{\n", r"is in no known format \(row 1: no JSON"),
        ("test.jsonl", "", "not one question of .*test.jsonl could be read"),
        ("test.csv", "q,a\n", r"is in no known format \(row 1: 2 columns, not 6\)"),
        ("test.parquet", "no parquet", "cannot be read .*; fetch it again"),
        ("test.docx", "", "is no question file; name one that ends in .jsonl, .txt, .csv, .tsv, .parquet"),
        ("test.csv", "q,a,b,c,d,Z\n", "not one question of .*test.csv could be read: test.csv row 1: answer is 'Z'"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        QuestionLibrary.open(write(tmp_path / name, text))
    assert len(str(refusal.value).splitlines()) == 1


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="there is no such file or folder; name a file, or a folder of files with train"
    ):
        make_environment("questions", tmp_path / "nothing")
    with pytest.raises(UserError, match="no file there tells its split"):
        load_panel("questions/test", tmp_path)


def test_labels_beside_a_file_must_be_as_many_as_its_rows(tmp_path: Path) -> None:
    row = {"context": "c", "question": "q?", "answerA": "x", "answerB": "y", "answerC": "z"}
    path = write_lines(tmp_path / "train.jsonl", row, {**row, "context": "d"})
    write(tmp_path / "train-labels.lst", "1\n")
    library = QuestionLibrary.open(path)
    assert library.refused == ("train.jsonl row 2: label is missing or empty",)
    write(tmp_path / "train-labels.lst", "1\n2\n3\n")
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="has 2 rows, but more labels beside it"):
        QuestionLibrary.open(path)
    write_lines(path, row, "", {**row, "context": "d"})
    with pytest.raises(UserError, match="row 2 is blank, but has a label beside it"):
        QuestionLibrary.open(path)


def test_unknown_tasks_are_refused() -> None:
    with pytest.raises(UserError, match=r"no question 'nothing'.*\(test, train\)"):
        QuestionLibrary.open().question("nothing")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(READERS)), st.binary(max_size=200) | st.text(alphabet='{}[]",:ab1\n\t ').map(str.encode))
def test_any_bytes_are_questions_or_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"test{suffix}"
    path.write_bytes(content)
    try:
        QuestionLibrary.open(path).task_ids("test")
    except UserError as error:
        assert len(str(error).splitlines()) == 1
