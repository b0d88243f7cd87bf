"""What a log record says of a call, as plain values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from llmpipe.errors import LLMError
from llmpipe.middleware.log.jsonlog import printable
from llmpipe.middleware.redact import mask
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.secret import scrub
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    Message,
    Request,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = (
    "MAX_TAG_CHARS",
    "body_of",
    "clipped",
    "ended_fields",
    "line_of",
    "masked",
    "operation_of",
    "request_fields",
    "shown",
)

_PARAMETERS = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "dimensions",
    "top_n",
)
_USAGE = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
_ERROR = (
    "status",
    "code",
    "retryable",
    "phase",
    "sent",
    "billed",
    "retry_after",
    "provider",
    "model",
    "request_id",
)
MAX_TAG_CHARS = 1000
"""Of a tag, a tenant or a user that is told: whoever calls may make them as long as they like."""

_MAX_ERROR_CHARS = 2000
# The detectors of `mask` have bounds, for the sake of streams; what goes on behind one is of the same key.
_GOES_ON = re.compile(r"(?<=\[API_KEY\])[A-Za-z0-9._~+/=\-]{8,}")
_MASK_BEYOND = 4096  # characters past the cut that are masked too, so that nothing is cut in half and missed


def operation_of(request: AnyRequest) -> str:
    """``chat``, ``embeddings`` or ``rerank``."""
    if isinstance(request, Request):
        return "chat"
    return "embeddings" if isinstance(request, EmbeddingRequest) else "rerank"


def request_fields(call: Call, body_chars: int = 0) -> dict[str, Any]:
    """The record of a call's beginning."""
    request = call.request
    provider, _, model = call.target_key
    fields = _identity(call, "request", provider, model)
    for name in _PARAMETERS:
        if (value := getattr(request, name, None)) is not None:
            fields[name] = value
    if isinstance(request, Request):
        fields["messages"] = len(request.messages)
        if request.tools:
            fields["tools"] = len(request.tools)
    fields["estimated_input_tokens"] = call.ledger.estimated_tokens(request)
    if body_chars:
        _body(fields, "request", body_of(request), body_chars)
    return fields


def ended_fields(
    call: Call, outcome: Outcome | None, error: BaseException | None, body_chars: int = 0
) -> dict[str, Any]:
    """The record of a call's end. Without an `outcome` it ended before its reply began."""
    attempts = call.ledger.attempts
    last = attempts[-1] if attempts else None
    # The provider's outcome, where there is one: its events are folded already.
    end = (last.outcome if last is not None else None) or outcome
    result = None if end is None else end.completion
    provider, _, model = call.target_key
    if last is not None:
        provider, model = last.provider, last.model
    elif result is not None:
        provider, model = result.provider, result.model
    fields = _identity(call, "call", provider, model)
    if outcome is not None:
        ended_at = outcome.ended_at
        fields["outcome"] = outcome.status
        fields["first_content"] = round(outcome.committed_at - call.started_at, 6)
    else:
        ended_at = call.runtime.now()
        fields["outcome"] = "error" if isinstance(error, Exception) else "cancelled"
    fields["duration"] = round(ended_at - call.started_at, 6)
    if result is not None and end is not None:
        _reply(fields, result, end)
    _money(fields, attempts, result)
    fields["attempts"] = len(attempts)
    if len(attempts) > 1 or (last is not None and last.status != "ok"):
        fields["attempt_list"] = [_attempt(attempt) for attempt in attempts]
    if call.ledger.notes:
        fields["notes"] = dict(Counter(note.kind for note in call.ledger.notes))
    if isinstance(error, Exception):
        fields["error"] = _error(error)
    if body_chars:
        _body(fields, "request", body_of(call.request), body_chars)
        if outcome is not None:
            _body(fields, "response", body_of(outcome.completion), body_chars)
    return fields


def line_of(fields: dict[str, Any]) -> str:
    """The record for people, in one line."""
    error = fields.get("error")
    parts = [f"{fields['operation']} {fields['provider']}/{fields['model']}"]
    if fields["event"] == "request":
        parts.append(f"about {fields['estimated_input_tokens']} tokens in")
    else:
        parts.append(f"{fields['outcome']} after {fields['duration']:.3f} s")
        if "input_tokens" in fields:
            parts.append(f"{fields['input_tokens']} + {fields['output_tokens']} tokens")
        if "cost_usd" in fields:
            parts.append(f"{fields['cost_usd']:.6f} USD")
        if fields["attempts"] != 1:
            parts.append(f"{fields['attempts']} attempts")
    if error is not None:
        parts.append(f"{error['type']}: {error['message']}")
    return printable(f"{', '.join(parts)} [{fields['correlation_id']}]")


def body_of(what: AnyRequest | Result) -> str:
    """The text of a request or a reply, for people; what is no text stands in brackets."""
    if isinstance(what, Completion):
        return _message(what.message)
    if isinstance(what, Request):
        return "\n".join(f"{message.role}: {_message(message)}" for message in what.messages)
    if isinstance(what, EmbeddingRequest):
        return "\n".join(text if isinstance(text, str) else f"[{len(text)} tokens]" for text in what.inputs)
    vectors = getattr(what, "vectors", None)
    if vectors is not None:
        return f"[{len(vectors)} vectors]"
    return "\n".join((getattr(what, "query", ""), *getattr(what, "documents", ())))


def _message(message: Message) -> str:
    return " ".join(_parts(message))


def _parts(message: Message) -> Iterator[str]:
    for part in message.parts:
        if isinstance(part, Text):
            yield part.text
        elif isinstance(part, ToolCall):
            yield f"[calls {part.name} {part.arguments}]"
        elif isinstance(part, ToolResult):
            yield f"[result {part.text}]"
        else:
            yield f"[{type(part).__name__.lower()}]"


def _identity(call: Call, event: str, provider: str, model: str) -> dict[str, Any]:
    request, tags = call.request, call.tags
    told = tags.get("correlation_id")
    fields: dict[str, Any] = {
        "event": event,
        "correlation_id": scrub(str(told)) if told else call.id,
        "call_id": call.id,
        "operation": operation_of(request),
        "stream": request.stream,
        "provider": shown(provider),
        "model": shown(model),
    }
    if request.model and request.model != model:
        fields["asked_model"] = shown(request.model)
    if call.tenant:
        fields["tenant"] = scrub(call.tenant)
    if call.user:
        fields["user"] = clipped(call.user, MAX_TAG_CHARS)
    if tags:
        fields["tags"] = {scrub(str(key)): clipped(str(value), MAX_TAG_CHARS) for key, value in tags.items()}
    return fields


def _reply(fields: dict[str, Any], result: Result, end: Outcome) -> None:
    usage = end.usage
    for name in _USAGE:
        if (count := getattr(usage, name)) or name in ("input_tokens", "output_tokens"):
            fields[name] = count
    if usage.source == "estimated":
        fields["usage_estimated"] = True
    if result.finish_reason is not None:
        fields["finish_reason"] = result.finish_reason
    if result.request_id:
        fields["request_id"] = scrub(result.request_id)


def _money(fields: dict[str, Any], attempts: list[Attempt], result: Result | None) -> None:
    """Of all attempts together; of none, what the reply says: a hit is free."""
    charges = [attempt.charge for attempt in attempts]
    if not attempts and result is not None:
        charges = [result.charge]
    known = [charge for charge in charges if charge is not None]
    if known and len(known) == len(charges):
        fields["cost_usd"] = sum(charge.total_nano for charge in known) / 1e9
        if any(charge.estimated for charge in known):
            fields["cost_estimated"] = True


def _attempt(attempt: Attempt) -> dict[str, Any]:
    said: dict[str, Any] = {
        "provider": shown(attempt.provider),
        "model": shown(attempt.model),
        "status": attempt.status,
    }
    if attempt.ended_at is not None:
        said["seconds"] = round(attempt.ended_at - attempt.started_at, 6)
    if isinstance(attempt.error, Exception):
        said["error"] = _type_of(attempt.error)
        if isinstance(attempt.error, LLMError):
            said["error_status"] = attempt.error.status
    return said


def _error(error: Exception) -> dict[str, Any]:
    said: dict[str, Any] = {"type": _type_of(error), "class": type(error).__name__}
    if isinstance(error, LLMError):
        for name in _ERROR:
            if (value := getattr(error, name)) is not None:
                said[name] = scrub(value) if isinstance(value, str) else value
    text = error.message if isinstance(error, LLMError) else str(error)
    said["message"] = clipped(text, _MAX_ERROR_CHARS)
    return said


def _type_of(error: Exception) -> str:
    return error.type if isinstance(error, LLMError) else type(error).__name__


def _body(fields: dict[str, Any], which: str, text: str, chars: int) -> None:
    told, more = _first(text, chars)
    if more:
        fields[f"{which}_truncated"] = True
    fields[f"{which}_body"] = told


def shown(name: str) -> str:
    """The name of a provider or a model without credentials: whoever calls may say any."""
    return _known(name) if len(name) <= _SHORT else scrub(name)


# The same few names come again and again, and callers make up others: so many are remembered.
_SHORT = 200  # characters
_known = lru_cache(maxsize=1024)(scrub)


def clipped(text: str, chars: int) -> str:
    """The first `chars` characters of `text`, masked."""
    told, more = _first(text, chars)
    return told + "…" if more else told


def _first(text: str, chars: int) -> tuple[str, bool]:
    """The first `chars` characters of `text`, masked, and whether there are more."""
    told = masked(text[: chars + _MASK_BEYOND])
    if len(text) <= chars + _MASK_BEYOND:
        return told[:chars], len(told) > chars
    # What was hidden may bring the end into sight, where half a key may stand.
    return told[: max(0, min(chars, len(told) - _MASK_BEYOND))], True


def masked(text: str) -> str:
    """`text` without credentials and personal data."""
    told = mask(text)
    if told is not text:
        told = _GOES_ON.sub("", told)
    return scrub(told, max_chars=len(text) + 1000)
