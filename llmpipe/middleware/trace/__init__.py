"""OpenTelemetry spans of calls and their attempts, by the semantic conventions for generative AI.

A call is one CLIENT span, ``chat gpt-4o``; each attempt is a span below it, and what happened on the
way (``retry.wait``, ``cache.hit``) are events of it. Spans are started and ended by hand, and a
call's is the current one only while the chain opens the reply: what an HTTP client traces hangs
below it, and nothing is held while the caller reads the stream.

The attributes are in `llmpipe.middleware.trace.genai`: ``gen_ai.*``, ``server.*``, ``error.type`` (the
error's `type`, such as ``RATE_LIMIT``, the same as in logs and metrics), and under ``llmpipe.``:
``call.id``, ``outcome``, ``attempts``, ``cost.usd``, ``tenant``, ``tag.<name>``, ``request_id``.
Sampling is the SDK's. It writes no notes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.masked_names import masked_name
from llmpipe.middleware.metrics.counted import lies_within
from llmpipe.middleware.trace import genai
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ("Trace",)


@frozen(kw_only=True)
class Trace:
    """Traces calls with OpenTelemetry. Needs the extra ``llmpipe[otel]``.

    Attributes:
        tracer_provider: the global one by default.
        content: record what was asked and answered, masked. Off: it is other people's data.
        max_content_chars: most characters of each piece of it.
        attempts: a span for each attempt.
        providers: our names of providers to those of ``gen_ai.provider.name``.

    Raises: ConfigError where OpenTelemetry is not installed.
    """

    tracer_provider: Any = None
    content: bool = False
    max_content_chars: int = 10_000
    attempts: bool = True
    providers: Mapping[str, str] = Factory(dict)
    name: str = "trace"
    priority: int = bands.OBSERVE - 10

    _otel: _Otel = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "outermost, so that the span of a call covers all the others"
    traits: ClassVar[frozenset[str]] = frozenset({"observes"})

    def __attrs_post_init__(self) -> None:
        if self.max_content_chars < 1:
            raise ConfigError(f"trace: max_content_chars must be at least 1, not {self.max_content_chars}")
        object.__setattr__(self, "_otel", _Otel(self.tracer_provider))  # frozen: part of the construction

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """A span round the call."""
        traced = _Traced(call.opt(self), call)
        otel = self._otel
        token = otel.context.attach(otel.api.set_span_in_context(traced.span))
        try:
            reply = await call_next(call)
        except BaseException as error:  # told to the span, whatever it is; it goes on
            traced.end(None, error)
            raise
        finally:
            otel.context.detach(token)
        outcome = yield reply
        traced.end(outcome, outcome.error)


class _Otel:
    """OpenTelemetry's API, imported when a `Trace` is made."""

    def __init__(self, provider: Any) -> None:
        try:
            self.api: Any = import_module("opentelemetry.trace")
            self.context: Any = import_module("opentelemetry.context")
        except ImportError:
            raise ConfigError('tracing needs OpenTelemetry: pip install "llmpipe[otel]"') from None
        self.tracer: Any = self.api.get_tracer("llmpipe", tracer_provider=provider)


class _Traced:
    """The span of one call."""

    __slots__ = ("_active", "_begun", "_call", "_cfg", "_noted", "_offset", "_whole", "span")

    def __init__(self, cfg: Trace, call: Call) -> None:
        self._cfg = cfg
        self._call = call
        # In a chain inside a chain, the outer trace has the attempts and the events.
        self._active: set[Ledger] = call.runtime.state("trace", cfg.name, set[Ledger])
        active, ledger = self._active, call.ledger
        self._whole = ledger not in active and (ledger.within is None or not lies_within(ledger, active))
        # One that is called again for the same call has the attempts of that time only.
        self._begun, self._noted = len(call.ledger.attempts), len(call.ledger.notes)
        self._offset = call.runtime.wall() - call.runtime.now()
        self.span: Span = cfg._otel.tracer.start_span(
            genai.span_name(call),
            kind=cfg._otel.api.SpanKind.CLIENT,
            attributes=genai.asked(call, cfg.providers),
            start_time=self._wall(call.started_at),
        )
        if self._whole:
            active.add(ledger)

    def end(self, outcome: Outcome | None, error: BaseException | None) -> None:
        """End the span; without an `outcome` the call ended before its reply began."""
        call = self._call
        if self._whole:
            self._active.discard(call.ledger)
        ended_at = call.runtime.now() if outcome is None else outcome.ended_at
        try:
            if self.span.is_recording():
                self._say(outcome, error)
                if self._whole:
                    self._on_the_way(ended_at)
        finally:
            self.span.end(self._wall(ended_at))

    def _say(self, outcome: Outcome | None, error: BaseException | None) -> None:
        span, call, cfg = self.span, self._call, self._cfg
        if outcome is not None:
            status = outcome.status
            span.set_attributes(genai.answered(call, outcome))
        else:
            status = "error" if isinstance(error, Exception) else "cancelled"
        span.set_attribute("llmpipe.outcome", status)
        if status == "error":
            self._fail(span, error)
        if cfg.content:
            span.set_attributes(genai.content(call, outcome, cfg.max_content_chars))

    def _on_the_way(self, ended_at: float) -> None:
        ledger = self._call.ledger
        attempts = ledger.attempts[self._begun :]
        self.span.set_attribute("llmpipe.attempts", len(attempts))
        for note in ledger.notes[self._noted :]:
            told = {key: _plain(value) for key, value in note.detail.items() if value is not None}
            self.span.add_event(note.kind, told, self._wall(note.at))
        if self._cfg.attempts:
            for attempt in attempts:
                self._attempt(attempt, ended_at)

    def _attempt(self, attempt: Attempt, ended_at: float) -> None:
        otel = self._cfg._otel
        span = otel.tracer.start_span(
            f"attempt {attempt.number}",
            context=otel.api.set_span_in_context(self.span),
            kind=otel.api.SpanKind.INTERNAL,
            attributes=genai.attempted(attempt, self._cfg.providers),
            start_time=self._wall(attempt.started_at),
        )
        if attempt.committed_at is not None:
            span.add_event("first_content", None, self._wall(attempt.committed_at))
        if attempt.status == "error":
            self._fail(span, attempt.error)
        span.end(self._wall(ended_at if attempt.ended_at is None else attempt.ended_at))

    def _fail(self, span: Span, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            said, description = genai.failed(error)
            span.set_attributes(said)
            span.set_status(self._cfg._otel.api.StatusCode.ERROR, description)

    def _wall(self, at: float) -> int:
        """Loop time as the wall clock's nanoseconds, by where both stood when the call began."""
        return int((self._offset + at) * 1e9)


def _plain(value: Any) -> Any:
    """`value` as an attribute may be: a masked string, a number or bool, or a list of strings."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [masked_name(str(item)) for item in value]
    return masked_name(str(value))
