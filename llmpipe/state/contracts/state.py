"""What a backend of state gives, and what it says of what it does not."""

from __future__ import annotations

from typing import ClassVar, NoReturn, Protocol, runtime_checkable

from llmpipe.errors import ConfigError
from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.breakers import Breakers
from llmpipe.state.contracts.cache import Cache
from llmpipe.state.contracts.ledger import Ledger
from llmpipe.state.contracts.limits import Limits
from llmpipe.state.contracts.providers import ProviderTable
from llmpipe.state.contracts.queue import Queue
from llmpipe.state.contracts.vault import Vault

__all__ = ("Backend", "KINDS", "State")

KINDS: dict[str, str] = {
    "audit": "memory, file, sqlite, postgresql, s3",
    "breakers": "memory, redis",
    "cache": "memory, sqlite, redis",
    "ledger": "memory, sqlite, redis, postgresql",
    "limits": "memory, sqlite, redis, postgresql",
    "providers": "memory, sqlite, postgresql",
    "queue": "memory, sqlite, redis, postgresql",
    "vault": "memory, sqlite, postgresql",
}
"""What can be kept, and which of the known backends keep it."""


@runtime_checkable
class State(Protocol):
    """An open backend. Things of one kind and name are the same thing to all who ask.

    Asking connects to nothing yet. A backend says in `offers` which kinds it keeps.
    """

    offers: ClassVar[frozenset[str]]

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        ...

    def breakers(self, name: str) -> Breakers:
        """The open circuits that are told under `name`."""
        ...

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """The cache called `name`, with these bounds from now on; what it holds stays as far as it fits."""
        ...

    def ledger(self, name: str) -> Ledger:
        """The budgets called `name`."""
        ...

    def limits(self, name: str) -> Limits:
        """The limits called `name`."""
        ...

    def providers(self, name: str) -> ProviderTable:
        """The provider table called `name`."""
        ...

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """The queue called `name`, which refuses what goes beyond these bounds."""
        ...

    def vault(self, name: str) -> Vault:
        """The sealed keys called `name`."""
        ...

    async def check(self) -> None:
        """Connect, and see that what is there can be read.

        Raises: StoreUnavailable; StoreDamaged for what is damaged, or was written by a newer version.
        """
        ...

    async def aclose(self) -> None:
        """Finish what is under way, and close connections and files. Whoever asks again opens them again."""
        ...


class Backend:
    """A `State` that keeps nothing yet: what a backend overrides is what it offers."""

    scheme: ClassVar[str]
    offers: ClassVar[frozenset[str]] = frozenset()

    def audit(self, name: str) -> Audit:
        """Refuse: not kept here."""
        self._lacks("audit")

    def breakers(self, name: str) -> Breakers:
        """Refuse: not kept here."""
        self._lacks("breakers")

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """Refuse: not kept here."""
        self._lacks("cache")

    def ledger(self, name: str) -> Ledger:
        """Refuse: not kept here."""
        self._lacks("ledger")

    def limits(self, name: str) -> Limits:
        """Refuse: not kept here."""
        self._lacks("limits")

    def providers(self, name: str) -> ProviderTable:
        """Refuse: not kept here."""
        self._lacks("providers")

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """Refuse: not kept here."""
        self._lacks("queue")

    def vault(self, name: str) -> Vault:
        """Refuse: not kept here."""
        self._lacks("vault")

    def _lacks(self, kind: str) -> NoReturn:
        raise ConfigError(
            f"{self.scheme}:// keeps no {kind}, only {', '.join(sorted(self.offers))}; "
            f"{kind} can be kept in {KINDS[kind]}"
        )
