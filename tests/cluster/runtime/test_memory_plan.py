from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from rich.console import Console

from cluster.commands import plan as plan_command
from cluster.config.loading import load_config
from cluster.config.sections import PlacementSettings
from cluster.runtime.memory_plan import GIB, MemoryPlan, plan_memory
from learners.policy.memory import SPARE
from tests.learners.policy.test_memory import LARGE, large
from trajectories.errors import UserError

CONTEXTS = "reward.conductor.context_pass=own"


def planned(preset: Any, shape: str, folder: Path, *changes: str) -> MemoryPlan:
    return plan_memory(load_config(preset, None, list(changes)), large(shape, folder))


@contextmanager
def no_cluster(placement: PlacementSettings) -> Iterator[None]:
    raise UserError(f"no Ray cluster at {placement.address}")
    yield


def test_the_presets_fit_the_cards_they_are_made_for(tmp_path: Path) -> None:
    for preset, shape in (("gpu", "1.5b"), ("cluster", "7b")):
        plan = planned(preset, shape, tmp_path)
        assert plan.complaints() == [] and plan.mends == ()
        assert plan.sequences is not None and plan.sequences >= 4


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("card", [24, 40, 80])
@pytest.mark.parametrize("preset", ["gpu", "cluster"])
def test_what_is_named_mends_it(preset: str, shape: str, card: int, tmp_path: Path) -> None:
    plan = planned(preset, shape, tmp_path, f"placement.gpu_gib={card}")
    assert plan.learner_room is not None
    fits = sum(plan.learner.values()) <= plan.learner_room
    assert fits == (not any("learner worker" in line for line in plan.complaints()))
    if fits or not plan.mends:
        return
    assert all(f"--set {mend}" in plan.complaints()[0] for mend in plan.mends)
    mended = planned(preset, shape, tmp_path, f"placement.gpu_gib={card}", *plan.mends)
    assert mended.learner_room is not None and sum(mended.learner.values()) <= mended.learner_room
    for left_out in plan.mends:
        rest = [mend for mend in plan.mends if mend != left_out]
        other = planned(preset, shape, tmp_path, f"placement.gpu_gib={card}", *rest)
        assert other.mends, "no setting is named in vain"


def test_a_model_too_large_for_one_card_is_trained_with_adapters(tmp_path: Path) -> None:
    plan = planned("gpu", "7b", tmp_path)
    assert plan.mends == ("policy.lora.rank=32",)
    assert "a learner worker does not fit: " in plan.complaints()[0]
    assert plan.complaints()[0].endswith("it does with --set policy.lora.rank=32")


def test_a_conductor_s_group_is_counted_unless_it_is_read_before(tmp_path: Path) -> None:
    """A group of whole episodes at once is more than a card holds; the line names the setting that mends it."""
    conducted = ("reward.scalariser=conductor", "rollout.engine.max_model_len=16384")
    plain, own = (planned("cluster", "7b", tmp_path, *more) for more in ((), (*conducted, CONTEXTS)))
    assert own.learner == plain.learner
    held = planned("cluster", "7b", tmp_path, *conducted)
    assert held.learner["activations"] > 5 * plain.learner["activations"]
    assert held.mends == (CONTEXTS,) and CONTEXTS in held.complaints()[0]


def test_an_engine_on_the_same_card_takes_its_share(tmp_path: Path) -> None:
    shared = planned("gpu", "1.5b", tmp_path)
    alone = planned("gpu", "1.5b", tmp_path, "placement.learner_gpus=1", "placement.rollout_gpus=1")
    assert shared.learner_room == pytest.approx(0.6 * 80 * GIB - SPARE, abs=1)
    assert alone.learner_room == 80 * GIB - SPARE
    assert shared.engine_room == alone.engine_room == pytest.approx(0.4 * 80 * GIB - SPARE, abs=1)


def test_an_engine_that_has_no_room_for_one_sequence_names_its_settings(tmp_path: Path) -> None:
    plan = planned("gpu", "8b", tmp_path, "placement.gpu_gib=24")
    assert any("an engine does not fit" in line and "gpu_memory_utilization" in line for line in plan.complaints())
    assert plan.sequences == 0


@pytest.mark.parametrize(("shape", "cards", "caches"), [("7b", 2, 2), ("7b", 4, 4), ("1.5b", 4, 2), ("8b", 8, 8)])
def test_cards_share_an_engine_s_weights_and_its_cache_by_key_heads(
    shape: str, cards: int, caches: int, tmp_path: Path
) -> None:
    """The 1.5b has two key heads: two of its four cards hold the cache of the same one."""
    alone, spread = (planned("cluster", shape, tmp_path, f"placement.rollout_gpus={gpus}") for gpus in (1, cards))
    assert spread.engine["weights"] == alone.engine["weights"] // cards
    assert spread.sequence == alone.sequence // caches
    assert spread.engine["KV cache"] == alone.engine["KV cache"] // caches
    assert spread.engine_room == alone.engine_room
    assert spread.learner == alone.learner


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("card", [3, 6, 12, 24])
def test_the_cards_that_are_named_hold_the_engine(shape: str, card: int, tmp_path: Path) -> None:
    plan = planned("cluster", shape, tmp_path, f"placement.gpu_gib={card}")
    (complaint,) = [line for line in plan.complaints() if line.startswith("an engine")] or [""]
    if found := re.search(r"spread it over (\d+) cards \(placement.rollout_gpus=\1\)$", complaint):
        named = planned("cluster", shape, tmp_path, f"placement.gpu_gib={card}", f"placement.rollout_gpus={found[1]}")
        assert not any(line.startswith("an engine") for line in named.complaints())
        assert named.sequences
    else:
        assert not complaint or complaint.endswith("or take a smaller policy.model")


def test_an_engine_that_a_card_cannot_hold_is_spread_over_two(tmp_path: Path) -> None:
    complaints = planned("cluster", "7b", tmp_path, "placement.gpu_gib=16").complaints()
    assert complaints[-1].startswith("an engine does not fit: ")
    assert complaints[-1].endswith("or spread it over 2 cards (placement.rollout_gpus=2)")


def test_a_plan_on_a_cpu_compares_with_no_card(tmp_path: Path) -> None:
    plan = planned("local", "8b", tmp_path)
    assert plan.learner_room is plan.engine_room is plan.sequences is None and plan.complaints() == []


def shown(*changes: str) -> tuple[str, str]:
    """What `concerto plan --preset cluster` prints, and how it ends, where no cluster answers."""
    console = Console(file=StringIO(), width=200)
    with mock.patch.object(plan_command, "ray_cluster", no_cluster), pytest.raises(UserError) as ended:
        plan_command.show_plan(load_config("cluster", None, list(changes)), console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue(), str(ended.value)


def test_the_memory_plan_is_printed_where_there_is_no_cluster() -> None:
    printed, ended = shown("policy.model=concerto-tiny")
    assert "Memory plan of concerto-tiny" in printed and "optimiser" in printed and "KV cache" in printed
    assert ended == "no Ray cluster at auto"


def test_the_table_tells_over_how_many_gpus_an_engine_is_spread() -> None:
    printed, _ = shown("policy.model=concerto-tiny", "placement.rollout_gpus=2")
    assert printed.count("of 2 GPUs of an engine") == 2
    assert "GPUs of an engine" not in shown("policy.model=concerto-tiny")[0]


def test_where_no_hub_is_reached_one_line_says_so() -> None:
    printed, ended = shown("policy.model=nobody/has-this-model")
    (line,) = printed.strip().splitlines()
    assert line.startswith("No memory plan: no model 'nobody/has-this-model' here, and the hub does not give it")
    assert ended == "no Ray cluster at auto"
