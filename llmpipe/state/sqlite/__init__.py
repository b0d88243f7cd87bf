"""State in one SQLite file: it outlives the process, and needs no server.

What is meant to be durable is on the disk when an operation returns (``synchronous=FULL``); operations
that are asked at the same time share one commit. Several processes of one machine may use the file.
A network file system may not: SQLite's log needs shared memory and true locks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.ledger import Ledger
from llmpipe.state.contracts.limits import Limits
from llmpipe.state.contracts.providers import ProviderTable
from llmpipe.state.contracts.queue import Queue
from llmpipe.state.contracts.state import Backend
from llmpipe.state.contracts.vault import Vault
from llmpipe.state.sqlite.audit import SqliteAudit
from llmpipe.state.sqlite.cache import SqliteCache
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.ledger import SqliteLedger
from llmpipe.state.sqlite.limits import SqliteLimits
from llmpipe.state.sqlite.place import Place, read_url
from llmpipe.state.sqlite.providers import SqliteProviders
from llmpipe.state.sqlite.queue import SqliteQueue
from llmpipe.state.sqlite.vault import SqliteVault

__all__ = ("SqliteState", "open_sqlite")

T = TypeVar("T")


class SqliteState(Backend):
    """The backend ``sqlite:///path``. The file is made when something is first asked of it.

    Attributes: path is where it is; ahead is seconds added to the file's clock in all that is asked here,
        for tests.
    """

    scheme: ClassVar[str] = "sqlite"
    offers: ClassVar[frozenset[str]] = frozenset(
        ("audit", "cache", "ledger", "limits", "providers", "queue", "vault")
    )

    def __init__(self, place: Place) -> None:
        self.path = Path(place.path)
        self._engine = Engine(place)
        self._things: dict[tuple[str, str], Any] = {}

    @property
    def ahead(self) -> float:
        """Seconds added to the file's clock."""
        return self._engine.clock.ahead

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._engine.clock.ahead = seconds

    def _thing(self, kind: str, name: str, make: Callable[[Engine, str], T]) -> T:
        found = self._things.get((kind, name))
        if found is None:
            found = self._things[kind, name] = make(self._engine, name)
        return cast("T", found)

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return self._thing("audit", name, SqliteAudit)

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> SqliteCache:
        """The cache called `name`, with these bounds from now on."""
        cache = self._thing("cache", name, SqliteCache)
        cache.resize(max_entries, max_bytes)
        return cache

    def ledger(self, name: str) -> Ledger:
        """The budgets called `name`."""
        return self._thing("ledger", name, SqliteLedger)

    def limits(self, name: str) -> Limits:
        """The limits called `name`."""
        return self._thing("limits", name, SqliteLimits)

    def providers(self, name: str) -> ProviderTable:
        """The provider table called `name`."""
        return self._thing("providers", name, SqliteProviders)

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """The queue called `name`, with these bounds from now on."""
        queue = self._thing("queue", name, SqliteQueue)
        queue.resize(max_items, max_bytes)
        return queue

    def vault(self, name: str) -> Vault:
        """The sealed keys called `name`."""
        return self._thing("vault", name, SqliteVault)

    async def check(self) -> None:
        """Open the file, and look all of it through."""
        await self._engine.check()

    async def aclose(self) -> None:
        """Write what was asked, and close the file. Whoever asks again opens it again."""
        await self._engine.aclose()


def open_sqlite(url: str) -> SqliteState:
    """The backend of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; ``?timeout=5`` may follow.

    Raises: ConfigError; see `read_url`.
    """
    return SqliteState(read_url(url))
