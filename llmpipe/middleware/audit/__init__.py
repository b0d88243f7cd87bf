"""Leave a trail of every call: a record before its first byte goes out, and one of how it ended.

Writes no notes. Records are chained by hashes (`llmpipe.state.hash_chain`), so that a trail that was tampered
with is found out: ``llmpipe audit verify``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import orjson
from attrs import frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.audit.scribe import AuditStats, Scribe, _Settings
from llmpipe.middleware.log.fields import MAX_TAG_CHARS, clipped, ended_fields, request_fields
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.state import AuditRecord

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
    starts, or another that shares the store, writes an end that says ``crashed``.

    Attributes:
        store: URL of the backend; see `llmpipe.state.open_state`.
        what: ``all`` calls, or ``failed`` ones, of which only the end is kept.
        mode: ``durable`` loses nothing: the call waits for its begin, and fails if that cannot be kept.
            ``queued`` never makes a call wait: what finds no room is dropped, and counted in `stats`.
        batch: records that are kept together.
        flush: seconds after which fewer are.
        max_waiting: records that may wait. Beyond that a durable call waits, a queued record is dropped.
        retention_days: after which records are dropped; None keeps them.
        bodies: keep what was asked and answered too, masked, `max_body_chars` characters of each.
        writer: a name for this process that is the same after a restart, and that no other has. By default
            there is a new one each time, whose open calls another writer ends when its lease has ended.
        lease: seconds without a sign of life after which a writer is taken for dead.

    Raises: StoreUnavailable in mode ``durable``, if the begin cannot be kept; nothing was sent then.
    """

    store: str = "memory://"
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

    why: ClassVar[str] = "sees every call as the caller does, refusals and hits included"
    traits: ClassVar[frozenset[str]] = frozenset({"observes"})

    def __attrs_post_init__(self) -> None:
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

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """Both records."""
        cfg = call.opt(self)
        scribe = cfg.scribe(call.runtime)
        begun = False
        if cfg.what == "all":
            record = cfg._begun(call, scribe)
            if cfg.mode == "queued":
                begun = scribe.offer(record)
            else:
                if scribe.full:
                    await scribe.durable(scribe.stats.written)
                begun, place = True, scribe.write(record)
                call = call.evolve(guards=(partial(_kept, scribe, place), *call.guards))
        try:
            reply = await call_next(call)
        except BaseException as error:  # goes on when it is written down
            cfg._end(call, scribe, begun, None, error)
            raise
        outcome = yield reply
        cfg._end(call, scribe, begun, outcome, outcome.error)

    def _begun(self, call: Call, scribe: Scribe) -> AuditRecord:
        fields = request_fields(call, self.max_body_chars if self.bodies else 0)
        return self._record(call, scribe, "begin", "", fields)

    def _end(
        self, call: Call, scribe: Scribe, begun: bool, outcome: Outcome | None, error: BaseException | None
    ) -> None:
        said = _outcome(call, outcome, error)
        if self.what == "failed" and said == "ok":
            return
        fields = ended_fields(call, outcome, error, self.max_body_chars if self.bodies else 0)
        record = self._record(call, scribe, "end", said, fields)
        if begun or self.mode == "durable":  # there is room for the end of whatever has begun
            scribe.write(record)
        else:
            scribe.offer(record)

    @staticmethod
    def _record(
        call: Call, scribe: Scribe, kind: str, outcome: str, fields: Mapping[str, Any]
    ) -> AuditRecord:
        return AuditRecord(
            writer=scribe.writer,
            seq=0,  # placed when it is written
            kind=kind,
            at=call.runtime.wall(),
            call=call.id,
            tenant=clipped(call.tenant, MAX_TAG_CHARS) if call.tenant else "",
            user=clipped(call.user, MAX_TAG_CHARS) if call.user else "",
            outcome=outcome,
            body=_plain(fields),
        )

    def scribe(self, runtime: Runtime) -> Scribe:
        """The writer of this trail on `runtime`."""

        def begin() -> Scribe:
            seconds = None if self.retention_days is None else self.retention_days * 86_400.0
            settings = _Settings(self.batch, self.flush, self.max_waiting, self.lease, seconds, self.writer)
            return Scribe(runtime, self.store, self.name, settings)

        return runtime.state("audit", self.name, begin)

    def stats(self, runtime: Runtime) -> AuditStats:
        """What has become of this trail's records on `runtime` so far."""
        return self.scribe(runtime).stats


async def _kept(scribe: Scribe, place: int, attempt: Call) -> Call:
    """Asked before each attempt: the begin is kept."""
    if scribe.stats.kept < place:
        await scribe.durable(place)
    return attempt


def _outcome(call: Call, outcome: Outcome | None, error: BaseException | None) -> str:
    """How the call ended, as the trail names it: ``refused`` is what no provider was asked for."""
    if outcome is not None and outcome.status != "error":
        return _OUTCOMES[outcome.status]
    if error is not None and not isinstance(error, Exception):
        return "cancelled"
    refused = isinstance(error, LLMError) and not call.ledger.attempts
    return "refused" if refused else "failed"


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as they will be read again: a hash is over what is kept, not over what was meant."""
    try:
        data = orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half a character: a lone surrogate is no Unicode
        data = orjson.dumps(_whole(fields), default=str, option=orjson.OPT_NON_STR_KEYS)
    plain: dict[str, Any] = orjson.loads(data)
    return plain


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return value
