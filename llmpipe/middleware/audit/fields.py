"""The body of a record: what the log tells of a call, less what the record says by itself.

Two bodies are made for every call, so there is a short way for what nearly all are: a begin, and the end of
a call that one attempt at most has answered (2 µs each against 4, measured). All else is told by
`llmpipe.middleware.log.fields`, and the two agree (`tests/middleware/audit/test_fields.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from llmpipe.middleware.log.fields import ended_fields, operation_of, request_fields
from llmpipe.middleware.masked_names import masked_name, scrubbed_name
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.outcome import Outcome
from llmpipe.secret import scrub
from llmpipe.types import EmbeddingRequest, Request

__all__ = ("begin_body", "end_body", "identity_of")

_SAID_BY_THE_RECORD = ("event", "call_id", "tenant", "user")
_MAX_TAGS = 100


def identity_of(call: Call) -> dict[str, Any]:
    """What both bodies of a call begin with, as long as its target is the one that it was begun with."""
    provider, _, model = call.target_key
    return _identity(call, provider, model)


def begin_body(call: Call, identity: Mapping[str, Any], body_chars: int) -> dict[str, Any]:
    """The body of a begin; with what was asked, where `body_chars` is above 0."""
    if body_chars:
        return _less(request_fields(call, body_chars))
    request, body = call.request, {**identity}
    if isinstance(request, Request):
        _tell_parameters(body, request)
        body["messages"] = len(request.messages)
        if request.tools:
            body["tools"] = len(request.tools)
    elif isinstance(request, EmbeddingRequest):
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
    elif request.top_n is not None:
        body["top_n"] = request.top_n
    body["estimated_input_tokens"] = call.ledger.estimated_tokens(request)
    return body


def end_body(
    call: Call,
    identity: Mapping[str, Any] | None,
    outcome: Outcome | None,
    error: BaseException | None,
    body_chars: int,
) -> dict[str, Any]:
    """The body of an end; with what was asked and answered, where `body_chars` is above 0.

    Args: identity is what its begin said; None if there was none.
    """
    ledger = call.ledger
    attempts = ledger.attempts
    last = attempts[-1] if attempts else None
    unusual = error is not None or body_chars or ledger.notes or len(attempts) > 1
    if outcome is None or unusual or (last is not None and last.status != "ok"):
        return _less(ended_fields(call, outcome, error, body_chars))
    end = outcome if last is None or last.outcome is None else last.outcome  # whose events are folded already
    result, usage = end.completion, end.usage
    told = result if last is None else last
    provider, model = told.provider, told.model
    if identity is not None and identity["provider"] == provider and identity["model"] == model:
        begun = identity
    else:
        begun = _identity(call, provider, model)
    started_at = call.started_at
    body: dict[str, Any] = {
        **begun,
        "outcome": outcome.status,
        # Microseconds, as `round(seconds, 6)` tells them, which takes six times as long.
        "first_content": round((outcome.committed_at - started_at) * 1e6) / 1e6,
        "duration": round((outcome.ended_at - started_at) * 1e6) / 1e6,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if cached := usage.cached_input_tokens:
        body["cached_input_tokens"] = cached
    if written := usage.cache_write_tokens:
        body["cache_write_tokens"] = written
    if reasoning := usage.reasoning_tokens:
        body["reasoning_tokens"] = reasoning
    if usage.source == "estimated":
        body["usage_estimated"] = True
    if result.finish_reason is not None:
        body["finish_reason"] = result.finish_reason
    if result.request_id:
        body["request_id"] = result.request_id
    if (charge := told.charge) is not None:
        body["cost_usd"] = charge.total_nano / 1e9
        if charge.estimated:
            body["cost_estimated"] = True
    body["attempts"] = len(attempts)
    return body


def _identity(call: Call, provider: str, model: str) -> dict[str, Any]:
    request, tags = call.request, call.tags
    told = tags.get("correlation_id") if tags else None
    body: dict[str, Any] = {
        "correlation_id": scrub(str(told)) if told else call.id,
        "operation": operation_of(request),
        "stream": request.stream,
        "provider": provider,
        "model": model,
    }
    if request.model and request.model != model:
        body["asked_model"] = request.model
    if tags:
        _tell_tags(body, tags)
    return body


def _tell_tags(body: dict[str, Any], tags: Mapping[str, str]) -> None:
    body["tags"] = {
        scrubbed_name(str(key)): masked_name(str(value)) for key, value in islice(tags.items(), _MAX_TAGS)
    }
    if len(tags) > _MAX_TAGS:
        body["tags_left_out"] = len(tags) - _MAX_TAGS


def _tell_parameters(body: dict[str, Any], request: Request) -> None:
    """Those that are set; no loop over their names, which takes three times as long."""
    if (temperature := request.temperature) is not None:
        body["temperature"] = temperature
    if (top_p := request.top_p) is not None:
        body["top_p"] = top_p
    if (max_tokens := request.max_tokens) is not None:
        body["max_tokens"] = max_tokens
    if (seed := request.seed) is not None:
        body["seed"] = seed
    if (frequency_penalty := request.frequency_penalty) is not None:
        body["frequency_penalty"] = frequency_penalty
    if (presence_penalty := request.presence_penalty) is not None:
        body["presence_penalty"] = presence_penalty


def _less(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of the log, less what the record itself says, and with so many tags as may be."""
    for said in _SAID_BY_THE_RECORD:
        fields.pop(said, None)
    tags = fields.get("tags")
    if tags is not None and len(tags) > _MAX_TAGS:
        fields["tags"], fields["tags_left_out"] = dict(islice(tags.items(), _MAX_TAGS)), len(tags) - _MAX_TAGS
    return fields
