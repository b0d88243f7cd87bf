"""The generic cell rate algorithm, with debt: a token bucket kept as one time.

The theoretical arrival time (TAT) of a bucket is when it will be full again. Source: ITU-T I.371,
annex A; a bucket of `burst` units that refills `limit` units in `period` seconds has an increment of
``period / limit`` and a tolerance of ``burst`` increments. Debt is ours: an ask for more than the burst is
granted when the bucket is full, and its TAT then lies further off than the tolerance.

Two whose arithmetic differs in the last bit must not differ in what they grant: a unit that is there up to
a part in a thousand million is there.
"""

from __future__ import annotations

from llmpipe.state.contracts.limits import Ask, Level

__all__ = ("EPSILON", "arrival", "level", "wait")

EPSILON = 1e-9
"""Units, relative to the burst, by which rounding may be off."""


def wait(ask: Ask, tat: float, now: float) -> float:
    """Seconds until `ask` is granted, if nothing else happens; 0.0 if it is now."""
    increment = ask.period / ask.limit
    room = now - max(tat, now) + ask.burst * increment
    lacking = min(ask.amount, ask.burst) * increment - room
    return lacking if lacking > ask.burst * increment * EPSILON + abs(now) * 1e-15 else 0.0


def arrival(ask: Ask, tat: float, now: float) -> float:
    """The TAT after `ask` was granted."""
    return max(tat, now) + ask.amount * ask.period / ask.limit


def level(ask: Ask, tat: float, now: float) -> Level:
    """How the bucket of `ask` stands."""
    filled_in = max(tat, now) - now
    return Level(ask.burst - filled_in * ask.limit / ask.period, filled_in)
