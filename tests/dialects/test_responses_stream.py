"""Streams of OpenAI's Responses that go another way than OpenAI's own, and what comes of errors in them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import (
    BadReply,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
    Timeout,
)
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
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

DIALECT = OpenAIResponses()
USAGE: dict[str, Any] = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
CREATED: dict[str, Any] = {
    "type": "response.created",
    "response": {"id": "r", "model": "m", "created_at": 5, "output": []},
}


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), orjson.dumps(e)) for e in events)


def done(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    response = {**CREATED["response"], "status": "completed", "output": list(output), "usage": USAGE, **more}
    return {"type": "response.completed", "response": response}


def added(at: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": at, "item": item}


def over(at: int, **item: Any) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": at, "item": item}


def delta(kind: str, at: int, text: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}.delta", "output_index": at, "delta": text, **more}


def message(*texts: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"type": "message", "role": "assistant", "content": content, **more}


def decode(*events: dict[str, Any]) -> list[Event]:
    decoder = DIALECT.decoder()
    found = decoder.feed(sse(*events))
    assert decoder.finished
    return found + decoder.close()


def failure(*events: dict[str, Any]) -> LLMError:
    decoder = DIALECT.decoder()
    with pytest.raises(LLMError) as caught:
        decoder.feed(sse(*events))
        decoder.close()
    return caught.value


def test_a_server_that_tells_only_the_end_loses_nothing():
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc"}
    thought = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "why"}],
        "encrypted_content": "e",
    }
    events = decode(CREATED, done(thought, message("hi", id="msg"), item))
    completion = fold(events)
    assert completion.message.parts == (
        Reasoning("why", None, "e"),
        Text("hi", {"item": {"id": "msg"}}),
        ToolCall("c", "f", "{}", {"item": {"id": "fc"}}),
    )
    assert (completion.finish_reason, completion.usage) == ("tool_calls", Usage(1, 2))
    assert (completion.id, completion.model, completion.created) == ("r", "m", 5.0)


def test_a_server_that_leaves_out_the_last_deltas_loses_nothing():
    events = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="msg"),
        delta("output_text", 0, "Hel", content_index=0),
        over(0, **message("Hello", id="msg")),
        added(1, type="function_call", call_id="c", name="f", arguments="", id="fc"),
        delta("function_call_arguments", 1, '{"a"'),
        {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": '{"a":1}'},
        done(),
    )
    completion = fold(events)
    assert (completion.text, completion.tool_calls[0].arguments) == ("Hello", '{"a":1}')


def test_the_whole_reply_at_the_end_is_not_told_twice():
    item = message("Hello", id="msg")
    events = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="msg"),
        delta("output_text", 0, "Hello", content_index=0),
        over(0, **item),
        done(item),
    )
    assert [event for event in events if isinstance(event, TextDelta)] == [
        TextDelta("Hello", 0, {"item": {"id": "msg"}})
    ]


def test_items_are_known_again_where_their_ids_change():
    """GitHub's server gives an item another id in each event."""
    events = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="a"),
        delta("output_text", 0, "Hi", content_index=0, item_id="b"),
        over(0, **message("Hi", id="c")),
        done(message("Hi", id="d")),
    )
    assert fold(events).message.parts == (Text("Hi", {"item": {"id": "d"}}),)


def test_items_are_known_again_where_the_end_leaves_some_out():
    thought = {"type": "reasoning", "id": "rs", "summary": []}
    events = decode(
        CREATED,
        added(0, **thought),
        over(0, **thought),
        added(1, type="message", role="assistant", content=[], id="msg"),
        delta("output_text", 1, "Hi", content_index=0),
        over(1, **message("Hi", id="msg")),
        done(message("Hi", id="msg")),
    )
    assert fold(events).text == "Hi"


def test_a_server_that_begins_no_items_is_understood():
    events = decode(
        CREATED,
        delta("output_text", 0, "Hi", content_index=0, item_id="msg"),
        delta("function_call_arguments", 1, "{}", item_id="fc"),
        over(1, type="function_call", call_id="c", name="f", arguments="{}", id="fc"),
        done(),
    )
    assert fold(events).text == "Hi"
    assert fold(events).tool_calls == (ToolCall("c", "f", "{}", {"item": {"id": "fc"}}),)


def test_parallel_calls_may_come_interleaved():
    events = decode(
        CREATED,
        added(0, type="function_call", call_id="a", name="f", arguments="", id="1"),
        added(1, type="function_call", call_id="b", name="g", arguments="", id="2"),
        delta("function_call_arguments", 1, "{"),
        delta("function_call_arguments", 0, "{"),
        delta("function_call_arguments", 0, "}"),
        delta("function_call_arguments", 1, "}"),
        done(),
    )
    assert [(call.id, call.arguments) for call in fold(events).tool_calls] == [("a", "{}"), ("b", "{}")]


def test_parts_of_a_summary_are_joined_by_blank_lines_and_can_be_told_apart():
    item = {
        "type": "reasoning",
        "id": "rs",
        "summary": [{"type": "summary_text", "text": t} for t in ("one", "two")],
    }
    events = decode(
        CREATED,
        added(0, type="reasoning", id="rs", summary=[]),
        delta("reasoning_summary_text", 0, "o", summary_index=0),
        delta("reasoning_summary_text", 0, "ne", summary_index=0),
        delta("reasoning_summary_text", 0, "two", summary_index=1),
        over(0, **item, encrypted_content="e"),
        done({**item, "encrypted_content": "another"}),
    )
    (part,) = fold(events).message.parts
    assert part == Reasoning("one\n\ntwo", None, "e", {"item": {"id": "rs", "sizes": [3, 3]}})
    assert part.origin == DIALECT.name
    assert DIALECT.encode_reply(fold(events))["output"][0]["summary"] == item["summary"]


def test_an_incomplete_proof_at_the_beginning_is_not_taken():
    events = decode(
        CREATED,
        added(0, type="reasoning", id="rs", summary=[], encrypted_content="inc"),
        over(0, type="reasoning", id="rs", summary=[], encrypted_content="complete"),
        done(),
    )
    assert fold(events).message.parts[0].encrypted == "complete"


def test_a_thought_and_its_summary_both_survive():
    summary = [{"type": "summary_text", "text": "short"}]
    item = {
        "type": "reasoning",
        "id": "rs",
        "summary": summary,
        "content": [{"type": "reasoning_text", "text": "long"}],
    }
    events = decode(
        CREATED,
        added(0, type="reasoning", id="rs", summary=[]),
        delta("reasoning_text", 0, "long", content_index=0),
        delta("reasoning_summary_text", 0, "short", summary_index=0),
        over(0, **item),
        done(item),
    )
    (part,) = fold(events).message.parts
    assert part.text == "long"
    (sent,) = DIALECT.encode_reply(fold(events))["output"]
    assert (sent["content"], sent["summary"]) == (item["content"], summary)


def test_unknown_events_are_signs_of_life_and_unknown_items_survive():
    item = {"type": "telepathy_call", "id": "t", "thoughts": [1]}
    events = decode(
        CREATED,
        {"type": "response.telepathy_call.thinking", "output_index": 0},
        {"type": "keepalive", "sequence_number": 3},
        added(0, **item, status="in_progress"),
        delta("output_text", 0, "not a message", content_index=0),
        over(0, **item, status="completed"),
        done({**item, "status": "completed"}),
    )
    assert fold(events).message.parts == (Opaque(DIALECT.name, {**item, "status": "completed"}),)
    assert Ping() in events


def test_unknown_content_of_a_message_survives():
    part = {"type": "output_video", "data": "x"}
    item = {"type": "message", "role": "assistant", "id": "m", "content": [part]}
    completion = fold(decode(CREATED, over(0, **item), done(item)))
    assert completion.message.parts == (Opaque(DIALECT.name, part),)
    assert DIALECT.encode_reply(completion)["output"][0]["content"] == [part]


def test_log_probabilities_are_those_of_the_end_or_else_of_the_deltas():
    first = [{"token": "H", "logprob": -1.0}]
    begin = (CREATED, added(0, type="message", role="assistant", content=[], id="m"))
    piece = delta("output_text", 0, "H", content_index=0, logprobs=first)
    told = decode(*begin, piece, over(0, **message("H", id="m")), done())
    assert fold(told).message.parts[0].extra["logprobs"] == first
    late = message("H", id="m")
    late["content"][0]["logprobs"] = [{"token": "H", "logprob": -1.0, "bytes": [72]}]
    told = decode(*begin, piece, over(0, **late), done(late))
    assert fold(told).message.parts[0].extra["logprobs"] == late["content"][0]["logprobs"]
    again = DIALECT.encode_reply(fold(told))["output"][0]["content"][0]
    assert again["logprobs"] == late["content"][0]["logprobs"]


def test_annotations_come_as_they_are_told():
    note = {"type": "url_citation", "url": "https://x"}
    whole = message("Hi", id="m")
    whole["content"][0]["annotations"] = [note, {**note, "url": "https://y"}]
    events = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        delta("output_text", 0, "Hi", content_index=0),
        {
            "type": "response.output_text.annotation.added",
            "output_index": 0,
            "content_index": 0,
            "annotation": note,
        },
        over(0, **whole),
        done(whole),
    )
    assert events[3] == TextDelta("", 0, {"annotations": [note]})
    assert fold(events).message.parts[0].extra["annotations"] == whole["content"][0]["annotations"]


def test_nothing_commits_a_reply_before_there_is_content():
    events = DIALECT.decoder().feed(
        sse(
            CREATED,
            {**CREATED, "type": "response.in_progress"},
            added(0, type="reasoning", id="rs", summary=[]),
            added(1, type="message", role="assistant", content=[], id="m"),
            {
                "type": "response.content_part.added",
                "output_index": 1,
                "part": {"type": "output_text", "text": ""},
            },
        )
    )
    assert not any(map(is_content, events))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_messages"}}, "length"),
        ({"status": "incomplete", "incomplete_details": None}, "length"),
        ({"status": "completed"}, "stop"),
        ({}, "stop"),
    ],
)
def test_why_a_reply_ended(more, reason):
    completion = fold(decode(CREATED, done(message("x"), **more)))
    assert completion.finish_reason == reason
    body = DIALECT.encode_reply(completion)
    assert DIALECT.decode_reply(body, {}).finish_reason == reason
    if (more.get("incomplete_details") or {}).get("reason") == "max_messages":
        assert body["incomplete_details"] == {"reason": "max_messages"}


def test_a_reply_with_a_refusal_and_nothing_else_is_refused():
    item = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    events = decode(CREATED, delta("refusal", 0, "No", content_index=0), over(0, **item), done(item))
    assert (fold(events).refusal, fold(events).finish_reason) == ("No.", "refusal")


# -- errors


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "x"}, ServiceUnavailable),
        ({"code": "rate_limit_exceeded", "message": "x"}, RateLimited),
        ({"code": "context_length_exceeded", "message": "x"}, ContextTooLong),
        ({"code": "invalid_prompt", "message": "x"}, ContentFiltered),
        ({"code": "bio_policy", "message": "x"}, ContentFiltered),
        ({"code": "invalid_image_url", "message": "x"}, InvalidRequest),
        ({"code": "unsupported_image_media_type", "message": "x"}, InvalidRequest),
        ({"code": "vector_store_timeout", "message": "x"}, ServiceUnavailable),
        ({"code": "never_heard_of", "message": "x"}, ServiceUnavailable),
        ({"type": "invalid_request_error", "code": None, "message": "x", "param": "input"}, InvalidRequest),
        ("words alone", ServiceUnavailable),
        (None, ServiceUnavailable),
    ],
)
def test_a_response_that_failed_is_its_error(error, kind):
    failed = {
        "type": "response.failed",
        "response": {"id": "r", "status": "failed", "error": error, "output": []},
    }
    found = failure(CREATED, failed)
    assert isinstance(found, (kind, Timeout) if kind is ServiceUnavailable else kind)
    assert (found.phase, found.billed) == ("stream", "unknown")
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(failed["response"], {})
    assert type(caught.value) is type(found)


def test_a_response_that_was_cancelled_is_no_answer():
    with pytest.raises(ServiceUnavailable) as caught:
        DIALECT.decode_reply({"status": "cancelled", "output": []}, {})
    assert (caught.value.retryable, caught.value.code) == (False, "response_cancelled")


@pytest.mark.parametrize(
    "event",
    [
        {
            "type": "error",
            "code": "rate_limit_exceeded",
            "message": "slow",
            "param": None,
            "sequence_number": 4,
        },
        {"type": "error", "error": {"type": "tokens", "code": "rate_limit_exceeded", "message": "slow"}},
    ],
)
def test_an_error_event_is_its_error_flat_or_not(event):
    error = failure(CREATED, event)
    assert isinstance(error, RateLimited)
    assert (error.message, error.code, error.phase) == ("slow", "rate_limit_exceeded", "stream")


def test_what_a_failed_reply_used_is_told_before_its_error():
    decoder = DIALECT.decoder()
    failed = {
        "type": "response.failed",
        "response": {"status": "failed", "error": {"code": "x"}, "usage": USAGE},
    }
    assert UsageUpdate(Usage(1, 2)) in decoder.feed(sse(CREATED, failed))
    with pytest.raises(ServiceUnavailable):
        decoder.feed(b"")


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"data: [DONE]\n\n",
        b"event: response.completed\n",
        b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","output":[]',
    ],
)
def test_a_stream_without_its_end_is_broken(tail):
    decoder = DIALECT.decoder()
    decoder.feed(sse(CREATED, delta("output_text", 0, "Hi", content_index=0)) + tail)
    with pytest.raises(StreamBroken):
        decoder.close()
    assert not decoder.finished


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"message": "no", "code": "invalid_api_key"}}', "AuthenticationFailed"),
        (b"data: {broken}\n\n", "BadReply"),
        (b"data: 5\n\n", "BadReply"),
        (b'data: {"type": "response.completed"}\n\n', "BadReply"),
        (b'data: {"type": "response.completed", "response": 5}\n\n', "BadReply"),
        (b'data: {"error": "too many", "code": 429}\n\n', "RateLimited"),
        (b"event: error\ndata: out of memory\n\n", "ServiceUnavailable"),
    ],
)
def test_what_is_no_stream_is_one_error(body, kind):
    decoder = DIALECT.decoder()
    with pytest.raises(LLMError) as caught:
        decoder.feed(body)
        decoder.close()
    assert type(caught.value).__name__ == kind


def test_a_whole_body_where_a_stream_was_promised_is_read():
    decoder = DIALECT.decoder("application/json; charset=utf-8")
    decoder.feed(orjson.dumps({"id": "r", "status": "completed", "output": [message("Hi")]}))
    assert fold(decoder.close()).text == "Hi"


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_reply_that_runs_in_the_background_is_not_taken_for_an_answer(status):
    pending = DIALECT.decode_reply({"id": "r", "status": status, "output": [], "background": True}, {})
    assert (pending.finish_reason, pending.extra["status"]) == (None, status)
    assert DIALECT.encode_reply(pending)["status"] == status


@pytest.mark.parametrize("body", [{}, {"output": None}, {"output": "x"}, {"choices": []}])
def test_what_is_no_reply_is_a_bad_one(body):
    with pytest.raises(BadReply):
        DIALECT.decode_reply(body, {})


# -- the server's side


def encode(*events: Event) -> list[dict[str, Any]]:
    encoder = DIALECT.encoder(Request("asked"))
    body = b"".join(map(encoder.feed, events)) + encoder.close()
    return [orjson.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


def test_interleaved_calls_of_another_provider_stay_apart():
    events = encode(
        Start("r", "m", dialect="openai.chat"),
        ToolDelta(0, "a", "f", '{"x":'),
        ToolDelta(1, "b", "g", "{}"),
        ToolDelta(0, arguments="1}"),
        Finish("tool_calls"),
        UsageUpdate(Usage(1, 2)),
    )
    assert [(item["call_id"], item["arguments"]) for item in events[-1]["response"]["output"]] == [
        ("a", '{"x":1}'),
        ("b", "{}"),
    ]


def test_text_after_a_call_is_a_message_of_its_own():
    events = encode(Start("r"), TextDelta("a"), ToolDelta(0, "c", "f", "{}"), TextDelta("b"), Finish("stop"))
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert len({item["id"] for item in output}) == 3


def test_thoughts_of_another_provider_are_a_summary_with_a_sealed_proof():
    events = encode(
        Start("r", dialect="anthropic.messages"),
        ReasoningDelta("hm", 0, extra={"odd": 1}),
        ReasoningDelta("m", 0),
        ReasoningDelta("", 0, "sig", origin="anthropic.messages"),
        TextDelta("hi", 0, {"citations": []}),
        Finish("stop", {"stop_sequence": "x"}),
    )
    thought, said = events[-1]["response"]["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hmm"}]
    assert thought["encrypted_content"] == "llmpipe:anthropic.messages:signature:sig"
    assert "citations" not in said["content"][0]
    assert "stop_sequence" not in events[-1]["response"]
    assert "odd" not in str(events)


def test_the_model_asked_for_is_named_where_the_reply_names_none():
    assert encode(TextDelta("x"), Finish("stop"))[0]["response"]["model"] == "asked"


def test_a_stream_that_was_cut_does_not_end_as_completed():
    last = encode(Start("r"), TextDelta("x"))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")


def test_an_error_event_carries_no_secret_and_can_be_read_again():
    encoder = DIALECT.encoder(Request())
    encoder.feed(Start("r"))
    body = encoder.fail(Overloaded("key sk-abcdefghijklmnopqrstuvwx1234 is busy", code="slow_down"))
    assert b"sk-abcdefghijklmnop" not in body
    assert orjson.loads(body.split(b"data: ")[1])["sequence_number"] == 2
    decoder = DIALECT.decoder()
    with pytest.raises(Overloaded):
        decoder.feed(body)


def test_extra_parts_of_the_reply_reach_the_caller():
    item = {"type": "mcp_call", "id": "mcp_1", "status": "failed", "error": "x"}
    events = encode(
        Start("r", dialect=DIALECT.name),
        Extra(part=Opaque(DIALECT.name, item)),
        Extra({"a": 1}),
        Finish("stop"),
    )
    last = events[-1]["response"]
    assert (last["output"], last["a"]) == ([item], 1)


def test_many_items_cost_no_more_than_their_number():
    """Each is found again at the end without a search; a search would make this a matter of minutes."""
    items = [
        {"type": "function_call", "call_id": f"c{at}", "name": "f", "arguments": ""} for at in range(20_000)
    ]
    events = decode(CREATED, *(added(at, **item) for at, item in enumerate(items)), done(*reversed(items)))
    assert len(fold(events).tool_calls) == len(items)
