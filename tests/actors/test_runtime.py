"""Actors and references in one process: what a run relies on, as Ray has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import ray

from actors import runtime
from trajectories.errors import UserError


class Adder:
    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, number: int) -> int:
        if number < 0:
            raise UserError("take a positive number")
        self.total += number
        return self.total

    @ray.method(num_returns=2)
    def both(self, number: int) -> tuple[int, int]:
        return self.total, number

    @ray.method(num_returns=2)
    async def later(self, number: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return self.total, number


@pytest.fixture
def adder() -> Iterator[object]:
    with runtime.in_process():
        yield runtime.start(Adder, {"name": "adder", "num_cpus": 1}, runtime.put(3))


async def test_a_method_gives_references_that_are_awaited_passed_on_and_fetched(adder) -> None:
    five = adder.add.options(max_task_retries=2).remote(2)
    assert await five == await five == runtime.get(five) == 5
    assert await adder.add.remote(five) == 10
    assert runtime.get([runtime.put("x"), five]) == ["x", 5]
    assert [await part for part in adder.both.remote(1)] == [10, 1]
    total, number = adder.later.remote(7)
    assert await asyncio.wait_for(number, 1) == 7 and await total == 10 == runtime.get(total)


async def test_an_error_comes_to_whoever_asks_for_the_answer(adder) -> None:
    answer = adder.add.remote(-1)
    with pytest.raises(UserError, match="take a positive number"):
        await answer
    with pytest.raises(UserError, match="take a positive number"):
        runtime.get(answer)


def test_actors_are_found_by_name_until_they_are_killed(adder) -> None:
    assert runtime.find("adder") is adder
    runtime.kill(adder)
    with pytest.raises(ValueError, match="no actor has the name adder"):
        runtime.find("adder")
