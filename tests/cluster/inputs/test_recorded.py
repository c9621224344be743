"""Recorded demonstrations in a file that a run imitates: made by the command, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster.config.loading import load_config
from cluster.inputs.demonstrations import Transcriber
from cluster.inputs.models import TINY, resolve_model
from cluster.inputs.recorded import import_demonstrations, read_recorded
from cluster.inputs.run_plan import plan_run
from envs import load_panel
from learners.learner_settings import LearnerSettings, PolicySettings
from learners.workers.worker import LearnerWorker
from tests.envs.test_recordings import shop_record
from trajectories.builder import PromptSettings
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.schema import assignments_to_table
from trajectories.types import Assignment, Route

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.from_pretrained(resolve_model(TINY))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    records = (shop_record(task) for task in ("1500", "1502", "17"))
    (folder / "shop.jsonl").write_text("\n".join(map(json.dumps, records)))
    config = load_config("local", overrides=["data.webshop=generated"])
    import_demonstrations(config, "webshop", folder / "shop.jsonl", folder / "out" / "shop.parquet", QUIET)
    return folder / "out" / "shop.parquet"


def shop_run(file: Path, *more: str):
    settings = ["tasks=webshop", "data.webshop=generated", f"schedule.demonstrations_file={file}", *more]
    return load_config("local", overrides=settings)


def test_the_file_holds_the_training_goals_only(demonstrations, tokenizer):
    table = read_recorded(demonstrations, Transcriber(tokenizer, PromptSettings(), 2048))
    assert table["episode_id"].to_pylist() == ["demonstration/webshop/1500", "demonstration/webshop/1502"]
    assert all(map(any, table["trained"].to_pylist()))


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ("", "{}"),
        ("action", "{}"),
        ("react", "Thought: well\nAction: {}"),
        ("tagged", "<think>well</think>\n<action>{}</action>"),
    ],
)
def test_recorded_thoughts_are_said_where_the_format_has_room_for_them(tmp_path, tokenizer, format, said):
    source, out = tmp_path / "shop.jsonl", tmp_path / "shop.parquet"
    source.write_text(json.dumps(shop_record("1500")))
    settings = ["data.webshop=generated", f"rollout.prompt.format={format}", "rollout.engine.max_model_len=8192"]
    import_demonstrations(load_config("local", overrides=settings), "webshop", source, out, QUIET)
    (row,) = pq.read_table(out).to_pylist()
    spoken = [token for token, learned in zip(row["token_ids"], row["trained"], strict=True) if learned]
    turns = tokenizer.decode(spoken).split("<|end|>")[:-1]
    assert turns[0].startswith(said.partition("{")[0] + "search[") and turns[-1] == said.format("click[buy now]")
    assert all(turn.startswith(said.partition("{")[0]) for turn in turns)


def test_a_learner_imitates_it(demonstrations, tokenizer):
    table = read_recorded(demonstrations, Transcriber(tokenizer, PromptSettings(), 2048))
    worker = LearnerWorker(LearnerSettings(policy=PolicySettings(model=resolve_model(TINY))))
    imitated = assignments_to_table(
        Assignment(name, Route.SFT, (), 0.0, 1.0, {}) for name in table["sequence_id"].to_pylist()
    )
    losses = [worker.train("sft", table, imitated)["sft/loss"] for _ in range(3)]
    assert losses[-1] < losses[0]


def test_a_run_takes_it_and_refuses_what_it_evaluates(demonstrations, tmp_path):
    plan = plan_run(shop_run(demonstrations), tmp_path, resume=False)
    assert [panel.name for panel in plan.eval_panels] == ["webshop/dev"]
    assert "1500" in load_panel("webshop/train", "generated").task_ids
    with pytest.raises(UserError, match="solves task 1500 of webshop/train, which this run evaluates"):
        plan_run(shop_run(demonstrations, "evaluation.panels=[webshop/train]"), tmp_path, resume=False)


def test_another_prompt_or_tokenizer_is_refused(demonstrations, tmp_path, tiny_model_dir):
    with pytest.raises(UserError, match="was made for another prompt"):
        plan_run(shop_run(demonstrations, "rollout.prompt.system=Shop!"), tmp_path, resume=False)
    with pytest.raises(UserError, match="was made for another tokenizer"):
        plan_run(shop_run(demonstrations, f"policy.model={tiny_model_dir}"), tmp_path, resume=False)


def test_files_of_another_kind_are_named(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"cannot read .*none\.parquet .*`concerto data import`"):
        read_recorded(tmp_path / "none.parquet", Transcriber(tokenizer, PromptSettings(), 2048))
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match=r"cannot read .*text\.parquet"):
        read_recorded(tmp_path / "text.parquet", Transcriber(tokenizer, PromptSettings(), 2048))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="lacks the column 'sequence_id'"):
        read_recorded(tmp_path / "other.parquet", Transcriber(tokenizer, PromptSettings(), 2048))


def test_what_the_engines_do_not_hold_is_refused(demonstrations, tokenizer, tmp_path):
    longest = max(map(len, pq.read_table(demonstrations)["token_ids"].to_pylist()))
    assert read_recorded(demonstrations, Transcriber(tokenizer, PromptSettings(), longest + 1)).num_rows
    with pytest.raises(UserError, match=rf"a demonstration of {longest} tokens: raise rollout\.engine\.max_model_len"):
        plan_run(shop_run(demonstrations, f"rollout.engine.max_model_len={longest}"), tmp_path, resume=False)


def test_nothing_to_imitate_writes_nothing(tmp_path):
    (tmp_path / "shop.jsonl").write_text(json.dumps(shop_record("17")))
    config = load_config("local", overrides=["data.webshop=generated"])
    with pytest.raises(UserError, match=r"no recording .* Left out: 1 of tasks in a test or dev split\."):
        import_demonstrations(config, "webshop", tmp_path / "shop.jsonl", tmp_path / "out.parquet", QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["shop.jsonl"]
