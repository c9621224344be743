"""Recordings of others, played again: what may be imitated, and why the rest may not."""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path

import pytest

from envs import load_panel, make_environment
from envs.experts import play_expert
from envs.recordings import Imported, Refusal, import_recordings
from tests.data import SHARED, require
from tests.envs.alfworld.test_games import TASK, write_games
from trajectories.errors import UserError

DEMOS = SHARED / "data" / "demos"
GAMES = SHARED / "data" / "alfworld" / "alfworld_mini_36games.tar.xz"


def written(path: Path, *records: object) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def shop_record(task_id: str, actions: list[str] | None = None) -> dict:
    """The oracle's episode on the generated catalogue, in the published form."""
    environment = make_environment("webshop", "generated")
    steps = play_expert(environment, task_id)  # type: ignore[arg-type]
    said = ["rules", "OK"]
    for observation, action, _ in steps:
        said += [observation.text, f"Thought:\nwell\n\nAction:\n{action}"]
    if actions is not None:
        said = ["rules", "OK", *(part for action in actions for part in (steps[0][0].text, f"Action: {action}"))]
    return {"item_id": f"webshop_{task_id}", "conversations": [{"from": "-", "value": value} for value in said]}


def imported(path: Path, environment: str = "webshop", data: str | Path = "generated") -> Imported:
    return import_recordings(environment, path, data)


def test_what_wins_on_training_goals_is_imported(tmp_path: Path) -> None:
    result = imported(written(tmp_path / "shop.jsonl", *map(shop_record, ("1500", "17", "700", "1501", "1500"))))
    assert [won.task_id for won in result.won] == ["1500", "1501"]
    assert result.refused == {Refusal.EVALUATED: 2, Refusal.REPEATED: 1}
    for won in result.won:
        assert won.demonstration[-1][2].done and won.demonstration[-1][2].rewards["success"] == 1.0
        assert won.thoughts == ("well",) * len(won.demonstration)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\u2029"])
def test_a_line_ends_where_json_lines_end_it(tmp_path: Path, mark: str) -> None:
    """Scraped texts hold characters at which Python would break a line too."""
    record = shop_record("1500")
    record["conversations"][0]["value"] = f"the{mark}rules"
    path = tmp_path / "shop.jsonl"
    path.write_text(f"\ufeff{json.dumps(record, ensure_ascii=False)}\r\n\n", encoding="utf-8")
    assert [won.task_id for won in imported(path).won] == ["1500"]


def test_a_file_of_one_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text("5")
    with pytest.raises(UserError, match=r"shop\.json holds one int: give a list of records"):
        imported(tmp_path / "shop.json")


def test_what_does_not_win_is_refused(tmp_path: Path) -> None:
    assert imported(written(tmp_path / "shop.jsonl", shop_record("1500", ["search[shoes]"]))).refused == {
        Refusal.LOST: 1
    }


def test_actions_that_do_nothing_are_left_out(tmp_path: Path) -> None:
    record = shop_record("1500")
    record["conversations"][2:2] = [
        {"from": "-", "value": record["conversations"][2]["value"]},
        {"from": "-", "value": "Thought: dropped\nAction: click[nothing of the kind]"},
    ]
    (won,) = imported(written(tmp_path / "shop.jsonl", record)).won
    assert all(result.info["action_valid"] for _, _, result in won.demonstration)
    assert won.thoughts == ("well",) * len(won.demonstration)


def test_goals_of_another_catalogue_are_unknown(tmp_path: Path) -> None:
    record = shop_record("1500") | {"item_id": "webshop_1600"}
    assert imported(written(tmp_path / "shop.jsonl", record)).refused == {Refusal.UNKNOWN: 1}
    record["item_id"] = "webshop_999999"
    assert imported(written(tmp_path / "shop.jsonl", record)).refused == {Refusal.UNKNOWN: 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "not json", r"a\.jsonl line 1 is no JSON"),
        ("a.jsonl", "[]", r"a\.jsonl line 1 is no recorded WebShop episode"),
        ("a.jsonl", '{"item_id": "alfworld_3", "conversations": []}', "is not webshop_NUMBER"),
        ("a.json", '{"x": 3}', r"a\.json record x is no recorded WebShop episode"),
        ("a.jsonl.xz", "no archive", r"no recorded demonstrations at .*a\.jsonl\.xz"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        imported(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_environment_without_recordings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recorded demonstrations at"):
        imported(tmp_path / "none.jsonl")
    with pytest.raises(
        UserError, match="no recordings of 'questions' can be imported; only those of alfworld, webshop"
    ):
        imported(tmp_path / "none.jsonl", "questions")


def test_a_record_that_is_no_game_is_named(tmp_path: Path) -> None:
    games = write_games(tmp_path / "games", TASK)
    for record in ({"game": "train/x"}, {"input": "?", "output": "?"}, "no opening", 3):
        with pytest.raises(UserError, match=r"a\.jsonl line 1 is no recorded ALFWorld episode"):
            imported(written(tmp_path / "a.jsonl", record), "alfworld", games)


@pytest.fixture(scope="module")
def transcripts() -> dict[str, dict]:
    """Won walkthroughs of the mini pack's games, by game."""
    known = set(load_panel("alfworld/train", require(GAMES)).task_ids)
    known |= set(load_panel("alfworld/valid_seen", GAMES).task_ids)
    with lzma.open(require(DEMOS / "alfworld_planner_transcripts.jsonl.xz"), "rt") as file:
        records = [json.loads(line) for line in file]
    return {record["game"]: record for record in records if record["game"] in known}


def test_every_published_form_of_an_alfworld_episode_gives_the_same_demonstration(
    tmp_path: Path, transcripts: dict[str, dict]
) -> None:
    game = next(game for game in transcripts if game.startswith("train/pick_and_place"))
    record = transcripts[game]
    opening = record["steps"][0]["obs"].split("=-", 1)[1].strip().replace("\n\n", "\n")
    older = [re.sub(r"^move (.+) to (.+)$", r"put \1 in/on \2", step["action"]) for step in record["steps"]]
    lines = "".join(
        f"> think: so\nOK.\n> ActionPath: Start\nOK.\n> Think: then\nOK.\n> {action}\nseen\n" for action in older
    )
    forms = {
        "planner.jsonl": record,
        "filtered.jsonl": {"name": game.split("/", 1)[1], "result": True, "traj": f"{opening}\n{lines}"},
        "training.jsonl": {"input": f"An example. {opening}\n Here is the task.\n {opening}\n", "output": lines},
        "prompts.jsonl": f"{opening}\n{lines}",
    }
    plays = []
    for name, form in forms.items():
        (won,) = imported(written(tmp_path / name, form), "alfworld", GAMES).won
        assert won.task_id == game
        assert won.thoughts == ("" if name == "planner.jsonl" else "so then",) * len(won.demonstration)
        plays.append([(observation.text, action) for observation, action, _ in won.demonstration])
    assert plays[1:] == plays[:1] * 3


def test_evaluated_games_are_refused_named_or_recognised(tmp_path: Path, transcripts: dict[str, dict]) -> None:
    game = next(game for game in transcripts if game.startswith("valid_seen/"))
    opening = transcripts[game]["steps"][0]["obs"].split("=-", 1)[1].strip()
    for record in (transcripts[game], {"name": game.split("/", 1)[1], "traj": ""}, opening):
        assert imported(written(tmp_path / "a.jsonl", record), "alfworld", GAMES).refused == {Refusal.EVALUATED: 1}


@pytest.mark.parametrize(
    ("environment", "file", "data", "won", "refused"),
    [
        ("webshop", "webshop_agenttraj_413.jsonl", "webshop", 328, {Refusal.EVALUATED: 83, Refusal.REPEATED: 2}),
        ("alfworld", "react_alfworld_3prompts.json", GAMES, 0, {Refusal.UNKNOWN: 36}),
        ("alfworld", "knowagent_ALFWorld_processed_knowagent.jsonl", GAMES, 0, {Refusal.UNKNOWN: 218}),
        ("alfworld", "knowagent_ALFWorld_data_knowagent.json", GAMES, 0, {Refusal.UNKNOWN: 134}),
    ],
)
def test_the_published_files_can_be_read(
    environment: str, file: str, data: str | Path, won: int, refused: dict[Refusal, int]
) -> None:
    where = require(SHARED / "data" / data if isinstance(data, str) else data)
    result = imported(require(DEMOS / file), environment, where)
    assert len(result.won) == won
    assert dict(result.refused) == refused
