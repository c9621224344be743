"""`LearnerWorker`: one worker's policy shard and the two objectives on it. Knows no Ray; runs inline or in a pool."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch.profiler import record_function

from learners.learner_settings import LearnerSettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.minibatches import Groups, averaged, walk
from learners.objectives.objective import Example, Objective
from learners.objectives.sft import SFTObjective
from learners.policy import distributed
from learners.policy.shard import PolicyShard, Term
from learners.policy.transport import WeightSender
from learners.policy.weight_update import AdapterUpdate
from learners.rewards.channels import Reading
from learners.rewards.conductor_head import ConductorScalariser
from learners.rewards.reward_batch import RewardBatch
from learners.rewards.weigher import Weighed, Weigher
from learners.workers import queues
from learners.workers.process import cores_of_worker, multiplies_bfloat16
from router.probe import ProbeResult, batched_share, by_trajectory, check, concatenated
from router.probing import Probing
from trajectories import digests, schema
from trajectories.batch import trained_tokens, without_truncated
from trajectories.files import storing
from trajectories.packing import split_over_workers
from trajectories.types import Route

Stage = Literal["sft", "grpo", "mixed"]
Tables = pa.Table | list[pa.Table]


class LearnerWorker:
    """Every method is collective: all workers of the pool call it with the same arguments and share the work out among
    themselves. Where torch.distributed is not initialised the worker is alone.
    """

    def __init__(self, config: LearnerSettings) -> None:
        self.sft, self.grpo = SFTObjective(config.sft), GRPOObjective(config.grpo)
        self.policy = PolicyShard(config.policy, config.optimizer, config.seed, reference=config.grpo.kl_weight > 0)
        self._seed = config.seed
        self._sender = WeightSender()
        self._saving = Path()
        self._shared_threads, self._all_threads = torch.get_num_threads(), cores_of_worker()
        self._active: dict[Stage, tuple[Objective, ...]] = {
            "sft": (self.sft,),
            "grpo": (self.grpo,),
            "mixed": (self.grpo, self.sft),
        }

    def train(self, stage: Stage, sequences: Tables, assignments: Tables) -> dict[str, float]:
        """Queue the sequences with the objectives that their assignments name, then take one learner step: one
        optimiser step, or `epochs` walks over `minibatches` of whole groups where GRPO leads.

        `rl_weight` queues with GRPO, `ce_weight` with SFT, both with both, `drop` with none. Only the objectives of
        the stage train; what is queued with the other waits for a step of its own. Where another stage begins, moments,
        warm-up and schedules start anew (`restart_at_stage`).

        Returns:
            Metrics of all workers: those of `PolicyShard.step`, averaged over the optimiser steps, `seconds`,
            `optimiser_steps`, and `<objective>/queued`.
        Raises:
            ValueError: a sequence has no assignment.
        """
        return self._train(stage, _joined(sequences), _joined(assignments), None)

    def train_weighing(
        self, stage: Stage, sequences: Tables, assignments: Tables, batch: RewardBatch, scalarise: ConductorScalariser
    ) -> tuple[dict[str, float], Weighed | None]:
        """Like `train`, where the advantages depend on the policy's terminal states: they are found in the pass that
        trains, in place of those in the assignments.

        Args:
            batch: the rewards of all groups of the step, without contexts.
        Returns:
            The metrics, and what was found; None where no group was trained.
        """
        weigher = Weigher(batch, scalarise, self.grpo.config)
        metrics = self._train(stage, _joined(sequences), _joined(assignments), weigher)
        return metrics, weigher.result()

    def _train(
        self, stage: Stage, sequences: pa.Table, assignments: pa.Table, weigher: Weigher | None
    ) -> dict[str, float]:
        started = time.perf_counter()
        # Without rollouts the engines of this machine are idle, and their cores are free.
        torch.set_num_threads(self._all_threads if stage == "sft" else self._shared_threads)
        self._queue(sequences, assignments, weigher)
        if self.policy.enter(stage):
            self.sft.restart()
            self.grpo.restart()
        active = self._active[stage]
        terms = [Term(objective, objective.take()) for objective in active]
        metrics = self._walk(terms, weigher)
        counts = [self.sft.queued, self.grpo.queued, *(len(term.examples) for term in terms)]
        sft, grpo, *taken = distributed.sum_over_workers(torch.tensor(counts, device=distributed.device())).tolist()
        for objective, count in zip(active, taken, strict=True):
            metrics[f"{objective.name}/weight"] = objective.weight
            objective.steps += count > 0  # also at weight 0, or a schedule that starts there would never leave it
        metrics |= {"sft/queued": float(sft), "grpo/queued": float(grpo)}
        return metrics | {"seconds": time.perf_counter() - started}

    def _walk(self, terms: list[Term], weigher: Weigher | None) -> dict[str, float]:
        """The optimiser steps of a batch: one, or one for each minibatch of each epoch where GRPO leads."""
        lead, *others = terms
        if lead.objective is not self.grpo:
            return averaged([self.policy.step(terms, weigher)], epochs=1)
        mine = [{e.sequence.group_id for term in part for e in term.examples} for part in ([lead], others)]
        compared, imitated = (set().union(*column) for column in zip(*distributed.gather_objects(mine), strict=True))
        config = self.grpo.config
        plan = walk(compared, imitated, config.minibatches, config.epochs, (self._seed, self.grpo.steps))
        proximal = config.proximal == "batch" and len(plan) > 1
        if proximal or (weigher is not None and weigher.ahead):
            terms = [Term(lead.objective, self._read_ahead(lead, proximal, weigher)), *others]
            weigher = None
        steps = [self.policy.step([_of_groups(term, chosen) for term in terms], weigher) for chosen in plan]
        return averaged(steps, config.epochs)

    def _read_ahead(self, term: Term, proximal: bool, weigher: Weigher | None) -> list[Example]:
        """The trained examples, with what the present weights say of them before any step: log-probabilities that all
        steps on them stay near (`proximal`), and advantages by their terminal states."""
        examples = term.trained
        sequences = [example.sequence for example in examples]
        groups = weigher.together(sequences) if weigher is not None else []
        rows = range(len(examples)) if proximal else [row for group in groups for row in group]
        context = weigher.context if weigher is not None else None
        seen = dict(zip(rows, self.policy.read([sequences[row] for row in rows], context=context), strict=True))
        if proximal:
            examples = [replace(e, proximal=torch.from_numpy(seen[row].logprobs)) for row, e in enumerate(examples)]
        if weigher is None:
            return examples
        found: dict[str, tuple[float, ...]] = {}
        for group in groups:
            states = [state for row in group if (state := seen[row].state) is not None]
            found |= weigher.weigh([sequences[row] for row in group], torch.stack(states))
        return [replace(e, advantages=found.get(e.sequence.sequence_id, e.advantages)) for e in examples]

    def score(self, sequences: Tables) -> list[npt.NDArray[np.float32]]:
        """Log-probabilities of trained tokens, float32 [T] for each sequence in order, 0 elsewhere."""
        rows = schema.sequences_from_table(_joined(sequences))
        mine = self._share([len(row.token_ids) for row in rows])
        return self._in_order(mine, self.policy.token_logprobs([rows[index] for index in mine]))

    def read(self, sequences: Tables) -> Reading:
        """Log-probabilities and entropies of the trained tokens of each sequence, in order, by the present weights;
        where the divergence from the initial ones is part of the rewards, also their log-probabilities."""
        rows = schema.sequences_from_table(_joined(sequences))
        mine = self._share([len(row.token_ids) for row in rows])
        against = self.grpo.config.folds_kl
        found = self._in_order(mine, self.policy.read([rows[index] for index in mine], against))
        initial = tuple(seen.initial for seen in found) if against else ()
        return Reading(tuple(seen.logprobs for seen in found), tuple(seen.entropies for seen in found), initial)

    @record_function("concerto/probe")
    def probe(self, sequences: Tables, probing: Probing) -> ProbeResult:
        """Gradient norms of each trajectory, and losses, terminal states and log-probabilities of each sequence, in
        order, by the present weights. Each worker probes trajectories of its own; no weight and no optimiser state
        changes.

        Raises:
            UserError: there is nothing to probe, a sequence has no trained token, or the model cannot be probed.
        """
        rows = schema.sequences_from_table(_joined(sequences))
        check(rows)  # all of them on all workers: none must leave while the others wait for it
        units = list(by_trajectory([row.episode_id for row in rows]).values())
        mine = self._share([sum(len(rows[index].token_ids) for index in unit) for unit in units])

        def most(value: int) -> int:
            return distributed.max_over_workers(value, distributed.device())

        chosen = [rows[index] for unit in mine for index in units[unit]]
        torch.set_num_threads(self._all_threads if probing.alone else self._shared_threads)
        with self.policy.model.computing_in(self._precision(probing)):
            result = batched_share(self.policy.model, chosen, probing.token_budget, most, probing.sample)
        return concatenated(distributed.gather_objects(result)).arranged(rows)

    def fingerprint(self, probing: Probing) -> str:
        """Names all that a probe's norms depend on beside the trajectory: the weights, the precision, the sample."""
        about = f"{self.policy.fingerprint()} {self._precision(probing)} {probing.sample}"
        return hashlib.sha256(about.encode()).hexdigest()

    def _precision(self, probing: Probing) -> torch.dtype:
        return torch.bfloat16 if probing.fast and multiplies_bfloat16() else self.policy.model.dtype

    def export(self, version: int) -> AdapterUpdate | None:
        """The current adapters for the engines; None on all workers but the first."""
        return self.policy.export(version)

    def address(self) -> tuple[str, int] | None:
        """Where engines meet the first worker to take full weights; None on all others."""
        return None if distributed.rank() else self._sender.address()

    @record_function("concerto/publish")
    def send(self, lives: dict[str, tuple[str, int]], timeout_s: float) -> dict[str, str]:
        """Send the current weights to engines that take them now: see `WeightSender.send`. Nothing on all workers but
        the first, which help to gather them."""
        weights = self.policy.weights()
        if distributed.rank():
            deque(weights, maxlen=0)
            return {}
        return self._sender.send(weights, lives, getattr(torch, self.policy.config.dtype), timeout_s)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a Hugging Face model directory (adapters merged) with its tokenizer."""
        with storing(Path(directory)):
            self.policy.save_pretrained(Path(directory))

    def begin_save(self, directory: str | Path) -> None:
        """Begin to write everything that the next step depends on, queues included, to a directory that is not there
        yet. Weights and moments are copied, and written while the workers go on; `end_save` waits for them.

        Workers on several nodes need a directory that all of them see. Raises StorageError where the disk is at fault.
        """
        self._saving = Path(directory)
        with storing(self._saving):
            if distributed.rank() == 0:
                self._saving.mkdir(parents=True)
            distributed.barrier()
            self.policy.begin_save(self._saving)
            for objective in (self.sft, self.grpo):
                queues.write(objective, self._saving / f"{objective.name}-{distributed.rank():05d}.arrow")

    def end_save(self) -> None:
        """Wait until all that `begin_save` began is written, and write down its digests.

        Raises StorageError: the disk did not take it.
        """
        with storing(self._saving):
            self.policy.end_save()
            distributed.barrier()
            files = digests.files_without(self._saving)[distributed.rank() :: distributed.world_size()]
            parts = distributed.gather_objects(digests.digests_of(self._saving, files))
            if distributed.rank() == 0:
                digests.write_digests(self._saving, {name: digest for part in parts for name, digest in part.items()})

    def restore(self, directory: str | Path) -> None:
        """Continue from what was saved, bit for bit with as many workers; with another number the queues are shared
        out anew.

        Raises:
            UserError: the directory holds no checkpoint, or not one of this model.
        """
        directory = Path(directory)
        self.policy.restore(directory)
        for objective in (self.sft, self.grpo):
            files = sorted(directory.glob(f"{objective.name}-*.arrow"))
            queues.read(objective, files, files[distributed.rank() :: distributed.world_size()])

    def _queue(self, sequences: pa.Table, assignments: pa.Table, weigher: Weigher | None) -> None:
        rows = schema.sequences_from_table(sequences)
        by_id = {assignment.sequence_id: assignment for assignment in schema.assignments_from_table(assignments)}
        if missing := [row.sequence_id for row in rows if row.sequence_id not in by_id]:
            raise ValueError(f"{len(missing)} of {len(rows)} sequences have no assignment, the first is {missing[0]}")
        rows = [row for row in rows if by_id[row.sequence_id].route != Route.DROP]
        if self.grpo.config.truncated == "mask":
            rows = [without_truncated(row) for row in rows]
        whole = Counter[str]()
        for row in rows:
            whole[row.episode_id] += trained_tokens(row)
        units = weigher.units(rows) if weigher is not None else [[index] for index in range(len(rows))]
        mine = self._share([sum(len(rows[index].token_ids) for index in unit) for unit in units])
        for index in sorted(index for unit in mine for index in units[unit]):
            sequence = rows[index]
            assignment = by_id[sequence.sequence_id]
            if assignment.rl_weight:
                tokens = whole[sequence.episode_id]
                self.grpo.add(Example(sequence, assignment.rl_weight, assignment.advantages, tokens))
            if assignment.ce_weight:
                self.sft.add(Example(sequence, assignment.ce_weight))

    def _in_order(self, mine: list[int], values: list[Any]) -> list[Any]:
        """The values of all workers by the indices that each had, on every worker."""
        parts = distributed.gather_objects(dict(zip(mine, values, strict=True)))
        by_index = {index: value for part in parts for index, value in part.items()}
        return [by_index[index] for index in sorted(by_index)]

    def _share(self, lengths: list[int]) -> list[int]:
        return split_over_workers(lengths, distributed.world_size())[distributed.rank()]


def _of_groups(term: Term, groups: Groups) -> Term:
    """The term with its examples of these groups, in their order."""
    return Term(term.objective, [example for example in term.examples if example.sequence.group_id in groups])


def _joined(tables: Tables) -> pa.Table:
    return pa.concat_tables(tables) if isinstance(tables, list) else tables
