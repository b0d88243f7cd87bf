"""Random lives of a ledger, step by step beside the memory ledger."""

from __future__ import annotations

from random import Random

from attrs import evolve

from llmpipe.state import Draw, Ledger, Spend
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.testing.state.harness import Harness, ManualClock

__all__ = ("LedgerScript",)

# Time passes in whole hundreds of seconds and leases end between them, so that a store whose clock runs on by
# itself while the script runs (up to 33 s) ends the same leases.
_QUANTUM = 100.0
_LEASES = (133.0, 233.0, 533.0)
_LIMITS = {"day": 60, "month": 200, "all": None}
_KEYS = [(account, period) for account in _LIMITS for period in (0, 86_400)]


class LedgerScript:
    """One life, drawn from a seed. `run` fails at the first step in which the two differ."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self._harness, self._random, self._clock = harness, Random(seed), ManualClock()  # noqa: S311  no secret
        self._model: Ledger = MemoryLedger(self._clock)
        self._told: list[str] = []
        self._rows = 0

    async def run(self, steps: int) -> None:
        """Do `steps` steps, each on both."""
        self._store = (await self._harness.open()).ledger("script")
        for _ in range(steps):
            step = self._random.choices(
                [self._reserve, self._settle, self._pass, self._reopen], [10, 6, 3, 1]
            )[0]
            await step()
            assert await self._store.balances(_KEYS) == await self._model.balances(_KEYS), self._told
            assert await self._store.holds() == await self._model.holds(), self._told
        for tenant in (None, "a", "b"):
            assert await self._store.spends(tenant=tenant) == await self._model.spends(tenant=tenant)
        before = float(self._random.randint(0, self._rows))
        assert await self._store.forget(before) == await self._model.forget(before)
        assert await self._store.spends() == await self._model.spends()

    def _draws(self) -> list[Draw]:
        draws = []
        for account, period in self._random.sample(_KEYS, self._random.randint(1, 4)):
            nano = self._random.choice([0, 1, 7, 20, 45])
            likely = self._random.randint(0, nano)
            draws.append(Draw(account, period, nano, _LIMITS[account], likely, period + 86_400.0))
        return draws

    def _name(self) -> str:
        # Few names meet again while they live; now and then comes one that was settled long ago.
        return f"h{self._random.randint(max(0, self._rows - 4), self._rows + 4)}"

    async def _reserve(self) -> None:
        name, draws, lease = self._name(), self._draws(), self._random.choice(_LEASES)
        self._told.append(f"reserve({name!r}, {draws!r}, {lease!r})")
        found = []
        for ledger in (self._store, self._model):
            try:
                found.append((await ledger.reserve(name, draws, lease), False))
            except ValueError:
                found.append((None, True))
        assert found[0] == found[1], self._told

    async def _settle(self) -> None:
        self._rows += 1
        name, charges = self._name(), self._draws()[: self._random.randint(0, 4)]
        if self._random.random() < 0.2:
            charges = [evolve(charge, nano=-charge.nano) for charge in charges]
        rows = [
            Spend(id=f"s{self._random.randint(0, self._rows)}", at=float(self._rows), nano=charge.nano,
                  tenant=self._random.choice("ab"))
            for charge in charges[:2]
        ]  # fmt: skip
        self._told.append(f"settle({name!r}, {charges!r}, {rows!r})")
        assert await self._store.settle(name, charges, rows) == await self._model.settle(
            name, charges, rows
        ), self._told

    async def _pass(self) -> None:
        seconds = self._random.randint(1, 4) * _QUANTUM
        self._told.append(f"{seconds} seconds pass")
        await self._harness.pass_time(seconds)
        self._clock.now += seconds
        if self._random.random() < 0.7:
            assert await self._store.sweep() == await self._model.sweep(), self._told
        else:  # who settles need not sweep first, but the balances are those of the last sweep
            await self._settle()
            await self._store.sweep()
            await self._model.sweep()

    async def _reopen(self) -> None:
        self._told.append("another process goes on")
        self._store = (await self._harness.reopen()).ledger("script")
