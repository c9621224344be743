"""The expert that can be imitated: it looks for things, from what the game has told it and nothing else.

`Explorer` reads observations only. It knows no game state and no list of admissible actions, and each of its choices
follows from the transcript by a simple rule, so that a small language model can learn to play like it:

1. Search: go to the next receptacle that was not looked into yet, in the order in which the room lists them: first all
   open surfaces, then fridge, microwave and safe, then cabinets and drawers (open what is closed). Places that hold one
   special thing only are skipped.
2. Take the object as soon as it is seen, or go back to where it was seen.
3. Clean, heat or cool it at the first sink basin, microwave or fridge listed.
4. Carry it to the first target receptacle listed (open it if it is closed) and move it there, or use the lamp.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from envs.base import Observation
from trajectories.errors import UserError

SEARCHED_LATER = {"fridge": 1, "microwave": 1, "safe": 1, "cabinet": 2, "drawer": 2}
"""Receptacle kinds that are usually closed: the few of their kind after all open surfaces, the many last. Of five such
orders this one needs the fewest turns on the official train games."""

SPECIAL_PLACES = {
    "coffeemachine": {"mug"},
    "stoveburner": {"kettle", "pan", "pot"},
    "toaster": set(),
    "tvstand": {"tissuebox"},
    "handtowelholder": {"handtowel"},
    "towelholder": {"towel"},
    "toiletpaperhanger": {"toiletpaper", "toiletpaperroll"},
    "laundryhamper": {"cloth"},
}
"""Receptacle kind → the only object kinds that ALFRED's generator places there (`gen/constants.py` of the alfworld
package). Scenes come with more of their own, so a place that is skipped may hold the object after all."""

NOTHING_HAPPENS = "Nothing happens."
APPLIANCE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
TREATMENT = {"clean": "clean", "hot": "heat", "cool": "cool"}

_TASK = re.compile(r"Your task is to: (.+?)\.\s*$")
_THING = re.compile(r"\ban? (\w+ \d+)")
_VISIT = re.compile(r"(go to|open|examine) (.+)")
_HANDLE = re.compile(r"(take|move|clean|heat|cool) (.+) (?:from|to|with) (.+)")
_SENTENCES = (
    re.compile(r"(?P<verb>clean|heat|cool) some (?P<object>\w+) and put it in (?P<target>\w+)"),
    re.compile(r"put a (?P<quality>clean|hot|cool) (?P<object>\w+) in (?P<target>\w+)"),
    re.compile(r"(?:find|put) (?P<two>two) (?P<object>\w+) (?:and put them )?in (?P<target>\w+)"),
    re.compile(r"put (?:a|some) (?P<object>\w+) (?:in|on) (?P<target>\w+)"),
    re.compile(r"(?:look at|examine the) (?P<object>\w+) (?:under|with) the (?P<lamp>\w+)"),
)


@dataclass(frozen=True, slots=True)
class Task:
    """The task sentence, understood. `treatment` is clean, heat, cool or empty; `lamp` and `target` may be empty."""

    object_kind: str
    target_kind: str = ""
    treatment: str = ""
    lamp_kind: str = ""
    count: int = 1


def read_task(text: str) -> Task:
    """Understand the templated task sentence at the end of the first observation.

    Raises:
        ValueError: the sentence is none of ALFWorld's templates (human annotations are not understood).
    """
    sentence = _TASK.search(text)
    for pattern in _SENTENCES:
        match = sentence and pattern.fullmatch(sentence.group(1))
        if match:
            parts = match.groupdict()
            return Task(
                object_kind=parts["object"],
                target_kind=parts.get("target") or "",
                treatment=parts.get("verb") or TREATMENT.get(parts.get("quality") or "", ""),
                lamp_kind=parts.get("lamp") or "",
                count=2 if parts.get("two") else 1,
            )
    raise ValueError(f"no task sentence that the explorer understands in {text[-120:]!r}")


@dataclass
class Knowledge:
    """What the transcript has told so far."""

    receptacles: tuple[str, ...]
    place: str = ""
    holding: str = ""
    treated: bool = False
    contents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)

    def first(self, kind: str) -> str:
        """The first receptacle of a kind in the room's list. Raises ValueError if there is none."""
        for name in self.receptacles:
            if _kind(name) == kind:
                return name
        raise ValueError(f"the task needs a {kind}, and the room lists none: {', '.join(self.receptacles)}")

    def where(self, kind: str) -> list[tuple[str, str]]:
        """(object, receptacle) of all objects of a kind that were seen, in the order of the room's list."""
        return [
            (thing, place)
            for place in self.receptacles
            for thing in self.contents.get(place, ())
            if _kind(thing) == kind
        ]


class Explorer:
    """The expert for one episode at a time: `reset` with the first observation, then `act` on each new one.

    Args:
        seed: seed of the wandering.
        wander: chance that a searching move goes to a random receptacle not looked into, instead of the next in order.
            0 gives the demonstrations to imitate; more gives varied play that still gets there.
    """

    def __init__(self, seed: int = 0, wander: float = 0.0) -> None:
        self._rng = random.Random(seed)
        self._wander = wander

    def reset(self, observation: Observation) -> None:
        """Read the room and the task.

        Raises:
            ValueError: the task sentence is not understood.
            UserError: the game is older than the words that the explorer knows.
        """
        text = observation.text
        self._task = read_task(text)
        self._known = Knowledge(tuple(_THING.findall(text.split("you see", 1)[-1].split("Your task", 1)[0])))
        if not self._known.receptacles:
            raise UserError(
                "the explorer cannot play this game, which lists no receptacle as `a desk 1`: it may be older than "
                "ALFWorld 0.4: run `concerto data alfworld` for today's games"
            )
        self._command = ""

    def act(self, observation: Observation) -> str:
        """The next command. The first call takes the same observation as `reset`."""
        if self._command:
            self._learn(self._command, observation.text)
        self._command = self._deliver() if self._known.holding else self._find(self._task.object_kind)
        return self._command

    def _learn(self, command: str, text: str) -> None:
        """Take in what the last command led to."""
        known = self._known
        verb, thing, place = _parse(command)
        happened = text != NOTHING_HAPPENS
        if verb == "go to":
            # Nothing happens if one stands there already: receptacles can share a spot.
            known.place = place
        if verb in ("go to", "open", "examine") and happened:
            self._look_into(place, text)
        elif verb == "take":
            known.contents[place] = tuple(name for name in known.contents.get(place, ()) if name != thing)
            if happened:
                known.holding, known.treated = thing, False
        elif verb == "move" and happened:
            known.holding = ""
            known.delivered.add(thing)
        elif verb in APPLIANCE and happened:
            known.treated = True

    def _look_into(self, place: str, text: str) -> None:
        if text.endswith(f"The {place} is closed."):
            self._known.closed.add(place)
        elif "you see" in text:
            self._known.closed.discard(place)
            self._known.contents[place] = tuple(_THING.findall(text.split("you see", 1)[1]))

    def _find(self, kind: str) -> str:
        """Take an object of the kind where one was seen, else search."""
        target = self._known.first(self._task.target_kind) if self._task.count == 2 else ""
        for thing, place in self._known.where(kind):
            if place != target and thing not in self._known.delivered:
                return f"take {thing} from {place}" if self._known.place == place else f"go to {place}"
        return self._search(kind)

    def _deliver(self) -> str:
        """Bring the object in hand to where the task wants it, treated as it wants it."""
        known, task = self._known, self._task
        if task.treatment and not known.treated:
            appliance = known.first(APPLIANCE[task.treatment])
            if known.place != appliance:
                return f"go to {appliance}"
            return f"{task.treatment} {known.holding} with {appliance}"
        if task.lamp_kind:
            lamps = known.where(task.lamp_kind)
            if not lamps:
                return self._search(task.lamp_kind)
            lamp, place = lamps[0]
            return f"use {lamp}" if known.place == place else f"go to {place}"
        target = known.first(task.target_kind)
        if known.place != target:
            return f"go to {target}"
        return self._look_here() or f"move {known.holding} to {target}"

    def _look_here(self) -> str:
        """The command that shows what is in the receptacle one stands at; empty if that is known."""
        place = self._known.place
        if not place or place in self._known.contents:
            return ""
        return f"open {place}" if place in self._known.closed else f"examine {place}"

    def _search(self, kind: str) -> str:
        """Look into the next receptacle; when all were seen, start over."""
        look = self._look_here()
        if look:
            return look
        known = self._known
        places = [name for name in known.receptacles if kind in SPECIAL_PLACES.get(_kind(name), {kind})]
        unseen = [name for name in places if name not in known.contents]
        if not unseen:
            known.contents.clear()
            unseen = places
        if self._rng.random() < self._wander:
            return f"go to {self._rng.choice(unseen)}"
        return f"go to {min(unseen, key=lambda name: SEARCHED_LATER.get(_kind(name), 0))}"


def _kind(name: str) -> str:
    """`cabinet 3` → cabinet."""
    return name.split(" ", 1)[0]


def _parse(command: str) -> tuple[str, str, str]:
    """A command of the explorer → (verb, object or empty, receptacle or empty)."""
    visit = _VISIT.fullmatch(command)
    if visit:
        return visit[1], "", visit[2]
    handle = _HANDLE.fullmatch(command)
    return (handle[1], handle[2], handle[3]) if handle else ("use", "", "")
