"""What Cohere's servers send that no recording has: from its SDK's types, its docs, bug reports."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.dialects.cohere_chat.usage import decode_usage, encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.errors import (
    BadReply,
    ContextTooLong,
    LLMError,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Completion,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    fold,
)

NAME = "cohere.chat"
DIALECT = CohereChat()
PLAN = {"field": "tool_plan"}
START = {"type": "message-start", "id": "a", "delta": {"message": {"role": "assistant"}}}
END = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}


def said(kind: str, message: Any, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": kind, "index": index, "delta": {"message": message}, **more}


def content(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return said(f"content-{kind}", {"content": fields}, index)


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def streamed(*events: dict[str, Any]) -> Completion:
    """The stream's completion, whole and byte by byte: they have to be the same."""
    data, whole, pieces = sse(*events), DIALECT.decoder(), DIALECT.decoder()
    found = whole.feed(data) + whole.close()
    one_by_one = [event for at in range(len(data)) for event in pieces.feed(data[at : at + 1])]
    assert one_by_one + pieces.close() == found
    return fold(found)


def reply(finish: Any = "COMPLETE", **message: Any) -> Completion:
    return DIALECT.decode_reply(
        {"id": "a", "finish_reason": finish, "message": {"role": "assistant", **message}}, {}
    )


def call(call_id: str | None, name: str, arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


# -- events


def test_a_plan_without_tools_is_a_thought_and_the_reply_has_stopped():
    done = streamed(
        START,
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will "}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "wait."}}},
        content("start", type="text", text=""),
        content("delta", text="Hi"),
        content("end"),
        END,
    )
    assert done.message.parts == (Reasoning("I will wait.", extra=PLAN), Text("Hi"))
    assert done.finish_reason == "stop"
    assert reply(tool_plan="I will wait.", content=[{"type": "text", "text": "Hi"}]).message == done.message


def test_fields_that_are_null_are_nothing():
    done = streamed(
        {**START, "delta": None},
        said("content-start", {"content": {"type": "text", "text": None}}),
        said("content-delta", {"content": None}),
        said("content-delta", {"content": {}}),
        said("content-delta", {"content": {"text": None, "thinking": None}}),
        content("delta", text="x"),
        said("tool-plan-delta", {"tool_plan": None}),
        said("citation-start", {"citations": None}),
        {"type": "message-end", "delta": None},
    )
    assert (done.message.parts, done.finish_reason, done.usage) == ((Text("x"),), "stop", None)
    same = reply(content=[{"type": "text", "text": "x"}], tool_calls=None, tool_plan=None, citations=None)
    assert same.message.parts == (Text("x"),)
    assert reply(content=None, tool_calls=[]).message.parts == ()


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("arguments", ["", None])
def test_calls_of_one_name_are_two_and_may_have_no_arguments(as_list, arguments):
    def wire(one: dict[str, Any]) -> Any:
        return {"tool_calls": [one] if as_list else one}

    done = streamed(
        START,
        said("tool-call-start", wire(call("1", "f", arguments))),
        said("tool-call-delta", wire({"function": {"arguments": arguments}})),
        {"type": "tool-call-end", "index": 0},
        said("tool-call-start", wire(call("2", "f", arguments)), 1),
        said("tool-call-delta", wire({"function": {"arguments": '{"a":'}}), 1),
        said("tool-call-delta", wire({"function": {"arguments": "1}"}}), 1),
        {"type": "tool-call-end", "index": 1},
        {"type": "message-end", "delta": {}},
    )
    assert [(one.id, one.args) for one in done.tool_calls] == [("1", {}), ("2", {"a": 1})]
    assert done.finish_reason == "tool_calls"
    wire_again = DIALECT.encode_request(Request("m", ["x", done.message]))["messages"][1]["tool_calls"]
    assert [one["function"]["arguments"] for one in wire_again] == ["{}", '{"a":1}']


def test_citations_of_every_kind_are_the_messages():
    kinds = [
        {"start": 0, "end": 2, "text": "Hi", "type": "TEXT_CONTENT", "content_index": 1, "sources": []},
        {"start": 0, "end": 2, "text": "I ", "type": "PLAN", "sources": [{"type": "tool", "id": "t:0"}]},
        {"start": 0, "end": 2, "text": "hm", "type": "THINKING_CONTENT", "sources": [{"type": "document"}]},
    ]
    events = [
        one
        for index, kind in enumerate(kinds)
        for one in (
            said("citation-start", {"citations": kind}, index),
            {"type": "citation-end", "index": index},
        )
    ]
    done = streamed(START, content("start", type="text", text="Hi"), *events, content("end"), END)
    assert done.message.extra == {"citations": kinds}
    assert reply(content=[{"type": "text", "text": "Hi"}], citations=kinds).message.extra == {
        "citations": kinds
    }


def test_blocks_events_and_fields_of_tomorrow_are_kept_or_passed_over():
    done = streamed(
        {**START, "novel": 1},
        {"type": "debug", "prompt": "<BOS>"},
        {"type": "keep-alive"},
        content("start", 0, type="image", url="https://x"),
        content("end", 0),
        content("start", 1, type="text", text="a", later=2),
        content("end", 1),
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "odd": [3]}},
    )
    assert done.message.parts == (
        Opaque(NAME, {"type": "image", "url": "https://x"}),
        Text("a", {"later": 2}),
    )
    assert done.extra == {"novel": 1, "odd": [3]}


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("ERROR", "error"),
        ("TIMEOUT", "error"),
        ("ERROR_TOXIC", "content_filter"),
        ("NEW", "stop"),
        (None, "stop"),
    ],
)
def test_every_end_is_an_end(word, finish):
    assert streamed(START, {"type": "message-end", "delta": {"finish_reason": word}}).finish_reason == finish
    assert reply(word).finish_reason == finish


def test_every_finish_reason_and_event_of_coheres_sdk_is_known():
    types = pytest.importorskip("cohere.types")
    stream = pytest.importorskip("cohere.v2.types.v2chat_stream_response")
    from llmpipe.dialects.cohere_chat.reply import _FINISH
    from llmpipe.dialects.cohere_chat.stream import _STEPS

    words = {arg for union in types.ChatFinishReason.__args__ for arg in getattr(union, "__args__", ())}
    assert words <= set(_FINISH)
    kinds = {
        found.model_fields["type"].default
        for name, found in vars(stream).items()
        if name.endswith("V2ChatStreamResponse") and "type" in getattr(found, "model_fields", {})
    }
    assert kinds - {"content-delta", "tool-call-end", "citation-end", "debug"} == set(_STEPS)


@pytest.mark.parametrize(
    ("delta", "kind"),
    [
        ({"finish_reason": "ERROR", "error": "too many tokens: size limit exceeded"}, ContextTooLong),
        ({"finish_reason": "ERROR", "error": {"message": "internal"}}, ServiceUnavailable),
        ({"finish_reason": "TIMEOUT", "error": "timed out"}, ServiceUnavailable),
        ({"error": "model overloaded", "error_type": "rate_limited"}, RateLimited),
    ],
)
def test_an_error_at_the_end_comes_after_what_was_said_and_what_it_cost(delta, kind):
    usage = {"tokens": {"input_tokens": 3, "output_tokens": 2}}
    decoder = DIALECT.decoder()
    end = {"type": "message-end", "delta": {**delta, "usage": usage}}
    done = fold(decoder.feed(sse(START, content("start", type="text", text="Hi"), end)))
    assert (done.text, done.usage, done.finish_reason) == ("Hi", Usage(3, 2), None)
    with pytest.raises(kind):
        decoder.close()


@pytest.mark.parametrize(
    "last", [b"", b"data: [DONE]\n\n", b"event: message-end\n", b'event: message-end\ndata: {"ty']
)
def test_without_its_end_no_stream_is_a_success(last):
    decoder = DIALECT.decoder()
    decoder.feed(sse(START, content("start", type="text", text="Hi"), content("end")) + last)
    with pytest.raises(StreamBroken):
        decoder.close()


# -- usage

_counts = st.none() | st.integers(-2, 99) | st.sampled_from((1.0, 1.5, "7", 1e30, True, [], {}))
_tables = st.none() | st.dictionaries(
    st.sampled_from(("input_tokens", "output_tokens", "reasoning_tokens", "search_units", "image_tokens")),
    _counts,
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(("billed_units", "tokens", "cached_tokens", "new")), _tables | _counts)
)
def test_usage_of_any_numbers_adds_up(wire):
    usage = decode_usage(wire)
    if usage is None:
        return
    assert 0 <= usage.cached_input_tokens <= usage.input_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens
    again = decode_usage(encode_usage(usage))
    assert again is not None
    assert (again.input_tokens, again.output_tokens) == (usage.input_tokens, usage.output_tokens)


# -- errors


@pytest.mark.parametrize(
    "wire",
    [
        {"message": "no"},
        {"error": "no"},
        {"error": {"message": "no"}},
        {"message": None},
        {},
        {"message": []},
    ],
)
def test_a_success_that_is_none_is_an_error(wire):
    with pytest.raises((BadReply, LLMError)):
        DIALECT.decode_reply(wire, {})


# -- requests


def test_what_a_caller_of_cohere_may_say_comes_out_again():
    wire = {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "x"},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "tool_plan": "I will look.",
                "tool_calls": [call("1", "f", "{}"), call("2", "f", "{}")],
                "citations": [{"start": 0, "end": 1}],
            },
            {
                "role": "tool",
                "tool_call_id": "1",
                "content": [{"type": "document", "document": {"id": "d", "data": {"a": 1}}}],
            },
            {"role": "tool", "tool_call_id": "2", "content": "sunny"},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Sun"}],
            },
            {"role": "user", "content": "and?"},
        ],
        "documents": ["plain", {"id": "d", "data": {"text": "t", "title": "T"}}],
        "citation_options": {"mode": "FAST"},
        "safety_mode": "OFF",
        "thinking": {"type": "enabled", "token_budget": 9},
        "tool_choice": "REQUIRED",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "strict_tools": True,
        "logprobs": True,
        "k": 5,
        "p": 0.5,
        "priority": 3,
        "raw_prompting": False,
    }
    request = DIALECT.decode_request(wire)
    assert DIALECT.encode_request(request) == wire
    assert DIALECT.decode_request(DIALECT.encode_request(request)) == request


def test_a_failure_that_the_wire_cannot_say_is_told():
    losses = Losses()
    asked = [
        "x",
        Message("assistant", ToolCall("1", "f")),
        Message("tool", ToolResult("1", "no", is_error=True)),
    ]
    DIALECT.encode_request(Request("m", asked), losses)
    assert losses.warnings == (
        "messages[2].parts[0].is_error dropped: there is no such field; the text has to say it",
    )


def test_a_tools_own_words_that_are_no_object_are_left_alone():
    tool = Tool("f", extra={"function": [1]})
    assert DIALECT.encode_request(Request("m", "x", [tool]))["tools"][0]["function"]["name"] == "f"


@pytest.mark.parametrize("part", [Image(), Document()])
def test_an_attachment_with_nothing_in_it_is_refused_by_its_path(part):
    with pytest.raises(LLMError) as caught:
        DIALECT.encode_request(Request("m", Message("user", part)))
    assert caught.value.metadata["param"].startswith("messages[0].parts[0]")
