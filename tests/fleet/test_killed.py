"""Processes killed at random instants (SIGKILL): what a caller was told is kept, and nothing stays taken.

Several processes are killed one after the other, each beside the debris of those before, and now and then
one begins again when all leases have ended, and looks. Set LLMPIPE_LONG for ten times as many.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from attrs import define, field

from llmpipe.state import shared
from llmpipe.testing.servers.postgres import PostgresServer
from llmpipe.testing.servers.redis import RedisServer
from tests.fleet import shop
from tests.fleet.conftest import Make
from tests.fleet.pool import Pool, until
from tests.fleet.shop import Stores

pytestmark = pytest.mark.real_time

LONG = 10 if os.environ.get("LLMPIPE_LONG") else 1
AGAIN = 20  # kills on one store; then a new one, for what is looked through grows with each
LEASE = 600.0  # of holds and slots; that of the audit's writers is shorter


@define
class Epoch:
    """One store, and what became of it."""

    pool: Pool
    stores: Stores
    random: Random
    writer: str
    slow: float = 1.0
    """How many times as long as usual its processes live."""
    ahead: float = 0.0
    expired: int = 0
    """Holds that ended because their lease did."""
    kills: int = 0
    settled: dict[str, int] = field(factory=dict)
    crashed: int = 0

    def kill(self, after: float | None = None) -> None:
        """Run a process, and kill it after 5 to 150 ms (times `slow`); more often early than late."""
        after = self.slow * 0.005 * 30 ** self.random.random() if after is None else after
        said = self.pool.run(
            "grind", stores=[self.stores.main, self.stores.audit], seed=self.random.getrandbits(40),
            ahead=self.ahead, writer=self.writer, kill_after=after,
        )  # fmt: skip
        self.read(said)
        self.kills += 1

    def read(self, said: list[str]) -> None:
        """What a process has told its callers."""
        found = dict(line.split()[1:] for line in said if line.startswith("settled"))
        self.settled |= {key: int(nano) for key, nano in found.items()}
        # Of a process that was killed before its first call had returned the next lives longer: on a busy
        # machine all take longer.
        self.slow = max(1.0, self.slow * 0.65) if found else min(40.0, self.slow * 1.1)

    def recover(self) -> None:
        """Let all leases end, begin again, and look."""
        self.ahead += LEASE + 10
        stores = [self.stores.main, self.stores.audit]
        said = self.pool.run("recover", stores=stores, ahead=self.ahead, writer=self.writer)
        self.look(json.loads(said[-1]))

    def look(self, found: dict[str, Any]) -> None:
        """The laws."""
        assert found["faults"] == []
        rows = found["rows"]
        lost = [key for key in self.settled if key not in rows]
        assert lost == [], "told of, and not in the journal"
        assert {key: rows[key] for key in self.settled} == self.settled
        # A hold whose process died is charged what is likely, for nobody knows what became of the attempt:
        # at most once for each call that was cut off and has no line in the journal.
        assert len(set(found["spent"].values())) == 1
        self.expired, rest = divmod(found["spent"]["all"] - found["journal"], shop.worst()[1])
        assert rest == 0
        assert 0 <= self.expired <= found["cut"]
        self.crashed = found["ends"].get("crashed", 0)


def epochs(count: int, pool: Pool, make: Callable[[], Stores], seed: int, slow: float = 1.0) -> list[Epoch]:
    """`count` kills, on stores that are made anew after every 20."""
    random, done = Random(seed), []
    for number in range(0, count, AGAIN):
        epoch = Epoch(pool, make(), random, "one" if number // AGAIN % 2 else "", slow)
        epoch.recover()  # makes the tables, which may take longer than any process lives
        for _ in range(min(AGAIN, count - number)):
            epoch.kill()
            if random.random() < 0.3:
                epoch.recover()
        epoch.recover()
        done.append(epoch)
        slow = epoch.slow
    return done


def proved(done: list[Epoch]) -> bool:
    """Whether kills hit calls under way, and calls had returned."""
    kills = sum(one.kills for one in done)
    return min(_counts(done)) > kills / 20


def _counts(done: list[Epoch]) -> tuple[int, int, int]:
    """Calls told of, holds and audited calls cut off."""
    settled, expired = sum(len(one.settled) for one in done), sum(one.expired for one in done)
    return settled, expired, sum(one.crashed for one in done)


def tell(kind: str, done: list[Epoch]) -> None:
    """Say what was proved, and see that it was."""
    settled, expired, crashed = _counts(done)
    kills = sum(one.kills for one in done)
    shop.report(
        f"{kind}: {kills} kills, {settled} calls told of, {expired} holds and {crashed} audited calls cut off"
    )
    assert proved(done)


KILLS = {"sqlite": 380, "redis": 60, "postgres": 60}


@pytest.mark.parametrize("kind", KILLS)
async def test_what_was_told_is_kept_and_nothing_stays_taken(
    pools: list[Pool], make_stores: Make, kind: str
) -> None:
    make_stores(kind)  # its server is started by the test's own thread
    lanes = pools[:2]

    def lane(number: int) -> list[Epoch]:
        pool, make = lanes[number], lambda: make_stores(kind)
        done = epochs(KILLS[kind] * LONG // len(lanes), pool, make, number)
        for more in range(1, 6):  # on a busy machine it takes some to learn how long processes have to live
            if not proved(done):
                done += epochs(AGAIN, pool, make, number + 1000 * more, done[-1].slow)
        return done

    def both() -> list[Epoch]:
        with ThreadPoolExecutor(len(lanes)) as threads:
            return [epoch for part in threads.map(lane, range(len(lanes))) for epoch in part]

    tell(kind, await asyncio.to_thread(both))


OUTAGES = 3
BETWEEN = 50
"""Calls that return before each outage, and after the last."""


@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_a_server_that_is_killed_loses_nothing_it_had_taken(
    pools: list[Pool], kind: str, tmp_path: Path
) -> None:
    audit = f"sqlite:///{tmp_path}/audit.db?timeout=60"
    own = RedisServer(appendonly="always") if kind == "redis" else PostgresServer()
    with own as server:
        url = f"{server.url}?timeout=30"  # whose connections are cut is told at once, however long that is
        stores = Stores(url, audit if kind == "redis" else url)
        epoch = Epoch(pools[0], stores, Random(1), "")
        await asyncio.to_thread(epoch.recover)
        pool = pools[0]

        def has_said(lines: int) -> bool:
            return len(pool.said()) >= lines

        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(
                pool.run, "grind", stores=[stores.main, stores.audit], seed=1, ahead=epoch.ahead, writer="",
                home=str(tmp_path),
            )  # fmt: skip
            for number in range(OUTAGES + 1):
                await until(partial(has_said, len(pool.said()) + BETWEEN), [running])
                if number < OUTAGES:
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(server.start)
            (tmp_path / "stop").touch()
            epoch.read(await asyncio.wrap_future(running))
        shop.report(f"{kind}: killed {OUTAGES} times, {len(epoch.settled)} calls told of")
        assert len(epoch.settled) > OUTAGES * BETWEEN
        await asyncio.to_thread(epoch.recover)
        assert epoch.crashed == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_four_that_find_the_same_dead_writer_end_its_calls_once(
    pools: list[Pool], make_stores: Make, kind: str, tmp_path: Path
) -> None:
    stores = make_stores(kind)
    both = [stores.main, stores.audit]
    runtime = shop.runtime(stores, 0.0)
    audit = shared(runtime, stores.audit).audit("audit")

    def kill(number: int, pool: Pool) -> None:
        """In the middle of its calls, most likely."""
        home = Path(mkdtemp(dir=tmp_path))
        pool.run(
            "grind", stores=both, seed=number, ahead=number * 100.0, writer="", home=str(home),
            kill_when=home / "settled", kill_after=0.01,
        )  # fmt: skip

    def mourn(number: int) -> None:
        home = tmp_path / str(number)
        home.mkdir()
        with ThreadPoolExecutor(len(pools)) as threads:
            args = {"stores": both, "ahead": number * 100.0 + 90.0, "home": str(home)}
            running = [threads.submit(pool.run, "mourn", **args) for pool in pools]
            while len(list(home.glob("asked-*"))) < len(pools) and not any(one.done() for one in running):
                time.sleep(0.002)
            (home / "go").touch()
            for one in running:
                one.result()

    crashed = 0
    for number in range(1, 1 + 4 * LONG):
        for pool in pools[:2]:
            await asyncio.to_thread(kill, number, pool)
        while not await audit.unended():
            await asyncio.to_thread(kill, number, pools[0])
        await asyncio.to_thread(mourn, number)
        records = await shop.trail(audit)
        assert await shop.trail_faults(audit, records) == []
        assert sum(record.outcome == "crashed" for record in records) > crashed
        crashed = sum(record.outcome == "crashed" for record in records)
    await runtime.aclose()
