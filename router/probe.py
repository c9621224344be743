"""The gradient probe: how large each trajectory's gradient is in every projection matrix, without an optimiser step.

One interface, `Probe`, and two ways to the same numbers: `sequential` is the reference, `batched` the fast one. With
adapters active, both measure the base model's matrices, as those adapters shape their gradients. The loss of a
trajectory is the mean of -log p over its trained tokens, at the temperature of their sequences. In windowed mode, where
a trajectory has one sequence a turn, what is measured is the norm of its mean gradient, not the mean of its turns'
norms: turns that pull the same way count for more than turns that undo each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from router.network import PolicyNetwork, first_of, projections
from router.probing import EXACT, Sample
from router.taps import NormRecorder
from trajectories.batch import PaddedBatch, collate, trained_tokens
from trajectories.errors import UserError
from trajectories.packing import IDLE, plan_batches
from trajectories.types import Sequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # seconds to import; those who only pass results on need none of it


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the probe of S sequences of E trajectories yields, on the CPU, in the order in which these were given.

    Nothing is judged here: a gradient that vanished or is not finite shows in `norms`, where `geometry` refuses it.

    Attributes:
        trajectories: ids of the episodes, in the order of their first sequences.
        norms: float32 [E, 7L], Frobenius norms of their gradients, layer by layer in the order of
            `network.PROJECTIONS`.
        entries: of each of the 7L matrices.
        losses: float32 [S], mean -log p over the trained tokens.
        hidden: float32 [S, H], the final layer's state after the last token.
        logprobs: float32 [T] each, log p of every trained token, 0 elsewhere.
    """

    sequence_ids: tuple[str, ...]
    trajectories: tuple[str, ...]
    norms: Tensor
    entries: tuple[int, ...]
    losses: Tensor
    hidden: Tensor
    logprobs: tuple[npt.NDArray[np.float32], ...]

    def arranged(self, sequences: Many[Sequence]) -> ProbeResult:
        """What belongs to these sequences, in their order; each trajectory's are all among them."""
        place = {name: row for row, name in enumerate(self.sequence_ids)}
        rows = [place[sequence.sequence_id] for sequence in sequences]
        names = tuple(by_trajectory([sequence.episode_id for sequence in sequences]))
        number = {name: row for row, name in enumerate(self.trajectories)}
        return ProbeResult(
            tuple(self.sequence_ids[row] for row in rows),
            names,
            self.norms[[number[name] for name in names]],
            self.entries,
            self.losses[rows],
            self.hidden[rows],
            tuple(self.logprobs[row] for row in rows),
        )


def concatenated(parts: Many[ProbeResult]) -> ProbeResult:
    """The sequences of all parts, one part after the other; no trajectory is in two of them."""
    return ProbeResult(
        tuple(name for part in parts for name in part.sequence_ids),
        tuple(name for part in parts for name in part.trajectories),
        torch.cat([part.norms for part in parts]),
        parts[0].entries,
        torch.cat([part.losses for part in parts]),
        torch.cat([part.hidden for part in parts]),
        tuple(values for part in parts for values in part.logprobs),
    )


def by_trajectory(names: Many[str]) -> dict[str, list[int]]:
    """Rows of each trajectory, by its name, in the order of their first rows.

    by_trajectory(["a", "b", "a"]) is {"a": [0, 2], "b": [1]}.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def whole_batches(names: Many[str], least: int) -> list[list[int]]:
    """Rows in batches of whole trajectories, each of as many as it takes to have `least` rows; the last may have fewer.

    whole_batches(["a", "a", "b", "c", "c"], 3) is [[0, 1, 2], [3, 4]].
    """
    batches: list[list[int]] = []
    for rows in by_trajectory(names).values():
        if not batches or len(batches[-1]) >= least:
            batches.append([])
        batches[-1] += rows
    return batches


def check(sequences: Many[Sequence]) -> None:
    """Refuse what no gradient can be taken of.

    Raises:
        UserError: there is no sequence, or one has no trained token after its first.
    """
    if not sequences:
        raise UserError("there is nothing to probe: the corpus holds no sequence")
    for sequence in sequences:
        if not trained_tokens(sequence):
            raise UserError(
                f"trajectory {sequence.sequence_id} has no trained token that others precede; drop it from the corpus"
            )


Probe = Callable[[PolicyNetwork, Many[Sequence]], ProbeResult]


def sequential(policy: PolicyNetwork, sequences: Many[Sequence]) -> ProbeResult:
    """One sequence at a time, autograd's own weight gradients, summed up over a trajectory: the reference.

    Raises:
        UserError: nothing to probe, a sequence without trained tokens, or a model that cannot be probed.
    """
    check(sequences)
    owned = by_trajectory([sequence.episode_id for sequence in sequences])
    return _probe(policy, sequences, [[[index] for index in rows] for rows in owned.values()], _Autograd)


def batched(
    policy: PolicyNetwork, sequences: Many[Sequence], token_budget: int = 8192, sample: Sample = EXACT
) -> ProbeResult:
    """Padded batches, one forward and backward pass each, in which no weight gradient is computed but of trajectories
    that are too long for one pass.

    Args:
        token_budget: tokens (padding counted) in one pass; a longer sequence goes alone. Changes memory and speed only.
            Tuning: as much as fits on a GPU; some 1,000 on a CPU, whose caches larger passes leave.
        sample: what of the gradients is measured; `norms` then have 7 columns for each layer of it.
    Raises:
        UserError: nothing to probe, a sequence without trained tokens, or a model that cannot be probed.
    """
    check(sequences)
    return _probe(policy, sequences, _plan(sequences, token_budget), _Taps, sample)


def batched_share(
    policy: PolicyNetwork,
    sequences: Many[Sequence],
    token_budget: int,
    most: Callable[[int], int],
    sample: Sample = EXACT,
) -> ProbeResult:
    """`batched` by one of several workers, each with sequences of its own, none included.

    A sharded model gathers its layers on every pass, so all workers run as many passes: short ones run idle. No
    gradient is reduced, since none of a parameter is computed.

    Args:
        sequences: already checked, by all workers alike.
        most: the largest of the workers' values.
    """
    plan = _plan(sequences, token_budget)
    passes = sum(map(len, plan))
    idle = most(passes) - passes
    result = _probe(policy, sequences, plan, _Taps, sample)
    if idle:
        _probe(policy, [IDLE], [[[0]]] * idle, _Taps, sample)
    return result


Unit = list[list[int]]
"""Rows of the passes that are measured together: one pass of whole trajectories, or several passes of one."""


def _plan(sequences: Many[Sequence], token_budget: int) -> list[Unit]:
    """As `plan_batches`, but no pass shares a trajectory with another, unless it has that trajectory alone."""
    lengths = [len(sequence.token_ids) for sequence in sequences]
    long: list[Unit] = []
    short: list[tuple[int, list[int]]] = []
    for rows in by_trajectory([sequence.episode_id for sequence in sequences]).values():
        passes = plan_batches([lengths[row] for row in rows], token_budget)
        if len(passes) > 1:
            long.append([[rows[at] for at in part] for part in passes])
        else:
            short.append((max(lengths[row] for row in rows), rows))
    shared: list[tuple[int, list[int]]] = []
    for width, rows in sorted(short, key=lambda trajectory: -trajectory[0]):
        if not shared or (len(shared[-1][1]) + len(rows)) * shared[-1][0] > token_budget:
            shared.append((width, []))
        shared[-1][1].extend(rows)
    return long + [[rows] for _, rows in shared]


class Meter(Protocol):
    """Measures the passes of a unit."""

    def run(self, policy: PolicyNetwork, batch: PaddedBatch, shares: Tensor, owners: list[int]) -> Tensor:
        """One pass: the log-probabilities [N] of a batch.

        Args:
            shares: float32 [B], of each row in the loss of its trajectory.
            owners: the trajectory of each row within the unit.
        """
        ...

    def norms(self) -> Tensor:
        """float32 [trajectories of the unit, 7L], after all its passes."""
        ...


@torch.enable_grad()
def _probe(
    policy: PolicyNetwork,
    sequences: Many[Sequence],
    plan: list[Unit],
    meter: Callable[[list[nn.Linear], int, Sample], Meter],
    sample: Sample = EXACT,
) -> ProbeResult:
    """`meter`: makes that of a unit of so many passes."""
    layers = list(projections(policy, sample.layers).values())
    _refuse_dropout(policy.causal_lm)
    owned = by_trajectory([sequence.episode_id for sequence in sequences])
    names, shares = tuple(owned), _shares(sequences, owned)
    place = {name: row for row, name in enumerate(names)}
    norms, losses = torch.zeros(len(names), len(layers)), torch.zeros(len(sequences))
    hidden = torch.zeros(len(sequences), policy.causal_lm.config.hidden_size)
    logprobs = [np.zeros(len(sequence.token_ids), np.float32) for sequence in sequences]
    for unit in plan:
        measured = meter(layers, len(unit), sample)
        mine = list(dict.fromkeys(sequences[index].episode_id for rows in unit for index in rows))
        for rows in unit:
            batch = collate([sequences[index] for index in rows], layers[0].weight.device)
            with policy.final_states(batch) as states:
                owners = [mine.index(sequences[index].episode_id) for index in rows]
                values = measured.run(policy, batch, shares[rows].to(batch.input_ids.device), owners).detach()
            losses[rows], hidden[rows] = _losses(values, batch).cpu(), states[0].cpu()
            for index, tokens in zip(rows, values.cpu().split(batch.trained), strict=True):
                logprobs[index][1:][sequences[index].trained[1:]] = tokens
        norms[[place[name] for name in mine]] = measured.norms().cpu()
    ids, entries = tuple(s.sequence_id for s in sequences), tuple(layer.weight.numel() for layer in layers)
    return ProbeResult(ids, names, norms, entries, losses, hidden, tuple(logprobs))


def _shares(sequences: Many[Sequence], owned: Mapping[str, list[int]]) -> Tensor:
    """Share of each sequence in its trajectory's trained tokens, float32 [S]."""
    trained = torch.tensor([float(trained_tokens(sequence)) for sequence in sequences])
    totals = {name: trained[rows].sum() for name, rows in owned.items()}
    whole = [float(totals[sequence.episode_id]) for sequence in sequences]
    return trained / torch.tensor(whole)


class _Autograd:
    """The weight gradients of one trajectory, as autograd computes them."""

    def __init__(self, layers: list[nn.Linear], passes: int, sample: Sample) -> None:
        self._weights = [layer.weight for layer in layers]
        self._sums = [torch.zeros((), device=weight.device) for weight in self._weights]

    def run(self, policy: PolicyNetwork, batch: PaddedBatch, shares: Tensor, owners: list[int]) -> Tensor:
        with _trainable(self._weights):
            logprobs = policy(batch)
            gradients = torch.autograd.grad((shares * _losses(logprobs, batch)).sum(), self._weights)
        self._sums = [total + gradient.float() for total, gradient in zip(self._sums, gradients, strict=True)]
        return logprobs

    def norms(self) -> Tensor:
        return torch.stack([total.norm() for total in self._sums])[None]


class _Taps:
    """Norms from activations and output gradients."""

    def __init__(self, layers: list[nn.Linear], passes: int, sample: Sample) -> None:
        self._recorder, self._last = NormRecorder(layers, passes, sample.sketch), sample.layers

    def run(self, policy: PolicyNetwork, batch: PaddedBatch, shares: Tensor, owners: list[int]) -> Tensor:
        with self._recorder.recording(batch.lengths, owners), _states_before(policy, self._last) as states:
            logprobs = policy(batch)
            # Only what lies between the loss and these states is computed: activations, and no parameter.
            torch.autograd.grad((shares * _losses(logprobs, batch)).sum(), states)
        return logprobs

    def norms(self) -> Tensor:
        return self._recorder.norms()


def _losses(logprobs: Tensor, batch: PaddedBatch) -> Tensor:
    """Mean -log p over the trained tokens of each row, [B]."""
    sums = logprobs.new_zeros(len(batch.lengths)).index_add(0, batch.rows, -logprobs)
    return sums / torch.tensor(batch.trained, device=sums.device)


@contextmanager
def _states_before(policy: PolicyNetwork, last: int | None) -> Iterator[list[Tensor]]:
    """What enters the first of the last so many decoder layers (None: all) in the forward pass inside, a leaf from
    which gradients can be asked; what computed it is forgotten."""
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    first = first_of(policy, last)
    source = policy.layers[first - 1] if first else policy.causal_lm.get_input_embeddings()
    handle = source.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _trainable(weights: Many[Tensor]) -> Iterator[None]:
    """Lets autograd differentiate by frozen weights too."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, flag in zip(weights, before, strict=True):
            weight.requires_grad_(flag)


def _refuse_dropout(lm: PreTrainedModel) -> None:
    for name, module in lm.named_modules():
        rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
        if module.training and rate:
            raise UserError(f"{name} drops out a share of {rate}; set it to 0 or call eval() before the probe")
