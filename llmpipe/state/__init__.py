"""Where what outlives a call is kept: small protocols, and `open_state`, which opens a backend.

A URL names the backend. ``memory://`` ends with the process, ``sqlite:///path/to/file`` outlives it.
Packages bring others (``redis://``, ``postgresql://``) through the entry-point group ``llmpipe.state``:
the scheme of the URL to a function of the URL.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from llmpipe.errors import ConfigError
from llmpipe.runtime import Runtime
from llmpipe.secret import scrub
from llmpipe.state.combined import Combined, combine
from llmpipe.state.contracts.audit import Anchor, Audit, AuditQuery, AuditRecord
from llmpipe.state.contracts.breakers import Breakers, Trip
from llmpipe.state.contracts.cache import Cache, Entry
from llmpipe.state.contracts.ledger import Balance, Draw, Ledger, Shortage, Spend
from llmpipe.state.contracts.limits import Ask, Level, Limits, Taken
from llmpipe.state.contracts.providers import ProviderRow, ProviderTable
from llmpipe.state.contracts.queue import (
    Item,
    ItemStatus,
    Leased,
    Queue,
    QueueConflict,
    QueueCounts,
    QueueFull,
    QueueState,
)
from llmpipe.state.contracts.state import KINDS, Backend, State
from llmpipe.state.contracts.vault import SealedKey, Vault

__all__ = (
    "Anchor",
    "Ask",
    "Audit",
    "AuditQuery",
    "AuditRecord",
    "Backend",
    "Balance",
    "Breakers",
    "Cache",
    "Combined",
    "Draw",
    "Entry",
    "GROUP",
    "Item",
    "ItemStatus",
    "KINDS",
    "Leased",
    "Ledger",
    "Level",
    "Limits",
    "ProviderRow",
    "ProviderTable",
    "Queue",
    "QueueConflict",
    "QueueCounts",
    "QueueFull",
    "QueueState",
    "SealedKey",
    "Shortage",
    "Spend",
    "State",
    "Taken",
    "Trip",
    "Vault",
    "combine",
    "open_state",
    "shared",
)

GROUP = "llmpipe.state"
"""The entry-point group: scheme of a URL to a function that takes the URL and gives a `State`."""

# Loaded when they are asked for: SQLite takes a thread, and most processes keep nothing.
_BUILT_IN = {
    "file": "llmpipe.state.files:open_files",
    "memory": "llmpipe.state.memory:open_memory",
    "sqlite": "llmpipe.state.sqlite:open_sqlite",
}
_PACKAGES = {
    "postgres": "llmpipe-postgres",
    "postgresql": "llmpipe-postgres",
    "redis": "llmpipe-redis",
    "redis+sentinel": "llmpipe-redis",
    "rediss": "llmpipe-redis",
    "rediss+sentinel": "llmpipe-redis",
    "s3": "llmpipe-s3",
}


def open_state(url: str) -> State:
    """The backend that `url` names, such as ``memory://``. Connects on first use, if at all.

    Raises: ConfigError for a URL without a scheme, or a scheme that nothing installed knows, or what
    the backend cannot make sense of. A password in the URL is in no error.
    """
    scheme, mark, _ = str(url).partition("://")
    if not mark or not scheme:
        shown = "this one" if "@" in str(url) else repr(scrub(str(url)))  # or a password shows
        raise ConfigError(f"a state URL begins with a scheme, such as memory://; {shown} has none")
    if scheme in _BUILT_IN:
        module, _, function = _BUILT_IN[scheme].partition(":")
        opened: State = getattr(import_module(module), function)(url)
        return opened
    points = {point.name: point for point in entry_points(group=GROUP)}
    if scheme not in points:
        known = ", ".join(sorted({*_BUILT_IN, *points}))
        package = _PACKAGES.get(scheme)
        hint = f"pip install {package}" if package else "is its package installed?"
        raise ConfigError(f"no state backend for {scheme}://; known: {known}; {hint}")
    brought: State = points[scheme].load()(url)
    return brought


def shared(runtime: Runtime, url: str) -> State:
    """The backend that `url` names, opened once for all who use this runtime; closed with it."""
    return runtime.state("store", url, lambda: open_state(url))
