"""Who is next: a queue by priority with aging in which tenants, and the users of one, take turns.

A turn is one call, whatever its size. A tenant that comes back to the front begins to age there, as if it
had come in that moment: so of equal priority the one is next that has been served least recently, a tenant
with a thousand calls in the queue delays the first of another by one, and its long wait behind itself is
worth nothing. The users of a tenant take turns at its turn in the same way; the calls of one user go in
the order in which they came, and all of this only among equals in priority.

With one tenant and one user that is plain first come, first served, by priority with aging. The idea is
that of fair queueing by round robin (J. Nagle, RFC 970, 1985), with the turns kept as the times at which
they began, so that nothing is remembered of who does not wait.

Coming, leaving and being served each take a few binary searches.
"""

from __future__ import annotations

from asyncio import Future
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from math import inf

from llmpipe.middleware.rate_limit.permit import Amounts, Permit
from llmpipe.pipeline.call import Ledger

__all__ = ("FairQueue", "Waiter")

Rank = tuple[float, float]
_NOTHING: Amounts = (0.0, 0.0, 0.0, 0.0)


class Waiter:
    """A call in the queue. `rank` is its place among the calls of its user: lower is earlier."""

    __slots__ = (
        "amounts", "future", "leaves_at", "ledger", "number", "priority", "rank", "since", "tenant", "user",
    )  # fmt: skip

    future: Future[Permit]
    """Its permit; there as soon as it has decided to wait."""

    def __init__(
        self, amounts: Amounts, since: float, *, priority: int, tenant: str, user: str, ledger: Ledger
    ) -> None:
        self.amounts = amounts
        self.since = since
        self.priority = priority
        self.tenant = tenant
        self.user = user
        self.ledger = ledger
        self.leaves_at = inf
        self.number = 0
        self.rank: Rank = (inf, 0)

    def __lt__(self, other: Waiter | _Flow) -> bool:
        return self.rank < other.rank


class _Flow:
    """Those who share a turn: the users of a tenant, the calls of a user, and round them all tenants."""

    __slots__ = ("flows", "key", "order", "parent", "rank", "served_at", "served_number", "size")

    def __init__(self, key: str, parent: _Flow | None) -> None:
        self.key = key
        self.parent = parent
        self.order: list[Waiter | _Flow] = []  # by rank
        self.flows: dict[str, _Flow] = {}
        self.rank: Rank = (inf, 0)
        self.served_at = -inf
        self.served_number = 0.0
        self.size = 0

    def __lt__(self, other: Waiter | _Flow) -> bool:
        return self.rank < other.rank

    def flow(self, key: str) -> _Flow:
        """The one of `key` within it."""
        found = self.flows.get(key)
        if found is None:
            found = self.flows[key] = _Flow(key, self)
        return found

    @property
    def head(self) -> Waiter:
        """The call that is next of all in it."""
        first = self.order[0]
        return first if isinstance(first, Waiter) else first.head

    def copy(self, parent: _Flow | None = None) -> _Flow:
        """The same with the same waiters, to try what would happen."""
        twin = _Flow(self.key, parent)
        twin.rank, twin.size = self.rank, self.size
        twin.served_at, twin.served_number = self.served_at, self.served_number
        for item in self.order:
            if isinstance(item, _Flow):
                item = twin.flows[item.key] = item.copy(twin)
            twin.order.append(item)
        return twin


class FairQueue:
    """Calls that wait. False when empty; iterates in the order in which they came.

    Args: aging is the seconds at the front that make up for one level of priority; infinite: none do.
    """

    def __init__(self, aging: float) -> None:
        self.aging = aging
        self._root = _Flow("", None)
        self._by_age: OrderedDict[int, Waiter] = OrderedDict()  # a plain dict finds its first in O(n)
        self._number = 0
        self.levels: dict[int, tuple[int, Amounts]] = {}
        """For each priority how many wait, and what they ask for together."""

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._by_age.values())

    @property
    def head(self) -> Waiter:
        """Who is next."""
        return self._root.head

    @property
    def oldest_since(self) -> float | None:
        """When the one who has waited longest came; None if nobody waits."""
        return next(iter(self._by_age.values())).since if self._by_age else None

    def of_tenant(self, tenant: str) -> int:
        """How many calls of `tenant` wait."""
        flow = self._root.flows.get(tenant)
        return 0 if flow is None else flow.size

    # ------------------------------------------------------------ coming and going

    def push(self, waiter: Waiter) -> None:
        """Let `waiter` wait."""
        self._number += 1
        waiter.number = self._number
        self._by_age[waiter.number] = waiter
        self._place(waiter)

    def remove(self, waiter: Waiter) -> bool:
        """Let `waiter` go unserved; False if it is not here."""
        if self._by_age.pop(waiter.number, None) is None:
            return False
        self._displace(waiter)
        return True

    def pop(self, now: float) -> Waiter:
        """Who is next, and has had its turn now."""
        waiter = self._root.head
        del self._by_age[waiter.number]
        lane = self._lane(waiter)
        self._number += 1
        for flow in (lane, lane.parent):
            assert flow is not None
            flow.served_at, flow.served_number = now, self._number
        self._displace(waiter)
        return waiter

    def hurry(self, waiter: Waiter, priority: int) -> None:
        """Give one who waits another priority. It keeps the time at which it came."""
        self._displace(waiter)
        waiter.priority = priority
        self._place(waiter)

    def copy(self) -> FairQueue:
        """The same with the same waiters, to try what would happen."""
        twin = FairQueue(self.aging)
        twin._root, twin._by_age, twin._number = self._root.copy(), self._by_age.copy(), self._number
        twin.levels = dict(self.levels)
        return twin

    def aged(self, aging: float) -> FairQueue:
        """Those who wait, under another rule of aging."""
        twin = FairQueue(aging)
        for waiter in self:
            twin.push(waiter)
        return twin

    def _lane(self, waiter: Waiter) -> _Flow:
        return self._root.flow(waiter.tenant).flow(waiter.user)

    def _place(self, waiter: Waiter) -> None:
        waiter.rank = self._rank(waiter.priority, waiter.since, waiter.number)
        lane = self._lane(waiter)
        insort(lane.order, waiter)
        self._changed(lane, waiter, 1)

    def _displace(self, waiter: Waiter) -> None:
        lane = self._lane(waiter)
        del lane.order[bisect_left(lane.order, waiter)]
        self._changed(lane, waiter, -1)

    def _rank(self, priority: int, since: float, number: float) -> Rank:
        """Lower is earlier. Levels of priority are strict, or worth so many seconds of waiting each."""
        return (-priority if self.aging == inf else since - priority * self.aging, number)

    def _changed(self, lane: _Flow, waiter: Waiter, more: int) -> None:
        """Put `lane` and its tenant where they belong, and count `waiter` as come or gone."""
        count, sums = self.levels.get(waiter.priority, (0, _NOTHING))
        if count + more:
            requests, tokens, inputs, outputs = (
                total + more * amount for total, amount in zip(sums, waiter.amounts, strict=True)
            )
            self.levels[waiter.priority] = (count + more, (requests, tokens, inputs, outputs))
        else:
            del self.levels[waiter.priority]
        flow, parent = lane, lane.parent
        while parent is not None:
            if flow.size:
                del parent.order[bisect_left(parent.order, flow)]
            flow.size += more
            if flow.size:
                head = flow.head
                since, number = max(head.since, flow.served_at), max(head.number, flow.served_number)
                flow.rank = self._rank(head.priority, since, number)
                insort(parent.order, flow)
            else:
                del parent.flows[flow.key]
            flow, parent = parent, parent.parent

    # ------------------------------------------------------------ looking ahead

    def leads(self, waiter: Waiter, at: float) -> bool:
        """Whether `waiter`, if it came at `at`, would be next."""
        rival: Waiter | _Flow = self._root
        for key in (None, waiter.tenant, waiter.user):
            if isinstance(rival, _Flow) and (key is None or rival.key == key):
                rival = rival.order[0]
        return self._rank(waiter.priority, at, inf) < rival.rank

    def turns(self, waiter: Waiter) -> int:
        """About how many calls are served up to `waiter`, who waits: exact for one tenant and one level."""
        tenant = self._root.flows[waiter.tenant]
        lane = tenant.flows[waiter.user]
        own = min(tenant.size, (bisect_left(lane.order, waiter) + 1) * len(tenant.flows))
        urgent = sum(count for priority, (count, _) in self.levels.items() if priority >= waiter.priority)
        return min(urgent, own * len(self._root.flows))

    def last_of(self, tenant: str) -> Waiter:
        """The call of `tenant` that is served last."""
        lanes = self._root.flows[tenant].flows.values()
        lasts = [lane.order[-1] for lane in lanes]
        last = max(lasts, key=lambda item: item.rank)
        assert isinstance(last, Waiter)
        return last

    def longest(self) -> str:
        """The tenant with the most calls here."""
        return max(self._root.flows.values(), key=lambda flow: flow.size).key
