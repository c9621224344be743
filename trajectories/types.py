"""The wire types: what a rollout produces and what a learner trains on. Frozen; checked at construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt


class StopReason(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The environment ended it."""
    TURN_LIMIT = "turn_limit"
    """The agent used all its turns."""
    LENGTH_LIMIT = "length_limit"
    """The next prompt, or the response to it, does not fit the model's context."""
    GAVE_UP = "gave_up"
    """An agent program ended before its environment did."""
    ERROR = "error"
    """Environment, engine or agent program failed; `Episode.error` says how. Such an episode has no training value."""

    @property
    def truncated(self) -> bool:
        """A limit of the run cut the episode off before the environment ended it."""
        return self in (StopReason.TURN_LIMIT, StopReason.LENGTH_LIMIT)


class Route(StrEnum):
    """Which objective a sequence is sent to."""

    GRPO = "grpo"
    SFT = "sft"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Turn:
    """One response of the agent inside a sequence: tokens [start, end), which are trained unless an expert slipped.
    It is `truncated` where its budget cut it off."""

    start: int
    end: int
    reward: float
    state_hash: int
    action_valid: bool
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens [start, end) were sampled by the policy of this version."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """One training sequence of T tokens, exactly as the engine saw and sampled them (never re-tokenised).

    Attributes:
        token_ids: int32 [T], prompt and response tokens in order.
        trained: bool [T], True where the token was sampled by the policy (or demonstrated) and is trained on.
        logprobs: float32 [T], behaviour log-probability of each trained token under the sampling distribution
            (at `temperature`), 0 elsewhere and 0 everywhere in demonstrations.
    Raises:
        ValueError: lengths differ, or a span lies outside [0, T].
    """

    sequence_id: str
    episode_id: str
    group_id: str
    token_ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    logprobs: npt.NDArray[np.float32]
    turns: tuple[Turn, ...]
    version_spans: tuple[VersionSpan, ...]
    temperature: float

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if not length == len(self.trained) == len(self.logprobs):
            raise ValueError(
                f"sequence {self.sequence_id}: {length} token ids, {len(self.trained)} trained flags and "
                f"{len(self.logprobs)} log-probabilities; the three must be equally long"
            )
        for span in (*self.turns, *self.version_spans):
            if not 0 <= span.start <= span.end <= length:
                raise ValueError(f"sequence {self.sequence_id}: {span} lies outside its {length} tokens")


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: who played what, how it ended, and where its seconds went."""

    episode_id: str
    group_id: str
    member: int
    environment: str
    split: str
    task_id: str
    seed: int
    version_min: int
    version_max: int
    stop_reason: StopReason
    success: bool
    rewards: Mapping[str, float]
    turns: int
    generation_seconds: float
    environment_seconds: float
    waiting_seconds: float
    memory_snapshot: str | None = None
    memory_ids: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An episode with its training sequences (one in transcript mode, one a turn in windowed mode)."""

    episode: Episode
    sequences: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """How one sequence is trained. Written by router and Conductor; trajectories themselves never change.

    Attributes:
        advantages: one a turn of the sequence, in order of play, used with `rl_weight`; empty where nothing compares.
        reward_advantages: advantage per named reward.
        rl_weight, ce_weight: factors of the policy-gradient and the cross-entropy term of every trained token.
        score, threshold: what the router compared (PRISM: gradient concentration), None where it compared nothing.
    """

    sequence_id: str
    route: Route
    advantages: tuple[float, ...]
    rl_weight: float
    ce_weight: float
    reward_advantages: Mapping[str, float]
    score: float | None = None
    threshold: float | None = None
    router_version: int = 0
    reward_weights_version: int = 0
