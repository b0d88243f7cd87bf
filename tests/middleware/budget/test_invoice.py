"""Thousands of streams over sockets, and providers that misbehave: the journal is the providers' bill.

Who leaves has not read all that was sent; there the bill cannot be known, and an estimate stands in its
place. Everywhere else the journal and the bill agree to the nano-dollar, question by question.
"""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.runtime import Runtime
from llmpipe.types import Request
from tests.integration.storm import Storm, listening
from tests.integration.test_many_streams import Remembering, compare_books, connections, misbehaving

STREAMS = 10_000 if os.environ.get("LLMPIPE_LONG") else 2000


def asked(number: int) -> Request:
    return Request(messages=f"Tell me about topic {number}, please.", max_tokens=64, stream=True)


@pytest.mark.real_time  # sockets of two servers
async def test_the_journal_is_the_bill_of_the_providers_and_no_hold_is_left():
    config = Budget(
        rules=(
            Rule(usd=1000, period="day", per="account"),
            Rule(usd=1000, period="month", per="model", action="alert"),
            Rule(usd=1000, period="total", per="provider"),
        )
    )
    with listening():
        storm, simulators = await over_sockets(config)
    runtime = storm.chain.runtime
    ledger = config.desk(runtime).ledger
    assert await ledger.holds() == []
    attempts = storm.attempts()
    rows = await ledger.spends(limit=10**6)
    assert len(rows) == len(attempts)
    assert sum(row.nano or 0 for row in rows) == sum(a.charge.total_nano for a in attempts)
    assert sum(row.nano or 0 for row in rows) == Cost.totals(runtime).all.nano
    by_number = {(row.call, row.id.rpartition("/")[2]): row for row in rows}
    for caller in storm.callers:
        for attempt in caller.call.ledger.attempts if caller.call else ():
            row = by_number[caller.call.id, str(attempt.number)]  # type: ignore[union-attr]  # it has one
            assert (row.nano, row.status) == (attempt.charge.total_nano, attempt.status)  # type: ignore[union-attr]
    agreed = [compare_books(storm, simulator, name) for name, simulator in simulators.items()]
    assert all(same > 0 and money > 0 for same, money in agreed), agreed
    sums: dict[str, int] = {}
    for row in rows:
        for scope in (f"total:provider/provider={row.provider}", f"day:account/account={row.tenant}"):
            sums[scope] = sums.get(scope, 0) + (row.nano or 0)
    for name in simulators:
        for status in await config.status(runtime, provider=name):
            if status.rule == "total:provider":
                assert (status.spent, status.held) == (sums[status.account], 0)
    for tenant in range(7):
        status = (await config.status(runtime, account=f"tenant-{tenant}"))[0]
        assert (status.spent, status.held) == (sums[status.account], 0)


async def over_sockets(config: Budget) -> tuple[Storm, dict[str, Remembering]]:
    alpha, beta = misbehaving(5)
    options: Any = {"api_key": "sk-test", "transport": {"max_connections": connections()}}
    async with alpha, beta:
        first = provider("openai", base_url=f"{alpha.url}/v1", model="gpt-4o-mini", name="alpha", **options)
        second = provider(
            "anthropic", base_url=f"{beta.url}/v1", model="claude-haiku-4-5", name="beta", **options
        )
        layers = presets.production(
            timeout=Timeout(first=4.0, idle=4.0, total=30.0),
            retry=Retry(base=0.02, cap=0.2),
            breaker=Breaker(base=0.3, cap=0.5),
            hedge=Hedge(delay=1.0),
            rate_limit=RateLimit(concurrency=connections() + 50, per="target"),
            fallback=Fallback(second),
            budget=config,
        )
        async with Chain(first, *layers, runtime=Runtime(seed=5)) as chain:
            storm = Storm(chain)
            storm.gather(STREAMS, Random(5), asked, within=STREAMS / 800, patience=2.0)
            await storm.break_loose()
            await storm.calm()
        for simulator in (alpha, beta):
            for _ in range(300):  # they notice who has gone
                if "open" not in simulator.book.ends:
                    break
                await asyncio.sleep(0.01)
            assert "open" not in simulator.book.ends
        return storm, {"alpha": alpha, "beta": beta}
