"""Budgets in this process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from math import inf, isnan
from operator import itemgetter

from llmpipe.state.checks import check_balances, check_spends, check_times
from llmpipe.state.contracts.ledger import Balance, Draw, Shortage, Spend
from llmpipe.state.draws import Accounts, EvenDraws, Share, shares_of
from llmpipe.state.memory.clock import Clock, loop_time
from llmpipe.state.memory.timers import Timers
from llmpipe.state.spends import FIELDS, Values, spend_of, values_of

__all__ = ("MemoryLedger",)

_Key = tuple[str, int]
_Even = tuple[Accounts, int, int]
"""What `EvenDraws` are made of: accounts, nano, likely."""

# Seconds for which a settlement that arrives twice is known as such, and an expired hold as expired.
# Writers repeat within minutes.
_REMEMBER = 24 * 3600.0
_MAX_LINES = 100_000
_TENANT = FIELDS.index("tenant")
_WEEK = 7 * 86_400.0

_at, _place = itemgetter(1), itemgetter(1, 0)  # of a line, which begins with its id and its time


class _Sum:
    """A balance, kept for `keep` seconds after it was `touched`: infinite is later than the last look.

    By monotonic time, for a wall clock that jumps must not make a budget forget what is spent.
    """

    __slots__ = ("held", "keep", "spent", "touched")

    def __init__(self, keep: float) -> None:
        self.keep = keep
        self.spent = self.held = 0
        self.touched = 0.0


class _Hold:
    """Of each balance in `shares`, nano is held while it is open, likely is charged when it has expired."""

    __slots__ = ("expired", "expires_at", "shares")

    def __init__(self, expires_at: float, shares: list[Share]) -> None:
        self.expires_at, self.shares = expires_at, shares
        self.expired = False


class MemoryLedger:
    """A ledger in dicts: the plainest thing that keeps the contract, so what others are held against.

    The journal has the last 100,000 lines. Balances go a week after their period is over. A hold that
    nobody has settled a day after it expired is settled by that, at what was likely.

    The methods of the contract check what they are given. `reserve_at_once` and `settle_at_once` are for a
    caller in this process, on the path of every call, who knows that it is right: they wait for nothing, and
    such a hold lasts until it is settled.
    """

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._sums: dict[_Key, _Sum] = {}
        self._room = 1024  # sums there may be before those that are long over are looked for
        self._holds: dict[str, _Hold] = {}  # open and expired
        self._lasting: dict[str, _Even] = {}  # open, and taken at once
        self._leases = Timers()
        self._due = -inf  # when something ends or may be forgotten, at the earliest
        self._expired = 0  # holds, so far
        self._settled: OrderedDict[str, float] = OrderedDict()  # and when
        self._journal: list[Values] = []  # in order of their times, then their ids
        self._lines: set[str] = set()  # these

    def reserve_at_once(self, hold: str, accounts: Accounts, nano: int, likely: int) -> bool:
        """`reserve` of `EvenDraws` that are money, for an id that is new; False if something is short.

        What has expired and is not swept yet holds no less than is likely: so nothing is swept here.
        """
        sums = self._sums
        for key, limit in accounts.limited:
            sum_ = sums.get(key)
            if (nano if sum_ is None else sum_.spent + sum_.held + nano) > limit:
                return False
        for key, ends in accounts.kept:
            sum_ = sums.get(key) or self._new_sum(key, ends, self._clock())
            sum_.held += nano
        self._lasting[hold] = (accounts, nano, likely)
        return True

    def settle_at_once(self, hold: str, accounts: Accounts, nano: int, rows: Sequence[Values]) -> bool:
        """`settle` with a charge of `nano` to each of the `accounts` that the hold was taken of at once.

        False if it was not, or of others, or has grown; then nothing is done.
        That it was settled is not remembered: the caller does it once.
        """
        even = self._lasting.get(hold)
        if even is None or even[0] is not accounts:
            return False
        del self._lasting[hold]
        held, sums = even[1], self._sums
        for key, ends in accounts.kept:
            sum_ = sums.get(key) or self._new_sum(key, ends, self._clock())
            sum_.held -= held
            sum_.spent += nano
            sum_.touched = inf
        for values in rows:
            self._note(values)
        return True

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """See `Ledger.reserve`."""
        shares = shares_of(draws)
        if isnan(lease):
            raise ValueError("lease is not a number")
        now = self._clock()
        if now >= self._due:
            self._sweep(now)
        if hold in self._settled:
            raise ValueError(f"hold {hold!r} is settled, and cannot be held again")
        found = self._known(hold)
        if found is None:
            short = self._short(shares)
        else:
            shares, short = self._grown(found, shares)
        if short is not None:
            return short
        if found is None:
            found = self._holds[hold] = _Hold(now + lease, shares)
        else:
            self._release(found)
            found.shares, found.expired, found.expires_at = shares, False, now + lease
        sums = self._sums
        for key, nano, _, _, ends in shares:
            sum_ = sums.get(key) or self._new_sum(key, ends, now)
            sum_.held += nano
            sum_.touched = now
        self._leases.arm(hold, found.expires_at)
        self._due = min(self._due, found.expires_at)
        return None

    def _short(self, shares: Sequence[Share]) -> Shortage | None:
        """What a new hold lacks."""
        sums = self._sums
        for place, (key, nano, limit, _, _) in enumerate(shares):
            if limit is not None:
                sum_ = sums.get(key)
                if sum_ is None:
                    if nano > limit:
                        return Shortage(place, 0, 0)
                elif sum_.spent + sum_.held + nano > limit:
                    return Shortage(place, sum_.spent, sum_.held)
        return None

    def _grown(self, hold: _Hold, shares: Sequence[Share]) -> tuple[list[Share], Shortage | None]:
        """What `hold` has with `shares`, and what it lacks for that.

        If it has expired it has these alone: of the others nobody asked whether they fit.
        """
        had = {share[0]: share for share in hold.shares}
        has = {} if hold.expired else dict(had)
        for place, (key, nano, limit, likely, ends) in enumerate(shares):
            _, had_nano, _, had_likely, _ = had.get(key, (key, 0, None, 0, None))
            has[key] = (key, max(nano, had_nano), limit, max(likely, had_likely), ends)
            if limit is None or (key in had and nano <= had_nano and not hold.expired):
                continue  # it has that already
            sum_ = self._sums.get(key)
            spent, held = (0, 0) if sum_ is None else (sum_.spent, sum_.held)
            spent, held = (spent - had_likely, held) if hold.expired else (spent, held - had_nano)
            if spent + held + max(nano, had_nano) > limit:
                return [], Shortage(place, spent, held)
        return [*has.values()], None

    def _release(self, hold: _Hold) -> None:
        """Free what `hold` has, or take back what was charged for it when it expired."""
        sums = self._sums
        if hold.expired:
            for key, _, _, likely, _ in hold.shares:
                sums[key].spent -= likely
        else:
            for key, nano, _, _, _ in hold.shares:
                sums[key].held -= nano

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """See `Ledger.settle`."""
        shares = shares_of(charges, once=False)
        check_spends(rows)
        now = self._clock()
        if now >= self._due:
            self._sweep(now)
        if hold in self._settled:
            return False
        found = self._known(hold)
        if found is not None:
            del self._holds[hold]
            self._release(found)
            self._leases.disarm(hold)
        self._settled[hold] = now
        sums = self._sums
        for key, nano, _, _, ends in shares:
            sum_ = sums.get(key) or self._new_sum(key, ends, now)
            sum_.spent += nano
            sum_.touched = now
        for row in rows:
            self._note(values_of(row))
        return True

    def _known(self, hold: str) -> _Hold | None:
        if hold in self._lasting:
            self._holds[hold] = _Hold(inf, EvenDraws(*self._lasting.pop(hold)).shares())
        return self._holds.get(hold)

    def _note(self, values: Values) -> None:
        """Write a line into the journal, if it is not there."""
        name, journal = values[0], self._journal
        if name in self._lines:
            return
        self._lines.add(name)
        if not journal or values[1] > journal[-1][1]:  # nearly always
            journal.append(values)
        else:
            insort(journal, values, key=_place)
        if len(journal) > _MAX_LINES + 1000:
            self._drop(len(journal) - _MAX_LINES)

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """See `Ledger.balances`."""
        check_balances(keys)
        self._sweep(self._clock())
        sums = [self._sums.get(key) for key in keys]
        return [Balance() if sum_ is None else Balance(sum_.spent, sum_.held) for sum_ in sums]

    async def holds(self) -> list[str]:
        """See `Ledger.holds`."""
        self._sweep(self._clock())
        return sorted([*self._lasting, *[name for name, hold in self._holds.items() if not hold.expired]])

    async def sweep(self) -> int:
        """See `Ledger.sweep`."""
        before = self._expired
        self._sweep(self._clock())
        return self._expired - before

    def _new_sum(self, key: _Key, ends: float | None, now: float) -> _Sum:
        """A balance that was not known, whose period ends at `ends`."""
        if len(self._sums) >= self._room:
            self._forget_sums(now)
        keep = inf if ends is None else max(0.0, ends - key[1]) + _WEEK
        found = self._sums[key] = _Sum(keep)
        found.touched = now
        return found

    def _forget_sums(self, now: float) -> None:
        for sum_ in self._sums.values():
            sum_.touched = min(sum_.touched, now)
        over = [key for key, sum_ in self._sums.items() if not sum_.held and now - sum_.touched > sum_.keep]
        for key in over:
            del self._sums[key]
        self._room = max(1024, 2 * len(self._sums))

    def _sweep(self, now: float) -> None:
        """Expire what has to, forget old settlements, and say when there will be more of that."""
        for name in self._leases.due(now):
            hold = self._holds[name]
            if hold.expires_at > now:  # its lease was begun anew, or it expired some time ago
                self._leases.arm(name, hold.expires_at)
            elif hold.expired:
                del self._holds[name]
                self._settled[name] = now
            else:
                for key, nano, _, likely, _ in hold.shares:
                    sum_ = self._sums[key]
                    sum_.held -= nano
                    sum_.spent += likely
                    sum_.touched = now  # it must be there when the hold is settled after all
                self._expired += 1
                hold.expired, hold.expires_at = True, now + _REMEMBER
                self._leases.arm(name, hold.expires_at)
        settled = self._settled
        while settled and now - next(iter(settled.values())) > _REMEMBER:
            settled.popitem(last=False)
        self._due = min(self._leases.first, now + _REMEMBER)

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
        start = bisect_left(self._journal, since, key=_at)
        if after is not None:
            start = max(start, bisect_right(self._journal, (after.at, after.id), key=_place))
        for values in islice(self._journal, start, None):
            if len(found) >= limit or _at(values) >= until:
                break
            if tenant is None or values[_TENANT] == tenant:
                found.append(spend_of(values))
        return found

    async def forget(self, before: float) -> int:
        """See `Ledger.forget`. A settlement is known for a day here, whatever `before` says."""
        check_times(before=before)
        return self._drop(bisect_left(self._journal, before, key=_at))

    def _drop(self, count: int) -> int:
        self._lines.difference_update([values[0] for values in self._journal[:count]])
        del self._journal[:count]
        return count
