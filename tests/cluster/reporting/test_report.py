"""What a report is made of: runs read, series, the index of episodes, whole episodes, and the page's one file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cluster.commands.report import write_report
from cluster.reporting.report.charts import phases, rolling, run_charts, stages
from cluster.reporting.report.episodes import read_episodes
from cluster.reporting.report.index import Filter, matching, measured, parts, read_index, sample, step_range
from cluster.reporting.report.overview import Indexed, differences, faults, flat, overview
from cluster.reporting.report.page import PAGE, SCRIPTS, embedded
from cluster.reporting.report.runs import Run, read_runs
from cluster.reporting.report.words import Words
from tests.cluster.reporting.report_runs import SAID, SEEN, TASKS, TOKENIZER, record, write_part, write_run
from trajectories.errors import UserError
from trajectories.store import ASSIGNMENTS_FILE, EPISODES_FILE, SEQUENCES_FILE


@pytest.fixture
def run(tmp_path) -> Run:
    return read_runs([write_run(tmp_path / "run")])[0]


def index_of(run: Run):
    return read_index(run, parts(run))


def charts_of(run: Run) -> dict[str, dict[str, list[float | None]]]:
    steps = [one["step"] for one in run.records]
    return {chart["title"]: chart["series"] for chart in run_charts(run.records, measured(index_of(run), steps))}


def page_data(file: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_charts_have_one_value_a_step_and_none_where_nothing_was_measured(run):
    charts = charts_of(run)
    assert charts["Losses"] == {"sft": [0.5, None, None, None], "grpo": [None, 0.5, 0.333333, 0.25]}
    assert charts["Success"]["success, mean of 10 steps"] == [None, 0.5, 0.5, 0.5]
    assert charts["Routes"] == {"drop": [None, 0.5, 0.5, 0.5], "grpo": [None, 0.5, 0.5, 0.5]}
    assert charts["Staleness"] == {"mean": [None, 1.0, 1.0, 1.0], "max": [None, 1, 1, 1]}
    assert "Trouble" not in charts and "Reward weights" not in charts  # nothing moves in them


def test_what_the_conductor_gives_is_drawn_by_kind_of_task():
    steps = [{"step": at, "conductor/a/weight": at / 2, "conductor/a/weight/heat": 1.0 - at} for at in range(2)]
    charts = {chart["title"]: chart["series"] for chart in run_charts(steps, {})}
    assert charts["Conductor"] == {"conductor/a/weight": [0.0, 0.5]}
    assert charts["The Conductor by kind of task"] == {"conductor/a/weight/heat": [1.0, 0.0]}


def test_seconds_of_a_step_are_all_in_its_phases():
    spent = phases({"step_s": 4.0, "seconds": 2.5, "waited_s": 1.0, "probe_s": 0.25})
    assert spent == {"learner": 2.5, "waiting": 1.0, "probing": 0.25, "publishing and the rest": 0.25}


def test_a_stage_that_ran_twice_is_two_bands_and_step_0_is_in_none():
    records = [{"step": step, "stage": stage} for step, stage in enumerate(["sft", "sft", "grpo", "sft"])]
    assert [(band["stage"], band["first"], band["last"]) for band in stages(records)] == [
        ("sft", 1, 1),
        ("grpo", 2, 2),
        ("sft", 3, 3),
    ]


@given(st.lists(st.none() | st.floats(-1e3, 1e3)), st.integers(1, 5))
def test_a_rolling_mean_is_that_of_the_last_values_there_are(values, window):
    there = [value for value in values if value is not None]
    twin = [sum(kept := there[max(0, at + 1 - window) : at + 1]) / len(kept) for at in range(len(there))]
    assert [mean for mean in rolling(values, window) if mean is not None] == pytest.approx(twin)
    assert [mean is None for mean in rolling(values, window)] == [value is None for value in values]


def test_the_index_tells_outcome_type_route_and_age(run):
    first, second = index_of(run).to_pylist()[:2]
    assert first == {
        "id": "grpo-0-0",
        "group": "grpo-0",
        "part": 0,
        "step": 2,
        "environment": "alfworld",
        "task": TASKS[0],
        "type": "pick_cool",
        "outcome": "solved",
        "turns": 2,
        "route": "grpo",
        "staleness": 1,
    }
    assert second["outcome"] == "truncated"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Filter(), 12),
        (Filter(outcome="solved"), 6),
        (Filter(type="look_at", route="drop"), 6),
        (Filter(type="look_at", route="grpo"), 0),
        (Filter(step="3"), 4),
        (Filter(step="3-9", outcome="truncated"), 4),
    ],
)
def test_a_filter_keeps_what_fits_newest_first(run, wanted, count):
    rows = matching(index_of(run), wanted).to_pylist()
    assert len(rows) == count
    assert [row["part"] for row in rows] == sorted((row["part"] for row in rows), reverse=True)


@pytest.mark.parametrize("text", ["x", "3-", "-3", "1-2-3", "٣", "9" * 13])
def test_what_is_no_step_is_refused(text):
    if text == "٣":  # digits of other scripts are digits
        assert step_range(text) == (3, 3)
    else:
        with pytest.raises(UserError, match="is no step"):
            step_range(text)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 11, 12, 50])
def test_a_sample_holds_whole_groups_the_newest_among_them(run, count):
    index = index_of(run)
    kept = sample(index, count).to_pylist()
    assert len(kept) <= count
    assert len(kept) == 12 or count < 12
    groups = [row["group"] for row in kept]
    if count >= 2:
        assert all(groups.count(group) == 2 for group in groups) and groups[-1] == "grpo-5"
    if count >= 7:
        assert groups[0] == "grpo-0"


def test_an_episode_is_told_turn_by_turn(run):
    index = index_of(run)
    (episode,) = read_episodes(run, index.slice(0, 1), Words.of_run(run))
    first, second = episode["played"]
    assert first["seen"] == [("<|im_start|>", True), (f"0: {SEEN}", False)]
    assert "".join(second["tokens"]) == f"{SAID}<|im_end|>"
    assert first["logprobs"] == [-0.25] * len(first["tokens"])
    assert (first["advantage"], second["advantage"]) == (1.5, -0.5)
    assert (first["valid"], second["valid"], second["reward"]) == (False, True, 1.0)
    assert episode["rewards"] == {"success": 1.0} and episode["experience"] == ["item-1"]


@given(st.text())
def test_tokens_together_say_the_text(text):
    words = Words(TOKENIZER.backend_tokenizer)
    ids = TOKENIZER.encode(text)
    pieces = words.tokens(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == "".join(piece for piece, _ in words.pieces(ids)) == words.texts([ids])[0]


def test_without_a_tokenizer_tokens_are_numbers(tmp_path):
    folder = write_run(tmp_path / "run", settings=["policy.model=gone/away"])
    shutil.rmtree(folder / "model")
    (run,) = read_runs([folder])
    words = Words.of_run(run)
    (episode,) = read_episodes(run, index_of(run).slice(0, 1), words)
    assert words.missing and all(token.strip().isdecimal() for token in episode["played"][0]["tokens"])


def test_a_run_under_way_shows_what_there_is(tmp_path):
    folder = write_run(tmp_path / "run", finished=False)
    write_part(folder, 3)  # written before its step was
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "sta')
    (run,) = read_runs([folder])
    assert not run.finished and faults(run) == ["The run is not finished: its last step so far is 4."]
    assert index_of(run)["step"].to_pylist()[-4:] == [None] * 4
    assert charts_of(run)["Staleness"]["max"] == [None, 1, 1, 1]


@pytest.mark.parametrize("left", [(), ("evaluations",), ("metrics.jsonl",), ("trajectories",)])
def test_a_run_with_only_some_of_its_files_is_shown(tmp_path, left):
    folder = write_run(tmp_path / "run")
    for path in folder.iterdir():
        if path.name not in ("config.yaml", *left):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_report([folder], out := tmp_path / "report.html", 20, Console(quiet=True))
    (run,) = page_data(out)["runs"]
    assert run["episodes"] == (12 if left == ("trajectories",) else 0)
    assert bool(run["tables"]) == (left == ("evaluations",))
    assert bool(run["charts"]) == (left in (("metrics.jsonl",), ("trajectories",))) or left == ("trajectories",)


def test_a_part_without_assignments_has_no_routes(run):
    for file in (run.folder / "trajectories").glob("*/assignments.parquet"):
        file.unlink()
    index = index_of(run)
    assert set(index["route"].to_pylist()) == {None} and "Routes" not in charts_of(run)
    (episode,) = read_episodes(run, index.slice(0, 1), Words.of_run(run))
    assert episode["played"][0]["advantage"] is None and episode["rewardAdvantages"] == {}


def test_an_episode_of_several_sequences_has_their_route_or_several(run):
    (part, *_) = parts(run)
    table, assigned = pq.read_table(part / SEQUENCES_FILE), pq.read_table(part / ASSIGNMENTS_FILE)
    again = pa.array([f"{name}-again" for name in table["sequence_id"].to_pylist()])
    doubled = pa.concat_tables([table, table.set_column(0, table.field(0), again)])
    routes = assigned.set_column(0, assigned.field(0), again).set_column(1, assigned.field(1), pa.array(["drop"] * 4))
    pq.write_table(doubled, part / SEQUENCES_FILE)
    pq.write_table(pa.concat_tables([assigned, routes]), part / ASSIGNMENTS_FILE)
    assert index_of(run)["route"].to_pylist()[:4] == ["several", "several", "drop", "drop"]


@pytest.mark.parametrize("file", [EPISODES_FILE, SEQUENCES_FILE, ASSIGNMENTS_FILE])
def test_a_damaged_part_is_named(run, file):
    (broken := parts(run)[1] / file).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=rf"cannot read .*part-000001/{file}.*move that part away"):
        index_of(run)
    pq.write_table(pa.table({"x": [1]}), broken)
    with pytest.raises(UserError, match="lacks the column"):
        index_of(run)


def test_faults_are_counted(tmp_path):
    folder = write_run(tmp_path / "run", steps=0)
    broken = [record(2) | {"failed_episodes": 2}, record(3) | {"failed_episodes": 1, "trained_tokens": 0}]
    odd = [record(4) | {"grad_norm": float("nan"), "groups_filtered": 3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*broken, *odd]))
    assert faults(read_runs([folder])[0]) == [
        "3 episodes broke for good, in 2 steps, the first of them 2.",
        "3 groups were given back: too many of their episodes broke, or they were too old.",
        "Nothing was trained in step 3.",
        "A number was not finite in step 4.",
    ]


def test_runs_are_compared_by_settings_and_task_by_task(tmp_path):
    folders = [
        write_run(tmp_path / "a", settings=["seed=1"]),
        write_run(tmp_path / "b", settings=["seed=2"]),
    ]
    runs = read_runs(folders)
    data = overview([Indexed(run, index_of(run), False) for run in runs])
    assert data["differences"] == [{"name": "seed", "values": ["1", "2"]}]
    (table,) = data["between"]
    assert table["rows"][0][:5] == ["b", "a", "0", "0", "1"]


def test_settings_that_only_some_runs_have_differ():
    configs = {"a": dict(flat({"x": {"y": 1, "z": None}})), "b": dict(flat({"x": {"y": 1}}))}
    assert differences(configs) == [{"name": "x.z", "values": ["null", None]}]


def test_a_folder_without_a_run_and_one_named_twice_are_refused(tmp_path):
    folder = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        read_runs([tmp_path])
    with pytest.raises(UserError, match="named twice"):
        read_runs([folder, tmp_path / "." / "run"])


CODE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
HOSTILE = f"</script>{CODE} &lt; \x00\x1b[31m\u202e \u2028"


@given(st.text() | st.sampled_from([HOSTILE, "<!--", "]]>", "\ud800"]))
def test_no_text_ends_the_script_that_holds_it(text):
    said = embedded({"text": text})
    assert not re.search(r"[<>&\u2028\u2029\x00-\x1f]", said)
    assert json.loads(said) == {"text": text}


def test_hostile_words_of_an_episode_are_data_in_the_page(tmp_path):
    folder = write_run(tmp_path / HOSTILE.replace("/", "-").replace("\x00", ""), seen=HOSTILE, said=HOSTILE)
    write_report([folder], out := tmp_path / "report.html", 4, Console(quiet=True))
    page = out.read_text()
    assert "document.title='taken'" not in page.replace("\\u0027", "'").split('id="data">')[0]
    assert page.count("<script") == page.count("</script>") == 2
    data = page_data(out)
    assert HOSTILE in data["episodes"][0]["played"][0]["seen"][1][0]


def test_the_page_fetches_nothing_and_its_scripts_make_no_html(tmp_path):
    write_report([write_run(tmp_path / "run")], out := tmp_path / "report.html", 4, Console(quiet=True))
    page = out.read_text()
    assert not re.findall(r"<(?:link|img|script|iframe)[^>]*(?:src|href)=[\"'](?!data:)", page)
    own = "".join((PAGE / name).read_text() for name in SCRIPTS if "uplot" not in name)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", own)
    assert "script-src 'sha256-" in page and "unsafe-eval" not in page


def test_the_files_of_the_page_are_package_data():
    import tomllib

    kept = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = kept["tool"]["setuptools"]["package-data"]["*"]
    assert {path.suffix for path in PAGE.rglob("*") if path.is_file()} <= {
        pattern.removeprefix("*") for pattern in patterns
    }
