"""A process that must not see tokens: every sequences table that Ray hands to it, or that it reads back from a
checkpoint, is an error. `python -m tests.cluster.guard …` is the `concerto` command under this guard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.ipc
from ray._private.serialization import SerializationContext
from ray.exceptions import RayError


class TokensSeen(RayError):
    """Token data came into this process. One of Ray's errors, so that whoever asked for the data is told."""


@contextmanager
def no_tokens() -> Iterator[None]:
    """Raises TokensSeen where an object that Ray deserialises in this process holds a sequences table."""
    deserialise, open_file = SerializationContext.deserialize_objects, pa.ipc.open_file

    def guarded(*arguments: Any, **options: Any) -> list[Any]:
        found = deserialise(*arguments, **options)
        return [TokensSeen("a sequences table came into this process") if _holds_tokens(one) else one for one in found]

    def refused(*arguments: Any) -> Any:
        raise TokensSeen("the Arrow file of a ready group was read in this process")

    SerializationContext.deserialize_objects, pa.ipc.open_file = guarded, refused
    try:
        yield
    finally:
        SerializationContext.deserialize_objects, pa.ipc.open_file = deserialise, open_file


def _holds_tokens(value: Any) -> bool:
    if isinstance(value, pa.Table):
        return "token_ids" in value.column_names
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(_holds_tokens, parts))


if __name__ == "__main__":
    from cluster.cli import main

    with no_tokens():
        main()
