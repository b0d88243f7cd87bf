"""Budgets in this process."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from operator import itemgetter
from typing import Literal

from attrs import define

from llmpipe.state.checks import check_balances, check_draws, check_spends, check_times
from llmpipe.state.contracts.ledger import Balance, Draw, Shortage, Spend
from llmpipe.state.memory.clock import Clock, loop_time
from llmpipe.state.memory.timers import Timers

__all__ = ("MemoryLedger",)

_Key = tuple[str, int]


# Seconds for which a settlement that arrives twice is known as such, and an expired hold as expired.
# Writers repeat within minutes.
_REMEMBER = 24 * 3600.0
_MAX_LINES = 100_000
_WEEK = 7 * 86_400.0


@define
class _Sum:
    """A balance, kept for `keep` seconds after it was last touched.

    By monotonic time, for a wall clock that jumps must not make a budget forget what is spent.
    """

    keep: float
    spent: int = 0
    held: int = 0
    touched: float = 0.0


@define
class _Part:
    """What a hold has of one balance: held while it is open, charged when it is not."""

    nano: int
    likely: int


@define
class _Hold:
    expires_at: float
    parts: dict[_Key, _Part]
    state: Literal["open", "expired"] = "open"


class MemoryLedger:
    """A ledger in dicts: the plainest thing that keeps the contract, so what others are held against.

    The journal has the last 100,000 lines. Balances go a week after their period is over. A hold that
    nobody has settled a day after it expired is settled by that, at what was likely.
    """

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._sums: dict[_Key, _Sum] = {}
        self._room = 1024  # sums there may be before those that are long over are looked for
        self._holds: dict[str, _Hold] = {}  # open and expired
        self._leases = Timers()
        self._expired = 0  # holds, so far
        self._settled: OrderedDict[str, float] = OrderedDict()  # and when
        self._journal: list[tuple[float, str, Spend]] = []
        self._lines: set[str] = set()

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """See `Ledger.reserve`."""
        check_draws(draws)
        check_times(lease=lease)
        now = self._swept()
        if hold in self._settled:
            raise ValueError(f"hold {hold!r} is settled, and cannot be held again")
        found = self._holds.get(hold)
        expired = found is not None and found.state == "expired"
        parts = found.parts if found is not None else {}
        for index, draw in enumerate(draws):
            key = (draw.account, draw.period)
            sum_, part = self._sums.get(key), parts.get(key)
            spent, held = (sum_.spent, sum_.held) if sum_ is not None else (0, 0)
            wanted = draw.nano
            if part is not None:
                if draw.nano <= part.nano and not expired:
                    continue  # it has that already
                wanted = max(wanted, part.nano)
                spent, held = (spent - part.likely, held) if expired else (spent, held - part.nano)
            if draw.limit is not None and spent + held + wanted > draw.limit:
                return Shortage(index, spent, held)
        if found is None:
            found = self._holds[hold] = _Hold(0.0, {})
        elif expired:
            self._reopen(found, draws)
        for draw in draws:
            part = found.parts.setdefault((draw.account, draw.period), _Part(0, 0))
            self._sum(draw, now).held += max(0, draw.nano - part.nano)
            part.nano, part.likely = max(part.nano, draw.nano), max(part.likely, draw.likely)
        found.expires_at = now + lease
        self._leases.arm(hold, found.expires_at)
        return None

    def _reopen(self, hold: _Hold, draws: Sequence[Draw]) -> None:
        """Take back what was likely. What `draws` do not name is not held again: nobody asked if it fits."""
        self._charge_likely(hold, -1)
        hold.state = "open"
        named = {(draw.account, draw.period) for draw in draws}
        for key in [key for key in hold.parts if key not in named]:
            self._sums[key].held -= hold.parts.pop(key).nano

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """See `Ledger.settle`."""
        check_draws(charges, once=False)
        check_spends(rows)
        now = self._swept()
        if hold in self._settled:
            return False
        found = self._holds.pop(hold, None)
        if found is not None:
            if found.state == "expired":
                self._charge_likely(found, -1)
            for key, part in found.parts.items():
                self._sums[key].held -= part.nano
        self._leases.disarm(hold)
        self._settled[hold] = now
        for charge in charges:
            self._sum(charge, now).spent += charge.nano
        for row in rows:
            if row.id not in self._lines:
                self._lines.add(row.id)
                insort(self._journal, (row.at, row.id, row))
        if len(self._journal) > _MAX_LINES + 1000:
            self._drop(len(self._journal) - _MAX_LINES)
        return True

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """See `Ledger.balances`."""
        check_balances(keys)
        self._swept()
        sums = [self._sums.get(key) for key in keys]
        return [Balance() if sum_ is None else Balance(sum_.spent, sum_.held) for sum_ in sums]

    async def holds(self) -> list[str]:
        """See `Ledger.holds`."""
        self._swept()
        return sorted(name for name, hold in self._holds.items() if hold.state == "open")

    async def sweep(self) -> int:
        """See `Ledger.sweep`."""
        before = self._expired
        self._swept()
        return self._expired - before

    def _sum(self, draw: Draw, now: float) -> _Sum:
        """The balance that `draw` is of."""
        key = (draw.account, draw.period)
        found = self._sums.get(key)
        if found is None:
            if len(self._sums) >= self._room:
                self._forget_sums(now)
            keep = inf if draw.ends is None else max(0.0, draw.ends - draw.period) + _WEEK
            found = self._sums[key] = _Sum(keep)
        found.touched = now
        return found

    def _forget_sums(self, now: float) -> None:
        over = [key for key, sum_ in self._sums.items() if not sum_.held and now - sum_.touched > sum_.keep]
        for key in over:
            del self._sums[key]
        self._room = max(1024, 2 * len(self._sums))

    def _swept(self) -> float:
        """Expire what has to, forget old settlements; the time."""
        now = self._clock()
        for name in self._leases.due(now):
            hold = self._holds[name]
            if hold.expires_at > now:  # its lease was begun anew, or it expired some time ago
                self._leases.arm(name, hold.expires_at)
            elif hold.state == "open":
                self._charge_likely(hold, 1)
                self._expired += 1
                hold.state, hold.expires_at = "expired", now + _REMEMBER
                self._leases.arm(name, hold.expires_at)
            else:
                del self._holds[name]
                self._settled[name] = now
        settled = self._settled
        while settled and now - next(iter(settled.values())) > _REMEMBER:
            settled.popitem(last=False)
        return now

    def _charge_likely(self, hold: _Hold, sign: int) -> None:
        """Turn what is held into a charge of what is likely; with a `sign` of -1, take that back."""
        for key, part in hold.parts.items():
            sum_ = self._sums[key]
            sum_.held -= sign * part.nano
            sum_.spent += sign * part.likely

    async def spends(
        self,
        *,
        since: float = 0.0,
        until: float = float("inf"),
        tenant: str | None = None,
        limit: int = 1000,
        after: Spend | None = None,
    ) -> list[Spend]:
        """See `Ledger.spends`."""
        check_times(since=since, until=until)
        found: list[Spend] = []
        for at, name, row in self._journal:
            if len(found) >= limit:
                break
            beyond = after is None or (at, name) > (after.at, after.id)
            if since <= at < until and beyond and tenant in (None, row.tenant):
                found.append(row)
        return found

    async def forget(self, before: float) -> int:
        """See `Ledger.forget`. A settlement is known for a day here, whatever `before` says."""
        check_times(before=before)
        return self._drop(bisect_left(self._journal, before, key=itemgetter(0)))

    def _drop(self, count: int) -> int:
        self._lines.difference_update([name for _, name, _ in self._journal[:count]])
        del self._journal[:count]
        return count
