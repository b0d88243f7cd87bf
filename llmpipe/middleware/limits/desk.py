"""The limits that all calls of a runtime take from, and what stands in for the store while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve

from llmpipe.errors import StoreUnavailable
from llmpipe.middleware.limits.leases import Leases
from llmpipe.state import Ask, Limits, Taken, shared
from llmpipe.state.memory import MemoryState
from llmpipe.state.memory.limits import Answer, MemoryLimits, Order

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Desk", "Mode", "QuickDesk", "is_quick")

Mode = Literal["share", "refuse", "allow"]

_MAX_OWED = 10_000
_NOTHING: Mapping[str, float] = {}
Ended = Sequence[tuple[Any, Mapping[str, float]]]
"""Tickets of calls that are over, and what each used."""


def is_quick(store: str) -> bool:
    """Whether what the URL `store` names never waits."""
    return store.startswith("memory:")


class QuickDesk:
    """Takes from a store in memory, which neither waits nor fails; it works levels out on demand."""

    def __init__(self, runtime: Runtime, store: str, name: str) -> None:
        limits: Any = shared(runtime, store).limits(name)
        assert isinstance(limits, MemoryLimits), "what is_quick says of a store is true"
        self._limits = limits
        self.new_id = count().__next__  # of a ticket: unique in this process is enough
        self.release = limits.release
        self._late: list[tuple[Any, Mapping[str, float]]] = []

    async def take(self, ticket: Hashable, order: Order, tokens: float, _lease: float) -> Answer:
        """As the store's, of so many tokens; without a lease, for what is kept here dies with the process."""
        if self._late:
            ended, self._late = self._late, []
            await self.settle(ended)
        return self._limits.admit(ticket, order, tokens, inf)

    async def settle(self, ended: Ended) -> None:
        """As the store's."""
        for ticket, used in ended:
            self.release(ticket, used)

    def later(self, ended: Ended) -> None:
        """Settle with the next that is taken: there is no clock now."""
        self._late.extend(ended)

    def drop(self, ticket: Hashable) -> None:
        """Its call is over; it has no lease."""

    def forget(self, ticket: Hashable) -> None:
        """It was refused: there is nothing to be given back."""

    async def levels(self, asks: Sequence[Ask]) -> Taken:
        """How the limits stand."""
        ended, self._late = self._late, []
        await self.settle(ended)
        return Taken(await self._limits.levels(asks))

    async def reset(self, keys: Sequence[str]) -> None:
        """Fill the buckets and free the slots of these keys."""
        await self._limits.reset(keys)


class Desk:
    """Takes from the store. While that is out of reach, does what `mode` says, and says so in the log.

    ``share``: each process keeps to the `nodes`-th part of every limit, by itself. What all of them admit
    in one period beyond the limit is then at most the limit once more: what the store had granted before.
    """

    def __init__(self, runtime: Runtime, store: str, name: str, mode: Mode, nodes: int) -> None:
        self._runtime = runtime
        self._store: Limits = shared(runtime, store).limits(name)
        self._mode, self._nodes = mode, nodes
        self._local: Limits = MemoryState().limits(name)
        self._locally: set[str] = set()  # tickets taken there
        self._doubtful: set[str] = set()  # those the store was asked for slots by, and gave no answer
        self._away = False
        self._owed: dict[str, Mapping[str, float]] = {}
        self._bringing: asyncio.Task[None] | None = None
        self._leases = Leases(runtime, self._store, self._stray)

    def new_id(self) -> str:
        """The id of a ticket: unique among all processes."""
        return self._runtime.new_id("ticket-")

    async def take(self, ticket: str, order: Order, tokens: float, lease: float) -> Taken:
        """As the store's, of so many tokens.

        Raises: StoreUnavailable in mode ``refuse``.
        """
        asks = order.of(tokens) if order.metered else order.asks
        try:
            taken = await self._store.take(ticket, asks, lease)
        except StoreUnavailable as error:
            if not self._away:
                self._away = True
                self._runtime.report(f"limits: the store is out of reach, so: {self._mode}", error)
            if self._mode == "refuse":
                raise
            if order.slots:
                self._doubtful.add(ticket)
            if self._mode == "allow":
                self._locally.add(ticket)
                return Taken(())
            taken = await self._local.take(ticket, [self._part(ask) for ask in asks], inf)
            if taken.refused is None:
                self._locally.add(ticket)
            return taken
        self._away = False
        if taken.refused is None:
            self._doubtful.discard(ticket)
            self._leases.hold(ticket, order, lease)
        return taken

    def _part(self, ask: Ask) -> Ask:
        """This process's part of a limit. Of few slots it is one, for none would be an outage of its own."""
        if not ask.period:
            return evolve(ask, limit=max(1.0, ask.limit // self._nodes))
        return evolve(ask, limit=ask.limit / self._nodes, burst=max(1.0, ask.burst / self._nodes))

    def drop(self, ticket: str) -> None:
        """The call of this ticket is over: let its lease end, if nothing else ends it."""
        self._leases.drop(ticket)

    async def settle(self, ended: Ended) -> None:
        """As the store's, of each; later, if it is out of reach."""
        for ticket, _ in ended:
            self.drop(ticket)
        for place, (ticket, used) in enumerate(ended):
            if ticket in self._locally:
                self._locally.discard(ticket)
                await self._local.settle(ticket, used)
                self.forget(ticket)
                continue
            self._doubtful.discard(ticket)
            try:
                await self._store.settle(ticket, used)
            except StoreUnavailable:
                self._owe(ticket, used)
            except asyncio.CancelledError:
                self._owe(ticket, used)
                for other, what in ended[place + 1 :]:  # nobody waits for these either
                    if other in self._locally:
                        await self._local.settle(other, what)
                    else:
                        self._owe(other, what)
                raise

    def forget(self, ticket: str) -> None:
        """The store has not granted it; but one that gave no answer may hold its slots all the same."""
        if ticket in self._doubtful:
            self._doubtful.discard(ticket)
            self._owe(ticket, _NOTHING)

    def rest(self) -> None:
        """Stop the timer of the leases if nothing is held."""
        self._leases.rest()

    def _stray(self, ticket: str) -> None:
        if ticket not in self._owed:
            self._owe(ticket, _NOTHING)

    def _owe(self, ticket: str, used: Mapping[str, float]) -> None:
        """Try again: else slots stay taken until their lease ends. Of an outage that lasts, they do."""
        if len(self._owed) < _MAX_OWED:
            self._owed[ticket] = used
        if self._bringing is None or self._bringing.done():
            self._bringing = self._runtime.spawn(self._bring(), "limits: giving back")

    async def _bring(self) -> None:
        pause = 0.5
        while self._owed:
            await asyncio.sleep(pause)
            ticket, used = next(iter(self._owed.items()))
            try:
                await self._store.settle(ticket, used)
            except StoreUnavailable:
                pause = min(2 * pause, 10.0)
            else:
                pause = 0.0
                self._owed.pop(ticket, None)

    async def levels(self, asks: Sequence[Ask]) -> Taken:
        """How the limits stand, as the store says; of this process's part where it cannot."""
        try:
            return Taken(await self._store.levels(asks))
        except StoreUnavailable:
            return Taken(await self._local.levels([self._part(ask) for ask in asks]))

    async def reset(self, keys: Sequence[str]) -> None:
        """Fill the buckets and free the slots of these keys."""
        await self._local.reset(keys)
        await self._store.reset(keys)
