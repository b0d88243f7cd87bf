"""A call in the words of OpenTelemetry's semantic conventions for generative AI.

Pure functions from a call, an outcome or an attempt to the attributes of a span. The names are those
of "Semantic conventions for generative client AI spans" (status Development, repository
open-telemetry/semantic-conventions-genai, November 2026). What they have no word for is under
``llmpipe.``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from llmpipe.errors import LLMError
from llmpipe.middleware.log.fields import clipped, operation_of, shown
from llmpipe.middleware.log.jsonlog import json_line
from llmpipe.middleware.masked_names import masked_name, scrubbed_name
from llmpipe.middleware.metrics.error_types import error_type_of
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.outcome import Outcome
from llmpipe.secret import scrub
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

__all__ = (
    "answered",
    "asked",
    "attempted",
    "content",
    "failed",
    "provider_name",
    "server_of",
    "span_name",
)

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
_MAX_ERROR_CHARS = 2000
_PORTS = {"http": 80, "https": 443}

Attributes = dict[str, Any]


def span_name(call: Call) -> str:
    """``chat gpt-4o``: the operation and the model."""
    model = shown(call.target_key[2])
    operation = operation_of(call.request)
    return f"{operation} {model}" if model else operation


def provider_name(name: str, own: Mapping[str, str]) -> str:
    """The conventions' name of the provider we call `name`; `own` goes first."""
    return own.get(name) or _WELL_KNOWN.get(name) or shown(name)


def asked(call: Call, own: Mapping[str, str]) -> Attributes:
    """What is known of a call when it begins; samplers may decide by it."""
    request = call.request
    provider, endpoint, model = call.target_key
    said: Attributes = {
        "gen_ai.operation.name": operation_of(request),
        "gen_ai.provider.name": provider_name(provider, own),
        "gen_ai.request.model": shown(model),
        **server_of(endpoint),
        "llmpipe.call.id": call.id,
    }
    if request.stream:
        said["gen_ai.request.stream"] = True
    if isinstance(request, Request):
        for name, key in _PARAMETERS.items():
            if (value := getattr(request, name)) is not None:
                said[key] = value
        if request.stop:
            said["gen_ai.request.stop_sequences"] = [masked_name(stop) for stop in request.stop]
        if isinstance(top_k := request.extra.get("top_k"), (int, float)):
            said["gen_ai.request.top_k"] = float(top_k)
        if request.response_format is not None:
            said["gen_ai.output.type"] = "text" if request.response_format.type == "text" else "json"
    elif isinstance(request, EmbeddingRequest) and request.dimensions is not None:
        said["gen_ai.embeddings.dimension.count"] = request.dimensions
    if call.tenant:
        said["llmpipe.tenant"] = masked_name(call.tenant)
    for name, value in call.tags.items():
        said[f"llmpipe.tag.{scrubbed_name(str(name))}"] = masked_name(str(value))
    return said


def answered(call: Call, outcome: Outcome) -> Attributes:
    """What the reply adds: who answered, why it stopped, what it used and what that costs."""
    attempts = call.ledger.attempts
    end = (attempts[-1].outcome if attempts else None) or outcome  # its events are folded already
    result, usage = end.completion, end.usage
    said: Attributes = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    optional = {
        "gen_ai.response.id": scrub(result.id),
        "gen_ai.response.model": shown(result.model),
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "llmpipe.request_id": scrub(result.request_id or ""),
        "llmpipe.usage.estimated": usage.source == "estimated",
    }
    said.update({key: value for key, value in optional.items() if value})
    if isinstance(result, Completion) and result.finish_reason is not None:
        said["gen_ai.response.finish_reasons"] = (result.finish_reason,)
    if call.request.stream:
        said["gen_ai.response.time_to_first_chunk"] = outcome.committed_at - call.started_at
    charges = [attempt.charge for attempt in attempts]
    known = [charge.total_nano for charge in charges if charge is not None]
    if known and len(known) == len(charges):
        said["llmpipe.cost.usd"] = sum(known) / 1e9
    return said


def attempted(attempt: Attempt, own: Mapping[str, str]) -> Attributes:
    """What is said of one attempt. Its tokens are not under gen_ai.usage: they would be counted twice."""
    said: Attributes = {
        "gen_ai.provider.name": provider_name(attempt.provider, own),
        "gen_ai.request.model": shown(attempt.asked_model),
        "llmpipe.attempt.number": attempt.number,
        "llmpipe.attempt.status": attempt.status,
    }
    if (usage := attempt.usage) is not None:
        said["llmpipe.attempt.input_tokens"] = usage.input_tokens
        said["llmpipe.attempt.output_tokens"] = usage.output_tokens
    if attempt.charge is not None:
        said["llmpipe.attempt.cost.usd"] = attempt.charge.total_nano / 1e9
    return said


def failed(error: Exception) -> tuple[Attributes, str]:
    """The attributes of a failure, and the description of the span's status."""
    if not isinstance(error, LLMError):
        kind = {"error.type": type(error).__name__, "llmpipe.error_type": error_type_of(error)}
        return kind, clipped(str(error), _MAX_ERROR_CHARS)
    said = {
        "error.type": error.type,
        "llmpipe.error_type": error_type_of(error),
        "llmpipe.error.retryable": error.retryable,
        "llmpipe.error.status": error.status,
    }
    return said, clipped(error.message, _MAX_ERROR_CHARS)


def content(call: Call, outcome: Outcome | None, max_chars: int) -> Attributes:
    """What was asked and answered, masked, as JSON by the conventions' schemas of messages."""
    said: Attributes = {}

    def clip(text: str) -> str:
        return clipped(text, max_chars)

    if isinstance(call.request, Request):
        messages = [_message(message, clip) for message in call.request.messages]
        said["gen_ai.input.messages"] = json_line(messages)
    result = None if outcome is None else outcome.completion
    if isinstance(result, Completion):
        answer = {**_message(result.message, clip), "finish_reason": result.finish_reason or "error"}
        said["gen_ai.output.messages"] = json_line([answer])
    return said


def _message(message: Message, clip: Callable[[str], str]) -> dict[str, Any]:
    return {"role": message.role, "parts": [_part(part, clip) for part in message.parts]}


def _part(part: Part, clip: Callable[[str], str]) -> dict[str, Any]:
    """A part of a message; pictures and files by their kind only."""
    if isinstance(part, Text):
        return {"type": "text", "content": clip(part.text)}
    if isinstance(part, Reasoning):
        return {"type": "reasoning", "content": clip(part.text)}
    if isinstance(part, ToolCall):
        return {
            "type": "tool_call",
            "id": part.id,
            "name": clip(part.name),
            "arguments": clip(part.arguments),
        }
    if isinstance(part, ToolResult):
        return {"type": "tool_call_response", "id": part.id, "response": clip(part.text)}
    return {"type": type(part).__name__.lower()}


@lru_cache(maxsize=256)
def server_of(endpoint: str) -> Mapping[str, Any]:
    """``server.address`` and ``server.port`` of an endpoint: a URL or a host.

    A bare word, such as the ``mock`` of a provider without a network, is no address.
    """
    if endpoint != "localhost" and not {".", ":"} & set(endpoint):
        return {}
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host:
        return {}
    return {"server.address": host, "server.port": port or _PORTS.get(parts.scheme, 443)}
