"""Four processes, a thousand calls at once, room for ten: ten are made (M1, RL6)."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import BudgetExceeded, LimitReached
from llmpipe.state import shared
from tests.fleet import shop
from tests.fleet.conftest import Make
from tests.fleet.pool import Pool
from tests.fleet.shop import COST, Stores

pytestmark = pytest.mark.real_time

ROOM, CALLS = 10, 250
REFUSALS = {"budget": "BudgetExceeded", "rate": "LimitReached", "slots": "LimitReached"}


def run_all(pools: list[Pool], stores: Stores, concern: str, home: Path) -> list[dict[str, Any]]:
    """What four processes say; the gate opens when each of them has asked for all its calls."""
    args = {"stores": [stores.main, stores.audit], "concern": concern, "room": ROOM, "calls": CALLS}
    with ThreadPoolExecutor(len(pools)) as threads:
        running = [threads.submit(pool.run, "rush", home=str(home), **args) for pool in pools]
        while len(list(home.glob("asked-*"))) < len(pools) and not any(one.done() for one in running):
            time.sleep(0.01)
        (home / "go").touch()
        return [json.loads(one.result()[-1]) for one in running]


@pytest.mark.parametrize("concern", ["budget", "rate", "slots"])
@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
async def test_of_a_thousand_calls_of_four_processes_ten_reach_a_provider(
    pools: list[Pool], make_stores: Make, kind: str, concern: str, tmp_path: Path
) -> None:
    stores = make_stores(kind)
    said = await asyncio.to_thread(run_all, pools, stores, concern, tmp_path)
    reached = sum(one["reached"] for one in said)
    refused = sum(sum(one["refused"].values()) for one in said)
    assert (reached, refused) == (ROOM, 4 * CALLS - ROOM), said
    assert all(reason.startswith(REFUSALS[concern]) for one in said for reason in one["refused"]), said
    await look(stores, concern)


async def look(stores: Stores, concern: str) -> None:
    """Afterwards: what was spent is what was paid, nothing is held, the trail of all is whole."""
    runtime = shop.runtime(stores, 0.0)
    audit = shared(runtime, stores.audit).audit("audit")
    records = await shop.trail(audit)
    assert len(await audit.writers()) == 4
    assert len(records) == 2 * 4 * CALLS
    assert await shop.trail_faults(audit, records) == []
    assert sum(record.outcome == "ok" for record in records) == ROOM
    if concern == "budget":
        most = ROOM * shop.worst()[0]
        budget = shop.budget(stores.main, most)
        statuses = await budget.status(runtime)
        assert [(one.spent, one.held) for one in statuses] == [(ROOM * COST, 0)] * 2
        assert most >= ROOM * COST
        rows = await shop.journal(budget.desk(runtime).ledger)
        assert [row.nano for row in rows] == [COST] * ROOM
        shop.report(f"overspent: {max(0, statuses[0].spent - most)} nano-USD")
    else:
        limits = getattr(shop, concern)(stores.main, ROOM)
        (state,) = await limits.status(runtime)
        assert state.remaining == pytest.approx(ROOM if concern == "slots" else 0, abs=0.1)
    await runtime.aclose()


@pytest.mark.parametrize("concern", ["budget", "rate", "slots"])
async def test_of_a_thousand_calls_in_memory_ten_reach_a_provider(concern: str, tmp_path: Path) -> None:
    runtime, provider = shop.runtime(Stores("memory://", "memory://"), 0.0), shop.Gated()
    most = ROOM * shop.worst()[0]
    budget = shop.budget("memory://", most)
    limits = getattr(shop, concern)("memory://", ROOM) if concern != "budget" else budget
    chain = shop.chain(provider, Stores("memory://", "memory://"), runtime, limits)

    async def one() -> str:
        try:
            await chain.complete(shop.ASK)
        except (BudgetExceeded, LimitReached) as error:
            return type(error).__name__
        return "ok"

    tasks = [asyncio.create_task(one()) for _ in range(4 * CALLS)]
    while len(provider.requests) + sum(task.done() for task in tasks) < 4 * CALLS:
        await asyncio.sleep(0)
    provider.gate.set()
    assert Counter(await asyncio.gather(*tasks)) == {"ok": ROOM, REFUSALS[concern]: 4 * CALLS - ROOM}
    assert len(provider.requests) == ROOM
    if concern == "budget":
        assert [(one.spent, one.held) for one in await budget.status(runtime)] == [(ROOM * COST, 0)] * 2
    audit = shared(runtime, "memory://").audit("audit")
    await runtime.aclose()
    records = await shop.trail(audit)
    assert await shop.trail_faults(audit, records) == []
    assert len(records) == 2 * 4 * CALLS
