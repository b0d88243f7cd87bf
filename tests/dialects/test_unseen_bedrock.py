"""What Bedrock sends that no recording has: from botocore's service model, AWS's docs, bug reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.bedrock_converse.usage import decode_usage
from llmpipe.dialects.eventstream import EventStreamParser, encode
from llmpipe.dialects.losses import Losses
from llmpipe.errors import (
    BadReply,
    LLMError,
    StreamBroken,
    Unsupported,
)
from llmpipe.types import (
    Audio,
    Image,
    Message,
    Opaque,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from tests.dialects.bedrock_values import DIALECT, NAME, b64, delta, event, exception, folded, frames

START = event("messageStart", role="assistant")
USED = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
METADATA = event("metadata", usage=USED, metrics={"latencyMs": 9})


def stop(reason: str) -> bytes:
    return event("messageStop", stopReason=reason)


def opened(index: int, **what: Any) -> bytes:
    return event("contentBlockStart", contentBlockIndex=index, start=what)


def closed(index: int) -> bytes:
    return event("contentBlockStop", contentBlockIndex=index)


def body(*blocks: Any, reason: Any = "end_turn", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": list(blocks)}
    return {"output": {"message": message}, "stopReason": reason, "usage": USED, **more}


USE = {"toolUse": {"toolUseId": "t1", "name": "f", "input": {}}}
CALLED = (opened(0, toolUse={"toolUseId": "t1", "name": "f"}), closed(0))


# -- why it ended


def test_a_turn_that_calls_a_tool_says_so_whatever_bedrock_calls_it():
    whole = DIALECT.decode_reply(body(USE), {})
    stream = folded(START, *CALLED, stop("end_turn"), METADATA)
    for done in (whole, stream):
        assert (done.finish_reason, done.extra["stopReason"]) == ("tool_calls", "end_turn")
        assert done.message.parts == (ToolCall("t1", "f", "{}"),)


def test_a_turn_that_calls_none_has_stopped_though_bedrock_says_tool_use():
    whole = DIALECT.decode_reply(body({"text": "x"}, reason="tool_use"), {})
    stream = folded(START, delta(0, text="x"), stop("tool_use"), METADATA)
    for done in (whole, stream):
        assert (done.finish_reason, done.extra["stopReason"]) == ("stop", "tool_use")


@pytest.mark.parametrize(
    ("reason", "meant"), [("max_tokens", "length"), ("guardrail_intervened", "content_filter")]
)
def test_calls_do_not_hide_that_a_turn_was_cut(reason, meant):
    assert DIALECT.decode_reply(body(USE, reason=reason), {}).finish_reason == meant
    assert folded(START, *CALLED, stop(reason)).finish_reason == meant


def test_a_reply_that_does_not_say_why_it_ended():
    assert DIALECT.decode_reply(body({"text": "x"}, reason=None), {}).finish_reason == "stop"
    assert DIALECT.decode_reply(body(USE, reason=None), {}).finish_reason == "tool_calls"


# -- blocks and events


def test_the_same_number_for_blocks_of_different_kinds_keeps_them_apart():
    done = folded(
        START,
        delta(0, reasoningContent={"text": "hm"}),
        delta(0, reasoningContent={"signature": "S"}),
        delta(0, text="Hi"),
        closed(0),
        opened(0, toolUse={"toolUseId": "t1", "name": "f"}),
        delta(0, toolUse={"input": '{"a":'}),
        delta(0, toolUse={"input": "1}"}),
        closed(0),
        stop("tool_use"),
        METADATA,
    )
    assert done.message.parts == (Reasoning("hm", "S"), Text("Hi"), ToolCall("t1", "f", '{"a":1}'))
    assert done.message.parts[0].origin == NAME


@pytest.mark.parametrize("inputs", [(), ("",), ("", ""), ("{}",), ("", "{}")])
def test_a_call_without_arguments_has_empty_ones(inputs):
    pieces = [delta(0, toolUse={"input": piece}) for piece in inputs]
    done = folded(START, CALLED[0], *pieces, CALLED[1], stop("tool_use"))
    assert done.tool_calls[0].args == {}


def test_parallel_calls_of_one_name_are_two():
    done = folded(
        START,
        *CALLED,
        opened(1, toolUse={"toolUseId": "t2", "name": "f"}),
        delta(1, toolUse={"input": '{"a":1}'}),
        closed(1),
        stop("tool_use"),
    )
    assert [(one.id, one.arguments) for one in done.tool_calls] == [("t1", "{}"), ("t2", '{"a":1}')]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"image": {"format": "png", "source": {"bytes": "AA=="}}}, Image(None, "AA==", "image/png")),
        ({"audio": {"format": "pcm", "source": {"bytes": "AA=="}}}, Audio("AA==", "pcm")),
        ({"reasoningContent": {"redactedContent": "AA=="}}, Reasoning("", None, "AA==")),
        *(
            (block, Opaque(NAME, block))
            for block in (
                {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/o"}}}},
                {"image": {"format": "png", "source": {"bytes": ""}, "error": {"message": "filtered"}}},
                {"video": {"format": "mp4", "source": {"bytes": "AA=="}}},
                {"document": {"format": "pdf", "name": "d", "source": {"bytes": "AA=="}}},
                {"searchResult": {"source": "s", "title": "t", "content": [{"text": "x"}]}},
                {"toolAddition": {"tool": {"name": "f"}}},
                {"toolResult": {"toolUseId": "t", "content": [{"json": {"a": 1}}], "type": "x_result"}},
                {"guardContent": {"text": {"text": "x"}}},
                {"cachePoint": {"type": "default"}},
                {"somethingNew": {"a": 1}},
                {"text": "x", "annotation": {"a": 1}},
            )
        ),
    ],
)
def test_a_block_of_each_kind_is_read_and_goes_back_as_it_was(block, part):
    done = DIALECT.decode_reply(body(block), {})
    assert done.message.parts == (part,)
    request = Request("us.anthropic.claude-x", ["q", done.message, "r"])
    assert DIALECT.encode_request(request)["messages"][1]["content"] == [block]


def test_citations_before_and_between_words_are_of_their_text():
    cited = {"title": "T", "source": "S", "location": {"web": {"url": "https://a", "domain": "a"}}}
    done = folded(
        START,
        delta(0, text="Sky"),
        delta(0, citation=cited),
        delta(0, text=" is blue"),
        closed(0),
        delta(1, citation=cited),
        closed(1),
        stop("end_turn"),
    )
    assert done.message.parts == (
        Text("Sky is blue", {"citations": [cited]}),
        Text("", {"citations": [cited]}),
    )


def test_whatever_comes_at_the_end_is_kept_by_its_name():
    told = {
        "metrics": {"latencyMs": 9},
        "trace": {"guardrail": {"actionReason": "x", "inputAssessment": {"g": {}}}, "promptRouter": {}},
        "performanceConfig": {"latency": "optimized"},
        "serviceTier": {"type": "flex"},
        "novel": [1],
    }
    fields = {"additionalModelResponseFields": {"stop_sequence": "x"}}
    used = {**USED, "cacheDetails": [{"ttl": "5m", "inputTokens": 4}], "cacheWriteInputTokens": 4}
    stream = folded(
        START,
        delta(0, text="x"),
        event("messageStop", stopReason="stop_sequence", **fields),
        event("metadata", usage=used, **told),
    )
    whole = DIALECT.decode_reply(
        {**body({"text": "x"}, reason="stop_sequence", **told, **fields), "usage": used}, {}
    )
    for done in (whole, stream):
        assert done.extra == {"stopReason": "stop_sequence", **fields, **told}
        assert done.usage == Usage(7, 2, cache_write_tokens=4, extra={"cacheDetails": used["cacheDetails"]})


def test_every_event_of_the_service_model_is_an_event_or_an_error():
    loaders = pytest.importorskip("botocore.loaders")
    shapes = loaders.Loader().load_service_model("bedrock-runtime", "service-2")["shapes"]
    for name, member in shapes["ConverseStreamOutput"]["members"].items():
        decoder = DIALECT.decoder()
        if shapes[member["shape"]].get("exception"):
            with pytest.raises(LLMError):
                decoder.feed(exception(name, message="no"))
        else:
            required = {one: {} for one in shapes[member["shape"]].get("required", ())}
            usual = {"contentBlockIndex": 0, "role": "assistant", "stopReason": "end_turn"}
            decoder.feed(event(name, **{**required, **{n: v for n, v in usual.items() if n in required}}))


def test_the_first_response_of_the_framing_is_passed_over():
    first = encode({":message-type": "event", ":event-type": "initial-response"}, b"{}")
    assert folded(first, START, delta(0, text="x"), stop("end_turn"), METADATA).text == "x"


@pytest.mark.parametrize("cut", ["before messageStop", "after a call"])
def test_without_message_stop_nothing_is_a_success(cut):
    messages = (START, delta(0, text="x"), METADATA) if cut == "before messageStop" else (START, *CALLED)
    with pytest.raises(StreamBroken):
        folded(*messages)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
def test_bytes_that_are_changed_are_never_another_reply(noise, place, value):
    whole = b"".join((START, delta(0, text="hello"), stop("end_turn"), METADATA))
    for data in (noise, whole[: place % len(whole)] + bytes((value,)) + whole[place % len(whole) + 1 :]):
        decoder = DIALECT.decoder()
        try:
            decoder.feed(data)
            decoder.close()
        except (BadReply, StreamBroken):
            continue
        assert data == whole


def test_headers_of_every_type_are_read():
    kinds = {"a": True, "b": False, "c": 7, "d": b"\0", "e": "x"}
    (message,) = EventStreamParser().feed(encode(kinds, b"p"))
    assert (dict(message.headers), message.payload) == (kinds, b"p")


# -- usage

_counts = st.none() | st.integers(-2, 99) | st.sampled_from((1.0, 1.5, "7", 10**30, True, []))
_FIELDS = (
    "inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens",
    "cacheReadInputTokenCount", "cacheWriteInputTokenCount",
)  # fmt: skip


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_FIELDS, _counts)))
def test_usage_of_any_numbers_adds_up(wire):
    usage = decode_usage(json.loads(json.dumps(wire)))
    if usage is not None:
        assert 0 <= usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens < 4_000_000_000
        assert 0 <= usage.output_tokens < 1_000_000_000


# -- requests


def test_a_message_of_nothing_is_left_out_or_refused_but_never_sent():
    def contents(*messages: Any) -> list[Any]:
        return DIALECT.encode_request(Request("m", messages), Losses())["messages"]

    assert (
        contents("a", Message("user", ()))
        == contents("a", " ")
        == [{"role": "user", "content": [{"text": "a"}]}]
    )
    for messages in ([""], [Message("user", ())], ["a", Message("assistant", "b"), Message("user", "\n")]):
        with pytest.raises(Unsupported, match=r"says nothing"):
            contents(*messages)


def test_a_system_prompt_alone_is_asked_by_the_user():
    losses = Losses()
    wire = DIALECT.encode_request(Request("m", Message("system", "Say hi.")), losses)
    assert wire == {"messages": [{"role": "user", "content": [{"text": "Say hi."}]}]}
    assert losses.warnings == (
        "messages emulated: the system message is the user's: Bedrock answers nothing else",
    )


def test_a_messages_own_words_cannot_take_its_place():
    said = Message("user", "x", extra={"role": "system", "content": "y", "later": 1})
    (message,) = DIALECT.encode_request(Request("m", said))["messages"]
    assert message == {"role": "user", "content": [{"text": "x"}], "later": 1}


def test_a_stream_with_all_kinds_goes_back_as_the_full_reply_would():
    done = folded(
        START,
        delta(0, reasoningContent={"redactedContent": b64(b"ab")}),
        delta(0, reasoningContent={"redactedContent": b64(b"c")}),
        closed(0),
        delta(1, text="Hi"),
        closed(1),
        opened(2, toolUse={"toolUseId": "t", "name": "f"}),
        closed(2),
        stop("tool_use"),
    )
    result = Message("tool", ToolResult("t", ""))
    wire = DIALECT.encode_request(Request("us.anthropic.claude-x", ["q", done.message, result]))["messages"]
    assert wire[1]["content"] == [
        {"reasoningContent": {"redactedContent": b64(b"abc")}},
        {"text": "Hi"},
        {"toolUse": {"toolUseId": "t", "name": "f", "input": {}}},
    ]
    assert wire[2] == {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": []}}]}
    assert [headers[":event-type"] for headers, _ in frames(START + METADATA)] == ["messageStart", "metadata"]
