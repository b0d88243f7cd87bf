"""All backends that there are, side by side, with a time that is moved by hand."""

from __future__ import annotations

from random import Random
from typing import Any

from llmpipe.state import State, open_state
from llmpipe.state.memory.audit import MemoryAudit
from llmpipe.state.memory.breakers import MemoryBreakers
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.state.memory.queue import MemoryQueue
from llmpipe.state.memory.vault import MemoryProviders, MemoryVault
from llmpipe.testing.state import ManualClock
from tests.state.alike.sides import NAMES, Asked, Side, Sides

__all__ = ("INF", "LEASES", "NAN", "World")

NAN, INF = float("nan"), float("inf")
LEASES = (0.0, -0.0, -5.0, -1e9, 1e-300, 50.0, 250.0, 1050.0, 1e9 + 50, 1e300, INF, -INF, NAN)
"""None ends within 20 seconds of a time that is a multiple of 100, by which the real clocks may be ahead."""


class World:
    """All sides, and their time, which moves when it is told to."""

    def __init__(self, urls: list[str], path: Any, name: str) -> None:
        self.clock = ManualClock()
        self.clock.now = 1e9  # of the size of a real one
        self.states: list[State] = [open_state(url) for url in (f"sqlite:///{path / 'alike.db'}", *urls)]
        model = {
            "audit": MemoryAudit(self.clock),
            "breakers": MemoryBreakers(self.clock),
            "ledger": MemoryLedger(self.clock),
            "limits": MemoryLimits(self.clock),
            "providers": MemoryProviders(),
            "queue": MemoryQueue(400, 1 << 40, self.clock),
            "vault": MemoryVault(),
        }
        self.sides = Sides(Side("memory", model), [self._side(state, name) for state in self.states])
        self.random = Random(name)
        self.step = 0

    def _side(self, state: State, name: str) -> Side:
        things = {kind: getattr(state, kind)(name) for kind in state.offers if kind not in ("cache", "queue")}
        things["queue"] = state.queue(name, max_items=400, max_bytes=1 << 40)
        return Side(type(state).__name__, things)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for state in self.states:
            state.ahead += seconds  # type: ignore[attr-defined]  # all of these have it

    async def ask(self, kind: str, method: str, *args: Any, **options: Any) -> Any:
        """The same of all."""
        self.step += 1
        what = f"step {self.step}: {kind}.{method}{args!r:.600} {options!r:.200}"
        return await self.sides.ask(
            kind, what, lambda side: getattr(side.things[kind], method)(*args, **options)
        )

    async def ask_each(self, kind: str, what: str, asked: Asked) -> Any:
        """Of each what is of its own, such as a token."""
        self.step += 1
        return await self.sides.ask(kind, f"step {self.step}: {kind}.{what}", asked)

    def name(self, few: int = len(NAMES)) -> str:
        return self.random.choice(NAMES[:few])

    def one_of(self, *values: Any) -> Any:
        return self.random.choice(values)
