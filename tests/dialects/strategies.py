"""Generated requests and completions, as far as a given wire can say them.

Each dialect describes its wire once with a `Wire` and takes `requests(wire)` and
`completions(wire)` for the laws that every dialect keeps:

* ``decode_request(encode_request(r)) == r``
* ``decode_reply(encode_reply(c)) == c``
* ``fold(decoder(encoder(unfold(c)))) == c``
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from attrs import Factory, frozen
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from llmpipe.types import (
    Completion,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)

texts = st.text(max_size=20)
words = st.text(min_size=1, max_size=20)
names = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12)
base64 = st.binary(min_size=3, max_size=30).map(lambda data: b64encode(data).decode())
counts = st.integers(0, 100_000)
scalars = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), words, st.floats(-1e9, 1e9))
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
json_objects = st.dictionaries(names, json_values, max_size=4)
some_json_objects = st.dictionaries(names, json_values, min_size=1, max_size=4)


def maybe(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """None half of the time."""
    return st.none() | strategy


@st.composite
def usages(draw: st.DrawFn, *, extra: SearchStrategy[dict[str, Any]] | None = None) -> Usage:
    """Usage whose parts are subsets, as they must be."""
    inputs, outputs = draw(counts), draw(counts)
    cached = draw(st.integers(0, inputs))
    return Usage(
        input_tokens=inputs,
        output_tokens=outputs,
        cached_input_tokens=cached,
        cache_write_tokens=draw(st.integers(0, inputs - cached)),
        reasoning_tokens=draw(st.integers(0, outputs)),
        extra=draw(extra) if extra is not None else {},
    )


@frozen
class Wire:
    """What a wire can say.

    Attributes:
        user_parts: what may stand beside text in a user's message.
        result_parts: what may stand beside text in a tool's result.
        thoughts: the reasoning parts of one assistant message, in order.
        call_extra: what a tool call may carry besides.
        call_ids: ids of tool calls.
        arguments: the text of a call's arguments.
        has_names, has_refusals, has_tool_errors: whether the wire has a place for them.
        system_anywhere: whether a system message may stand after another.
        choices: tool choices.
        formats: response formats.
        options: further fields of a request.
        streams: fields of a streamed request, in place of `stream=True` alone.
        usages: usage of a reply.
        finish_reasons: of a reply.
        reply_extra: `extra` of a completion, in a full reply and in a stream alike.
        message_extra: `extra` of its message, the same.
    """

    user_parts: SearchStrategy[Part]
    result_parts: SearchStrategy[Part]
    thoughts: SearchStrategy[list[Reasoning]] = Factory(lambda: st.just([]))
    call_extra: SearchStrategy[dict[str, Any]] = Factory(lambda: st.just({}))
    call_ids: SearchStrategy[str] = words
    arguments: SearchStrategy[str] = texts
    has_names: bool = False
    has_refusals: bool = False
    has_tool_errors: bool = False
    system_anywhere: bool = True
    choices: SearchStrategy[Any] = Factory(
        lambda: st.none() | st.sampled_from(("auto", "none", "required")) | st.builds(NamedTool, names)
    )
    formats: SearchStrategy[ResponseFormat | None] = Factory(lambda: st.none())
    options: Mapping[str, SearchStrategy[Any]] = Factory(dict)
    streams: SearchStrategy[dict[str, Any]] = Factory(lambda: st.just({"stream": True}))
    usages: SearchStrategy[Usage | None] = Factory(lambda: usages())
    finish_reasons: SearchStrategy[Any] = Factory(lambda: st.sampled_from(("stop", "length", "tool_calls")))
    reply_extra: SearchStrategy[dict[str, Any]] = Factory(lambda: st.just({}))
    message_extra: SearchStrategy[dict[str, Any]] = Factory(lambda: st.just({}))


def tools() -> SearchStrategy[Tool]:
    """Functions."""
    return st.builds(Tool, names, texts, some_json_objects)


def tool_calls(wire: Wire) -> SearchStrategy[list[ToolCall]]:
    """Calls with distinct ids."""
    call = st.builds(ToolCall, wire.call_ids, names, wire.arguments, wire.call_extra)
    return st.lists(call, max_size=3, unique_by=lambda call: call.id)


@st.composite
def assistant_parts(draw: st.DrawFn, wire: Wire, *, max_texts: int) -> list[Part]:
    """Reasoning, text, refusal and calls, in this order."""
    parts: list[Part] = [*draw(wire.thoughts)]
    parts += draw(st.lists(st.builds(Text, words), max_size=max_texts))
    if wire.has_refusals and draw(st.booleans()):
        parts.append(Refusal(draw(words)))
    return parts + draw(tool_calls(wire))


@st.composite
def messages(draw: st.DrawFn, wire: Wire) -> list[Message]:
    """A conversation. It need not make sense, as no dialect judges that."""
    name = maybe(words) if wire.has_names else st.none()
    result = st.builds(
        ToolResult,
        wire.call_ids,
        st.lists(st.builds(Text, words) | wire.result_parts, min_size=1, max_size=2),
        st.booleans() if wire.has_tool_errors else st.just(False),
        name=name,
    )
    user = st.builds(
        Message,
        st.just("user"),
        st.lists(st.builds(Text, texts) | wire.user_parts, min_size=1, max_size=3),
        name,
    )
    kinds = [
        user,
        st.builds(Message, st.just("assistant"), assistant_parts(wire, max_texts=2), name),
        st.builds(Message, st.just("tool"), st.tuples(result)),
    ]
    system = st.builds(
        Message, st.just("system"), st.lists(st.builds(Text, words), min_size=1, max_size=2), name
    )
    if wire.system_anywhere:
        kinds.append(system)
    found = draw(st.lists(st.one_of(kinds), min_size=1, max_size=4))
    if not wire.system_anywhere and draw(st.booleans()):
        return [draw(system), *found]
    return found


@st.composite
def requests(draw: st.DrawFn, wire: Wire) -> Request:
    """A request the wire can say."""
    fields = {name: draw(strategy) for name, strategy in wire.options.items()}
    if draw(st.booleans()):
        fields.update(draw(wire.streams))
    return Request(
        model=draw(words),
        messages=draw(messages(wire)),
        tools=draw(st.lists(tools(), max_size=2)),
        tool_choice=draw(wire.choices),
        response_format=draw(wire.formats),
        **fields,
    )


@st.composite
def completions(draw: st.DrawFn, wire: Wire) -> Completion:
    """A reply the wire can say, full and streamed alike."""
    return Completion(
        id=draw(words),
        model=draw(words),
        message=Message(
            "assistant", draw(assistant_parts(wire, max_texts=1)), extra=draw(wire.message_extra)
        ),
        finish_reason=draw(wire.finish_reasons),
        usage=draw(wire.usages),
        created=draw(maybe(st.integers(1, 4_000_000_000).map(float))),
        extra=draw(wire.reply_extra),
    )


def cuts(data: bytes) -> SearchStrategy[list[bytes]]:
    """`data` in pieces, some of them empty or a single byte."""
    positions = st.lists(st.integers(0, len(data)), max_size=12).map(sorted)
    return positions.map(
        lambda found: [data[a:b] for a, b in zip([0, *found], [*found, len(data)], strict=True)]
    )
