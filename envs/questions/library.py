"""`QuestionLibrary`: the questions of a file, a folder or the generator as tasks.

Task ids are `path/below/the/folder.jsonl/row`, or `generated/split/kind/number`. Which split a file belongs to its name
tells (`files.SPLIT_WORDS`), or that of a folder it is in. In a folder, files whose names tell nothing are not read. A
single file whose name tells nothing is divided: a tenth of its questions, chosen by their hash, is the test split.

Rows that cannot become questions are left out, logged and listed in `refused` with file, row and reason; all others are
used. So are left out questions that a split asks which is evaluated: nothing in train is in dev or test, nothing in dev
is in test. A file of no known format, or a damaged one, is refused as a whole with a UserError.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from envs.questions.files import RawRow, find_files, read_rows, split_of
from envs.questions.formats import FORMATS, Format, RowError, format_of
from envs.questions.generator import generate
from envs.questions.question import Question
from trajectories.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = ("test", "dev", "train")
"""In the order of reading: a question belongs to the first split that asks it."""
TEST_SHARE = 10
"""Of a file whose name tells no split one question in so many is a test question."""
FETCH = f"name a file, or a folder of files with {', '.join(reversed(SPLITS))} in their names"

Place = tuple[str, str | None, Path]
"""Name of a file in task ids, its split (None: divided), and where it is."""


class QuestionLibrary:
    """Questions by task id; in a split files are in alphabetical order and rows in theirs.

    Attributes:
        refused: `file row number: reason`, for every row that was left out.
    """

    train_split, heldout_split, test_splits = "train", "test", ("test",)

    def __init__(self, splits: dict[str, dict[str, Question]], refused: tuple[str, ...] = ()) -> None:
        self._splits = splits
        self.refused = refused

    @classmethod
    def open(cls, data: str | Path | None = None) -> QuestionLibrary:
        """The questions in `data`, generated ones for None. Read once in a process, unless the files change.

        Raises:
            UserError: nothing there, a damaged file or one of no known format, or not one question.
        """
        if data is None:
            return _generated()
        path = Path(data).absolute()
        if path.is_dir():
            places = [(file.relative_to(path).as_posix(), split, file) for split, file in find_files(path)]
        elif path.is_file():
            places = [(path.name, split_of(path, path.parent), path)]
        else:
            raise UserError(f"no questions at {path}: there is no such file or folder; {FETCH}")
        if not places:
            raise UserError(f"no questions in {path}: no file there tells its split; {FETCH}")
        states = tuple((file.stat().st_size, file.stat().st_mtime_ns) for *_, file in places)
        return _read(tuple(places), states)

    def task_ids(self, split: str) -> tuple[str, ...]:
        """All tasks of a split, in their fixed order; none where no file has any. Raises UserError if there is no such
        split."""
        if split not in SPLITS and split not in self._splits:
            raise UserError(f"no split {split!r} in these questions; choose one of {', '.join(sorted(self._splits))}")
        return tuple(self._splits.get(split, ()))

    def why_empty(self, split: str) -> str:
        """What there is instead, and how many rows were left out."""
        found = ", ".join(f"{len(questions)} in {name}" for name, questions in sorted(self._splits.items()))
        left_out = f" (rows left out: {len(self.refused)}, the first: {self.refused[0]})" if self.refused else ""
        return (
            f"these questions are {found}{left_out}; give a folder that has a file with {split} in its name, or name "
            "another split"
        )

    def content_hash(self, task_id: str) -> str:
        return self.question(task_id).content_hash

    def question(self, task_id: str) -> Question:
        """Raises UserError."""
        for questions in self._splits.values():
            if task_id in questions:
                return questions[task_id]
        splits = ", ".join(sorted(self._splits))
        raise UserError(f"no question {task_id[:80]!r}; take an id from the panel of a split ({splits})")


@lru_cache(maxsize=1)
def _generated() -> QuestionLibrary:
    return QuestionLibrary(
        {
            split: {f"generated/{split}/{kind}/{number}": question for kind, number, question in questions}
            for split, questions in generate().items()
        }
    )


@lru_cache(maxsize=2)
def _read(places: tuple[Place, ...], states: tuple[tuple[int, int], ...]) -> QuestionLibrary:
    """`states` are the files' sizes and times: when they change the files are read again."""
    splits: dict[str, dict[str, Question]] = {}
    asked: dict[str, tuple[str, str]] = {}
    refused: list[str] = []
    for name, file_split, path in sorted(places, key=lambda place: SPLITS.index(place[1] or "train")):
        left_out: list[str] = []
        for number, row in read_questions(path):
            task_id = f"{name}/{number}"
            if isinstance(row, RowError):
                left_out.append(f"{name} row {number}: {row}")
                continue
            split = file_split or _divided(row)
            asked_in, asked_as = asked.setdefault(row.identity, (split, task_id))
            if asked_in != split:
                left_out.append(f"{name} row {number}: the same question is in {asked_in} as {asked_as}")
                continue
            splits.setdefault(split, {})[task_id] = row
        if left_out:
            logger.warning("left out %d rows of %s, the first: %s", len(left_out), path, left_out[0])
        refused += left_out
    if not splits:
        found = ", ".join(str(path) for *_, path in places)
        raise UserError(f"not one question of {found} could be read{': ' + refused[0] if refused else ''}; {FETCH}")
    return QuestionLibrary(splits, tuple(refused))


def _divided(question: Question) -> str:
    return "test" if int(question.identity[:8], 16) % TEST_SHARE == 0 else "train"


def read_questions(path: Path) -> list[tuple[int, Question | RowError]]:
    """(number, question or why there is none) of the rows of a file. Raises UserError if its format is unknown."""
    rows = list(read_rows(path))
    readable = [row for _, row in rows if not isinstance(row, RowError)]
    known = next(filter(None, map(format_of, readable)), None)
    if rows and known is None:
        fields = f"fields {', '.join(map(str, readable[0]))[:200]}" if readable else f"row 1: {rows[0][1]}"
        formats = ", ".join(f"{known.name} ({', '.join(sorted(known.fields))})" for known in FORMATS)
        raise UserError(f"{path} is in no known format ({fields}); give its rows the fields of one of: {formats}")
    return [(number, _question(row, known)) for number, row in rows if known is not None]


def _question(row: RawRow, known: Format) -> Question | RowError:
    if isinstance(row, RowError):
        return row
    try:
        return known.parse(row)
    except RowError as error:
        return error
