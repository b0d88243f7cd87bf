"""The stores on which the machines of the laws are run: alike to a machine, but for how their time moves.

A machine's time is counted in seconds of its own, which begin at 0 and move when it says so. In memory one
is one second. A store of its own clock goes on while the machine works, so there each is `Shared.SCALE` of
the store's seconds: what a model calls simultaneous is so there, or a moment late, and what it calls a
second apart never meets.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from itertools import count
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from llmpipe.state import State, open_state
from llmpipe.state.memory.audit import MemoryAudit
from llmpipe.state.memory.cache import MemoryCache
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.state.memory.queue import MemoryQueue
from llmpipe.state.memory.vault import MemoryVault
from llmpipe.testing import VirtualTimeLoop
from llmpipe.testing.state import ManualClock
from tests.state.steps import now

__all__ = ("EPSILON", "LONG", "InMemory", "OnStore", "Place", "Shared", "SharedPlace", "Store", "kept_in")

T = TypeVar("T")

LONG = bool(os.environ.get("LLMPIPE_LONG"))
_NAMES = count()  # one server is that of several tests
EPSILON = 1e-6
"""Seconds that sums of floats may be wrong."""


def kept_in(*names: str) -> pytest.MarkDecorator:
    """Runs a test that takes a `store` once on each of these."""
    marks = {name: () if name == "memory" else (pytest.mark.real_time,) for name in names}
    cases = [pytest.param(name, marks=marks[name]) for name in names]
    return pytest.mark.parametrize("store", cases, indirect=True)


class Place:
    """A store for one example: empty, and its time stands at 0.

    Attributes: again tells whether another process can come and find what is there. clients are how many
    use it, in turns.
    """

    again: ClassVar[bool] = False
    clients: ClassVar[int] = 1
    scale: ClassVar[float] = 1.0
    """Seconds of the store for each second of the machine's."""

    now = 0.0

    def thing(self, kind: str, **options: Any) -> Any:
        """What is kept, by its kind, as `State` gives it."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result."""
        raise NotImplementedError

    def move(self, at: float) -> None:
        """Let it be so late."""
        raise NotImplementedError

    def late(self) -> float:
        """By how many of the machine's seconds the store's time may be beyond its own now."""
        return EPSILON

    def replace(self, number: int) -> None:
        """One of the clients goes, and another comes, with nothing but what is kept."""

    def close(self) -> None:
        """The example is over."""


class MemoryPlace(Place):
    """Whatever is asked is answered without a loop, which only a machine that `waits` needs."""

    def __init__(self, waits: bool) -> None:
        self._loop = VirtualTimeLoop() if waits else None
        self._clock = ManualClock()
        self._patches = ExitStack()

    def thing(self, kind: str, **options: Any) -> Any:
        if kind == "queue":
            return MemoryQueue(clock=self._clock, **options)
        if kind == "cache":  # which goes by the loop's time alone
            self._patches.enter_context(patch("llmpipe.state.memory.cache._now", self._clock))
            return MemoryCache(**options)
        if kind == "vault":
            return MemoryVault()
        timed: Any = {"audit": MemoryAudit, "ledger": MemoryLedger, "limits": MemoryLimits}[kind]
        return timed(self._clock)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return now(work) if self._loop is None else self._loop.run_until_complete(work)

    def move(self, at: float) -> None:
        self.now = self._clock.now = at

    def close(self) -> None:
        self._patches.close()
        if self._loop is not None:
            self._loop.close()


class Turns:
    """One thing through several clients: each is asked in its turn, so none may rely on what it remembers."""

    def __init__(self, kind: str, name: str, options: dict[str, Any], place: SharedPlace) -> None:
        self._asked = kind, name, options
        self._place = place
        self._turn = 0

    def __getattr__(self, method: str) -> Any:
        kind, name, options = self._asked
        self._turn += 1
        state = self._place.states[self._turn % len(self._place.states)]
        return getattr(getattr(state, kind)(name, **options), method)


class SharedPlace(Place):
    """A name of its own in a store that two clients share, as two processes would."""

    again = True
    clients = 2
    scale = 20.0

    def __init__(self, store: Shared, name: str) -> None:
        self._store, self._name = store, name
        self._began, self._base = time.monotonic(), store.ahead
        self._kinds = 0

    @property
    def states(self) -> list[State]:
        return self._store.states

    def thing(self, kind: str, **options: Any) -> Any:
        self._kinds += 1
        return Turns(kind, f"{self._name}.{self._kinds}", options, self)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._store.run(work)

    def move(self, at: float) -> None:
        self.now = at
        self._store.set_ahead(self._base + at * self.scale)

    def late(self) -> float:
        return EPSILON + (time.monotonic() - self._began) / self.scale

    def replace(self, number: int) -> None:
        self._store.replace(number)

    def close(self) -> None:
        assert self.late() < 1, "the machine was too slow for its time to mean anything"


class Store:
    """Where machines are run.

    Attributes: name; examples and steps of one machine there.
    """

    name: str
    examples: int
    steps: int = 50

    def place(self, *, waits: bool) -> Place:
        """An empty one, for a machine that does, or does not, several things at once."""
        raise NotImplementedError

    def check(self, machine: type[OnStore], share: float = 1.0) -> None:
        """Run `machine` here, `share` times as often as others."""
        # A class of its own, so that a failure is told, and remembered, by the machine and the store.
        here = type(f"{machine.__name__}_{self.name}", (machine,), {"store": self})
        run_state_machine_as_test(
            here,
            settings=settings(
                max_examples=max(2, round(self.examples * share)),
                stateful_step_count=self.steps,
                suppress_health_check=[HealthCheck.too_slow],
                deadline=None,
            ),
        )

    def close(self) -> None:
        """No more of it."""


class InMemory(Store):
    """This process alone."""

    name = "memory"
    examples = 1000 if LONG else 100

    def place(self, *, waits: bool) -> Place:
        return MemoryPlace(waits)


class Shared(Store):
    """What `url` names, with a loop of its own that is kept from one example to the next."""

    steps = 50 if LONG else 30

    def __init__(self, name: str, url: str, examples: int = 25) -> None:
        self.name, self._url = name, url
        self.examples = 20 * examples if LONG else examples
        self.ahead = 0.0
        self._loop = asyncio.new_event_loop()
        self.states = [self._open() for _ in range(SharedPlace.clients)]

    def _open(self) -> State:
        state = open_state(self._url)
        state.ahead = self.ahead  # type: ignore[attr-defined]  # all that these tests know have it
        return state

    def place(self, *, waits: bool) -> Place:
        return SharedPlace(self, f"{os.getpid()}.{next(_NAMES)}")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def set_ahead(self, seconds: float) -> None:
        self.ahead = seconds
        for state in self.states:
            state.ahead = seconds  # type: ignore[attr-defined]  # as above

    def replace(self, number: int) -> None:
        self.run(self.states[number].aclose())
        self.states[number] = self._open()

    def close(self) -> None:
        for state in self.states:
            self.run(state.aclose())
        self._loop.close()


class OnStore(RuleBasedStateMachine):
    """A machine of the laws, on the store that `Store.check` gives it.

    Attributes: waits tells whether it does several things at once, for which even memory needs a loop.
    """

    store: ClassVar[Store]
    waits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.place = self.store.place(waits=self.waits)

    @property
    def now(self) -> float:
        """The model's time."""
        return self.place.now

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What the store says."""
        return self.place.run(work)

    def at_once(self, works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """What the store says to several at the same time; on another store than memory."""

        async def gather() -> list[T]:
            return await asyncio.gather(*works)

        return self.do(gather())

    def let_pass(self, seconds: float) -> None:
        """Time passes."""
        self.place.move(self.place.now + seconds)

    def scaled(self, seconds: float) -> float:
        """So many of the machine's seconds, as the store is told them."""
        return seconds * self.place.scale

    def teardown(self) -> None:
        self.place.close()
