from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.bedrock_converse import BedrockConverse
from llmpipe.dialects.eventstream import encode
from llmpipe.errors import (
    BadReply,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Finish,
    Image,
    Opaque,
    Reasoning,
    Start,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    UsageUpdate,
    fold,
)
from tests.dialects import strategies
from tests.dialects.bedrock_values import (
    DIALECT,
    HELLO,
    NAME,
    b64,
    decode_all,
    delta,
    event,
    exception,
    folded,
)

START, STOP = event("messageStart", role="assistant"), event("messageStop", stopReason="end_turn")


def opened(index, **what):
    return event("contentBlockStart", contentBlockIndex=index, start=what)


def closed(index):
    return event("contentBlockStop", contentBlockIndex=index)


def parts(*messages):
    return folded(START, *messages, STOP).message.parts


def test_a_stream_of_text_event_by_event():
    decoder = DIALECT.decoder()
    assert [decoder.feed(message) for message in HELLO[:5]] == [
        [Start(dialect=NAME)],
        [TextDelta("Hel", 0)],
        [TextDelta("lo", 0)],
        [],
        [Finish("stop")],
    ]
    assert not decoder.finished
    usage, extra = decoder.feed(HELLO[5] + b"whatever comes behind the end")
    assert usage == UsageUpdate(Usage(3, 2))
    assert extra.data == {"metrics": {"latencyMs": 9}}
    assert decoder.feed(b"more") == decoder.close() == []
    assert [decoder.finished] == [True]


def test_the_message_says_whose_words_its_extra_is_in():
    assert folded(*HELLO).message.dialect == NAME


def test_every_cut_gives_the_same_events():
    stream = b"".join(HELLO)
    expected = decode_all(stream)
    for cut in range(len(stream)):
        assert decode_all(stream, [cut]) == expected
    assert decode_all(stream, range(len(stream))) == expected


def test_a_stream_cut_before_its_end_is_broken():
    stream, end = b"".join(HELLO), len(b"".join(HELLO[:5]))
    for cut in range(end):
        with pytest.raises(StreamBroken) as caught:
            decode_all(stream[:cut])
        assert caught.value.code == "stream_cut"
        assert caught.value.billed == "unknown"
    for cut in range(end, len(stream)):
        done = fold(decode_all(stream[:cut]))
        assert (done.text, done.finish_reason, done.usage) == ("Hello", "stop", None)


def test_a_broken_stream_stays_broken():
    decoder = DIALECT.decoder()
    decoder.feed(HELLO[0])
    for _ in range(2):
        with pytest.raises(StreamBroken):
            decoder.close()
    with pytest.raises(StreamBroken):
        decoder.feed(HELLO[1])


def test_calls_come_in_pieces():
    found = parts(
        opened(0, toolUse={"toolUseId": "a", "name": "add", "type": "tool_use"}),
        delta(0, toolUse={"input": ""}),
        delta(0, toolUse={"input": '{"a"'}),
        delta(0, toolUse={"input": ": 1}"}),
        closed(0),
        opened(1, toolUse={"toolUseId": "b", "name": "now"}),
        closed(1),
        opened(2, toolUse={"toolUseId": "c", "name": "now"}),
        delta(2, toolUse={"input": ""}),
    )
    assert found == (
        ToolCall("a", "add", '{"a": 1}', {"type": "tool_use"}),
        ToolCall("b", "now", "{}"),
        ToolCall("c", "now", "{}"),
    )


def test_two_calls_under_one_number_stay_two():
    call = [opened(0, toolUse={"toolUseId": "a", "name": "x"}), delta(0, toolUse={"input": "{}"})]
    assert parts(*call, *call, closed(0)) == (ToolCall("a", "x", "{}"), ToolCall("a", "x", "{}"))


def test_bedrocks_own_tools_are_opaque_as_in_a_full_reply():
    found = parts(
        opened(0, toolUse={"toolUseId": "a", "name": "nova_grounding", "type": "server_tool_use"}),
        delta(0, toolUse={"input": '{"query":'}),
        delta(0, toolUse={"input": '"x"}'}),
        closed(0),
        opened(1, toolResult={"toolUseId": "a", "type": "r", "status": "success"}),
        delta(1, toolResult=[{"text": "1"}]),
        delta(1, toolResult=[{"json": {"a": 2}}]),
        closed(1),
    )
    used = {"toolUseId": "a", "name": "nova_grounding", "type": "server_tool_use", "input": {"query": "x"}}
    result = {
        "toolUseId": "a",
        "type": "r",
        "status": "success",
        "content": [{"text": "1"}, {"json": {"a": 2}}],
    }
    assert found == (Opaque(NAME, {"toolUse": used}), Opaque(NAME, {"toolResult": result}))


def test_reasoning_is_signed_at_its_end_and_hidden_reasoning_is_whole():
    found = parts(
        delta(0, reasoningContent={"text": "th"}),
        delta(0, reasoningContent={"text": "ink"}),
        delta(0, reasoningContent={"signature": "s1"}),
        closed(0),
        delta(1, reasoningContent={"redactedContent": b64(b"abcd")}),
        delta(1, reasoningContent={"redactedContent": b64(b"efg")}),
        closed(1),
        delta(2, reasoningContent={"text": "open"}),
        delta(3, text="a"),
    )
    assert found == (
        Reasoning("think", "s1"),
        Reasoning("", None, b64(b"abcdefg")),
        Reasoning("open"),
        Text("a"),
    )
    assert [getattr(part, "origin", None) for part in found] == [NAME, NAME, "", None]


def test_citations_belong_to_their_text():
    found = parts(delta(0, citation={"title": "T"}), delta(0, text="a"), delta(0, citation={"title": "U"}))
    assert found == (Text("a", {"citations": [{"title": "T"}, {"title": "U"}]}),)


def test_a_picture_comes_in_pieces():
    found = parts(
        opened(0, image={"format": "png"}),
        delta(0, image={"source": {"bytes": b64(b"abcd")}}),
        delta(0, image={"source": {"bytes": b64(b"ef")}}),
        closed(0),
        opened(1, image={"format": "png"}),
        delta(1, image={"error": {"message": "no"}}),
        closed(1),
    )
    assert found == (
        Image(data=b64(b"abcdef"), media_type="image/png"),
        Opaque(NAME, {"image": {"format": "png", "error": {"message": "no"}}}),
    )


def test_empty_text_is_nothing():
    events = decode_all(START + delta(0, text="") + closed(0) + delta(1, text="x") + STOP)
    assert events == [Start(dialect=NAME), TextDelta("x", 1), Finish("stop")]


def test_blocks_that_were_not_stopped_are_at_the_end():
    assert parts(opened(0, toolUse={"toolUseId": "a", "name": "x"})) == (ToolCall("a", "x", "{}"),)


def test_unknown_events_and_deltas_are_passed_over():
    done = folded(
        START, event("somethingNew", a=1), delta(0, somethingNew={"a": 1}), delta(0, text="x"), STOP
    )
    assert done.text == "x"


def test_the_rest_of_the_end_is_kept():
    done = folded(
        START,
        event("messageStop", stopReason="guardrail_intervened", additionalModelResponseFields={"a": 1}),
        event("metadata", usage={}, trace={"guardrail": {}}, serviceTier={"type": "flex"}),
    )
    assert done.finish_reason == "content_filter"
    assert done.usage is None
    assert done.extra == {
        "stopReason": "guardrail_intervened",
        "additionalModelResponseFields": {"a": 1},
        "trace": {"guardrail": {}},
        "serviceTier": {"type": "flex"},
    }


def test_usage_before_the_end_does_not_end_the_stream():
    done = folded(START, delta(0, text="x"), HELLO[5], STOP)
    assert (done.text, done.usage, done.finish_reason) == ("x", Usage(3, 2), "stop")


@pytest.mark.parametrize(
    ("kind", "fields", "expected", "retryable"),
    [
        ("throttlingException", {"message": "Too many requests"}, RateLimited, True),
        ("serviceUnavailableException", {"message": "busy"}, Overloaded, True),
        ("internalServerException", {"message": "oh"}, ServiceUnavailable, True),
        ("validationException", {"message": "bad field"}, InvalidRequest, False),
        ("validationException", {"message": "Input is too long for requested model."}, ContextTooLong, False),
        (
            "modelStreamErrorException",
            {"originalStatusCode": 529, "originalMessage": "overloaded"},
            ServiceUnavailable,
            True,
        ),
        ("somethingNewException", {}, ServiceUnavailable, True),
    ],
)
def test_an_exception_in_the_stream_comes_after_what_was_before_it(kind, fields, expected, retryable):
    decoder = DIALECT.decoder()
    assert decoder.feed(START + delta(0, text="x") + exception(kind, **fields)) == [
        Start(dialect=NAME),
        TextDelta("x", 0),
    ]
    for _ in range(2):
        with pytest.raises(LLMError) as caught:
            decoder.feed(b"")
        assert type(caught.value) is expected
    with pytest.raises(expected):
        decoder.close()
    error = caught.value
    assert (error.code, error.phase, error.retryable) == (kind, "stream", retryable)
    assert error.billed == "unknown"
    assert (fields.get("message") or fields.get("originalMessage") or "") in error.message
    assert error.metadata == ({"original_status": 529} if "originalStatusCode" in fields else {})


def test_an_error_message_has_all_in_its_headers():
    headers = {":message-type": "error", ":error-code": "InternalFailure", ":error-message": "it broke"}
    with pytest.raises(ServiceUnavailable, match="it broke") as caught:
        DIALECT.decoder().feed(encode(headers))
    assert caught.value.code == "InternalFailure"


@pytest.mark.parametrize(
    "message",
    [
        event("contentBlockDelta", contentBlockIndex=0),
        delta(0, text=1),
        delta(0, text={"a": 1}),
        delta(0, reasoningContent="x"),
        delta(0, toolUse={}),
        event("messageStop"),
        opened(0, toolUse={}),
        opened(0, toolUse=None),
        encode({":event-type": "contentBlockDelta", ":message-type": "event"}, b"{"),
        encode({":event-type": "messageStop"}, b"[]"),
        opened(0, image={"format": "png"}) + delta(0, image={"source": {"bytes": "A"}}) * 2 + closed(0),
    ],
)
def test_events_of_another_shape_are_a_bad_reply(message):
    with pytest.raises(BadReply) as caught:
        DIALECT.decoder().feed(message)
    assert caught.value.code == "bad_event"


def test_bytes_that_are_no_event_stream_are_a_bad_reply_after_what_was_before_them():
    decoder = DIALECT.decoder()
    assert decoder.feed(HELLO[0] + HELLO[1] + b"\0" * 20) == [Start(dialect=NAME), TextDelta("Hel", 0)]
    with pytest.raises(BadReply):
        decoder.close()
    with pytest.raises(BadReply, match="limit of 50 bytes"):
        BedrockConverse(max_event_bytes=50).decoder().feed(HELLO[1])


def test_a_whole_body_where_a_stream_was_asked_for_is_read():
    body = {"output": {"message": {"content": [{"text": "hi"}]}}, "stopReason": "end_turn", "usage": {}}
    decoder = DIALECT.decoder("application/json; charset=utf-8")
    assert decoder.feed(json.dumps(body).encode()) == []
    assert fold(decoder.close()).text == "hi"


kinds = st.sampled_from(
    [
        "messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop",
        "metadata",
    ]
)  # fmt: skip
fields = st.sampled_from(
    [
        "contentBlockIndex", "delta", "start", "stopReason", "usage", "role", "text", "toolUse", "toolResult",
        "reasoningContent", "citation", "image", "redactedContent", "signature", "input", "name", "toolUseId",
        "source", "bytes", "type",
    ]
)  # fmt: skip
shapes = st.recursive(
    strategies.scalars | st.none() | st.integers(0, 2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.tuples(kinds, st.dictionaries(fields, shapes, max_size=4)), max_size=6))
def test_no_events_raise_anything_but_our_errors(said):
    decoder = DIALECT.decoder()
    try:
        for kind, body in said:
            decoder.feed(event(kind, **body))
        decoder.close()
    except LLMError:
        return
    assert any(kind == "messageStop" for kind, _ in said)
