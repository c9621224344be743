"""Exercises in exact copying: what stands in a text is found again by its name and said again, letter by letter.

Games and shops teach which thing to name next; these teach to name it rightly whatever it is called. Names are codes,
numbers, pairs of words and words that nobody has ever written, so that they can only be copied.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from envs.questions.generator import MAKERS, generate
from envs.questions.question import Question
from trajectories.chat import Message

Drill = list[Message]
CODE_LENGTHS = (4, 6, 8, 10, 10, 10)
"""Half of the codes are as long as a product's."""
SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
_NAMES = (
    "red blue green black white grey small large round long soft new old lamp desk chair shelf mug plate apple knife "
    "towel shirt shoe brush tea cream cover case bar box pen book watch cloth vase bowl pan kettle"
)
NAMES = _NAMES.split()
SEPARATORS = (" [SEP] ", ", ", "; ", "\n")
ASKED_QUESTIONS = frozenset(question.identity for split in generate().values() for _, _, question in split)


def draw_drill(rng: random.Random) -> Drill:
    """One exercise: a look-up, a list to repeat, or a question that is answered at random, for its form's sake."""
    kind: Callable[[random.Random], Drill] = rng.choices((look_up, repeat, question), (0.6, 0.25, 0.15))[0]
    return kind(rng)


def code(rng: random.Random, length: int | None = None) -> str:
    """A code as shops use them: `B` or `B0`, then letters and digits."""
    letters, start = string.ascii_uppercase + string.digits, rng.choice(("B", "B0"))
    return start + "".join(rng.choices(letters, k=(length or rng.choice(CODE_LENGTHS)) - len(start)))


def thing(rng: random.Random) -> str:
    """Something with a name: a code, a number, a numbered thing, a few words, or a word that does not exist."""
    kind = rng.randrange(5)
    if kind == 0:
        return code(rng)
    if kind == 1:
        return f"{rng.randint(1, 999)}.{rng.randint(0, 99):02d}" if rng.random() < 0.5 else str(rng.randint(1, 9999))
    if kind == 2:
        return f"{rng.choice(NAMES)} {rng.randint(1, 30)}"
    if kind == 3:
        return " ".join(rng.sample(NAMES, rng.randint(1, 3)))
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 4)))


def look_up(rng: random.Random) -> Drill:
    """A table of pairs; some turns name one half of a pair and ask for the other."""
    count = rng.randint(2, 12)
    kinds = rng.choice(((code, thing), (thing, code), (thing, thing)))
    pairs = [(kinds[0](rng), kinds[1](rng)) for _ in range(count)]
    inner, outer = rng.choice((" [SEP] ", ": ", " ")), rng.choice(SEPARATORS)
    table = outer.join(f"{left}{inner}{right}" for left, right in pairs)
    form = rng.choice(("click[{}]", "{}", "take {}", "go to {}", "search[{}]"))
    messages: Drill = []
    for left, right in rng.sample(pairs, min(count, rng.randint(1, 3))):
        asked, answer = (left, right) if rng.random() < 0.5 else (right, left)
        first = f"{table}{outer}" if not messages else ""
        messages.append({"role": "user", "content": f"{first}Find {asked}"})
        messages.append({"role": "assistant", "content": form.format(answer)})
    return messages


def repeat(rng: random.Random) -> Drill:
    """A list that is said again, whole."""
    listed = rng.choice(SEPARATORS).join(thing(rng) for _ in range(rng.randint(2, 8)))
    return [{"role": "user", "content": f"Say: {listed}"}, {"role": "assistant", "content": listed}]


def question(rng: random.Random) -> Drill:
    """A generated question that no panel asks, with an answer in form but drawn blindly."""
    asked: Question | None = None
    while asked is None or asked.identity in ASKED_QUESTIONS:
        asked = MAKERS[rng.choice(sorted(MAKERS))](rng)
    answer = rng.choice(asked.letters) if asked.choices else str(rng.randint(-50, 200))
    return [{"role": "user", "content": asked.prompt}, {"role": "assistant", "content": answer}]
