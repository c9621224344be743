"""Which estimator of credit learns words soonest? The arms of docs/results/credit.md, in seconds each.

    python -m tests.learning.compare [--seeds 0 1 2] [--steps 40] [--out FILE]

Words of three letters, one letter a turn; `success` is for the whole word only, and `progress` is rewarded where an arm
says so.
Prints, by arm and seed, the share of words that the policy spells afterwards: all 64, greedily and sampled eight times.
(Training episodes would not compare: dynamic sampling leaves out groups that are all right.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import ray

from actors.environment_host import start_environment_host
from actors.episode import TurnRewardSettings
from cluster.config.sections import ScheduleSettings
from cluster.reporting.evaluation import Sampling, Subject, evaluate_panel
from learners.learner_settings import GRPOSettings, LearnerSettings, OptimizerSettings, PolicySettings
from tests.learning.conftest import ENGINE, HOST, SIZE, School, opened, words
from tests.learning.spelling import Spelling, save_guesser

PLAIN, SHAPED = TurnRewardSettings(), TurnRewardSettings(progress=1.0)
ARMS: dict[str, tuple[TurnRewardSettings, dict[str, Any], dict[str, Any]]] = {
    "grpo": (PLAIN, {}, {}),
    "dr_grpo": (PLAIN, {"advantage": "dr_grpo"}, {}),
    "gigpo": (PLAIN, {"advantage": "gigpo"}, {}),
    "anchored": (PLAIN, {"advantage": "anchored"}, {}),
    "gae": (PLAIN, {"advantage": "gae"}, {}),
    "graph": (PLAIN, {"advantage": "graph"}, {}),
    "gigpo + progress": (SHAPED, {"advantage": "gigpo"}, {}),
    "anchored + progress": (SHAPED, {"advantage": "anchored"}, {}),
    "gae + progress": (SHAPED, {"advantage": "gae"}, {}),
    "grpo + informative": (PLAIN, {}, {"dynamic_sampling": True}),
    "gigpo + progress + informative": (SHAPED, {"advantage": "gigpo"}, {"dynamic_sampling": True}),
    "gigpo + progress + minibatches": (SHAPED, {"advantage": "gigpo", "minibatches": 2}, {}),
}
"""Rewards of turns, `grpo` settings and `schedule` settings of each arm."""


async def spelled(
    school: School, grpo: dict[str, Any], schedule: dict[str, Any], seed: int, steps: int
) -> dict[str, float]:
    """What an arm spells after its steps."""
    settings = LearnerSettings(
        policy=PolicySettings(model=str(school.model)),
        optimizer=OptimizerSettings(lr=2e-3, warmup_steps=2, token_budget=4096),
        grpo=GRPOSettings.model_validate({"lr_scale": {"end": 0.2, "steps": 30}} | grpo),
        seed=seed,
    )
    common = {"grpo_steps": steps, "groups_per_step": 8, "group_size": SIZE}
    await school.learn(settings, ScheduleSettings.model_validate(common | schedule), length=3)
    after = await evaluate_panel(school.fleet, words(3), Sampling(samples=8, seed=seed), Subject("words"))
    assert after.sampled is not None
    return {"greedy": after.greedy.success.rate, "sampled": after.sampled.success.rate}


async def compare(model: Path, folder: Path, seeds: list[int], steps: int) -> list[dict[str, Any]]:
    rows = []
    for number, reward in enumerate((PLAIN, SHAPED)):
        async with opened(model, folder, ENGINE, f"compare-{number}", reward) as school:
            for name, (turn_reward, grpo, schedule) in ARMS.items():
                for seed in seeds if turn_reward is reward else []:
                    rows.append({"arm": name, "seed": seed} | await spelled(school, grpo, schedule, seed, steps))
                    print(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    start_environment_host({"spelling": Spelling}, {"num_cpus": 0.1, "name": HOST, "lifetime": "detached"})
    with tempfile.TemporaryDirectory() as folder:
        model = save_guesser(Path(folder) / "guesser")
        rows = asyncio.run(compare(model, Path(folder), arguments.seeds, arguments.steps))
    ray.shutdown()
    if arguments.out:
        arguments.out.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
