"""Token buckets with debt, each one timestamp: pure arithmetic, the time is an argument.

A bucket of `rate` units a second and `burst` units is stored as the moment `full_at` at which it will
be full again (the theoretical arrival time of the generic cell rate algorithm, ITU-T I.371). Taking
moves that moment on, giving back moves it nearer, time does the rest; so nothing runs while nobody asks.

What follows of it, for units taken one by one: in every window of W seconds at most ``rate · W + burst``
are taken, and nothing is refused that this allows. An amount above `burst` is taken when the bucket is
full and leaves it in debt, so a window holds at most ``rate · W`` and the larger of `burst` and that amount.
"""

from __future__ import annotations

from attrs import define, frozen

__all__ = ("Bucket", "EPSILON", "Limit")

EPSILON = 1e-6
"""Seconds by which an amount may be early, so that rounding never leaves a timer short of its moment."""

# What the amounts of a reservation stand for, by place.
REQUESTS, TOKENS, INPUT, OUTPUT = range(4)


@frozen
class Limit:
    """So many units of a kind in a period of seconds.

    `kind` is the place of the amount in a reservation; `burst` None is 10 % of `amount`, at least 1.
    """

    name: str
    kind: int
    period: float
    amount: float
    burst: float | None = None

    @property
    def capacity(self) -> float:
        """Units that may be taken at once from a full bucket."""
        return max(1.0, self.amount / 10) if self.burst is None else self.burst


@define(eq=False)
class Bucket:
    """One limit's bucket, full at first."""

    limit: Limit
    kind: int
    rate: float
    burst: float
    full_at: float

    @classmethod
    def of(cls, limit: Limit, now: float) -> Bucket:
        """A full bucket for `limit`."""
        return cls(limit, limit.kind, limit.amount / limit.period, limit.capacity, now)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` could be taken if nobody else did; 0 or less if now."""
        ahead = self.full_at - now
        need = self.burst if amount > self.burst else amount  # noqa: FURB136  the hot path: 0.1 µs less than min
        return (0.0 if ahead < 0.0 else ahead) + (need - self.burst) / self.rate  # noqa: FURB136  as above

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whether it is there or not."""
        begins = now if now > self.full_at else self.full_at  # noqa: FURB136  as above
        self.full_at = begins + amount / self.rate

    def give(self, amount: float) -> None:
        """Give back `amount`. What a full bucket is given is lost."""
        self.full_at -= amount / self.rate

    def available(self, now: float) -> float:
        """Units that could be taken now; below 0 in debt."""
        return self.burst - max(0.0, self.full_at - now) * self.rate

    def lower(self, available: float, now: float) -> None:
        """Leave at most `available` units in it."""
        if available < self.available(now):
            self.full_at = now + (self.burst - available) / self.rate

    def retune(self, limit: Limit, now: float) -> None:
        """Take another limit; what was taken stays taken."""
        taken = max(0.0, self.full_at - now) * self.rate
        self.limit, self.rate, self.burst = limit, limit.amount / limit.period, limit.capacity
        self.full_at = now + taken / self.rate
