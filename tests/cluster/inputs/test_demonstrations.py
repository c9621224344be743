"""Experts' demonstrations: how many, how long, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.config.loading import load_config
from cluster.inputs.demonstrations import FILE, ExpertPlay, Transcriber, load_demonstrations
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.loop.tasks import TaskMixture
from envs import training_panel
from trajectories.builder import PromptSettings
from trajectories.errors import UserError

TASKS = TaskMixture((training_panel("alfworld"),))


def load(run_dir, count: int, prompt: PromptSettings, max_tokens: int = 2048, say=print) -> pa.Table:
    transcriber = Transcriber(load_tokenizer(resolve_model(TINY)), prompt, max_tokens)
    play = ExpertPlay(TASKS, load_config("local").opening, count, max_turns=30, seed=0)
    return load_demonstrations(run_dir, play, transcriber, lambda *_: None, say)


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
    tokenizer = load_tokenizer(resolve_model(TINY))._tokenizer
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the tokenizer of .* cannot be used .*: check the name, or save one that has"):
        load_tokenizer(str(tmp_path))


def test_a_damaged_file_is_made_again_in_one_line(tmp_path):
    first, said = load(tmp_path, 2, PromptSettings()), []
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    assert load(tmp_path, 2, PromptSettings(), say=said.append) == first == pq.read_table(path)
    (line,) = said
    assert str(path) in line and line.endswith("is made again")
