"""What the tests of budgets share: prices, a provider that keeps its own bill, a store that can go away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from attrs import define, field

from llmpipe.errors import StoreUnavailable
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.state import Balance, Draw, Shortage, Spend
from llmpipe.state.memory.ledger import MemoryLedger

PRICES = {
    "m": {"input": 2, "output": 10},  # USD per million: 2,000 and 10,000 nano-USD a token
    "small": {"input": "0.2", "output": 1},
    "large": {"input": 20, "output": 100},
}
NOON = 1_790_856_000.0  # 1 October 2026, 12:00 UTC


def budget(*rules: Rule, **settings: Any) -> Budget:
    return Budget(rules=rules, prices=PRICES, **settings)


def runtime(**settings: Any) -> Runtime:
    return Runtime(seed=1, wall=lambda: NOON, **settings)


def ledger_of(chain_or_runtime: Chain | Runtime, config: Budget | None = None) -> Any:
    """The ledger that the budget called "budget" in memory has."""
    found = chain_or_runtime if isinstance(chain_or_runtime, Runtime) else chain_or_runtime.runtime
    return (config or budget()).desk(found).ledger


async def spent(chain: Chain) -> int:
    """All that the journal knows of, in nano-USD."""
    return sum(row.nano or 0 for row in await ledger_of(chain).spends(limit=10**6))


async def balance(chain: Chain, config: Budget, **scopes: str) -> tuple[int, int]:
    """Spent and held of the first of its budgets, in nano-USD."""
    status = (await config.status(chain.runtime, **scopes))[0]
    return status.spent, status.held


class Counting:
    """Any provider, with how many requests came, and how many were there at once."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name, self.endpoint, self.model = inner, inner.name, inner.endpoint, inner.model
        self.count = self.now = self.most = 0

    async def __call__(self, call: Call) -> Reply:
        self.count += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            reply: Reply = await self.inner(call)
        finally:
            self.now -= 1
        return reply

    async def aclose(self) -> None:
        await self.inner.aclose()


def mock(*script: Any, **settings: Any) -> MockProvider:
    return MockProvider(script, **{"name": "p", "model": "m", **settings})


@define
class Shaky:
    """A ledger in memory that can be out of reach: before it does what it is asked, or after."""

    kept: MemoryLedger = field(factory=MemoryLedger)
    away: bool = False
    after: bool = False
    """It does what it is asked, and nobody hears of it."""
    pause: float = 0.0
    calls: list[str] = field(factory=list)
    settled: list[str] = field(factory=list)
    refuses: Exception | None = None

    async def _reach(self, what: str) -> None:
        self.calls.append(what)
        if self.pause:
            await asyncio.sleep(self.pause)
        if self.away and not self.after:
            raise StoreUnavailable("the store is away")

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("the store did not answer")

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        await self._reach("reserve")
        found = await self.kept.reserve(hold, draws, lease)
        self._answer()
        return found

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        await self._reach("settle")
        if self.refuses is not None:
            raise self.refuses
        done = await self.kept.settle(hold, charges, rows)
        if done:
            self.settled.append(hold)
        self._answer()
        return done

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        await self._reach("balances")
        return await self.kept.balances(keys)

    async def holds(self) -> list[str]:
        return await self.kept.holds()

    async def spends(self, **query: Any) -> list[Spend]:
        return await self.kept.spends(**query)


class ShakyState:
    """The state whose only ledger is `ledger`."""

    def __init__(self, ledger: Shaky) -> None:
        self._ledger = ledger

    def ledger(self, name: str) -> Shaky:
        return self._ledger


def shaky(at: Runtime, **settings: Any) -> Shaky:
    """The ledger of ``shaky://`` on that runtime."""
    found = Shaky(**settings)
    at.state("store", "shaky://", lambda: ShakyState(found))
    return found
