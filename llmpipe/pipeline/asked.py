"""What a request asks of whoever answers it, in the words of `Capabilities`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmpipe.types import (
    AnyRequest,
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Part,
    Request,
    RerankRequest,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("EMULATED", "asked_of", "field_of", "in_words")

EMULATED = frozenset(("json_mode", "json_schema", "prefill", "streaming"))
"""What a target that lacks it can still answer, though not as well: by an instruction, or all at once."""

_NOTHING: frozenset[str] = frozenset()
_STREAM = frozenset(("streaming",))
_EMBEDDINGS = frozenset(("embeddings",))
_RERANK = frozenset(("rerank",))

_WORDS = {
    "streaming": "streams",
    "tools": "tools",
    "vision": "images",
    "documents": "documents",
    "audio": "audio",
    "json_mode": "JSON mode",
    "json_schema": "JSON of a schema",
    "reasoning": "reasoning",
    "prefill": "continuing an assistant message",
    "embeddings": "embeddings",
    "rerank": "reranking",
    "parallel_tools": "parallel tool calls",
    "count_tokens": "counting tokens",
    "context_tokens": "a prompt of this length",
}


def asked_of(request: AnyRequest) -> frozenset[str]:
    """The fields of `Capabilities` that `request` uses; the same empty set for every plain text request.

    Tools count where they are offered and where the conversation holds their calls or results, images
    and documents inside of results too. Hints that may be ignored, such as `parallel_tool_calls`, are
    not asked. What is in `EMULATED` is a wish rather than a need.
    """
    if not isinstance(request, Request):
        if isinstance(request, EmbeddingRequest):
            return _EMBEDDINGS
        return _RERANK
    messages = request.messages
    for message in messages:
        for part in message.parts:
            if type(part) is not Text:
                return frozenset([use[0] for use in _uses(request)])
    if (
        request.tools
        or request.response_format is not None
        or request.reasoning is not None
        or (messages and messages[-1].role == "assistant")
    ):
        return frozenset([use[0] for use in _uses(request)])
    return _STREAM if request.stream else _NOTHING


def field_of(request: AnyRequest, capability: str) -> str:
    """Where in `request` it uses `capability`: ``tools``, ``messages[2].parts[0]``; for messages to people.

    "" where it does not.
    """
    if isinstance(request, EmbeddingRequest):
        return "inputs" if capability == "embeddings" else ""
    if isinstance(request, RerankRequest):
        return "documents" if capability == "rerank" else ""
    for used, field, *places in _uses(request):
        if used == capability:
            parts = [
                f".parts[{at}]" if level == 0 else f".content[{at}]" for level, at in enumerate(places[1:])
            ]
            return f"{field}[{places[0]}]{''.join(parts)}" if places else str(field)
    return ""


def in_words(capability: str) -> str:
    """What `capability` is called in a message to people: ``vision`` is images."""
    return _WORDS.get(capability, capability.replace("_", " "))


_Use = tuple[Any, ...]
"""A capability, the field of the request that uses it, and in a list the place, and the places within."""


def _uses(request: Request) -> Iterator[_Use]:
    if request.stream:
        yield "streaming", "stream"
    if request.tools:
        yield "tools", "tools"
    form = request.response_format
    if form is not None and form.type != "text":
        yield "json_schema" if form.type == "json_schema" else "json_mode", "response_format"
    thinking = request.reasoning
    if thinking is not None and thinking.enabled is not False and thinking.effort != "none":
        yield "reasoning", "reasoning"
    for place, message in enumerate(request.messages):
        yield from _parts(message.parts, ("messages", place))
    if request.messages:
        last = request.messages[-1]
        if last.role == "assistant" and last.parts and not last.tool_calls:
            yield "prefill", "messages", len(request.messages) - 1


def _parts(parts: Iterable[Part], where: _Use) -> Iterator[_Use]:
    for place, part in enumerate(parts):
        used = _PARTS.get(type(part))
        if used is not None and not _is_text(part):
            yield used, *where, place
        if isinstance(part, ToolResult):
            yield from _parts(part.content, (*where, place))


def _is_text(part: Part) -> bool:
    """Whether it is a document of plain text, which every wire can carry as such."""
    return isinstance(part, Document) and part.text is not None


_PARTS: Mapping[type, str] = {
    Image: "vision",
    Document: "documents",
    Audio: "audio",
    ToolCall: "tools",
    ToolResult: "tools",
}
