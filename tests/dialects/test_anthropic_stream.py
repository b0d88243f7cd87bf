from __future__ import annotations

import orjson
import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import (
    BadReply,
    InvalidRequest,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Audio,
    Extra,
    Finish,
    Image,
    Opaque,
    Ping,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Start,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
    is_content,
)
from tests.dialects.anthropic_values import decode_all, split_at

DIALECT = AnthropicMessages()


def sse(*events):
    """Events as the API frames them."""
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def begin(usage=None, **fields):
    usage = {"input_tokens": 10, "output_tokens": 1} if usage is None else usage
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage, **fields}}


def start(index=0, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index=0, **fields):
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index=0):
    return {"type": "content_block_stop", "index": index}


def end(stop_reason="end_turn", usage=None, **fields):
    usage = {"output_tokens": 7} if usage is None else usage
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": None, **fields},
        "usage": usage,
    }


PING = {"type": "ping"}
OVER = {"type": "message_stop"}
HELLO = (start(type="text", text=""), delta(type="text_delta", text="Hello"), stop())


def decode(*events):
    return decode_all(DIALECT.decoder(), [sse(*events)])


def block(*events):
    """The events of content blocks alone."""
    return decode(begin(), *events, end(), OVER)[2:-2]


def test_a_stream_of_text_becomes_events():
    decoder = DIALECT.decoder()
    events = decoder.feed(sse(begin(), PING, *HELLO, end(), OVER))
    assert events == [
        Start("msg_1", "claude"),
        UsageUpdate(Usage(10, 1)),
        Ping(),
        TextDelta("Hello", 0),
        UsageUpdate(Usage(10, 7)),
        Finish("stop"),
    ]
    assert decoder.finished
    assert decoder.feed(b"event: ping\ndata: {}\n\nand more") == []
    assert decoder.close() == []


def test_nothing_commits_a_reply_before_its_first_content():
    decoder = DIALECT.decoder()
    opening = sse(begin(), PING, start(type="text", text=""), delta(type="text_delta", text=""))
    assert not any(map(is_content, decoder.feed(opening)))
    assert any(map(is_content, decoder.feed(sse(delta(type="text_delta", text="H")))))


def test_later_usage_replaces_what_it_names_and_nothing_else():
    first = {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1, "service_tier": "standard"}
    last = {
        "input_tokens": 12,
        "cache_read_input_tokens": None,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 3},
    }
    done = fold(decode(begin(first), *HELLO, end(usage=last), OVER))
    assert done.usage == Usage(17, 7, 5, 0, 3, extra={"service_tier": "standard"})
    done = fold(decode(begin(first), *HELLO, end(usage={"input_tokens": -1, "output_tokens": "7"}), OVER))
    assert done.usage == Usage(15, 1, 5, extra={"service_tier": "standard"})
    done = fold(decode(begin({}), *HELLO, end(usage={"output_tokens": 7}), OVER))
    assert done.usage is None


def test_thinking_ends_with_its_signature():
    events = block(
        start(type="thinking", thinking="", signature=""),
        delta(type="thinking_delta", thinking="why"),
        delta(type="signature_delta", signature="sig"),
        stop(),
        start(1, type="redacted_thinking", data="secret"),
        stop(1),
        start(2, type="thinking", thinking="", signature=""),
        delta(2, type="signature_delta", signature="only"),
        stop(2),
    )
    assert events == [
        ReasoningDelta("why", 0),
        ReasoningDelta("", 0, "sig"),
        ReasoningDelta("", 1, None, "secret"),
        ReasoningDelta("", 2, "only"),
    ]


@pytest.mark.parametrize(
    ("given", "pieces", "arguments"),
    [
        ({}, ["", '{"a"', ": 1}"], '{"a": 1}'),
        ({}, [""], "{}"),
        ({}, [], "{}"),
        ({"a": 1}, [], '{"a":1}'),
        ({"a": 1}, [""], '{"a":1}'),
        ({"a": 1}, ['{"b": 2}'], '{"b": 2}'),
        ({}, ['{"a": '], '{"a": '),
    ],
)
def test_arguments_come_in_pieces_or_whole_at_the_start(given, pieces, arguments):
    events = block(
        start(type="tool_use", id="t", name="f", input=given, caller={"type": "direct"}),
        *(delta(type="input_json_delta", partial_json=piece) for piece in pieces),
        stop(),
    )
    assert events[0] == ToolDelta(0, "t", "f", "", {"caller": {"type": "direct"}})
    assert fold(events).tool_calls == (ToolCall("t", "f", arguments, {"caller": {"type": "direct"}}),)


def test_a_second_signature_replaces_the_first():
    events = block(
        start(type="thinking", thinking="", signature=""),
        delta(type="signature_delta", signature="old"),
        delta(type="signature_delta", signature="new"),
        stop(),
    )
    assert events == [ReasoningDelta("", 0, "new")]


def test_what_a_block_says_at_its_start_is_given_out_at_once():
    events = block(
        start(type="text", text="So", citations=[1], mark=2),
        stop(),
        start(1, type="thinking", thinking="Hm", mark=3),
        stop(1),
        start(2, type="redacted_thinking", data="secret", mark=4),
        stop(2),
        stop(7),
    )
    assert events == [
        TextDelta("So", 0, {"citations": [1], "mark": 2}),
        ReasoningDelta("Hm", 1, extra={"mark": 3}),
        ReasoningDelta("", 2, None, "secret", {"mark": 4}),
    ]


def test_citations_join_the_text_they_belong_to():
    one, two = {"type": "char_location", "n": 1}, {"type": "char_location", "n": 2}
    events = block(
        start(type="text", text="", citations=[]),
        delta(type="citations_delta", citation=one),
        delta(type="text_delta", text="so"),
        delta(type="citations_delta", citation=two),
        stop(),
    )
    assert fold(events).message.parts == (Text("so", {"citations": [one, two]}),)


def test_an_empty_block_is_still_a_part():
    assert fold(block(start(type="text", text=""), stop())).message.parts == (Text(""),)


def test_blocks_we_do_not_model_are_carried_whole():
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "x"}]}
    events = block(
        start(type="server_tool_use", id="s", name="web_search", input={}),
        delta(type="input_json_delta", partial_json='{"q": '),
        delta(type="input_json_delta", partial_json='"x"}'),
        stop(),
        start(1, **found),
        stop(1),
        start(2, type="compaction", content=None),
        delta(2, type="compaction_delta", content="short", encrypted_content="e"),
        stop(2),
        start(3, type="of_tomorrow", text=""),
        delta(3, type="text_delta", text="a"),
        delta(3, type="text_delta", text="b"),
        delta(3, type="thinking_delta", thinking="t"),
        delta(3, type="citations_delta", citation=1),
        delta(3, type="signature_delta", signature="s"),
        stop(3),
        start(4, type="server_tool_use", id="s", name="cut", input={}),
        delta(4, type="input_json_delta", partial_json='{"q": '),
        stop(4),
    )
    assert [event.part.data for event in events] == [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        found,
        {"type": "compaction", "content": "short", "encrypted_content": "e"},
        {"type": "of_tomorrow", "text": "ab", "thinking": "t", "citations": [1], "signature": "s"},
        {"type": "server_tool_use", "id": "s", "name": "cut", "input": '{"q": '},
    ]


def test_what_a_later_version_adds_is_passed_over():
    events = decode(
        begin(),
        {"type": "of_tomorrow", "x": 1},
        start(type="text", text=""),
        delta(type="of_tomorrow_delta", x=1),
        delta(type="text_delta", text="Hello"),
        stop(),
        end(),
        OVER,
    )
    assert events == decode(begin(), *HELLO, end(), OVER)


def test_what_the_message_says_of_itself_is_kept():
    container = {"id": "c"}
    details = {"type": "refusal", "category": None}
    last = {
        **end("refusal", stop_details=details, container=container),
        "context_management": {"applied_edits": []},
    }
    done = fold(decode(begin(container=None, of_tomorrow=1), *HELLO, last, OVER))
    assert done.finish_reason == "refusal"
    assert done.extra == {
        "of_tomorrow": 1,
        "container": container,
        "stop_details": details,
        "context_management": {"applied_edits": []},
    }


def test_a_stop_sequence_is_told():
    done = fold(decode(begin(), *HELLO, end("stop_sequence", stop_sequence="END"), OVER))
    assert (done.finish_reason, done.extra) == (
        "stop",
        {"stop_reason": "stop_sequence", "stop_sequence": "END"},
    )


def test_comments_are_a_sign_of_life():
    assert DIALECT.decoder().feed(b": keep-alive\n\n") == [Ping()]


def test_servers_that_are_almost_right_are_understood():
    """No block starts and stops, no types in the data, a foreign end after the own one."""
    body = sse(begin(), HELLO[1], end()) + b"data: [DONE]\n\nevent: message_stop\ndata: {}\n\n"
    assert fold(decode_all(DIALECT.decoder(), [body])).text == "Hello"
    unstopped = (*HELLO[:2], start(1, type="tool_use", id="t", name="f", input={}))
    assert fold(decode(begin(), *unstopped, end("tool_use"), OVER)).tool_calls == (ToolCall("t", "f", "{}"),)


def test_an_end_without_a_stop_reason_is_an_end():
    assert decode(begin(), *HELLO, OVER)[-1] == Finish("stop")
    call = start(type="tool_use", id="t", name="f", input={})
    assert decode(begin(), call, stop(), OVER)[-1] == Finish("tool_calls")


def test_there_is_at_most_one_finish():
    events = decode(begin(), *HELLO, end(), end("max_tokens", usage={"output_tokens": 9}, x=1), OVER)
    assert [event for event in events if isinstance(event, Finish)] == [Finish("stop")]
    assert events[-2:] == [UsageUpdate(Usage(10, 9)), Extra({"x": 1})]


def test_a_stream_cut_before_its_end_is_broken():
    body = sse(begin(), PING, *HELLO, end(), OVER).rstrip(b"\n")
    for cut in range(len(body)):
        decoder = DIALECT.decoder()
        decoder.feed(body[:cut])
        with pytest.raises(StreamBroken) as caught:
            decoder.close()
        assert (caught.value.phase, caught.value.billed) == ("stream", "unknown")
        assert not decoder.finished
    decoder = DIALECT.decoder()
    decoder.feed(body)
    decoder.close()
    assert decoder.finished


def test_a_last_line_without_its_end_counts_where_it_is_whole():
    body = sse(begin(), *HELLO, end(), OVER)
    for missing in (1, 2):
        assert decode_all(DIALECT.decoder(), [body[:-missing]]) == decode_all(DIALECT.decoder(), [body])


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, Overloaded, 503),
        ({"type": "api_error", "message": "Internal server error"}, ServiceUnavailable, 500),
        ({"type": "rate_limit_error", "message": "slow"}, RateLimited, 429),
        ({"type": "invalid_request_error", "message": "bad"}, InvalidRequest, 400),
        ({"type": "of_tomorrow", "message": "what"}, ServiceUnavailable, 502),
    ],
)
def test_an_error_event_is_raised_after_what_came_before_it(error, kind, status):
    body = sse(begin(), *HELLO[:2], {"type": "error", "error": error, "request_id": "req_1"}, *HELLO)
    for pieces in ([body], split_at(body, range(len(body)))):
        decoder = DIALECT.decoder()
        events = []
        with pytest.raises(kind) as caught:
            for piece in pieces:
                events += decoder.feed(piece)
            decoder.close()
        assert events == [Start("msg_1", "claude"), UsageUpdate(Usage(10, 1)), TextDelta("Hello", 0)]
        assert (caught.value.status, caught.value.phase, caught.value.billed) == (status, "stream", "unknown")
        assert caught.value.request_id == "req_1"
        assert caught.value.code == error["type"]
        with pytest.raises(kind):
            decoder.feed(b"more")


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
        b'{"type":"error",\n "error":{"type":"overloaded_error","message":"Overloaded"}}\n',
        b'data: {"error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    ],
)
def test_an_error_in_other_framing_is_that_error(body):
    with pytest.raises(Overloaded):
        decode_all(DIALECT.decoder(), [body])


def test_an_error_event_that_is_not_json_is_an_error_all_the_same():
    with pytest.raises(ServiceUnavailable, match="upstream is gone"):
        decode_all(DIALECT.decoder(), [b"event: error\ndata: upstream is gone\n\n"])


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"type":"content_block_delta"}',
        b'{"type":"content_block_delta","index":0,"delta":null}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":5}}',
        b'{"type":"content_block_delta","index":[],"delta":{"type":"text_delta","text":"x"}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"tool_use"}}',
        b'{"type":"message_start","message":5}',
        b'{"type":"message_delta"}',
        b'{"type":{}}',
        b'{"type":"ping"}{"type":"ping"}',
        b"[" * 100_000,
        b'{"type":"ping","x":"\xff"}',
    ],
)
def test_bytes_that_are_not_the_protocol_are_a_bad_reply(event):
    with pytest.raises(BadReply) as caught:
        DIALECT.decoder().feed(b"data: " + event + b"\n\n")
    assert caught.value.phase == "stream"


def test_line_separators_of_unicode_are_text():
    text = "a\u0085b\u2028c\u2029d\x0be\x0cf"
    body = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n\n'
    assert DIALECT.decoder().feed(body % text.replace("\x0b", "\\u000b").replace("\x0c", "\\f").encode()) == [
        TextDelta(text, 0)
    ]


# --- the server's side


def encode(*events, request=None):
    encoder = DIALECT.encoder(request or Request("asked"))
    return b"".join(map(encoder.feed, events)) + encoder.close()


def told(body):
    """What stands in a stream, checking that each event's name is its type."""
    events = []
    for chunk in body.decode().split("\n\n")[:-1]:
        name, data = chunk.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def test_the_server_sends_the_sequence_of_the_real_api():
    body = encode(
        Start("msg_1", "claude"),
        UsageUpdate(Usage(10, 1, extra={"service_tier": "standard"})),
        ReasoningDelta("why", 0),
        ReasoningDelta("", 0, "sig"),
        TextDelta("Hel", 1),
        TextDelta("lo", 1),
        ToolDelta(2, "t", "f"),
        ToolDelta(2, arguments='{"a"'),
        ToolDelta(2, arguments=": 1}"),
        UsageUpdate(Usage(10, 7)),
        Finish("tool_calls"),
    )
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    first = {**usage, "output_tokens": 1, "service_tier": "standard"}
    assert told(body) == [
        begin(first, stop_sequence=None),
        start(0, type="thinking", thinking="", signature=""),
        PING,
        delta(0, type="thinking_delta", thinking="why"),
        delta(0, type="signature_delta", signature="sig"),
        stop(0),
        start(1, type="text", text=""),
        delta(1, type="text_delta", text="Hel"),
        delta(1, type="text_delta", text="lo"),
        stop(1),
        start(2, type="tool_use", id="t", name="f", input={}),
        delta(2, type="input_json_delta", partial_json='{"a"'),
        delta(2, type="input_json_delta", partial_json=": 1}"),
        stop(2),
        end("tool_use", usage={**usage, "output_tokens": 7}),
        OVER,
    ]


def test_a_stream_that_names_nothing_takes_the_requests_model():
    events = told(encode(TextDelta("x"), Finish("stop")))
    assert events[0]["message"]["model"] == "asked"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]


def test_calls_that_come_interleaved_stay_apart():
    body = encode(
        ToolDelta(0, "a", "f"),
        ToolDelta(1, "b", "g"),
        ToolDelta(0, arguments='{"x": '),
        ToolDelta(1, arguments="{}"),
        ToolDelta(0, arguments="1}"),
        TextDelta("done"),
        ToolDelta(0, arguments=" "),
        Finish("tool_calls"),
    )
    done = fold(decode_all(DIALECT.decoder(), [body]))
    assert done.tool_calls == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))
    assert done.text == "done"


def test_text_that_goes_on_after_a_call_is_a_block_of_its_own():
    body = encode(
        TextDelta("a"), ToolDelta(0, "t", "f", "{}"), TextDelta("b"), RefusalDelta("no"), Finish("stop")
    )
    kinds = [e["content_block"]["type"] for e in told(body) if e["type"] == "content_block_start"]
    assert kinds == ["text", "tool_use", "text", "text"]
    assert fold(decode_all(DIALECT.decoder(), [body])).text == "abno"


def test_whole_parts_keep_their_place_and_foreign_ones_are_left_out():
    search = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}}
    body = encode(
        Start("msg_1", "claude"),
        Extra(part=Opaque("anthropic.messages", search)),
        Extra(part=Opaque("openai.responses", {})),
        Extra(part=Audio("AAAA")),
        Extra(part=Image("https://x")),
        TextDelta("found", 1),
        Extra({"container": {"id": "c"}}),
        Finish("stop"),
    )
    assert told(body)[1:4] == [
        start(0, **{**search, "input": {}}),
        delta(0, type="input_json_delta", partial_json='{"q":1}'),
        stop(0),
    ]
    done = fold(decode_all(DIALECT.decoder(), [body]))
    assert [type(part) for part in done.message.parts] == [Opaque, Opaque, Text]
    assert done.extra == {"container": {"id": "c"}}


def test_pings_go_through():
    assert told(DIALECT.encoder(Request()).feed(Ping())) == [PING]
    encoder = DIALECT.encoder(Request())
    encoder.feed(Start("msg_1", "claude"))
    assert [event["type"] for event in told(encoder.feed(Ping()))] == ["message_start", "ping"]


def test_a_failure_in_a_stream_is_an_error_event():
    encoder = DIALECT.encoder(Request())
    body = encoder.feed(Start("m", "c")) + encoder.feed(TextDelta("x")) + encoder.fail(Overloaded("busy"))
    assert told(body)[-1] == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "busy"},
        "request_id": None,
    }
    with pytest.raises(Overloaded):
        decode_all(DIALECT.decoder(), [body, b""])


def test_a_reply_that_ended_in_an_error_ends_in_an_error_event():
    body = encode(Start("m", "c"), TextDelta("x"), Finish("error"))
    assert told(body)[-1]["type"] == "error"
    with pytest.raises(ServiceUnavailable):
        decode_all(DIALECT.decoder(), [body, b""])


def test_a_whole_body_where_a_stream_was_asked_for_gives_its_events():
    body = orjson.dumps(
        {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    )
    decoder = DIALECT.decoder("application/json; charset=utf-8")
    assert not decoder.finished
    assert fold(decode_all(decoder, split_at(body, range(len(body))))).text == "Hi"
    with pytest.raises(BadReply):
        decode_all(DIALECT.decoder("application/json"), [body[:-1]])
    with pytest.raises(Overloaded):
        decode_all(DIALECT.decoder("application/json"), [b'{"error":{"type":"overloaded_error"}}'])
    with pytest.raises(BadReply, match="larger"):
        AnthropicMessages(max_event_bytes=5).decoder("application/json").feed(body)


def test_an_event_larger_than_the_limit_is_refused():
    decoder = AnthropicMessages(max_event_bytes=1000).decoder()
    with pytest.raises(BadReply, match="larger"):
        decoder.feed(b"data: " + b" " * 1001)
