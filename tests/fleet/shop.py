"""The chain that all processes of the fleet run: Audit, Limits and Budget over stores they share."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import Any

from attrs import frozen

from llmpipe.middleware.audit import Audit
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import PriceTable, worst_case
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.state import Audit as Trail
from llmpipe.state import AuditQuery, AuditRecord, Ledger, Spend, shared
from llmpipe.state.hash_chain import fault
from llmpipe.types import Request, Usage

PRICES = {"mock/mock-1": {"input": 1.0, "output": 2.0}}  # USD per million tokens: 1000 and 2000 nano a token
ASK = Request(messages="say it", max_tokens=100)
USED = Usage(10, 40)
COST = 10 * 1000 + 40 * 2000
"""Nano-USD of each call that is answered."""


@frozen
class Stores:
    """Where the fleet keeps its state. Redis keeps no audit trail, so that has a place of its own."""

    main: str
    audit: str


def worst() -> tuple[int, int]:
    """Nano-USD that are held for a call, and what of it is likely."""
    cost = worst_case(ASK, PriceTable(PRICES).find("mock", "mock-1"))
    assert cost is not None
    return cost.input_nano + cost.output_nano, cost.input_nano


def budget(store: str, nano: int, **settings: Any) -> Budget:
    """Two budgets, one of all and one of each account, of which the first is the tighter."""
    rules = (
        Rule(name="all", usd=Decimal(nano).scaleb(-9), period="total"),
        Rule(name="own", usd=Decimal(2 * nano).scaleb(-9), period="day", per="account"),
    )
    return Budget(rules=rules, store=store, prices=PRICES, **settings)


class Gated(MockProvider):
    """A provider that answers nobody before the gate is open, and counts who came."""

    def __init__(self) -> None:
        super().__init__(default="it", usage=USED)
        self.gate = asyncio.Event()

    async def __call__(self, call: Call) -> Reply:
        reply = await super().__call__(call)
        await self.gate.wait()
        return reply


def runtime(stores: Stores, ahead: float) -> Runtime:
    """A runtime whose stores are that many seconds ahead of their clocks."""
    made = Runtime()
    for url in {stores.main, stores.audit}:
        store: Any = shared(made, url)
        store.ahead = ahead
    return made


def report(text: str) -> None:
    """What was found, for who reads it (``pytest -s``)."""
    sys.stdout.write(f"\n{text}\n")


async def journal(ledger: Ledger) -> list[Spend]:
    """All of it."""
    rows: list[Spend] = []
    while page := await ledger.spends(after=rows[-1] if rows else None):
        rows += page
    return rows


async def trail(audit: Trail) -> list[AuditRecord]:
    """All of it."""
    records: list[AuditRecord] = []
    while page := await audit.query(AuditQuery(), after=records[-1] if records else None):
        records += page
    return records


async def trail_faults(audit: Trail, records: list[AuditRecord]) -> list[str]:
    """What is wrong with the trail: chains that are broken, calls without one begin or one end."""
    found = []
    for writer in await audit.writers():
        own = sorted([record for record in records if record.writer == writer], key=lambda one: one.seq)
        wrong = fault(own, await audit.anchor(writer))
        found += [wrong] if wrong else []
    counts: dict[str, list[int]] = {}
    for record in records:
        counts.setdefault(record.call, [0, 0])[record.kind == "end"] += 1
    found += [
        f"{call}: {begins} begins, {ends} ends"
        for call, (begins, ends) in counts.items()
        if (begins, ends) != (1, 1)
    ]
    return found


def chain(provider: MockProvider, stores: Stores, made: Runtime, *parts: Any, **audit: Any) -> Chain:
    """`parts` within an audit trail."""
    return Chain(provider, Audit(store=stores.audit, **audit), *parts, runtime=made)


def slots(store: str, count: int, **settings: Any) -> Limits:
    """So many calls at once."""
    return Limits(limits=(Limit(concurrency=count),), store=store, **settings)


def rate(store: str, burst: int, **settings: Any) -> Limits:
    """So many calls, and next to none for a day."""
    return Limits(limits=(Limit(requests_per_day=burst, burst=burst),), store=store, **settings)
