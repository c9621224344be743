"""What a run or an evaluation needs of Ray: opens the cluster, places the actors, and takes all down again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import ray
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors import runtime
from actors.environment_host import start_environment_host
from actors.rollout import start_rollout_actor
from cluster.config.run import RunSettings
from cluster.config.sections import PlacementSettings
from cluster.descendants import none_left
from cluster.interruption import handlers_kept
from cluster.runtime.fleet import RolloutFleet
from cluster.runtime.placement import Demand, Node, preflight
from envs import make_environment
from trajectories.errors import RunError, UserError, first_line

CLOSE_TIMEOUT_S = 20.0

logger = logging.getLogger(__name__)


def rollout_demands(placement: PlacementSettings) -> list[Demand]:
    """What the rollout actors and the environment hosts need, one entry an actor."""
    rollouts = [
        Demand(f"rollout-{at}", placement.rollout_cpus, placement.rollout_gpus)
        for at in range(placement.rollout_actors)
    ]
    hosts = [Demand(f"env-{at}", placement.environment_cpus, 0.0) for at in range(placement.environment_hosts)]
    return rollouts + hosts


def learner_demands(placement: PlacementSettings) -> list[Demand]:
    """What the learner workers need."""
    return [
        Demand(f"learner-{at}", placement.learner_cpus, placement.learner_gpus)
        for at in range(placement.learner_workers)
    ]


def preference_demands(config: RunSettings) -> list[Demand]:
    """What the replicas of the preference model need; none where the run has no such model."""
    placement = config.placement
    replicas = placement.preference_replicas if config.reward.preference_model else 0
    return [Demand(f"preference-{at}", placement.preference_cpus, placement.preference_gpus) for at in range(replicas)]


def run_demands(config: RunSettings) -> list[Demand]:
    """What a run needs, one entry an actor."""
    placement = config.placement
    return rollout_demands(placement) + learner_demands(placement) + preference_demands(config)


def companions(config: RunSettings) -> list[tuple[str, str]]:
    """(actor, where it goes) of those that take no resources, and so fit everywhere."""
    here = "beside rollout-0"
    wanted = {
        "recorder": (True, here),
        "router": (True, "any"),
        "conductor": (config.reward.scalariser == "conductor", "any"),
        "experience": (config.experience.enabled, here),
        "judge": (config.reward.judge.active, "any"),
        "evaluator": (config.evaluation.judge.active, "any"),
    }
    return [(name, where) for name, (there, where) in wanted.items() if there]


@contextmanager
def ray_cluster(placement: PlacementSettings) -> Iterator[None]:
    """Join the cluster of `placement.address` (or of a submitted job), else start a private one; always leave it. With
    `placement.inline` all of it is this process.

    Raises UserError when there is no such cluster.
    """
    if placement.inline:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # elsewhere its warnings are in the logs of the actors
        with none_left(), runtime.in_process():
            yield
        return
    address = joined_address(placement)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of calls that nobody waits for, as of groups at a stop
    with none_left(), ExitStack() as leaving:
        leaving.callback(ray.shutdown)
        try:
            _join(address)
        except Exception as error:  # Ray raises bare ones too, e.g. when a busy machine starts it too slowly
            raise UserError(_not_joined(placement, error)) from error
        yield


def joined_address(placement: PlacementSettings) -> str | None:
    """The address of the cluster that a run joins; None where it starts a private one."""
    return placement.address or os.environ.get("RAY_ADDRESS")


def _not_joined(placement: PlacementSettings, error: Exception) -> str:
    """Why there is no cluster, and what to do about the address, wherever that came from."""
    address, reason = joined_address(placement), first_line(error)
    if address is None:
        return f"Ray does not start on this machine ({reason}): `concerto doctor` looks for the cause."
    if urlsplit(address).scheme in ("http", "https"):
        reason = "that is a dashboard, which `concerto submit` takes; a cluster's own address is HOST:6379"
    away = "leave out placement.address" if placement.address else "unset RAY_ADDRESS"
    return f"no Ray cluster at {address} ({reason}): start one with `ray start --head`, or {away}."


def _join(address: str | None) -> None:
    namespace = f"concerto-{uuid4().hex}"  # names of actors are free in it, whatever else runs on a shared cluster
    common: dict[str, Any] = {"namespace": namespace, "logging_level": logging.ERROR, "log_to_driver": False}
    with handlers_kept():  # Ray's own for SIGTERM prints a stack of C++
        # Its processes take that over. Else they would end with a terminal, before the run could end its step.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if address:
            ray.init(address=address, **common)
        else:
            _hold_token()
            ray.init(address="local", include_dashboard=False, **common)


def _hold_token() -> None:
    """Ray keeps the token of a cluster that it starts in the home folder. Where nothing can be written there, as in
    many containers, this process and its children hold it."""
    if not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def cluster_nodes() -> list[Node]:
    """What is free now on every living node."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = free.get(node["NodeID"], {})
            name = f"{node['NodeManagerHostname']}/{node['NodeID'][:6]}"
            nodes.append(Node(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0)))
    return nodes


async def check_resources(config: RunSettings, trains: bool, say: Callable[[str], None]) -> None:
    """Wait a bounded time for room for all actors of a run, or (`trains` is false) of an evaluation. Raises UserError
    with the table of demanded against free."""
    if config.placement.inline:
        return
    demands = run_demands(config) if trains else rollout_demands(config.placement)
    await preflight(demands, cluster_nodes, config.placement.wait_s, say)


@asynccontextmanager
async def open_fleet(
    config: RunSettings, model: str, environments: Iterable[str], run: str
) -> AsyncIterator[RolloutFleet]:
    """Rollout actors and environment hosts in one placement group, ready to play; all gone afterwards.

    Args:
        environments: what the hosts can play.
        run: in the names of the actors, `concerto:<run>:rollout-0`.
    """
    placement = config.placement
    settings = config.fitted_rollout
    if joined_address(placement):  # a private cluster has no endpoint for metrics
        settings = settings.model_copy(update={"engine": settings.engine.model_copy(update={"metrics": True})})
    openers = {name: partial(make_environment, name, *config.opening(name)) for name in environments}
    actors: dict[str, Any] = {}
    hosts: dict[str, Any] = {}
    async with _room(placement, run) as places:
        try:
            for place in places:
                if place.demand.name.startswith("env-"):
                    hosts[place.options["name"]] = start_environment_host(openers, place.options)
            for place in places:
                if place.demand.name.startswith("rollout-"):
                    name = place.options["name"]
                    actors[name] = start_rollout_actor(settings, model, tuple(hosts), place.options)
            fleet = RolloutFleet(actors, settings.episodes, placement.start_timeout_s)
            await fleet.start()
            try:
                yield fleet
            finally:
                await fleet.close()
        finally:
            await _take_down(actors, hosts)


def beside_rollouts(placement: PlacementSettings, run: str) -> dict[str, Any]:
    """Ray's options of an actor that goes to the node of this run's first rollout actor; call while its fleet is
    open."""
    if placement.inline:
        return {}
    group = get_placement_group(f"concerto:{run}")
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)}


@dataclass(frozen=True, slots=True)
class _Place:
    """What an actor demands, and Ray's options that put it where it was planned."""

    demand: Demand
    options: dict[str, Any]


@asynccontextmanager
async def _room(placement: PlacementSettings, run: str) -> AsyncIterator[list[_Place]]:
    """The room that `check_resources` found, held as one placement group; let go of afterwards.

    Raises RunError when others have taken it.
    """
    demands = rollout_demands(placement)
    if placement.inline:
        yield [_Place(demand, {"name": _name(run, demand)}) for demand in demands]
        return
    group = placement_group([_bundle(demand) for demand in demands], strategy="PACK", name=f"concerto:{run}")
    try:
        await _reserved(group, placement.wait_s + CLOSE_TIMEOUT_S)
        yield [_Place(demand, _options(run, group, bundle, demand)) for bundle, demand in enumerate(demands)]
    finally:
        remove_placement_group(group)


async def _reserved(group: Any, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(group.ready(), timeout_s)
    except TimeoutError:
        raise RunError(
            f"the room that was planned for the rollout actors was not free within {timeout_s:g} s, since others took "
            "it: `concerto plan` shows what is free; raise placement.wait_s, or ask for less"
        ) from None


def _bundle(demand: Demand) -> dict[str, float]:
    # A bundle without resources is refused; a thousandth of a CPU is none.
    return {"CPU": max(demand.cpus, 0.001)} | ({"GPU": demand.gpus} if demand.gpus else {})


def rollout_names(placement: PlacementSettings, run: str) -> tuple[str, ...]:
    """The names of a run's rollout actors."""
    return tuple(_name(run, demand) for demand in rollout_demands(placement) if demand.name.startswith("rollout-"))


def _name(run: str, demand: Demand) -> str:
    return f"concerto:{run}:{demand.name}"


def _options(run: str, group: PlacementGroup, bundle: int, demand: Demand) -> dict[str, Any]:
    return {
        "name": _name(run, demand),
        "num_cpus": demand.cpus,
        "num_gpus": demand.gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
    }


async def _take_down(actors: dict[str, Any], hosts: dict[str, Any]) -> None:
    """Close the engines in order, then end every actor, whatever state it is in."""
    closing = [actor.close.remote() for actor in actors.values()]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await asyncio.gather(*closing, return_exceptions=True)
    for actor in (*actors.values(), *hosts.values()):
        runtime.kill(actor)
