"""What happens to a server that is in use (F96): each call is charged exactly once, whatever it is.

``LLMPIPE_LONG`` makes it ten times as often.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Ask, Draw, Item, Spend
from llmpipe.testing.servers.postgres import PostgresServer
from llmpipe_postgres import open_postgres

pytestmark = pytest.mark.real_time

LEASE = 600.0
SLOT = Ask("slot", 1.0, 1000.0)
TIMES = 10 if os.environ.get("LLMPIPE_LONG") else 1


class Load:
    """Calls of several processes' worth, each settled until it is known to be, under one id.

    Attributes: settled are the calls that were told of; met is how often what was raised.
    """

    def __init__(self, states: list[Any]) -> None:
        self.states = states
        self.settled: set[str] = set()
        self.met: Counter[str] = Counter()
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [
            asyncio.create_task(self._call(state, f"{number}-{each}"))
            for number, state in enumerate(self.states)
            for each in range(6)
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _until_known(self, what: Any) -> Any:
        while True:
            try:
                return await what()
            except StoreUnavailable:
                self.met["StoreUnavailable"] += 1
                await asyncio.sleep(0.02)

    async def _call(self, state: Any, caller: str) -> None:
        ledger, limits, queue = state.ledger("l"), state.limits("l"), state.queue("q")
        for number in count():
            if self._stop.is_set():
                return
            name = f"{caller}-{number}"
            draws = [Draw("all", 0, 5, 10**9), Draw(caller, 0, 5, 10**9)]
            row = Spend(id=name, at=1.0, nano=3)
            assert (await self._until_known(lambda n=name: limits.take(n, [SLOT], LEASE))).refused is None
            assert await self._until_known(lambda n=name, d=draws: ledger.reserve(n, d, LEASE)) is None
            charges = [Draw("all", 0, 3), Draw(caller, 0, 3)]
            await self._until_known(lambda n=name, c=charges, r=row: ledger.settle(n, c, [r]))
            await self._until_known(lambda n=name: queue.put(Item(id=n, payload=b"x")))
            await self._until_known(lambda n=name: limits.settle(n, {}))
            self.settled.add(name)

    async def more(self, calls: int) -> None:
        """Until so many more were settled."""
        enough = len(self.settled) + calls
        async with asyncio.timeout(60):
            while len(self.settled) < enough:
                await asyncio.sleep(0.01)


async def look(state: Any, load: Load) -> None:
    """Each call is there once: on both balances, in the journal and in the queue; and nothing is held."""
    ledger, settled = state.ledger("l"), len(load.settled)
    rows = await ledger.spends(limit=10**6)
    assert {row.id for row in rows} == load.settled
    assert len(rows) == settled
    callers = Counter(name.rpartition("-")[0] for name in load.settled)
    balances = await ledger.balances([("all", 0), *[(caller, 0) for caller in callers]])
    assert [one.spent for one in balances] == [3 * settled, *[3 * calls for calls in callers.values()]]
    assert {one.held for one in balances} == {0}
    assert await ledger.holds() == []
    assert (await state.queue("q").counts()).pending == settled
    assert (await state.limits("l").levels([SLOT]))[0].remaining == 1000.0


async def test_restarts_under_load_charge_each_call_once() -> None:
    """``pg_ctl restart -m immediate``: what was acknowledged is there, and what was not is said again."""
    with PostgresServer(
        fsync="off"
    ) as server:  # it is no power cut, and a server that syncs begins with that
        states = [open_postgres(f"{server.url}?timeout=2") for _ in range(2)]
        load = Load(states)
        async with load:
            for _ in range(2 * TIMES):
                await load.more(20)
                await asyncio.to_thread(server.restart)
            await load.more(20)
        assert load.met["StoreUnavailable"] > 0
        for state in states:
            state.ahead = LEASE + 1.0  # a slot that was given back just before a crash stays taken until then
        await look(states[0], load)
        for state in states:
            await state.aclose()


async def test_connections_cut_behind_the_commit_and_backends_ended_charge_each_call_once(
    harness: Any, proxy: Any
) -> None:
    """An unknown commit is said again by its id; connections are cut when the server has answered."""
    await harness.open()
    url = harness.url(timeout=5).replace(f":{harness.server.port}/", f":{proxy.own_port}/")
    states = [open_postgres(url), open_postgres(url)]
    random = Random(1)
    load = Load(states)
    async with load:
        for _ in range(15 * TIMES):
            await load.more(4)
            if random.random() < 0.7:
                proxy.cut += random.randint(1, 3)
                await proxy.until_cut(proxy.cuts + 1)  # however few words the load needs
            else:
                ours = "FROM pg_stat_activity WHERE application_name = 'llmpipe'"
                await harness.sql(f"SELECT pg_terminate_backend(pid) {ours}")
        await load.more(10)
    assert proxy.cuts >= 8 * TIMES
    for state in states:
        await state.aclose()
    await look(await harness.reopen(), load)


async def test_whoever_is_chosen_to_end_a_deadlock_says_it_again_and_is_done_once(harness: Any) -> None:
    """We lock in one order; somebody else's transaction, by hand or of a backup, may not."""
    await harness.open()
    # Who has waited that long looks, once, whether it waits in a circle, and if so is the one that is ended.
    await harness.sql("ALTER DATABASE postgres SET deadlock_timeout = '300ms';")
    stranger = await asyncpg.connect(harness.server.url)
    try:
        await stranger.execute("SET deadlock_timeout = '60s'; SET lock_timeout = '3s'")
        ledger = (await harness.reopen()).ledger("l")
        before, done = harness.server.log.count("deadlock detected"), 0
        while harness.server.log.count("deadlock detected") == before:
            assert done < 20
            assert await ledger.settle(f"h{done}", [Draw("a", 0, 1), Draw("b", 0, 1)])
            await _cross(harness, stranger, ledger.settle(f"i{done}", [Draw("a", 0, 2), Draw("b", 0, 2)]))
            done += 1
        assert [one.spent for one in await ledger.balances([("a", 0), ("b", 0)])] == [3 * done] * 2
    finally:
        await stranger.close()
        await harness.sql("ALTER DATABASE postgres RESET ALL;")


async def _cross(harness: Any, stranger: Any, settling: Any) -> None:
    """Hold what `settling` wants second, and want what it has; so it is ended, if it looks late enough."""
    lock = f"SELECT 1 FROM {harness.schema}.balances WHERE account = $1 FOR UPDATE"
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'llmpipe' AND wait_event_type = 'Lock'"
    transaction = stranger.transaction()
    await transaction.start()
    await stranger.fetch(lock, "b")
    ours = asyncio.create_task(settling)
    while not await harness.sql(waits):
        await asyncio.sleep(0.005)
    with suppress(asyncpg.LockNotAvailableError):
        await stranger.fetch(lock, "a")
    await transaction.rollback()
    assert await ours is True
