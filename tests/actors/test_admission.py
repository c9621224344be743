"""Admission: many requests, or one publication."""

import asyncio

import pytest

from actors.admission import Admission


async def settled() -> None:
    """Every task has gone as far as it can without time passing, however slow the machine."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_closing_waits_for_those_inside_and_holds_back_the_rest():
    admission, order = Admission(), []
    leave = asyncio.Event()

    async def request(name: str) -> None:
        async with admission.admitted():
            order.append(f"{name} in")
            await leave.wait()
            order.append(f"{name} out")

    first = asyncio.create_task(request("first"))
    await settled()
    closing = asyncio.create_task(admission.close(5))
    await settled()
    second = asyncio.create_task(request("second"))
    await settled()
    assert order == ["first in"] and not closing.done()
    leave.set()
    await closing
    assert order == ["first in", "first out"] and admission.inside == 0
    await admission.open()
    await asyncio.gather(first, second)
    assert order == ["first in", "first out", "second in", "second out"]


async def test_a_gate_that_cannot_close_in_time_stays_open():
    admission = Admission()
    async with admission.admitted():
        with pytest.raises(TimeoutError):
            await admission.close(0.01)
        async with asyncio.timeout(1), admission.admitted():
            assert admission.inside == 2


async def test_two_closers_need_two_openers():
    admission = Admission()
    await admission.close(1)
    await admission.close(1)
    await admission.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), admission.admitted():
            pass
    await admission.open()
    async with asyncio.timeout(1), admission.admitted():
        pass
    with pytest.raises(RuntimeError):
        await admission.open()


async def test_a_cancelled_request_leaves():
    admission = Admission()

    async def request() -> None:
        async with admission.admitted():
            await asyncio.sleep(60)

    task = asyncio.create_task(request())
    await settled()
    task.cancel()
    await asyncio.wait([task])
    await admission.close(1)
    assert admission.inside == 0
