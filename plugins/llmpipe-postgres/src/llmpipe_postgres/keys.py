"""Sealed keys and the provider table in PostgreSQL."""

from __future__ import annotations

from typing import Any

from llmpipe.state import ProviderRow, SealedKey
from llmpipe.state.checks import at_most, check_key, check_row
from llmpipe_postgres.link import Link
from llmpipe_postgres.text import escape, fields, unescape

__all__ = ("PostgresProviders", "PostgresVault")

_KEY = "tenant, provider, name, version, master, data_key, secret, created_at, hint"
_ROW = (
    "name, provider, model, coalesce(account_id, '') AS account, use_case AS use_cases, max_tokens, "
    "is_default, is_active, api_key_name AS key, base_url, "
    "extract(epoch FROM created_at)::float8 AS created_at, "
    "extract(epoch FROM updated_at)::float8 AS updated_at"
)


class PostgresVault:
    """Sealed keys, one row each."""

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._name = link, escape(name)
        self._table = link.settings.schema + ".vault"

    async def get(self, tenant: str, provider: str, name: str) -> SealedKey | None:
        """See `Vault.get`."""
        rows = await self._link.fetch(
            f"SELECT {_KEY} FROM {self._table} "  # noqa: S608  names of ours
            "WHERE vault = $1 AND tenant = $2 AND provider = $3 AND name = $4",
            self._name,
            escape(tenant),
            escape(provider),
            escape(name),
        )
        return _key(rows[0]) if rows else None

    async def put(self, key: SealedKey, expected: SealedKey | None) -> bool:
        """See `Vault.put`. Who lost the answer finds the key it meant to store, and knows that it did."""
        check_key(key, expected)
        args: list[Any] = [
            self._name, escape(key.tenant), escape(key.provider), escape(key.name), key.version,
            escape(key.master), key.data_key, key.secret, key.created_at, escape(key.hint),
        ]  # fmt: skip
        if expected is None:
            change = (
                f"INSERT INTO {self._table} AS v (vault, {_KEY}) "  # noqa: S608  names of ours
                "VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10) ON CONFLICT DO NOTHING RETURNING 1"
            )
        else:
            args += expected.sealing
            change = (
                f"UPDATE {self._table} v SET version = $5, master = $6, data_key = $7, secret = $8, "  # noqa: S608  names of ours
                "created_at = $9, hint = $10 WHERE vault = $1 AND tenant = $2 AND provider = $3 "
                "AND name = $4 AND version = $11 AND data_key = $12 AND secret = $13 RETURNING 1"
            )
        stored: bool = await self._link.value(
            f"WITH changed AS ({change}) SELECT EXISTS (SELECT FROM changed) OR (${len(args) + 1}::boolean "  # noqa: S608  names of ours
            f"AND EXISTS (SELECT FROM {self._table} WHERE vault = $1 AND tenant = $2 AND provider = $3 "
            "AND name = $4 AND version = $5 AND master = $6 AND data_key = $7 AND secret = $8))",
            *args,
            tell=True,
        )
        return stored

    async def delete(self, tenant: str, provider: str, name: str) -> bool:
        """See `Vault.delete`."""
        rows = await self._link.fetch(
            f"DELETE FROM {self._table} "  # noqa: S608  names of ours
            "WHERE vault = $1 AND tenant = $2 AND provider = $3 AND name = $4 RETURNING 1",
            self._name,
            escape(tenant),
            escape(provider),
            escape(name),
        )
        return bool(rows)

    async def keys(self, *, after: tuple[str, str, str] | None = None, limit: int = 1000) -> list[SealedKey]:
        """See `Vault.keys`."""
        beyond, args = "", list[str]()
        if after is not None:
            beyond, args = "AND (tenant, provider, name) > ($3, $4, $5)", [escape(part) for part in after]
        rows = await self._link.fetch(
            f"SELECT {_KEY} FROM {self._table} WHERE vault = $1 {beyond} "  # noqa: S608  names of ours
            "ORDER BY tenant, provider, name LIMIT $2",
            self._name,
            at_most(limit),
            *args,
        )
        return [_key(row) for row in rows]


class PostgresProviders:
    """The table ``llm_providers``. People may change it with SQL as well: its revision rises all the same."""

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._name = link, escape(name)
        self._table = link.settings.schema + ".llm_providers"

    async def rows(self, account: str | None = None) -> list[ProviderRow]:
        """See `ProviderTable.rows`."""
        if account is None:
            wanted, args = "ORDER BY name", list[str]()
        else:
            wanted = "AND (account_id IS NULL OR account_id = $2) ORDER BY account_id IS NULL, name"
            args = [escape(account)]
        rows = await self._link.fetch(
            f"SELECT {_ROW} FROM {self._table} WHERE registry = $1 {wanted}",  # noqa: S608  names of ours
            self._name,
            *args,
        )
        return [_row(row) for row in rows]

    async def put(self, row: ProviderRow) -> None:
        """See `ProviderTable.put`."""
        check_row(row)
        await self._link.fetch(
            f"INSERT INTO {self._table} (registry, name, provider, model, account_id, use_case, max_tokens, "  # noqa: S608  names of ours
            "is_default, is_active, api_key_name, base_url, created_at, updated_at) "
            "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now.at, now.at "
            "FROM (SELECT clock_timestamp() AS at) AS now "
            "ON CONFLICT (registry, name) DO UPDATE SET provider = excluded.provider, "
            "model = excluded.model, account_id = excluded.account_id, use_case = excluded.use_case, "
            "max_tokens = excluded.max_tokens, "
            "is_default = excluded.is_default, is_active = excluded.is_active, "
            "api_key_name = excluded.api_key_name, base_url = excluded.base_url, "
            "updated_at = excluded.updated_at",
            self._name,
            escape(row.name),
            escape(row.provider),
            escape(row.model),
            escape(row.account) or None,
            [escape(use) for use in row.use_cases],
            row.max_tokens,
            row.is_default,
            row.is_active,
            escape(row.key),
            escape(row.base_url),
        )

    async def delete(self, name: str) -> bool:
        """See `ProviderTable.delete`."""
        rows = await self._link.fetch(
            f"DELETE FROM {self._table} WHERE registry = $1 AND name = $2 RETURNING 1",  # noqa: S608  names of ours
            self._name,
            escape(name),
        )
        return bool(rows)

    async def revision(self) -> int:
        """See `ProviderTable.revision`. One row by its key."""
        rows = await self._link.fetch(
            f"SELECT revision FROM {self._table}_revision WHERE registry = $1",  # noqa: S608  names of ours
            self._name,
        )
        return int(rows[0][0]) if rows else 0


def _key(row: Any) -> SealedKey:
    return SealedKey(**fields(row))


def _row(row: Any) -> ProviderRow:
    found = fields(row)
    found["use_cases"] = [unescape(use) for use in row["use_cases"]]
    return ProviderRow(**found)
