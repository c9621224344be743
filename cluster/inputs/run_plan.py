"""The plan of a run: its configuration, and everything that can be checked before a cluster is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cluster.config.run import RunSettings
from cluster.inputs.demonstrations import Transcriber
from cluster.inputs.experience_plan import check_experience
from cluster.inputs.models import check_trainable, load_tokenizer, resolve_model
from cluster.inputs.recorded import read_recorded
from cluster.inputs.reward_channels import check_evaluator, reward_channels
from cluster.inputs.routed_corpus import check_router
from cluster.inputs.run_folder import Start, check_room, find_start
from cluster.loop.checkpoint import Manifest, load_manifest
from cluster.loop.tasks import TaskMixture
from envs import Panel, heldout_panel, load_panel, training_panel
from trajectories.errors import UserError
from trajectories.ids import plain_name


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that has passed every check which needs no cluster.

    Attributes:
        channels: reward channels that advantages are made of.
        start: whether it begins, and what an earlier start left.
    """

    config: RunSettings
    run_dir: Path
    model: str
    tasks: TaskMixture
    channels: tuple[str, ...]
    eval_panels: tuple[Panel, ...]
    start: Start
    manifest: Manifest

    @property
    def checkpoint(self) -> Path | None:
        """What the run goes on from; None where it begins."""
        return self.start.checkpoint

    @property
    def name(self) -> str:
        """The run's, in the names of its actors."""
        return plain_name(self.run_dir.name)

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
    """Check model, data and run directory, and that this can be written. Raises UserError."""
    if not config.schedule.stages(1, 1):
        raise UserError(
            "the schedule has no steps: set schedule.sft_steps, schedule.mixed_steps or schedule.grpo_steps, or "
            "schedule.sft_epochs or schedule.grpo_epochs."
        )
    check_router(config.router, config.schedule)
    model = resolve_model(config.policy.model)
    tasks = TaskMixture(tuple(training_panel(name, *config.opening(name)) for name in config.tasks))
    panels = {panel.name: panel.hash for panel in tasks.panels}
    if len(panels) < len(tasks.panels):
        raise UserError(f"tasks={','.join(config.tasks)} names a panel twice: shares are equal, so name each once.")
    start, manifest = find_start(config, run_dir, resume), Manifest(panels=panels)
    if start.checkpoint is not None:
        manifest = load_manifest(start.checkpoint)
        for panel in tasks.panels:
            if manifest.panels.get(panel.name) != panel.hash:
                raise UserError(
                    f"{panel.name} no longer holds the tasks that {run_dir} was trained on: name the same data with "
                    f"--set data.{panel.environment}=PATH."
                )
    check_room(run_dir, model)
    check_experience(config.experience, run_dir)
    panels_played = _eval_panels(config, tasks)
    check_evaluator(config, panels_played)
    plan = Plan(config, run_dir, model, tasks, reward_channels(config, tasks), panels_played, start, manifest)
    from cluster.inputs.model_check import check_model  # here, because it takes seconds, and nothing above needs it

    check_model(config, plan.environments)
    check_trainable(model, config.policy)
    if config.schedule.demonstrations_file and start.checkpoint is None:
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
