"""Limits in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field

from llmpipe.state.checks import check_asks, check_times, check_used
from llmpipe.state.contracts.limits import Ask, Level, Taken
from llmpipe.state.gcra import arrival, level, wait
from llmpipe.state.memory.clock import Clock, loop_time
from llmpipe.state.memory.timers import Timers

__all__ = ("MemoryLimits",)


@define
class _Ticket:
    expires_at: float
    rates: dict[str, tuple[float, float]] = field(factory=dict)  # key to units taken, seconds a unit
    slots: dict[str, float] = field(factory=dict)  # key to slots held


class MemoryLimits:
    """Buckets and slots in dicts; what is full again, and whose lease has ended, is dropped."""

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._arrivals: dict[str, float] = {}  # of the buckets that are not full, their TAT
        self._held: dict[str, float] = {}  # slots
        self._tickets: dict[str, _Ticket] = {}
        self._leases = Timers()
        self._room = 1024  # buckets there may be before the full ones are looked for

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """See `Limits.take`."""
        check_asks(asks)
        check_times(lease=lease)
        now = self._swept()
        found = self._tickets.get(ticket)
        if found is None:
            refused, retry_after = self._refusal(asks, now)
            if refused is not None:
                return Taken(self._levels(asks, now), refused, retry_after)
            found = self._tickets[ticket] = _Ticket(0.0)
            for ask in asks:
                self._take(found, ask, now)
        found.expires_at = now + lease
        self._leases.arm(ticket, found.expires_at)
        return Taken(self._levels(asks, now))

    def _refusal(self, asks: Sequence[Ask], now: float) -> tuple[int | None, float | None]:
        """The first ask without room, and when there will be room for all."""
        refused: int | None = None
        retry_after: float | None = 0.0
        for index, ask in enumerate(asks):
            if ask.period:
                seconds: float | None = wait(ask, self._arrivals.get(ask.key, now), now)
            else:
                full = self._held.get(ask.key, 0.0) + ask.amount > ask.limit
                seconds = None if full else 0.0
            if seconds == 0.0:
                continue
            if refused is None:
                refused = index
            retry_after = None if seconds is None or retry_after is None else max(retry_after, seconds)
        return refused, retry_after

    def _take(self, ticket: _Ticket, ask: Ask, now: float) -> None:
        key = ask.key
        if not ask.period:
            if not ask.amount:
                return
            self._held[key] = self._held.get(key, 0.0) + ask.amount
            ticket.slots[key] = ticket.slots.get(key, 0.0) + ask.amount
            return
        if len(self._arrivals) >= self._room:
            for full in [name for name, tat in self._arrivals.items() if tat <= now]:
                del self._arrivals[full]
            self._room = max(1024, 2 * len(self._arrivals))
        self._arrivals[key] = arrival(ask, self._arrivals.get(key, now), now)
        ticket.rates[key] = (ask.amount, ask.period / ask.limit)

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """See `Limits.settle`."""
        check_used(used)
        now = self._swept()
        found = self._tickets.pop(ticket, None)
        if found is None:
            return False
        self._leases.disarm(ticket)
        self._free(found)
        for key, units in used.items():
            if key in found.rates:
                taken, seconds = found.rates[key]
                # A bucket that is full again has no time; what was taken is refilled then.
                tat = self._arrivals.get(key, now)
                if units > taken:
                    tat = max(tat, now)
                self._arrivals[key] = tat + (units - taken) * seconds
        return True

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """See `Limits.levels`."""
        check_asks(asks)
        return self._levels(asks, self._swept())

    def _levels(self, asks: Sequence[Ask], now: float) -> tuple[Level, ...]:
        return tuple(
            [
                level(ask, self._arrivals.get(ask.key, now), now)
                if ask.period
                else Level(ask.limit - self._held.get(ask.key, 0.0), 0.0)
                for ask in asks
            ]
        )

    async def reset(self, keys: Sequence[str]) -> None:
        """See `Limits.reset`."""
        for key in keys:
            self._arrivals.pop(key, None)
            self._held.pop(key, None)
        for ticket in self._tickets.values():
            for key in keys:
                ticket.slots.pop(key, None)
                ticket.rates.pop(key, None)

    def _swept(self) -> float:
        """Free the slots whose lease has ended; the time."""
        now = self._clock()
        for name in self._leases.due(now):
            expires_at = self._tickets[name].expires_at
            if expires_at > now:  # its lease was begun anew
                self._leases.arm(name, expires_at)
            else:
                self._free(self._tickets.pop(name))
        return now

    def _free(self, ticket: _Ticket) -> None:
        for key, count in ticket.slots.items():
            left = self._held[key] - count
            if left > 0:
                self._held[key] = left
            else:
                del self._held[key]
