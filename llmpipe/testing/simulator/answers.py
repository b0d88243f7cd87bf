"""What the simulator says when nothing goes wrong: made from the request, the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Embeddings,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
)

__all__ = ("Answer", "plain_answer", "vectors")

Answer = Callable[[Request], Completion]
"""From a request to what the model says; id, model and usage are filled in by the simulator."""

_TEXT = """
the quick answer to a plain question is often a short one and the long answer waits for a better
question which nobody has asked yet because the first one was good enough for today
"""
_WORDS = _TEXT.split()


def plain_answer(request: Request) -> Completion:
    """An answer that depends on the request alone.

    Tools offered and not yet used are called, all of them when parallel calls are not ruled out and
    the prompt says "both" or "all"; a JSON schema is answered with JSON of that schema; reasoning,
    where asked for, comes before the text.
    """
    seed = int.from_bytes(hashlib.blake2b(request.messages[-1].text.encode(), digest_size=8).digest(), "big")
    last = request.messages[-1]
    parts: list[Part] = []
    if request.reasoning is not None and request.reasoning.enabled is not False:
        parts.append(Reasoning("Let me think about that first.", signature=f"sig-{seed:x}"))
    if request.tools and last.role != "tool" and request.tool_choice != "none":
        parts.extend(_calls(request, seed))
        return Completion(message=Message("assistant", parts), finish_reason="tool_calls")
    text = _text(request, seed)
    return Completion(message=Message("assistant", [*parts, Text(text)]), finish_reason="stop")


def _calls(request: Request, seed: int) -> list[Part]:
    tools = list(request.tools)
    if isinstance(request.tool_choice, NamedTool):
        tools = [tool for tool in tools if tool.name == request.tool_choice.name] or tools
    words = request.messages[-1].text.lower()
    several = request.parallel_tool_calls is not False and ("both" in words or "all" in words)
    chosen = tools if several else tools[:1]
    return [ToolCall(f"call_{seed:x}_{n}", tool.name, _arguments(tool)) for n, tool in enumerate(chosen)]


def _arguments(tool: Tool) -> str:
    return orjson.dumps(_sample(tool.parameters)).decode()


def _text(request: Request, seed: int) -> str:
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.schema is not None:
        return orjson.dumps(_sample(form.schema)).decode()
    if form is not None and form.type == "json":
        return '{"answer": "yes"}'
    count = 6 + seed % 18
    if request.max_tokens is not None:
        count = max(1, min(count, request.max_tokens // 2))
    start = seed % len(_WORDS)
    return " ".join((_WORDS * 3)[start : start + count]).capitalize() + "."


def _sample(schema: Mapping[str, Any]) -> Any:
    """A value that fits the everyday part of JSON Schema: types, enums, objects, arrays."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _sample(schema[key][0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: _sample(inner) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_sample(schema.get("items", {}))]
    return {"string": "Paris", "integer": 7, "number": 7.5, "boolean": True, "null": None}.get(kind, "Paris")


def vectors(request: EmbeddingRequest, model: str) -> Embeddings:
    """Embeddings that depend on each input alone; 8 dimensions unless asked otherwise."""
    size = request.dimensions or 8
    found = []
    for item in request.inputs:
        text = item if isinstance(item, str) else " ".join(map(str, item))
        digest = hashlib.shake_128(text.encode()).digest(size)
        found.append([byte / 255 for byte in digest])
    return Embeddings(tuple(found), model)
