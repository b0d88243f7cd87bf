"""The simulator's own bookkeeping: what a provider's invoice would say."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from attrs import define, field

from llmpipe.types import Usage

__all__ = ("Book", "Entry")


@define
class Entry:
    """One request as the provider saw it.

    `status` is the HTTP status, 0 when none was sent. `end` is ``ok``, ``refused`` (an error status),
    ``broken`` (cut, reset, malformed, error event, unfinished), ``aborted`` (the client went away) or
    ``open``. `usage` counts what was taken in and what was sent out whole; `billed_nano` is its price.
    """

    number: int
    path: str
    dialect: str = ""
    model: str = ""
    stream: bool = False
    status: int = 0
    end: str = "open"
    fault: str = ""
    usage: Usage | None = None
    billed_nano: int = 0


@define
class Book:
    """All requests of a simulator, in the order of their arrival.

    What is billed: the input of every request that was taken in, and the output as far as it was
    sent in whole events (a full reply is one). What is refused with a status that says so costs
    nothing; a 500, which may come after the work, costs its input.

    `connections` counts those that brought a request.
    """

    entries: list[Entry] = field(factory=list)
    connections: int = 0

    @property
    def billed_nano(self) -> int:
        """The whole bill, in nano-USD."""
        return sum(entry.billed_nano for entry in self.entries)

    @property
    def billed(self) -> Decimal:
        """The whole bill, in USD."""
        return Decimal(self.billed_nano).scaleb(-9)

    @property
    def usage(self) -> Usage:
        """All tokens together."""
        total = Usage()
        for entry in self.entries:
            if entry.usage is not None:
                total += entry.usage
        return total

    @property
    def ends(self) -> Counter[str]:
        """How many requests ended how."""
        return Counter(entry.end for entry in self.entries)

    @property
    def statuses(self) -> Counter[int]:
        """How many responses had which status."""
        return Counter(entry.status for entry in self.entries)
