"""Requests and replies of any make: whatever our types can hold, sense or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from llmpipe.types import (
    Audio,
    Completion,
    Document,
    Event,
    Extra,
    Finish,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Ping,
    Reasoning,
    ReasoningDelta,
    ReasoningOptions,
    Refusal,
    RefusalDelta,
    Request,
    ResponseFormat,
    Start,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
    UsageUpdate,
)

DIALECTS = (
    "",
    "anthropic.messages",
    "bedrock.converse",
    "cohere.chat",
    "gemini.generate",
    "ollama.chat",
    "openai.chat",
    "openai.responses",
)
FINISHES = ("stop", "length", "tool_calls", "content_filter", "refusal", "error")
# Names under which some dialect keeps something, so that odd values under them are tried.
_WORDS = (
    "additionalModelRequestFields", "cache_control", "candidate", "candidateCount", "candidates", "citations",
    "content", "context", "data", "documents", "field", "fileData", "finishReason", "finish_reason", "format",
    "function", "functionCall", "functionResponse", "generationConfig", "grounding", "id", "image_url",
    "inlineData", "k", "logprobs", "message", "metadata", "modalities", "n", "new", "options", "output",
    "requestMetadata", "role", "service_tier", "source", "stopReason", "strict_tools", "systemTool", "text",
    "thinking", "thought", "thoughtSignature", "tokens", "toolConfig", "toolSpec", "toolUsePromptTokenCount",
    "tools", "top_k", "top_logprobs", "type", "usage", "user",
)  # fmt: skip
_TEXTS = st.sampled_from(("", " ", "\n", "hi", "{", "{}", "[1]", '{"a": 1}', '{"error": 1}', "\ud800", "é\0"))
odd_texts = _TEXTS | st.text(max_size=6)
odd_json: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=2),
    max_leaves=4,
)
# Half of all parts have no extra: else nothing would ever get past the oddest.
odd_extra: SearchStrategy[dict[str, Any]] = st.just({}) | st.dictionaries(
    st.sampled_from(_WORDS), odd_json, max_size=2
)
_ids = st.sampled_from(("", "a", "b", "call_1", "é x", "call_" + "0" * 24, "\ud800", "x" * 99))
_maybe = st.none() | odd_texts
_urls = st.sampled_from(
    ("", "http://[", "https://x/y.png", "gs://b/o.pdf", "s3://b/o.mp4", "data:", "data:image/png;base64,AAAA")
)
_media_types = st.none() | st.sampled_from(("", "image/png", "video/mp4", "text/x", "application/pdf", "a/b"))
_dialects = st.sampled_from(DIALECTS)


def _leaves() -> SearchStrategy[Part]:
    data = st.none() | st.sampled_from(("", "AAAA", "%%%", "\ud800"))
    return st.one_of(
        st.builds(Text, odd_texts, odd_extra),
        st.builds(Image, st.none() | _urls, data, _media_types, _maybe, odd_extra),
        st.builds(Document, st.none() | _urls, data, _maybe, _maybe, _media_types, _maybe, odd_extra),
        st.builds(Audio, odd_texts, odd_texts, odd_extra),
        st.builds(Reasoning, odd_texts, _maybe, _maybe, odd_extra, _dialects),
        st.builds(Refusal, odd_texts, odd_extra),
        st.builds(Opaque, _dialects, odd_extra),
        st.builds(ToolCall, _ids, odd_texts, odd_texts, odd_extra),
    )


def any_parts() -> SearchStrategy[Part]:
    """One part of any kind; a result may hold what no result holds."""
    results = st.builds(
        ToolResult, _ids, st.lists(_leaves(), max_size=2), st.booleans(), st.none() | odd_texts, odd_extra
    )
    return _leaves() | results


def any_messages() -> SearchStrategy[Message]:
    """A message whose parts are mostly its role's, for else every request would be refused for that."""
    leaves, roles = _leaves(), st.sampled_from(("system", "user", "assistant", "tool"))
    result = st.builds(
        ToolResult, _ids, st.lists(leaves, max_size=2), st.booleans(), st.none() | odd_texts, odd_extra
    )
    plain = st.builds(Text, odd_texts, odd_extra)
    arguments = st.sampled_from(("{}", '{"a": [1]}', ""))
    calls = st.builds(ToolCall, _ids, odd_texts, arguments, odd_extra)
    thoughts = st.builds(Reasoning, odd_texts, _maybe, _maybe, odd_extra, _dialects)
    fit = st.one_of(
        st.tuples(st.just("system"), st.lists(plain, max_size=2)),
        st.tuples(st.just("user"), st.lists(leaves, max_size=2)),
        st.tuples(st.just("assistant"), st.lists(plain | calls | thoughts, max_size=3)),
        st.tuples(st.just("tool"), st.lists(result, max_size=2)),
    )
    unfit = st.tuples(roles, st.lists(any_parts(), max_size=2))
    return st.builds(
        lambda said, name, extra, dialect: Message(said[0], said[1], name, extra, dialect),
        st.one_of(fit, fit, fit, unfit),
        _maybe,
        odd_extra,
        _dialects,
    )


@st.composite
def any_requests(draw: st.DrawFn) -> Request:
    """A request of any make; most of its fields are left alone, so that what is odd is reached."""
    counts = st.integers(-1, 2**70)
    numbers = st.floats() | st.integers(-3, 3)
    schema = st.dictionaries(
        st.sampled_from(("type", "properties", "$ref", "anyOf", "enum", "allOf")), odd_json
    )
    tools = st.builds(Tool, odd_texts, odd_texts, schema, st.none() | st.booleans(), odd_extra)
    choices: SearchStrategy[Any] = st.sampled_from(("auto", "none", "required"))
    kinds = st.sampled_from(("text", "json", "json_schema"))
    formats = st.builds(
        ResponseFormat, kinds, st.none() | schema, odd_texts, st.none() | st.booleans(), _maybe, odd_extra
    )
    efforts = _maybe | st.sampled_from(("low", "none", "max"))
    reasoning = st.builds(ReasoningOptions, efforts, st.none() | counts, st.none() | st.booleans(), odd_extra)
    fields: dict[str, SearchStrategy[Any]] = {
        "model": st.sampled_from(
            ("m", "gemini-2.5-pro", "gemini-3-flash", "us.anthropic.claude-x", "amazon.nova-2-lite-v1:0")
        ),
        "messages": st.lists(any_messages(), max_size=3),
        "tools": st.lists(tools, max_size=2),
        "tool_choice": choices | st.builds(NamedTool, odd_texts),
        "parallel_tool_calls": st.booleans(),
        "temperature": numbers,
        "top_p": numbers,
        "max_tokens": counts,
        "stop": st.lists(odd_texts, max_size=2),
        "seed": counts,
        "frequency_penalty": numbers,
        "presence_penalty": numbers,
        "response_format": formats,
        "reasoning": reasoning,
        "stream": st.booleans(),
        "metadata": odd_extra,
        "extra": odd_extra,
        "dialect": _dialects,
    }
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=5))
    return Request(**{name: draw(fields[name]) for name in sorted(chosen)})


def any_usages() -> SearchStrategy[Usage]:
    """Counts that need not agree with each other."""
    count = st.integers(0, 99)
    return st.builds(Usage, count, count, count, count, count, extra=odd_extra)


def any_completions() -> SearchStrategy[Completion]:
    """A reply of any make: parts in any order, of any kind."""
    found = st.builds(
        Completion,
        id=_ids,
        model=odd_texts,
        message=st.builds(
            Message, st.just("assistant"), st.lists(any_parts(), max_size=4), st.none(), odd_extra, _dialects
        ),
        finish_reason=st.none() | st.sampled_from(FINISHES),
        usage=st.none() | any_usages(),
        created=st.none() | st.integers(-(2**40), 2**40).map(float),
        extra=odd_extra,
    )
    return found.map(writable)


def any_events() -> SearchStrategy[list[Event]]:
    """Events in any order: a stream whose kinds are interleaved, that never begins, or ends twice."""
    index = st.integers(0, 2)
    extra = st.none() | odd_extra
    of: SearchStrategy[Any] = st.sampled_from(("reply", "message"))
    created = st.none() | st.integers(0, 2**33).map(float)
    event: SearchStrategy[Event] = st.one_of(
        st.builds(Start, _ids, odd_texts, created=created, extra=extra, dialect=_dialects),
        st.builds(TextDelta, odd_texts, index, extra),
        st.builds(ReasoningDelta, odd_texts, index, _maybe, _maybe, extra, _dialects),
        st.builds(RefusalDelta, odd_texts, index),
        st.builds(ToolDelta, index, st.none() | _ids, _maybe, odd_texts, extra),
        st.builds(Extra, extra, st.none() | any_parts(), of),
        st.builds(Finish, st.sampled_from(FINISHES), extra),
        st.builds(UsageUpdate, any_usages()),
        st.just(Ping()),
    )
    return st.lists(event, max_size=8).map(writable)


def writable(value: Any) -> Any:
    """`value` without what no JSON can hold: half of a character, an integer of more than 64 bits.

    Nothing that was read from a wire has these.
    """
    if isinstance(value, str):
        return value.replace("\ud800", "?")
    if type(value) is int:
        return value % 2**62
    if isinstance(value, Mapping):
        return {name: writable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([writable(inner) for inner in value])
    if attrs.has(type(value)):
        changed = {field.name: writable(getattr(value, field.name)) for field in attrs.fields(type(value))}
        return attrs.evolve(value, **changed)
    return value
