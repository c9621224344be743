"""Staged routing against a simulated prober: what the stages may draw, what is kept, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.config.sections import ScheduleSettings
from cluster.inputs import routed_corpus
from cluster.inputs.probe_cache import trajectory_key
from cluster.inputs.routed_corpus import MEASURED_FILE, ROUTES_FILE, CorpusRouter, Routing, check_router
from cluster.loop.tasks import TaskMixture
from envs.panels import Panel
from router.probe import ProbeResult
from router.probing import Probing
from router.router_settings import RouterSettings
from tests.cluster.simulation import PANEL, SimulatedRollouts, programme
from tests.router.samples import make_sequence
from trajectories.errors import UserError
from trajectories.ids import demonstration_id
from trajectories.schema import sequences_from_table, sequences_to_table

SCHEDULE = ScheduleSettings(sft_steps=2, grpo_steps=2)


def corpus(count: int = 5, turns: int = 1) -> pa.Table:
    return sequences_to_table(
        replace(
            make_sequence(f"{task}-{turn}", 8 + task, seed=task), episode_id=demonstration_id("mock", f"task-{task}")
        )
        for task in range(count)
        for turn in range(turns)
    )


@dataclass
class SimulatedProber:
    """The gradient of task i is the more concentrated, the larger i."""

    broken: float | None = None
    calls: int = 0

    weights: str = "base"
    probed: int = 0

    async def fingerprint(self, probing: Probing) -> str:
        return hashlib.sha256(f"{self.weights} {probing.sample}".encode()).hexdigest()

    async def probe(self, sequences: pa.Table, probing: Probing) -> ProbeResult:
        self.calls += 1
        rows = sequences_from_table(sequences)
        self.probed += len(rows)
        tasks = torch.tensor([float(row.episode_id[-1]) for row in rows])
        owners = tuple(dict.fromkeys(row.episode_id for row in rows))
        norms = torch.ones(len(owners), 7)
        norms[:, 3] += torch.tensor([float(name[-1]) for name in owners])
        if self.broken is not None:
            norms[-1] = self.broken
        names = tuple(row.sequence_id for row in rows)
        logprobs = tuple(np.zeros(len(row.token_ids), np.float32) for row in rows)
        return ProbeResult(names, owners, norms, (4,) * 7, tasks, torch.zeros(len(rows), 4), logprobs)


def route(run_dir: Path, policy: str, demonstrations: pa.Table, prober: SimulatedProber, **more) -> Routing:
    router, whole = RouterSettings.model_validate({"policy": policy, **more}), programme(SCHEDULE)
    corpus_router = CorpusRouter(run_dir, router, whole, prober, SimulatedRollouts(), lambda *_: None)
    return asyncio.run(corpus_router.route(demonstrations))


def test_the_lower_half_is_imitated_and_the_tasks_of_the_upper_half_are_explored(tmp_path):
    routing = route(tmp_path, "median_split", corpus(), SimulatedProber())
    assert routing.programme.demonstrations == (0, 1, 2)
    assert routing.programme.tasks.panels == (replace(PANEL, task_ids=("task-3", "task-4")),)
    assert (routing.metrics["router/sft"], routing.metrics["router/grpo"]) == (3, 2)
    routes = pq.read_table(tmp_path / ROUTES_FILE).to_pylist()
    assert [row["route"] for row in routes] == ["sft"] * 3 + ["grpo"] * 2
    assert all(row["threshold"] == routes[2]["score"] for row in routes)
    assert pq.read_table(tmp_path / MEASURED_FILE)["tokens"].to_pylist() == [8, 9, 10, 11, 12]


def test_the_inverse_swaps_the_halves(tmp_path):
    routing = route(tmp_path, "inverse", corpus(4), SimulatedProber())
    assert routing.programme.demonstrations == (2, 3)
    assert routing.programme.tasks.panels[0].task_ids == ("task-0", "task-1")


def test_turns_of_a_trajectory_go_one_way(tmp_path):
    routing = route(tmp_path, "median_split", corpus(4, turns=3), SimulatedProber())
    assert routing.programme.demonstrations == tuple(range(6))
    assert routing.programme.tasks.panels[0].task_ids == ("task-2", "task-3")


def test_a_resumed_run_keeps_its_routes_and_measures_nothing(tmp_path):
    first, again = SimulatedProber(), SimulatedProber(broken=9.0)
    routing = route(tmp_path, "loss", corpus(), first)
    resumed = route(tmp_path, "loss", corpus(), again)
    assert resumed.programme == routing.programme
    assert (first.calls, again.calls, resumed.metrics) == (1, 0, {})


def cached(run_dir: Path, demonstrations: pa.Table, prober: SimulatedProber, cache: Path, **more) -> Routing:
    run_dir.mkdir()
    return route(run_dir, "median_split", demonstrations, prober, cache=str(cache), **more)


def test_an_arm_that_shares_the_cache_probes_only_what_is_new(tmp_path):
    first, second = SimulatedProber(), SimulatedProber()
    cached(tmp_path / "one", corpus(4, turns=2), first, tmp_path / "cache")
    routing = cached(tmp_path / "two", corpus(6, turns=2), second, tmp_path / "cache")
    assert (first.probed, second.probed) == (8, 4)
    alone = route(tmp_path, "median_split", corpus(6, turns=2), SimulatedProber())
    assert routing.programme == alone.programme
    measured = [pq.read_table(folder / MEASURED_FILE) for folder in (tmp_path / "two", tmp_path)]
    assert measured[0].equals(measured[1])


@pytest.mark.parametrize("change", [{"weights": "others"}, {"sketch": 4}, {"sample_layers": 1}])
def test_other_weights_or_another_way_of_probing_share_nothing(tmp_path, change):
    cached(tmp_path / "one", corpus(), SimulatedProber(), tmp_path / "cache")
    prober = SimulatedProber(weights=change.pop("weights", "base"))
    cached(tmp_path / "two", corpus(), prober, tmp_path / "cache", **change)
    assert prober.probed == 5


def test_a_run_that_ends_in_the_middle_of_its_probe_goes_on_there(tmp_path, monkeypatch):
    monkeypatch.setattr(routed_corpus, "PROBED_AT_ONCE", 2)

    class Dying(SimulatedProber):
        async def probe(self, sequences: pa.Table, probing: Probing) -> ProbeResult:
            if self.probed == 4:
                raise RuntimeError("gone")
            return await super().probe(sequences, probing)

    with pytest.raises(RuntimeError, match="gone"):
        route(tmp_path, "median_split", corpus(6), Dying())
    again = SimulatedProber()
    route(tmp_path, "median_split", corpus(6), again)
    assert again.probed == 2


def test_a_damaged_cache_is_made_again_with_one_line(tmp_path):
    cached(tmp_path / "one", corpus(), SimulatedProber(), tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    said: list[str] = []
    prober, whole = SimulatedProber(), programme(SCHEDULE)
    (tmp_path / "two").mkdir()
    router = RouterSettings(policy="median_split", cache=str(tmp_path / "cache"))
    corpus_router = CorpusRouter(
        tmp_path / "two", router, whole, prober, SimulatedRollouts(), lambda *_: None, said.append
    )
    asyncio.run(corpus_router.route(corpus()))
    assert prober.probed == pq.read_table(file).num_rows == 5
    assert len(said) == 1 and "is damaged" in said[0] and "made again" in said[0]


def test_a_trajectory_is_known_by_what_its_gradient_depends_on():
    sequence = make_sequence("s", 9, seed=0)
    same = replace(sequence, sequence_id="t", episode_id="other", logprobs=sequence.logprobs - 1)
    assert trajectory_key([sequence]) == trajectory_key([same])
    others = [
        [replace(sequence, temperature=0.5)],
        [replace(sequence, trained=~sequence.trained)],
        [replace(sequence, token_ids=sequence.token_ids + 1)],
        [sequence, sequence],
    ]
    assert len({trajectory_key(rows) for rows in [[sequence], *others]}) == 5


def test_routes_of_another_corpus_are_refused(tmp_path):
    route(tmp_path, "loss", corpus(4), SimulatedProber())
    with pytest.raises(UserError, match="the routes lack demonstration/mock/task-4"):
        route(tmp_path, "loss", corpus(5), SimulatedProber())


def test_routes_that_were_made_before_are_taken_as_they_are(tmp_path):
    (tmp_path / "first").mkdir()
    given = route(tmp_path / "first", "inverse", corpus(4), SimulatedProber())
    (tmp_path / "second").mkdir()
    prober = SimulatedProber()
    routes = str(tmp_path / "first" / ROUTES_FILE)
    taken = route(tmp_path / "second", "median_split", corpus(4), prober, routes=routes)
    assert (taken.programme, prober.calls) == (given.programme, 0)
    with pytest.raises(UserError, match=r"cannot read .*none .*set router\.routes to"):
        check_router(RouterSettings(policy="median_split", routes=str(tmp_path / "none")), SCHEDULE)


def test_what_needs_no_gradient_runs_no_probe(tmp_path):
    prober = SimulatedProber()
    for policy in ("random", "sequential"):
        (tmp_path / policy).mkdir()
    chance = route(tmp_path / "random", "random", corpus(6), prober)
    assert len(chance.programme.demonstrations) == chance.programme.tasks.count == 3
    both = route(tmp_path / "sequential", "sequential", corpus(6), prober)
    assert (len(both.programme.demonstrations), both.programme.tasks.count) == (6, 6)
    assert prober.calls == 0


def test_the_pass_rate_gate_refuses_a_demonstration_whose_task_it_cannot_play(tmp_path):
    strange = replace(make_sequence("s", 8, seed=0), episode_id=demonstration_id("mock", "elsewhere"))
    with pytest.raises(UserError, match="mock/elsewhere is in no panel of this run"):
        route(tmp_path, "pass_rate", sequences_to_table([strange]), SimulatedProber())


def test_the_pass_rate_gate_lets_the_base_model_play_every_task(tmp_path):
    routing = route(tmp_path, "pass_rate", corpus(6), SimulatedProber(), gate=0.5, gate_episodes=4)
    routes = pq.read_table(tmp_path / ROUTES_FILE).to_pylist()
    assert [row["rl_weight"] > 0 for row in routes] == [row["score"] > 0.5 for row in routes]
    assert len(routing.programme.demonstrations) + routing.programme.tasks.count == 6


@pytest.mark.parametrize(
    ("demonstrations", "prober", "message"),
    [
        (corpus(0), SimulatedProber(), "the corpus holds no sequence"),
        (corpus(1), SimulatedProber(), "needs two trajectories or more, got 1"),
        (
            corpus(3),
            SimulatedProber(broken=float("nan")),
            "demonstration/mock/task-2 has a gradient that is not finite",
        ),
        (corpus(3), SimulatedProber(broken=0.0), "demonstration/mock/task-2 has a gradient of zero"),
    ],
    ids=["empty corpus", "one trajectory", "NaN gradient", "no gradient"],
)
def test_what_cannot_be_routed_leaves_no_route_behind(tmp_path, demonstrations, prober, message):
    with pytest.raises(UserError, match=message):
        route(tmp_path, "median_split", demonstrations, prober)
    assert not any((tmp_path / name).exists() for name in (MEASURED_FILE, ROUTES_FILE))


SHOP = Panel("shop/train", ("task-0", "task-1"), "ee")


def route_mixture(run_dir: Path, tasks: Sequence[tuple[str, int]], **more: Any) -> Routing:
    """The gradients of the shop's tasks are the more even ones."""
    demonstrations = sequences_to_table(
        replace(make_sequence(f"{at}", 8 + task, seed=task), episode_id=demonstration_id(environment, f"task-{task}"))
        for at, (environment, task) in enumerate(tasks)
    )
    router = RouterSettings.model_validate({"policy": "median_split", **more})
    whole = programme(SCHEDULE, (PANEL, SHOP))
    corpus_router = CorpusRouter(run_dir, router, whole, SimulatedProber(), SimulatedRollouts(), lambda *_: None)
    return asyncio.run(corpus_router.route(demonstrations))


MIXTURE = (("shop", 0), ("shop", 1), ("mock", 3), ("mock", 4))


def test_each_environment_is_split_by_a_threshold_of_its_own(tmp_path):
    routing = route_mixture(tmp_path, MIXTURE)
    assert routing.programme.demonstrations == (0, 2)
    shop, mock = replace(SHOP, task_ids=("task-1",)), replace(PANEL, task_ids=("task-4",))
    assert set(routing.programme.tasks.panels) == {shop, mock}
    assert [routing.metrics[f"router/{route}/{name}"] for route in ("sft", "grpo") for name in ("shop", "mock")] == [
        1
    ] * 4
    assert routing.metrics["router/threshold/shop"] < routing.metrics["router/threshold/mock"]
    assert "router/threshold" not in routing.metrics


def test_one_threshold_for_the_corpus_may_give_a_whole_environment_to_one_route(tmp_path):
    routing = route_mixture(tmp_path, MIXTURE, thresholds="corpus")
    assert routing.programme.demonstrations == (0, 1)
    assert routing.programme.tasks == TaskMixture((replace(PANEL, task_ids=("task-3", "task-4")),))


def test_an_environment_with_one_trajectory_has_no_threshold_of_its_own(tmp_path):
    with pytest.raises(
        UserError, match=r"shop has a single trajectory, demonstration/shop/task-0, .*thresholds=corpus"
    ):
        route_mixture(tmp_path, (("shop", 0), ("mock", 3), ("mock", 4)))


@pytest.mark.parametrize(("share", "imitated"), [(0.2, 1), (0.5, 3), (0.75, 4)])
@pytest.mark.parametrize("policy", ["median_split", "inverse", "random", "magnitude", "loss"])
def test_the_share_is_that_of_the_stages_too(tmp_path, policy, share, imitated):
    routing = route(tmp_path, policy, corpus(5), SimulatedProber(), share=share)
    assert (routing.metrics["router/sft"], routing.metrics["router/grpo"]) == (imitated, 5 - imitated)


def test_a_trajectory_without_trained_tokens_is_named(tmp_path):
    silent = replace(make_sequence("mute", 5, 0), trained=np.zeros(5, np.bool_))
    with pytest.raises(UserError, match="trajectory mute has no trained token"):
        route(tmp_path, "median_split", sequences_to_table([silent]), SimulatedProber())


def test_a_stage_without_data_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no task to GRPO: set schedule\.grpo_steps=0"):
        route(tmp_path, "all_sft", corpus(), SimulatedProber())


@pytest.mark.parametrize(
    ("settings", "schedule", "message"),
    [
        ({"policy": "median_split", "mode": "online"}, {"grpo_steps": 3}, "set schedule.mixed_steps"),
        ({"policy": "chord"}, {"grpo_steps": 3}, "set router.mode=online"),
        ({"policy": "all_grpo"}, {"sft_steps": 1, "grpo_steps": 3}, "set schedule.sft_steps=0"),
        ({"policy": "all_sft"}, {"sft_steps": 1, "grpo_steps": 3}, "set schedule.grpo_steps=0"),
        ({"policy": "all_grpo"}, {"grpo_steps": 3, "mixed_steps": 1}, "nothing to SFT: .* and schedule.mixed_steps=0"),
        ({"policy": "all_sft"}, {"sft_steps": 1, "mixed_steps": 1, "grpo_steps": 0}, "and schedule.mixed_steps=0"),
        (
            {"policy": "median_split", "mode": "online", "routes": "r.parquet"},
            {"mixed_steps": 1},
            "router.routes holds routes of stages",
        ),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_starts(settings, schedule, message):
    with pytest.raises(UserError, match=message):
        check_router(RouterSettings.model_validate(settings), ScheduleSettings.model_validate(schedule))


def test_damaged_routes_are_decided_again_by_the_same_weights(tmp_path):
    routing = route(tmp_path, "median_split", corpus(), SimulatedProber())
    path = tmp_path / ROUTES_FILE
    routes, again = pq.read_table(path), SimulatedProber()
    path.write_bytes(path.read_bytes()[:-20])
    assert route(tmp_path, "median_split", corpus(), again).programme == routing.programme
    assert again.calls == 0, "what was probed is kept"
    assert pq.read_table(path) == routes
