"""State that lives in this process and ends with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from llmpipe.errors import ConfigError
from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.breakers import Breakers
from llmpipe.state.contracts.cache import Cache
from llmpipe.state.contracts.ledger import Ledger
from llmpipe.state.contracts.limits import Limits
from llmpipe.state.contracts.providers import ProviderTable
from llmpipe.state.contracts.queue import Queue
from llmpipe.state.contracts.state import KINDS
from llmpipe.state.contracts.vault import Vault
from llmpipe.state.memory.audit import MemoryAudit
from llmpipe.state.memory.breakers import MemoryBreakers
from llmpipe.state.memory.cache import MemoryCache
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.state.memory.queue import MemoryQueue
from llmpipe.state.memory.vault import MemoryProviders, MemoryVault

__all__ = ("MemoryCache", "MemoryState", "open_memory")

T = TypeVar("T")


class MemoryState:
    """The backend ``memory://``: keeps everything, until it is dropped. Closing it changes nothing."""

    offers: ClassVar[frozenset[str]] = frozenset(KINDS)

    def __init__(self) -> None:
        self._things: dict[tuple[str, str], Any] = {}

    def _thing(self, kind: str, name: str, make: Callable[[], T]) -> T:
        found = self._things.get((kind, name))
        if found is None:
            found = self._things[kind, name] = make()
        return cast("T", found)

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return self._thing("audit", name, MemoryAudit)

    def breakers(self, name: str) -> Breakers:
        """The open circuits that are told under `name`."""
        return self._thing("breakers", name, MemoryBreakers)

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """The cache called `name`, with these bounds from now on."""
        cache = self._thing("cache", name, lambda: MemoryCache(max_entries, max_bytes))
        cache.resize(max_entries, max_bytes)
        return cache

    def ledger(self, name: str) -> Ledger:
        """The budgets called `name`."""
        return self._thing("ledger", name, MemoryLedger)

    def limits(self, name: str) -> Limits:
        """The limits called `name`."""
        return self._thing("limits", name, MemoryLimits)

    def providers(self, name: str) -> ProviderTable:
        """The provider table called `name`."""
        return self._thing("providers", name, MemoryProviders)

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """The queue called `name`, with these bounds from now on."""
        queue = self._thing("queue", name, lambda: MemoryQueue(max_items, max_bytes))
        queue.resize(max_items, max_bytes)
        return queue

    def vault(self, name: str) -> Vault:
        """The sealed keys called `name`."""
        return self._thing("vault", name, MemoryVault)

    async def check(self) -> None:
        """Always well."""

    async def aclose(self) -> None:
        """Nothing to close: what is there stays, for a chain that was closed may be called again."""


def open_memory(url: str) -> MemoryState:
    """The backend of ``memory://``, a new and empty one.

    Raises: ConfigError for a URL that says more than that.
    """
    if url != "memory://":
        raise ConfigError("memory:// takes no path and no settings; a name belongs to the middleware")
    return MemoryState()
