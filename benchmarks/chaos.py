"""Random kills over one run: is every task still trained exactly once?

    python -m benchmarks.chaos --faults 20 --seed 0 --out chaos.json

A small run of `concerto train`, with the Conductor and experience on, in processes of its own. Now and then one of
them gets a kill -9: an environment host, a rollout actor, an engine's core, the learner worker, the router, the
recorder, the Conductor, the experience actor, Ray's raylet, or the command itself. Where the run ends it is resumed.
When all faults are spent it goes on to its end; then the trained tasks are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.advice import right, write
from benchmarks.models import machine, write_results
from experience.sentence_embedder import MINILM, SentenceEmbedder
from tests.cluster.runs import RunProcess, title, train_arguments, trained_tasks

VICTIMS = {
    "environment host": "ray::EnvironmentHost",
    "rollout actor": "ray::RolloutActor",
    "engine core": "VLLM::EngineCore",
    "learner worker": "ray::RayTrainWorker",
    "router": "ray::RouterActor",
    "recorder": "ray::RecorderActor",
    "Conductor": "ray::ConductorActor",
    "experience actor": "ray::ExperienceActor",
    "raylet": "raylet/raylet",
    "command": "",
}
"""What dies, and how its process is called; the command is the run's own process."""
JOB = "job"
"""The command and all below it at once, as a node that loses its power."""
GROUPS = 2
"""Groups of a step."""


def settings(memory: Path, steps: int, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "schedule__grpo_steps": steps,
        "schedule__groups_per_step": GROUPS,
        "schedule__max_idle": 10 * steps,  # four turns are too few to learn from, which is of no interest here
        "evaluation__panels": "[]",
        "checkpoint__every": 3,
        "reward__scalariser": "conductor",
        "reward__conductor__update_every": 1,
        "experience__enabled": True,
        "experience__memory": memory,
        "placement__start_timeout_s": 300,
    }


def strike(run: RunProcess, names: Sequence[str], draw: random.Random) -> str | None:
    """Kill one process of the run, of a kind that is there, or all; its name, or None where there was none."""
    if JOB in names:
        for process in (*run.descendants(), psutil.Process(run.process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return JOB
    titles = [(process, title(process)) for process in run.descendants()]
    present = {name: [process for process, words in titles if VICTIMS[name] in words] for name in names}
    if "command" in present:
        present["command"] = [psutil.Process(run.process.pid)]
    if not (present := {name: processes for name, processes in present.items() if processes}):
        return None
    name = draw.choice(sorted(present))
    try:
        draw.choice(present[name]).kill()
    except psutil.NoSuchProcess:
        return None
    return name


@dataclass(frozen=True, slots=True)
class Storm:
    """So many faults, `every` so many seconds on average, of these kinds."""

    faults: int
    every: float
    names: Sequence[str]


def live_through(arguments: list[str], log: Path, storm: Storm, draw: random.Random) -> list[dict[str, Any]]:
    """Start the run, and again after each of its ends, until it ends well. Faults with the seconds when they came."""
    begun, struck, starts = time.monotonic(), [], 0
    while True:
        resume = ["--resume"] if (log.parent / "run" / "config.yaml").exists() else []
        with RunProcess([*arguments, *resume], log) as run:
            starts += 1
            due = time.monotonic() + draw.expovariate(1 / storm.every)
            while run.process.poll() is None:
                time.sleep(0.2)
                run.descendants()
                if len(struck) < storm.faults and time.monotonic() > due and (name := strike(run, storm.names, draw)):
                    struck.append({"fault": name, "at_s": round(time.monotonic() - begun, 1), "start": starts})
                    print(struck[-1], flush=True)
                    due = time.monotonic() + draw.expovariate(1 / storm.every)
            code = run.process.returncode
        if code == 0:
            return struck
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        print(f"ended with {code}: {last[:160]}", flush=True)
        if starts > 3 * storm.faults + 3:
            raise SystemExit(f"the run does not come to its end: see {log}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two of them, on average")
    parser.add_argument("--steps", type=int, default=40, help="of GRPO")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--seed", type=int, default=0, help="of the faults and of the run")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="concerto-chaos-"))
    write(folder / "memory", right(), SentenceEmbedder.load(MINILM))
    changes = settings(folder / "memory", options.steps, options.seed)
    arguments = train_arguments(folder / "run", Path("concerto-tiny"), **changes)
    storm = Storm(options.faults, options.every, options.victims)
    begun = time.monotonic()
    struck = live_through(arguments, folder / "log", storm, random.Random(options.seed))
    trained = trained_tasks(folder / "run")
    log = (folder / "log").read_text(errors="replace")
    found = {
        "machine": machine(),
        "seed": options.seed,
        "faults": struck,
        "seconds": round(time.monotonic() - begun),
        "tasks": len(trained),
        "wanted": options.steps * GROUPS,
        "trained_twice": sum(count > 1 for count in trained.values()),
        "tracebacks": log.count("Traceback"),
    }
    print(json.dumps({name: value for name, value in found.items() if name not in ("machine", "faults")}))
    write_results(options.out, found)
    if found["tasks"] != found["wanted"] or found["trained_twice"]:
        raise SystemExit(f"tasks were lost or trained twice: see {folder}")


if __name__ == "__main__":
    main()
