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
    Ranked,
    Ranking,
    Reasoning,
    Request,
    RerankRequest,
    Text,
    Tool,
    ToolCall,
)

__all__ = ("Answer", "plain_answer", "ranking", "vectors")

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
    last = request.messages[-1]
    prompt = last.text.encode("utf-8", "surrogatepass")
    seed = int.from_bytes(hashlib.blake2b(prompt, digest_size=8).digest(), "big")
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
    return orjson.dumps(_sample(tool.parameters, tool.parameters)).decode()


def _text(request: Request, seed: int) -> str:
    form = request.response_format
    if form is not None and form.type == "json_schema" and form.schema is not None:
        return orjson.dumps(_sample(form.schema, form.schema)).decode()
    if form is not None and form.type == "json":
        return '{"answer": "yes"}'
    count = 6 + seed % 18
    if request.max_tokens is not None:
        count = max(1, min(count, request.max_tokens // 2))
    start = seed % len(_WORDS)
    return " ".join((_WORDS * 3)[start : start + count]).capitalize() + "."


def _sample(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that fits the everyday part of JSON Schema: types, enums, objects, arrays, references.

    What is not required is left out from the eighth level on, where a schema contains itself.
    """
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return _sample(_referred(schema["$ref"], root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _sample(schema[key][-1 if depth > 8 else 0], root, depth + 1)  # the last is often null
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        asked = set(schema.get("required", ())) if depth > 8 else None
        return {
            name: _sample(inner, root, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if asked is None or name in asked
        }
    if kind == "array":
        count = max(schema.get("minItems", 0), 0 if depth > 8 else 1)
        return [_sample(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return {"boolean": True, "null": None}.get(kind, "Paris")


def _referred(where: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference such as ``#/$defs/Step`` means; anything, where it leads nowhere."""
    found: Any = root
    for name in where.removeprefix("#").strip("/").split("/"):
        found = found.get(name, {}) if isinstance(found, Mapping) and name else found
    return found if isinstance(found, Mapping) else {}


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    value = 7 if whole else 7.5
    if low is not None and value < low:
        value = low
    return high if high is not None and value > high else value


def vectors(request: EmbeddingRequest, model: str) -> Embeddings:
    """Embeddings that depend on each input alone; 8 dimensions unless asked otherwise."""
    size = request.dimensions or 8
    found = []
    for item in request.inputs:
        text = item if isinstance(item, str) else " ".join(map(str, item))
        digest = hashlib.shake_128(text.encode()).digest(size)
        found.append([byte / 255 for byte in digest])
    return Embeddings(tuple(found), model)


def ranking(request: RerankRequest, model: str) -> Ranking:
    """Documents by the share of the query's words that they hold."""
    words = set(request.query.lower().split())
    scores = [len(words.intersection(text.lower().split())) / (len(words) or 1) for text in request.documents]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[: request.top_n]
    return Ranking(tuple([Ranked(place, scores[place]) for place in best]), model)
