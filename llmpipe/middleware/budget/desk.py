"""What all calls under one budget share: the ledger, their holds, and what the ledger has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Balance, Draw, Ledger, Shortage, Spend, shared

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Desk",)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries to bring what is owed
_MAX_TOLD = 10_000
_Settlement = tuple[str, Sequence[Draw], Sequence[Spend]]


class Desk:
    """Keeps the holds of calls under way alive, and brings to the ledger what it could not take.

    Nothing that was spent is dropped: while the store is out of reach, settlements wait here, and are
    brought again and again, each under its id. `slack` nano-USD in all may be held here instead of in
    the store while it is out of reach; so that is what each process may overspend at most.

    Args:
        lease: seconds a hold lasts in the store without us.
        slack: nano-USD.
    """

    def __init__(self, runtime: Runtime, store: str, name: str, lease: float, slack: int) -> None:
        self._runtime = runtime
        self.ledger: Ledger = shared(runtime, store).ledger(name)
        self.remote = not store.startswith("memory:")
        self._lease, self._slack = lease, slack
        self._lent: dict[str, int] = {}  # of the slack, by hold
        self._held: dict[str, tuple[float, Sequence[Draw]]] = {}  # by hold: since when, and what
        self._timer: asyncio.TimerHandle | None = None
        self._owed: dict[str, _Settlement] = {}
        self._bringing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._told: set[tuple[str, int, float]] = set()
        self._looked: dict[str, float] = {}

    # ------------------------------------------------------------ holding

    async def reserve(self, hold: str, draws: Sequence[Draw], more: int) -> Shortage | None:
        """As the ledger's; from the slack, of which `more` nano-USD are wanted, where it is out of reach.

        Raises: StoreUnavailable where the slack is used up too.
        """
        try:
            short = await self.ledger.reserve(hold, draws, self._lease)
        except StoreUnavailable:
            if sum(self._lent.values()) + more > self._slack:
                raise
            self._lent[hold] = self._lent.get(hold, 0) + more  # until the store knows what the call cost
            return None
        if short is None:
            self._hold(hold, draws)
        return short

    def _hold(self, hold: str, draws: Sequence[Draw]) -> None:
        loop = asyncio.get_running_loop()
        self._held[hold] = (loop.time(), draws)
        if self._timer is None:
            self._timer = loop.call_later(self._lease / 3, self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if not self._held:
            return
        self._timer = loop.call_later(self._lease / 3, self._due, loop)
        old = loop.time() - self._lease / 3
        late = [(hold, draws) for hold, (since, draws) in self._held.items() if since <= old]
        if late:
            self._renewing = self._runtime.spawn(self._renew(late), "budget: renewing holds")

    async def _renew(self, late: list[tuple[str, Sequence[Draw]]]) -> None:
        for hold, draws in late:
            if hold not in self._held:
                continue
            try:
                await self.ledger.reserve(hold, draws, self._lease)
            except StoreUnavailable:
                return  # tried again after a third of a lease; a settlement corrects what expires
            except ValueError:  # settled meanwhile
                continue
            if hold in self._held:
                self._hold(hold, draws)

    # ------------------------------------------------------------ settling

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend]) -> None:
        """Settle, now or when the store is there again. Cancelled meanwhile, it is owed too."""
        self._held.pop(hold, None)
        self._owed[hold] = (hold, charges, rows)
        try:
            await self.ledger.settle(hold, charges, rows)
        except StoreUnavailable as error:
            self._runtime.report(f"budget: {len(self._owed)} settlements wait for the store", error)
            self._bring_later()
        except asyncio.CancelledError:
            self._bring_later()
            raise
        else:
            self._paid(hold)

    def _paid(self, hold: str) -> None:
        self._owed.pop(hold, None)
        self._lent.pop(hold, None)

    def _bring_later(self) -> None:
        if self._bringing is None or self._bringing.done():
            self._bringing = self._runtime.spawn(self._bring(), "budget: bringing what is owed")

    async def _bring(self) -> None:
        pause = _FIRST_PAUSE
        while self._owed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE) if await self._brought() else _FIRST_PAUSE

    async def _brought(self) -> StoreUnavailable | None:
        """Bring what is owed; the failure that stopped it."""
        for hold, charges, rows in list(self._owed.values()):
            try:
                await self.ledger.settle(hold, charges, rows)
            except StoreUnavailable as error:
                return error
            self._paid(hold)
        return None

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """As the ledger's; none where it is out of reach, for nothing depends on them."""
        try:
            return await self.ledger.balances(keys)
        except StoreUnavailable:
            return []

    @property
    def owed(self) -> int:
        """How many settlements the store has not taken yet."""
        return len(self._owed)

    def rest(self) -> None:
        """Stop the timer if nothing is held."""
        if self._timer is not None and not self._held:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Bring what is owed, once more; say how much could not be."""
        if self._owed and (error := await self._brought()) is not None:
            nano = sum(charge.nano for _, charges, _ in self._owed.values() for charge in charges)
            self._runtime.report(f"budget: {self.owed} settlements, {nano} nano-USD, are lost", error)

    # ------------------------------------------------------------ telling

    def look(self, account: str, now: float) -> bool:
        """Whether to look at that balance now: each time where that is cheap, else once a second."""
        if not self.remote:
            return True
        if now - self._looked.get(account, -1.0) < 1.0:
            return False
        if len(self._looked) >= _MAX_TOLD:
            self._looked.clear()
        self._looked[account] = now
        return True

    def tell(self, account: str, period: int, share: float) -> bool:
        """Whether nobody has been told yet that this share of a budget is used up."""
        key = (account, period, share)
        if key in self._told:
            return False
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told.add(key)
        return True
