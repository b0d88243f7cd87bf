"""Who waits for how long, and what becomes of what nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Draw, Item
from llmpipe.state.sqlite import open_sqlite

pytestmark = pytest.mark.real_time


async def test_an_answer_that_comes_as_patience_ends_is_taken_and_the_thread_asked_again(url):
    """The thread is at rest then: nothing would ever say that it answers."""
    state = open_sqlite(url + "?timeout=0.1")
    queue = state.queue("q")
    await queue.put(Item(id="1", payload=b""))
    loop, hangs, at_rest = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def answer() -> None:
        """In the very turn of the loop in which the patience ends, before it does."""
        hangs.set()
        at_rest.wait(0.2)

    def work(session: object) -> str:
        hangs.wait(20)
        return "answered"

    began = loop.time()
    slow = asyncio.ensure_future(state._engine.run(work, "read"))
    await asyncio.sleep(0)
    loop.call_at(began + 0.4, time.sleep, 0.3)  # both of what follows are due in the next turn
    loop.call_at(began + 0.5, answer)
    assert await slow == "answered"
    assert await queue.put(Item(id="2", payload=b""))
    await state.aclose()


async def test_reading_takes_its_time_while_another_process_is_known_to_hold_the_file(url):
    state = open_sqlite(url)
    await state.queue("q").put(Item(id="1", payload=b""))
    state._engine._writer.blocked = True  # as it is when somebody has waited in vain for the lock

    def work(session: object) -> str:
        time.sleep(0.7)
        return "read"

    assert await state._engine.run(work, "read") == "read"
    assert not state._engine._writer.silent
    await state.aclose()


async def test_what_was_refused_because_the_disk_hangs_is_not_done_when_it_goes_on(url):
    """Else it would hold what nobody knows of."""
    state = open_sqlite(url + "?timeout=0.1")
    ledger, hangs = state.ledger("l"), threading.Event()
    await ledger.reserve("first", [Draw("a", 0, 5)], 1000.0)
    slow = asyncio.ensure_future(state._engine.run(lambda session: hangs.wait(20), "read"))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="not known whether"):
        await ledger.reserve("second", [Draw("a", 0, 7)], 1000.0)
    with pytest.raises(StoreUnavailable):
        await slow
    hangs.set()
    while state._engine._writer.silent:
        await asyncio.sleep(0.001)
    assert [each.held for each in await ledger.balances([("a", 0)])] == [5]
    await state.aclose()
