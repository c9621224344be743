"""Would the tests notice a small mistake? Makes mutants of the pure packages and counts those that a test kills.

    python -m benchmarks.mutants [--sample 16] [--seed 0] [--minutes 30] [AREA ...]        # or make mutate

One small change is a mutant: a comparison or sign flipped, a number moved by one, `and` for `or`, an argument left out.
Each area gets a seeded sample, each mutant the tests named after its module, else all of its area, in a copy of the
tree and a fork of one warm process. A survivor is a gap in the tests, or a change that makes no difference.
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
from pathlib import Path

import pytest
import torch  # noqa: F401  # loaded here, so that no fork has to

AREAS = {
    "router": ("router/", "tests/router/"),
    "objectives": ("learners/objectives/", "tests/learners/objectives/"),
    "rewards": ("learners/rewards/maths scalarisers", "tests/learners/rewards/maths scalarisers"),
    "loop": ("cluster/loop/", "tests/cluster/loop/"),
    "webshop": ("envs/webshop/environment goals pages prices reward", "tests/envs/webshop/*environment *goals *reward"),
    "alfworld": ("envs/alfworld/native/", "tests/envs/alfworld/native_engine native_texts native_planner"),
}
"""Modules and tests of each area: a folder, and the names in it where not all are meant."""
LIMIT_S = 120.0
"""A mutant whose tests take longer hangs, which is noticed too."""
FLIPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.USub: ast.UAdd,
}  # fmt: skip


def files(where: str, form: str) -> list[Path]:
    folder, names = where.rsplit("/", 1)
    return [file for name in names.split() or ["*"] for file in sorted(Path(folder).glob(form.format(name)))]


def reached(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it that is behaviour: no annotation, no words for the user, no check of ourselves."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            words = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr) or getattr(child, "arg", "") == "strict"
            if isinstance(child, ast.AST) and not words and name not in ("annotation", "returns", "decorator_list"):
                yield from reached(child)


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, object]]:
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
            case ast.Call(keywords=[*_, last]) if last.arg != "strict":
                yield node, "keywords", node.keywords[:-1]
            case ast.Call(args=[_, *_]):
                yield node, "args", node.args[:-1]


def passes(copy: str, tests: list[str], seed: int) -> bool:
    """Whether the tests pass in the copy of the tree, in a fork of this process, all within `LIMIT_S`."""
    if (child := os.fork()) == 0:
        os.chdir(copy)
        sys.path[:] = [copy, *(entry for entry in sys.path if "site-packages" in entry or "python3" in entry)]
        sys.dont_write_bytecode = True
        os.environ["PYTHONPATH"] = copy
        os.dup2(os.dup2(os.open(os.devnull, os.O_WRONLY), 1), 2)
        plain = ["-x", "-q", "-m", "not real", "-p", "no:cacheprovider", f"--hypothesis-seed={seed}"]
        os._exit(int(pytest.main([*plain, *tests])))
    end = time.monotonic() + LIMIT_S
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return ended[1] == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", default=list(AREAS), help=", ".join(AREAS))
    for name, default in (("sample", 16), ("seed", 0), ("minutes", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    end, sound = time.monotonic() + 60 * options.minutes, []
    with tempfile.TemporaryDirectory(prefix="concerto-mutants-") as copy:
        shutil.copytree(".", copy, ignore=shutil.ignore_patterns(".*", "runs", "__pycache__"), dirs_exist_ok=True)
        for area in options.areas:
            modules, tests = files(AREAS[area][0], "{}.py"), files(AREAS[area][1], "test_{}.py")
            sites = [(path, at) for path in modules for at, _ in enumerate(changes(ast.parse(path.read_text())))]
            killed = tried = 0
            for path, at in random.Random(f"{options.seed}/{area}").sample(sites, min(options.sample, len(sites))):
                if time.monotonic() > end:
                    break
                nearest = [str(test) for test in tests if test.stem.endswith(path.stem)] or list(map(str, tests))
                if nearest not in sound:
                    assert passes(copy, nearest, options.seed), f"without any mutant these fail: {nearest}"
                    sound.append(nearest)
                node, field, value = list(changes(tree := ast.parse(path.read_text())))[at]
                before, _ = ast.unparse(node)[:80], setattr(node, field, value)
                Path(copy, path).write_text(ast.unparse(tree))
                survived = passes(copy, nearest, options.seed)
                shutil.copyfile(path, Path(copy, path))
                tried, killed = tried + 1, killed + (not survived)
                if survived:
                    print(f"survived  {path}:{node.lineno}  {before}  ->  {ast.unparse(node)[:80]}", flush=True)
            print(f"{area}: {killed} of {tried} killed, {len(sites)} possible", flush=True)


if __name__ == "__main__":
    main()
