"""M4: the store that a fleet shares is gone for a while in the middle of the run (SIGSTOP, or kill -9).

Three processes spend from one budget, and one of them is killed while the store is away. What all of them
overspend is at most what each was allowed to lend itself; and when the store is back nothing is held for
good, nothing is below zero, and what is on the books is what the providers have billed.

How long it lasts is in ``SECONDS``; ``LLMPIPE_LONG`` makes it longer. `test_redis_outage` has the caches and
the limits, at a Redis that is frozen.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmpipe.middleware.budget import Budget, Rule
from llmpipe.state import shared
from llmpipe.testing.servers.postgres import PostgresServer, find_postgres
from llmpipe.testing.servers.redis import RedisServer, find_redis
from tests.fleet import shop
from tests.fleet.jobs import SLACK
from tests.fleet.pool import Pool, until
from tests.fleet.shop import COST, PRICES, Stores

pytestmark = pytest.mark.real_time

SECONDS = 20.0 if os.environ.get("LLMPIPE_LONG") else 1.2
NODES, CALLERS = 3, 10
LEASE = 600.0  # of what is held
TIMEOUT = 2.0
"""Seconds in which a store on a busy machine answers too: when it does not, the budget lends anew."""
MOST = 150 * COST
"""Nano-USD of the tenant ``paid``: more than is spent before the store goes."""

RULES = (
    Rule(name="all", usd=1000, period="total", action="alert"),
    Rule(name="paid", usd=1000, period="total", when={"account": "paid"}),
)


def start(kind: str) -> RedisServer | PostgresServer:
    if not (find_redis() if kind == "redis" else find_postgres()):
        pytest.skip(f"there is no {kind}")
    # What a process has written outlives its end, synced or not; one that syncs begins by syncing all.
    server = RedisServer(appendonly="always") if kind == "redis" else PostgresServer(fsync="off")
    server.start()
    return server


@pytest.mark.parametrize(
    ("kind", "loss", "slack"),
    [("redis", "kill", SLACK), ("redis", "pause", 0), ("postgres", "pause", SLACK), ("postgres", "kill", 0)],
)
async def test_a_store_that_is_gone_for_a_while_costs_no_more_than_is_said(
    pools: list[Pool], tmp_path: Path, kind: str, loss: str, slack: int
) -> None:
    with start(kind) as server:
        stores = Stores(f"{server.url}?timeout={TIMEOUT}", f"sqlite:///{tmp_path}/audit.db?timeout=60")
        runtime = shop.runtime(stores, 0.0)
        await shared(runtime, stores.main).check()  # makes the tables
        await runtime.aclose()

        def process(number: int) -> list[str]:
            return pools[number].run(
                "load", stores=[stores.main, stores.audit], seed=number, home=str(tmp_path), callers=CALLERS,
                most=MOST, slack=slack, kill_when=tmp_path / "kill" if number == 0 else None,
            )  # fmt: skip

        def all_have(name: str) -> bool:
            return len(list(tmp_path.glob(f"{name}-*"))) == NODES

        with ThreadPoolExecutor(NODES) as threads:
            running = [threads.submit(process, number) for number in range(NODES)]
            await until(lambda: all_have("ready"), running)
            (tmp_path / "go").touch()
            await until(lambda: all_have("busy"), running)
            await asyncio.to_thread(server.kill if loss == "kill" else server.pause)
            await asyncio.sleep(SECONDS)
            await until(lambda: all_have("paid-StoreUnavailable"), running)  # what it may lend has an end
            (tmp_path / "kill").touch()
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start if loss == "kill" else server.resume)
            await asyncio.sleep(0.5)
            (tmp_path / "stop").touch()
            said = [await asyncio.wrap_future(one) for one in running]
        await look(stores, said, slack)


async def look(stores: Stores, said: list[list[str]], slack: int) -> None:
    """The bill of each process, and the books when all leases are over."""
    bills = [Counter(line.split()[1] for line in lines if line.startswith("billed")) for lines in said]
    billed = sum(bills, Counter[str]())
    survivors: list[dict[str, Any]] = [json.loads(lines[-1]) for lines in said[1:]]
    over = billed["paid"] * COST - MOST
    kind, may = stores.main.partition(":")[0], NODES * slack // COST
    shop.report(f"{kind}: {over // COST} calls beyond {MOST // COST}, at most {may}; {survivors}")
    assert over <= NODES * slack
    for one in survivors:
        met = one["met"]
        assert one["owed"] == 0
        assert met["paid ok"] > 0
        assert one["lent"] > 0 if slack else met["paid StoreUnavailable"] > 0, "it was missed"
        assert "paid StoreUnavailable" not in one["after"], "it is back"

    runtime = shop.runtime(stores, LEASE + 5.0)
    budget = Budget(rules=RULES, store=stores.main, prices=PRICES)
    ledger = budget.desk(runtime).ledger
    await ledger.sweep()
    assert await ledger.holds() == []
    found = {one.rule: one for one in await budget.status(runtime, tenant="paid")}
    assert {one.held for one in found.values()} == {0}
    rows = await shop.journal(ledger)
    assert sum(row.nano or 0 for row in rows) == len(rows) * COST
    await runtime.aclose()
    assert len(rows) >= sum(bill.total() for bill in bills[1:]), "two have brought all of theirs"
    # The one that was killed told of nothing that it had lent itself; and of a call that it was in the middle
    # of the store knows what was held, and what was likely.
    spent, bill = found["paid"].spent, billed["paid"] * COST
    assert bill - slack - CALLERS * COST <= spent <= bill + CALLERS * shop.worst()[1]
    assert spent <= MOST + NODES * slack
