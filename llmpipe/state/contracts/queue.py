"""A durable queue: what it has accepted is there until it is done, dead or expired."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Item", "ItemStatus", "Leased", "Queue", "QueueConflict", "QueueCounts", "QueueFull", "QueueState")

QueueState = Literal["pending", "leased", "done", "dead", "expired"]


@frozen(kw_only=True)
class Item:
    """Work to be done once.

    Attributes:
        id: unique; the idempotency key of whoever gives it.
        payload: what is to be done.
        order: items of one order are leased one after another, in the order they came, whatever their
            priority: one that waits for its delay holds back those behind it; "" for none.
        priority: higher goes first; then who came first.
        expires_in: seconds after which it is not to be begun any more; None for never.
        delay: seconds before it may be leased.
        attempts: how often it may be leased before it is dead; at least 1.
    """

    id: str
    payload: bytes
    order: str = ""
    priority: int = 0
    expires_in: float | None = None
    delay: float = 0.0
    attempts: int = 5


@frozen(kw_only=True)
class Leased:
    """An item in somebody's hands. `token` rises with each lease: an older one no longer counts."""

    id: str
    payload: bytes
    token: int
    attempt: int


@frozen(kw_only=True)
class ItemStatus:
    """How it stands with an item: `result` when it is done, `reason` when it failed or is dead."""

    state: QueueState
    attempts: int
    result: bytes | None = None
    reason: str = ""


@frozen
class QueueCounts:
    """Items by state, the bytes of their payloads and results, and the age of the oldest pending, seconds.

    Age is since it came, whatever became of it in between; 0 where none is pending.
    """

    pending: int = 0
    leased: int = 0
    done: int = 0
    dead: int = 0
    expired: int = 0
    bytes: int = 0
    oldest: float = 0.0


class QueueConflict(ValueError):
    """An item of that id is there, with another payload."""


class QueueFull(RuntimeError):
    """The queue is at its bound, and refuses; what it has stays."""


@runtime_checkable
class Queue(Protocol):
    """At least once, and effectively once for whoever heeds ids and tokens.

    What `put` has returned from survives any crash. Time is the store's own. All raise:
    StoreUnavailable when the store cannot be reached in its time, or has no room; ValueError for what is no
    time, and for an item that could never be leased (see `llmpipe.state.checks`).
    """

    async def put(self, item: Item) -> bool:
        """Accept `item`: True, or False if it was accepted before with this payload, whatever became of it.

        What is done, dead or expired counts against the bounds until it is forgotten.
        Raises: QueueConflict for an id that is there with another payload; QueueFull.
        """
        ...

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """The next items, at most `count`, for `seconds`. A lease that ends unsettled makes its item pending.

        Items out of attempts become dead instead, and else those out of time expired, at the moment when
        that is so: whatever is asked next sees it. No two of one order are leased at once.
        """
        ...

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """Begin the lease anew; False if it is no longer held."""
        ...

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """The item is done, for good; False if the lease is no longer held, and then nothing changes.

        Its result is kept even where it goes beyond the bounds.
        """
        ...

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """The item failed: pending again after `delay` seconds, or dead if `final` or out of attempts.

        False if the lease is no longer held.
        """
        ...

    async def status(self, item: str) -> ItemStatus | None:
        """How it stands with an item, or None for one that is not there."""
        ...

    async def counts(self) -> QueueCounts:
        """How many there are of each state."""
        ...

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """Ids and reasons of the dead, in the order in which they came to the queue."""
        ...

    async def revive(self, item: str) -> bool:
        """Give a dead or expired item all its attempts anew, without an expiry; whether there was one.

        It may be leased at once, and has its old place in the queue and in its order.
        """
        ...

    async def forget(self, older_than: float) -> int:
        """Drop the done, dead and expired that have been so for that many seconds; how many went."""
        ...
