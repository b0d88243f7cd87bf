"""Where what outlives a call is kept: small protocols, and `open_state`, which opens a backend.

A URL names the backend. ``memory://`` is built in and ends with the process. Packages bring others
through the entry-point group ``llmpipe.state``: the scheme of the URL to a function of the URL.
"""

from __future__ import annotations

from collections.abc import Coroutine
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.types import Completion, Embeddings

__all__ = ("Cache", "Entry", "GROUP", "State", "open_state")

GROUP = "llmpipe.state"
"""The entry-point group: scheme of a URL to a function that takes the URL and gives a `State`."""


@frozen
class Entry:
    """A stored reply, and what it had cost in nano-USD; None where that is unknown."""

    result: Completion | Embeddings
    saved_nano: int | None = None


@runtime_checkable
class Cache(Protocol):
    """Replies by key, each for a time.

    A store that cannot be reached misses and says so in the log; it never fails the call. Time is
    never this machine's wall clock. What `get` gives is shared, and cannot be changed.
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
        """Forget all entries."""
        ...

    def size(self) -> tuple[int, int] | None:
        """How many entries there are, and their bytes; None where only the backend could tell."""
        ...


@runtime_checkable
class State(Protocol):
    """An open backend."""

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """The cache called `name`, with these bounds from now on; what it holds stays as far as it fits."""
        ...

    async def aclose(self) -> None:
        """Close connections and files."""
        ...


def open_state(url: str) -> State:
    """The backend that `url` names, such as ``memory://``. Connects on first use, if at all.

    Raises: ConfigError for a URL without a scheme, or a scheme that nothing installed knows.
    """
    scheme, mark, _ = str(url).partition("://")
    if not mark or not scheme:
        raise ConfigError(f"a state URL begins with a scheme, such as memory://; {scheme!r} has none")
    if scheme == "memory":
        from llmpipe.state.memory import MemoryState  # noqa: PLC0415  it imports the protocols above

        return MemoryState()
    points = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in points:
        known = ", ".join(sorted({"memory", *points}))
        raise ConfigError(f"no state backend for {scheme}://; known: {known}. Is its package installed?")
    opened: State = points[scheme].load()(url)
    return opened
