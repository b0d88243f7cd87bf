"""What all calls under one budget share: the ledger, their holds, and what the ledger has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING

from attrs import define

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Balance, Draw, Ledger, Shortage, Spend, shared
from llmpipe.state.memory.ledger import MemoryLedger

if TYPE_CHECKING:
    from llmpipe.middleware.budget.plan import Line
    from llmpipe.middleware.budget.rule import Rule
    from llmpipe.runtime import Runtime

__all__ = ("Desk",)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries to bring what is owed
_MAX_WATCHED = 50_000
_MAX_OWED = 10_000  # from which on holds that cost nothing are left to their leases
_Key = tuple[str, int]
_Settlement = tuple[Sequence[Draw], Sequence[Spend]]


class _Held:
    """What is held for a call: renewed while it lasts, all of it, for a hold that has expired begins anew."""

    __slots__ = ("draws", "late", "lease")

    def __init__(self, draws: Sequence[Draw], lease: float) -> None:
        self.draws, self.lease = draws, lease
        self.late = False  # it was there, and not renewed, when the timer went off before


@define(eq=False)
class _Watched:
    """A balance whose shares somebody wants to hear of. Money is nano-USD."""

    spent: int = 0
    told: float = 0.0
    """The highest share that was told."""
    look_at: float = 0.0
    """What must be spent for another look at the balance."""
    looked: float = -inf


class Desk:
    """Keeps the holds of calls under way alive, and brings to the ledger what it could not take.

    Nothing that was spent is dropped: while the store is out of reach, settlements wait here, and are
    brought again and again, each under its id.
    """

    def __init__(self, runtime: Runtime, store: str, name: str) -> None:
        self._runtime = runtime
        self.ledger: Ledger = shared(runtime, store).ledger(name)
        self.remote = not store.startswith("memory:")
        self.memory = self.ledger if isinstance(self.ledger, MemoryLedger) else None
        # A runtime that is made with the same seed again has the same ids again; what outlives it has not.
        self.prefix = f"hold-{token_hex(6)}-" if self.remote else "hold-"
        self._lent: dict[str, int] = {}  # nano-USD of the slack, by hold
        self._held: dict[str, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that of the timer
        self._owed: dict[str, _Settlement] = {}
        self._bringing: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._watched: dict[_Key, _Watched] = {}

    # ------------------------------------------------------------ holding

    async def reserve(
        self,
        hold: str,
        draws: Sequence[Draw],
        lease: float,
        more: int,
        slack_usd: float,
        *,
        ends: bool = False,
    ) -> Shortage | None:
        """As the ledger's. Where that is out of reach, `more` nano-USD are lent, if `slack_usd` has them.

        So `slack_usd` is what this process may overspend at most, until the store is there again. What no
        budget limits needs none of it.

        Args: ends says that the lease is to end, because nobody will settle the hold.
        Raises: StoreUnavailable where the slack is used up too.
        """
        lasts = not (ends or self.remote)  # what is kept in this process dies with it
        try:
            short = await self.ledger.reserve(hold, draws, inf if lasts else lease)
        except StoreUnavailable:
            if all(draw.limit is None for draw in draws):
                return None
            if slack_usd <= 0 or self.lent + more > int(slack_usd * 10**9):
                raise
            self._lent[hold] = self._lent.get(hold, 0) + more  # until the store knows what the call cost
            return None
        if short is None and self.remote and not ends:
            self._hold(hold, draws, lease)
        return short

    def _hold(self, hold: str, draws: Sequence[Draw], lease: float) -> None:
        loop = asyncio.get_running_loop()
        held = self._held.get(hold)
        if held is not None:
            named = {(draw.account, draw.period) for draw in draws}
            draws = (*[draw for draw in held.draws if (draw.account, draw.period) not in named], *draws)
        self._held[hold] = _Held(draws, lease)
        timer, due = self._timer, loop.time() + lease / 3
        if self._loop is not loop:  # a chain may be used in one loop after another
            self._loop, timer = loop, None
        if timer is None or due < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = loop.call_at(due, self._due, loop)

    def _due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if not self._held:
            return
        shortest = min(held.lease for held in self._held.values())
        self._timer = loop.call_later(shortest / 3, self._due, loop)
        late = [hold for hold, held in self._held.items() if held.late]
        for held in self._held.values():
            held.late = True
        if late and (self._renewing is None or self._renewing.done()):
            self._renewing = self._runtime.spawn(self._renew(late), "budget: renewing holds")

    async def _renew(self, late: list[str]) -> None:
        for hold in late:
            held = self._held.get(hold)
            if held is None:
                continue
            try:
                await self.ledger.reserve(hold, held.draws, held.lease)
            except StoreUnavailable:
                return  # tried again after a third of a lease; a settlement corrects what expires
            except ValueError:  # settled meanwhile
                continue
            held.late = False

    # ------------------------------------------------------------ settling

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend]) -> None:
        """Settle, now or when the store is there again. Cancelled meanwhile, it is owed too."""
        self._held.pop(hold, None)
        self._owed[hold] = (charges, rows)
        try:
            await self.ledger.settle(hold, charges, rows)
        except (StoreUnavailable, asyncio.CancelledError) as error:
            self.owe(hold, charges, rows, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:  # noqa: BLE001  one that can never be settled must not hold up the others
            self._lost(hold, error)
        else:
            self._paid(hold)

    def owe(
        self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend], why: BaseException | None = None
    ) -> None:
        """Settle when that can be done: the store is out of reach, or the one who would wait is gone."""
        self._held.pop(hold, None)
        if not charges and not rows and len(self._owed) > _MAX_OWED:
            self._paid(hold)
            return
        if hold in self._lent:  # what was spent of it is known now
            self._lent[hold] = sum([row.nano or 0 for row in rows])
        self._owed[hold] = (charges, rows)
        if self._bringing is None or self._bringing.done():
            if isinstance(why, StoreUnavailable):  # told of once, and again if it comes back and goes
                self._runtime.report("budget: settlements wait until the store can be reached", why)
            with suppress(
                RuntimeError
            ):  # no loop runs any more: `aclose` brings it, or the next that is owed
                asyncio.get_running_loop()
                self._bringing = self._runtime.spawn(self._bring(), "budget: bringing what is owed")

    def _paid(self, hold: str) -> None:
        self._owed.pop(hold, None)
        self._lent.pop(hold, None)

    def _lost(self, hold: str, error: Exception) -> None:
        charges, rows = self._owed.get(hold, ((), ()))  # of two who bring it, the other has said so
        self._paid(hold)
        spent = sum([row.nano or 0 for row in rows])
        self._runtime.report(
            f"budget: the store refuses a settlement of {spent} nano-USD over {len(charges)} budgets", error
        )

    async def _bring(self) -> None:
        pause = _FIRST_PAUSE
        while self._owed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE) if await self._brought() else _FIRST_PAUSE

    async def _brought(self) -> StoreUnavailable | None:
        """Bring what is owed; the failure that stopped it."""
        for hold, (charges, rows) in list(self._owed.items()):
            try:
                await self.ledger.settle(hold, charges, rows)
            except StoreUnavailable as error:
                return error
            except Exception as error:  # noqa: BLE001  as in `settle`
                self._lost(hold, error)
            else:
                self._paid(hold)
        return None

    @property
    def owed(self) -> int:
        """How many settlements the store has not taken yet."""
        return len(self._owed)

    @property
    def lent(self) -> int:
        """Nano-USD that are spent, or may be, of the slack."""
        return sum(self._lent.values())

    def rest(self) -> None:
        """Stop the timer if nothing is held."""
        if self._timer is not None and not self._held:
            self._timer.cancel()
            self._timer = None

    async def aclose(self) -> None:
        """Bring what is owed, once more; say how much could not be."""
        if self._owed and (error := await self._brought()) is not None:
            nano = sum([row.nano or 0 for _, rows in self._owed.values() for row in rows])
            self._runtime.report(f"budget: {self.owed} settlements, {nano} nano-USD, are lost", error)

    # ------------------------------------------------------------ telling

    def risen(self, lines: Sequence[Line], nano: int) -> list[Line]:
        """Those of `lines` whose balance `nano` more spent is a reason to look at.

        That is when it may have come to a share that somebody wants to hear of, and once a second where
        other processes spend of it too.
        """
        found, watched = [], self._watched
        for line in lines:
            one = watched.get(line.key)
            if one is None:
                if len(watched) >= _MAX_WATCHED:  # the oldest, which is of a period that is over
                    del watched[next(iter(watched))]
                one = watched[line.key] = _Watched()
            one.spent += nano
            if one.spent >= one.look_at or (self.remote and self._runtime.now() - one.looked >= 1.0):
                found.append(line)
        return found

    def reached(self, key: _Key, balance: Balance, rule: Rule) -> list[float]:
        """The shares of that balance which are used up now, and of which nobody has been told."""
        watched = self._watched.setdefault(key, _Watched())
        watched.spent, watched.looked = balance.spent, self._runtime.now()
        shares = sorted(rule.alert_at)
        passed = [share for share in shares if balance.spent >= share * rule.nano]
        new = [share for share in passed if share > watched.told]
        watched.told = max([watched.told, *passed])
        watched.look_at = min([share * rule.nano for share in shares if share not in passed], default=inf)
        return new

    async def balances(self, keys: Sequence[_Key]) -> list[Balance]:
        """As the ledger's; none where it is out of reach, for nothing depends on them."""
        try:
            return await self.ledger.balances(keys)
        except StoreUnavailable:
            return []
