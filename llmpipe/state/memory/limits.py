"""Limits in this process."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from llmpipe.state.checks import check_asks, check_times, check_used
from llmpipe.state.contracts.limits import Ask, Level, Taken
from llmpipe.state.gcra import level, wait
from llmpipe.state.memory.clock import Clock, loop_time

__all__ = ("Answer", "MemoryLimits", "Order")

Stands = dict[str, float]
"""Key to how it stands: of a bucket its TAT, of slots how many are held."""


class Order:
    """Asks, worked out once for who makes the same ones again and again, but for the units of some.

    Attributes:
        asks: those that it was made of; of the metered ones their amount means nothing.
        rates: of each bucket its key, by how many seconds its TAT moves on, and how many it may lie ahead
            for the ask to be granted; a full one grants any.
        metered: of each bucket from which as many units are taken as is said each time: its key, the
            seconds of a unit, the burst.
        slots: key, how many, and how many there are.
        amounts: key to the units that are taken, of `rates`.
        increments: key to the seconds of a unit, of all buckets.
    """

    __slots__ = ("_metered_places", "amounts", "asks", "increments", "metered", "rates", "slots")

    def __init__(self, asks: Sequence[Ask], metered_places: Container[int] = ()) -> None:
        self.asks = tuple(asks)
        self._metered_places = metered_places
        rates, metered = [], []
        for place, ask in enumerate(asks):
            if ask.period and place in metered_places:
                metered.append((ask.key, ask.period / ask.limit, ask.burst))
            elif ask.period:
                cost = ask.amount * ask.period / ask.limit
                slack = (ask.burst - ask.amount) * ask.period / ask.limit
                rates.append((ask.key, cost, slack))
        self.rates = tuple(rates)
        self.metered = tuple(metered)
        self.slots = tuple([(ask.key, ask.amount, ask.limit) for ask in asks if not ask.period])
        self.amounts = {ask.key: ask.amount for place, ask in enumerate(asks) if place not in metered_places}
        self.increments = {ask.key: ask.period / ask.limit for ask in asks if ask.period}

    def of(self, units: float) -> tuple[Ask, ...]:
        """The asks, where so many units are taken of each metered one."""
        places = self._metered_places
        return tuple(
            [
                Ask(ask.key, units, ask.limit, ask.period, ask.burst) if place in places else ask
                for place, ask in enumerate(self.asks)
            ]
        )

    def without(self, keys: Container[str]) -> Order:
        """The order that lacks the asks of `keys`."""
        kept = [place for place, ask in enumerate(self.asks) if ask.key not in keys]
        metered = [new for new, old in enumerate(kept) if old in self._metered_places]
        return Order([self.asks[place] for place in kept], metered)


class Answer:
    """What came of an order: as `Taken`, but its levels are worked out when somebody wants them.

    While what was granted is held this is its ticket too: `held` is what it holds still, until `ends_at`.
    """

    __slots__ = (
        "_counts",
        "_tats",
        "at",
        "ends_at",
        "held",
        "name",
        "order",
        "refused",
        "retry_after",
        "units",
    )

    def __init__(  # noqa: PLR0917  made for every call, and keywords cost more
        self, name: Hashable, order: Order, units: float, tats: Stands, counts: Stands, at: float
    ) -> None:
        self.name = name
        self.order = self.held = order
        self.units = units
        self._tats = tats
        self._counts = counts
        self.at = self.ends_at = at
        self.refused: int | None = None
        self.retry_after: float | None = 0.0

    @property
    def levels(self) -> tuple[Level, ...]:
        """How the limits stood when this was answered."""
        tats, counts, at = self._tats, self._counts, self.at
        return tuple(
            [
                level(ask, tats[ask.key], at) if ask.period else Level(ask.limit - counts[ask.key], 0.0)
                for ask in self.order.asks
            ]
        )


class MemoryLimits:
    """Buckets and slots in dicts; what is full again, and whose lease has ended, is dropped.

    The methods of the contract check what they are given. `admit` and `release` are for a caller in this
    process on the path of every call, who has checked it: they wait for nothing, and anything names a ticket.
    """

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._arrivals: Stands = {}  # of the buckets that are not full, their TAT
        self._held: Stands = {}  # slots
        self._tickets: dict[Hashable, Answer] = {}
        # When the lease of each ticket ends, the earliest first; and of some that are settled already, for
        # to take one out of a heap costs more than to drop it when its time has come.
        self._leases: list[tuple[float, int, Answer]] = []
        self._room = 1024  # buckets there may be before the full ones are looked for

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """See `Limits.take`."""
        check_asks(asks)
        check_times(lease=lease)
        answer = self.admit(ticket, Order(asks), 0.0, lease)
        return Taken(answer.levels, answer.refused, answer.retry_after)

    def admit(self, name: Hashable, order: Order, units: float, lease: float) -> Answer:
        """`take`, of asks that `check_asks` has let pass and a number of units of each metered one."""
        now = self._clock()
        leases, tickets = self._leases, self._tickets
        if leases and leases[0][0] <= now:
            self._sweep(now)
        if name in tickets:  # all it does is to begin its lease anew
            answer, ticket = self._look(name, order, units, now), tickets[name]
        else:
            answer = ticket = self._answer(name, order, units, now)
            if answer.refused is not None:
                return answer
            tickets[name] = answer
        ticket.ends_at = ends_at = now + lease
        heappush(leases, (ends_at, id(ticket), ticket))  # the id: for tickets cannot be compared
        if len(leases) > 64 + 2 * len(tickets):
            leases[:] = [(one.ends_at, id(one), one) for one in tickets.values()]
            heapify(leases)
        return answer

    def _answer(self, name: Hashable, order: Order, units: float, now: float) -> Answer:
        """Take all that `order` asks, or nothing.

        The arithmetic of `gcra`, with all of it done beforehand that can be: every call comes this way with
        each of its limits. What seems to lack is left to `gcra.wait`, which knows what rounding may do.
        """
        arrivals, held = self._arrivals, self._held
        tats: Stands = {}
        counts: Stands = {}
        lacks = False
        for key, cost, slack in order.rates:
            tat = arrivals.get(key, now)
            if tat <= now:  # full: it grants whatever is asked
                tats[key] = now + cost
            else:
                tats[key] = tat + cost
                if tat - now > slack:
                    lacks = True
        for key, increment, burst in order.metered:
            tat = arrivals.get(key, now)
            if tat <= now:
                tats[key] = now + units * increment
            else:
                tats[key] = tat + units * increment
                if tat - now > (burst - units) * increment:
                    lacks = True
        for key, amount, limit in order.slots:
            counts[key] = count = held.get(key, 0.0) + amount
            if count > limit:
                lacks = True
        if lacks:
            answer = self._look(name, order, units, now)
            self._weigh(answer, now)
            if answer.refused is not None:
                return answer
        arrivals.update(tats)
        held.update(counts)
        if len(arrivals) > self._room:
            for full in [key for key, tat in arrivals.items() if tat <= now]:
                del arrivals[full]
            self._room = max(1024, 2 * len(arrivals))
        return Answer(name, order, units, tats, counts, now)

    def _weigh(self, answer: Answer, now: float) -> None:
        """Put into `answer` the first ask without room, and when there will be room for all."""
        for index, ask in enumerate(answer.order.of(answer.units)):
            if ask.period:
                seconds: float | None = wait(ask, self._arrivals.get(ask.key, now), now)
            else:
                full = self._held.get(ask.key, 0.0) + ask.amount > ask.limit
                seconds = None if full else 0.0
            if seconds == 0.0:
                continue
            if answer.refused is None:
                answer.refused = index
            longest = answer.retry_after
            answer.retry_after = None if seconds is None or longest is None else max(longest, seconds)

    def _look(self, name: Hashable, order: Order, units: float, now: float) -> Answer:
        """How what `order` asks for stands, of which nothing is taken."""
        tats = {key: self._arrivals.get(key, now) for key in order.increments}
        counts = {key: self._held.get(key, 0.0) for key, _, _ in order.slots}
        return Answer(name, order, units, tats, counts, now)

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """See `Limits.settle`."""
        check_used(used)
        return self.release(ticket, used)

    def release(self, name: Hashable, used: Mapping[str, float]) -> bool:
        """`settle`, of what `check_used` has let pass."""
        now = self._clock()
        if self._leases and self._leases[0][0] <= now:
            self._sweep(now)
        ticket = self._tickets.pop(name, None)
        if ticket is None:
            return False
        order, arrivals = ticket.held, self._arrivals
        if order.slots:
            self._free(order)
        for key, units in used.items():
            increment = order.increments.get(key)
            if increment is not None:
                more, tat = units - order.amounts.get(key, ticket.units), arrivals.get(key, now)
                # What was taken is refilled where the bucket is full again: from there on it takes more.
                arrivals[key] = max(tat, now) + more * increment
        return True

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """See `Limits.levels`."""
        check_asks(asks)
        now = self._clock()
        self._sweep(now)
        return self._look("", Order(asks), 0.0, now).levels

    async def reset(self, keys: Sequence[str]) -> None:
        """See `Limits.reset`."""
        for key in keys:
            self._arrivals.pop(key, None)
            self._held.pop(key, None)
        for ticket in self._tickets.values():
            ticket.held = ticket.held.without(keys)

    def _sweep(self, now: float) -> None:
        """Free the slots whose lease has ended."""
        leases, tickets = self._leases, self._tickets
        while leases and leases[0][0] <= now:
            _, _, ticket = heappop(leases)
            # Not one that is settled, nor one whose lease was begun anew: that stands in the heap again.
            if tickets.get(ticket.name) is ticket and ticket.ends_at <= now:
                del tickets[ticket.name]
                self._free(ticket.held)

    def _free(self, order: Order) -> None:
        """Give back the slots that were taken so."""
        held = self._held
        for key, amount, _ in order.slots:
            left = held.get(key, 0.0) - amount
            if left > 0:
                held[key] = left
            else:
                held.pop(key, None)
