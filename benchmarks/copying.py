"""How well does a model copy? The share of its next actions that name only what is there, by kind and by position.

    python -m benchmarks.copying [--model DIR] [--model DIR2 ...] [--positions 60] [--samples 4] [--seed 0] [--out FILE]

A position is a recorded transcript up to a turn of the player: fresh games and shop sessions with new product codes,
early, late, and directly after slips that were inserted there. Every model gets the same positions, a function of the
seed, and says one greedy action and some sampled at temperature 1 at each. Nothing is played on from what a model says,
so that positions do not drift with its mistakes. Players and kinds of games are those of the base model's corpus, games
and codes are not; panels never enter. Intervals are Wilson's at 95 %, with positions as clusters where several actions
or several names count (`cluster.reporting.estimators.clustered_rate`).

    accepted   of all actions: the environment would have accepted it (any search is)
    present    of the actions that name something: they name only things the player was told of
    name       of the things named: the word is one of those told (`mug`)
    number     of the things named by such a word: the number is one of that word's (`mug 2`)
    code       of the codes clicked on result pages: it stands on the page, letter by letter and in its case
    option     of the options clicked on product pages: it stands on the page
    word       of the words searched for: it stands in the instruction
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.models import machine, write_results
from benchmarks.naming import MEASURES
from benchmarks.positions import GAME_PLACES, SHOP_PLACES, Position, record
from cluster.inputs.models import TINY, load_tokenizer, resolve_model
from cluster.reporting.estimators import Rate, clustered_rate
from trajectories.chat import ChatTokenizer
from trajectories.errors import UserError

LONGEST_ACTION = 40
"""Tokens; a search of seven long words has thirty."""


def next_actions(
    model: PreTrainedModel, chat: ChatTokenizer, prompts: list[list[int]], samples: int
) -> list[list[str]]:
    """For every prompt the greedy next action, then `samples` drawn at temperature 1; the same in every call.

    Raises:
        UserError: a prompt and an action do not fit the model's context.
    """
    context, needed = model.config.max_position_embeddings, max(map(len, prompts)) + LONGEST_ACTION
    if needed > context:
        raise UserError(
            f"the positions take up to {needed} tokens, but the context of {model.name_or_path} is {context}: give a "
            "model with a longer one"
        )
    generator = torch.Generator(model.device).manual_seed(0)
    said = (generate(model, prompt, 1 + samples, chat.turn_end_id, generator) for prompt in prompts)
    return [[chat.action(tokens) for tokens in continuations] for continuations in said]


@torch.inference_mode()
def generate(
    model: PreTrainedModel, prompt: list[int], copies: int, stop: int, generator: torch.Generator
) -> list[list[int]]:
    """`copies` continuations up to `stop`, the first one greedy.

    The prompt is read once; its keys and values are repeated for its continuations. One prompt at a time needs no
    padding, and on a CPU stays in its caches.
    """
    out = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=True, logits_to_keep=1)
    past = out.past_key_values
    past.batch_repeat_interleave(copies)
    logits = out.logits[:, -1].repeat(copies, 1)
    said: list[Tensor] = []
    while True:
        drawn = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
        drawn[0] = logits[0].argmax()
        said.append(drawn)
        if len(said) == LONGEST_ACTION or bool((torch.stack(said) == stop).any(0).all()):
            break
        logits = model(input_ids=drawn[:, None], past_key_values=past, use_cache=True).logits[:, -1]
    rows = torch.stack(said, 1).tolist()
    return [row[: row.index(stop)] if stop in row else row for row in rows]


Table = dict[tuple[str, str], Rate]
"""(place, measure) → share."""


def tabulate(positions: list[Position], said: list[list[str]]) -> Table:
    """What the actions said at each position come to, with positions as clusters."""
    counts: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for position, actions in zip(positions, said, strict=True):
        judged = [position.judge(position, action) for action in actions]
        for measure in MEASURES:
            right, asked = (sum(counted.get(measure, (0, 0))[part] for counted in judged) for part in (0, 1))
            if asked:
                counts[position.place, measure].append((right, asked))
    return {key: clustered_rate(*zip(*counted, strict=True)) for key, counted in counts.items()}


def print_table(greedy: Table, sampled: Table) -> None:
    print(f"{'':17} {'':9} {'greedy':>20} {'of':>5} {'sampled':>21} {'of':>5}")
    for place in (*GAME_PLACES, *SHOP_PLACES):
        for measure in MEASURES:
            columns = [table.get((place, measure)) for table in (greedy, sampled)]
            if any(columns):
                cells = [f"{rate!s:>20} {rate.episodes:>5}" if rate else f"{'':26}" for rate in columns]
                print(f"{place:17} {measure:9} {cells[0]}  {cells[1]}")


def rows(greedy: Table, sampled: Table) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {"place": place, "measure": measure, "actions": name, **rate.model_dump()}
        for name, table in (("greedy", greedy), ("sampled", sampled))
        for (place, measure), rate in table.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="directory or hub name; may be given several times")
    parser.add_argument("--positions", type=int, default=60, help="of each place")
    parser.add_argument("--samples", type=int, default=4, help="sampled actions a position")
    parser.add_argument("--seed", type=int, default=0, help="of the positions")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    if min(options.positions, options.samples) < 1:
        parser.error("--positions and --samples count from 1")
    try:
        models = {name: resolve_model(name) for name in options.model or [TINY]}
        chats = {name: load_tokenizer(path) for name, path in models.items()}
        positions = record(options.positions, options.seed)
        results: dict[str, Any] = {"machine": machine(), "positions": options.positions, "seed": options.seed}
        results["models"] = []
        for name, path in models.items():
            print(f"\n{name}")
            results["models"].append({"model": name, "rows": measure(path, chats[name], positions, options.samples)})
            write_results(options.out, results)
    except UserError as error:
        parser.error(str(error))


def measure(path: str, chat: ChatTokenizer, positions: list[Position], samples: int) -> list[dict[str, Any]]:
    """Ask a model, print its table and return it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.to(device)  # pyright: ignore[reportArgumentType]
    prompts = [chat.encode(chat.render(list(position.messages))) for position in positions]
    said = next_actions(model, chat, prompts, samples)
    greedy = tabulate(positions, [actions[:1] for actions in said])
    sampled = tabulate(positions, [actions[1:] for actions in said])
    print_table(greedy, sampled)
    return rows(greedy, sampled)


if __name__ == "__main__":
    main()
