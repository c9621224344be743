"""What the `alfworld` wheel knows about homes: 120 rooms, what fits where, what can be heated, cooled, cleaned.

The wheel's tables are read from its files. Neither `alfworld` (which creates a folder on import) nor `textworld` (which
is compiled) is imported.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from trajectories.errors import UserError

LAMPS = ("DeskLamp", "FloorLamp")
KIND_BY_HUNDRED = {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}

# Receptacles of the official games that the wheel's layouts give no pose for, with how many a room has.
FIXTURES = {
    "GarbageCan": 1,
    "CoffeeMachine": 1,
    "Toaster": 1,
    "StoveBurner": 4,
    "HandTowelHolder": 1,
    "TowelHolder": 1,
    "ToiletPaperHanger": 1,
    "LaundryHamper": 1,
}
SHARE_OF_PLAIN_SURFACES = 0.15
"""Share of cabinets and drawers that official games treat as plain surfaces (15 % of 949 in 528 games)."""


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A fixed place for things: its id in ALFRED (`Cabinet|+00.68|+00.50|-02.20`) and where one stands to use it."""

    identifier: str
    kind: str
    location: str
    openable: bool

    @property
    def position(self) -> tuple[float, float, float]:
        x, y, z = self.identifier.split("|")[1:4]
        return float(x), float(y), float(z)


@dataclass(frozen=True, slots=True)
class Scene:
    """One room with all its receptacles and the kinds of objects that can occur in it."""

    number: int
    receptacles: tuple[Receptacle, ...]
    object_kinds: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Kitchen, LivingRoom, Bedroom or Bathroom."""
        return KIND_BY_HUNDRED[self.number // 100]


@dataclass(frozen=True, slots=True)
class GoalText:
    """The goal of one task type: PDDL (with the closing bracket of the problem) and sentences, both to be formatted."""

    pddl: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tables:
    """Everything that generation takes from the wheel.

    Attributes:
        containment: receptacle kind → object kinds that fit.
        affordances: "cleanable" | "heatable" | "coolable" | "sliceable" → object kinds.
        movable_receptacles: objects that can hold things themselves (mug, box, ...).
        room_kinds: task type → room kinds it is played in.
    """

    domain: str
    grammar: str
    scenes: Mapping[int, Scene]
    containment: Mapping[str, frozenset[str]]
    affordances: Mapping[str, frozenset[str]]
    movable_receptacles: frozenset[str]
    goals: Mapping[str, GoalText]
    room_kinds: Mapping[str, frozenset[str]]
    train_scenes: tuple[int, ...]
    heldout_scenes: tuple[int, ...]


@cache
def load_tables() -> Tables:
    """Read the tables. Raises UserError if the `alfworld` wheel is not installed."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("generating games needs the tables of the alfworld wheel: pip install --no-deps alfworld")
    wheel = Path(spec.submodule_search_locations[0])
    constants = _load_file(wheel / "gen" / "constants.py")
    goals = _load_file(wheel / "gen" / "goal_library.py").gdict
    containment = {
        kind: frozenset(objects)
        for kind, objects in constants.VAL_RECEPTACLE_OBJECTS.items()
        if kind not in constants.MOVABLE_RECEPTACLES_SET
    }
    openable = frozenset(constants.OPENABLE_CLASS_LIST)
    numbers = sorted(int(re.findall(r"\d+", file.name)[0]) for file in (wheel / "gen/layouts").glob("*-openable.json"))
    return Tables(
        domain=(wheel / "data" / "alfred.pddl").read_text(),
        grammar=(wheel / "data" / "alfred.twl2").read_text(),
        scenes={number: _read_scene(wheel / "gen" / "layouts", number, containment, openable) for number in numbers},
        containment=containment,
        affordances={name.lower(): frozenset(kinds) for name, kinds in constants.VAL_ACTION_OBJECTS.items()},
        movable_receptacles=frozenset(constants.MOVABLE_RECEPTACLES_SET),
        # The library writes "#" for "-" where the text has to survive str.format.
        goals={
            name: GoalText(goal["pddl"].replace("#", "-"), tuple(goal["templates"])) for name, goal in goals.items()
        },
        room_kinds={name: frozenset(kinds) for name, kinds in constants.GOALS_VALID.items()},
        train_scenes=tuple(constants.TRAIN_SCENE_NUMBERS),
        heldout_scenes=tuple(constants.TEST_SCENE_NUMBERS),
    )


def _load_file(path: Path) -> ModuleType:
    """Run one of the wheel's plain table files as a module of its own, without importing its package."""
    spec = importlib.util.spec_from_file_location(f"_alfworld_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UserError(f"the installed alfworld wheel has no {path.name}: pip install --no-deps 'alfworld>=0.4.2'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_scene(
    layouts: Path, number: int, containment: Mapping[str, frozenset[str]], openable: frozenset[str]
) -> Scene:
    poses = json.loads((layouts / f"FloorPlan{number}-openable.json").read_text())
    objects = tuple(sorted(json.loads((layouts / f"FloorPlan{number}-objects.json").read_text())))
    rng = random.Random(number)  # a room looks the same in every game
    receptacles = []
    for identifier, (x, z, rotation, horizon) in sorted(poses.items()):
        kind = _kind(identifier)
        if kind in containment and not _is_mislabelled(identifier):
            plain = kind in ("Cabinet", "Drawer") and rng.random() < SHARE_OF_PLAIN_SURFACES
            spot = _location(round(x * 4), round(z * 4), int(rotation // 90) % 4, int(horizon))
            receptacles.append(Receptacle(identifier, kind, spot, kind in openable and not plain))
    present = {receptacle.kind for receptacle in receptacles}
    for kind, count in FIXTURES.items():
        if kind in objects and kind not in present:
            receptacles += _fixtures(kind, count, receptacles, rng)
    return Scene(number, tuple(sorted(receptacles, key=lambda receptacle: receptacle.identifier)), objects)


def _fixtures(kind: str, count: int, others: list[Receptacle], rng: random.Random) -> list[Receptacle]:
    """Place `count` receptacles side by side somewhere in the room; neighbours are used from one spot, two by two."""
    xs, _, zs = zip(*(receptacle.position for receptacle in others), strict=True)
    x, z, height = rng.uniform(min(xs), max(xs)), rng.uniform(min(zs), max(zs)), rng.uniform(0.0, 1.2)
    grid_x, grid_z, rotation = round(x * 4), round(z * 4), rng.randrange(4)
    return [
        Receptacle(
            identifier=f"{kind}|{coordinate(x + 0.24 * index)}|{coordinate(height)}|{coordinate(z)}",
            kind=kind,
            location=_location(grid_x + index // 2, grid_z, rotation, 15),
            openable=False,
        )
        for index in range(count)
    ]


def coordinate(value: float) -> str:
    """A coordinate as ALFRED writes it: `+01.23`, `-00.40`, `00.00`."""
    return f"{value:+06.2f}" if round(value, 2) else "00.00"


def _kind(identifier: str) -> str:
    """`Cabinet|x|y|z` → Cabinet; `Sink|x|y|z|SinkBasin` → SinkBasin."""
    parts = identifier.split("|")
    return parts[4] if len(parts) == 5 else parts[0]


def _is_mislabelled(identifier: str) -> bool:
    """Some layouts call the basin of a bathtub a sink basin; the player would see `bathtubbasin` in its place."""
    return identifier.startswith("Bathtub|") and identifier.endswith("|SinkBasin")


def _location(x: int, z: int, rotation: int, horizon: int) -> str:
    """Where one stands, on ALFRED's quarter-metre grid."""
    return f"loc|{x}|{z}|{rotation}|{horizon}"
