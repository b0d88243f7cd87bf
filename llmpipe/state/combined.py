"""Several backends as one: each kind of thing where it is kept best."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar

from llmpipe.errors import ConfigError
from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.breakers import Breakers
from llmpipe.state.contracts.cache import Cache
from llmpipe.state.contracts.ledger import Ledger
from llmpipe.state.contracts.limits import Limits
from llmpipe.state.contracts.providers import ProviderTable
from llmpipe.state.contracts.queue import Queue
from llmpipe.state.contracts.state import KINDS, State
from llmpipe.state.contracts.vault import Vault

__all__ = ("Combined", "combine")


def combine(default: State, **kinds: State) -> Combined:
    """`default`, but for the kinds that are named, each of which is kept in the State it names.

    ``combine(open_state("postgresql://…"), cache=open_state("redis://…"))`` keeps replies in Redis, and all
    else in PostgreSQL. It offers what `default` offers and what is named, and closing it closes all of them.

    Raises: ConfigError for a kind that there is not, or that its State does not keep.
    """
    for kind, state in kinds.items():
        if kind not in KINDS:
            raise ConfigError(f"a state keeps no {kind!r}; known: {', '.join(KINDS)}")
        if kind not in state.offers:
            raise ConfigError(
                f"{kind} is to be kept in a store that keeps only {', '.join(sorted(state.offers))}; "
                f"{kind} can be kept in {KINDS[kind]}"
            )
    return Combined(default, kinds)


class Combined:
    """A `State` made of several; see `combine`."""

    offers: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, default: State, kinds: Mapping[str, State]) -> None:
        self._default, self._kinds = default, dict(kinds)
        offers = default.offers | self._kinds.keys()
        self.offers = offers  # type: ignore[misc]  # of the class for all others, here each one's own

    def __repr__(self) -> str:
        """Which kinds are kept elsewhere; no URL, for that may hold a password."""
        return f"<Combined: {', '.join(sorted(self._kinds)) or 'nothing'} apart>"

    def _of(self, kind: str) -> State:
        return self._kinds.get(kind, self._default)

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return self._of("audit").audit(name)

    def breakers(self, name: str) -> Breakers:
        """The open circuits that are told under `name`."""
        return self._of("breakers").breakers(name)

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """The cache called `name`, with these bounds from now on."""
        return self._of("cache").cache(name, max_entries=max_entries, max_bytes=max_bytes)

    def ledger(self, name: str) -> Ledger:
        """The budgets called `name`."""
        return self._of("ledger").ledger(name)

    def limits(self, name: str) -> Limits:
        """The limits called `name`."""
        return self._of("limits").limits(name)

    def providers(self, name: str) -> ProviderTable:
        """The provider table called `name`."""
        return self._of("providers").providers(name)

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> Queue:
        """The queue called `name`, which refuses what goes beyond these bounds."""
        return self._of("queue").queue(name, max_items=max_items, max_bytes=max_bytes)

    def vault(self, name: str) -> Vault:
        """The sealed keys called `name`."""
        return self._of("vault").vault(name)

    def _parts(self) -> list[State]:
        """Each once, though it keeps several kinds."""
        return list({id(state): state for state in (self._default, *self._kinds.values())}.values())

    async def check(self) -> None:
        """Check them all, side by side.

        Raises: what the first of them raises, in the order in which they were given.
        """
        await self._each([state.check() for state in self._parts()])

    async def aclose(self) -> None:
        """Close them all, also where one cannot be closed.

        Raises: what the first of them raises, in the order in which they were given.
        """
        await self._each([state.aclose() for state in self._parts()])

    async def _each(self, works: list[Coroutine[Any, Any, None]]) -> None:
        for end in await asyncio.gather(*works, return_exceptions=True):
            if end is not None:
                raise end
