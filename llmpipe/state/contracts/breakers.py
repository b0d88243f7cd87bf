"""Which circuits are open, told to all who share a store."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Breakers", "Trip")


@frozen
class Trip:
    """An open circuit: for how many seconds more, and how often it was opened again without closing."""

    seconds: float
    reopens: int = 0


@runtime_checkable
class Breakers(Protocol):
    """Open circuits by key. Which state a circuit is in, each process still decides for itself.

    All raise: StoreUnavailable when the store cannot be reached in its time; `trip` ValueError for what is
    no time or no count.
    """

    async def trip(self, key: str, trip: Trip) -> None:
        """The circuit is open for that long, or longer if somebody has said so; never shorter.

        While it is open the higher `reopens` stays; a trip that is over leaves nothing to the next.
        """
        ...

    async def close(self, key: str) -> None:
        """The circuit works again."""
        ...

    async def read(self) -> dict[str, Trip]:
        """All circuits that are open now."""
        ...
