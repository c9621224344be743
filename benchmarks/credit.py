"""Which estimator knows which turns helped? Grades credit for single turns against the exact distance to the goal.

    python -m benchmarks.credit RUN [--episodes 2000] [--distances FILE] [--out FILE]

Recorded rollouts of generated ALFWorld games are played again on the native engine, and its planner says how many
commands each state is away from the goal. A turn is *progress* when it brings the goal nearer, *regress* when farther.
AUC: how often a turn of progress has a higher advantage than another turn of its group (0.5 is chance). Rank: Spearman
correlation with the turn's change of distance, by group. Both are means over the groups that have something to rank;
`failures` looks only at the turns of lost episodes, `valid` only at admissible actions. No training happens here.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import write_results
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from envs.alfworld.environment import open_tasks
from envs.alfworld.native.engine import NativeEngine, NativeGame
from envs.alfworld.native.planner import PlannerTimeout, Unsolvable, shortest_plan
from learners.objectives import advantages, credit
from learners.objectives.credit import Turns
from router.analysis import spearman
from trajectories.schema import sequences_from_table
from trajectories.store import TrajectoryStore

GAMMA, DECAY = 0.95, 0.9
TIME_LIMIT_S = 10.0
LOST = -1
"""Distance of a state from which the planner found no way in time."""


@dataclass(frozen=True, slots=True)
class Played:
    """One recorded episode, played again.

    Attributes:
        actions: what the policy said, one a turn.
        distances: to the goal in commands, before the first turn and after each; `LOST` where unknown.
        states: hashes, likewise.
        progress: share of the goal's conditions met, likewise.
        valid: whether each action did something.
    """

    task_id: str
    group: str
    solved: bool
    distances: list[int]
    states: list[int]
    progress: list[float]
    valid: list[bool]


def recorded(run: Path, model: str, limit: int) -> dict[str, list[tuple[str, bool, list[str]]]]:
    """Task → (group, solved, actions) of its episodes, in whole groups, about `limit` in all."""
    tokenizer, store = load_tokenizer(resolve_model(model)), TrajectoryStore(run / "trajectories")
    found: dict[str, list[tuple[str, bool, list[str]]]] = defaultdict(list)
    count = 0
    for number in range(len(store)):
        if count >= limit:
            break
        episodes, sequences, _ = store.read(number)
        by_episode = defaultdict(list)
        for sequence in sequences_from_table(sequences):
            by_episode[sequence.episode_id].append(sequence)
        for row in episodes.to_pylist():
            actions = [
                tokenizer.action(sequence.token_ids[turn.start : turn.end].tolist())
                for sequence in by_episode[row["episode_id"]]
                for turn in sequence.turns
            ]
            found[row["task_id"]].append((row["group_id"], row["success"], actions))
            count += 1
    return found


def played_again(task_id: str, episodes: list[tuple[str, bool, list[str]]]) -> list[Played]:
    """All recorded episodes of one game, with the distance of every state, each state planned for once."""
    game = open_tasks().read(task_id)
    compiled = NativeGame.compile(game.domain, game.problem, game.grammar)
    engine, known = NativeEngine(), {}

    def look(played: Played) -> None:
        if engine.state_hash not in known:
            known[engine.state_hash] = _distance(compiled, engine)
        played.distances.append(known[engine.state_hash])
        played.states.append(engine.state_hash)
        played.progress.append(engine.goal_progress)

    found = []
    for group, solved, actions in episodes:
        engine.reset(compiled)
        played = Played(task_id, group, solved, [], [], [], [])
        look(played)
        for action in actions:
            played.valid.append(action.strip() in engine.admissible_commands)
            engine.step(action.strip())
            look(played)
        if engine.won != solved:
            raise RuntimeError(f"{task_id} ended otherwise than recorded: other games, or another tokenizer?")
        found.append(played)
    return found


def _distance(compiled: NativeGame, engine: NativeEngine) -> int:
    if engine.won:
        return 0
    try:
        return len(shortest_plan(replace(compiled, initial=compiled.facts.state(engine.state)), TIME_LIMIT_S))
    except (PlannerTimeout, Unsolvable):
        return LOST


def _job(item: tuple[str, list[tuple[str, bool, list[str]]]]) -> list[Played]:
    return played_again(*item)


Group = Sequence[Played]


def turns_of(group: Group, rewards: Callable[[Played, int], float]) -> Turns:
    """The turns of a group with the rewards of choice; states are those before the turn."""
    rows = [(n, rewards(p, t), p.states[t]) for n, p in enumerate(group) for t in range(len(p.valid))]
    episodes, values, states = zip(*rows, strict=True)
    return Turns(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(episodes, dtype=torch.int64),
        torch.tensor(states, dtype=torch.int64),
    )


def success(played: Played, turn: int) -> float:
    """1 for the turn that wins."""
    return float(played.solved and turn == len(played.valid) - 1)


def shaped(played: Played, turn: int) -> float:
    """Success, 0.3 of the progress in goal conditions, and 0.1 off for an invalid action."""
    gained = played.progress[turn + 1] - played.progress[turn]
    return success(played, turn) + 0.3 * gained - 0.1 * (not played.valid[turn])


def exact(played: Played, turn: int) -> float:
    """The change of the distance itself: the upper bound."""
    before, after = played.distances[turn : turn + 2]
    return float(before - after) if LOST not in (before, after) else 0.0


def estimators() -> Mapping[str, Callable[[Group], Tensor]]:
    """Name → advantages [M] of the turns of one group."""

    def outcome(group: Group) -> tuple[Tensor, Tensor]:
        return torch.tensor([float(p.solved) for p in group]), torch.zeros(len(group), dtype=torch.int64)

    def episode(group: Group) -> Tensor:
        return advantages.dr_grpo(*outcome(group))[turns_of(group, success).episodes]

    def gigpo(group: Group, rewards: Callable[[Played, int], float]) -> Tensor:
        turns = turns_of(group, rewards)
        by_episode = advantages.grpo(*outcome(group))[turns.episodes]
        return by_episode + credit.gigpo(turns, outcome(group)[1], GAMMA)

    def anchored(group: Group, rewards: Callable[[Played, int], float]) -> Tensor:
        return credit.anchored(turns_of(group, rewards), outcome(group)[1], GAMMA)

    def gae(group: Group, rewards: Callable[[Played, int], float], decay: float) -> Tensor:
        return credit.gae(turns_of(group, rewards), outcome(group)[1], GAMMA, decay)

    def graph(group: Group) -> Tensor:
        return credit.graph(turns_of(group, success), outcome(group)[1], outcome(group)[0] > 0)

    def invalid(group: Group) -> Tensor:
        flags = torch.tensor([float(not valid) for played in group for valid in played.valid])
        return flags - flags.mean()

    return {
        "episode (grpo without division)": episode,
        "gigpo, success": lambda g: gigpo(g, success),
        "gigpo, shaped": lambda g: gigpo(g, shaped),
        "anchored, success": lambda g: anchored(g, success),
        "anchored, shaped": lambda g: anchored(g, shaped),
        "gae 0, success": lambda g: gae(g, success, 0.0),
        f"gae {DECAY}, success": lambda g: gae(g, success, DECAY),
        "gae 0, shaped": lambda g: gae(g, shaped, 0.0),
        f"gae {DECAY}, shaped": lambda g: gae(g, shaped, DECAY),
        "graph": graph,
        "graph - 0.2 invalid": lambda g: graph(g) - 0.2 * invalid(g),
        "2 episode + 0.5 anchored shaped - 0.2 invalid": (
            lambda g: 2 * episode(g) + 0.5 * anchored(g, shaped) - 0.2 * invalid(g)
        ),
        "episode + graph": lambda g: episode(g) + graph(g),
        "exact distance (upper bound)": lambda g: turns_of(g, exact).rewards,
    }


def auc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Chance that a positive scores higher than another, ties counting half; None where one kind is missing."""
    if positive.all() or not positive.any():
        return None
    order = scores[positive][:, None] - scores[~positive][None, :]
    return float((order > 1e-12).mean() + 0.5 * (np.abs(order) <= 1e-12).mean())


def grade(groups: Sequence[Group], estimate: Callable[[Group], Tensor]) -> dict[str, float]:
    """Means over groups of what `__doc__` explains."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        scores = estimate(group).numpy()
        change = turns_of(group, exact).rewards.numpy()
        known = np.array([LOST not in p.distances[t : t + 2] for p in group for t in range(len(p.valid))])
        valid = np.array([v for played in group for v in played.valid])
        lost = np.array([not played.solved for played in group for _ in played.valid])
        for name, chosen in {"all": known, "valid": known & valid, "failures": known & lost}.items():
            if (value := auc(scores[chosen], change[chosen] > 0)) is not None:
                found[f"progress_{name}"].append(value)
            if (value := auc(-scores[chosen], change[chosen] < 0)) is not None:
                found[f"regress_{name}"].append(value)
        if np.ptp(change[known]) > 0:
            varied = np.ptp(scores[known]) > 0
            found["rank"].append(float(spearman(_named(scores[known]), _named(change[known]))) if varied else 0.0)
    return {name: round(statistics.mean(values), 3) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory with trajectories of generated games")
    parser.add_argument("--model", default=TINY, help="whose tokenizer wrote them")
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8], help="members of a group that are looked at")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    tasks = recorded(options.run, options.model, options.episodes)
    with ProcessPoolExecutor(options.processes) as pool:
        again = [played for found in pool.map(_job, tasks.items(), chunksize=4) for played in found]
    by_group: defaultdict[str, list[Played]] = defaultdict(list)
    for played in again:
        by_group[played.group].append(played)
    results: dict[str, Any] = {"facts": facts(again), "rows": []}
    print(json.dumps(results["facts"]))
    for size in options.sizes:
        shuffle = random.Random(0)
        groups = [shuffle.sample(group, size) for group in by_group.values() if len(group) >= size]
        for name, estimate in estimators().items():
            row = {"size": size, "groups": len(groups), "estimator": name} | grade(groups, estimate)
            results["rows"].append(row)
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        write_results(options.out, results)


def _named(values: np.ndarray) -> dict[str, float]:
    return {str(row): float(value) for row, value in enumerate(values)}


def facts(again: Sequence[Played]) -> dict[str, Any]:
    """What the rollouts are like, by outcome: shares of turns that are progress, standstill and regress."""
    found: dict[str, Any] = {"episodes": len(again), "solved": sum(p.solved for p in again)}
    for name, chosen in (("won", True), ("lost", False)):
        changes = [exact(p, t) for p in again if p.solved == chosen for t in range(len(p.valid))]
        parts = {"progress": sum(c > 0 for c in changes), "regress": sum(c < 0 for c in changes)}
        found[name] = {part: round(count / max(1, len(changes)), 3) for part, count in parts.items()}
        found[name]["turns"] = len(changes)
    unknown = sum(d == LOST for p in again for d in p.distances)
    return found | {"states_unknown": unknown, "states": sum(len(p.distances) for p in again)}


if __name__ == "__main__":
    main()
