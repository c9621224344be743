"""`PolicyShard`: this worker's part of the one policy that both objectives train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import peft
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from learners.learner_settings import OptimizerSettings, PolicySettings
from learners.objectives.objective import Example, Objective, Tokens, token_advantages
from learners.policy import checkpoint, distributed, publication
from learners.policy.loading import load_policy
from learners.policy.model import PolicyModel
from learners.policy.optimizer import PolicyOptimizer
from learners.policy.weight_update import AdapterUpdate
from learners.rewards.weigher import Weigher
from trajectories.batch import PaddedBatch, collate, trained_tokens
from trajectories.chat import pretrained_tokenizer
from trajectories.packing import IDLE
from trajectories.sharing import plan_passes
from trajectories.types import Sequence

OBJECTIVE = "objective"
"""The metric that is no average over tokens but a part of what is optimised."""


@dataclass(frozen=True, slots=True)
class Term:
    """One objective's part in a step: this worker's examples."""

    objective: Objective
    examples: Many[Example]

    @property
    def trained(self) -> list[Example]:
        """Those of the examples that change the policy: none where the objective has no weight at present."""
        if not self.objective.weight:
            return []
        return [e for e in self.examples if e.weight != 0 and trained_tokens(e.sequence)]


@dataclass(frozen=True, slots=True)
class _Share:
    """A term, ready to be summed.

    Attributes:
        coefficient: float32 [S] on the CPU, makes the plain sum over the tokens of all workers the weighted global
            mean; 0 where the objective does not train the sequence.
        advantages: float32 [n] of each sequence on the CPU, one a trained token.
        proximal: the same of log-probabilities before the learner step; empty where no example has any.
    """

    objective: Objective
    coefficient: Tensor
    advantages: list[Tensor]
    proximal: list[Tensor]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the present weights make of one sequence, without gradient.

    Attributes:
        logprobs: of each trained token at its sequence's temperature, float32 [n].
        entropies: of the distribution that each was drawn from, in nats, float32 [n].
        initial: log-probabilities by the initial weights, float32 [n]; None where nobody asked.
        state: a hidden state that stands for the sequence, float32 [H]; None where nobody asked, or nothing trains.
    """

    logprobs: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]
    initial: npt.NDArray[np.float32] | None = None
    state: Tensor | None = None


class PolicyShard:
    """Model and optimiser. With several workers the model is sharded by FSDP2 and every public method is collective:
    all workers call it, with as many sequences as each happens to have, possibly none.
    """

    def __init__(
        self, config: PolicySettings, optimizer: OptimizerSettings, seed: int = 0, reference: bool = False
    ) -> None:
        """`reference`: keep the initial weights too, for a KL term (adapters need no copy: they are switched off)."""
        self.config = config
        self._token_budget, self._restarts = optimizer.token_budget, optimizer.restart_at_stage
        self._reduce = optimizer.reduce_gradients
        self._device = distributed.device()
        self.model = load_policy(config, seed, self._device)
        self._reference: PolicyModel | None = None
        if reference:
            self._reference = self.model
            if not config.lora:
                self._reference = load_policy(config, seed, self._device).requires_grad_(False)
        self._optimizer = PolicyOptimizer([p for p in self.model.parameters() if p.requires_grad], optimizer)
        self._checkpoints = checkpoint.CheckpointWriter()

    @property
    def steps(self) -> int:
        """Optimiser steps taken, with `restart_at_stage` those of the present stage."""
        return self._optimizer.steps

    def enter(self, stage: str) -> bool:
        """Say which stage the next steps belong to. True where it is another than before and things start anew: moments
        and warm-up here, schedules with the caller."""
        before, self._optimizer.stage = self._optimizer.stage, stage
        anew = self._restarts and before not in (None, stage)
        if anew:
            self._optimizer.restart()
        return anew

    def step(self, terms: Many[Term], weigher: Weigher | None = None) -> dict[str, float]:
        """One optimiser step on loss = sum over terms of weight * (mean over that objective's own global tokens).

        A sequence that several terms train is run once. The first term leads: its schedule and its decay rates are the
        optimiser's. Nothing to train on any worker: no step, `trained_tokens` 0.

        Args:
            weigher: finds advantages in this very pass, from the terminal states of whole groups; all workers or none
                have one.

        Returns:
            Metrics over all workers: `trained_tokens`, `lr`, `grad_norm`, `update_signal`, and per objective
            `<name>/sequences`, `<name>/tokens`, the objective's own, and `<name>/objective`: its part of what the step
            raises, minus the loss with all weights and the aggregation in it.
        Raises:
            FloatingPointError: the gradient is not finite; no weight was changed.
        """
        sequences, shares, totals = self._share_out(terms)
        if not totals["trained_tokens"]:
            return totals
        sums = torch.zeros(len(_columns(shares)), device=self._device)
        together = weigher.together(sequences) if weigher is not None else []
        ends = {index for group in together for index in group}
        singles = self._plan(sequences, [at for at in range(len(sequences)) if at not in ends])
        if weigher is not None:
            sums += self._weigh_and_train(weigher, sequences, together, shares, last=not singles)
        for number, rows in enumerate(singles, 1):
            batch = self._batch(sequences, rows)
            loss, partial = self._loss(self._run(batch, shares), batch, rows, shares)
            self._backward(loss, last=number == len(singles))
            sums += partial
        totals |= self._averages(shares, distributed.sum_over_workers(sums), totals)
        lead = terms[0].objective
        with record_function("concerto/optimiser"):
            return totals | self._optimizer.step(lead.lr_scale, lead.betas)

    @torch.no_grad()
    def token_logprobs(self, sequences: Many[Sequence]) -> list[npt.NDArray[np.float32]]:
        """Log-probability of every trained token at its sequence's temperature, float32 [T] each, 0 elsewhere."""
        scored = [np.zeros(len(sequence.token_ids), np.float32) for sequence in sequences]
        useful = [index for index, sequence in enumerate(sequences) if trained_tokens(sequence)]
        for rows, batch in self._micro_batches(sequences, useful):
            values = self.model(batch).cpu().numpy()
            for index in rows:
                where = np.flatnonzero(sequences[index].trained[1:]) + 1
                scored[index][where], values = values[: len(where)], values[len(where) :]
        return scored

    @torch.no_grad()
    def read(
        self, sequences: Many[Sequence], against: bool = False, context: tuple[str, str] | None = None
    ) -> list[Seen]:
        """What the policy makes of each sequence, in order.

        Args:
            against: the initial weights read them too.
            context: layer and tokens of the state to keep, see `PolicyModel.final_states`.
        """
        nothing = np.zeros(0, np.float32)
        found = [Seen(nothing, nothing, nothing if against else None) for _ in sequences]
        useful = [index for index, sequence in enumerate(sequences) if trained_tokens(sequence)]
        for rows, batch in self._micro_batches(sequences, useful):
            with (
                record_function("concerto/read"),
                self.model.final_states(batch, *context) if context else nullcontext([]) as states,
            ):
                values = self.model.read(batch, entropy_gradient=False)
            values = (*values, self._reference_logprobs(batch)) if against else values
            columns = [[part.numpy() for part in column.cpu().split(batch.trained)] for column in values]
            columns += [] if against else [[None] * len(batch.trained)]
            columns += [states[0].cpu()] if context else [[None] * len(batch.trained)]
            for index, *parts in zip(rows, *columns, strict=False):  # an idle batch has a row of its own
                found[index] = Seen(*parts)
        return found

    def export(self, version: int) -> AdapterUpdate | None:
        """The adapters for the engines, on worker 0; None on the others, which help to gather them."""
        state = self._weights(trainable_only=True)
        lm = self.model.lm
        assert isinstance(lm, peft.PeftModel), "a policy without adapters sends all its `weights`"
        return None if distributed.rank() else publication.adapter_update(lm, state, version, self.config)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """See `publication.checkpoint_weights`."""
        return publication.checkpoint_weights(self.model, getattr(torch, self.config.dtype))

    def fingerprint(self) -> str:
        """A hash of all weights, adapters included, as this pool of workers shards them."""
        mine = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            mine.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            mine.update(local.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        parts = distributed.gather_objects(mine.hexdigest())
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

    def save_pretrained(self, directory: Path) -> None:
        """Write a Hugging Face model directory and its tokenizer, for evaluation and for users: see `write_model`."""
        state = self._weights(trainable_only=False)
        if distributed.rank() == 0:
            publication.write_model(self.model, state, directory, self.config)
            pretrained_tokenizer(self.config.model).save_pretrained(directory)

    def begin_save(self, directory: Path) -> None:
        """Begin to write what `restore` needs to continue bit for bit, see `learners.policy.checkpoint`."""
        self._checkpoints.begin(self.model, self._optimizer, directory)

    def end_save(self) -> None:
        """Wait until it is written."""
        self._checkpoints.end()

    def restore(self, directory: Path) -> None:
        """Take back what `begin_save` wrote, also with another number of workers (RNG then starts afresh).

        Raises:
            UserError: there is no checkpoint that this model can continue from.
        """
        checkpoint.restore(self.model, self._optimizer, directory)

    def _share_out(self, terms: Many[Term]) -> tuple[list[Sequence], list[_Share], dict[str, float]]:
        """The sequences to run, every term's coefficients for them, and the counts over all workers."""
        used = [term.trained for term in terms]
        sequences = {e.sequence.sequence_id: e.sequence for examples in used for e in examples}
        place = {sequence_id: index for index, sequence_id in enumerate(sequences)}
        counts = torch.zeros(len(terms), 3, dtype=torch.float64, device=self._device)
        shares = []
        for term, examples, count in zip(terms, used, counts, strict=True):
            coefficient = torch.zeros(len(sequences))
            advantages = [token_advantages(sequence, ()) for sequence in sequences.values()]
            proximal = list(advantages) if any(e.proximal is not None for e in examples) else []
            for e in examples:
                tokens = trained_tokens(e.sequence)
                factor, weighs = term.objective.aggregation(tokens, e.episode_tokens or tokens)
                index = place[e.sequence.sequence_id]
                seen = bool(coefficient[index])
                coefficient[index] += term.objective.weight * e.weight * factor  # drawn twice, it counts twice
                advantages[index] = token_advantages(sequences[e.sequence.sequence_id], e.advantages)
                if e.proximal is not None:
                    proximal[index] = e.proximal
                run = (0.0, 0.0) if seen else (tokens, 1.0)
                count += torch.tensor([weighs, *run], dtype=torch.float64, device=self._device)
            shares.append(_Share(term.objective, coefficient, advantages, proximal))
        counts = distributed.sum_over_workers(counts)
        for share, (weighs, _, _) in zip(shares, counts.tolist(), strict=True):
            share.coefficient.div_(max(weighs, 1.0))
        totals = {"trained_tokens": float(counts[:, 1].sum())}
        for term, (_, tokens, number) in zip(terms, counts.tolist(), strict=True):
            totals |= {f"{term.objective.name}/tokens": tokens, f"{term.objective.name}/sequences": number}
        return list(sequences.values()), shares, totals

    def _weigh_and_train(
        self, weigher: Weigher, sequences: Many[Sequence], together: list[list[int]], shares: list[_Share], last: bool
    ) -> Tensor:
        """Group by group: forward over the ends of its episodes, advantages from their states, backward. Metric sums.

        A group's activations are held at once, which costs memory and spares a second forward pass.

        Args:
            last: no pass of this step follows those of the groups.
        """
        sums = torch.zeros(len(_columns(shares)), device=self._device)
        place = {sequence.sequence_id: index for index, sequence in enumerate(sequences)}
        groups = distributed.max_over_workers(len(together), self._device)
        for number in range(groups):
            group = together[number] if number < len(together) else []
            passes = list(self._micro_batches(sequences, group))
            runs, states = [], []
            for _, batch in passes:
                with self.model.final_states(batch, *weigher.context) as final:
                    runs.append(self._run(batch, shares))
                states += final
            order = [index for rows, _ in passes for index in rows]
            if order:
                found = weigher.weigh([sequences[index] for index in order], torch.cat(states)[: len(order)])
                for share in shares:
                    for name in found.keys() & place.keys():
                        share.advantages[place[name]] = token_advantages(sequences[place[name]], found[name])
            losses = [self._loss(run, batch, rows, shares) for run, (rows, batch) in zip(runs, passes, strict=True)]
            self._backward(torch.stack([loss for loss, _ in losses]).sum(), last and number == groups - 1)
            sums += torch.stack([partial for _, partial in losses]).sum(0)
        return sums

    def _run(self, batch: PaddedBatch, shares: list[_Share]) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities [N] with their gradient, and entropies [N] where an objective needs them."""
        objectives = [share.objective for share in shares]
        with record_function("concerto/forward"):
            if not any(objective.needs_entropy for objective in objectives):
                return self.model(batch), None
            return self.model.read(batch, any(objective.raises_entropy for objective in objectives))

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add to the gradients; workers add up theirs in the last pass of a step, or in each."""
        distributed.reduce_gradients(self.model, last or self._reduce == "pass")
        with record_function("concerto/backward"):
            loss.backward()

    def _micro_batches(self, sequences: Many[Sequence], chosen: Many[int]) -> Iterator[tuple[list[int], PaddedBatch]]:
        """(indices, batch) of the chosen sequences, see `_plan`."""
        for rows in self._plan(sequences, chosen):
            yield rows, self._batch(sequences, rows)

    def _plan(self, sequences: Many[Sequence], chosen: Many[int]) -> list[list[int]]:
        """Indices of each pass over the chosen sequences; as many passes on every worker, since sharded layers gather
        on each: short ones run idle, and those have none and come last."""
        plan = plan_passes([sequences[index] for index in chosen], self._token_budget, self.model.shares)
        idle = distributed.max_over_workers(len(plan), self._device) - len(plan)
        return [[chosen[row] for row in rows] for rows in plan] + [[]] * idle

    def _batch(self, sequences: Many[Sequence], rows: list[int]) -> PaddedBatch:
        return collate([sequences[row] for row in rows] or [IDLE], self._device, share=self.model.shares)

    def _loss(
        self, run: tuple[Tensor, Tensor | None], batch: PaddedBatch, rows: list[int], shares: list[_Share]
    ) -> tuple[Tensor, Tensor]:
        """Loss and metric sums of one micro-batch, of which `_run` gave this."""
        logprobs, entropies = run
        reference = self._reference_logprobs(batch) if any(s.objective.needs_reference for s in shares) else None
        loss = logprobs.sum() * 0.0  # an idle batch has a gradient too, of zero
        sums = []
        for share in shares:
            objective = share.objective
            if not rows:
                sums.append(logprobs.new_zeros(len(_columns([share]))))
                continue
            # On the host: to count what is active there is not to wait for the accelerator.
            coefficient = share.coefficient[rows].repeat_interleave(torch.tensor(batch.trained))
            chosen = coefficient.nonzero().squeeze(1)
            active = chosen.to(self._device, non_blocking=True)
            tokens = Tokens(
                logprobs=logprobs[active],
                behaviour=batch.behaviour[active],
                advantages=self._chosen(share.advantages, rows, chosen),
                sequence=batch.rows[active],
                reference=reference[active] if reference is not None and objective.needs_reference else None,
                entropy=entropies[active] if entropies is not None and objective.needs_entropy else None,
                proximal=self._chosen(share.proximal, rows, chosen) if share.proximal else None,
            )
            losses = objective.token_losses(tokens)
            part = (coefficient[chosen].to(self._device, non_blocking=True) * losses.loss).sum()
            loss = loss + part
            sums.append(torch.stack([*(losses.metrics[name].sum() for name in objective.metric_names), -part.detach()]))
        return loss, torch.cat(sums)

    def _chosen(self, values: Many[Tensor], rows: list[int], chosen: Tensor) -> Tensor:
        """The chosen among the values of all trained tokens of a pass, which are on the CPU; on the device."""
        return torch.cat([values[row] for row in rows])[chosen].to(self._device, non_blocking=True)

    @torch.no_grad()
    def _reference_logprobs(self, batch: PaddedBatch) -> Tensor:
        assert self._reference is not None, "construct PolicyShard with reference=True"
        with self._reference.without_adapter():
            return self._reference(batch)

    def _averages(self, shares: list[_Share], sums: Tensor, totals: Mapping[str, float]) -> dict[str, float]:
        return {
            f"{objective}/{name}": value if name == OBJECTIVE else value / max(totals[f"{objective}/tokens"], 1.0)
            for (objective, name), value in zip(_columns(shares), sums.tolist(), strict=True)
        }

    def _weights(self, trainable_only: bool) -> dict[str, Tensor]:
        """Weights by name, complete and on the CPU of worker 0; empty on the others."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trainable_only)
        return get_model_state_dict(self.model, options=options)  # pyright: ignore[reportReturnType]


def _columns(shares: Many[_Share]) -> list[tuple[str, str]]:
    """(objective, metric) of every value that a step sums up."""
    return [(s.objective.name, name) for s in shares for name in (*s.objective.metric_names, OBJECTIVE)]
