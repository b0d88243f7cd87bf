"""Where what outlives a call is kept: small protocols, and `open_state`, which opens a backend.

A URL names the backend. ``memory://`` is built in and ends with the process. Packages bring others
through the entry-point group ``llmpipe.state``: the scheme of the URL to a function of the URL.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from llmpipe.errors import ConfigError
from llmpipe.state.memory import MemoryState
from llmpipe.state.protocols import Cache, Entry, State

__all__ = ("Cache", "Entry", "GROUP", "State", "open_state")

GROUP = "llmpipe.state"
"""The entry-point group: scheme of a URL to a function that takes the URL and gives a `State`."""


def open_state(url: str) -> State:
    """The backend that `url` names, such as ``memory://``. Connects on first use, if at all.

    Raises: ConfigError for a URL without a scheme, or a scheme that nothing installed knows.
    """
    scheme, mark, _ = str(url).partition("://")
    if not mark or not scheme:
        raise ConfigError(f"a state URL begins with a scheme, such as memory://; {scheme!r} has none")
    if scheme == "memory":
        return MemoryState()
    points = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in points:
        known = ", ".join(sorted({"memory", *points}))
        raise ConfigError(f"no state backend for {scheme}://; known: {known}. Is its package installed?")
    opened: State = points[scheme].load()(url)
    return opened
