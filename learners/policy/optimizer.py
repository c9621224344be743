"""AdamW of one worker's parameters, with its warm-up, and how much of its steps is signal."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many

import torch
from torch import Tensor, nn

from learners.learner_settings import OptimizerSettings
from learners.policy import distributed

MATRICES_MEASURED, VALUES_MEASURED = 32, 1 << 14
"""Most matrices, and values of each on a worker, that `update_signal` looks at."""


class PolicyOptimizer:
    """AdamW with a linear warm-up. With several workers each steps its own shards.

    Attributes:
        adam: torch's optimiser, for checkpoints.
        steps: optimiser steps since the last restart.
        stage: the stage that moments and step count belong to; None before the first.
    """

    def __init__(self, parameters: Many[nn.Parameter], settings: OptimizerSettings) -> None:
        self._parameters, self._settings = parameters, settings
        self.steps = 0
        self.stage: str | None = None
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.lr,
            betas=settings.betas,
            fused=True,
        )
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        self._measured = matrices[:: math.ceil(len(matrices) / MATRICES_MEASURED)] if matrices else []

    def restart(self) -> None:
        """Forget the moments and begin the warm-up anew."""
        self.adam.state.clear()
        self.steps = 0

    def step(self, lr_scale: float, betas: tuple[float, float] | None) -> dict[str, float]:
        """Clip the gradients, take one step, and clear them.

        Args:
            betas: decay rates of the moments in this step; None: those of the settings.

        Returns:
            `lr`, `grad_norm` before clipping, and `update_signal`.
        Raises:
            FloatingPointError: the gradient is not finite; no weight was changed.
        """
        settings = self._settings
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.max_grad_norm)
        grad_norm = float(getattr(norm, "full_tensor", lambda: norm)())
        if not math.isfinite(grad_norm):
            self.adam.zero_grad()
            raise FloatingPointError(
                f"the gradient norm of optimiser step {self.steps} is {grad_norm}; lower the learning rate "
                f"({settings.lr}) or look at the log-probabilities of its sequences"
            )
        lr = settings.lr * lr_scale * min(1.0, (self.steps + 1) / max(settings.warmup_steps, 1))
        for group in self.adam.param_groups:
            group["lr"], group["betas"] = lr, betas or settings.betas
        self.adam.step()
        self.adam.zero_grad()
        self.steps += 1
        return {"lr": lr, "grad_norm": grad_norm, "update_signal": self._update_signal()}

    def _update_signal(self) -> float:
        """`update_signal` of the matrices that are measured, over all workers: as much of each as its sample holds."""
        betas, states = self.adam.param_groups[0]["betas"], self.adam.state
        sums = [
            squared_steps(_sample(state["exp_avg"]), _sample(state["exp_avg_sq"]), float(state["step"]), betas)
            for state in (states[parameter] for parameter in self._measured if parameter in states)
        ]
        return update_signal(distributed.sum_over_workers(torch.stack(sums))) if sums else 0.0


def squared_steps(m: Tensor, v: Tensor, steps: float, betas: tuple[float, float]) -> Tensor:
    """(sum of the squares of Adam's steps per unit of learning rate, how many values had a gradient), float32 [2].

    Args:
        m: first moment, float [n], and `v` the second, after `steps` steps: both still without bias correction.
    """
    m, v = m / (1 - betas[0] ** steps), v / (1 - betas[1] ** steps)
    seen = v > 0
    return torch.stack([torch.where(seen, m.square() / v.where(seen, 1.0), 0.0).sum(), seen.sum()]).float()


def update_signal(sums: Tensor) -> float:
    """Root mean square of m / sqrt(v), Adam's step per unit of learning rate, averaged over matrices.

    It is 1 where every gradient has the same sign and size, and in the first step after a restart. Gradients that are
    nothing but noise give, after t steps and with the second decay near 1,

        sqrt((1 - b1) (1 + b1^t) / ((1 + b1) (1 - b1^t)))

    which falls to sqrt((1 - b1) / (1 + b1)): 0.229 for b1 = 0.9, 0.160 for 0.95. A second moment over few steps holds
    the gradients that the first holds and takes a little off: simulated, 0.226 for betas (0.9, 0.95) and 0.229 for
    (0.9, 0.999). What is above is signal.

    Args:
        sums: float32 [n, 2], what `squared_steps` gives for each of n matrices, summed over workers.
    """
    squares, counts = sums.unbind(1)
    with_gradient = counts > 0
    if not with_gradient.any():
        return 0.0
    return float((squares[with_gradient] / counts[with_gradient]).sqrt().mean())


def _sample(moment: Tensor) -> Tensor:
    """Values of this worker's part of a matrix, evenly spaced, at most `VALUES_MEASURED`."""
    local: Tensor = getattr(moment, "to_local", lambda: moment)()
    flat = local.flatten()
    return flat[:: max(1, math.ceil(len(flat) / VALUES_MEASURED))]
