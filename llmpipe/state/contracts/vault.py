"""Where sealed keys lie. A backend keeps bytes; what they mean only `llmpipe.keys` knows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from attrs import field, frozen

__all__ = ("SealedKey", "Vault")


@frozen(kw_only=True)
class SealedKey:
    """An encrypted key.

    Attributes:
        tenant, provider, name: whose it is, for which provider, and which of several; together unique.
        version: rises with each key that is stored there, from 1.
        master: id of the master key that seals `data_key`. It is no secret.
        data_key: the data key, encrypted by the master key; nonce first.
        secret: the key, encrypted by the data key; nonce first.
        created_at: when this version was stored, seconds since the epoch.
        hint: its masked form, for people.
    """

    tenant: str
    provider: str
    name: str
    version: int
    master: str
    data_key: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    created_at: float
    hint: str = ""

    @property
    def sealing(self) -> tuple[int, bytes, bytes]:
        """What tells it from every other key that is ever stored by its names.

        Versions begin anew after a deletion; the sealed bytes are those of one sealing alone.
        """
        return self.version, self.data_key, self.secret


@runtime_checkable
class Vault(Protocol):
    """Sealed keys by (tenant, provider, name).

    All raise: StoreUnavailable; `put` ValueError for what is no version or no time.
    """

    async def get(self, tenant: str, provider: str, name: str) -> SealedKey | None:
        """The key of these names, or None."""
        ...

    async def put(self, key: SealedKey, expected: SealedKey | None) -> bool:
        """Store `key` if what is there now has the `sealing` of `expected`; None: if nothing is there.

        Whether it was stored. So two who change one key at once cannot undo each other, and nobody brings
        a key back that was deleted since it was read, though another of the same version stands there.
        """
        ...

    async def delete(self, tenant: str, provider: str, name: str) -> bool:
        """Forget the key; whether there was one."""
        ...

    async def keys(self, *, after: tuple[str, str, str] | None = None, limit: int = 1000) -> list[SealedKey]:
        """All keys in order of (tenant, provider, name) by code points, `limit` beyond `after`."""
        ...
