"""What the processes of the fleet do. Each job says what it did in lines that its order's file gets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from llmpipe.errors import BudgetExceeded, LimitReached, ServiceUnavailable, StoreUnavailable
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.state import Ask, shared
from llmpipe.types import Request
from tests.fleet import shop
from tests.fleet.pool import say
from tests.fleet.shop import ASK, COST, Gated, Stores


def warm_up() -> None:
    """Load what is loaded on first use, before anybody forks."""
    import llmpipe_postgres  # noqa: F401  what the children need
    import llmpipe_redis  # noqa: F401  what the children need

    with TemporaryDirectory() as home:
        file = f"sqlite:///{home}/warm.db"
        for stores in (
            [file, file],
            ["redis://127.0.0.1:1/0", "memory://"],
            ["postgresql://a@127.0.0.1:1/a", "memory://"],
        ):
            asyncio.run(_warm(Stores(*stores)))


async def _warm(where: Stores) -> None:
    """One call, which fails where nobody listens, and loads what is loaded on first use all the same."""
    logging.disable()  # of what is away
    runtime = shop.runtime(where, 0.0)
    provider = MockProvider(default=["it"], usage=shop.USED)
    chain = shop.chain(provider, where, runtime, shop.budget(where.main, 10**12), _limits(where))
    with suppress(StoreUnavailable):
        async with chain.stream(ASK, tenant="acme") as reply:
            await reply.full()
    await runtime.aclose()
    logging.disable(logging.NOTSET)


# ------------------------------------------------------------ four at once on room for ten


async def rush(stores: list[str], concern: str, room: int, calls: int, home: str) -> None:
    """Ask `calls` times at once, and let nobody be answered before the file ``go`` is in `home`.

    Leaves a file ``asked-…`` there when each call is refused or has reached the provider.
    """
    where = Stores(*stores)
    runtime, provider = shop.runtime(where, 0.0), Gated()
    parts: dict[str, Any] = {
        "budget": lambda: shop.budget(where.main, room * shop.worst()[0]),
        "rate": lambda: shop.rate(where.main, room),
        "slots": lambda: shop.slots(where.main, room),
    }
    refused: Counter[str] = Counter()
    chain = shop.chain(provider, where, runtime, parts[concern](), flush=0.05)

    async def one() -> None:
        try:
            await chain.complete(ASK)
        except Exception as error:  # noqa: BLE001  counted, and looked at by the test
            refused[f"{type(error).__name__} {error}"[:200]] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(one())
        while len(provider.requests) + refused.total() < calls:
            await asyncio.sleep(0.005)
        Path(home, f"asked-{os.getpid()}").touch()
        while not Path(home, "go").exists():
            await asyncio.sleep(0.005)
        provider.gate.set()
    await chain.aclose()
    say(json.dumps({"reached": len(provider.requests), "refused": dict(refused)}))


# ------------------------------------------------------------ another time on the wall

CLOCK_LEASE = 60.0


async def clock(stores: list[str], skew: float, ahead: float, ticket: str) -> None:
    """Ask for one of 100 units a day and for the only slot, in a process whose wall clock is `skew` s off."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + skew  # nobody else is in this process
    time.time_ns = lambda: right_ns() + int(skew * 1e9)
    runtime = shop.runtime(Stores(*stores), ahead)
    limits = shared(runtime, stores[0]).limits("clocks")
    asks = [Ask("units", 1.0, 100.0, 86_400.0, 100.0), Ask("slot", 1.0, 1.0)]
    taken = await limits.take(ticket, asks, CLOCK_LEASE)
    await runtime.aclose()
    say(json.dumps({"refused": taken.refused, "left": taken.levels[0].remaining}))


# ------------------------------------------------------------ until somebody kills it


CALLERS = 4


async def grind(stores: list[str], seed: int, ahead: float, writer: str, home: str = "") -> None:
    """Call after call, four at a time. Says ``settled <key> <nano>`` of each when it has returned.

    It has no end, but for the file ``stop`` in `home`, where it leaves a file ``settled`` when one has. Calls
    that fail because the store is away say nothing.
    """
    where, random = Stores(*stores), Random(seed)

    def answer(_: object) -> Any:
        dice = random.random()
        if dice < 0.1:
            return ServiceUnavailable("no", sent=True, billed="no")
        return ([Wait(random.random() * 0.005)] if dice < 0.7 else []) + ["it ", "is ", "it"]

    runtime = shop.runtime(where, ahead)
    provider = MockProvider(default=answer, usage=shop.USED)
    chain = shop.chain(
        provider, where, runtime, shop.budget(where.main, 10**12), _limits(where), flush=0.02, writer=writer
    )

    async def caller(number: int) -> None:
        count = 0
        while not (home and Path(home, "stop").exists()):
            count += 1
            key = f"{seed}-{number}-{count}"
            try:
                if count % 3:
                    await chain.complete(ASK, tenant="acme", tags={"key": key})
                else:
                    async with chain.stream(ASK, tenant="acme", tags={"key": key}) as reply:
                        async for _event in reply:
                            pass
            except ServiceUnavailable:
                say(f"settled {key} 0")
            except StoreUnavailable:
                await asyncio.sleep(0.02)
                continue
            else:
                say(f"settled {key} {COST}")
            if home and count == 1:
                Path(home, "settled").touch()

    say("begun")
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(number))
    await chain.aclose()


def _limits(where: Stores) -> Limits:
    return Limits(
        limits=(
            Limit(concurrency=64),
            Limit(name="own", per="account", requests_per_minute=1e6, tokens_per_minute=1e9),
        ),
        store=where.main,
    )


async def recover(stores: list[str], ahead: float, writer: str) -> None:
    """Begin again when all leases have ended; say as JSON what is there, and what is wrong with it."""
    where = Stores(*stores)
    runtime = shop.runtime(where, ahead)
    budget, limits = shop.budget(where.main, 10**12), _limits(where)
    chain = shop.chain(
        MockProvider(default="it", usage=shop.USED),
        where,
        runtime,
        budget,
        limits,
        flush=0.001,
        writer=writer,
    )
    ledger = budget.desk(runtime).ledger
    faults = [f"hold {hold} is older than its lease" for hold in await ledger.holds()]
    await ledger.sweep()
    rows = await shop.journal(ledger)
    spent: dict[str, int] = {}
    for status in await budget.status(runtime, tenant="acme"):
        spent[status.rule] = status.spent
        if status.held:
            faults.append(f"{status.held} nano-USD are held of {status.rule}")
    for state in await limits.status(runtime, tenant="acme"):
        if state.unit == "slots" and state.remaining != 64:
            faults.append(f"{state.remaining} of 64 slots are free")
    await chain.complete(
        ASK, tenant="acme", tags={"key": "recovered"}
    )  # it serves, and its audit looks for the dead
    audit = shared(runtime, where.audit).audit("audit")
    patience = time.monotonic() + 60.0
    while await audit.lost() and time.monotonic() < patience:
        await asyncio.sleep(0.002)
    await chain.aclose()
    records = await shop.trail(audit)
    faults += await shop.trail_faults(audit, records)
    ends = Counter([record.outcome for record in records if record.kind == "end"])
    crashed = {record.call for record in records if record.outcome == "crashed"}
    await runtime.aclose()
    say(json.dumps({
        "faults": faults, "cut": len(crashed - {row.call for row in rows}), "spent": spent, "ends": ends,
        "rows": {row.key: row.nano for row in rows}, "journal": sum(row.nano or 0 for row in rows),
    }))  # fmt: skip


async def mourn(stores: list[str], ahead: float, home: str) -> None:
    """Look for writers that have died, when the file ``go`` is in `home`, and end their calls."""
    where = Stores(*stores)
    runtime = shop.runtime(where, ahead)
    audit = shared(runtime, where.audit).audit("audit")
    await audit.writers()  # opens the store
    Path(home, f"asked-{os.getpid()}").touch()
    while not Path(home, "go").exists():
        await asyncio.sleep(0.001)
    chain = shop.chain(MockProvider(default="it", usage=shop.USED), where, runtime, flush=0.001)
    await chain.complete(ASK)
    patience = time.monotonic() + 60.0
    while await audit.lost() and time.monotonic() < patience:
        await asyncio.sleep(0.002)
    await chain.aclose()


# ------------------------------------------------------------ while the store is away

NODES = 2
MOST_CALLS = 200
"""Of the tenant ``limited``, in a day: none comes back while a slow machine runs the test."""
MOST_NANO = 100 * COST
"""Of the tenant ``paid``."""
SLACK = 50 * COST
"""Nano-USD that each process may lend ``paid`` while the ledger is away."""


class _Signs:
    """Files in `home` for who waits for something: their names end with the number of this process."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._given: set[str] = set()

    def give(self, name: str, *, when: bool = True) -> None:
        if when and name not in self._given:
            self._given.add(name)
            Path(self._home, f"{name}-{os.getpid()}").touch()

    async def wait(self, name: str, file: str) -> None:
        """Give one, and wait for a file in answer."""
        self.give(name)
        while not Path(self._home, file).exists():
            await asyncio.sleep(0.005)


async def load(
    stores: list[str], seed: int, home: str, callers: int = 25, most: int = MOST_NANO, slack: int = SLACK
) -> None:
    """Callers in a loop until the file ``stop`` is in `home`; then once more. Says what they met, as JSON.

    They begin when the file ``go`` is there. Says ``billed <tenant>`` whenever the provider answers. Its
    signs are ``ready``; ``busy`` when ``paid`` has had some answers; ``<tenant>-<error>`` when it met one.
    """
    where = Stores(*stores)
    runtime = shop.runtime(where, 0.0)
    bill: Counter[str] = Counter()
    met: Counter[str] = Counter()
    slowest, lent = 0.0, 0
    signs = _Signs(home)

    def answer(request: Any) -> Any:
        bill[request.metadata["tenant"]] += COST
        say(f"billed {request.metadata['tenant']}")
        signs.give("busy", when=bill["paid"] == 5 * COST)
        return [Wait(0.02), "it"]

    all_ = Rule(name="all", usd=1000, period="total", action="alert")
    paid = Rule(name="paid", usd=Decimal(most).scaleb(-9), period="total", when={"account": "paid"})
    budget = Budget(rules=(all_, paid), store=where.main, prices=shop.PRICES, slack_usd=slack / 1e9)
    limit = Limit(when={"account": "limited"}, requests_per_day=MOST_CALLS, burst=MOST_CALLS)
    chain = shop.chain(
        MockProvider(default=answer, usage=shop.USED), where, runtime, budget,
        Limits(limits=(limit,), store=where.main, on_store_failure="share", nodes=NODES),
        Cache(store=where.main if where.main.startswith("redis:") else "memory://"), flush=0.1,
    )  # fmt: skip

    async def one(tenant: str, prompt: str) -> None:
        nonlocal slowest, lent
        began = time.monotonic()
        request = Request(messages=prompt, max_tokens=100, metadata={"tenant": tenant})
        try:
            await chain.complete(request, tenant=tenant)
        except (BudgetExceeded, LimitReached, StoreUnavailable) as error:
            met[f"{tenant} {type(error).__name__}"] += 1
            signs.give(f"{tenant}-{type(error).__name__}")
            await asyncio.sleep(0.02)
        else:
            met[f"{tenant} ok"] += 1
            if tenant == "cached":
                await asyncio.sleep(0.005)  # hits in memory would leave nobody else a turn
        slowest, lent = max(slowest, time.monotonic() - began), max(lent, desk.lent)

    async def caller(number: int) -> None:
        tenant = ("paid", "limited", "cached", "paid", "limited")[number % 5]
        count = 0
        while not Path(home, "stop").exists():
            count += 1
            await one(tenant, f"prompt {number % 3}" if tenant == "cached" else f"{seed} {number} {count}")

    async def answers() -> bool:
        try:
            await desk.ledger.holds()
        except StoreUnavailable:
            return False
        return True

    desk = budget.desk(runtime)
    await signs.wait("ready", "go")
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
    stopped = time.monotonic()
    while (desk.owed or not await answers()) and time.monotonic() < stopped + 40:
        await asyncio.sleep(0.05)
    owing = time.monotonic() - stopped
    found = {"met": dict(met), "slowest": slowest, "lent": lent, "owed": desk.owed, "owing": owing}
    met.clear()
    for tenant in ("paid", "limited", "cached"):
        await one(tenant, f"after {seed}")
    await chain.aclose()
    say(json.dumps({**found, "bill": dict(bill), "after": dict(met)}))
