"""`concerto reproduce` with runs that are made up and an endpoint that follows a script: its table, and wrong input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from cluster.commands import compare, reproduce, streams
from cluster.commands.recipes import RecipeJob, list_recipes, plan_lines
from cluster.config.recipe import RECIPES, load_recipe
from cluster.reporting.estimators import t_interval, wilson_rate
from cluster.reporting.evaluation import Evaluation, evaluation_file, outcome, write_evaluations
from cluster.reporting.reproduced import Measured, measured_runs
from cluster.reporting.summary import compare_runs, summarise_run
from tests.cluster.reporting.samples import evaluation, task_results
from tests.experience.endpoint import endpoint, speaking
from tests.experience.scripted import Script, ScriptedModel

ALFWORLD = RecipeJob("prism-alfworld", "local")
WINS = {"grpo": 4, "prism": 6, "random": 5}
"""Of ten games with seed 0, and one more with each seed; 3 where an arm is not named."""


class Trainer:
    """In place of processes that train: what a run leaves behind, as far as it is read."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.fails = ""

    def __call__(self, command: Sequence[str], log: Path) -> int:
        run_dir = Path(command[command.index("--out") + 1])
        if run_dir.name == self.fails:
            return 1
        self.trained.append(run_dir.name)
        (run_dir / "model").mkdir(parents=True)
        config = yaml.safe_load(run_dir.with_suffix(".yaml").read_text())
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
        arm, _, seed = run_dir.name.rpartition("-")
        seconds = {"grpo": 60.0, "prism": 20.0}.get(arm, 30.0)
        (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 1, "stage": "grpo", "step_s": seconds}) + "\n")
        if panels := config["evaluation"]["panels"]:
            wins = WINS.get(arm, 3) + int(seed)
            solved = [True] * wins + [False] * (10 - wins)
            write_evaluations(
                evaluation_file(run_dir, "last"), tuple(evaluation(solved, panel=panel) for panel in panels)
            )
        (run_dir / "learning_curve.svg").touch()
        return 0


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(compare, "run_process", trainer)
    monkeypatch.setattr(reproduce, "plan_run", lambda config, run_dir, resume: None)
    return trainer


def test_the_table_has_our_values_beside_the_published_ones(concerto, trainer, tmp_path):
    result = concerto("reproduce", "prism-alfworld", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert trainer.trained[:2] == ["start", "sft-0"] and len(trainer.trained) == 1 + 7 * 3
    table = (tmp_path / "reproduced.md").read_text()
    low, high = t_interval([60, 70, 80])
    ours = f"70.0 [{low:.1f}, {high:.1f}]"
    assert f"| prism | PRISM (Gini) | 95.3 | 79.7 | {ours} | 3.22 | 3.00 |" in table
    assert "| sft | SFT | 45.3 | 19.5 | 40.0 [15.2, 64.8] | not found | 2.00 |" in table
    assert "success on valid_seen, %: published (Table 1)" in table and "valid_seen, %: ours" not in table
    assert "Ours: concerto-tiny after the run `start`, seeds 0, 1, 2." in table
    assert load_recipe("prism-alfworld").at("local").differs in table and table.strip() in result.stdout
    written = json.loads((tmp_path / "reproduced.json").read_text())
    (prism,) = [row for row in written["rows"] if row["arm"] == "prism"]
    assert prism["ours"]["generated"]["value"] == pytest.approx(70) and prism["published"]["unseen"] == 79.7
    start = yaml.safe_load((tmp_path / "runs" / "prism-0.yaml").read_text())["policy"]["model"]
    assert Path(start) == tmp_path / "runs" / "start" / "model"


def test_the_same_command_goes_on_and_another_recipe_is_refused(concerto, trainer, tmp_path):
    trainer.fails = "grpo-0"
    failed = concerto("reproduce", "prism-alfworld", "--out", tmp_path)
    assert failed.returncode == 1 and "the run grpo-0 ended with exit code 1" in failed.stderr
    trainer.fails = ""
    assert concerto("reproduce", "prism-alfworld", "--out", tmp_path).returncode == 0
    assert trainer.trained.count("start") == trainer.trained.count("sft-0") == 1
    trained = len(trainer.trained)
    assert (
        concerto("reproduce", "prism-alfworld", "--out", tmp_path).returncode == 0 and len(trainer.trained) == trained
    )
    other = concerto("reproduce", "prism-webshop", "--out", tmp_path)
    assert other.returncode == 2 and "holds prism-alfworld local: give that command again, or name" in other.stderr
    assert concerto("reproduce", "prism-alfworld", "--size", "gpu", "--out", tmp_path).returncode == 2


def test_a_row_that_nobody_runs_is_the_paper_s_alone(concerto, trainer, tmp_path):
    assert concerto("reproduce", "maestro-questions", "--out", tmp_path).returncode == 0
    table = (tmp_path / "reproduced.md").read_text()
    assert "| base | Base | not run | 39.6 | 33.1 |" in table
    assert "| nover | NOVER | not run | 46.9 |" in table
    assert "| length | no such row | 40.0 [15.2, 64.8] |  |" in table


def played(name: str, **rewards: float) -> Evaluation:
    """Four questions of two files, the first file's solved."""
    tasks = [
        task.model_copy(update={"task_id": f"{file}_test.jsonl/{at}", "rewards": rewards})
        for at, file, task in zip(range(4), "aabb", task_results([1, 1, 0, 1], 1), strict=True)
    ]
    return evaluation([True]).model_copy(update={"panel": name, "greedy": outcome(0.0, tasks)})


def test_a_measure_is_of_a_kind_of_task_or_of_the_score(tmp_path, monkeypatch):
    trainer = Trainer()
    run = tmp_path / "x-0"
    run.with_suffix(".yaml").write_text("evaluation: {panels: []}")
    trainer(["--out", str(run)], tmp_path / "log")
    write_evaluations(evaluation_file(run, "last"), (played("questions/test", score=0.25),))
    recipe = load_recipe("maestro-questions")
    kind, all_of_it = recipe.measures["tom"], recipe.measures["questions"]
    measures = {
        "b": kind.model_copy(update={"kind": "b_test.jsonl"}),
        "all": all_of_it,
        "score": all_of_it.model_copy(update={"metric": "score"}),
        "elsewhere": all_of_it.model_copy(update={"panel": "alfworld/valid_seen"}),
        "tom": kind,
    }
    comparison = compare_runs({"x-0": summarise_run(run)}, ["x"], [0], None)
    values = measured_runs(comparison, tmp_path, measures)["x"]
    half, most = wilson_rate(1, 2), wilson_rate(3, 4)
    assert values == {
        "b": Measured(value=50, low=100 * half.low, high=100 * half.high),
        "all": Measured(value=75, low=100 * most.low, high=100 * most.high),
        "score": Measured(value=25),
    }


def test_a_stream_is_asked_with_an_empty_memory_and_by_learning_and_goes_on(concerto, tmp_path, monkeypatch):
    started: list[str] = []

    def learn(command: Sequence[str], log: Path) -> int:
        out = Path(command[command.index("--out") + 1])
        started.append(out.name)
        if len(started) == 2:
            return 1
        out.mkdir()
        tokens = {"answer": {"calls": 12, "retries": 0, "prompt_tokens": 1200, "completion_tokens": 0}}
        summary = {"questions": 12, "success": wilson_rate(6, 12).model_dump(), "tokens": tokens, "items": 3}
        (out / "summary.json").write_text(json.dumps(summary))
        (out / "questions.jsonl").write_text('{"failures": ["judge"]}\n')
        return 0

    monkeypatch.setattr(streams, "run_process", learn)
    with endpoint(speaking(ScriptedModel(Script()))) as url:
        asked = ("se-gpt", "--base-url", url, "--model", "m", "--out", tmp_path)
        assert "the arm no-transfer ended with exit code 1" in concerto("reproduce", *asked).stderr
    assert concerto("reproduce", *asked).returncode == 0, "nobody is asked again who has answered"
    assert started == ["full", "no-transfer", "no-transfer", "no-induction"]
    assert len((tmp_path / "questions.jsonl").read_text().splitlines()) == 12
    half = wilson_rate(6, 12)
    table = (tmp_path / "reproduced.md").read_text()
    assert (
        f"| full | SE-GPT | 50.0 [{100 * half.low:.1f}, {100 * half.high:.1f}] | 69.4 | 80.9 | 13,532 | 100 |" in table
    )
    assert "| none | zero-shot | 0.0 [0.0, 24.2] | 65.6 | 75.6 | 191 |" in table and "Ours: m, one pass." in table
    assert streams._summary(tmp_path / "full")["failed"] == 1
    other = concerto("reproduce", "se-gpt", "--base-url", url, "--model", "other", "--out", tmp_path)
    assert other.returncode == 2 and "holds se-gpt local m" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a recipe: `concerto reproduce --list` shows them"),
        (["prism-alfwrld", "--dry-run"], "Did you mean 'prism-alfworld'?"),
        (["prism-alfworld", "--size", "huge", "--dry-run"], "unknown size 'huge': choose one of local, gpu, cluster"),
        (["prism-alfworld"], "name a folder for the runs and the table with --out DIR, or add --dry-run"),
        (["prism-alfworld", "--out", "OUT", "--model", "m"], "leave out --base-url and --model"),
        (["se-gpt", "--out", "OUT", "--base-url", "http://h/v1"], "serve SmolLM2-135M-Instruct, and add --base-url"),
        (["prism-webshop", "--size", "gpu", "--out", "OUT"], "run `concerto data webshop` first"),
        (["prism-alfworld", "--size", "gpu", "--out", "OUT"], "Qwen/Qwen2.5-1.5B-Instruct"),
        (
            ["se-gpt", "--size", "cluster", "--base-url", "http://h/v1", "--model", "m", "--out", "OUT"],
            "no questions at",
        ),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(concerto, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(reproduce, "installed_folder", lambda: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = concerto("reproduce", *(str(tmp_path / "out") if word == "OUT" else word for word in arguments))
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("concerto: ")]
    assert result.returncode == 2 and message in line
    assert not (tmp_path / "out").exists()


def test_every_local_recipe_finds_its_model_data_and_channels(tmp_path):
    for name in RECIPES:
        if (recipe := load_recipe(name)).trains:
            reproduce._check_inputs(recipe, "local", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_plan_and_the_list_start_nothing(concerto, trainer, tmp_path):
    assert [line.partition(":")[0] for line in list_recipes()] == list(RECIPES)
    assert "sizes local, gpu, cluster" in concerto("reproduce", "--list").stdout
    for name in RECIPES:
        for size in load_recipe(name).sizes:
            plan = concerto("reproduce", name, "--size", size, "--dry-run")
            assert plan.returncode == 0 and "What differs: " in plan.stdout
    lines = list(plan_lines(ALFWORLD))
    assert "Model: concerto-tiny after the run `start`; preset local" in lines
    assert "Then 7 arms x seeds 0, 1, 2 = 21 runs:" in lines
    assert "  prism: sft_epochs=1, grpo_epochs=1; router.policy=median_split" in lines
    assert not trainer.trained
