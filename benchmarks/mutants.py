"""Would the tests notice a small mistake? Makes mutants of the pure packages and counts those that a test kills.

    python -m benchmarks.mutants [--sample 16] [--seed 0] [--minutes 30] [AREA ...]        # or make mutate

A mutant is one small change of a module: a comparison or a sign flipped, a number moved by one, `and` for `or`, the
last argument of a call left out. Each area gets a seeded sample, and each mutant is put before the tests nearest to its
module: those named after it, else all of its area. All this happens in a copy of the tree that is thrown away, in forks
of one warm process. A survivor is a gap in the tests, or a change that makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  # loaded here, so that no fork has to
import transformers  # noqa: F401

AREAS = {
    "router": (["router"], ["tests/router"]),
    "objectives": (["learners/objectives"], ["tests/learners/objectives"]),
    "rewards": (
        [f"learners/rewards/{name}.py" for name in ("maths", "scalarisers")],
        [f"tests/learners/rewards/test_{name}.py" for name in ("maths", "scalarisers")],
    ),
    "loop": (["cluster/loop"], ["tests/cluster/loop"]),
    "webshop": (
        [f"envs/webshop/{name}.py" for name in ("environment", "goals", "pages", "prices", "reward")],
        [f"tests/envs/webshop/test_webshop_{name}.py" for name in ("reward", "goals", "environment")],
    ),
    "alfworld": (
        ["envs/alfworld/native"],
        [f"tests/envs/alfworld/test_native_{name}.py" for name in ("engine", "texts", "planner")],
    ),
}
"""Modules and tests of each area; a folder stands for all that it holds."""
FLIPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.USub: ast.UAdd,
}  # fmt: skip


def is_behaviour(node: object) -> bool:
    """Neither words for the user nor a check of ourselves."""
    if isinstance(node, ast.keyword):
        return node.arg != "strict"
    return isinstance(node, ast.AST) and not isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr)


def reached(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it that run: no annotations, decorators or messages."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if is_behaviour(child):
                    yield from reached(child)


def changes(tree: ast.AST) -> Iterator[tuple[Any, str, object]]:
    """Each node that can be mutated, and which of its fields becomes what."""
    for node in reached(tree):
        match node:
            case ast.Compare(ops=[op]) if type(op) in FLIPPED:
                yield node, "ops", [FLIPPED[type(op)]()]
            case ast.BinOp() | ast.BoolOp() | ast.UnaryOp() | ast.AugAssign() if type(node.op) in FLIPPED:
                yield node, "op", FLIPPED[type(node.op)]()
            case ast.UnaryOp(op=ast.Not()):
                yield node, "operand", ast.UnaryOp(ast.Not(), node.operand)
            case ast.Constant(value=bool() | int() | float() as value):
                yield node, "value", not value if isinstance(value, bool) else value + 1
            case ast.Call(keywords=[*_, last]) if is_behaviour(last):
                yield node, "keywords", node.keywords[:-1]
            case ast.Call(args=[_, *_]):
                yield node, "args", node.args[:-1]


def passes(copy: Path, tests: tuple[str, ...], seed: int, limit_s: float) -> bool:
    """Whether the tests pass in the copy of the tree, in a fork of this process."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(copy)
        sys.path[:] = [str(copy), *(entry for entry in sys.path if "site-packages" in entry or "python3" in entry)]
        sys.dont_write_bytecode = True
        os.environ["PYTHONPATH"] = str(copy)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        plain = ["-x", "-q", "-m", "not real", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
        os._exit(int(pytest.main([*plain, *tests])))
    deadline = time.monotonic() + limit_s
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    return ended[1] == 0


def files(paths: list[str], pattern: str) -> list[Path]:
    """What these files and folders come to."""
    return [file for path in map(Path, paths) for file in (sorted(path.glob(pattern)) if path.is_dir() else [path])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", default=list(AREAS), help=", ".join(AREAS))
    parser.add_argument("--sample", type=int, default=16, help="mutants of each area")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0, help="after that no further mutant is tried")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="concerto-mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(".", copy, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"))

        @cache
        def seconds(tests: tuple[str, ...]) -> float:
            """That the tests take as the tree is."""
            started = time.monotonic()
            assert passes(copy, tests, options.seed, 600), f"{tests} fail without any mutant: mend them first"
            return time.monotonic() - started

        for area in options.areas:
            modules, tests = (
                files(paths, pattern) for paths, pattern in zip(AREAS[area], ("*.py", "test_*.py"), strict=True)
            )
            sites = [(path, at) for path in modules for at, _ in enumerate(changes(ast.parse(path.read_text())))]
            killed = tried = 0
            for path, at in random.Random(f"{options.seed}/{area}").sample(sites, min(options.sample, len(sites))):
                if time.monotonic() > end:
                    break
                nearest = tuple(str(test) for test in tests if test.stem.endswith(path.stem)) or tuple(map(str, tests))
                limit_s = 10 + 5 * seconds(nearest)
                tree = ast.parse(path.read_text())
                node, field, value = list(changes(tree))[at]
                before = ast.unparse(node)
                setattr(node, field, value)
                (copy / path).write_text(ast.unparse(tree))
                survived = passes(copy, nearest, options.seed, limit_s)
                shutil.copyfile(path, copy / path)
                tried, killed = tried + 1, killed + (not survived)
                if survived:
                    print(f"survived  {path}:{node.lineno}  {before[:80]}  ->  {ast.unparse(node)[:80]}", flush=True)
            print(f"{area}: {killed} of {tried} killed, {len(sites)} possible", flush=True)


if __name__ == "__main__":
    main()
