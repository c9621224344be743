"""Whether a build of a package has all that our source uses of it, as far as its sources tell."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.api.signatures import Signature, accepts, misfit, signatures_of
from benchmarks.api.sources import Answer, Definition, Sources, Unseen
from benchmarks.api.uses import Use

OK, NAMED, UNSEEN, MISSING = "ok", "named", "unseen", "missing"
"""What becomes of a use: it fits; its name is there, but sources do not tell its signature; sources do not tell; it is
not there, or not like that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a use.

    Attributes:
        state: one of the four above.
        note: why, where it does not fit.
    """

    use: Use
    state: str
    note: str = ""

    @property
    def told(self) -> str:
        """What was asked, with the keywords of a call."""
        use = self.use
        if use.what != "call" or not isinstance(use.node, ast.Call):
            return use.target if use.what in ("import", "name") else f"{use.what} {use.target}"
        names = [keyword.arg or "**" for keyword in use.node.keywords]
        return f"{use.target}({', '.join(['_'] * len(use.node.args) + names)})"


class Checker:
    """Compares uses with a build.

    Args:
        build: what is checked.
        installed: another build, in which our code is known to run: of it is only asked which methods an override
            overrides there, and which names its sources do not tell either.
    """

    def __init__(self, build: Sources, installed: Sources | None = None) -> None:
        self._build = build
        self._installed = installed

    def check(self, uses: Iterable[Use]) -> list[Finding]:
        """A finding for each use, in order; an override of ours that is no override in either build has none."""
        return [finding for use in uses if (finding := self._one(use)) is not None]

    def _one(self, use: Use) -> Finding | None:
        if use.what in ("variable", "metric"):
            root = self._build.root / "vllm"
            metric = use.what == "metric"
            there = f"vllm:{use.target}" in _words(root / "v1" / "metrics") if metric else use.target in _words(root)
            return Finding(use, OK if there else MISSING, "" if there else "no such word in the build")
        found = self._build.find(use.target, use.instance)
        if use.what == "override":
            return self._override(use, found)
        if use.what == "conflict":
            clash = isinstance(found, Definition)
            return Finding(use, MISSING if clash else OK, "the build has this name itself" if clash else "")
        if found is None and self._installed and self._installed.find(use.target, use.instance) is None:
            return Finding(use, UNSEEN, "nor do the sources of the installed build tell of it")
        if found is None:
            return Finding(use, MISSING, "no such name")
        if isinstance(found, Unseen):
            return Finding(use, UNSEEN)
        return self._call(use, found) if isinstance(use.node, ast.Call) else Finding(use, OK)

    def _call(self, use: Use, found: Definition) -> Finding:
        assert isinstance(use.node, ast.Call)
        signatures = signatures_of(self._build, found)
        if not signatures:
            return Finding(use, NAMED)
        notes = [misfit(signature, use.node) or self._wrong_word(signature, use.node) for signature in signatures]
        if "" not in notes:
            return Finding(use, MISSING, notes[0])
        keywords = {keyword.arg for keyword in use.node.keywords if keyword.arg}
        fitting = [signature for signature, note in zip(signatures, notes, strict=True) if not note]
        through = not any(keywords <= signature.names for signature in fitting)
        return Finding(use, NAMED if through else OK, "by **" if through else "")

    def _wrong_word(self, signature: Signature, call: ast.Call) -> str:
        """A word that stands in our source and is none that the parameter takes."""
        for keyword in call.keywords:
            spec = signature.annotations.get(keyword.arg or "")
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if spec and isinstance(value, str) and accepts(self._build, *spec, value) is False:
                return f"{keyword.arg} takes no {value!r}"
        return ""

    def _override(self, use: Use, found: Answer) -> Finding | None:
        assert isinstance(use.node, ast.FunctionDef | ast.AsyncFunctionDef)
        if not isinstance(found, Definition):
            there = self._installed.find(use.target, use.instance) if self._installed else None
            lost = isinstance(there, Definition)
            return Finding(use, MISSING, "overrides nothing here, but does in the installed build") if lost else None
        ours = signatures_of(self._build, Definition("", (use.node,), member=True, instance=True))
        theirs = signatures_of(self._build, found)
        for own, base in zip(ours, theirs[:1], strict=False):
            if (lost := sorted(base.names - own.names)) and not own.more_names:
                return Finding(use, MISSING, f"the build calls it with {', '.join(lost)}")
            more = sorted(own.required - base.names - set(base.positional))
            if more and not base.more_places:
                return Finding(use, MISSING, f"the build does not pass {', '.join(more)}")
        return Finding(use, OK)


@cache
def _words(folder: Path) -> frozenset[str]:
    """Every word in quotes in a package's files that is a variable of the environment or the name of a metric."""
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "VLLM_" in text or "vllm:" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return frozenset(found)
