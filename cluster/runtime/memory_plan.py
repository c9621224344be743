"""What a run needs of the memory of its GPUs, before any is used: a pure function of settings and the model's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from actors.engine import EngineSettings
from actors.engine_limits import parallel_sizes
from cluster.config.run import RunSettings
from learners.learner_settings import LoraSettings
from learners.policy.memory import SPARE, WIDTHS, Shape, activations, learner_memory

GIB = 2**30
LEAST_BUDGET, MOST_WORKERS = 2048, 64
"""How far the search for settings that fit goes: tokens of a pass, and learner workers."""
Change = Callable[[RunSettings], RunSettings]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one GPU.

    Attributes:
        learner: what a learner worker needs, by what it is for.
        otherwise: its activations with the other value of `policy.gradient_checkpointing`.
        engine: an engine's weights, and a KV cache for `max_num_seqs` sequences of full length: what of them is on each
            of its GPUs.
        sequence: KV cache of one sequence of full length, likewise.
        learner_room, engine_room: what the card leaves to each; None on a CPU.
        more_room: what gives an engine that does not fit more room, with its setting.
        mends: settings with which the learner fits, as for --set; empty where it does, or where none was found.
    """

    learner: dict[str, int]
    otherwise: int
    engine: dict[str, int]
    sequence: int
    learner_room: int | None
    engine_room: int | None
    more_room: str
    mends: tuple[str, ...]

    def complaints(self) -> list[str]:
        """A line for each part that does not fit, with the setting that mends it."""
        found = []
        needed = sum(self.learner.values())
        if self.learner_room is not None and needed > self.learner_room:
            mend = " ".join(f"--set {mend}" for mend in self.mends) or "a smaller policy.model"
            found.append(
                f"a learner worker does not fit: {needed / GIB:.1f} GiB of {self.learner_room / GIB:.1f} GiB; it "
                f"does with {mend}"
            )
        least = self.engine["weights"] + self.sequence
        if self.engine_room is not None and least > self.engine_room:
            found.append(
                f"an engine does not fit: {least / GIB:.1f} GiB for its weights and one sequence, of "
                f"{self.engine_room / GIB:.1f} GiB; raise rollout.engine.gpu_memory_utilization, lower "
                f"rollout.engine.max_model_len, or {self.more_room}"
            )
        return found

    @property
    def sequences(self) -> int | None:
        """Sequences of full length that an engine's KV cache holds; None on a CPU."""
        if self.engine_room is None:
            return None
        return max(0, self.engine_room - self.engine["weights"]) // self.sequence


def plan_memory(config: RunSettings, shape: Shape) -> MemoryPlan:
    """The memory plan of a run of a model of this shape."""
    engine = config.fitted_rollout.engine
    weights, sequence = engine_memory(shape, engine, engine.tensor_parallel)
    room = _learner_room(config)
    policy = config.policy
    autocast = config.placement.learner_workers == 1 and not policy.lora and policy.dtype != "float32"
    return MemoryPlan(
        learner=_needed(config, shape),
        otherwise=activations(
            shape,
            WIDTHS[policy.dtype],
            max(config.learner.token_budget, _together(config)),
            not policy.gradient_checkpointing,
            autocast,
        ),
        engine={"weights": weights, "KV cache": engine.max_num_seqs * sequence},
        sequence=sequence,
        learner_room=room,
        engine_room=_engine_room(config) if config.placement.rollout_gpus else None,
        more_room=_more_room(config, shape),
        mends=() if room is None else _mends(config, shape, room),
    )


def engine_memory(shape: Shape, engine: EngineSettings, cards: int) -> tuple[int, int]:
    """Bytes on each of an engine's cards: its weights, and the KV cache of one sequence of full length.

    Cards share the weights evenly (norms, which each has, are not worth counting), and the cache by its key heads: each
    holds one at least, so with more cards than key heads some hold the same.
    """
    width = WIDTHS.get(engine.dtype, 2)
    sequence = width * shape.cache_numbers * engine.max_model_len
    return width * shape.weights // cards, sequence // min(cards, shape.key_heads)


def _more_room(config: RunSettings, shape: Shape) -> str:
    if config.placement.rollout_gpus < 1:
        return "give it a whole card (placement.rollout_gpus=1)"
    engine, room = config.fitted_rollout.engine, _engine_room(config)
    for cards in parallel_sizes(shape.heads, shape.key_heads, shape.intermediate):
        if sum(engine_memory(shape, engine, cards)) <= room:
            return f"spread it over {cards} cards (placement.rollout_gpus={cards})"
    return "take a smaller policy.model"


def _engine_room(config: RunSettings) -> int:
    return int(_share_of_engine(config) * _card(config)) - SPARE


def _card(config: RunSettings) -> int:
    return int(config.placement.gpu_gib * GIB)


def _share_of_engine(config: RunSettings) -> float:
    return config.rollout.engine.gpu_memory_utilization


def _learner_room(config: RunSettings) -> int | None:
    """All of a card but `SPARE`, or what an engine on the same one leaves."""
    placement = config.placement
    if not placement.learner_gpus:
        return None
    shared = placement.learner_gpus < 1 and 0 < placement.rollout_gpus < 1
    return int(_card(config) * (1 - _share_of_engine(config) * shared)) - SPARE


def _needed(config: RunSettings, shape: Shape) -> dict[str, int]:
    reference, together = config.grpo.kl_weight > 0, _together(config)
    return learner_memory(shape, config.policy, config.learner, config.placement.learner_workers, reference, together)


def _together(config: RunSettings) -> int:
    """Most tokens whose activations a worker holds at once for the Conductor: a group's, in one sequence each."""
    if config.reward.scalariser != "conductor" or config.contexts_ahead:
        return 0
    return config.schedule.group_size * config.fitted_rollout.engine.max_model_len


def _mends(config: RunSettings, shape: Shape, room: int) -> tuple[str, ...]:
    """The settings with which a learner worker fits: the first that do together, without those that need not be."""

    def fits(changes: dict[str, Change]) -> bool:
        changed = config
        for change in changes.values():
            changed = change(changed)
        return sum(_needed(changed, shape).values()) <= room

    taken: dict[str, Change] = {}
    for name, value, change in _changes(config):
        if fits(taken):
            break
        taken = {key: one for key, one in taken.items() if not key.startswith(f"{name}=")}
        taken[f"{name}={value}"] = change
    if not taken or not fits(taken):
        return ()
    for key in list(taken):
        fewer = {other: change for other, change in taken.items() if other != key}
        taken = fewer if fits(fewer) else taken
    return tuple(taken)


def _changes(config: RunSettings) -> Iterator[tuple[str, str, Change]]:
    """(setting, value, change), what costs least first."""
    if _together(config):
        conductor = config.reward.conductor.model_copy(update={"context_pass": "own"})
        yield "reward.conductor.context_pass", "own", partial(_with, section="reward", conductor=conductor)
    if not config.policy.gradient_checkpointing:
        yield "policy.gradient_checkpointing", "true", partial(_with, section="policy", gradient_checkpointing=True)
    if config.placement.learner_workers > 1 and config.learner.reduce_gradients == "step":
        yield "learner.reduce_gradients", "pass", partial(_with, section="learner", reduce_gradients="pass")
    budget = 2 ** math.floor(math.log2(max(config.learner.token_budget - 1, 1)))
    while budget >= LEAST_BUDGET:
        yield "learner.token_budget", str(budget), partial(_with, section="learner", token_budget=budget)
        budget //= 2
    if config.placement.learner_workers == 1 and config.policy.lora is None:  # no cards more are needed
        yield "policy.lora.rank", "32", partial(_with, section="policy", lora=LoraSettings(rank=32))
    workers = 2 * config.placement.learner_workers
    while workers <= MOST_WORKERS:
        yield "placement.learner_workers", str(workers), partial(_with, section="placement", learner_workers=workers)
        workers *= 2


def _with(config: RunSettings, section: str, **changes: object) -> RunSettings:
    before = getattr(config, section)
    return config.model_copy(update={section: before.model_copy(update=changes)})
