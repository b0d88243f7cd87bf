"""Keeps the leases of tickets from ending while the calls that hold them last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import evolve

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Ask, Limits
from llmpipe.state.memory.limits import Order

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Leases",)


class _Held:
    """A ticket that was granted."""

    __slots__ = ("asks", "late", "lease")

    def __init__(self, order: Order, lease: float) -> None:
        self.asks = _again(order)
        self.lease = lease
        self.late = False  # it was there, and not renewed, when the timer went off before


class Leases:
    """The tickets of calls under way, in one store. One timer stands for all of them.

    Args: stray is told of a ticket whose call ended while its lease was begun anew: that may have come to the
    store after the settlement, and taken its slots as a new ticket.
    """

    def __init__(self, runtime: Runtime, store: Limits, stray: Callable[[str], None]) -> None:
        self._runtime, self._store, self._stray = runtime, store, stray
        self._held: dict[str, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the timer
        self._renewing: asyncio.Task[None] | None = None

    def hold(self, ticket: str, order: Order, lease: float) -> None:
        """It was granted; each third of its lease is a chance to begin that anew."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a chain may be used in one loop after another
            if self._loop is not None and self._loop.is_closed():
                self._held.clear()  # what ended without a word when its loop did is nobody's
            self._loop, self._timer = loop, None
        self._held[ticket] = _Held(order, lease)
        timer, due = self._timer, loop.time() + lease / 3
        if timer is None or due < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = loop.call_at(due, self._due, loop)

    def drop(self, ticket: str) -> None:
        """Its call is over."""
        self._held.pop(ticket, None)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if not self._held:
            return
        shortest = min(held.lease for held in self._held.values())
        self._timer = loop.call_later(shortest / 3, self._due, loop)
        late = [ticket for ticket, held in self._held.items() if held.late]
        for held in self._held.values():
            held.late = True
        if late and (self._renewing is None or self._renewing.done()):
            self._renewing = self._runtime.spawn(self._renew(late), "limits: renewing leases")

    async def _renew(self, late: Sequence[str]) -> None:
        for ticket in late:
            held = self._held.get(ticket)
            if held is None:
                continue
            try:
                await self._store.take(ticket, held.asks, held.lease)
            except StoreUnavailable:
                return  # tried again after a third of a lease
            finally:
                if ticket not in self._held:
                    self._stray(ticket)
            held.late = False

    def rest(self) -> None:
        """Stop the timer if nothing is held."""
        if self._timer is not None and not self._held:
            self._timer.cancel()
            self._timer = None


def _again(order: Order) -> tuple[Ask, ...]:
    """What takes nothing of a ticket that lives, and of one whose lease has ended no more than its slots."""
    slots = tuple([ask for ask in order.asks if not ask.period])
    return slots or tuple([evolve(ask, amount=0.0) for ask in order.asks])
