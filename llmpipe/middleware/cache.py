"""Answer what was answered before, without a provider.

=================  ==================================================================================
note               detail
=================  ==================================================================================
``cache.hit``      ``saved``: nano-USD the reply had cost, None if unknown; ``age`` in seconds
``cache.stale``    the same, for a reply past its time; ``error``: the failure it stands in for, or None
``cache.refused``  ``error``: type of the failure that is told again
=================  ==================================================================================

Stale-while-revalidate and stale-if-error are those of RFC 5861, ``only`` is ``only-if-cached`` of
RFC 9111.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, DeadlineExceeded, LLMError, NotCached
from llmpipe.middleware.canonical import SERVER_STATE, deterministic, key_of, uses_server_state
from llmpipe.middleware.faults import Faults, certain
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call, Ledger
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Alarm
from llmpipe.secret import shown_url
from llmpipe.state import Cache as Store
from llmpipe.state import Entry, shared
from llmpipe.state.codec import check_compression
from llmpipe.state.memory.cache import OWNER_BYTES
from llmpipe.types import Cost, Request
from llmpipe.types.copying import recharged, replace
from llmpipe.types.frozen import EMPTY

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome, Result
    from llmpipe.runtime import Runtime

__all__ = ("Cache", "CacheStats", "NotCached")

_FREE = Cost()
MODES = ("use", "bypass", "refresh", "only")


@frozen
class CacheStats:
    """Counts since the start. `stale` hits are among `hits`; `refreshed` and `failed` are refreshes.

    `refused` are failures told again, which are no hits. `entries` and `bytes` are None where only the
    backend could tell.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    stored: int = 0
    refreshed: int = 0
    failed: int = 0
    entries: int | None = None
    bytes: int | None = None
    refused: int = 0

    @property
    def rate(self) -> float:
        """Hits among all that was looked up, 0 to 1."""
        return self.hits / (self.hits + self.misses) if self.hits else 0.0


class _Shelf:
    """The store of one cache, and what is counted and under way there."""

    __slots__ = (
        "config",
        "failed",
        "faults",
        "hits",
        "misses",
        "refreshed",
        "refreshing",
        "refused",
        "stale",
        "store",
        "stored",
    )

    def __init__(self) -> None:
        self.config: Cache | None = None
        self.store: Store
        self.refreshing: dict[bytes, asyncio.Task[None]] = {}
        self.faults = Faults()
        self.hits = self.misses = self.stale = self.stored = self.refreshed = self.failed = self.refused = 0


@frozen(kw_only=True)
class Cache:
    """Gives the stored reply to a request that was answered before, streamed or whole.

    Only replies that ended well are stored, and only for the tenant they were made for.

    Attributes:
        ttl: seconds a reply is fresh.
        stale: seconds more in which it is still given, while one refresh runs in the background.
        stale_if_error: seconds more in which it is given in place of a failure of the provider.
        refresh_timeout: seconds a refresh may take.
        negative: seconds for which a failure that is certain to repeat (a bad request, one too long for the
            model) is told again without asking; 0: never.
        max_entries, max_bytes: bounds of the store; the least recently used go first.
        max_tenant_share: of these bounds, that one tenant may take; with 1/n, n tenants never take room from
            each other.
        compress: ``zstd`` (the extra ``zstd``) for replies of more than `compress_above` bytes, or ``""``.
        only_deterministic: leave requests alone that are meant to vary (no temperature 0, no seed).
        finish_reasons: how a reply must have finished to be stored.
        vary: names of tags whose values are part of the key.
        version: part of the key; change it when policies, prompts or schemas further in change.
        skip_extra: names in `request.extra` that tie a request to what a server remembers.
        mode: ``use``; ``bypass`` the cache; ``refresh`` what it has; take from it ``only``. Meant for one
            call: ``options={Cache: {"mode": "refresh"}}``.
        store: URL of the backend; see `llmpipe.state.open_state`.

    Raises: NotCached in mode ``only``.
    """

    ttl: float = 3600.0
    stale: float = 0.0
    stale_if_error: float = 0.0
    refresh_timeout: float = 60.0
    negative: float = 0.0
    max_entries: int = 10_000
    max_bytes: int = 32 * 1024 * 1024
    max_tenant_share: float = 1.0
    compress: Literal["", "zstd"] = ""
    compress_above: int = 4096
    only_deterministic: bool = False
    finish_reasons: tuple[str, ...] = field(default=("stop", "tool_calls"), converter=names)
    vary: tuple[str, ...] = field(default=(), converter=names)
    version: str = ""
    skip_extra: tuple[str, ...] = field(default=SERVER_STATE, converter=names)
    mode: Literal["use", "bypass", "refresh", "only"] = "use"
    store: str = field(default="memory://", repr=shown_url)
    name: str = "cache"
    priority: int = bands.SHORTCUT

    why: ClassVar[str] = (
        "inside redaction, so it stores nothing secret; outside the budget, so a hit costs nothing"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"stores"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for name in ("ttl", "refresh_timeout", "max_entries", "max_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.name}: {name} must be above 0, not {getattr(self, name)}")
        for name in ("stale", "stale_if_error", "negative"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{self.name}: {name} is seconds, at least 0, not {getattr(self, name)}")
        if not self.compress_above >= 0:
            raise ConfigError(f"{self.name}: compress_above is bytes, at least 0, not {self.compress_above}")
        if not 0 < self.max_tenant_share <= 1:
            raise ConfigError(
                f"{self.name}: max_tenant_share is above 0 and at most 1, not {self.max_tenant_share}"
            )
        try:
            check_compression(self.compress)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from None
        if self.mode not in MODES:
            raise ConfigError(f"{self.name}: mode is one of {', '.join(MODES)}, not {self.mode!r}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The stored reply, or else a fresh one, which is stored when it has ended well."""
        cfg = call.opt(self)
        key = cfg.key(call)
        if key is None:
            if cfg.mode == "only":
                raise _not_cached(cfg.name)
            return await call_next(call)
        shelf = self._shelf(call.runtime)
        if shelf.faults:
            _tell_again(shelf, call, key, cfg.mode)
        found = await shelf.store.get(key) if cfg.mode != "refresh" else None
        if found is not None:
            entry, age = found
            if age < cfg.ttl:
                shelf.hits += 1
                call.note("cache.hit", saved=entry.saved_nano, age=age)
                return Reply.of(entry.result)
            if age < cfg.ttl + cfg.stale:
                if cfg.mode == "use" and key not in shelf.refreshing:
                    cfg._begin_refresh(call, call_next, shelf, key)
                return _stale(shelf, call, entry, age)
        if cfg.mode == "only":
            shelf.misses += 1
            raise _not_cached(cfg.name)
        try:
            reply = await call_next(call)
        except LLMError as error:
            # What another target could cure is the provider's failure, not the request's.
            if found is None or error.rescue != "any" or found[1] >= cfg.ttl + cfg.stale_if_error:
                shelf.misses += 1
                if cfg.negative and certain(error):
                    shelf.faults.add(key, error, call.runtime.now() + cfg.negative)
                raise
            error.survived()
            return _stale(shelf, call, *found, error=error.type)
        shelf.misses += 1
        return reply.when_over(partial(cfg._ended, shelf, key), call)

    def key(self, call: Call) -> bytes | None:
        """The key of `call`; None if it is not to be looked up here."""
        request = call.request
        if (
            self.mode == "bypass"
            or (self.only_deterministic and not deterministic(request))
            or (request.extra and uses_server_state(request, self.skip_extra))
        ):
            return None
        key = key_of(call, self.version, self.vary)
        # The digest has the tenant too; this says to the store whose share the entry is of.
        return None if key is None else _owner(call.tenant) + key

    def _shelf(self, runtime: Runtime) -> _Shelf:
        shelf = runtime.state("cache", self.name, _Shelf)
        if shelf.config is not self:  # new, or the chain was rebuilt with other bounds
            state = shared(runtime, self.store)
            shelf.store = state.cache(self.name, max_entries=self.max_entries, max_bytes=self.max_bytes)
            self._shape(shelf.store)
            shelf.config = self
        return shelf

    def _shape(self, store: Store) -> None:
        """Tell the store how to keep entries. Raises ConfigError where it cannot do what is asked."""
        shape: Callable[..., None] | None = getattr(store, "shape", None)
        if shape is not None:
            shape(compress=self.compress, above=self.compress_above, max_share=self.max_tenant_share)
        elif self.compress or self.max_tenant_share < 1:
            raise ConfigError(
                f"{self.name}: {self.store.partition('://')[0]}:// has no compress and no max_tenant_share"
            )

    def _ended(self, shelf: _Shelf, key: bytes, call: Call, outcome: Outcome) -> None:
        if outcome.status == "ok":
            self._keep(shelf, key, outcome.completion, call.runtime)

    def _keep(self, shelf: _Shelf, key: bytes, result: Result, runtime: Runtime) -> None:
        """Store `result` if it may be."""
        if result.finish_reason not in self.finish_reasons:
            return
        charge = result.charge
        # A hit costs nothing, and the rate limits its headers told are no longer true.
        free = recharged(result, _FREE, EMPTY)
        entry = Entry(free, None if charge is None else charge.input_nano + charge.output_nano)
        later = shelf.store.put(key, entry, self.ttl + max(self.stale, self.stale_if_error))
        if later is not None:
            _ = runtime.spawn(later, f"{self.name}.put")
        shelf.stored += 1

    def _begin_refresh(self, call: Call, call_next: Handler, shelf: _Shelf, key: bytes) -> None:
        work = self._refresh(call, call_next, shelf, key)
        task = shelf.refreshing[key] = call.runtime.spawn(work, f"{self.name}.refresh")
        # Not in a `finally` of the work: a task that is cancelled before its first step runs none.
        task.add_done_callback(lambda _: shelf.refreshing.pop(key))

    async def _refresh(self, call: Call, call_next: Handler, shelf: _Shelf, key: bytes) -> None:
        """Ask again and store the reply: in the background, with its own deadline and ledger."""
        request, runtime = call.request, call.runtime
        if isinstance(request, Request) and request.stream:
            request = replace(request, stream=False)
        deadline = runtime.now() + self.refresh_timeout
        own = call.evolve(
            request=request,
            id=runtime.new_id("refresh-"),
            deadline=deadline,
            priority=min(-1, call.priority - 1),
            ledger=Ledger(),
        )
        try:
            with Alarm(deadline, lambda: DeadlineExceeded("the refresh of a cached reply took too long")):
                reply = await call_next(own)
                result = await reply.full()
            self._keep(shelf, key, result, runtime)
            shelf.refreshed += 1
        except LLMError:
            shelf.failed += 1  # the stale reply is still there, and the next hit tries again

    # ------------------------------------------------------------ from outside

    def stats(self, runtime: Runtime) -> CacheStats:
        """What this cache has done on `runtime` so far."""
        shelf = self._shelf(runtime)
        entries, size = shelf.store.size() or (None, None)
        return CacheStats(
            shelf.hits,
            shelf.misses,
            shelf.stale,
            shelf.stored,
            shelf.refreshed,
            shelf.failed,
            entries,
            size,
            shelf.refused,
        )

    async def delete(self, call: Call) -> bool:
        """Forget the reply to a call like this one; whether there was one.

        A call is made with ``chain.new_call(request, tenant=…)``.
        """
        key = self.key(call)
        if key is None:
            return False
        shelf = self._shelf(call.runtime)
        _ = shelf.faults.drop(key)
        return await shelf.store.delete(key)

    async def clear(self, runtime: Runtime) -> None:
        """Forget all replies, of all tenants."""
        shelf = self._shelf(runtime)
        shelf.faults.clear()
        await shelf.store.clear()


def _stale(shelf: _Shelf, call: Call, entry: Entry, age: float, error: str | None = None) -> Reply:
    shelf.hits += 1
    shelf.stale += 1
    call.note("cache.stale", saved=entry.saved_nano, age=age, error=error)
    return Reply.of(entry.result)


def _tell_again(shelf: _Shelf, call: Call, key: bytes, mode: str) -> None:
    """Raise what the same request failed with, if that is known to be certain."""
    if mode == "refresh":
        _ = shelf.faults.drop(key)
        return
    fault = shelf.faults.find(key, call.runtime.now())
    if fault is not None:
        shelf.refused += 1
        call.note("cache.refused", error=fault.type)
        raise fault


@lru_cache(maxsize=1024)
def _owner(tenant: str) -> bytes:
    return blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=OWNER_BYTES).digest()


def _not_cached(name: str) -> NotCached:
    return NotCached(f"{name}: no stored reply, and the call asked for nothing else", phase="validate")
