"""Redis answers nobody for a while, under load (F90): what each feature does, and that all is settled after.

``LLMPIPE_LONG`` makes it 60 seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmpipe.middleware.budget import Budget, Rule
from llmpipe.state import shared
from llmpipe.testing.servers.redis import RedisServer, find_redis
from tests.fleet import shop
from tests.fleet.jobs import MOST_CALLS, MOST_NANO, NODES, SLACK
from tests.fleet.pool import Pool, until
from tests.fleet.shop import PRICES, Stores

pytestmark = pytest.mark.real_time

SECONDS = 60.0 if os.environ.get("LLMPIPE_LONG") else 5.0
TIMEOUT = 2.0
"""Seconds in which a store on a busy machine answers too: when it does not, the budget lends anew."""
STEPS = 8
"""Times that one call may wait for the store: to look in the cache and put there, to take and settle limits,
to reserve, settle and look at balances; one that the outage begins in the middle of may wait again."""


@pytest.mark.skipif(find_redis() is None, reason="there is no redis-server")
async def test_fifty_callers_of_a_redis_that_stops(pools: list[Pool], tmp_path: Path) -> None:
    with RedisServer(appendonly="everysec") as server:
        stores = Stores(f"{server.url}?timeout={TIMEOUT}", f"sqlite:///{tmp_path}/audit.db?timeout=60")

        def process(number: int) -> dict[str, Any]:
            said = pools[number].run(
                "load", stores=[stores.main, stores.audit], seed=number, home=str(tmp_path)
            )
            found: dict[str, Any] = json.loads(said[-1])
            return found

        def limited_calls(pool: Pool) -> int:
            return pool.said().count("billed limited")

        def all_have(*names: str) -> bool:
            return all(len(list(tmp_path.glob(f"{name}-*"))) == NODES for name in names)

        with ThreadPoolExecutor(NODES) as threads:
            running = [threads.submit(process, number) for number in range(NODES)]
            await until(lambda: all_have("ready"), running)
            (tmp_path / "go").touch()
            # What there is for `paid` and `limited` is used up.
            await until(lambda: all_have("paid-BudgetExceeded", "limited-LimitReached"), running)
            server.pause()
            await asyncio.sleep(SECONDS)
            await until(lambda: all_have("paid-StoreUnavailable"), running)
            await until(lambda: sum(map(limited_calls, pools[:NODES])) > MOST_CALLS, running)
            server.resume()
            await asyncio.sleep(2.5)
            (tmp_path / "stop").touch()
            said = [await asyncio.wrap_future(one) for one in running]
        for one in said:
            look(one)
        await look_at_the_books(stores, said)


def look(said: dict[str, Any]) -> None:
    """What the callers of one process met."""
    shop.report(str(said))
    met = said["met"]
    assert {name for name in met if name.startswith("cached")} == {"cached ok"}, (
        "a cache that is away is no failure"
    )
    assert not met.get("limited StoreUnavailable"), "each process goes on with its share"
    assert met["limited LimitReached"] > 0
    assert met["paid StoreUnavailable"] > 0, "the slack has an end"
    assert met["paid BudgetExceeded"] > 0
    assert said["owed"] == 0, "what was owed is settled without anybody's doing"
    assert said["after"] == {"paid BudgetExceeded": 1, "limited LimitReached": 1, "cached ok": 1}
    assert said["slowest"] < STEPS * TIMEOUT + 10.0, "and 10 s for a machine that has other things to do"


async def look_at_the_books(stores: Stores, said: list[dict[str, Any]]) -> None:
    """The ledger is what the providers have counted, and goes beyond its limit by no more than is said."""
    bill = {
        tenant: sum(one["bill"].get(tenant, 0) for one in said) for tenant in ("paid", "limited", "cached")
    }
    runtime = shop.runtime(stores, 0.0)
    rules = (
        Rule(name="all", usd=1000, period="total", action="alert"),
        Rule(name="paid", usd=1000, period="total", when={"account": "paid"}),
    )
    budget = Budget(rules=rules, store=stores.main, prices=PRICES)
    spent = {one.rule: (one.spent, one.held) for one in await budget.status(runtime, tenant="paid")}
    assert spent == {"all": (sum(bill.values()), 0), "paid": (bill["paid"], 0)}
    rows = await shop.journal(budget.desk(runtime).ledger)
    assert sum(row.nano or 0 for row in rows) == sum(bill.values())
    over, calls = bill["paid"] - MOST_NANO, bill["limited"] // shop.COST
    shop.report(f"budget: {over} nano-USD beyond {MOST_NANO}, at most {NODES * SLACK}")
    shop.report(f"limits: {calls - MOST_CALLS} calls beyond {MOST_CALLS}, at most {MOST_CALLS}")
    assert 0 < over <= NODES * SLACK
    refilled = MOST_CALLS * (SECONDS + 180) / 86_400  # of a day's, twice: there, and in the processes
    assert MOST_CALLS < calls <= 2 * (MOST_CALLS + refilled)
    audit = shared(runtime, stores.audit).audit("audit")
    assert await shop.trail_faults(audit, await shop.trail(audit)) == []
    await runtime.aclose()
