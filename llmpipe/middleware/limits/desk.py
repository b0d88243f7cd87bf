"""The limits that all calls of a runtime take from, and what stands in for the store while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Ask, Limits, Taken, shared
from llmpipe.state.memory import MemoryState
from llmpipe.state.memory.limits import Answer, MemoryLimits, Order

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Desk", "Mode", "QuickDesk", "is_quick")

Mode = Literal["share", "refuse", "allow"]

_MAX_OWED = 10_000


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

    async def take(self, ticket: Hashable, order: Order, tokens: float, lease: float) -> Answer:
        """As the store's, of so many tokens."""
        return self._limits.admit(ticket, order, tokens, lease)

    async def settle(self, ticket: Hashable, used: Mapping[str, float]) -> None:
        """As the store's."""
        self.release(ticket, used)

    async def levels(self, asks: Sequence[Ask]) -> Taken:
        """How the limits stand."""
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
        self._away = False
        self._owed: dict[str, Mapping[str, float]] = {}
        self._bringing: asyncio.Task[None] | None = None

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
            self._locally.add(ticket)
            if self._mode == "allow":
                return Taken(())
            return await self._local.take(ticket, [self._part(ask) for ask in asks], lease)
        self._away = False
        return taken

    def _part(self, ask: Ask) -> Ask:
        """This process's part of a limit. Of few slots it is one, for none would be an outage of its own."""
        if not ask.period:
            return evolve(ask, limit=max(1.0, ask.limit // self._nodes))
        return evolve(ask, limit=ask.limit / self._nodes, burst=max(1.0, ask.burst / self._nodes))

    async def settle(self, ticket: str, used: Mapping[str, float]) -> None:
        """As the store's; later, if it is out of reach."""
        if ticket in self._locally:
            self._locally.discard(ticket)
            await self._local.settle(ticket, used)
            return
        try:
            await self._store.settle(ticket, used)
        except StoreUnavailable:
            self._owe(ticket, used)
        except asyncio.CancelledError:
            self._owe(ticket, used)
            raise

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
