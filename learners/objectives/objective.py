"""What the two objectives share: a queue of examples, a schedule, and a loss on single tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from learners.learner_settings import ObjectiveSettings
from trajectories.types import Sequence


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence as one objective trains on it.

    Attributes:
        weight: of every trained token.
        advantages: one a turn, for its trained tokens; empty where the objective compares nothing.
        episode_tokens: trained tokens of all sequences of its episode; None: it is the only one.
        proximal: log-probabilities of its n trained tokens by the weights before the learner step, float32 [n]; None
            where nobody asked, or the step is the first from them.
    """

    sequence: Sequence
    weight: float
    advantages: tuple[float, ...] = ()
    episode_tokens: int | None = None
    proximal: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """The N tokens of a micro-batch on which an objective acts; all float32 [N], `sequence` int64 [N].

    `logprobs` carries the gradient, and `entropy` of the policy's distribution, in nats, where the objective raises it;
    `reference`, `entropy` and `proximal` (of the weights before the learner step) are None unless the objective asked
    for them.
    """

    logprobs: Tensor
    behaviour: Tensor
    advantages: Tensor
    sequence: Tensor
    reference: Tensor | None = None
    entropy: Tensor | None = None
    proximal: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Loss of each token, float [N], and values to average over tokens for the log (detached, [N])."""

    loss: Tensor
    metrics: Mapping[str, Tensor]


def token_advantages(sequence: Sequence, by_turn: tuple[float, ...]) -> Tensor:
    """The advantage of each trained token, that of its turn, float32 [n]; all 0 where `by_turn` is empty.

    Raises:
        ValueError: as many advantages as turns were expected.
    """
    values = np.zeros(len(sequence.token_ids), np.float32)
    if by_turn:
        for turn, advantage in zip(sequence.turns, by_turn, strict=True):
            values[turn.start : turn.end] = advantage
    return torch.from_numpy(values[1:][sequence.trained[1:]])


class Objective(ABC):
    """What the shared policy is trained for, SFT or GRPO: its own queue, schedule and metrics.

    Attributes:
        steps: learner steps that trained it, which move its schedules.
        needs_reference: whether its losses want log-probabilities of the initial weights.
        needs_entropy: whether they want entropies, and `raises_entropy` whether with a gradient.
    """

    name: ClassVar[str]
    metric_names: ClassVar[tuple[str, ...]]
    needs_reference = False
    needs_entropy = False
    raises_entropy = False

    def __init__(self, config: ObjectiveSettings) -> None:
        self._config = config
        self._queue: deque[Example] = deque()
        self.steps = 0

    @abstractmethod
    def aggregation(self, tokens: int, whole: int) -> tuple[float, float]:
        """(factor of each token's loss, count) of a sequence with so many trained tokens; see `losses.aggregation`."""

    @abstractmethod
    def token_losses(self, tokens: Tokens) -> TokenLosses:
        """Losses and metrics of a micro-batch."""

    @property
    def queued(self) -> int:
        """Examples that wait for a step."""
        return len(self._queue)

    @property
    def weight(self) -> float:
        """Factor of this objective in the loss of its next step."""
        return self._config.weight.at(self.steps)

    @property
    def lr_scale(self) -> float:
        """Factor of the learning rate in its next step."""
        return self._config.lr_scale.at(self.steps)

    @property
    def betas(self) -> tuple[float, float] | None:
        """Decay rates of Adam's moments in steps that this objective leads; None: those of the optimiser."""
        return None

    def restart(self) -> None:
        """Begin the schedules anew. What is queued stays."""
        self.steps = 0

    def add(self, example: Example) -> None:
        """Queue an example."""
        self._queue.append(example)

    def take(self) -> list[Example]:
        """Remove the examples of the next step from the queue, oldest first."""
        count = min(len(self._queue), self._config.max_sequences or len(self._queue))
        return [self._queue.popleft() for _ in range(count)]

    def waiting(self) -> list[Example]:
        """The examples in the queue, oldest first; they stay there."""
        return list(self._queue)

    def resume(self, steps: int, queue: Iterable[Example]) -> None:
        """Go on after that many steps, with this queue."""
        self.steps, self._queue = steps, deque(queue)
