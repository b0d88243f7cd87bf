"""Sealed keys and the provider table in this process."""

from __future__ import annotations

import time

from attrs import evolve

from llmpipe.state.checks import check_key, check_row
from llmpipe.state.contracts.providers import ProviderRow
from llmpipe.state.contracts.vault import SealedKey

__all__ = ("MemoryProviders", "MemoryVault")


class MemoryVault:
    """Sealed keys in a dict."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], SealedKey] = {}

    async def get(self, tenant: str, provider: str, name: str) -> SealedKey | None:
        """See `Vault.get`."""
        return self._keys.get((tenant, provider, name))

    async def put(self, key: SealedKey, expected: SealedKey | None) -> bool:
        """See `Vault.put`."""
        check_key(key, expected)
        names = (key.tenant, key.provider, key.name)
        found = self._keys.get(names)
        if (found and found.sealing) != (expected and expected.sealing):
            return False
        self._keys[names] = key
        return True

    async def delete(self, tenant: str, provider: str, name: str) -> bool:
        """See `Vault.delete`."""
        return self._keys.pop((tenant, provider, name), None) is not None

    async def keys(self, *, after: tuple[str, str, str] | None = None, limit: int = 1000) -> list[SealedKey]:
        """See `Vault.keys`."""
        names = sorted(name for name in self._keys if after is None or name > after)
        return [self._keys[name] for name in names[: max(0, limit)]]


class MemoryProviders:
    """The provider table in a dict."""

    def __init__(self) -> None:
        self._rows: dict[str, ProviderRow] = {}
        self._revision = 0

    async def rows(self, account: str | None = None) -> list[ProviderRow]:
        """See `ProviderTable.rows`."""
        wanted = [row for row in self._rows.values() if account is None or row.account in ("", account)]
        if account is None:
            return sorted(wanted, key=lambda row: row.name)
        return sorted(wanted, key=lambda row: (row.account != account, row.name))

    async def put(self, row: ProviderRow) -> None:
        """See `ProviderTable.put`."""
        check_row(row)
        now, before = time.time(), self._rows.get(row.name)
        created = now if before is None else before.created_at
        self._rows[row.name] = evolve(row, created_at=created, updated_at=now)
        self._revision += 1

    async def delete(self, name: str) -> bool:
        """See `ProviderTable.delete`."""
        found = self._rows.pop(name, None)
        self._revision += found is not None
        return found is not None

    async def revision(self) -> int:
        """See `ProviderTable.revision`."""
        return self._revision
