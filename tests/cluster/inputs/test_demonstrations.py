"""Experts' demonstrations: how many, how long, and what is refused."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config.loading import load_config
from cluster.config.sections import DemonstrationsKind
from cluster.inputs.demonstrations import FILE, ExpertPlay, Transcriber, load_demonstrations
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.loop.tasks import TaskMixture
from envs import training_panel
from router.probe import check
from trajectories.builder import PromptSettings
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.schema import sequences_from_table

ALFWORLD = TaskMixture((training_panel("alfworld"),))
BOTH = TaskMixture((training_panel("alfworld"), training_panel("webshop", "generated")))
OPENING = load_config("local", None, ["data.webshop=generated"]).opening
LONG = 100_000


@lru_cache
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(resolve_model(TINY))


def load(run_dir, count: int, prompt: PromptSettings, max_tokens: int = 2048, say=print) -> pa.Table:
    play = ExpertPlay(ALFWORLD, OPENING, count, max_turns=30, seed=0)
    return load_demonstrations(run_dir, play, Transcriber(tokenizer(), prompt, max_tokens), lambda *_: None, say)


def played(run_dir, kind: DemonstrationsKind, mode: str, max_turns: int = 30) -> pa.Table:
    """Of ALFWorld and WebShop, however long they are."""
    play = ExpertPlay(BOTH, OPENING, 12, max_turns, seed=0, kind=kind)
    transcriber = Transcriber(tokenizer(), PromptSettings.model_validate({"mode": mode}), LONG)
    return load_demonstrations(run_dir, play, transcriber, lambda *_: None)


def taught(table: pa.Table) -> dict[str, list[str]]:
    """The actions that each demonstration trains."""
    actions: dict[str, list[str]] = {}
    for row in sequences_from_table(table):
        spans = [row.token_ids[turn.start : turn.end] for turn in row.turns if row.trained[turn.start : turn.end].all()]
        actions.setdefault(row.episode_id, []).extend(tokenizer().action(ids.tolist()) for ids in spans)
    return actions


def test_demonstrations_are_counted_by_task_also_where_every_turn_is_a_sequence(tmp_path):
    whole = load(tmp_path / "whole", 3, PromptSettings())
    turns = load(tmp_path / "turns", 3, PromptSettings(mode="windowed"))
    assert whole.num_rows == 3 < turns.num_rows
    assert list(dict.fromkeys(turns["episode_id"].to_pylist())) == whole["episode_id"].to_pylist()


def test_what_the_engines_do_not_hold_is_left_out(tmp_path):
    first = load(tmp_path / "first", 1, PromptSettings())
    (length,) = map(len, first["token_ids"].to_pylist())
    for limit, kept in ((length, False), (length + 1, True)):
        found = load(tmp_path / str(limit), 1, PromptSettings(), limit)
        assert (found["episode_id"].to_pylist() == first["episode_id"].to_pylist()) is kept


def test_a_tokenizer_without_chat_template_is_named(tmp_path):
    model = load_tokenizer(resolve_model(TINY))._tokenizer
    model.chat_template = None
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be used .*: check the name, or save one that has"):
        load_tokenizer(str(tmp_path))


def test_a_damaged_file_is_made_again_in_one_line(tmp_path):
    first, said = load(tmp_path, 2, PromptSettings()), []
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert load(tmp_path, 2, PromptSettings(), say=said.append) == first == pq.read_table(path)
    (line,) = said
    assert str(path) in line and line.endswith("is made again")


@pytest.mark.parametrize("mode", ["transcript", "windowed"])
def test_demonstrations_with_slips_teach_what_plain_ones_teach(tmp_path, mode):
    plain, slipped = (played(tmp_path / kind, kind, mode) for kind in ("plain", "slips"))
    lessons = taught(plain)
    assert taught(slipped) == lessons and len(lessons) == 12
    rows = sequences_from_table(slipped)
    check(rows)  # the probe can measure every sequence
    slips = [turn for row in rows for turn in row.turns if not row.trained[turn.start : turn.end].any()]
    assert not any(turn.action_valid for turn in slips)
    if mode == "windowed":
        assert not slips and slipped.num_rows == plain.num_rows
        assert slipped["token_ids"].to_pylist() != plain["token_ids"].to_pylist(), "windows show slips"
    else:
        turns = sum(len(row.turns) for row in rows)
        assert len(slips) == turns - sum(map(len, lessons.values())) > turns / 20


def test_slips_are_those_of_the_seed_and_a_lost_file_comes_back(tmp_path):
    first = played(tmp_path, "slips", "transcript")
    assert played(tmp_path / "again", "slips", "transcript") == first
    assert played(tmp_path, "plain", "transcript") == first, "what is in the folder stays"
    (tmp_path / FILE).unlink()
    assert played(tmp_path, "slips", "transcript") == first != played(tmp_path / "plain", "plain", "transcript")


def test_slips_take_no_turn_from_the_expert(tmp_path):
    assert taught(played(tmp_path / "slips", "slips", "transcript", 9)) == taught(
        played(tmp_path / "plain", "plain", "transcript", 9)
    )
