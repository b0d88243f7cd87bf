"""What two calls must have in common to be the same call: the key of the cache and of single flight.

The key is a digest of a JSON array that says everything which decides the answer: tenant, provider,
endpoint, model, the declared tags, and every field of the request except whether it is streamed.
JSON arrays of fixed shape cannot be confused with one another however their strings are cut, mappings
are sorted, and equal requests give equal keys (``0`` and ``0.0`` are one temperature). Values
passed through in `extra`, `metadata` and schemas count as the JSON that goes to the wire; whose words
they are in counts with them, and not without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import orjson

from llmpipe.pipeline.call import Call
from llmpipe.types import (
    AnyRequest,
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("SERVER_STATE", "deterministic", "key_of", "uses_server_state")

SERVER_STATE = (
    "previous_response_id",  # OpenAI Responses
    "conversation",
    "store",
    "background",
    "conversation_id",
    "thread_id",
    "session_id",
    "previous_interaction_id",  # Gemini Interactions
    "container",  # Anthropic code execution
)
"""Names in `request.extra` that tie a request to what a server remembers, or make it remember."""


def uses_server_state(request: AnyRequest, names: Sequence[str] = SERVER_STATE) -> bool:
    """Whether the answer depends on, or changes, what a server remembers; None and False do not."""
    extra = request.extra
    return bool(extra) and any(extra.get(name) not in (None, False) for name in names)


def deterministic(request: AnyRequest) -> bool:
    """Whether asking twice is meant to give the same: temperature 0, a seed, or no sampling at all."""
    return not isinstance(request, Request) or request.temperature == 0 or request.seed is not None


def key_of(call: Call, version: str = "", vary: Sequence[str] = ()) -> bytes | None:
    """The 32 bytes that name what `call` asks, for whom and of whom.

    Args: version is a salt of the caller's; vary names tags whose values count.
    Returns: None for a request that has no JSON, which nobody could send either.
    """
    tags = call.tags
    about = [
        version,
        call.tenant,
        *call.target_key,  # the model is the resolved one
        [tags.get(name) for name in vary] if vary else 0,
        sorted(call.without) if call.without else 0,
    ]
    try:
        data = orjson.dumps([about, _request(call.request)], _plain, orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError):  # orjson's JSONEncodeError is a TypeError
        return None
    return blake2b(data, digest_size=32).digest()


def _request(request: AnyRequest) -> list[Any]:
    if isinstance(request, Request):
        return [
            "chat",
            [_message(message) for message in request.messages],
            _number(request.temperature),
            request.max_tokens,
            request.seed,
            request.stop,
            _set(request) if _has_settings(request) else 0,
        ]
    words = _words(request)
    if isinstance(request, EmbeddingRequest):
        return ["embed", request.inputs, request.dimensions, request.input_type, *words]
    return ["rerank", request.query, request.documents, request.top_n, *words]


def _words(request: AnyRequest) -> list[Any]:
    """What is passed through, and in whose words."""
    extra, metadata = request.extra, request.metadata
    told = request.dialect if extra or metadata or (isinstance(request, Request) and _extras(request)) else ""
    return [metadata, extra, told]


def _extras(request: Request) -> bool:
    """Whether a tool or an option passes something through."""
    options = (*request.tools, request.response_format, request.reasoning)
    return any(option is not None and option.extra for option in options)


def _has_settings(request: Request) -> bool:
    """Whether there is any of what `_set` says; most requests have none of it."""
    return (
        request.top_p is not None
        or request.tool_choice is not None
        or request.parallel_tool_calls is not None
        or request.frequency_penalty is not None
        or request.presence_penalty is not None
        or request.response_format is not None
        or request.reasoning is not None
        or bool(request.tools or request.metadata or request.extra)
    )


def _set(request: Request) -> list[Any]:
    return [
        _number(request.top_p),
        [[t.name, t.description, t.parameters, t.strict, t.extra] for t in request.tools],
        _choice(request.tool_choice),
        request.parallel_tool_calls,
        _number(request.frequency_penalty),
        _number(request.presence_penalty),
        _fields(request.response_format),
        _fields(request.reasoning),
        *_words(request),
    ]


def _message(message: Message) -> list[Any]:
    parts = message.parts
    if len(parts) == 1 and message.name is None and not message.extra:  # nearly all of them
        only = parts[0]
        if type(only) is Text and not only.extra:
            return [message.role, only.text]
    told = message.dialect if message.extra or any(map(_passes, parts)) else ""
    return [message.role, message.name, message.extra, [_part(part) for part in parts], told]


def _passes(part: Part) -> bool:
    """Whether a part, or one within it, passes something through."""
    if isinstance(part, ToolResult) and any(map(_passes, part.content)):
        return True
    return not isinstance(part, Opaque) and bool(part.extra)


# One tag and one fixed list of fields for each kind of part.
_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    Text: lambda p: ["text", p.text, p.extra],
    Image: lambda p: ["image", p.url, p.data, p.media_type, p.detail, p.extra],
    Document: lambda p: ["document", p.url, p.data, p.text, p.file_id, p.media_type, p.name, p.extra],
    Audio: lambda p: ["audio", p.data, p.format, p.extra],
    Reasoning: lambda p: ["reasoning", p.text, p.signature, p.encrypted, p.extra, _origin(p)],
    ToolCall: lambda p: ["call", p.id, p.name, p.arguments, p.extra],
    ToolResult: lambda p: ["result", p.id, [_part(c) for c in p.content], p.is_error, p.name, p.extra],
    Refusal: lambda p: ["refusal", p.text, p.extra],
    Opaque: lambda p: ["opaque", p.dialect, p.data],
}


def _part(part: Part) -> list[Any]:
    return _PARTS[type(part)](part)


def _origin(part: Reasoning) -> str:
    """Whose the proof is: it goes to nobody else."""
    return "" if part.signature is None and part.encrypted is None else part.origin


def _choice(choice: str | NamedTool | None) -> Any:
    return [choice.name] if isinstance(choice, NamedTool) else choice


def _fields(value: Any) -> list[Any] | None:
    """The fields of a small attrs value, in their order."""
    return None if value is None else [getattr(value, name) for name in value.__slots__ if name[0] != "_"]


def _number(value: float | None) -> Any:
    """One spelling for equal numbers. JSON has no infinities; as null they would look like None."""
    if value is None or -1e300 < value < 1e300:
        return None if value is None else value + 0.0  # an int becomes a float, -0.0 becomes 0.0
    return repr(float(value))


def _plain(value: Any) -> Any:
    """Mappings and sequences that orjson does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
