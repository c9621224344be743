"""Expert demonstrations of the training panels as training sequences, built once a run and kept beside it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.config.sections import DemonstrationsKind
from cluster.loop.tasks import TaskMixture, index_at
from envs import EnvironmentSettings, Panel, make_environment
from envs.experts import Demonstration, EnvironmentWithExpert, play_slipping
from envs.prompts import instructions
from envs.slips import Slips
from trajectories.builder import DemonstratedStep, PromptSettings, add_demonstration, make_builder
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError
from trajectories.ids import PREFIX
from trajectories.schema import sequences_to_table
from trajectories.store import read_cache, write_parquet
from trajectories.types import Sequence

FILE = "demonstrations.parquet"
SLIP_RATES: dict[DemonstrationsKind, float] = {"plain": 0.0, "slips": 0.15}
"""Chance that the expert slips before a turn. Since slips come in runs, 0.15 makes about one turn in six a slip."""

Demonstrated = tuple[Sequence, ...]
"""The sequences of one demonstration."""


@dataclass(frozen=True, slots=True)
class Transcriber:
    """Turns demonstrations into what a model would have read and written.

    Attributes:
        longest: tokens of which an engine holds one fewer.
    """

    tokenizer: ChatTokenizer
    prompt: PromptSettings
    longest: int

    def sequences(
        self,
        demonstration: Demonstration,
        name: str,
        slips: frozenset[int] = frozenset(),
        thoughts: tuple[str, ...] = (),
    ) -> Demonstrated:
        """A demonstration as training sequences. `name` is `environment/task`, and more where a task has several.

        Args:
            slips: turns that are read by later ones, but not trained.
            thoughts: what was thought before each turn, if that is known.
        """
        environment = name.partition("/")[0]
        builder = make_builder(self.tokenizer, self.prompt, instructions(environment, self.prompt))
        told = thoughts or ("",) * len(demonstration)
        steps = [
            DemonstratedStep(
                action=action,
                observation=result.observation,
                reward=result.rewards["success"],
                state_hash=result.info["state_hash"],
                action_valid=result.info["action_valid"],
                thought=thought,
                trained=turn not in slips,
            )
            for turn, ((_, action, result), thought) in enumerate(zip(demonstration, told, strict=True))
        ]
        add_demonstration(builder, self.tokenizer, demonstration[0][0], steps, self.prompt.format)
        episode_id = PREFIX + name
        return builder.sequences(episode_id, episode_id, episode_id, temperature=1.0)

    def fits(self, demonstrated: Demonstrated) -> bool:
        """Whether an engine would take every sequence."""
        return all(len(sequence.token_ids) < self.longest for sequence in demonstrated)


@dataclass(frozen=True, slots=True)
class ExpertPlay:
    """What the environments' own experts play.

    Attributes:
        tasks: each panel gives an equal share, its tasks in a seeded order.
        opening: data and options of an environment, as `RunSettings.opening` gives them.
        count: won demonstrations wanted, of all panels together.
        max_turns: the expert's own; slips come on top.
    """

    tasks: TaskMixture
    opening: Callable[[str], tuple[str | None, EnvironmentSettings | None]]
    count: int
    max_turns: int
    seed: int
    kind: DemonstrationsKind = "plain"

    def share(self, number: int) -> int:
        """Demonstrations wanted of the panel with this index; the shares add up to `count`."""
        panels = len(self.tasks.panels)
        return self.count * (number + 1) // panels - self.count * number // panels

    def episode(
        self, environment: EnvironmentWithExpert, name: str, task_id: str
    ) -> tuple[Demonstration, frozenset[int]]:
        """One episode and which of its turns are slips: they are those of the seed and of `name`, the environment's."""
        slips = Slips(random.Random(f"{self.seed}/{name}/{task_id}"), SLIP_RATES[self.kind])
        return play_slipping(environment, task_id, slips, self.seed, self.max_turns)


def load_demonstrations(
    run_dir: Path,
    play: ExpertPlay,
    transcriber: Transcriber,
    progress: Callable[[int, int], None],
    say: Callable[[str], None] = lambda line: None,
) -> pa.Table:
    """Won demonstrations as a sequences table: from the run directory, or played by the experts now, also
    where the file is damaged, which `say` is told.

    Demonstrations that the expert lost, or that the engines would refuse for their length, are left out. Raises
    UserError when none remains of a panel.
    """
    path = run_dir / FILE
    if (kept := read_cache(path, say)) is not None:
        return kept
    found: list[Demonstrated] = []
    for number, panel in enumerate(play.tasks.panels):
        told = partial(_told, progress, len(found), play.count)
        found += _of_panel(panel, play.share(number), play, transcriber, told)
    table = sequences_to_table(sequence for demonstrated in found for sequence in demonstrated)
    write_parquet(path, table)
    return table


def _told(progress: Callable[[int, int], None], before: int, count: int, done: int) -> None:
    progress(before + done, count)


def _of_panel(
    panel: Panel, wanted: int, play: ExpertPlay, transcriber: Transcriber, progress: Callable[[int], None]
) -> list[Demonstrated]:
    """`wanted` demonstrations, or as many as the expert wins."""
    found: list[Demonstrated] = []
    tried = 0
    player: Any = make_environment(panel.environment, *play.opening(panel.environment))
    if wanted and not hasattr(player, "expert"):
        raise UserError(
            f"{panel.environment} has no expert to learn from: leave out the SFT stage (schedule.sft_steps=0), or give "
            "its environment an expert(seed)"
        )
    while len(found) < wanted and tried < len(panel.task_ids):
        task_id = panel.task_ids[index_at(len(panel.task_ids), play.seed, tried)]
        tried += 1
        demonstration, slips = play.episode(player, panel.environment, task_id)
        if demonstration and demonstration[-1][2].rewards["success"] >= 1.0:
            demonstrated = transcriber.sequences(demonstration, f"{panel.environment}/{task_id}", slips)
            if demonstrated and transcriber.fits(demonstrated):
                found.append(demonstrated)
        progress(len(found))
    player.close()
    if wanted and not found:
        raise UserError(
            f"the expert won none of {tried} tasks of {panel.name} within {play.max_turns} turns and "
            f"{transcriber.longest} tokens: raise rollout.max_turns or rollout.engine.max_model_len, or leave out the "
            "SFT stage (schedule.sft_steps=0)."
        )
    return found
