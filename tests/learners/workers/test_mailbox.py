"""What coordinator and ranks say to each other, without Ray between them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learners.workers import mailbox
from learners.workers.mailbox import Command, Mailbox, Outcome
from learners.workers.pool import LearnerPool
from tests.learners.samples import learner_settings
from trajectories.errors import StorageError, UserError


async def serve(box: Mailbox, rank: int, *answers: Any) -> list[Command]:
    """A rank: joins, answers one command after the other (an exception as its error), and ends when told to stop."""
    await box.join(rank)
    heard: list[Command] = []
    while not isinstance(command := await box.next(len(heard)), str):
        if command is None:
            continue
        answer = answers[len(heard)]
        heard.append(command)
        failed = isinstance(answer, Exception)
        await box.reply(command.number, rank, [] if failed else [answer], str(answer) if failed else None)
    return heard


async def test_every_rank_gets_every_command_once_and_results_come_in_order_of_rank() -> None:
    box = Mailbox(workers=3)
    ranks = [asyncio.create_task(serve(box, rank, f"a{rank}", f"b{rank}")) for rank in (2, 0, 1)]
    assert await box.wait_joined(timeout_s=5) is None
    calls = [box.call("score", ("x",), timeout_s=5), box.call("export", (7,), timeout_s=5)]
    assert [outcome.results for outcome in await asyncio.gather(*calls)] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    await box.stop()
    for heard in await asyncio.gather(*ranks):
        assert heard == [Command(1, "score", ("x",)), Command(2, "export", (7,))]


async def test_the_first_error_ends_a_call_without_waiting_for_the_other_ranks() -> None:
    box = Mailbox(workers=2)
    rank = asyncio.create_task(serve(box, 0, ValueError("rank 0: no such sequence")))
    assert await box.call("train", (), timeout_s=60) == Outcome(error="rank 0: no such sequence")
    await box.stop()
    await rank


async def test_ranks_that_stay_silent_are_named_and_an_answer_out_of_time_is_dropped() -> None:
    box = Mailbox(workers=2)
    asyncio.get_running_loop().call_soon(asyncio.ensure_future, serve(box, 1, "first", "second"))
    assert await box.call("train", (), timeout_s=0.2) == Outcome(error="ranks [0] gave no answer within 0 s")
    await box.reply(1, 0, ["late"], None)
    second = asyncio.create_task(box.call("train", (), timeout_s=5))
    await asyncio.sleep(0)
    await box.reply(1, 0, ["later still"], None)
    await box.reply(2, 0, ["in time"], None)
    assert (await second).results == ["in time", "second"]
    await box.stop()


@pytest.mark.parametrize("ended_before", [False, True], ids=["under way", "later"])
async def test_a_call_learns_why_the_workers_ended(ended_before: bool) -> None:
    box = Mailbox(workers=1)
    call = box.call("train", (), timeout_s=60)
    if ended_before:
        await box.end("the learner workers died: out of memory")
        assert (await call).error == "the learner workers died: out of memory"
    else:
        waiting = asyncio.create_task(call)
        await asyncio.sleep(0)
        await box.end("the learner workers died: out of memory")
        assert (await waiting).error == "the learner workers died: out of memory"


async def test_a_start_that_takes_too_long_counts_the_workers_that_are_ready() -> None:
    box = Mailbox(workers=2)
    await box.join(1)
    assert await box.wait_joined(timeout_s=0.05) == "1 of 2 workers were ready after 0 s"
    await box.end("no room")
    assert await box.wait_joined(timeout_s=60) == "no room"


async def test_a_rank_that_cannot_start_ends_the_wait_with_its_own_error_whatever_follows() -> None:
    box, refusal = Mailbox(workers=2), UserError("no such layer")
    waiting = asyncio.create_task(box.wait_joined(timeout_s=60))
    await asyncio.sleep(0)
    await box.refuse(refusal)
    assert await asyncio.wait_for(waiting, 5) is refusal
    await box.end("the learner workers died")
    assert await box.wait_joined(timeout_s=60) is refusal


async def test_a_rank_asks_again_when_there_is_no_command_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "POLL_SECONDS", 0.02)
    box = Mailbox(workers=1)
    assert await box.next(after=0) is None


async def test_an_error_of_ours_ends_a_call_as_it_was_raised(untied_model: Path, tmp_path: Path) -> None:
    async def call(*arguments: Any) -> Outcome:
        return Outcome(error=StorageError("cannot write learner (no space)"))

    pool = LearnerPool(learner_settings(untied_model), run_name="run", storage=tmp_path)
    pool._mailbox = SimpleNamespace(call=SimpleNamespace(remote=call))
    with pytest.raises(StorageError, match="cannot write learner"):
        await pool.call("begin_save", "learner")
