"""The table of use cases out of a store, so that it can be changed while calls run.

A `ProviderRepository` keeps the rows of a provider table as targets. Who changes a row through it sees the
change at once. What others change is seen within a second while there are calls, for a task of the runtime
asks for the table's revision that often; and by the next call otherwise. A row that stays as it is keeps its
target with its connections. A target whose row is gone is closed later, when nothing is under way there.

While the store is out of reach the last known rows are used, however old, and that is logged once. Only where
none were ever read does a call fail. A row that makes no provider (an unknown kind, no key) is left out, is
logged, and is named in `problems`; the others stand.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from math import inf
from typing import Any, ClassVar

from attrs import evolve, field, frozen

from llmpipe.errors import ConfigError, LLMError, StoreUnavailable
from llmpipe.keys import KeyVault
from llmpipe.middleware.credentials import Credentials
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.checks import nearest
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.factory import provider
from llmpipe.providers.profiles import PROFILES
from llmpipe.routing.use_cases import PREFERENCES, Entry, UseCases
from llmpipe.runtime import Runtime
from llmpipe.secret import shown_url
from llmpipe.state import ProviderRow, ProviderTable, State, shared
from llmpipe.state.poller import Poller

__all__ = ("ProviderRepository", "StoredUseCases", "target_of")

_log = logging.getLogger("llmpipe.routing")
_EVERY = 1.0  # seconds between two questions for the revision
_LINGER = 60.0  # seconds for which a target that was taken out may still be asked by a call that chose it

Make = Callable[[ProviderRow, KeyVault | None], Any]
"""Makes the target of a row."""


def target_of(row: ProviderRow, vault: KeyVault | None) -> Any:
    """The provider that `row` describes, called by the row's name.

    A row without `key` has the key of its kind, from the environment. One with a `key` looks for it in the
    environment too, and then in the vault, where the account's own goes before that of all. An account's row
    that names a key has that of the vault: the environment's is somebody else's.

    Raises: ConfigError.
    """
    options: dict[str, Any] = {"model": row.model, "name": row.name}
    if row.base_url:
        options["base_url"] = row.base_url
    if row.key:
        profile = PROFILES.get(row.provider)
        env = profile.key_env if profile is not None and not row.account else ""
        if vault is not None:
            options["api_key"] = vault.source(row.provider, env=env, tenant=row.account, name=row.key)
        elif not env or not os.environ.get(env):
            where = f"set {env}, or pass a vault" if env else "pass a vault"
            raise ConfigError(f"its key {row.key!r} is nowhere to be found: {where}")
    return provider(row.provider, **options)


class ProviderRepository:
    """Rows of a provider table, as targets.

    Args:
        runtime: owns the task that watches the table.
        store: a URL of a backend that keeps a provider table, or an open `State`.
        vault: where the keys that rows name are kept.
        table: name of the table in the store.
        fresh: seconds after which all is read again, whatever the revision says.
        preferences: as of `UseCases`. A use case of a row that is not in it is a problem of that row.
        make: makes the target of a row.

    Attributes:
        problems: what is wrong with rows, by name.

    Raises: ConfigError for a store that keeps no such table.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: str | State,
        *,
        vault: KeyVault | None = None,
        table: str = "providers",
        fresh: float = 300.0,
        preferences: Mapping[str, tuple[str, ...]] = PREFERENCES,
        make: Make = target_of,
    ) -> None:
        if not fresh > 0:
            raise ConfigError(f"fresh is seconds above 0, not {fresh}")
        state = shared(runtime, store) if isinstance(store, str) else store
        self._table: ProviderTable = state.providers(table)
        self._runtime, self._vault, self._make = runtime, vault, make
        self._fresh, self._preferences = fresh, preferences
        self.problems: dict[str, str] = {}
        self._rows: list[ProviderRow] | None = None
        self._revision = -1
        self._read_at = self._asked_at = -inf  # all of it; its revision
        self._down = False
        self._targets: dict[str, tuple[ProviderRow, Any]] = {}
        self._retired: list[tuple[float, Any]] = []
        self._cases: UseCases | None = None
        self._variants: dict[str, UseCases] = {}
        self._lock, self._gate = asyncio.Lock(), asyncio.Lock()
        self._uses = 0
        self._poller = Poller(self._look, lambda: self._uses, name="providers", every=_EVERY)

    # ------------------------------------------------------------ asking

    async def use_cases(self, use_case: str = "") -> UseCases | None:
        """The table of now, with what `UseCases.use_case` is to be; None for one without a row of use.

        Raises: StoreUnavailable where it was never read.
        """
        self._uses += 1
        if self._rows is None:
            await self._refresh()
        elif self._unwatched:
            async with self._gate:
                if self._unwatched:  # else somebody has just looked
                    await self._look(True)
        self._poller.start(self._runtime)
        if self._cases is None or use_case == self._cases.use_case:
            return self._cases
        found = self._variants.get(use_case)
        if found is None:
            found = self._variants[use_case] = evolve(self._cases, use_case=use_case)
        return found

    @property
    def _unwatched(self) -> bool:
        return not self._down and self._runtime.now() - self._asked_at > 2 * _EVERY

    async def choose(self, use_case: str = "", *, account: str = "", model: str = "") -> Entry | None:
        """As `UseCases.choose`; None too where the table is empty.

        Raises: StoreUnavailable where the table was never read; InvalidRequest.
        """
        cases = await self.use_cases()
        return None if cases is None else cases.choose(use_case, account=account, model=model)

    async def rows(self, account: str | None = None) -> list[ProviderRow]:
        """The rows as they are in the store now; see `ProviderTable.rows`. Raises: StoreUnavailable."""
        return await self._table.rows(account)

    # ------------------------------------------------------------ changing

    async def put(self, row: ProviderRow) -> None:
        """Store `row`, and use it at once. Raises: StoreUnavailable; ConfigError for one that is no use."""
        problem = self._wrong_with(row)
        if problem:
            raise ConfigError(f"row {row.name!r}: {problem}")
        await self._table.put(row)
        await self._look(True)

    async def delete(self, name: str) -> bool:
        """Forget the row of that name, at once; whether there was one. Raises: StoreUnavailable."""
        there = await self._table.delete(name)
        await self._look(True)
        return there

    # ------------------------------------------------------------ reading

    async def _look(self, timed: bool) -> None:
        """Read the table if it has changed, or is old. Where the store is out of reach, all stays."""
        try:
            revision = await self._table.revision()
            self._asked_at = self._runtime.now()
            old = self._asked_at - self._read_at >= self._fresh
            if revision != self._revision or old:
                await self._refresh(changed=True)
        except StoreUnavailable as error:
            if not self._down:
                self._down = True
                _log.warning("the last known provider rows are used: %s", error.message)
            return
        if self._down:
            self._down = False
            _log.info("the provider rows are read again")
        await self._close_retired()

    async def _refresh(self, *, changed: bool = False) -> None:
        before = self._read_at
        async with self._lock:
            if self._read_at != before and not changed:
                return  # somebody has just done it
            revision = await self._table.revision()  # before the rows: what comes between is read again
            rows = await self._table.rows()
            self._revision, self._rows = revision, rows
            self._read_at = self._asked_at = self._runtime.now()
            self._build(rows)

    def _build(self, rows: list[ProviderRow]) -> None:
        problems: dict[str, str] = {}
        entries: list[Entry] = []
        kept: dict[str, tuple[ProviderRow, Any]] = {}
        for row in rows:
            if not row.is_active:
                continue
            try:
                target = self._target(row)
                known = tuple(case for case in row.use_cases if case in self._preferences)
                entry = Entry(
                    target, known, account=row.account, default=row.is_default, max_tokens=row.max_tokens
                )
            except (ConfigError, LLMError) as error:
                problems[row.name] = str(error)
                continue
            if problem := self._wrong_with(row):
                problems[row.name] = problem
            kept[row.name] = (row, target)
            entries.append(entry)
        for name, problem in problems.items():
            if self.problems.get(name) != problem:
                _log.warning("provider row %r: %s", name, problem)
        self.problems = problems
        now = self._runtime.now()
        for name, (_, target) in self._targets.items():
            if name not in kept or kept[name][1] is not target:
                self._retired.append((now + _LINGER, target))
        self._targets = kept
        self._cases = UseCases(entries, preferences=self._preferences) if entries else None
        self._variants = {}

    def _target(self, row: ProviderRow) -> Any:
        """The target of `row`: that of before, where nothing that it is made of has changed."""
        before = self._targets.get(row.name)
        if before is not None and _made_of(before[0]) == _made_of(row):
            return before[1]
        return self._make(row, self._vault)

    def _wrong_with(self, row: ProviderRow) -> str:
        unknown = [case for case in row.use_cases if case not in self._preferences]
        if unknown:
            return f"unknown use case {unknown[0]!r}; known are {', '.join(self._preferences)}"
        return "" if row.max_tokens >= 1 else f"max_tokens is {row.max_tokens}; expected 1 or more"

    # ------------------------------------------------------------ closing

    async def _close_retired(self) -> None:
        now = self._runtime.now()
        kept: list[tuple[float, Any]] = []
        for until, target in self._retired:
            if until > now or getattr(target, "connections_in_use", False):
                kept.append((until, target))
            else:
                await self._closed(target)
        self._retired = kept

    async def _closed(self, target: Any) -> None:
        try:
            await target.aclose()
        except Exception as error:  # noqa: BLE001  somebody's target may fail in any way; the table goes on
            self._runtime.report("closing a target whose row is gone", error)

    async def aclose(self) -> None:
        """Close all targets; they open again when they are needed."""
        async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
            for target in (*(target for _, target in self._targets.values()), *(t for _, t in self._retired)):
                stack.push_async_callback(target.aclose)
        self._retired = []


def _made_of(row: ProviderRow) -> tuple[str, ...]:
    return row.provider, row.model, row.account, row.key, row.base_url


class _Unknown:
    """Stands for targets of which nothing is known yet."""

    def brings(self) -> tuple[Any, ...]:
        return (Credentials(),)


@frozen(kw_only=True)
class StoredUseCases:
    """Sends each call to the target that the provider table of a store has for its use case.

    Attributes:
        store: the URL of a backend that keeps a provider table.
        table: its name there.
        vault: where the keys lie that rows name.
        preferences, use_case: as of `UseCases`.
        fresh: seconds after which all rows are read again, whatever the revision says.
        make: makes the target of a row; None: `target_of`.
        owns_vault: whether the vault is closed with the chain.

    Raises: StoreUnavailable while the table was never read; InvalidRequest for a use case that is not known;
    ConfigError where `use_case` is not known.
    """

    store: str = field(default="memory://", repr=shown_url)
    table: str = "providers"
    vault: KeyVault | None = None
    preferences: Mapping[str, tuple[str, ...]] = field(factory=lambda: PREFERENCES)
    use_case: str = ""
    fresh: float = 300.0
    make: Make | None = None
    owns_vault: bool = False
    name: str = "stored_use_cases"
    priority: int = bands.ROUTE - 20

    why: ClassVar[str] = "outside fallback, so that the target it chooses is the first that is asked"
    traits: ClassVar[frozenset[str]] = frozenset({"routes"})

    def __attrs_post_init__(self) -> None:
        if not self.fresh > 0:
            raise ConfigError(f"{self.name}: fresh is seconds above 0, not {self.fresh}")
        if self.use_case and self.use_case not in self.preferences:
            known = ", ".join(self.preferences)
            hint = nearest(self.use_case, self.preferences)
            raise ConfigError(f"{self.name}: unknown use case {self.use_case!r}; known are {known}{hint}")

    @property
    def targets(self) -> tuple[Any, ...]:
        """What a chain must know beforehand of targets that come and go: that their keys are looked up."""
        return (_Unknown(),)

    def repository(self, runtime: Runtime) -> ProviderRepository:
        """The rows on `runtime`: to read and change them, and to see what is wrong with them."""
        return runtime.state(
            "providers",
            f"{self.name} {self.store} {self.table}",
            lambda: ProviderRepository(
                runtime,
                self.store,
                vault=self.vault,
                table=self.table,
                fresh=self.fresh,
                preferences=self.preferences,
                make=self.make or target_of,
            ),
        )

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the target that is chosen."""
        cfg = call.opt(self)
        cases = await self.repository(call.runtime).use_cases(cfg.use_case)
        return await (call_next(call) if cases is None else cases(call, call_next))

    async def aclose(self) -> None:
        """Close the vault, if it is the chain's own; the targets are closed with the runtime."""
        if self.owns_vault and self.vault is not None:
            await self.vault.aclose()
