"""The plan of a run: its configuration, and everything that can be checked before a cluster is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from cluster.config.loading import check_config
from cluster.config.run import RunSettings
from cluster.inputs.demonstrations import Transcriber
from cluster.inputs.models import load_tokenizer, resolve_model
from cluster.inputs.recorded import read_recorded
from cluster.inputs.reward_channels import reward_channels
from cluster.inputs.routed_corpus import check_router
from cluster.loop.checkpoint import Manifest, has_checkpoint, latest_checkpoint, load_manifest
from cluster.loop.tasks import TaskMixture
from envs import Panel, heldout_panel, load_panel, training_panel
from trajectories.errors import UserError

FREE_TO_CHANGE = {
    "placement": True,
    "evaluation": True,
    "checkpoint": True,
    "data": True,
    "reward": {"constant_limit": True},
}
"""What a resumed run may change: none of it decides what is trained, and the panels' hashes tell whether the data
elsewhere are the same."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has passed every check which needs no cluster.

    Attributes:
        channels: reward channels that advantages are made of.
    """

    config: RunSettings
    run_dir: Path
    model: str
    tasks: TaskMixture
    channels: tuple[str, ...]
    eval_panels: tuple[Panel, ...]
    checkpoint: Path | None
    manifest: Manifest

    @property
    def environments(self) -> tuple[str, ...]:
        """All that is played."""
        return tuple(sorted({panel.environment for panel in (*self.tasks.panels, *self.eval_panels)}))

    @property
    def transcriber(self) -> Transcriber:
        """How demonstrations become sequences."""
        rollout = self.config.rollout
        return Transcriber(load_tokenizer(self.model), rollout.prompt, rollout.engine.max_model_len)

    def recorded(self) -> pa.Table:
        """Recorded demonstrations. Raises UserError when they do not fit this run."""
        file = self.config.schedule.demonstrations_file
        assert file is not None
        return read_recorded(Path(file), self.transcriber, self.eval_panels, self.tasks.panels)


def plan_run(config: RunSettings, run_dir: Path, resume: bool) -> Plan:
    """Check model, data and run directory. Raises UserError."""
    if not config.schedule.stages:
        raise UserError(
            "the schedule has no steps: set schedule.sft_steps, schedule.mixed_steps or schedule.grpo_steps."
        )
    check_router(config.router, config.schedule)
    model = resolve_model(config.policy.model)
    load_tokenizer(model, config.rollout.prompt)
    tasks = TaskMixture(tuple(training_panel(name, *config.opening(name)) for name in config.tasks))
    panels = {panel.name: panel.hash for panel in tasks.panels}
    if len(panels) < len(tasks.panels):
        raise UserError(f"tasks={','.join(config.tasks)} names a panel twice: shares are equal, so name each once.")
    checkpoint, manifest = None, Manifest(panels=panels)
    if resume:
        _check_same_run(config, run_dir)
    if resume and has_checkpoint(run_dir):
        checkpoint = latest_checkpoint(run_dir)
        manifest = load_manifest(checkpoint)
        for panel in tasks.panels:
            if manifest.panels.get(panel.name) != panel.hash:
                raise UserError(
                    f"{panel.name} no longer holds the tasks that {run_dir} was trained on: name the same data with "
                    f"--set data.{panel.environment}=PATH."
                )
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file: name a directory with --out.")
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run: add --resume to go on with it, or name another --out.")
    channels = reward_channels(config, tasks)
    plan = Plan(config, run_dir, model, tasks, channels, _eval_panels(config, tasks), checkpoint, manifest)
    if config.schedule.demonstrations_file and not resume:
        plan.recorded()
    return plan


def _eval_panels(config: RunSettings, tasks: TaskMixture) -> tuple[Panel, ...]:
    if config.evaluation.panels is not None:
        return tuple(load_panel(name, *config.opening(name)) for name in config.evaluation.panels)
    environments = dict.fromkeys(panel.environment for panel in tasks.panels)
    try:
        return tuple(heldout_panel(name, *config.opening(name)) for name in environments)
    except UserError as error:  # nobody asked for this panel
        raise UserError(
            f"{error}. It would be evaluated by default: name others with evaluation.panels=[PANEL], or leave "
            "evaluation out with evaluation.panels=[]."
        ) from None


def _check_same_run(config: RunSettings, run_dir: Path) -> None:
    """Raises UserError when a resumed run would train something else."""
    file = run_dir / "config.yaml"
    if not file.exists():
        raise UserError(f"{run_dir} holds no run to resume: leave out --resume, or name another --out.")
    saved = check_config(yaml.safe_load(file.read_text()))
    before, now = (one.model_dump(exclude=FREE_TO_CHANGE) for one in (saved, config))
    for name in now:
        if before[name] != now[name]:
            raise UserError(
                f"the section {name!r} differs from that of the run in {run_dir}: resume with --config {file}, "
                "or start a new run with another --out."
            )
