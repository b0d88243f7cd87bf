"""What a backend brings to its suite, and what the suites share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from llmpipe.state import State

__all__ = ("Harness", "ManualClock", "NAMES", "OpenedStates", "fill", "rises", "suite")

T = TypeVar("T")

NAMES = ("B", "a", "é", "長", "a b", "a/b=c", "x" * 200)
"""Names that collations, separators and fixed columns have trouble with; in the order of their code points
once they are sorted."""


class Harness(Protocol):
    """Opens a backend for one test. Whoever makes one closes what it opened.

    `pass_time` moves the store's clock, as far as the tests can see it; nothing sleeps for real.
    """

    async def open(self) -> State:
        """A fresh and empty one each time."""
        ...

    async def reopen(self) -> State:
        """What the last `open` gave, with its data, through another State, as another process would."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let the store's time pass, for all that were opened."""
        ...


class _Timed(Protocol):
    """A State of a backend whose time can be moved."""

    ahead: float

    async def aclose(self) -> None: ...


S = TypeVar("S", bound=_Timed)


class OpenedStates(Generic[S]):
    """What a harness has opened: the time of all moves together, and all are closed with it.

    A harness inherits it, and passes each state that it opens through `keep`.
    """

    def __init__(self) -> None:
        self.opened: list[S] = []
        self.ahead = 0.0

    def keep(self, state: S) -> S:
        """`state`, at the time that it is for the others."""
        state.ahead = self.ahead
        self.opened.append(state)
        return state

    async def pass_time(self, seconds: float) -> None:
        """See `Harness.pass_time`."""
        self.ahead += seconds
        for state in self.opened:
            state.ahead = self.ahead

    async def aclose(self) -> None:
        """Close all of them."""
        for state in self.opened:
            await state.aclose()


class ManualClock:
    """The clock of a model: a time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now


def suite(base: type) -> str:
    """The name pytest finds a suite's subclass under: `LedgerSuite` is run as ``TestLedger``."""
    return "Test" + base.__name__.removesuffix("Suite")


async def fill(count: int, work: Callable[[int], Awaitable[T]]) -> list[T]:
    """The results of `work` of 0, 1, … count - 1, run side by side; the first error if there is one."""
    return list(await asyncio.gather(*[work(number) for number in range(count)]))


def rises(values: Sequence[float]) -> bool:
    """Whether each is above the one before."""
    return all(one < other for one, other in pairwise(values))
