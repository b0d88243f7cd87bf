"""Thousands of streams over sockets, and providers that misbehave: the journal is the providers' bill.

Who leaves has not read all that was sent; there the bill cannot be known, and an estimate stands in its
place, until the invoice comes and is booked. Everywhere else the journal and the bill agree to the
nano-dollar before that, question by question.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
from attrs import frozen

from llmpipe.config import presets
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.budget.booking import Booked, book
from llmpipe.middleware.budget.invoice import InvoiceLine, read_invoice
from llmpipe.middleware.budget.journal import scopes_of_line
from llmpipe.middleware.budget.reconcile import CORRECTION, match, reconcile
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.runtime import Runtime
from llmpipe.state import Balance, Ledger, Spend
from llmpipe.types import Request
from tests.integration.storm import Storm, listening
from tests.integration.test_many_streams import Remembering, compare_books, connections, misbehaving
from tests.middleware.budget.bank import NOON

STREAMS = 10_000
TWO_DAYS = 2 * 86_400.0
RULES = (
    Rule(usd=1000, period="day", per="account"),
    Rule(usd=1000, period="month", per="model", action="alert"),
    Rule(usd=1000, period="total", per="provider"),
)
_began = monotonic()


def wall() -> float:
    """A clock of a day that is far from over, for the journal and both simulators."""
    return NOON + monotonic() - _began


def asked(number: int) -> Request:
    return Request(messages=f"Tell me about topic {number}, please.", max_tokens=64, stream=True)


@frozen
class Result:
    """What the storm has left: the journal, and the books of both providers."""

    storm: Storm
    config: Budget
    simulators: dict[str, Remembering]
    ledger: Ledger

    async def rows(self) -> list[Spend]:
        return await self.ledger.spends(limit=10**6)

    @property
    def billed(self) -> int:
        return sum(simulator.book.billed_nano for simulator in self.simulators.values())

    def invoice(self, name: str, folder: Path) -> list[InvoiceLine]:
        """The bill of one of them, by way of a file."""
        path = folder / f"{name}.csv"
        path.write_text(self.simulators[name].book.invoice())
        return read_invoice(path)

    async def book(self, folder: Path) -> dict[str, Booked]:
        """Both bills, two days later."""
        return {
            name: await book(
                self.ledger,
                self.config.rules,
                self.invoice(name, folder),
                provider=name,
                exported_at=NOON + TWO_DAYS,
            )
            for name in self.simulators
        }


def nano(rows: list[Spend]) -> int:
    return sum(row.nano or 0 for row in rows)


@pytest.mark.real_time  # sockets of two servers
async def test_the_journal_is_the_bill_of_the_providers_and_no_hold_is_left(tmp_path: Path):
    config = Budget(rules=RULES)
    with listening():
        storm, simulators = await over_sockets(config)
    result = Result(storm, config, simulators, config.desk(storm.chain.runtime).ledger)
    await check_before_the_invoice(result)
    before = await result.rows()
    told = tell(result, before, tmp_path)
    booked = await result.book(tmp_path)
    await check_after_the_invoice(result, booked, tmp_path)
    corrections = [one for each in booked.values() for one in each.corrections]
    ways, estimated = Counter(caller.way for caller in storm.callers), sum(row.estimated for row in before)
    sys.stdout.write(
        f"\n{STREAMS} streams, {dict(ways)}\n"
        f"ended {dict(storm.ends)}; {len(before)} attempts, {estimated} estimated\n"
        f"nano-USD: bill {result.billed}, journal before {nano(before)}, after {nano(await result.rows())}\n"
        f"{len(corrections)} corrections: {sum(one.nano for one in corrections)} nano-USD, "
        f"{sum(not one.request_id for one in corrections)} by day and model\n{told}\n"
    )


async def check_before_the_invoice(result: Result) -> None:
    """The journal is what the attempts say; and where nobody left, what the providers bill."""
    storm, runtime = result.storm, result.storm.chain.runtime
    assert await result.ledger.holds() == []
    attempts, rows = storm.attempts(), await result.rows()
    assert len(rows) == len(attempts)
    assert nano(rows) == sum(a.charge.total_nano for a in attempts) == Cost.totals(runtime).all.nano
    by_number = {(row.call, row.id.rpartition("/")[2]): row for row in rows}
    for caller in storm.callers:
        for attempt in caller.call.ledger.attempts if caller.call else ():
            row = by_number[caller.call.id, str(attempt.number)]  # type: ignore[union-attr]  # it has one
            assert (row.nano, row.status) == (attempt.charge.total_nano, attempt.status)  # type: ignore[union-attr]
    agreed = [compare_books(storm, simulator, name) for name, simulator in result.simulators.items()]
    assert min(map(sum, zip(*agreed, strict=True))) > 0, agreed
    await check_balances(result)


async def check_after_the_invoice(result: Result, booked: dict[str, Booked], folder: Path) -> None:
    """The journal is what the providers bill, of all calls, however they were left."""
    rows = await result.rows()
    assert nano(rows) == result.billed
    for name, done in booked.items():
        lines = result.invoice(name, folder)
        mine = [row for row in rows if row.provider == name]
        by_id = {row.request_id: row for row in mine if not row.id.startswith(CORRECTION)}
        assert nano(mine) == result.simulators[name].book.billed_nano
        assert reconcile(mine, lines, tolerance_usd=0).exit_code == 0
        assert (done.left, done.withheld, done.untold) == ((), {}, ())
        assert done.corrections
        for one in done.corrections:
            assert one.estimated
            assert not one.request_id or by_id[one.request_id].estimated
    assert await result.ledger.holds() == []
    await check_balances(result)
    again = await result.book(folder)
    assert [one for each in again.values() for one in each.corrections] == []
    assert await result.rows() == rows


async def check_balances(result: Result) -> None:
    """Every balance is what the journal's lines for it add up to, and nothing is held."""
    sums: Counter[tuple[str, int]] = Counter()
    for row in await result.rows():
        for rule in RULES:
            sums[rule.account(scopes_of_line(row)), rule.period_at(row.at).start] += row.nano or 0
    assert len(sums) == 7 + 2 + 2
    balances = await result.ledger.balances(list(sums))
    assert dict(zip(sums, balances, strict=True)) == {key: Balance(spent, 0) for key, spent in sums.items()}


def tell(result: Result, rows: list[Spend], folder: Path) -> str:
    """How good the estimates were: by how the attempts ended, against the lines of the bill."""
    found = []
    for name in result.simulators:
        mine = [row for row in rows if row.provider == name]
        ours: Counter[str] = Counter()
        theirs: Counter[str] = Counter()
        count: Counter[str] = Counter()
        for each in match(mine, result.invoice(name, folder)):
            if not any(row.estimated for row in each.spends):
                continue
            kind = each.spends[0].status if each.request_id else "without an id"
            ours[kind] += each.spent
            theirs[kind] += each.billed
            count[kind] += len(each.spends)
        found += [
            f"{name}, {kind}: {count[kind]}, estimate {ours[kind]}, bill {theirs[kind]}, "
            f"{100 * (ours[kind] / (theirs[kind] or 1) - 1):+.1f} %"
            for kind in sorted(count)
        ]
    return "\n".join(found)


async def over_sockets(config: Budget) -> tuple[Storm, dict[str, Remembering]]:
    alpha, beta = misbehaving(5, wall, slow=0.4)
    options: Any = {"api_key": "sk-test", "transport": {"max_connections": connections()}}
    async with alpha, beta:
        first = provider("openai", base_url=f"{alpha.url}/v1", model="gpt-4o-mini", name="alpha", **options)
        second = provider(
            "anthropic", base_url=f"{beta.url}/v1", model="claude-haiku-4-5", name="beta", **options
        )
        layers = presets.production(
            timeout=Timeout(first=4.0, idle=4.0, total=30.0),
            retry=Retry(base=0.02, cap=0.2),
            # One that opens seldom and for a moment, so that nearly all reach a provider.
            breaker=Breaker(ratio=0.95, consecutive=40, base=0.1, cap=0.2),
            hedge=Hedge(delay=1.0),
            rate_limit=RateLimit(concurrency=connections() + 50, per="target"),
            fallback=Fallback(second),
            budget=config,
        )
        async with Chain(first, *layers, runtime=Runtime(seed=5, wall=wall)) as chain:
            storm = Storm(chain, at_once=150)
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
