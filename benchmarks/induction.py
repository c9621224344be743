"""Does a model find what followed last time? Random tokens, said twice: how much of the second time is right.

    python -m benchmarks.induction [--model concerto-tiny] [--model DIR2 ...] [--out FILE]

From random tokens nothing can be known but that they repeat, so that the share is that of pure copying, by the distance
to what is copied and by how many different tokens there are. Beside the models: one of the embedded shape and
vocabulary as it is drawn, and as `learners.tiny.induction` plants the circuit in it, both before their first token. The
first two tokens of the second time, by which the place must be found, do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.models import machine, write_results
from cluster.inputs.models import TINY, resolve_model
from learners.tiny.build import build_model
from learners.tiny.induction import plant_induction

DISTANCES = (20, 100, 400)
ALPHABETS = (20, None)
"""Different tokens in a row; None: of the whole vocabulary."""
ROWS = 16


def share_right(model: PreTrainedModel, distance: int, alphabet: int | None) -> float:
    """Of `ROWS` rows of `distance` random tokens said twice: the share of the second time that is likeliest.

    Rows are the same for all models with one size of vocabulary. The first 16 tokens are left out: they are markers.
    """
    draws = torch.Generator().manual_seed(distance)
    letters = torch.randint(16, model.config.vocab_size, (ROWS, alphabet or model.config.vocab_size), generator=draws)
    once = letters.gather(1, torch.randint(0, letters.shape[1], (ROWS, distance), generator=draws))
    twice = torch.cat([once, once], dim=1)
    with torch.inference_mode():
        said = model(twice).logits[:, distance + 1 : -1].argmax(-1)
    return (said == twice[:, distance + 2 :]).float().mean().item()


def fresh(planted: bool) -> PreTrainedModel:
    """The embedded shape and vocabulary, untrained."""
    model = build_model(AutoTokenizer.from_pretrained(resolve_model(TINY)))
    if planted:
        plant_induction(model)
    return model


def measure(model: PreTrainedModel) -> dict[str, float]:
    """The share that is right, by distance and alphabet."""
    return {
        f"{distance} tokens back, {alphabet or 'all'} different": share_right(model.eval(), distance, alphabet)
        for distance in DISTANCES
        for alphabet in ALPHABETS
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help=f"directory or hub name, several times ({TINY})")
    parser.add_argument("--out", type=Path, help="write what was measured as JSON")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"untrained": measure(fresh(False)), "untrained, planted": measure(fresh(True))}
    for name in arguments.model or [TINY]:
        results[name] = measure(AutoModelForCausalLM.from_pretrained(resolve_model(name), dtype=torch.float32))
    for name, shares in results.items():
        print(name, *(f"{share:.3f}  {where}" for where, share in shares.items()), sep="\n  ")
    if arguments.out:
        write_results(arguments.out, {"machine": machine(), "shares": results})
