from __future__ import annotations

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

from learners.learner_settings import GRPOSettings, RampSettings, SFTSettings
from learners.objectives.grpo import GRPOObjective
from learners.objectives.objective import Example
from learners.policy.shard import Term
from learners.workers.worker import LearnerWorker
from router.probe import sequential
from router.probing import Probing, Sample
from tests.learners.samples import learner_settings, make_sequences, make_tables, published, save
from trajectories import schema
from trajectories.errors import StorageError, UserError
from trajectories.types import Assignment, Route, Sequence, Turn

PUBLISHED: dict[str, dict[str, Any]] = {
    "grpo": {"aggregation": "sequence"},
    "dr_grpo": {"advantage": "dr_grpo", "aggregation": "constant"},
    "dapo": {"aggregation": "token"},
    "gspo": {"ratio": "sequence", "aggregation": "sequence"},
}
"""The variants that `learners/objectives/grpo.py` lists, apart from where they clip."""


def weights(worker: LearnerWorker) -> dict[str, torch.Tensor]:
    return published(worker.policy)


def test_a_stage_trains_its_own_queue_and_leaves_the_other_alone(untied_model: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    metrics = worker.train("sft", *make_tables(make_sequences(6)))
    assert metrics["sft/sequences"] == 4 and "grpo/sequences" not in metrics
    assert (metrics["sft/queued"], metrics["grpo/queued"]) == (0, 4)
    nothing = make_tables([])
    metrics = worker.train("grpo", *nothing)
    assert metrics["grpo/sequences"] == 4 and metrics["grpo/queued"] == 0
    assert (worker.sft.steps, worker.grpo.steps, worker.policy.steps) == (0, 1, 1)
    assert worker.train("grpo", *nothing)["trained_tokens"] == 0
    assert worker.policy.steps == 1


def test_a_mixed_step_trains_both_objectives_at_once(untied_model: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    metrics = worker.train("mixed", *make_tables(make_sequences(6)))
    assert (metrics["sft/sequences"], metrics["grpo/sequences"], worker.policy.steps) == (4, 4, 1)


def test_dropped_sequences_train_with_nobody(untied_model: Path) -> None:
    sequences = make_sequences(2)
    assignments = [Assignment(s.sequence_id, Route.DROP, (1.0,), 1.0, 1.0, {}) for s in sequences]
    worker = LearnerWorker(learner_settings(untied_model))
    metrics = worker.train("mixed", schema.sequences_to_table(sequences), schema.assignments_to_table(assignments))
    assert metrics["trained_tokens"] == 0
    assert metrics["sft/queued"] == metrics["grpo/queued"] == 0


def grpo_only(sequences: list[Sequence], advantages: list[tuple[float, ...]]) -> tuple[Any, Any]:
    pairs = zip(sequences, advantages, strict=True)
    rows = [Assignment(s.sequence_id, Route.GRPO, by_turn, 1.0, 0.0, {}) for s, by_turn in pairs]
    return schema.sequences_to_table(sequences), schema.assignments_to_table(rows)


def test_an_episode_told_in_windows_weighs_as_much_as_one_told_in_a_transcript(untied_model: Path) -> None:
    """Of two episodes one has two sequences of half its tokens each: `sequence` is the mean of episodes, so a step on
    it is that of the same tokens under weights of 1/2."""
    first, *windows = make_sequences(3)
    windows = [replace(window, episode_id="windowed", group_id="g0") for window in windows]
    sizes = [int(s.trained[1:].sum()) for s in windows]
    settings = learner_settings(untied_model, grpo=GRPOSettings(aggregation="sequence"))
    together = LearnerWorker(settings).train("grpo", *grpo_only([first, *windows], [(1.0,)] * 3))
    objective = GRPOSettings(aggregation="sequence")
    shard = LearnerWorker(settings).policy
    examples = [Example(first, 1.0, (1.0,))]
    for window, size in zip(windows, sizes, strict=True):
        share = size / sum(sizes)
        examples.append(Example(window, share, (1.0,)))
    apart = shard.step([Term(GRPOObjective(objective), examples)])
    assert together["grad_norm"] * 2 == pytest.approx(apart["grad_norm"] * 3, rel=1e-4)


def test_masked_responses_train_nothing_whatever_the_terms_of_the_loss(untied_model: Path) -> None:
    (whole,) = make_sequences(1)
    middle = len(whole.token_ids) // 2
    turns = (Turn(1, middle, 0.0, 1, True), Turn(middle, len(whole.token_ids), 0.0, 2, True, truncated=True))
    cut = replace(whole, turns=turns)
    kept = replace(
        whole, turns=turns[:1], trained=np.where(np.arange(len(whole.token_ids)) < middle, whole.trained, False)
    )
    grpo = GRPOSettings(truncated="mask", entropy_weight=0.1, kl_weight=0.1)
    settings = learner_settings(untied_model, grpo=grpo)
    found = LearnerWorker(settings).train("grpo", *grpo_only([cut], [(1.0, 0.0)]))
    expected = LearnerWorker(settings).train("grpo", *grpo_only([kept], [(1.0,)]))
    assert found["grpo/tokens"] == expected["grpo/tokens"] == kept.trained[1:].sum()
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-6)


def test_the_queue_is_served_oldest_first(untied_model: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model, sft=SFTSettings(max_sequences=3)))
    served = [worker.train("sft", *make_tables(make_sequences(6)))]
    served.append(worker.train("sft", *make_tables([])))
    assert [metrics["sft/sequences"] for metrics in served] == [3, 1]


def test_schedules_follow_the_steps_of_their_own_learner(untied_model: Path) -> None:
    fading = SFTSettings(
        weight=RampSettings(start=1.0, end=0.0, steps=4), lr_scale=RampSettings(start=1.0, end=0.5, steps=1)
    )
    config = learner_settings(untied_model, sft=fading)
    through = config.optimizer.model_copy(update={"restart_at_stage": False})
    worker = LearnerWorker(config.model_copy(update={"optimizer": through}))
    tables = make_tables(make_sequences(6))
    stages = ("sft", "grpo", "sft", "mixed")
    log = [worker.train(stage, *tables) for stage in stages]
    assert [m.get("sft/weight") for m in log] == [1.0, None, 0.75, 0.5]
    assert [m["lr"] for m in log] == pytest.approx([5e-3, 1e-2, 5e-3, 1e-2])


def test_a_weight_that_starts_at_zero_rises(untied_model: Path) -> None:
    rising = SFTSettings(weight=RampSettings(start=0.0, end=1.0, steps=2))
    worker = LearnerWorker(learner_settings(untied_model, sft=rising))
    log = [worker.train("mixed", *make_tables(make_sequences(6))) for _ in range(3)]
    assert [m["sft/weight"] for m in log] == [0.0, 0.5, 1.0]
    assert [m["sft/sequences"] for m in log] == [0, 4, 4]


def test_a_list_of_tables_is_one_batch(untied_model: Path) -> None:
    sequences, assignments = make_tables(make_sequences(6))
    together, apart = (LearnerWorker(learner_settings(untied_model)) for _ in range(2))
    ours = together.train("mixed", [sequences.slice(0, 2), sequences.slice(2)], [assignments])
    theirs = apart.train("mixed", sequences, assignments)
    assert ours["grad_norm"] == theirs["grad_norm"]


def test_a_profile_tells_the_parts_of_a_step_by_name(untied_model: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    sequences, assignments = make_tables(make_sequences(4))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        worker.train("sft", sequences, assignments)
        worker.read(sequences)
        worker.probe(sequences, Probing(token_budget=64))
    told = {event.key.removeprefix("concerto/") for event in profile.key_averages() if "concerto/" in event.key}
    assert told == {"forward", "backward", "optimiser", "read", "probe"}


def test_a_sequence_without_assignment_is_refused(untied_model: Path) -> None:
    sequences, assignments = make_tables(make_sequences(6))
    with pytest.raises(ValueError, match="1 of 6 sequences have no assignment, the first is s0"):
        LearnerWorker(learner_settings(untied_model)).train("sft", sequences, assignments.slice(1))


def test_it_reads_log_probabilities_and_entropies(untied_model: Path) -> None:
    worker, sequences = LearnerWorker(learner_settings(untied_model)), make_sequences(6, temperature=0.7)
    reading = worker.read(make_tables(sequences)[0])
    reference = AutoModelForCausalLM.from_pretrained(untied_model, dtype=torch.float32).eval()
    for sequence, logprobs, entropies in zip(sequences, reading.logprobs, reading.entropies, strict=True):
        ids, trained = torch.tensor(sequence.token_ids).long(), torch.tensor(sequence.trained[1:])
        with torch.no_grad():
            table = torch.log_softmax(reference(ids[None]).logits[0, :-1] / 0.7, 1)[trained]
        targets = ids[1:][trained]
        np.testing.assert_allclose(logprobs, table.gather(1, targets[:, None]).squeeze(1), atol=1e-5)
        np.testing.assert_allclose(entropies, -(table.exp() * table).sum(1), atol=1e-5)
    assert worker.read(make_tables([])[0]).logprobs == ()


@pytest.mark.parametrize("lora", [False, True], ids=["full weights", "lora"])
def test_it_reads_by_the_initial_weights_where_the_divergence_is_part_of_the_rewards(
    untied_model: Path, lora: bool
) -> None:
    grpo = GRPOSettings(kl_weight=0.1, kl_in="reward")
    worker = LearnerWorker(learner_settings(untied_model, lora=lora, grpo=grpo))
    table, assignments = make_tables(make_sequences(4))
    before = worker.read(table)
    metrics = worker.train("sft", table, assignments)
    assert metrics["trained_tokens"] > 0
    after = worker.read(table)
    for first, now, initial in zip(before.logprobs, after.logprobs, after.initial, strict=True):
        np.testing.assert_allclose(initial, first, atol=1e-5)
        assert np.abs(now - first).max() > 1e-3
    assert LearnerWorker(learner_settings(untied_model)).read(table).initial == ()
    assert not worker.grpo.needs_reference, "it is no term of the loss besides"


def test_the_probe_gives_what_the_reference_gives_and_changes_nothing(untied_model: Path) -> None:
    worker, sequences = LearnerWorker(learner_settings(untied_model)), make_sequences(6)
    before = weights(worker)
    result = worker.probe(make_tables(sequences)[0], Probing(token_budget=64))
    expected = sequential(worker.policy.model, sequences)
    assert result.sequence_ids == expected.sequence_ids
    torch.testing.assert_close(result.norms, expected.norms, rtol=1e-4, atol=0)
    torch.testing.assert_close(result.losses, expected.losses)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(worker).items())
    assert all(parameter.grad is None for parameter in worker.policy.model.parameters())


def test_a_fingerprint_names_weights_precision_and_sample(untied_model: Path) -> None:
    worker, other = (LearnerWorker(learner_settings(untied_model)) for _ in range(2))
    ways = [Probing(), Probing(sample=Sample(layers=1)), Probing(sample=Sample(sketch=4))]
    names = [worker.fingerprint(way) for way in ways]
    assert len(set(names)) == 3
    assert names == [other.fingerprint(replace(way, token_budget=1, alone=True)) for way in ways]
    with torch.no_grad():
        next(iter(other.policy.model.parameters())).view(-1)[-1] += 1e-3
    assert other.fingerprint(Probing()) != names[0]


@pytest.mark.parametrize("native", [False, True])
def test_a_fast_probe_computes_in_bfloat16_only_where_the_device_multiplies_it(
    untied_model: Path, monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("learners.workers.worker.multiplies_bfloat16", lambda: native)
    worker = LearnerWorker(learner_settings(untied_model))
    tables = make_tables(make_sequences(4, 5))[0]
    exact, fast = (worker.probe(tables, Probing(fast=wanted)).norms for wanted in (False, True))
    assert torch.equal(exact, fast) is not native
    torch.testing.assert_close(fast, exact, rtol=0.1, atol=0.0)
    assert (worker.fingerprint(Probing()) == worker.fingerprint(Probing(fast=True))) is not native
    assert worker.policy.model.dtype == torch.float32


def test_a_probe_that_is_alone_takes_all_cores(untied_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learners.workers.worker.cores_of_worker", lambda: 7)
    worker = LearnerWorker(learner_settings(untied_model))
    taken: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", taken.append)
    for alone in (True, False):
        worker.probe(make_tables(make_sequences(2, 5))[0], Probing(alone=alone))
    assert taken == [7, torch.get_num_threads()]


def test_a_probe_of_nothing_is_refused(untied_model: Path) -> None:
    with pytest.raises(UserError, match="nothing to probe"):
        LearnerWorker(learner_settings(untied_model)).probe(make_tables([])[0], Probing(token_budget=64))


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_every_published_variant_learns_from_advantages(untied_model: Path, name: str) -> None:
    """Rewarded sequences become likelier than punished ones."""
    grpo = GRPOSettings(**PUBLISHED[name], clip_high=10.0, clip_low=0.999)
    worker = LearnerWorker(learner_settings(untied_model, grpo=grpo))
    sequences = schema.sequences_to_table(make_sequences(4))
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    assignments = schema.assignments_to_table(
        [Assignment(f"s{i}", Route.GRPO, (sign,), 1.0, 0.0, {}) for i, sign in enumerate(signs)]
    )
    before = np.array([row.sum() for row in worker.score(sequences)])
    for _ in range(3):
        worker.train("grpo", sequences, assignments)
    after = np.array([row.sum() for row in worker.score(sequences)])
    assert ((after - before) * signs).mean() > 0


@pytest.mark.parametrize("lora", [False, True])
def test_after_restore_the_next_steps_are_the_same_to_the_bit(untied_model: Path, lora: bool, tmp_path: Path) -> None:
    config = learner_settings(untied_model, lora=lora, sft=SFTSettings(max_sequences=2))
    batches = [make_tables(make_sequences(6, seed), seed) for seed in range(4)]
    worker = LearnerWorker(config)
    for batch in batches[:2]:
        worker.train("mixed", *batch)
    save(worker, tmp_path / "step")
    drawn = torch.rand(3)
    expected = [worker.train("mixed", *batch) for batch in batches[2:]]

    resumed = LearnerWorker(config)
    resumed.restore(tmp_path / "step")
    assert torch.equal(torch.rand(3), drawn)
    for ours, batch in zip(expected, batches[2:], strict=True):
        theirs = resumed.train("mixed", *batch)
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    ours, theirs = weights(worker), weights(resumed)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("lora", [False, True])
def test_steps_taken_while_a_checkpoint_is_written_are_not_in_it(
    untied_model: Path, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [make_tables(make_sequences(6, seed), seed) for seed in range(3)]
    worker, resumed = (LearnerWorker(learner_settings(untied_model, lora=lora)) for _ in range(2))
    worker.train("mixed", *batches[0])
    before, went_on, write = weights(worker), threading.Event(), safetensors.torch.save

    def waiting(*arguments: Any, **options: Any) -> bytes:
        assert went_on.wait(20)
        return write(*arguments, **options)

    monkeypatch.setattr(safetensors.torch, "save", waiting)  # with which torch.distributed.checkpoint writes
    worker.begin_save(tmp_path / "step")
    expected = [worker.train("mixed", *batch) for batch in batches[1:]]
    went_on.set()
    worker.end_save()
    resumed.restore(tmp_path / "step")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(resumed).items())
    for ours, batch in zip(expected, batches[1:], strict=True):
        assert {**ours, "seconds": 0} == {**resumed.train("mixed", *batch), "seconds": 0}


def test_a_directory_without_checkpoint_is_refused(untied_model: Path, tmp_path: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    refused = {
        "holds no learner checkpoint": {},
        "policy.json is missing or damaged": {"policy.json": "{"},
        "has learner format 9, not 2": {"policy.json": '{"format": 9}'},
        r"written as one file \(policy\.pt\)": {"policy.pt": "", "policy.json": "{}"},
    }
    for words, files in refused.items():
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=words) as caught:
            worker.restore(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(untied_model: Path, tied_model: Path, tmp_path: Path) -> None:
    save(LearnerWorker(learner_settings(tied_model)), tmp_path / "step")
    worker = LearnerWorker(learner_settings(untied_model))
    before = weights(worker)
    with pytest.raises(UserError, match=r"of another model: it has no weight\.lm\.\S+ of shape .*policy\.model"):
        worker.restore(tmp_path / "step")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(worker).items())


@pytest.mark.parametrize("kept", [0, 100, -8])
def test_a_damaged_checkpoint_is_refused(untied_model: Path, tmp_path: Path, kept: int) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    save(worker, tmp_path / "step")
    (shard,) = (tmp_path / "step" / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cannot read .*shards \(.*\): delete the folder of its step") as caught:
        worker.restore(tmp_path / "step")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_holds_no_pickle(untied_model: Path, tmp_path: Path) -> None:
    worker = LearnerWorker(learner_settings(untied_model))
    worker.train("mixed", *make_tables(make_sequences(6)))
    save(worker, tmp_path / "step")
    files = {str(path.relative_to(tmp_path / "step")) for path in (tmp_path / "step").rglob("*") if path.is_file()}
    shard = "shards/shard-00001-model-00001-of-00001.safetensors"
    written = {"policy.json", shard, "random-0.safetensors", "sft-00000.arrow", "grpo-00000.arrow"}
    assert files == {*written, "digests.json"}
    assert json.loads((tmp_path / "step" / "digests.json").read_text()).keys() == written


def test_a_band_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match="icepop_band"):
        GRPOSettings(icepop_band=(2.0, 3.0))


def test_a_full_disk_is_told_as_such_and_the_next_checkpoint_is_good(tmp_path: Path, untied_model: Path, monkeypatch):
    worker = LearnerWorker(learner_settings(untied_model))

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save", full)  # with which torch.distributed.checkpoint writes
    with pytest.raises(StorageError, match=r"cannot write .*learner .*No space left on device"):
        save(worker, tmp_path / "learner")
    monkeypatch.undo()
    save(worker, tmp_path / "next")
    worker.restore(tmp_path / "next")
