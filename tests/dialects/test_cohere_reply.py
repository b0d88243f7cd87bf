"""What Cohere answers, full and streamed, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.dialects.proofs import seal
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
    Timeout,
)
from llmpipe.types import (
    Completion,
    Event,
    Extra,
    Finish,
    Image,
    Message,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
    Refusal,
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
    unfold,
)

DIALECT = CohereChat()


def body(**fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}
    return {"id": "a", "message": message, "finish_reason": "COMPLETE", **fields}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


START = {"type": "message-start", "id": "a", "delta": {"message": {"role": "assistant", "content": []}}}
END = {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}


def content(name: str, index: int, **fields: Any) -> dict[str, Any]:
    return {"type": f"content-{name}", "index": index, "delta": {"message": {"content": fields}}}


def decode(pieces: Iterable[bytes]) -> tuple[list[Event], LLMError | None]:
    """All events, and the error after them."""
    decoder, events = DIALECT.decoder(), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, error
    return events, None


def streamed(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The data of the events that go out to a caller."""
    encoder = DIALECT.encoder(Request())
    out = b"".join(map(encoder.feed, events)) + encoder.close()
    lines = [line[6:] for line in out.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# -- usage


def test_what_is_billed_is_the_usage_and_what_was_read_stays_beside_it():
    told = {
        "billed_units": {"input_tokens": 8.0, "output_tokens": 50, "search_units": 1},
        "tokens": {"input_tokens": 1394, "output_tokens": 55, "reasoning_tokens": 38},
        "cached_tokens": 1360,
    }
    usage = DIALECT.decode_reply(body(usage=told), {}).usage
    assert usage == Usage(
        8,
        50,
        cached_input_tokens=0,  # 1360 of the 1394 that were read, and none of the 8 that are billed
        reasoning_tokens=38,
        extra={
            "billed_units": {"search_units": 1},
            "tokens": told["tokens"],
            "cached_tokens": 1360,
        },
    )
    assert DIALECT.encode_reply(Completion(usage=usage))["usage"] == told


def test_where_nobody_bills_the_tokens_are_the_usage():
    told = {"tokens": {"input_tokens": 9, "output_tokens": 5}, "cached_tokens": 4}
    assert DIALECT.decode_reply(body(usage=told), {}).usage == Usage(9, 5, 4)


@pytest.mark.parametrize("told", [None, {}, [], {"billed_units": {}}, {"tokens": {"input_tokens": -1}}])
def test_a_usage_that_says_nothing_is_none(told):
    assert DIALECT.decode_reply(body(usage=told), {}).usage is None


def test_a_usage_of_another_dialect_shows_nothing_of_its_own():
    message = Message("assistant", "x", dialect="openai.chat")
    done = Completion(message=message, usage=Usage(9, 5, 4, 0, 2, extra={"cost": 1}), extra={"system": 1})
    wire = DIALECT.encode_reply(done)
    assert wire["usage"] == {
        "billed_units": {"input_tokens": 9, "output_tokens": 5},
        "tokens": {"input_tokens": 9, "output_tokens": 5, "reasoning_tokens": 2},
        "cached_tokens": 4,
    }
    assert "system" not in wire


# -- finish reasons


@pytest.mark.parametrize(
    ("word", "finish", "extra"),
    [
        ("COMPLETE", "stop", {}),
        ("STOP_SEQUENCE", "stop", {"finish_reason": "STOP_SEQUENCE"}),
        ("MAX_TOKENS", "length", {}),
        ("TOOL_CALL", "tool_calls", {}),
        ("ERROR", "error", {}),
        ("TIMEOUT", "error", {"finish_reason": "TIMEOUT"}),
        ("ERROR_TOXIC", "content_filter", {}),
        ("ERROR_LIMIT", "length", {"finish_reason": "ERROR_LIMIT"}),
        ("SOMETHING_NEW", "stop", {"finish_reason": "SOMETHING_NEW"}),
    ],
)
def test_a_finish_reason_is_understood_and_given_back(word, finish, extra):
    done = DIALECT.decode_reply(body(finish_reason=word), {})
    assert (done.finish_reason, done.extra) == (finish, extra)
    assert DIALECT.encode_reply(done)["finish_reason"] == word
    events, _ = decode([sse(START, {**END, "delta": {"finish_reason": word}})])
    assert (fold(events).finish_reason, fold(events).extra) == (finish, extra)
    assert streamed(events)[-1]["delta"]["finish_reason"] == word


def test_a_refusal_is_text_and_complete():
    done = Completion(message=Message("assistant", Refusal("No.")), finish_reason="refusal")
    wire = DIALECT.encode_reply(done)
    assert (wire["finish_reason"], wire["message"]["content"]) == (
        "COMPLETE",
        [{"type": "text", "text": "No."}],
    )
    again, _ = decode([sse(*streamed([RefusalDelta("N"), RefusalDelta("o."), Finish("refusal")]))])
    assert fold(again).text == "No."


# -- parts


def test_what_is_not_modelled_is_kept_where_it_stood():
    parts = [
        {"type": "video", "url": "x"},
        {"type": "text", "text": "hi", "style": "bold"},
        {"type": "thinking", "thinking": "", "signature": "s"},
    ]
    told = body(
        message={"role": "assistant", "content": parts, "mood": "good"}, logprobs=[{"token_ids": [1]}]
    )
    done = DIALECT.decode_reply(told, {})
    assert done.message.parts == (
        Opaque("cohere.chat", parts[0]),
        Text("hi", {"style": "bold"}),
        Reasoning("", extra={"signature": "s"}),
    )
    assert done.message.extra == {"mood": "good"}
    again = DIALECT.encode_reply(done)
    assert {**again, "usage": None} == {**told, "usage": None}


def test_a_call_without_an_id_is_given_the_same_one_each_time():
    calls = [{"function": {"name": "f", "arguments": {"a": 1}}}, {"function": {"name": "f"}}]
    told = body(message={"role": "assistant", "tool_calls": calls}, finish_reason=None)
    first, second = DIALECT.decode_reply(told, {}).tool_calls
    assert first.id != second.id
    assert (first.arguments, second.arguments) == ('{"a":1}', "")
    assert DIALECT.decode_reply(told, {}).finish_reason == "tool_calls"
    start = {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": calls[0]}}}
    events, _ = decode([sse(START, start, END)])
    assert fold(events).tool_calls == (first,)


def test_proofs_of_other_providers_go_out_sealed():
    thought = Reasoning("Hm", "sig", origin="anthropic.messages")
    hidden = Reasoning("", encrypted="e", origin="openai.responses")
    parts = [thought, hidden, Text("A"), Image(data="aa"), Opaque("anthropic.messages", {"type": "x"})]
    done = Completion(message=Message("assistant", parts, dialect="anthropic.messages"), finish_reason="stop")
    sealed = [
        {"type": "thinking", "thinking": "Hm", "signature": seal("sig", "anthropic.messages", "cohere.chat")},
        {"type": "thinking", "thinking": "", "encrypted": seal("e", "openai.responses", "cohere.chat")},
    ]
    assert DIALECT.encode_reply(done)["message"]["content"] == [*sealed, {"type": "text", "text": "A"}]
    blocks: dict[int, dict[str, Any]] = {}
    for event in streamed(unfold(done)):
        if event["type"] in ("content-start", "content-delta"):
            block = blocks.setdefault(event["index"], {})
            for name, value in event["delta"]["message"]["content"].items():
                block[name] = value if name == "type" else block.get(name, "") + value
    assert list(blocks.values()) == [*sealed, {"type": "text", "text": "A"}]


def test_a_signature_in_pieces_is_sealed_once():
    events: list[Event] = [
        Start("a", dialect="anthropic.messages"),
        ReasoningDelta("Hm", 0),
        ReasoningDelta("", 0, "si", origin="anthropic.messages"),
        ReasoningDelta("", 0, "g"),
        TextDelta("A", 1),
        Finish("stop"),
    ]
    proofs = [
        e["delta"]["message"]["content"]["signature"]
        for e in streamed(events)
        if "signature" in e.get("delta", {}).get("message", {}).get("content", {})
    ]
    assert proofs == ["llmpipe:anthropic.messages:sig"]


# -- streams


def test_log_probabilities_are_the_same_full_and_streamed():
    one, two = {"text": "h", "token_ids": [1], "logprobs": [-1]}, {"text": "i", "token_ids": [2]}
    events, error = decode(
        [
            sse(
                START,
                content("start", 0, type="text", text=""),
                {**content("delta", 0, text="h"), "logprobs": one},
                {**content("delta", 0, text="i"), "logprobs": two},
                END,
            )
        ]
    )
    assert error is None
    assert fold(events) == DIALECT.decode_reply(body(logprobs=[one, two]), {})
    assert [e["logprobs"] for e in streamed(events) if "logprobs" in e] == [one, two]
    assert [e["logprobs"] for e in streamed(unfold(fold(events))) if "logprobs" in e] == [one, two]


def test_a_block_that_is_not_modelled_comes_whole_at_its_end():
    stream = sse(
        START,
        content("start", 0, type="video", url="ab"),
        content("delta", 0, url="cd", n=1),
        {"type": "content-end", "index": 0},
        content("start", 1, type="text", text="x"),
        content("start", 2, type="video", url="y"),  # that the server forgets to end
        END,
    )
    events, error = decode([stream])
    assert error is None
    assert fold(events).message.parts == (
        Opaque("cohere.chat", {"type": "video", "url": "abcd", "n": 1}),
        Text("x"),
        Opaque("cohere.chat", {"type": "video", "url": "y"}),
    )
    again, _ = decode([sse(*streamed(events))])
    assert fold(again) == fold(events)


def test_blocks_under_one_index_are_two():
    stream = sse(
        START,
        content("start", 0, type="text", text="a"),
        {"type": "content-end", "index": 0},
        content("start", 0, type="text", text="b"),
        content("delta", 0, text="c"),
        END,
    )
    assert fold(decode([stream])[0]).message.parts == (Text("a"), Text("bc"))


def test_comments_and_unknown_events_are_passed_over():
    stream = b": hello\n\n" + sse(START, {"type": "debug", "prompt": "x"}, content("delta", 0, text="a"), END)
    events, error = decode([stream])
    assert error is None
    assert events[0] == Ping()
    assert fold(events).text == "a"
    encoder = DIALECT.encoder(Request())
    assert encoder.feed(Ping()) == b": ping\n\n"


def test_after_the_end_nothing_is_read():
    decoder = DIALECT.decoder()
    decoder.feed(sse(START, END))
    assert decoder.finished
    assert decoder.feed(b"data: [DONE]\n\ndata: garbage\n\n") == []
    assert decoder.close() == []


def test_done_without_an_end_is_a_broken_stream():
    _, error = decode([sse(START, content("delta", 0, text="a")) + b"data: [DONE]\n\n"])
    assert isinstance(error, StreamBroken)
    assert error.billed == "unknown"


def test_events_without_blank_lines_between_them_are_read():
    lines = sse(START, content("delta", 0, text="a"), END).split(b"\n")
    stream = b"\n".join(line for line in lines if line.startswith(b"data:")) + b"\n\n"
    events, error = decode([stream])
    assert error is None
    assert fold(events).text == "a"
    assert decode([stream[:-2]])[1] is None


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content-delta", "delta": None},
        {"type": "content-delta", "delta": {"message": {"content": {"text": 7}}}},
        {
            "type": "tool-call-delta",
            "index": 3,
            "delta": {"message": {"tool_calls": {"function": {"arguments": "x"}}}},
        },
        {"type": "tool-plan-delta", "delta": {}},
    ],
)
def test_an_event_of_another_shape_is_a_bad_reply(event):
    events, error = decode([sse(START, event)])
    assert isinstance(error, BadReply)
    assert len(events) == 1
    assert isinstance(decode([b"data: {nope}\n\n"])[1], BadReply)
    assert isinstance(decode([b"data: [1]\n\n"])[1], BadReply)


@pytest.mark.parametrize(
    "stream",
    [
        b'{"message":"no such thing","id":"r1"}',
        b'{"message":"no such thing","id":"r1"}\n\n',
        b'data: {"message":"no such thing","id":"r1"}\n\n',
        b'event: error\ndata: {"message":"no such thing","id":"r1"}\n\n',
        sse({**END, "delta": {"finish_reason": "ERROR", "error": "no such thing"}}),
    ],
)
def test_an_error_in_place_of_a_stream_is_that_error(stream):
    _, error = decode([stream])
    assert isinstance(error, ServiceUnavailable)
    assert error.message == "no such thing"
    assert decode(stream[i : i + 1] for i in range(len(stream)))[1].message == "no such thing"  # type: ignore[union-attr]  # it is there


def test_usage_told_with_an_error_is_not_lost():
    last = {
        "finish_reason": "ERROR",
        "error": "x",
        "usage": {"billed_units": {"input_tokens": 3, "output_tokens": 1}},
    }
    events, error = decode([sse(START, {**END, "delta": last})])
    assert error is not None
    assert UsageUpdate(Usage(3, 1)) in events


def test_a_full_reply_where_a_stream_was_asked_for_is_read():
    decoder = DIALECT.decoder("application/json")
    events = [*decoder.feed(orjson.dumps(body())), *decoder.close()]
    assert fold(events) == DIALECT.decode_reply(body(), {})


def test_a_call_that_begins_before_another_is_whole_waits_for_it():
    events = streamed(
        [
            ToolDelta(0, "a", "f", '{"x"'),
            ToolDelta(1, "b", "g", '{"y"'),
            ToolDelta(0, arguments=":1}"),
            ToolDelta(1, arguments=":2}"),
            TextDelta("done"),
            Finish("tool_calls"),
        ]
    )
    assert [(e["type"], e.get("index")) for e in events[1:-1]] == [
        ("tool-call-start", 0),
        ("tool-call-delta", 0),
        ("tool-call-delta", 0),
        ("tool-call-end", 0),
        ("tool-call-start", 1),
        ("tool-call-delta", 1),
        ("tool-call-end", 1),
        ("content-start", 0),
        ("content-delta", 0),
        ("content-end", 0),
    ]


def test_extras_of_another_dialect_are_shown_to_nobody():
    events: list[Event] = [
        Start("a", "m", extra={"service_tier": "x", "logprobs": {"content": []}}, dialect="openai.chat"),
        ReasoningDelta("t", 0, extra={"field": "tool_plan"}),
        TextDelta("hi", 0, {"annotations": []}),
        ToolDelta(0, "c", "f", "{}", {"extra_content": 1}),
        Extra({"citations": ["x"]}, of="message"),
        Extra({"system_fingerprint": "x"}),
        Extra(part=Opaque("openai.chat", {"type": "x"})),
        Finish("stop", {"native_finish_reason": "x"}),
    ]
    text = json.dumps(streamed(events))
    for word in ("service_tier", "annotations", "extra_content", "system_fingerprint", "native", '["x"]'):
        assert word not in text
    assert '"thinking": "t"' in text


# -- errors


@pytest.mark.parametrize(
    ("status", "wire", "kind"),
    [
        (400, {"message": "invalid request: message must be at least 1 token long"}, InvalidRequest),
        (400, {"message": "x", "error_type": "TOO_MANY_TOKENS"}, ContextTooLong),
        (400, {"message": "too many tokens: total number of tokens cannot exceed 4081"}, ContextTooLong),
        (401, {"message": "invalid api token"}, AuthenticationFailed),
        (402, {"message": "Please add or update your payment method"}, QuotaExceeded),
        (404, {"message": "model 'x' not found"}, ModelNotFound),
        (422, {"message": "unknown field: parameter 'x' is not a valid field"}, InvalidRequest),
        (429, {"message": "trial token rate limit exceeded, limit is 100000 tokens per minute"}, RateLimited),
        (
            429,
            {"message": "You are using a Trial key, which is limited to 40 API calls / minute."},
            RateLimited,
        ),
        (
            429,
            {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
            QuotaExceeded,
        ),
        (498, {"message": "blocked"}, ContentFiltered),
        (500, {"message": "internal server error"}, ServiceUnavailable),
        (503, {"message": "busy"}, Overloaded),
    ],
)
def test_an_error_is_classified(status, wire, kind):
    error = DIALECT.decode_error(status, {}, orjson.dumps({**wire, "id": "r1"}))
    assert type(error) is kind
    assert error.message == wire["message"]
    assert error.request_id == "r1"
    assert error.status == status


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null", b'"x"', b'{"message":[{"a":1}]}', b"\xff"])
def test_any_body_of_an_error_is_an_error(raw):
    assert type(DIALECT.decode_error(500, {}, raw)) is ServiceUnavailable


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no"),
        ContextTooLong("too long"),
        ModelNotFound("none"),
        AuthenticationFailed("who"),
        RateLimited("slow down", retry_after=1.2),
        Overloaded("busy"),
        Timeout("late"),
        ContentFiltered("bad words"),
    ],
)
def test_an_error_is_the_same_after_the_wire_in_a_body_and_in_a_stream(error):
    status, headers, wire = DIALECT.encode_error(error)
    again = DIALECT.decode_error(status, headers, orjson.dumps(wire))
    assert type(again) is type(error) or (isinstance(error, Timeout) and status == 504)
    assert again.retry_after == (2 if error.retry_after else None)
    encoder = DIALECT.encoder(Request())
    stream = encoder.feed(TextDelta("hi")) + encoder.fail(error)
    events, told = decode([stream])
    assert fold(events).text == "hi"
    assert fold(events).finish_reason is None
    assert told is not None
    assert told.type == error.type or isinstance(error, Timeout)
    assert error.message in told.message


def test_an_error_shows_no_key():
    _, _, wire = DIALECT.encode_error(InvalidRequest("the key sk-abcdefghijklmnopqrstuvwxyz0123 is wrong"))
    assert "abcdefghij" not in json.dumps(wire)


@pytest.mark.parametrize(
    "wire", [{"message": "blocked", "id": "x"}, {"error": "x"}, {"message": {}, "error": "x"}]
)
def test_a_success_that_is_an_error_is_that_error(wire):
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(wire, {})
    assert caught.value.retryable
    for read in (DIALECT.decode_ranking, DIALECT.decode_embeddings):
        with pytest.raises(LLMError):
            read(wire, {})


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"message": None},
        {"id": "a"},
        body(message={"content": ["x"]}),
        body(message={"content": [{"text": 7}]}),
    ],
)
def test_what_is_no_reply_is_a_bad_reply(wire):
    with pytest.raises(BadReply):
        DIALECT.decode_reply(wire, {})


@pytest.mark.parametrize(
    "results",
    [
        None,
        "x",
        [7],
        [{"index": -1, "relevance_score": 1}],
        [{"index": 0}],
        [{"index": 0, "relevance_score": 1}] * 2,
    ],
)
def test_what_is_no_ranking_is_a_bad_reply(results):
    with pytest.raises(BadReply):
        DIALECT.decode_ranking({"results": results}, {})


def test_vectors_of_several_forms_are_floats_and_the_rest_beside_them():
    forms = {"int8": [[1, -2]], "float": [[0.5, 1]], "ubinary": None}
    found = DIALECT.decode_embeddings({"id": "e", "embeddings": forms, "meta": {}}, {})
    assert found.vectors == ([0.5, 1],)
    assert found.extra == {"embeddings": {"int8": [[1, -2]]}, "meta": {}}
    assert DIALECT.encode_embeddings(found)["embeddings"] == {"float": [[0.5, 1]], "int8": [[1, -2]]}
    only = DIALECT.decode_embeddings({"embeddings": {"int8": [[1, -2]]}}, {})
    assert (only.vectors, only.extra) == (([1, -2],), {"embedding_type": "int8"})
    assert DIALECT.encode_embeddings(only)["embeddings"] == {"int8": [[1, -2]]}
    assert DIALECT.decode_embeddings({"embeddings": [[1.5]]}, {}).vectors == ([1.5],)
    for forms_ in ({}, {"float": [["x"]]}, {"base64": ["!"]}, None):
        with pytest.raises(BadReply):
            DIALECT.decode_embeddings({"embeddings": forms_}, {})


@pytest.mark.parametrize("listed", [{}, {"models": None}, [], {"message": "no"}])
def test_what_is_no_list_of_models_is_an_error(listed):
    with pytest.raises(LLMError):
        DIALECT.decode_models(listed)


def test_a_call_of_the_users_own_making_goes_out():
    done = Completion(message=Message("assistant", [ToolCall("c", "f", "{}")]), finish_reason="tool_calls")
    assert DIALECT.encode_reply(done)["message"] == {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
