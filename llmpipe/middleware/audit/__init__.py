"""Leave a trail of every call: a record before its first byte goes out, and one of how it ended.

Writes no notes. Records are chained by hashes (`llmpipe.state.hash_chain`), so that a trail that was tampered
with is found out: ``llmpipe audit verify``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.audit.fields import begin_body, end_body, identity_of
from llmpipe.middleware.audit.record import late, record_of
from llmpipe.middleware.audit.scribe import Scribe
from llmpipe.middleware.audit.stats import AuditStats, Begun
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.secret import shown_url

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Audit", "AuditStats")

_OUTCOMES = {"ok": "ok", "error": "failed", "cancelled": "cancelled", "abandoned": "abandoned"}


@frozen(kw_only=True)
class Audit:
    """Keeps two records of each call, or one of each that failed.

    The first is durable before any attempt at a provider is made; a call that needs none, such as a hit,
    does not wait for it. The end is kept with others. If the process dies between them, the next one that
    starts, or another that shares the store, writes an end that says ``crashed``. A call that passes
    several of one name and store, in chains within chains, leaves one begin and one end.

    Attributes:
        store: URL of the backend; see `llmpipe.state.open_state`.
        what: ``all`` calls, or ``failed`` ones, of which only the end is kept.
        mode: ``durable`` loses nothing: the call waits for its begin, and fails if that cannot be kept.
            ``queued`` never makes a call wait: what finds no room is dropped, and counted in `stats`.
        batch: records that are kept together, at most.
        flush: seconds after which fewer are.
        max_waiting: records that may wait. Beyond that a durable call waits, a queued record is dropped.
        retention_days: after which records are dropped; None keeps them.
        bodies: keep what was asked and answered too, masked, `max_body_chars` characters of each.
        writer: a name for this process that is the same after a restart, and that no other has. By default
            there is a new one each time, whose open calls another writer ends when its lease has ended.
        lease: seconds without a sign of life after which a writer is taken for dead.

    Raises: StoreUnavailable in mode ``durable``, if the begin cannot be kept; nothing was sent then.
    """

    store: str = field(default="memory://", repr=shown_url)
    what: Literal["all", "failed"] = "all"
    mode: Literal["durable", "queued"] = "durable"
    batch: int = 100
    flush: float = 5.0
    max_waiting: int = 1000
    retention_days: float | None = None
    bodies: bool = False
    max_body_chars: int = 10_000
    writer: str = ""
    lease: float = 30.0
    name: str = "audit"
    priority: int = bands.OBSERVE + 30

    _place: str = field(init=False, repr=False, eq=False)  # of its scribe, in the state of a runtime

    why: ClassVar[str] = "sees every call as the caller does, refusals and hits included"
    traits: ClassVar[frozenset[str]] = frozenset({"observes"})

    def __attrs_post_init__(self) -> None:
        place = f"{self.name} {self.writer} {self.store}"
        object.__setattr__(self, "_place", place)  # frozen: part of the construction
        check_numbers(self, f"{self.name}:")
        for setting in ("batch", "flush", "max_waiting", "lease", "max_body_chars"):
            if not getattr(self, setting) > 0:
                raise ConfigError(f"{self.name}: {setting} must be above 0, not {getattr(self, setting)}")
        if self.retention_days is not None and not self.retention_days > 0:
            raise ConfigError(f"{self.name}: retention_days is above 0, or None, not {self.retention_days}")
        if self.what not in ("all", "failed"):
            raise ConfigError(f"{self.name}: what is all or failed, not {self.what!r}")
        if self.mode not in ("durable", "queued"):
            raise ConfigError(f"{self.name}: mode is durable or queued, not {self.mode!r}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """Both records."""
        cfg, scribe = call.opt(self), self._scribe(call.runtime)
        if call.guards and _passed(scribe, call):
            return await call_next(call)  # both are kept there
        begun = scribe.enter(call.id)
        durable = cfg.mode == "durable"
        try:
            if durable and scribe.full:
                await _room(scribe, begun)
            if cfg.what == "all":
                if durable:
                    # The first that is asked: no budget is charged for a call that the trail does not know.
                    call = call.evolve(guards=(partial(_kept, scribe, begun, call.id), *call.guards))
                if begun.place is None or (durable and not begun.place):  # 0: it was dropped further out
                    cfg._begin(call, scribe, begun)
            reply = await call_next(call)
        except BaseException as error:  # goes on when it is written down
            if not isinstance(error, GeneratorExit) or asyncio._get_running_loop() is not None:
                cfg._end(call, scribe, begun, None, error)
            raise
        return reply.when_over(partial(cfg._over, scribe, begun), call)

    def _begin(self, call: Call, scribe: Scribe, begun: Begun) -> None:
        begun.identity = identity = identity_of(call)
        body = begin_body(call, identity, self.max_body_chars if self.bodies else 0)
        record = record_of(call, scribe.writer, "begin", "", body)
        begun.place = scribe.write(record) if self.mode == "durable" else scribe.offer(record)

    def _over(self, scribe: Scribe, begun: Begun, call: Call, outcome: Outcome) -> None:
        self._end(call, scribe, begun, outcome, outcome.error)

    def _end(
        self, call: Call, scribe: Scribe, begun: Begun, outcome: Outcome | None, error: BaseException | None
    ) -> None:
        if not scribe.leave(call.id, begun):
            return  # the same call is still under way further out, or beside
        said = _outcome(call, outcome, error)
        if begun.place is None and (begun.outside or self.what == "all" or said == "ok"):
            return  # it was refused because nothing more could be taken of it, or is not wanted
        body = end_body(call, begun.identity, outcome, error, self.max_body_chars if self.bodies else 0)
        record = record_of(call, scribe.writer, "end", said, body)
        if begun.place or self.mode == "durable":  # there is room for the end of whatever has begun
            scribe.write(late(record) if begun.crashed else record)
        else:
            _ = scribe.offer(record)

    def _scribe(self, runtime: Runtime) -> Scribe:
        scribe = runtime.state("audit", self._place, partial(Scribe, runtime, self))
        scribe.settings = self  # those of a chain that was made anew hold from now on
        return scribe

    def stats(self, runtime: Runtime) -> AuditStats:
        """What has become of this trail's records on `runtime` so far."""
        return self._scribe(runtime).stats


async def _room(scribe: Scribe, begun: Begun) -> None:
    """Return when there is room for the records of a call. Raises: StoreUnavailable."""
    if begun.inside == 1:  # else there was room further out
        begun.outside = True
    while not begun.place and scribe.full:
        await scribe.room()
    begun.outside = False


def _passed(scribe: Scribe, call: Call) -> bool:
    """Whether the call has passed further out. It may have its end: others may share its request."""
    for guard in call.guards:
        if isinstance(guard, partial) and guard.func is _kept:
            of, _, call_id = guard.args
            if of is scribe and call_id == call.id:
                return True
    return False


async def _kept(scribe: Scribe, begun: Begun, call_id: str, attempt: Call) -> Call:
    """Asked before each attempt: the begin is kept, or, of what is nobody's call, a note."""
    place = begun.place or 0
    if scribe.stats.kept < place:
        await scribe.durable(place)
    if attempt.id != call_id:  # of nobody's call, such as a refresh of the cache
        provider, _, model = attempt.target_key
        said = {"because_of": call_id, "provider": provider, "model": model}
        await scribe.durable(scribe.write(record_of(attempt, scribe.writer, "note", "", said)))
    return attempt


def _outcome(call: Call, outcome: Outcome | None, error: BaseException | None) -> str:
    """How the call ended, as the trail names it: ``refused`` is what no provider was asked for."""
    if outcome is not None and outcome.status != "error":
        return _OUTCOMES[outcome.status]
    if error is not None and not isinstance(error, Exception):
        return "cancelled"
    asked = call.ledger.attempts or (isinstance(error, LLMError) and error.attempt)
    return "refused" if isinstance(error, LLMError) and not asked else "failed"
