"""Limits that several processes share: rates as GCRA buckets, and slots as leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Ask", "Level", "Limits", "Taken")


@frozen(slots=False)  # made for every call: half the time
class Ask:
    """Units wanted of one limit.

    Attributes:
        key: what is limited, and whose: ``"minute/tenant=acme"``. One key has one limit.
        amount: how many; at least 0. An ask for nothing is refused by a bucket in debt only.
        limit: units in each `period`; of slots, how many may be held at once.
        period: seconds; 0 for slots, which are held until they are settled or their lease ends.
        burst: units of a rate that may be taken at once. In any time t at most
            ``burst + limit * t / period`` are taken, but for what one single ask is larger than the burst.
    """

    key: str
    amount: float
    limit: float
    period: float = 0.0
    burst: float = 1.0


@frozen(slots=False)  # made for every call: half the time
class Level:
    """How a limit stands: units that could be taken now (below 0 in debt), and seconds until all can be."""

    remaining: float
    reset: float


@frozen
class Taken:
    """What came of it: the level of each ask, afterwards.

    `refused` is the index of an ask that had no room, None if all were granted. `retry_after` is the
    earliest time, in seconds from now, at which this would be granted if nothing else happened; None
    where slots are full, for nobody knows when they are given back.
    """

    levels: tuple[Level, ...]
    refused: int | None = None
    retry_after: float | None = 0.0


@runtime_checkable
class Limits(Protocol):
    """Takes from several limits at once, all or nothing; a refusal consumes nothing.

    A rate is a token bucket in GCRA form: one time for each key, the theoretical arrival time of ITU-T
    I.371 (TAT). An ask for more than the burst is granted when the bucket is full, and leaves it in
    debt. Time is the store's own. A key that is full again takes no memory.

    All raise: StoreUnavailable when the store cannot be reached in its time; ValueError for what no limit
    can reckon with, before anything is taken (see `llmpipe.state.checks`).
    """

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """Take all of `asks` under the id `ticket`, or none. Slots are held for `lease` seconds at most.

        Each of `asks` is of another key. The same granted ticket again takes nothing more, whatever it
        asks, and begins its lease anew; once it is settled, or its lease has ended, it is a new one.
        """
        ...

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """Correct what `ticket` took: key to the units really used, more or less; free its slots.

        Keys that `used` lacks stay as taken; those that the ticket has not, and those of slots, mean
        nothing there. Whether that was done now: False for a ticket that is settled, or unknown, or whose
        lease has ended; what was taken then stands. A refund never leaves a bucket fuller than full, and
        what was used beyond what was taken is taken from how full it is now.
        """
        ...

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """How the limits of `asks` stand; takes nothing, whatever their `amount`."""
        ...

    async def reset(self, keys: Sequence[str]) -> None:
        """Fill the buckets and free the slots of these keys. Tickets that held them free nothing more."""
        ...
