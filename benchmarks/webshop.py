"""How fast and how light is WebShop? Steps a second, memory per process, and search on catalogues of several sizes.

    python -m benchmarks.webshop [--data DIR] [--sizes 1000 100000 500000] [--out FILE]

Steps: the oracle's episodes on training goals, one process. Memory: resident and private megabytes of processes that
have played, from the kernel's own account (smaps_rollup). Private is the unique set size, Private_Clean +
Private_Dirty: what would be free if this process alone ended. Pages of the mapped catalogue are shared by all who map
it. WebShop's own part is the growth since the moment when the same process had imported all modules and opened nothing.
Further processes are measured two at a time beside one that has the catalogue open, started afresh and forked from it.

Search: the oracle's own wordings on generated catalogues, which are built for the purpose and deleted. All work is
single-threaded and timed in CPU seconds, so that other load does not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, write_figures
from envs.experts import play_expert
from envs.webshop import Catalogue, WebShopEnvironment
from envs.webshop.catalogue import build_catalogue
from envs.webshop.expert import search_wordings
from envs.webshop.generator import generate_rows
from envs.webshop.goals import TRAIN_START
from envs.webshop.pages import MAX_HITS

logger = logging.getLogger(__name__)

EPISODES = 1000
QUERIES = 500
STEPS, FIRST_MB, FURTHER_MB = 1000.0, 60.0, 10.0
"""What it is held to: steps a CPU second, resident memory of the first process, private memory of a further one."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder with the original's files; the generated catalogue without it"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 100_000, 500_000], help="products to search")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    WebShopEnvironment(arguments.data)  # built here if it is not there yet
    found: dict[str, Any] = {
        "play": {mode: run_apart(play, arguments.data, mode) for mode in ("text", "text_rich")},
        "further processes": further_processes(arguments.data),
        "search": {size: measure_size(size) for size in arguments.sizes},
    }
    logger.info("%s", json.dumps(found, indent=1))
    write_figures(arguments.out, "webshop", figures(found), measured=found)


def figures(found: dict[str, Any]) -> list[Figure]:
    """Those that WebShop is held to, and of searches."""
    text, rich = (found["play"][mode] for mode in ("text", "text_rich"))
    afresh, forked = (found["further processes"][way] for way in ("started afresh", "forked"))
    own, whole = (max(one["private MB of WebShop"] for one in afresh), max(one["private MB"] for one in forked))
    searches = [
        Figure(f"search of {size:,} products, {part}", row[f"{part} ms"], "ms")
        for size, row in found["search"].items()
        for part in ("p50", "p99")
    ]
    return [
        Figure("steps, text", text["steps per CPU second"], "a CPU second", at_least=STEPS),
        Figure("steps, text_rich", rich["steps per CPU second"], "a CPU second"),
        Figure("resident memory of the first process", text["resident MB"], "MB", at_most=FIRST_MB),
        Figure("WebShop's own memory in a further process", own, "MB", at_most=FURTHER_MB),
        Figure("all private memory of a forked process", whole, "MB", at_most=FURTHER_MB),
        *searches,
    ]


def play(data: Path | None, mode: str) -> dict[str, float]:
    """Steps a CPU second, and the memory of a process that has played."""
    baseline = memory()
    environment = WebShopEnvironment(data, observation_mode=mode)  # type: ignore[arg-type]
    count = environment.catalogue.goal_count("synthetic")
    tasks = [str(TRAIN_START + number % (count - TRAIN_START)) for number in range(EPISODES)]
    started = time.process_time()
    steps = sum(len(play_expert(environment, task, seed=number)) for number, task in enumerate(tasks))
    seconds = time.process_time() - started
    now = memory()
    return {
        "steps": steps,
        "steps per CPU second": round(steps / seconds),
        "resident MB": now["resident"],
        "private MB": now["private"],
        "private MB before opening": baseline["private"],
        "private MB of WebShop": round(now["private"] - baseline["private"], 1),
    }


def further_processes(data: Path | None) -> dict[str, Any]:
    """Two at a time, so that what they share is not counted as private."""
    open_here = WebShopEnvironment(data)
    play_expert(open_here, "0")
    return {"started afresh": run_together("spawn", data), "forked": run_together("fork", data)}


def run_together(method: str, data: Path | None) -> list[dict[str, float]]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.starmap(play, [(data, "text"), (data, "text")], chunksize=1)


def measure_size(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        built = run_apart(build, size, Path(folder))
        return built | run_apart(search, Path(folder))


def build(size: int, folder: Path) -> dict[str, float]:
    started = time.process_time()
    build_catalogue(generate_rows(size, seed=7), folder)
    seconds = time.process_time() - started
    files = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"build CPU s": round(seconds, 1), "build peak MB": round(peak), "files MB": round(files / 2**20)}


def search(folder: Path) -> dict[str, float]:
    """Uncached searches of one process, and what they add to its private memory."""
    before = memory()["written"]  # alone, its clean pages of the index would count as private
    catalogue = Catalogue(folder)
    generator = random.Random(0)
    queries = []
    for _ in range(QUERIES):
        goal = catalogue.goal("synthetic", generator.randrange(catalogue.goal_count("synthetic")))
        queries.append(generator.choice(search_wordings(goal)).lower())
    for query in queries[:20]:
        catalogue.index.search(query, MAX_HITS)
    seconds = []
    for query in queries:
        started = time.process_time()
        catalogue.index.search(query, MAX_HITS)
        seconds.append(time.process_time() - started)
    milliseconds = np.array(seconds) * 1000
    return {
        "p50 ms": round(float(np.percentile(milliseconds, 50)), 2),
        "p99 ms": round(float(np.percentile(milliseconds, 99)), 2),
        "queries/s": round(1000 / float(milliseconds.mean())),
        "written MB above the imports": round(memory()["written"] - before, 1),
    }


def memory() -> dict[str, float]:
    """Megabytes of this process: resident, private (unique set size), and written, the dirty part of the private."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    kilobytes = {name.rstrip(":"): int(amount) for name, amount, _ in lines}
    written = kilobytes["Private_Dirty"]
    amounts = {"resident": kilobytes["Rss"], "private": kilobytes["Private_Clean"] + written, "written": written}
    return {name: round(amount / 1024, 1) for name, amount in amounts.items()}


def run_apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a fresh process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


if __name__ == "__main__":
    main()
