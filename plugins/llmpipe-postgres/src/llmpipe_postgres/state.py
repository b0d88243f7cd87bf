"""The backend ``postgresql://``: what it offers, by kind and name."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.state import Audit, Backend, Ledger, Limits, ProviderTable, Queue, Vault
from llmpipe_postgres.audit import PostgresAudit
from llmpipe_postgres.keys import PostgresProviders, PostgresVault
from llmpipe_postgres.ledger import PostgresLedger
from llmpipe_postgres.limits import PostgresLimits
from llmpipe_postgres.link import Link
from llmpipe_postgres.queue import PostgresQueue
from llmpipe_postgres.settings import Settings, read_url

__all__ = ("PostgresState", "open_postgres")


class PostgresState(Backend):
    """State in a PostgreSQL database. Connects on first use; things keep nothing of the data.

    Attributes:
        ahead: seconds by which this State takes the server's clock to be later than it is; for tests.
    """

    scheme: ClassVar[str] = "postgresql"
    offers: ClassVar[frozenset[str]] = frozenset(("audit", "ledger", "limits", "providers", "queue", "vault"))

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead = 0.0
        self._link = Link(settings)
        self._ledgers: dict[str, PostgresLedger] = {}
        self._limits: dict[str, PostgresLimits] = {}

    def __repr__(self) -> str:
        return f"PostgresState({self.settings.place!r}, schema={self.settings.schema!r})"

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return PostgresAudit(self._link, self._ahead, name)

    def ledger(self, name: str) -> Ledger:
        """The budgets called `name`: one object, for it gathers what is asked of it at once."""
        if name not in self._ledgers:
            self._ledgers[name] = PostgresLedger(self._link, self._ahead, name)
        return self._ledgers[name]

    def limits(self, name: str) -> Limits:
        """The limits called `name`: one object, for it counts when to sweep."""
        if name not in self._limits:
            self._limits[name] = PostgresLimits(self._link, self._ahead, name)
        return self._limits[name]

    def providers(self, name: str) -> ProviderTable:
        """The provider table called `name`."""
        return PostgresProviders(self._link, name)

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """The queue called `name`, which refuses what goes beyond these bounds."""
        return PostgresQueue(self._link, self._ahead, name, max_items, max_bytes)

    def vault(self, name: str) -> Vault:
        """The sealed keys called `name`."""
        return PostgresVault(self._link, name)

    async def check(self) -> None:
        """Connect, and bring the tables up to date.

        Raises: StoreUnavailable; StoreDamaged for a schema that is damaged, or too new.
        """
        await self._link.check()

    async def aclose(self) -> None:
        """Close the connections of this event loop. Whoever asks again opens them again."""
        await self._link.aclose()

    def _ahead(self) -> float:
        return self.ahead


def open_postgres(url: str) -> PostgresState:
    """The backend of ``postgresql://user:password@host:5432/db?schema=llmpipe&pool=10&timeout=2``.

    Settings: schema (``llmpipe``), pool (10 connections for each event loop), timeout (2 seconds),
    pgbouncer (``false``), and those of libpq for TLS and for several hosts.

    Raises: ConfigError, which never shows the password.
    """
    return PostgresState(read_url(url))
