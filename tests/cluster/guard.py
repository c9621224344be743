"""A process that must not see tokens: every sequences table that Ray hands to it, or that it reads back from a
checkpoint, is an error. `python -m tests.cluster.guard …` is the `concerto` command under this guard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from ray._private.serialization import SerializationContext
from ray.exceptions import RayError

import trajectories.store


class TokensSeen(RayError):
    """Token data came into this process. One of Ray's errors, so that whoever asked for the data is told."""


@contextmanager
def no_tokens() -> Iterator[None]:
    """Raises TokensSeen where an object that Ray deserialises in this process holds a sequences table."""
    deserialise, read_group = SerializationContext.deserialize_objects, trajectories.store.read_group

    def guarded(*arguments: Any, **options: Any) -> list[Any]:
        found = deserialise(*arguments, **options)
        return [TokensSeen("a sequences table came into this process") if _holds_tokens(one) else one for one in found]

    def refused(*arguments: Any) -> Any:
        raise TokensSeen("a ready group was read in this process")

    SerializationContext.deserialize_objects, trajectories.store.read_group = guarded, refused
    try:
        yield
    finally:
        SerializationContext.deserialize_objects, trajectories.store.read_group = deserialise, read_group


def _holds_tokens(value: Any) -> bool:
    if isinstance(value, pa.Table):
        return "token_ids" in value.column_names
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_holds_tokens, parts))


if __name__ == "__main__":
    from cluster.cli import main

    with no_tokens():
        main()
