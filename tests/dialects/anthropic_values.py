"""Requests and replies that Anthropic's wire can say, in the form in which it says them back."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import strategies as st

from llmpipe.dialects import StreamDecoder
from llmpipe.types import (
    Completion,
    Document,
    Event,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.dialects.strategies import base64, json_objects, maybe, names, usages

DIALECT = "anthropic.messages"

any_text = st.text(max_size=12)
visible = any_text.map(lambda text: f"{text}x")
cache = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])


def _arguments(value: dict[str, Any]) -> str:
    return orjson.dumps(value).decode()


texts = st.builds(Text, visible, cache)
images = st.one_of(
    st.builds(lambda url, extra: Image(f"https://{url}", extra=extra), names, cache),
    st.builds(lambda data, extra: Image(data=data, media_type="image/png", extra=extra), base64, cache),
    names.map(lambda name: Image(extra={"source": {"type": "file", "file_id": name}})),
)
documents = st.one_of(
    st.builds(lambda url, name: Document(f"https://{url}", name=name), names, maybe(names)),
    st.builds(lambda data: Document(data=data, media_type="application/pdf"), base64),
    st.builds(lambda text: Document(text=text, extra={"citations": {"enabled": True}}), any_text),
    st.builds(lambda name, extra: Document(file_id=name, extra=extra), names, cache),
    visible.map(lambda text: Document(extra={"source": {"type": "content", "content": text}})),
)
tool_calls = st.builds(ToolCall, names, names, json_objects.map(_arguments), cache)
signed = st.builds(Reasoning, any_text, names)
encrypted = st.builds(lambda data: Reasoning("", None, data), names)
server_tools = st.one_of(
    st.builds(
        lambda name, given: Opaque(
            DIALECT, {"type": "server_tool_use", "id": name, "name": "x", "input": given}
        ),
        names,
        json_objects,
    ),
    st.builds(
        lambda name, found: Opaque(
            DIALECT, {"type": "web_search_tool_result", "tool_use_id": name, "content": [{"url": found}]}
        ),
        names,
        names,
    ),
)
uploads = names.map(lambda name: Opaque(DIALECT, {"type": "container_upload", "file_id": name}))


def _some(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Part]]:
    return st.lists(st.one_of(*kinds), min_size=1, max_size=3)


_RESULT_CONTENT = st.just([]) | _some(texts, images, documents)
messages = st.one_of(
    st.builds(Message, st.just("user"), _some(texts, images, documents, uploads)),
    st.builds(Message, st.just("assistant"), _some(texts, tool_calls, signed, encrypted, server_tools)),
    st.builds(
        Message, st.just("tool"), st.builds(ToolResult, names, _RESULT_CONTENT, st.booleans(), extra=cache)
    ),
)
later_system = st.builds(Message, st.just("system"), _some(texts))
conversations = st.builds(
    lambda system, first, rest: (*system, first, *rest),
    st.lists(st.builds(Message, st.just("system"), _some(texts)), max_size=1),
    messages,
    st.lists(messages | later_system, max_size=4),
)

schemas = json_objects.map(lambda more: {"type": "object", "properties": {}, "x": more})
tools = st.one_of(
    st.builds(Tool, names, st.just("") | visible, schemas, maybe(st.booleans()), cache),
    names.map(lambda name: Tool(name, extra={"type": "web_search_20250305", "max_uses": 3})),
    names.map(lambda name: Tool("", extra={"type": "mcp_toolset", "mcp_server_name": name})),
)
choices = st.one_of(
    st.just((None, None)),
    st.just(("none", None)),
    st.tuples(st.sampled_from(["auto", "required"]) | st.builds(NamedTool, names), maybe(st.booleans())),
)
_EFFORTS = st.sampled_from(["low", "medium", "high", "xhigh", "max"])
reasoning = st.one_of(
    st.none(),
    st.builds(ReasoningOptions, _EFFORTS),
    st.builds(ReasoningOptions, maybe(_EFFORTS), st.integers(1024, 10_000)),
    st.builds(lambda on, effort: ReasoningOptions(effort, enabled=on), st.booleans(), maybe(_EFFORTS)),
    st.just(ReasoningOptions(enabled=True, extra={"display": "omitted"})),
)
formats = st.none() | schemas.map(lambda schema: ResponseFormat("json_schema", schema))
request_extra = st.fixed_dictionaries(
    {},
    optional={
        "top_k": st.integers(0, 100),
        "service_tier": st.just("auto"),
        "container": names,
        "context_management": st.just({"edits": [{"type": "clear_tool_uses_20250919"}]}),
        "mcp_servers": st.just([{"type": "url", "url": "https://mcp", "name": "m"}]),
        "cache_control": st.just({"type": "ephemeral", "ttl": "1h"}),
        "output_config": st.just({"task_budget": {"type": "tokens", "total": 20_000}}),
    },
)
requests = st.builds(
    lambda choice, **fields: Request(tool_choice=choice[0], parallel_tool_calls=choice[1], **fields),
    choices,
    model=st.just("") | names,
    messages=conversations,
    tools=st.lists(tools, max_size=2),
    temperature=maybe(st.floats(0, 1)),
    top_p=maybe(st.floats(0, 1)),
    max_tokens=st.integers(0, 100_000),
    stop=st.lists(visible, max_size=2),
    response_format=formats,
    reasoning=reasoning,
    stream=st.booleans(),
    metadata=st.just({}) | names.map(lambda user: {"user_id": user}),
    extra=request_extra,
)

citations = names.map(lambda text: {"type": "char_location", "cited_text": text, "document_index": 0})
cited = st.builds(
    Text, any_text, st.lists(citations, min_size=1, max_size=2).map(lambda all_: {"citations": all_})
)
called = st.builds(
    ToolCall,
    names,
    names,
    json_objects.map(_arguments) | st.sampled_from(['{"a": ', "[1]", "nonsense"]),
    st.sampled_from([{}, {"caller": {"type": "direct"}}]),
)
reply_parts = st.one_of(
    st.builds(Text, any_text), cited, called, signed, encrypted, server_tools, st.builds(Reasoning, any_text)
)
endings: st.SearchStrategy[tuple[Any, dict[str, Any]]] = st.sampled_from(
    [
        ("stop", {}),
        ("stop", {"stop_reason": "stop_sequence", "stop_sequence": "END"}),
        ("stop", {"stop_reason": "pause_turn"}),
        ("stop", {"stop_reason": "a_reason_of_tomorrow"}),
        ("length", {}),
        ("length", {"stop_reason": "model_context_window_exceeded"}),
        ("tool_calls", {}),
        ("refusal", {"stop_details": {"type": "refusal", "category": "cyber"}}),
    ]
)
usage_extra = st.sampled_from(
    [{}, {"service_tier": "standard"}, {"cache_creation": {"ephemeral_1h_input_tokens": 7}}]
)
reply_extra = st.fixed_dictionaries(
    {},
    optional={
        "container": st.just({"id": "container_1", "expires_at": "2026-01-01T00:00:00Z"}),
        "context_management": st.just({"applied_edits": []}),
        "a_field_of_tomorrow": json_objects,
    },
)
completions = st.builds(
    lambda name, model, parts, ending, usage, extra: Completion(
        id=name,
        model=model,
        message=Message("assistant", parts),
        finish_reason=ending[0],
        usage=usage,
        extra={**ending[1], **extra},
    ),
    names,
    names,
    st.lists(reply_parts, max_size=4),
    endings,
    usages(extra=usage_extra),
    reply_extra,
)


def decode_all(decoder: StreamDecoder, pieces: Iterable[bytes]) -> list[Event]:
    """All events of a stream that comes in these pieces."""
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.close()


def split_at(data: bytes, positions: Iterable[int]) -> list[bytes]:
    """`data` cut at the positions."""
    cuts = [0, *sorted(positions), len(data)]
    return [data[start:end] for start, end in pairwise(cuts)]
