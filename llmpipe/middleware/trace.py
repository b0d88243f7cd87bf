"""OpenTelemetry spans of calls and their attempts, by the semantic conventions for generative AI.

A call is one CLIENT span, ``chat gpt-4o``; each attempt is a span below it, and what happened on the
way (``retry.wait``, ``cache.hit``) are events of it. Spans are started and ended by hand and a call's
is the current one only while the chain opens the reply, so that what an HTTP client traces hangs
below it, and nothing is held while the caller reads the stream.

Attributes are those of the "Semantic conventions for generative client AI spans" (status
Development, repository open-telemetry/semantic-conventions-genai, November 2026): ``gen_ai.*``,
``server.*``, ``error.type``. What they have no word for is under ``llmpipe.*``: ``call.id``,
``outcome``, ``attempts``, ``cost.usd``, ``tenant``, ``tag.<name>``, ``request_id``, ``error.retryable``.
``error.type`` is the error's `type` (``RATE_LIMIT``), the same as in logs and metrics. Sampling is
the SDK's. It writes no notes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.jsonlog import json_line
from llmpipe.middleware.log_fields import masked, operation_of
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.pipeline.reply import Reply
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ("Trace",)

# The conventions' own names of providers, where they differ from those in use; others stand as they are.
_WELL_KNOWN = {
    "azure": "azure.ai.openai",
    "azure-openai": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "xai": "x_ai",
}
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
_PORTS = {"http": 80, "https": 443}


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
        cfg, otel = call.opt(self), self._otel
        # In a chain inside a chain, the outer trace has the attempts and the events.
        active = call.runtime.state("trace", self.name, set[Ledger])
        whole = call.ledger not in active
        active.add(call.ledger)
        offset = call.runtime.wall() - call.runtime.now()
        span = otel.tracer.start_span(
            _name(call),
            kind=otel.api.SpanKind.CLIENT,
            attributes=cfg._asked(call),
            start_time=_nanoseconds(offset + call.started_at),
        )
        token = otel.context.attach(otel.api.set_span_in_context(span))
        try:
            reply = await call_next(call)
        except BaseException as error:  # told to the span, whatever it is; it goes on
            cfg._end(span, call, None, error, offset, whole)
            raise
        finally:
            otel.context.detach(token)
        outcome = yield reply
        cfg._end(span, call, outcome, outcome.error, offset, whole)

    # ------------------------------------------------------------ what is known at the beginning

    def _asked(self, call: Call) -> dict[str, Any]:
        request = call.request
        provider, endpoint, model = call.target_key
        said: dict[str, Any] = {
            "gen_ai.operation.name": operation_of(request),
            "gen_ai.provider.name": self._provider(provider),
            "gen_ai.request.model": model,
            **_server(endpoint),
            "llmpipe.call.id": call.id,
        }
        if request.stream:
            said["gen_ai.request.stream"] = True
        if isinstance(request, Request):
            for name, key in _PARAMETERS.items():
                if (value := getattr(request, name)) is not None:
                    said[key] = value
            if request.stop:
                said["gen_ai.request.stop_sequences"] = request.stop
            if isinstance(top_k := request.extra.get("top_k"), (int, float)):
                said["gen_ai.request.top_k"] = float(top_k)
            if request.response_format is not None:
                said["gen_ai.output.type"] = "text" if request.response_format.type == "text" else "json"
        elif isinstance(request, EmbeddingRequest) and request.dimensions is not None:
            said["gen_ai.embeddings.dimension.count"] = request.dimensions
        if call.tenant:
            said["llmpipe.tenant"] = call.tenant
        for name, value in call.tags.items():
            said[f"llmpipe.tag.{name}"] = masked(value)
        return said

    def _provider(self, name: str) -> str:
        return self.providers.get(name) or _WELL_KNOWN.get(name, name)

    # ------------------------------------------------------------ what is known at the end

    def _end(
        self,
        span: Span,
        call: Call,
        outcome: Outcome | None,
        error: BaseException | None,
        offset: float,
        whole: bool,
    ) -> None:
        ended_at = call.runtime.now() if outcome is None else outcome.ended_at
        if whole:
            call.runtime.state("trace", self.name, set[Ledger]).discard(call.ledger)
        if span.is_recording():
            status = (
                outcome.status
                if outcome is not None
                else "error"
                if isinstance(error, Exception)
                else "cancelled"
            )
            span.set_attribute("llmpipe.outcome", status)
            if outcome is not None:
                span.set_attributes(self._answered(call, outcome))
            if status == "error" and isinstance(error, Exception):
                self._failed(span, error)
            if whole:
                span.set_attribute("llmpipe.attempts", len(call.ledger.attempts))
                for note in call.ledger.notes:
                    told = {key: _plain(value) for key, value in note.detail.items() if value is not None}
                    span.add_event(note.kind, told, _nanoseconds(offset + note.at))
                if self.attempts:
                    for attempt in call.ledger.attempts:
                        self._attempt(span, attempt, offset, ended_at)
            if self.content:
                self._content(span, call, outcome)
        span.end(_nanoseconds(offset + ended_at))

    def _answered(self, call: Call, outcome: Outcome) -> dict[str, Any]:
        attempts = call.ledger.attempts
        end = (attempts[-1].outcome if attempts else None) or outcome  # folded already
        result, usage = end.completion, end.usage
        said: dict[str, Any] = {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
        for key, value in (
            ("gen_ai.response.id", result.id),
            ("gen_ai.response.model", result.model),
            ("gen_ai.usage.cache_read.input_tokens", usage.cached_input_tokens),
            ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens),
            ("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens),
            ("llmpipe.request_id", result.request_id),
            ("llmpipe.usage.estimated", usage.source == "estimated"),
        ):
            if value:
                said[key] = value
        if isinstance(result, Completion) and result.finish_reason is not None:
            said["gen_ai.response.finish_reasons"] = (result.finish_reason,)
        if call.request.stream:
            said["gen_ai.response.time_to_first_chunk"] = outcome.committed_at - call.started_at
        charges = [attempt.charge for attempt in attempts]
        if charges and None not in charges:
            said["llmpipe.cost.usd"] = (
                sum(charge.total_nano for charge in charges if charge is not None) / 1e9
            )
        return said

    def _failed(self, span: Span, error: Exception) -> None:
        kind = error.type if isinstance(error, LLMError) else type(error).__name__
        span.set_attribute("error.type", kind)
        text = error.message if isinstance(error, LLMError) else str(error)
        if isinstance(error, LLMError):
            span.set_attribute("llmpipe.error.retryable", error.retryable)
            span.set_attribute("llmpipe.error.status", error.status)
        span.set_status(self._otel.api.StatusCode.ERROR, masked(text[:2000]))

    def _attempt(self, parent: Span, attempt: Attempt, offset: float, ended_at: float) -> None:
        said: dict[str, Any] = {
            "gen_ai.provider.name": self._provider(attempt.provider),
            "gen_ai.request.model": attempt.asked_model,
            "llmpipe.attempt.number": attempt.number,
            "llmpipe.attempt.status": attempt.status,
        }
        # Not under gen_ai.usage: a backend would count the tokens of the call twice.
        if (usage := attempt.usage) is not None:
            said["llmpipe.attempt.input_tokens"] = usage.input_tokens
            said["llmpipe.attempt.output_tokens"] = usage.output_tokens
        if attempt.charge is not None:
            said["llmpipe.attempt.cost.usd"] = attempt.charge.total_nano / 1e9
        otel = self._otel
        span = otel.tracer.start_span(
            f"attempt {attempt.number}",
            context=otel.api.set_span_in_context(parent),
            kind=otel.api.SpanKind.INTERNAL,
            attributes=said,
            start_time=_nanoseconds(offset + attempt.started_at),
        )
        if attempt.committed_at is not None:
            span.add_event("first_content", None, _nanoseconds(offset + attempt.committed_at))
        if attempt.status == "error" and isinstance(attempt.error, Exception):
            self._failed(span, attempt.error)
        span.end(_nanoseconds(offset + (ended_at if attempt.ended_at is None else attempt.ended_at)))

    def _content(self, span: Span, call: Call, outcome: Outcome | None) -> None:
        if isinstance(call.request, Request):
            asked = [self._message(message) for message in call.request.messages]
            span.set_attribute("gen_ai.input.messages", json_line(asked))
        result: Result | None = None if outcome is None else outcome.completion
        if isinstance(result, Completion):
            answer = {**self._message(result.message), "finish_reason": result.finish_reason or "error"}
            span.set_attribute("gen_ai.output.messages", json_line([answer]))

    def _message(self, message: Message) -> dict[str, Any]:
        return {"role": message.role, "parts": [self._part(part) for part in message.parts]}

    def _part(self, part: Part) -> dict[str, Any]:
        """A part by the conventions' JSON schema of messages; pictures and files by their kind only."""
        if isinstance(part, Text):
            return {"type": "text", "content": self._clip(part.text)}
        if isinstance(part, Reasoning):
            return {"type": "reasoning", "content": self._clip(part.text)}
        if isinstance(part, ToolCall):
            return {
                "type": "tool_call",
                "id": part.id,
                "name": part.name,
                "arguments": self._clip(part.arguments),
            }
        if isinstance(part, ToolResult):
            return {"type": "tool_call_response", "id": part.id, "response": self._clip(part.text)}
        return {"type": type(part).__name__.lower()}

    def _clip(self, text: str) -> str:
        limit = self.max_content_chars
        cut = masked(text[: limit + 4096])  # the surplus, so that nothing is cut in half and missed
        return cut if len(cut) <= limit else cut[:limit] + "…"


class _Otel:
    """OpenTelemetry's API, imported when a `Trace` is made."""

    def __init__(self, provider: TracerProvider | None) -> None:
        try:
            self.api: Any = import_module("opentelemetry.trace")
            self.context: Any = import_module("opentelemetry.context")
        except ImportError:
            raise ConfigError('tracing needs OpenTelemetry: pip install "llmpipe[otel]"') from None
        self.tracer: Any = self.api.get_tracer("llmpipe", tracer_provider=provider)


def _name(call: Call) -> str:
    model = call.target_key[2]
    operation = operation_of(call.request)
    return f"{operation} {model}" if model else operation


@lru_cache(maxsize=256)
def _server(endpoint: str) -> Mapping[str, Any]:
    """``server.address`` and ``server.port`` of an endpoint: a URL or a host."""
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port or _PORTS.get(parts.scheme, 443)}


def _nanoseconds(wall: float) -> int:
    return int(wall * 1e9)


def _plain(value: Any) -> Any:
    """`value` as an attribute may be: a string, number or bool, or a list of strings."""
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return str(value)
