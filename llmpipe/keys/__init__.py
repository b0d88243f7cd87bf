"""Provider keys kept encrypted: stored, fetched, rotated; and found, in the environment first.

Encryption needs the extra ``vault`` (cryptography). A key is only ever handed out as a `Secret`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from functools import partial

from attrs import evolve, frozen

from llmpipe.errors import ConfigError, StoreDamaged
from llmpipe.keys.masking import mask_api_key, sanitize_object
from llmpipe.keys.sealing import MasterKey, NotOpened, associated, open_sealed, seal
from llmpipe.secret import Secret
from llmpipe.state import SealedKey, State, Vault, open_state

__all__ = ("KeyInfo", "KeyVault", "Rotation", "mask_api_key", "sanitize_object")

_DAY = 86_400.0
_Names = tuple[str, str, str]


@frozen(kw_only=True)
class KeyInfo:
    """What may be known of a stored key. `due` is whether it is older than it should get."""

    tenant: str
    provider: str
    name: str
    version: int
    master: str
    age_days: float
    due: bool
    hint: str


@frozen(kw_only=True)
class Rotation:
    """What a rotation of the master key has done: rows sealed anew, and those that do not open, by name."""

    rotated: int = 0
    already: int = 0
    unreadable: tuple[_Names, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every row is sealed by the new master key."""
        return not self.unreadable


class KeyVault:
    """Keys of providers, encrypted in a store.

    Args:
        store: a URL of a backend that keeps a vault, or an open `State`.
        master: the master secret; or several by id, the newest first: rows that older ones have sealed still
            open, and `rotate` seals them anew. 32 random bytes in base64 are best.
        max_age_days: after which a key is due for rotation.
        name: of the vault in the store.
        wall: seconds since the epoch.

    Raises: ConfigError for a master secret that is too short, and for a store that keeps no vault.
    """

    def __init__(
        self,
        store: str | State,
        master: str | Secret | Mapping[str, str | Secret],
        *,
        max_age_days: float = 90.0,
        name: str = "keys",
        wall: Callable[[], float] = time.time,
    ) -> None:
        masters = master if isinstance(master, Mapping) else {"1": master}
        if not masters:
            raise ConfigError("a vault needs a master secret")
        if not max_age_days > 0:
            raise ConfigError(f"max_age_days must be above 0, not {max_age_days}")
        self._masters = {id_: MasterKey(id_, secret) for id_, secret in masters.items()}
        self._current = next(iter(self._masters.values()))
        self._state = open_state(store) if isinstance(store, str) else store
        self._rows: Vault = self._state.vault(name)
        self._max_age, self._wall = max_age_days * _DAY, wall

    async def put(self, provider: str, key: str | Secret, *, tenant: str = "", name: str = "default") -> int:
        """Store `key` in the place of what has these names; its version, from 1."""
        secret = Secret(key)
        while True:
            found = await self._rows.get(tenant, provider, name)
            version = 1 if found is None else found.version + 1
            names = associated(tenant, provider, name, str(version))
            data_key = os.urandom(32)
            wrapped = await _in_thread(
                partial(self._current.wrap, data_key, self._bound(names, self._current))
            )
            row = SealedKey(
                tenant=tenant,
                provider=provider,
                name=name,
                version=version,
                master=self._current.id,
                data_key=wrapped,
                secret=seal(data_key, secret.reveal().encode(), names),
                created_at=self._wall(),
                hint=mask_api_key(secret),
            )
            if await self._rows.put(row, None if found is None else (found.version, found.master)):
                return version

    async def get(self, provider: str, *, tenant: str = "", name: str = "default") -> Secret | None:
        """The key of these names, or None.

        Raises: StoreDamaged for one that does not open: the master secret is wrong, or the row was changed.
        """
        row = await self._rows.get(tenant, provider, name)
        return None if row is None else await self._opened(row)

    async def delete(self, provider: str, *, tenant: str = "", name: str = "default") -> bool:
        """Forget the key; whether there was one."""
        return await self._rows.delete(tenant, provider, name)

    async def find(self, provider: str, *, env: str = "", tenant: str = "", name: str = "default") -> Secret:
        """The key from the environment variable `env`, or else the vault: the tenant's own, then that of all.

        Raises: ConfigError that says where one could be.
        """
        if env and (told := os.environ.get(env, "").strip()):
            return Secret(told)
        for whose in dict.fromkeys((tenant, "")):
            found = await self.get(provider, tenant=whose, name=name)
            if found is not None:
                return found
        where = f"set {env}, or " if env else ""
        raise ConfigError(f"no key for provider {provider!r}: {where}store one in the vault under {name!r}")

    async def keys(self) -> list[KeyInfo]:
        """All that is stored, in order of tenant, provider and name; without the keys."""
        now = self._wall()
        found = []
        for row in await self._all():
            age = max(0.0, now - row.created_at)
            found.append(
                KeyInfo(
                    tenant=row.tenant,
                    provider=row.provider,
                    name=row.name,
                    version=row.version,
                    master=row.master,
                    age_days=age / _DAY,
                    due=age >= self._max_age,
                    hint=row.hint,
                )
            )
        return found

    async def due(self) -> list[KeyInfo]:
        """The keys that should be replaced, for they are older than `max_age_days`."""
        return [info for info in await self.keys() if info.due]

    async def rotate(self) -> Rotation:
        """Seal everything by the first of the master keys, row by row.

        It may be interrupted at any time, and begun again: at every moment each row opens with one of the
        master keys. Only when it is `complete` may the old ones be thrown away. A row that does not open is
        left as it is, and named.
        """
        rotated = already = 0
        unreadable: list[_Names] = []
        for row in await self._all():
            done = await self._rotated(row)
            if done is None:
                unreadable.append((row.tenant, row.provider, row.name))
            else:
                rotated, already = rotated + done, already + (not done)
        return Rotation(rotated=rotated, already=already, unreadable=tuple(unreadable))

    async def _rotated(self, row: SealedKey | None) -> bool | None:
        """Whether `row` was sealed anew: False if it needed nothing, None if it does not open."""
        while row is not None and row.master != self._current.id:
            try:
                data_key = await self._data_key(row)
            except NotOpened:
                return None
            names = associated(row.tenant, row.provider, row.name, str(row.version))
            bound = self._bound(names, self._current)
            wrapped = await _in_thread(partial(self._current.wrap, data_key, bound))
            fresh = evolve(row, master=self._current.id, data_key=wrapped)
            if await self._rows.put(fresh, (row.version, row.master)):
                return True
            row = await self._rows.get(row.tenant, row.provider, row.name)  # somebody else was there
        return False

    async def _all(self) -> list[SealedKey]:
        rows: list[SealedKey] = []
        last: _Names | None = None
        while page := await self._rows.keys(after=last):
            rows += page
            last = (page[-1].tenant, page[-1].provider, page[-1].name)
        return rows

    async def _opened(self, row: SealedKey) -> Secret:
        names = associated(row.tenant, row.provider, row.name, str(row.version))
        try:
            plain = open_sealed(await self._data_key(row), row.secret, names)
        except NotOpened as error:
            known = ", ".join(map(repr, self._masters))
            raise StoreDamaged(
                f"the key {row.name!r} of provider {row.provider!r}, tenant {row.tenant!r}, does not open: "
                f"{error}. It is sealed by master key {row.master!r}; known are {known}",
                code="not_opened",
            ) from None
        return Secret(plain.decode())

    async def _data_key(self, row: SealedKey) -> bytes:
        master = self._masters.get(row.master)
        if master is None:
            raise NotOpened("its master key is not among those that are known")
        names = associated(row.tenant, row.provider, row.name, str(row.version))
        return await _in_thread(partial(master.unwrap, row.data_key, self._bound(names, master)))

    @staticmethod
    def _bound(names: bytes, master: MasterKey) -> bytes:
        return names + associated(master.id)

    async def aclose(self) -> None:
        """Close the store."""
        await self._state.aclose()

    def __repr__(self) -> str:
        return f"KeyVault(masters={sorted(self._masters)})"


async def _in_thread(work: Callable[[], bytes]) -> bytes:
    """Off the loop: a passphrase takes a tenth of a second."""
    from anyio import to_thread  # noqa: PLC0415  takes 20 ms to import, and most never need it

    return await to_thread.run_sync(work)
