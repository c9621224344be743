"""The best weights of a run: by which evaluations they are chosen, and what a resumed run makes of them."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands import train
from cluster.config.loading import load_config
from cluster.inputs.run_plan import plan_run
from cluster.reporting.best import FILE, FOLDER, ONLY_TEST_PANELS, BestKeeper, choosing_panels, figures, read_best
from cluster.reporting.evaluation import Evaluation, evaluation_file, write_evaluations
from envs.panels import Panel
from tests.cluster.reporting.samples import evaluation
from trajectories.errors import UserError, WorkersLost

WATCHED = Panel("alfworld/x", ("0", "1"), "c0ffee00")
TEST = Panel("alfworld/valid_seen", ("0", "1"), "beef", test=True)


@dataclass
class Run:
    """A run directory; `weights` are what the learner has now."""

    folder: Path
    panels: tuple[Panel, ...] = (WATCHED,)
    weights: str = ""
    said: list[str] = field(default_factory=list)
    breaks: bool = False

    async def save(self, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_text("half" if self.breaks else self.weights)
        if self.breaks:
            raise OSError("disk full")

    def evaluate(self, name: str, *results: Evaluation) -> None:
        self.weights = name
        write_evaluations(evaluation_file(self.folder, name), results)
        asyncio.run(BestKeeper(self.folder, self.panels, self.save, self.said.append).keep(name))

    @property
    def kept(self) -> tuple[str, float]:
        """The weights in best/, and the success that they are said to have."""
        best = read_best(self.folder)
        assert best is not None
        weights = (self.folder / FOLDER / "model.safetensors").read_text()
        assert weights == best.evaluation, "the figures are those of the weights"
        return weights, best.success


def test_the_highest_sampled_success_is_kept_and_not_the_highest_greedy_one(tmp_path):
    run = Run(tmp_path)
    run.evaluate("base", evaluation([True, True], [1, 0]))
    run.evaluate("step_000010", evaluation([False, False], [3, 2]))
    run.evaluate("after_grpo", evaluation([True, False], [2, 2]))
    assert run.kept == ("step_000010", 5 / 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "evaluations"], "nothing is left beside it"


def test_greedy_success_chooses_where_there_are_no_samples_and_a_tie_keeps_the_earlier(tmp_path):
    run = Run(tmp_path)
    for name, solved in {"base": [False, False], "after_sft": [True, False], "after_grpo": [False, True]}.items():
        run.evaluate(name, evaluation(solved))
    assert run.kept == ("after_sft", 0.5)


def test_a_resumed_run_does_not_put_worse_weights_in_the_place_of_better_ones(tmp_path):
    Run(tmp_path).evaluate("step_000020", evaluation([False, False], [4, 3]))
    resumed = Run(tmp_path)
    resumed.evaluate("step_000010", evaluation([False, False], [4, 2]))
    assert resumed.kept == ("step_000020", 7 / 8)
    resumed.evaluate("step_000020", evaluation([False, False], [2, 2]))
    assert resumed.kept == ("step_000020", 7 / 8)
    resumed.evaluate("step_000030", evaluation([False, False], [4, 4]))
    assert resumed.kept == ("step_000030", 1.0)


def test_weights_that_cannot_be_written_leave_the_ones_before(tmp_path):
    run = Run(tmp_path)
    run.evaluate("base", evaluation([False, False], [1, 0]))
    run.breaks = True
    with pytest.raises(OSError, match="disk full"):
        run.evaluate("after_grpo", evaluation([True, True], [4, 4]))
    assert run.kept == ("base", 1 / 8)


def test_test_panels_never_choose(tmp_path):
    run = Run(tmp_path, (TEST, WATCHED))
    run.evaluate("base", evaluation([False, False], [0, 0], panel=TEST.name), evaluation([False, False], [2, 2]))
    run.evaluate("after_grpo", evaluation([True, True], [4, 4], panel=TEST.name), evaluation([False, False], [1, 2]))
    assert run.kept == ("base", 0.5)
    best = read_best(tmp_path)
    assert best and set(best.by_panel) == {WATCHED.name}


def test_with_test_panels_alone_nothing_is_kept(tmp_path):
    run = Run(tmp_path, (TEST,))
    run.evaluate("base", evaluation([True, True], panel=TEST.name))
    assert not (tmp_path / FOLDER).exists() and choosing_panels(run.panels) == ()


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["tasks=webshop", "data.webshop=generated"], 1),
        (["tasks=[webshop,alfworld]", "data.webshop=generated"], 0),
        (["tasks=webshop", "data.webshop=generated", "evaluation.panels=[]"], 0),
    ],
)
def test_a_run_says_once_that_nothing_can_be_chosen(tmp_path, monkeypatch, overrides, lines):
    """Also when workers die and it goes on."""
    deaths = iter([WorkersLost("a worker died"), None])

    async def end_or_die(*parts: object) -> None:
        if death := next(deaths):
            raise death

    async def enough(*parts: object, **options: object) -> None: ...

    monkeypatch.setattr(train, "ray_cluster", lambda placement: nullcontext())
    monkeypatch.setattr(train, "check_resources", enough)
    monkeypatch.setattr(train, "_train", end_or_die)
    told = StringIO()
    plan = plan_run(load_config("local", None, overrides), tmp_path / "run", resume=False)
    train.run_training(plan, Console(file=told, width=300))
    assert told.getvalue().count(ONLY_TEST_PANELS) == lines


def test_several_panels_choose_by_their_mean_however_many_tasks_they_have():
    best = figures("base", [evaluation([True]), evaluation([False] * 9, panel="questions/dev")])
    assert best.success == 0.5 and best.measure.panels == {"alfworld/x": "c0ffee00", "questions/dev": "c0ffee00"}


@pytest.mark.parametrize(
    "other",
    [
        evaluation([True, True]),
        evaluation([True, True], [4, 4], limit=2),
        evaluation([True, True], [4, 4], panel_hash="decade"),
    ],
)
def test_figures_of_another_measure_do_not_compete(tmp_path, other):
    """A run may go on with other settings of `evaluation`: an easier panel would win."""
    run = Run(tmp_path)
    run.evaluate("base", evaluation([False, False], [1, 0]))
    run.evaluate("after_grpo", other)
    assert run.kept == ("base", 1 / 8)
    assert "was chosen by other evaluations and stays; move " in run.said[-1]


def test_damaged_figures_end_the_run_with_a_way_out(tmp_path):
    run = Run(tmp_path)
    run.evaluate("base", evaluation([False, False]))
    (tmp_path / FOLDER / FILE).write_text("{")
    with pytest.raises(UserError, match=r"best\.json cannot be read: move .*best away"):
        run.evaluate("after_grpo", evaluation([True, True]))
