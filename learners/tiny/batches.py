"""What the base model reads in which order: first sequences to copy, then transcripts, now and then a copy again.

Every batch is a function of the recipe and the batch's number, so that training can go on where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learners.tiny.corpus import Corpus

POOL = 2048
"""Transcripts that are sorted by length together."""
MULTIPLE = 128
"""Lengths are rounded up to it: the CPU library keeps a kernel for every shape of a product, and batches of many shapes
fill gigabytes with them."""
SPAN = (12, 500)
"""Random tokens in a sequence to copy, from and to: copies are near and far."""
FEWEST_LETTERS = 10
"""Different tokens that a sequence to copy is made of, at least."""

Tokens = npt.NDArray[np.int64]
IGNORED = -100
"""Target of tokens that are not learned, as `torch.nn.functional.cross_entropy` has it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids [n, length], padded with 0, and what is to be predicted from each, [n, length]; `tokens` are real."""

    ids: Tokens
    targets: Tokens
    tokens: int


@dataclass(frozen=True, slots=True)
class Batching:
    """How batches are drawn.

    Attributes:
        longest: tokens of a transcript; longer ones are cut.
        size: tokens of a batch, padding counted.
        copied_first: tokens of sequences to copy, before anything else.
        copied_share: share of batches with such sequences afterwards.
    """

    seed: int = 0
    longest: int = 2_048
    size: int = 8_192
    copied_first: int = 400_000
    copied_share: float = 0.06


def batches(corpus: Corpus, batching: Batching) -> Iterator[Batch]:
    """Endless."""
    rng = np.random.default_rng(batching.seed)
    first = batching.copied_first // batching.size
    transcripts = _transcripts(corpus, batching, rng)
    number = 0
    while True:
        copies = number < first or rng.random() < batching.copied_share
        yield draw_copies(len(corpus.tokenizer), batching.size, rng) if copies else next(transcripts)
        number += 1


def draw_copies(vocabulary: int, size: int, rng: np.random.Generator) -> Batch:
    """Random tokens, repeated at least once; only the repeats are learned.

    From random tokens nothing can be learned but to find the last occurrence of what was just read and to say what
    came after it there. A row has an alphabet of its own, from a few tokens to all: with few of them, as in product
    codes, one token alone does not tell the place, and the last two or three must be found together.
    """
    span = int(np.exp(rng.uniform(*np.log(SPAN))))
    width = _rounded(2 * span)
    letters = int(np.exp(rng.uniform(np.log(FEWEST_LETTERS), np.log(vocabulary))))
    alphabets = rng.integers(4, vocabulary, (size // width, letters))
    once = np.take_along_axis(alphabets, rng.integers(0, letters, (size // width, span)), axis=1)
    ids = np.tile(once, -(-width // span))[:, :width]
    targets = _following(ids)
    targets[:, : span - 1] = IGNORED
    return Batch(ids, targets, ids.size)


def _transcripts(corpus: Corpus, batching: Batching, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of transcripts of similar length, in random order."""
    while True:
        order = rng.permutation(len(corpus))
        for pool in np.array_split(order, max(1, len(order) // POOL)):
            groups = _of_like_length(corpus, batching, pool)
            for position in rng.permutation(len(groups)):
                yield _padded(corpus, batching, groups[position])


def _of_like_length(corpus: Corpus, batching: Batching, pool: npt.NDArray[np.int64]) -> list[list[int]]:
    """The pool in groups, each of as many transcripts as a batch has room for."""
    groups: list[list[int]] = [[]]
    for index in sorted(pool, key=lambda i: corpus.length(i)):
        length = _rounded(min(corpus.length(index), batching.longest))
        if groups[-1] and (len(groups[-1]) + 1) * length > batching.size:
            groups.append([])
        groups[-1].append(int(index))
    return groups


def _padded(corpus: Corpus, batching: Batching, group: list[int]) -> Batch:
    lengths = [min(corpus.length(index), batching.longest) for index in group]
    width = _rounded(max(lengths))
    ids = np.zeros((max(1, batching.size // width), width), np.int64)
    targets = np.full_like(ids, IGNORED)
    for row, (index, length) in enumerate(zip(group, lengths, strict=True)):
        tokens, learned = corpus.read(index, length)
        ids[row, :length] = tokens
        targets[row, : length - 1] = np.where(learned[1:], tokens[1:], IGNORED)
    return Batch(ids, targets, sum(lengths))


def _following(ids: Tokens) -> Tokens:
    """The next token of each; none after the last."""
    targets = np.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    return targets


def _rounded(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE
