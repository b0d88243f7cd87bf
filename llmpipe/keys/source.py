"""A key of a vault, as a provider takes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from llmpipe.errors import ConfigError
from llmpipe.secret import Secret

__all__ = ("VaultKey",)


class _Closing(Protocol):
    async def aclose(self) -> None: ...


class VaultKey:
    """Called, it looks the key up. Made by `KeyVault.source`.

    Attributes:
        fresh: seconds for which the answer may be used.
        overdue_days: by how much the key that was found is older than it should get, or None.
        owns: what is closed together with the provider that has this key: a vault that nobody else has.
    """

    def __init__(self, find: Callable[[], Awaitable[tuple[Secret, float | None]]], fresh: float) -> None:
        if not fresh > 0:
            raise ConfigError(f"fresh is seconds above 0, not {fresh}")
        self._find = find
        self.fresh = fresh
        self.overdue_days: float | None = None
        self.owns: _Closing | None = None

    async def __call__(self) -> Secret:
        """The key now. Raises: ConfigError where there is none; StoreUnavailable, StoreDamaged."""
        secret, self.overdue_days = await self._find()
        return secret

    async def aclose(self) -> None:
        """Close what it owns, which opens again when it is asked."""
        if self.owns is not None:
            await self.owns.aclose()
