"""Replies that were given before."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

from llmpipe.types import Completion, Embeddings, Ranking

__all__ = ("Cache", "Entry")


@frozen
class Entry:
    """A stored reply, and what it had cost in nano-USD; None where that is unknown."""

    result: Completion | Embeddings | Ranking
    saved_nano: int | None = None


@runtime_checkable
class Cache(Protocol):
    """Replies by key, each for a time.

    A store that cannot be reached misses and says so in the log; it never fails the call, but for `clear`.
    Time is never this machine's wall clock. What `get` gives is shared, and cannot be changed.
    """

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """The entry and its age in seconds, or None."""
        ...

    def put(self, key: bytes, entry: Entry, keep: float) -> Coroutine[Any, Any, None] | None:
        """Keep `entry` for `keep` seconds at most. Gives None if that is done, else what is to be awaited."""
        ...

    async def delete(self, key: bytes) -> bool:
        """Forget the entry; whether there was one."""
        ...

    async def clear(self) -> None:
        """Forget all entries that are there when it begins.

        Raises: StoreUnavailable, unlike the others: whoever clears has to know whether it was done.
        """
        ...

    def size(self) -> tuple[int, int] | None:
        """How many entries there are, and their bytes; None where only the backend could tell."""
        ...
