"""The thread and its batches: many loops, cancelled callers, failing operations, closing, forking."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import weakref

import pytest

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Draw, Item
from llmpipe.state.sqlite import jobs, open_sqlite
from llmpipe.testing import run as run_virtual

pytestmark = pytest.mark.real_time


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llmpipe-sqlite"]


async def until(done) -> None:
    """Let the loop run until `done()`; the thread answers through it."""
    while not done():
        await asyncio.sleep(0.001)


async def test_what_is_asked_at_once_shares_a_commit(url, monkeypatch):
    state = open_sqlite(url)
    queue = state.queue("q")
    await queue.put(Item(id="first", payload=b""))
    calls = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(
        loop, "call_soon_threadsafe", lambda *a: calls.append(a) or type(loop).call_soon_threadsafe(loop, *a)
    )
    before = state._engine._writer._commits
    await asyncio.gather(*[queue.put(Item(id=str(n), payload=b"")) for n in range(100)])
    assert state._engine._writer._commits - before <= 3
    assert len(calls) <= 3
    assert (await queue.counts()).pending == 101
    await state.aclose()


async def test_an_operation_that_fails_half_way_takes_nothing_of_the_others_with_it(url):
    state = open_sqlite(url)
    await state.check()

    def half(session):
        session.execute("INSERT INTO revisions VALUES ('half', 1)")
        raise LookupError("half-way")

    def whole(number):
        return lambda session: session.execute("INSERT INTO revisions VALUES (?, 1)", (str(number),)).rowcount

    engine = state._engine
    works = [engine.run(half if n % 5 == 2 else whole(n)) for n in range(20)]
    given = await asyncio.gather(*works, return_exceptions=True)
    assert [type(one) for one in given] == [LookupError if n % 5 == 2 else int for n in range(20)]
    there = await engine.run(lambda s: [name for (name,) in s.execute("SELECT space FROM revisions")], "read")
    assert sorted(there) == sorted(str(n) for n in range(20) if n % 5 != 2)
    await state.aclose()


async def test_what_cannot_be_kept_is_a_value_error_and_changes_nothing(url):
    state = open_sqlite(url)
    queue, ledger = state.queue("q"), state.ledger("l")
    for bad in (Item(id="never", payload=b"", attempts=0), Item(id="big", payload=b"", priority=2**63)):
        with pytest.raises(ValueError):
            await queue.put(bad)
    with pytest.raises(ValueError):
        await ledger.reserve("h", [Draw("a", 0, 2**63)], 1.0)
    with pytest.raises(ValueError):
        await ledger.reserve("h", [Draw("a", 0, -1)], 1.0)
    assert await ledger.settle("h", [Draw("a", 0, 2**63 - 1)])
    with pytest.raises(ValueError, match="64 bits"):
        await ledger.settle("i", [Draw("a", 0, 1)])
    assert (await queue.counts()).pending == 0
    assert (await ledger.balances([("a", 0)]))[0].spent == 2**63 - 1
    await state.aclose()


async def test_a_cancelled_caller_leaves_its_operation_done_or_not_done(url):
    state = open_sqlite(url)
    ledger = state.ledger("l")
    keys = [("a", 0), ("b", 0)]
    await ledger.balances(keys)
    for number in range(200):
        draws = [Draw("a", 0, 1), Draw("b", 0, 1)]
        task = asyncio.ensure_future(ledger.reserve(f"h{number}", draws, 1000.0))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        if number % 3 == 0:
            time.sleep(0.0005)  # so that the thread gets further
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
            raise asyncio.CancelledError  # it was faster
        one, two = await ledger.balances(keys)
        assert one == two
        assert one.held == len(await ledger.holds())
    await state.aclose()


async def test_several_loops_in_threads_use_one_file_at_once(url):
    state = open_sqlite(url)
    errors = []

    def body(name: str) -> None:
        async def ask():
            ledger = state.ledger("l")
            for number in range(20):
                draws = [Draw("a", 0, 1, limit=100)]
                short = await ledger.reserve(f"{name}{number}", draws, 1000.0)
                given.append(short)

        try:
            asyncio.run(ask())
        except BaseException as error:
            errors.append(error)
            raise

    given: list = []
    workers = [threading.Thread(target=body, args=(f"t{n}-",)) for n in range(8)]
    for worker in workers:
        worker.start()
    await asyncio.gather(*[asyncio.to_thread(worker.join) for worker in workers])
    assert not errors
    assert len(given) == 160
    assert given.count(None) == 100
    assert (await state.ledger("l").balances([("a", 0)]))[0].held == 100
    await state.aclose()


async def test_closing_leaves_one_file_and_no_thread_and_asking_opens_again(url, tmp_path):
    before = threads()
    state = open_sqlite(url)
    queue = state.queue("q")
    for round_ in range(3):
        await queue.put(Item(id=str(round_), payload=b"x"))
        assert len(threads()) == len(before) + 1
        await state.aclose()
        assert threads() == before
        assert [file.name for file in tmp_path.iterdir()] == ["state.db"]
    await state.aclose()
    assert (await queue.counts()).pending == 3
    await state.aclose()


async def test_what_was_asked_before_closing_is_done(url):
    state = open_sqlite(url)
    queue = state.queue("q")
    puts = [asyncio.ensure_future(queue.put(Item(id=str(n), payload=b"x"))) for n in range(50)]
    await asyncio.sleep(0)
    await state.aclose()
    assert await asyncio.gather(*puts) == [True] * 50
    assert (await queue.counts()).pending == 50
    await state.aclose()


async def test_a_state_that_is_dropped_lets_go_of_its_file_and_thread(url, tmp_path):
    before = threads()
    state = open_sqlite(url)
    await state.queue("q").put(Item(id="1", payload=b"x"))
    engine = weakref.ref(state._engine)
    del state
    gc.collect()
    await until(lambda: threads() == before)
    assert engine() is None
    assert [file.name for file in tmp_path.iterdir()] == ["state.db"]


async def test_a_loop_that_is_closed_with_operations_under_way_hurts_nobody(url):
    state = open_sqlite(url)
    await state.check()

    def short() -> None:
        async def ask():
            for number in range(20):
                asyncio.ensure_future(state.queue("q").put(Item(id=str(number), payload=b"")))  # noqa: RUF006  nobody waits
            await asyncio.sleep(0)

        asyncio.run(ask())

    await asyncio.to_thread(short)
    assert await state.queue("q").put(Item(id="after", payload=b""))
    await state.aclose()


def test_virtual_time_stands_still_while_the_file_is_asked(url):
    async def main():
        state = open_sqlite(url)
        loop = asyncio.get_running_loop()
        timer = asyncio.ensure_future(asyncio.sleep(3600))
        await asyncio.sleep(0)
        for number in range(20):
            await state.queue("q").put(Item(id=str(number), payload=b""))
        assert loop.time() == 0.0
        assert not timer.done()
        timer.cancel()
        await state.aclose()

    run_virtual(main())


async def test_a_disk_that_does_not_answer_is_told_in_time_and_then_refused_at_once(url):
    state = open_sqlite(url + "?timeout=0.2")
    queue = state.queue("q")
    await queue.put(Item(id="1", payload=b""))
    hangs = threading.Event()
    slow = asyncio.ensure_future(state._engine.run(lambda session: hangs.wait(20), "read"))
    with pytest.raises(StoreUnavailable, match="not known whether this was done"):
        await slow
    started = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable, match="has not answered"):
        await queue.put(Item(id="2", payload=b""))
    assert asyncio.get_running_loop().time() - started < 0.2
    hangs.set()
    await until(lambda: not state._engine._writer.silent)
    assert await queue.put(Item(id="2", payload=b""))
    await state.aclose()


async def test_each_caller_gets_an_error_of_its_own(url, tmp_path):
    (tmp_path / "state.db").write_bytes(b"no database at all, and long enough to be read as one" * 100)
    state = open_sqlite(url)
    given = await asyncio.gather(*[state.check() for _ in range(5)], return_exceptions=True)
    assert [type(one) for one in given] == [StoreDamaged] * 5
    assert len({id(one) for one in given}) == 5
    await state.aclose()


def test_what_was_asked_is_written_when_the_interpreter_exits(url, tell, tmp_path):
    assert "asked" in tell("leave", url)
    assert [file.name for file in tmp_path.iterdir()] == ["state.db"]
    with sqlite3.connect(tmp_path / "state.db") as db:
        (count,) = db.execute("SELECT count(*) FROM items").fetchone()
    db.close()
    assert count == 51


def test_a_forked_process_opens_the_file_anew(url, tell, tmp_path):
    for _ in range(3):
        assert "status 0" in tell("forks", url)
    with sqlite3.connect(tmp_path / "state.db") as db:
        names = {name for (name,) in db.execute("SELECT id FROM items")}
    db.close()
    assert names == {"zero", "child", "parent", "after"}


def test_an_answer_for_a_future_that_is_done_is_dropped():
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        future.cancel()
        jobs.tell([jobs.Job(lambda session: 1, "read", loop, future, 0.0, result=1, done=True)])
        await asyncio.sleep(0)
        assert future.cancelled()

    asyncio.run(main())
