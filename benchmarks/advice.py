"""Memories for the question what advice in prompts does on ALFWorld: the right type's, a wrong type's, and a mixture.

    python -m benchmarks.advice memories runs/advice         # right/, wrong/, shuffled/, planted/
    concerto train --set experience.enabled=true --set experience.memory=runs/advice/right \
        --set experience.read_only=true --out runs/told
    concerto eval --model runs/told/model --panel alfworld/generated/heldout --samples 2 \
        --set experience.enabled=true --set experience.memory=runs/advice/wrong --out wrong.json
    python -m benchmarks.advice table right.json wrong.json shuffled.json

Each type has a procedure of three steps and one suggestion. `wrong` gives every type those of the next one, `shuffled`
deals all steps and suggestions out by lot; `planted` has the right ones and one suggestion that leads astray.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.reporting.evaluation import read_evaluations
from cluster.reporting.paired import paired_without_experience
from experience.advice import type_of
from experience.memory import Memory
from experience.records import Experience, Item
from experience.sentence_embedder import MINILM, SentenceEmbedder

ADVICE = {
    "pick_and_place_simple": (
        ("Search one place after the other for the object.", "Take the object.", "Go to the goal and move it there."),
        "The object is often on an open place, which needs no opening.",
    ),
    "look_at_obj_in_light": (
        ("Search for the object and take it.", "Go to the desk lamp.", "Use the desk lamp with the object in hand."),
        "The object stays in hand: it need not be put down.",
    ),
    "pick_clean_then_place_in_recep": (
        ("Take the object.", "Go to the sink basin and clean it there.", "Go to the goal and move it there."),
        "Clean it before it is put down.",
    ),
    "pick_heat_then_place_in_recep": (
        ("Take the object.", "Go to the microwave and heat it there.", "Go to the goal and move it there."),
        "The microwave need not be opened to heat.",
    ),
    "pick_cool_then_place_in_recep": (
        ("Take the object.", "Go to the fridge and cool it there.", "Go to the goal and move it there."),
        "The fridge need not be opened to cool.",
    ),
    "pick_two_obj_and_place": (
        ("Take the first object and move it to the goal.", "Search for the second one.", "Move it to the goal too."),
        "Only one object can be carried at a time.",
    ),
}
"""Procedure and suggestion of each type of task."""
ASTRAY = "Look around again before each step."
"""What costs turns and finds nothing."""

Told = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
"""Procedure and suggestions of each type of task."""


def right() -> Told:
    return {kind: (steps, (suggestion,)) for kind, (steps, suggestion) in ADVICE.items()}


def wrong() -> Told:
    kinds = list(ADVICE)
    following = dict(zip(kinds, kinds[1:] + kinds[:1], strict=True))
    return {kind: right()[following[kind]] for kind in kinds}


def shuffled(seed: int = 0) -> Told:
    steps = [step for known, _ in ADVICE.values() for step in known]
    suggestions = [suggestion for _, suggestion in ADVICE.values()]
    draw = random.Random(seed)
    draw.shuffle(steps)
    draw.shuffle(suggestions)
    return {kind: (tuple(steps[3 * at : 3 * at + 3]), (suggestions[at],)) for at, kind in enumerate(ADVICE)}


def planted() -> Told:
    return {kind: (steps, (*suggestions, ASTRAY)) for kind, (steps, suggestions) in right().items()}


def write(path: Path, told: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], embedder: SentenceEmbedder) -> None:
    """A memory of what each type is told."""
    memory = Memory.open(str(path), embedder)
    for kind, (steps, suggestions) in told.items():
        known = type_of("alfworld", f"train/{kind}-x/trial")
        items = [tuple(Item.of(known.id, text) for text in texts) for texts in (suggestions, steps)]
        memory.write(replace(known, experience=Experience(*items)))


def print_table(files: Sequence[Path]) -> None:
    """Success with advice and without, and the paired difference, of each evaluation."""
    told = {file.stem: read_evaluations(file) for file in files}
    for name, (evaluation,) in told.items():
        for way, found in evaluation.outcomes.items():
            print(f"{name}: {way} {found.success} of {found.success.episodes}")
    for pair in paired_without_experience(told):
        print(f"{pair.weights} against {pair.against}: sampled {pair.sampled}, greedy {pair.greedy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("memories").add_argument("out", type=Path)
    commands.add_parser("table").add_argument("evaluations", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "memories":
        embedder = SentenceEmbedder.load(MINILM)
        for told in (right, wrong, shuffled, planted):
            write(options.out / told.__name__, told(), embedder)
        return
    print_table(options.evaluations)


if __name__ == "__main__":
    main()
