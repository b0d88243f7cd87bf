"""Provider keys kept encrypted: stored, fetched, rotated; and found, in the environment first."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial

from attrs import evolve, frozen

from llmpipe.errors import ConfigError, StoreDamaged
from llmpipe.keys.masking import mask_api_key
from llmpipe.keys.masters import Masters, master_keys
from llmpipe.keys.sealing import MasterKey, NotOpened, associated, open_sealed, seal
from llmpipe.keys.source import VaultKey
from llmpipe.secret import Secret
from llmpipe.state import SealedKey, State, Vault, open_state

__all__ = ("KeyInfo", "KeyVault", "Rotation")

_log = logging.getLogger("llmpipe.keys")
_DAY = 86_400.0
_MAX_KNOWN = 10_000  # keys that a process has opened and remembers the age of
_PASSES = 100  # over the rows, in one rotation; each begins because somebody stored by an old master key
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
        """Whether every row that was there is sealed by the new master key, and opens."""
        return not self.unreadable


class KeyVault:
    """Keys of providers, encrypted in a store.

    Args:
        store: a URL of a backend that keeps a vault, or an open `State`.
        master: the master secret; or several, the one that seals first: rows that the others have sealed
            still open, and `rotate` seals them anew. 32 random bytes in base64 are best.
        max_age_days: after which a key is due to be replaced. Whoever finds one that is hears of it in the
            log, once a day; see `due` too.
        name: of the vault in the store. Rows of one vault do not open in another.
        wall: seconds since the epoch.

    Raises: ConfigError for a master secret that is too short, and for a store that keeps no vault.
    """

    def __init__(
        self,
        store: str | State,
        master: Masters,
        *,
        max_age_days: float = 90.0,
        name: str = "keys",
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not max_age_days > 0:
            raise ConfigError(f"max_age_days must be above 0, not {max_age_days}")
        self._masters = master_keys(master)
        self._current = next(iter(self._masters.values()))
        self._state = open_state(store) if isinstance(store, str) else store
        self._rows: Vault = self._state.vault(name)
        self._name = name
        self._max_age, self._wall = max_age_days * _DAY, wall
        self._newest: dict[_Names, tuple[int, float]] = {}  # version and time of what was opened here
        self._warned: dict[_Names, float] = {}

    async def put(self, provider: str, key: str | Secret, *, tenant: str = "", name: str = "default") -> int:
        """Store `key` in the place of what has these names; its version, from 1."""
        key = Secret(key)  # the plain one is in no local, which a traceback may show
        while True:
            found = await self._rows.get(tenant, provider, name)
            row = SealedKey(
                tenant=tenant,
                provider=provider,
                name=name,
                version=1 if found is None else found.version + 1,
                master=self._current.id,
                data_key=b"",
                secret=b"",
                created_at=int(self._wall() * 1000) / 1000,
                hint=mask_api_key(key),
            )
            data_key = os.urandom(32)
            row = evolve(
                await self._wrapped(row, data_key),
                secret=seal(data_key, key.reveal().encode(), self._names(row)),
            )
            if await self._rows.put(row, found):
                return row.version

    async def get(self, provider: str, *, tenant: str = "", name: str = "default") -> Secret | None:
        """The key of these names, or None.

        Raises: StoreDamaged for one that does not open: the master secret is wrong, or the row was changed;
        and for one that is older than what this process has seen in its place.
        """
        row = await self._rows.get(tenant, provider, name)
        return None if row is None else await self._opened(row)

    async def delete(self, provider: str, *, tenant: str = "", name: str = "default") -> bool:
        """Forget the key; whether there was one."""
        self._newest.pop((tenant, provider, name), None)
        return await self._rows.delete(tenant, provider, name)

    async def find(self, provider: str, *, env: str = "", tenant: str = "", name: str = "default") -> Secret:
        """The key from the environment variable `env`, or else the vault: the tenant's own, then that of all.

        Raises: ConfigError that says where one could be; StoreDamaged and StoreUnavailable as `get`.
        """
        found, _ = await self.look_up(provider, env=env, tenant=tenant, name=name)
        return found

    async def look_up(
        self, provider: str, *, env: str = "", tenant: str = "", name: str = "default"
    ) -> tuple[Secret, float | None]:
        """As `find`, with the days by which the key is older than it should get; None for one that is not."""
        if env and os.environ.get(env, "").strip():
            return Secret(os.environ[env]), None
        for whose in dict.fromkeys((tenant, "")):
            row = await self._rows.get(whose, provider, name)
            if row is not None:
                return await self._opened(row), self._overdue(row)
        where = f"set {env}, or " if env else ""
        raise ConfigError(f"no key for provider {provider!r}: {where}store one in the vault under {name!r}")

    def source(
        self, provider: str, *, env: str = "", tenant: str = "", name: str = "default", fresh: float = 60.0
    ) -> VaultKey:
        """An `api_key` for a provider: `find`, looked up again when it is `fresh` seconds old or refused.

        ``provider("openai", api_key=vault.source("openai"))``: a key that is replaced in the vault is in use
        after `fresh` seconds at most, and at once where the provider refuses the one before it.
        """
        return VaultKey(partial(self.look_up, provider, env=env, tenant=tenant, name=name), fresh)

    async def keys(self) -> list[KeyInfo]:
        """All that is stored, in order of tenant, provider and name; without the keys.

        Their ages are what the rows say; that they are true is known only where a row is opened.
        """
        now = self._wall()
        return [
            KeyInfo(
                tenant=row.tenant,
                provider=row.provider,
                name=row.name,
                version=row.version,
                master=row.master,
                age_days=max(0.0, now - row.created_at) / _DAY,
                due=now - row.created_at >= self._max_age,
                hint=row.hint,
            )
            for row in await self._all()
        ]

    async def due(self) -> list[KeyInfo]:
        """The keys that should be replaced, for they are older than `max_age_days`."""
        return [info for info in await self.keys() if info.due]

    async def rotate(self) -> Rotation:
        """Seal everything by the first of the master keys, row by row, and see that all of it opens.

        It may be interrupted at any time, and begun again: at every moment each row opens with one of the
        master keys. Only when it is `complete`, and everybody seals by the new one, may the old ones be
        thrown away. A row that does not open is left as it is, and named.
        """
        rotated: set[_Names] = set()
        for _ in range(_PASSES):
            rows = await self._all()
            states = {_of(row): await self._rotated(row) for row in rows}
            fresh = {names for names, state in states.items() if state is True}
            rotated |= fresh
            if not fresh:
                break
        unreadable = tuple(names for names, state in states.items() if state is None)
        return Rotation(
            rotated=len(rotated - {*unreadable}),
            already=len(states.keys() - rotated - {*unreadable}),
            unreadable=unreadable,
        )

    async def _rotated(self, row: SealedKey | None) -> bool | None:
        """Whether `row` was sealed anew: False if it needed nothing, None if it does not open."""
        while row is not None:
            try:
                data_key = await self._data_key(row)
                open_sealed(data_key, row.secret, self._names(row))
            except NotOpened:
                return None
            if row.master == self._current.id:
                return False
            fresh = await self._wrapped(evolve(row, master=self._current.id), data_key)
            if await self._rows.put(fresh, row):
                return True
            row = await self._rows.get(*_of(row))  # somebody else was there
        return False

    async def _all(self) -> list[SealedKey]:
        rows: list[SealedKey] = []
        last: _Names | None = None
        while page := await self._rows.keys(after=last):
            rows += page
            last = _of(page[-1])
        return rows

    # ------------------------------------------------------------ opening

    async def _opened(self, row: SealedKey) -> Secret:
        what = f"the key {row.name!r} of provider {row.provider!r}, tenant {row.tenant!r},"
        try:
            plain = open_sealed(await self._data_key(row), row.secret, self._names(row))
        except NotOpened as error:
            known = ", ".join(map(repr, self._masters))
            raise StoreDamaged(
                f"{what} does not open: {error}. It is sealed by master key {row.master!r}; "
                f"known are {known}",
                code="not_opened",
            ) from None
        version, created_at = self._newest.get(_of(row), (0, 0.0))
        # After a deletion versions begin anew, and times do not.
        if row.version < version and row.created_at <= created_at:
            raise StoreDamaged(
                f"{what} is version {row.version}, and was version {version} before: "
                "somebody has put an older one back; store the right key anew",
                code="rolled_back",
            )
        if len(self._newest) >= _MAX_KNOWN:
            self._newest.clear()
        self._newest[_of(row)] = (row.version, row.created_at)
        self._warn(row)
        return Secret(plain.decode())

    def _overdue(self, row: SealedKey) -> float | None:
        days = (self._wall() - row.created_at - self._max_age) / _DAY
        return days if days >= 0 else None

    def _warn(self, row: SealedKey) -> None:
        now = self._wall()
        if self._overdue(row) is None or now - self._warned.get(_of(row), -_DAY) < _DAY:
            return
        if len(self._warned) >= _MAX_KNOWN:
            self._warned.clear()
        self._warned[_of(row)] = now
        _log.warning(
            "the key %r of provider %r, tenant %r, is %.0f days old and should be replaced",
            row.name, row.provider, row.tenant, (now - row.created_at) / _DAY,
        )  # fmt: skip

    async def _wrapped(self, row: SealedKey, data_key: bytes) -> SealedKey:
        master = self._current
        names = self._names(row) + associated(master.id)
        return evolve(row, data_key=await _done(master, partial(master.wrap, data_key, names)))

    async def _data_key(self, row: SealedKey) -> bytes:
        master = self._masters.get(row.master)
        if master is None:
            raise NotOpened("its master key is not among those that are known")
        names = self._names(row) + associated(master.id)
        return await _done(master, partial(master.unwrap, row.data_key, names))

    def _names(self, row: SealedKey) -> bytes:
        """What both seals of a row are bound to. Its time in ms, which every store gives back as it was."""
        created_at = str(round(row.created_at * 1000))
        return associated(self._name, row.tenant, row.provider, row.name, str(row.version), created_at)

    async def aclose(self) -> None:
        """Close the store."""
        await self._state.aclose()

    def __repr__(self) -> str:
        return f"KeyVault(masters={sorted(self._masters)})"


def _of(row: SealedKey) -> _Names:
    return row.tenant, row.provider, row.name


async def _done(master: MasterKey, work: Callable[[], bytes]) -> bytes:
    """What `work` gives; off the loop where it may take a tenth of a second."""
    if not master.slow:
        return work()
    from anyio import to_thread  # noqa: PLC0415  takes 20 ms to import, and most never need it

    return await to_thread.run_sync(work)
