"""How long a memory takes to find the nearest task types, the embedding of the question apart.

python -m benchmarks.experience --types 10000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from experience.sentence_embedder import SentenceEmbedder
from experience.store import Space, Store
from experience.taxonomy import RETRIEVED

BATCH = 1000
GOAL_MS = 10.0


def filled(path: str, vectors: NDArray[np.float32]) -> Store:
    """A store with a type for each vector [n, d], of two suggestions and a step each."""
    store = Store.create(path, Space("benchmark", vectors.shape[1]))
    for start in range(0, len(vectors), BATCH):
        rows = [_row(start + at, vector) for at, vector in enumerate(vectors[start : start + BATCH])]
        store.write(pa.Table.from_pylist(rows, schema=store.row_schema))
    return store


def _row(number: int, vector: NDArray[np.float32]) -> dict[str, Any]:
    items = [{"id": f"{number}-{at}", "text": "Say what is asked.", "examples": [], "parents": []} for at in range(3)]
    counts = dict.fromkeys(("error_free", "rounds", "correct", "wrong", "inconclusive"), 0)
    described: dict[str, Any] = {
        "id": f"type-{number}",
        "name": f"kind {number}",
        "description": f"tasks of the kind {number}",
    }
    return described | counts | {"suggestions": items[:2], "procedure": items[2:], "taught_by": "", "vector": vector}


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in `concerto learn`
    rng, embedder = np.random.default_rng(0), SentenceEmbedder.load()
    vectors = unit(rng.standard_normal((arguments.types, embedder.dimension)))
    with tempfile.TemporaryDirectory() as folder:
        store = filled(f"{folder}/memory", vectors)
        queries = unit(vectors[rng.integers(0, len(vectors), arguments.queries)] + 0.01 * rng.standard_normal())
        milliseconds, embedding = [], []
        for query in queries:
            begun = time.perf_counter()
            store.nearest(query, RETRIEVED)
            milliseconds.append(1000 * (time.perf_counter() - begun))
            begun = time.perf_counter()
            embedder.embed(["Tasks in which a number of things must be counted and compared with another number."])
            embedding.append(1000 * (time.perf_counter() - begun))
    p50, p95 = np.percentile(milliseconds, [50, 95])
    found = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms (goal: p50 of {GOAL_MS:g} at most)"
    print(f"retrieval of {RETRIEVED} among {arguments.types} types: {found}")
    print(f"embedding of a description: p50 {np.percentile(embedding, 50):.1f} ms")


if __name__ == "__main__":
    main()
