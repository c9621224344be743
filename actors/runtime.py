"""Where actors and objects are: on Ray, or, to debug, in this process (`placement.inline`), where breakpoints work.

Whoever starts actors, or passes on references to what they made, does it by these functions, and reads the same in
both. `handle.method.remote(…)` gives a reference, or as many as `ray.method` says; whoever awaits one, or `get`s it,
has what the method gave, or its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import ray


class Runtime(Protocol):
    """What a run needs of Ray."""

    def start(self, kind: type, options: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any: ...

    def find(self, name: str) -> Any: ...

    def kill(self, actor: Any, restart: bool) -> None: ...

    def put(self, value: Any) -> Any: ...

    def get(self, references: Any) -> Any: ...


def start(kind: type, options: Mapping[str, Any], *arguments: Any) -> Any:
    """An actor of this class; its handle.

    Args:
        options: Ray's actor options: name, num_cpus, scheduling_strategy, max_restarts, …
    """
    return _runtime.start(kind, options, arguments)


def find(name: str) -> Any:
    """The handle of the actor of this name. Raises ValueError where there is none."""
    return _runtime.find(name)


def kill(actor: Any, restart: bool = False) -> None:
    """End an actor's process. With `restart` Ray starts it again if its options say so."""
    _runtime.kill(actor, restart)


def put(value: Any) -> Any:
    """A reference to a value: an argument that is one arrives as the value."""
    return _runtime.put(value)


def get(references: Any) -> Any:
    """What a reference, or each of a list of them, stands for. Blocks until it is there."""
    return _runtime.get(references)


class OnRay:
    """Actors are processes on the nodes of a cluster, and objects lie in its store."""

    def start(self, kind: type, options: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
        actor: Any = ray.remote(kind).options(**options)
        return actor.remote(*arguments)

    def find(self, name: str) -> Any:
        return ray.get_actor(name)

    def kill(self, actor: Any, restart: bool) -> None:
        ray.kill(actor, no_restart=not restart)

    def put(self, value: Any) -> Any:
        return ray.put(value)

    def get(self, references: Any) -> Any:
        return ray.get(references)


class InProcess:
    """Actors are objects of this process, and references hold what they stand for.

    A method that is no coroutine runs at once, in the caller's own thread.
    """

    def __init__(self) -> None:
        self._actors: dict[str, Handle] = {}

    def start(self, kind: type, options: Mapping[str, Any], arguments: tuple[Any, ...]) -> Any:
        handle = Handle(kind(*map(value_of, arguments)))
        if name := options.get("name"):
            self._actors[name] = handle
        return handle

    def find(self, name: str) -> Any:
        if name not in self._actors:
            raise ValueError(f"no actor has the name {name}")
        return self._actors[name]

    def kill(self, actor: Any, restart: bool) -> None:
        self._actors = {name: handle for name, handle in self._actors.items() if handle is not actor}

    def put(self, value: Any) -> Any:
        return Reference(value)

    def get(self, references: Any) -> Any:
        return [value_of(one) for one in references] if isinstance(references, list) else value_of(references)


class Handle:
    """An object as if it were a Ray actor."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def __getattr__(self, name: str) -> Call:
        return Call(getattr(self._held, name))


class Call:
    """A method of such an object."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def options(self, **options: Any) -> Call:
        """Nothing is repeated: what fails here fails for good."""
        return self

    def remote(self, *arguments: Any) -> Any:
        count = getattr(self._method, "__ray_num_returns__", 1)
        try:
            result = self._method(*map(value_of, arguments))
        except Exception as error:
            reference = Reference(error=error)
            return reference if count == 1 else [reference] * count
        if asyncio.iscoroutine(result):
            task = asyncio.ensure_future(result)
            return task if count == 1 else [Part(task, index) for index in range(count)]
        return Reference(result) if count == 1 else [Reference(part) for part in result]


class Reference:
    """What is there already: a value, or an error in its place."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self._value, self._error = value, error

    def result(self) -> Any:
        """The value. Raises the error."""
        if self._error is not None:
            raise self._error
        return self._value

    def __await__(self) -> Generator[None, None, Any]:
        return self.result()
        yield  # never reached; it makes this a generator


class Part:
    """One of several things that a coroutine gives."""

    def __init__(self, task: asyncio.Future[Any], index: int) -> None:
        self._task, self._index = task, index

    def result(self) -> Any:
        """It. Raises the coroutine's error, and InvalidStateError before it is done."""
        return self._task.result()[self._index]

    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from self._task.__await__())[self._index]


def value_of(argument: Any) -> Any:
    """What an argument stands for where it is a reference; else the argument."""
    return argument.result() if isinstance(argument, (Reference, Part, asyncio.Task)) else argument


_runtime: Runtime = OnRay()


@contextmanager
def in_process() -> Iterator[None]:
    """Inside, actors and objects are in this process."""
    global _runtime
    before, _runtime = _runtime, InProcess()
    try:
        yield
    finally:
        _runtime = before
