"""What servers of Anthropic's messages send that no recording here has; each shape with where it was told of.

The sources are the types of Anthropic's Python SDK, or an issue or change request of a public project
where somebody met the shape (``owner/repo#number`` on GitHub).
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    InvalidRequest,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import Completion, Opaque, Reasoning, Text, ToolCall, Usage, fold
from tests.dialects.anthropic_values import decode_all, split_at

DIALECT = AnthropicMessages()


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def start(usage: Any = {"input_tokens": 5, "output_tokens": 1}, **more: Any) -> bytes:  # noqa: B006  never changed
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], **more}
    return event("message_start", message={**message, "usage": usage} if usage else message)


def opened(index: Any, **block: Any) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def delta(index: Any, kind: str, **fields: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def stopped(index: Any) -> bytes:
    return event("content_block_stop", index=index)


def end(reason: Any = "end_turn", usage: Any = {"output_tokens": 3}, **more: Any) -> bytes:  # noqa: B006  never changed
    told = {"usage": usage} if usage is not ... else {}
    return event("message_delta", delta={"stop_reason": reason}, **told, **more) + event("message_stop")


def text(index: Any = 0) -> bytes:
    return opened(index, type="text", text="") + delta(index, "text_delta", text="hi") + stopped(index)


def read(stream: bytes) -> Completion:
    """The completion of a stream, which is the same for every cutting of its bytes."""
    events = decode_all(DIALECT.decoder(), [stream])
    assert decode_all(DIALECT.decoder(), split_at(stream, range(len(stream)))) == events
    return fold(events)


def broken(stream: bytes) -> LLMError:
    with pytest.raises(LLMError) as caught:
        decode_all(DIALECT.decoder(), [stream])
    return caught.value


# -- blocks


def test_blocks_that_are_not_stopped_end_where_the_next_begins():
    # Kimi: xemantic/anthropic-sdk-kotlin#147
    stream = start() + opened(0, type="thinking", thinking="")
    stream += delta(0, "thinking_delta", thinking="hmm") + delta(0, "signature_delta", signature="s")
    stream += opened(1, type="server_tool_use", id="a", name="web_search", input={})
    stream += delta(1, "input_json_delta", partial_json='{"q":1}')
    stream += opened(2, type="text", text="") + delta(2, "text_delta", text="hi")
    assert read(stream + end()).message.parts == (
        Reasoning("hmm", "s"),
        Opaque(
            "anthropic.messages",
            {"type": "server_tool_use", "id": "a", "name": "web_search", "input": {"q": 1}},
        ),
        Text("hi"),
    )


@pytest.mark.parametrize("index", [0, None, "0"])
def test_blocks_that_all_have_one_number_stay_apart(index):
    stream = start() + opened(index, type="thinking", thinking="")
    stream += delta(index, "thinking_delta", thinking="hmm") + stopped(index) + text(index)
    for name in "fg":
        stream += opened(index, type="tool_use", id=name, name=name, input={})
        stream += delta(index, "input_json_delta", partial_json='{"x":1}') + stopped(index)
    done = read(stream + end("tool_use"))
    assert done.message.parts == (
        Reasoning("hmm"),
        Text("hi"),
        ToolCall("f", "f", '{"x":1}'),
        ToolCall("g", "g", '{"x":1}'),
    )


def test_calls_that_come_interleaved_stay_open():
    stream = start()
    for index, name in enumerate("fg"):
        stream += opened(index, type="tool_use", id=name, name=name, input={})
    for piece in ('{"x"', ":1}"):
        for index in range(2):
            stream += delta(index, "input_json_delta", partial_json=piece)
    done = read(stream + stopped(0) + stopped(1) + end("tool_use"))
    assert done.tool_calls == (ToolCall("f", "f", '{"x":1}'), ToolCall("g", "g", '{"x":1}'))


@pytest.mark.parametrize("absent", [{}, {"text": None}])
def test_what_a_block_lacks_at_its_start_is_empty(absent):
    stream = start() + opened(0, type="text", **absent) + delta(0, "text_delta", text="hi") + stopped(0)
    stream += opened(1, type="thinking") + delta(1, "thinking_delta", thinking=None)
    stream += delta(1, "thinking_delta", thinking="hmm") + delta(1, "signature_delta", signature="s")
    stream += opened(2, type="tool_use", name="f") + delta(2, "input_json_delta", partial_json=None)
    stream += delta(2, "input_json_delta", partial_json="{}") + end("tool_use")
    done = read(stream)
    assert done.message.parts[:2] == (Text("hi"), Reasoning("hmm", "s"))
    (call,) = done.tool_calls
    assert (call.name, call.arguments) == ("f", "{}")
    assert call.id.startswith("call_")
    whole = {
        "content": [
            {"type": "text", "text": None},
            {"type": "thinking", "signature": "s"},
            {"type": "tool_use", "name": "f", "input": None},
        ]
    }
    parts = DIALECT.decode_reply({**whole, "stop_reason": "tool_use"}, {}).message.parts
    assert parts[:2] == (Text(""), Reasoning("", "s"))


def test_a_delta_without_its_citation_is_passed_over():
    stream = opened(0, type="text", text="") + delta(0, "citations_delta", citation=None)
    assert read(start() + stream + delta(0, "text_delta", text="hi") + end()).message.parts == (Text("hi"),)


def test_content_that_is_in_the_message_at_its_start_counts():
    first = {"type": "text", "text": "be"}
    assert read(start(content=[first]) + end()).message.parts == (Text("be"),)
    done = read(start(content=[first]) + opened(1, type="text", text="gun") + end())
    assert done.text == "begun"


@pytest.mark.parametrize("signature", [["s"], 5, {"a": 1}])
def test_a_signature_that_is_no_text_is_not_the_protocol(signature):
    block = {"type": "thinking", "thinking": "hmm", "signature": signature}
    with pytest.raises(BadReply, match="signature"):
        DIALECT.decode_reply({"content": [block]}, {})
    assert isinstance(broken(start() + opened(0, **block) + end()), BadReply)


# -- the end


@pytest.mark.parametrize(
    ("first", "last", "usage"),
    [
        # earendil-works/pi#6567: MiniMax leaves it out
        ({"input_tokens": 5, "output_tokens": 1}, ..., Usage(5, 1)),
        ({"input_tokens": 5, "output_tokens": 1}, None, Usage(5, 1)),
        # anomalyco/opencode#43761, karthink/gptel#1331
        ({"input_tokens": 5, "output_tokens": 1}, {"input_tokens": None, "output_tokens": 3}, Usage(5, 3)),
        # zai-org/GLM-5#139
        (
            {"input_tokens": 0, "output_tokens": 0},
            {"input_tokens": 14, "output_tokens": 3, "cache_read_input_tokens": 2},
            Usage(16, 3, 2),
        ),
        (None, {"input_tokens": 5.0, "output_tokens": 3}, Usage(5, 3)),
    ],
)
def test_usage_is_found_where_it_is(first, last, usage):
    assert read(start(first) + text() + end(usage=last)).usage == usage


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        ("compaction", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("SENSITIVE", "content_filter"),
        ("error", "error"),
    ],
)
def test_stop_reasons_of_other_wires_are_understood_and_not_passed_on(word, finish):
    streamed = read(start() + text() + end(word))
    whole = DIALECT.decode_reply({"content": [], "stop_reason": word}, {})
    assert streamed.finish_reason == whole.finish_reason == finish
    assert streamed.extra["stop_reason"] == whole.extra["stop_reason"] == word
    if finish != "error":
        sent = DIALECT.encode_reply(whole)["stop_reason"]
        assert sent == {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}.get(
            finish, word
        )


def test_no_data_is_a_sign_of_life():
    assert read(start() + b"event: ping\ndata: \n\n" + text() + end() + b"data: [DONE]\n\n").text == "hi"


def test_events_without_their_blank_lines_are_read_line_by_line():
    stream = start() + text() + end()
    assert read(stream.replace(b"\n\n", b"\n")) == read(stream)


def test_an_end_that_is_only_told_is_no_end():
    # esengine/DeepSeek-Reasonix#8756 takes it for one; BerriAI/litellm#32159 does not, and we cannot know
    stream = start() + text() + end()
    assert isinstance(broken(stream[: stream.index(b"event: message_stop")]), StreamBroken)


# -- errors


@pytest.mark.parametrize(
    ("wire", "kind", "words"),
    [
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, AuthenticationFailed, "login"),
        ({"code": 500, "msg": "404 NOT_FOUND", "success": False}, ServiceUnavailable, "NOT_FOUND"),  # Z.AI
        ({"detail": "not found"}, ServiceUnavailable, "not found"),
        ({"error": {"message": "slow", "type": "rate_limit_error"}}, RateLimited, "slow"),
        ({"message": "Internal server error"}, ServiceUnavailable, "Internal"),
    ],
)
def test_an_error_in_a_200_is_that_error_whatever_its_form(wire, kind, words):
    data = orjson.dumps(wire)
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(wire, {})
    for error in (caught.value, broken(data), broken(b"data: " + data + b"\n\n"), broken(start() + data)):
        assert type(error) is kind
        assert words in error.message


def test_a_list_with_an_error_in_place_of_a_stream_is_that_error():
    wire = b'[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]'  # Vertex
    assert isinstance(broken(wire), RateLimited)


def test_an_event_of_a_later_version_may_have_a_message():
    assert read(start() + event("notice", message="new") + text() + end()).text == "hi"


def test_a_message_with_an_error_is_an_error():
    with pytest.raises(Overloaded):
        DIALECT.decode_reply({"content": [], "error": {"type": "overloaded_error", "message": "x"}}, {})


@pytest.mark.parametrize(
    ("status", "wire", "kind", "words"),
    [
        # the SDK's LinkedOrganizationSpendLimitReachedErrorDetails and RampLimitExceededErrorDetails
        (
            400,
            {
                "error": {
                    "type": "invalid_request_error",
                    "message": "x",
                    "details": {"error_code": "linked_organization_spend_limit_reached"},
                }
            },
            QuotaExceeded,
            "x",
        ),
        (
            429,
            {
                "error": {
                    "type": "rate_limit_error",
                    "message": "x",
                    "details": {"error_code": "ramp_limit_exceeded"},
                }
            },
            RateLimited,
            "x",
        ),
        (429, {"base_resp": {"status_code": 1008, "status_msg": "no balance"}}, QuotaExceeded, "no balance"),
        (500, {"code": 500, "msg": "404 NOT_FOUND"}, ServiceUnavailable, "NOT_FOUND"),
        (400, {"detail": [{"loc": ["body"], "msg": "field required"}]}, InvalidRequest, "field required"),
        (400, {"Message": "bad input"}, InvalidRequest, "bad input"),
        (400, {"errors": ["bad input"]}, InvalidRequest, "bad input"),
    ],
)
def test_an_error_is_told_by_what_its_server_calls_it(status, wire, kind, words):
    error = DIALECT.decode_error(status, {}, orjson.dumps(wire))
    assert type(error) is kind
    assert words in error.message


def test_aws_names_throttling_in_a_header():
    headers = {"x-amzn-errortype": "ThrottlingException:http://internal.amazon.com/"}
    error = DIALECT.decode_error(400, headers, b'{"message":"Too many requests"}')
    assert isinstance(error, RateLimited)
    assert error.retryable
