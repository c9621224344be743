"""The task frontier of a stage: which groups are to be issued, are running, wait for the learner, or are done with.

A group is named by its position in the stage's task order. Every position below `cursor` is in exactly one of
`pending`, `running`, `ready`, `trained`, `filtered` and `skipped`. Nothing here waits or knows of actors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.loop.checkpoint import Frontier, PendingGroup, Played
from cluster.loop.ports import FinishedGroup
from cluster.loop.staleness import StalenessGate, is_stale


@dataclass(slots=True)
class GroupFrontier:
    """Moves groups from issue to training, through the staleness gate.

    Attributes:
        min_group: members that a group needs to be accepted.
        max_attempts: how often a group that closes with fewer members is issued before it is filtered for good.
        compared: the rewards that advantages are made of.
        max_skipped: groups skipped at most for one batch, since their members do not differ in `compared`; more are
            accepted as they are, so that a batch fills up whatever the policy plays. 0: none is skipped.
        last: positions that there are, where the stage is to play each once; None where it goes on until its steps are
            done.
        skips: groups skipped since a batch was last full; those ready beyond it belong to the next one.
        skipped_play: what was played in groups skipped since a batch was last handed out, by environment.
        batch_skipped_play: the same for the batch that was handed out last: what it cost.
    """

    gate: StalenessGate
    min_group: int
    max_attempts: int
    compared: tuple[str, ...] = ()
    max_skipped: int = 0
    last: int | None = None
    cursor: int = 0
    pending: deque[PendingGroup] = field(default_factory=deque)
    running: dict[int, PendingGroup] = field(default_factory=dict)
    ready: dict[int, FinishedGroup] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    filtered: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    skips: int = 0
    skipped_play: dict[str, Played] = field(default_factory=dict)
    batch_skipped_play: dict[str, Played] = field(default_factory=dict)

    @property
    def exhausted(self) -> bool:
        """No group is running or will be: what is ready is all that is left to train."""
        return self.cursor == self.last and not self.pending and not self.running

    def issue(self, stage_step: int) -> int | None:
        """The position to start now, or None while the gate is shut or where there is none."""
        if self.gate.capacity(stage_step) == 0 or (self.cursor == self.last and not self.pending):
            return None
        if self.pending:
            group = self.pending.popleft()
        else:
            group = PendingGroup(position=self.cursor)
            self.cursor += 1
        self.gate.submit()
        self.running[group.position] = group
        return group.position

    def close(self, position: int, finished: FinishedGroup) -> None:
        """A running group has ended: ready, skipped, to be issued again, or filtered."""
        group = self.running.pop(position)
        if finished.members >= self.min_group:
            self._close_whole(position, finished)
        elif group.attempts + 1 < self.max_attempts:
            self.gate.filter()
            self.pending.append(PendingGroup(position=position, attempts=group.attempts + 1))
        else:
            self.gate.filter()
            self.filtered.append(position)
        self.check()

    def _close_whole(self, position: int, finished: FinishedGroup) -> None:
        """Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): skip what teaches nothing, up to the cap."""
        if self.skips < self.max_skipped and not finished.is_informative(self.compared):
            self.gate.skip()
            self.skipped.append(position)
            self.skips += 1
            before = self.skipped_play.get(finished.environment, Played())
            self.skipped_play[finished.environment] = Played(
                episodes=before.episodes + finished.members,
                successes=before.successes + finished.successes,
                turns=before.turns + finished.turns,
            )
        else:
            self.gate.accept()
            self.ready[position] = finished
            if len(self.ready) % self.gate.batch == 0:
                self.skips = 0

    def take(self, version: int) -> dict[int, FinishedGroup] | None:
        """One batch for the learner at `version`, the oldest data first; None when too few groups are ready. When
        nothing more will be, all that is left, which may be nothing.

        Groups that are too old are put back first: their tasks are played again by newer weights.
        """
        for position, group in list(self.ready.items()):
            if is_stale(group.oldest_version, version, self.gate.max_staleness):
                del self.ready[position]
                self.gate.drop_stale()
                self.pending.append(PendingGroup(position=position))
        if len(self.ready) < self.gate.batch and not self.exhausted:
            return None
        order = sorted(self.ready, key=lambda position: (self.ready[position].oldest_version, position))
        batch = {position: self.ready.pop(position) for position in order[: self.gate.batch]}
        self.trained.extend(batch)
        self.batch_skipped_play, self.skipped_play = self.skipped_play, {}
        self.check()
        return batch

    def snapshot(self) -> Frontier:
        """The frontier as a checkpoint keeps it: what runs now will have to be issued again."""
        self._check_positions()
        return Frontier(
            cursor=self.cursor,
            trained=tuple(self.trained),
            filtered=tuple(self.filtered),
            skipped=tuple(self.skipped),
            pending=(*self.running.values(), *self.pending),
            ready=tuple(self.ready),
            skips=self.skips,
            skipped_play=dict(self.skipped_play),
        )

    def restore(self, frontier: Frontier, ready: Mapping[int, FinishedGroup]) -> None:
        """Go on from a snapshot; `ready` holds the finished groups read back, by position."""
        self.cursor = frontier.cursor
        self.trained, self.filtered = list(frontier.trained), list(frontier.filtered)
        self.skipped = list(frontier.skipped)
        self.skips, self.skipped_play = frontier.skips, dict(frontier.skipped_play)
        self.pending = deque(frontier.pending)
        self.ready = dict(ready)
        self.gate.accepted = len(self.trained) + len(self.ready)
        self.gate.filtered, self.gate.skipped = len(self.filtered), len(self.skipped)
        self.gate.submitted = self.gate.accepted + self.gate.filtered + self.gate.skipped
        self._check_positions()
        self.check()

    def check(self) -> None:
        """Raises AssertionError when counts do not add up: a position was lost or is in two places."""
        places = (self.pending, self.running, self.ready, self.trained, self.filtered, self.skipped)
        held = sum(map(len, places))
        assert held == self.cursor, f"{held} positions are held, {self.cursor} were issued"
        assert self.gate.running == len(self.running), f"{self.gate.running} counted, {len(self.running)} running"
        assert self.gate.skipped == len(self.skipped), f"{self.gate.skipped} counted, {len(self.skipped)} skipped"
        assert self.gate.accepted == len(self.ready) + len(self.trained), f"accepted groups were lost: {self.gate}"
        self.gate.check()

    def _check_positions(self) -> None:
        """The same position by position, which takes longer the more were trained: at checkpoints, not at every
        group."""
        waiting = [group.position for group in self.pending]
        held = sorted([*waiting, *self.running, *self.ready, *self.trained, *self.filtered, *self.skipped])
        assert held == list(range(self.cursor)), f"positions {held} of {self.cursor} issued"
