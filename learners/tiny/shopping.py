"""Shop sessions for the embedded model, with product codes that are new in each: they can be copied, never known."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from envs import load_panel
from envs.webshop.environment import WebShopEnvironment
from learners.tiny.drills import code
from learners.tiny.play import Transcript, play
from learners.tiny.players import Browser

SHARES = {"browser": 0.4, "misled oracle": 0.2, "oracle": 0.4}
"""Who shops: somebody without aim, the oracle under another goal's instruction, the oracle."""
CODE = re.compile(r"\bB[0-9A-Z]{9}\b")
TYPED_CODE = re.compile(r"\b[Bb][0-9A-Za-z]{9}\b")
"""As players write it: the shop's list of what can be clicked is in lower case."""
INSTRUCTION = re.compile(r"(?<=Instruction: \[SEP\] ).*?(?= \[SEP\])")


def go_shopping(sessions: int, seed: int) -> Iterator[Transcript]:
    """Sessions on training goals of the generated catalogue."""
    rng = random.Random(f"shopping {seed}")
    environment = WebShopEnvironment("generated")
    goals = load_panel("webshop/train", data="generated").task_ids
    other = environment.reset(goals[0]).text
    for _ in range(sessions):
        task_id = rng.choice(goals)
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        player = Browser(rng) if kind == "browser" else environment.expert(rng.randrange(2**31))
        turns = rng.randint(3, 8) if kind == "browser" else 15
        transcript = play(environment, task_id, player, turns, rng)
        own = transcript.messages[0]["content"]
        if kind == "misled oracle":
            transcript = transcript.rewritten(lambda text, told=own, lie=other: _mislead(text, told, lie))
        yield redraw_codes(transcript, rng)
        other = own


def redraw_codes(transcript: Transcript, rng: random.Random) -> Transcript:
    """The session with every product code replaced by a new one, the same throughout and in the pages' case.

    Whatever looks like a code and is none of the catalogue's (a misread one) gets a code of its own.
    """
    shown = {found for message in transcript.messages for found in CODE.findall(message["content"])}
    new: dict[str, str] = {}

    def replaced(found: re.Match[str]) -> str:
        name = found[0].upper()
        is_code = name in shown or any(character.isdigit() for character in name)
        return new.setdefault(name, code(rng, 10)) if is_code else found[0]

    return transcript.rewritten(lambda text: TYPED_CODE.sub(replaced, text))


def _mislead(text: str, told: str, lie: str) -> str:
    """The text with the instruction of the page `told` replaced by that of the page `lie`."""
    instruction, other = INSTRUCTION.search(told), INSTRUCTION.search(lie)
    return text.replace(instruction[0], other[0]) if instruction and other else text
