"""Random lives of limits, step by step beside the memory limits."""

from __future__ import annotations

from random import Random

from llmpipe.state import Ask, Limits, Taken
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.testing.state.harness import Harness, ManualClock

__all__ = ("LimitsScript",)

# A unit flows in 1000 seconds, time passes in quarters of that, and leases end 50 s off the quarters: a store
# whose clock runs on by itself while the script runs, some seconds, decides the same at every step.
_UNIT = 1000.0
_QUARTER = 250.0
_LEASES = (300.0, 1300.0, 5300.0)
_SLACK = 40.0  # seconds by which two may differ
_RATES = {"slow": 4.0, "deep": 12.0}  # burst
_SLOTS = {"few": 3.0, "many": 7.0}
_ASKS = [
    *(Ask(key, 1.0, burst, burst * _UNIT, burst) for key, burst in _RATES.items()),
    *(Ask(key, 1.0, limit) for key, limit in _SLOTS.items()),
]


class LimitsScript:
    """One life, drawn from a seed. `run` fails at the first step in which the two differ."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self._harness, self._random, self._clock = harness, Random(seed), ManualClock()  # noqa: S311  no secret
        self._model: Limits = MemoryLimits(self._clock)
        self._told: list[str] = []
        self._count = 0

    async def run(self, steps: int) -> None:
        """Do `steps` steps, each on both."""
        self._store = (await self._harness.open()).limits("script")
        for _ in range(steps):
            step = self._random.choices([self._take, self._settle, self._pass, self._reopen], [10, 5, 4, 1])[
                0
            ]
            await step()
            self._alike(Taken(await self._store.levels(_ASKS)), Taken(await self._model.levels(_ASKS)), _ASKS)

    def _alike(self, found: Taken, wanted: Taken, asks: list[Ask]) -> None:
        assert (found.refused is None) == (wanted.refused is None), self._told
        assert (found.retry_after is None) == (wanted.retry_after is None), self._told
        if found.retry_after is not None and wanted.retry_after is not None:
            assert abs(found.retry_after - wanted.retry_after) <= _SLACK, self._told
        for one, other, ask in zip(found.levels, wanted.levels, asks, strict=True):
            slack = _SLACK / _UNIT if ask.period else 0.0
            assert abs(one.remaining - other.remaining) <= slack, (ask.key, one, other, self._told)
            assert abs(one.reset - other.reset) <= _SLACK, (ask.key, one, other, self._told)
        if found.refused is not None:
            ask, level = asks[found.refused], found.levels[found.refused]
            assert (
                level.remaining < min(ask.amount, ask.burst) if ask.period else level.remaining < ask.amount
            )

    def _name(self) -> str:
        return f"t{self._random.randint(max(0, self._count - 6), self._count + 2)}"

    async def _take(self) -> None:
        self._count += self._random.random() < 0.5
        name, lease = self._name(), self._random.choice(_LEASES)
        asks = []
        for ask in self._random.sample(_ASKS, self._random.randint(1, 3)):
            amount = self._random.choice([0.0, 1.0, 1.0, 2.0, 5.0] if ask.period else [0.0, 1.0, 2.0])
            asks.append(Ask(ask.key, amount, ask.limit, ask.period, ask.burst))
        self._told.append(f"take({name!r}, {asks!r}, {lease!r})")
        found = await self._store.take(name, asks, lease)
        self._alike(found, await self._model.take(name, asks, lease), asks)

    async def _settle(self) -> None:
        name = self._name()
        keys = self._random.sample([*_RATES, "unknown"], self._random.randint(0, 3))
        used = {key: float(self._random.randint(0, 6)) for key in keys}
        self._told.append(f"settle({name!r}, {used!r})")
        assert await self._store.settle(name, used) == await self._model.settle(name, used), self._told

    async def _pass(self) -> None:
        seconds = self._random.choice([1, 2, 3, 5, 12]) * _QUARTER
        self._told.append(f"{seconds} seconds pass")
        await self._harness.pass_time(seconds)
        self._clock.now += seconds

    async def _reopen(self) -> None:
        self._told.append("another process goes on")
        self._store = (await self._harness.reopen()).limits("script")
