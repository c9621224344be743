"""What docs/security.md says of the source: nothing is unpickled from a file, and nothing of a setting is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PACKAGES = ("actors", "cluster", "envs", "experience", "learners", "router", "trajectories")
SOURCES = [path for package in PACKAGES for path in sorted((REPO / package).rglob("*.py"))]
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def calls(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Every call, as `torch.load`, with the `name=value` of its arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {f"{one.arg}={ast.unparse(one.value)}" for one in node.keywords}


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"imports {name}" for name in names if name.partition(".")[0] in PICKLES)
    for name, arguments in calls(tree):
        if name == "torch.load" and "weights_only=True" not in arguments:
            yield "torch.load without weights_only"
        if name.endswith("np.load") and "allow_pickle=True" in arguments:
            yield "np.load of pickles"
        if "shell=True" in arguments or name in ("os.system", "eval", "exec"):
            yield f"{name} runs a text"
        if "trust_remote_code=True" in arguments:
            yield f"{name} runs a model's own code"
        if name in ("yaml.unsafe_load", "yaml.full_load"):
            yield f"{name} makes objects"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_nothing_is_unpickled_and_no_text_is_run(path: Path) -> None:
    assert not list(faults(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "torch.load(file)",
        "np.load(file, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "yaml.unsafe_load(text)",
    ],
)
def test_each_of_these_would_be_found(line: str) -> None:
    assert list(faults(ast.parse(line)))
