from __future__ import annotations

import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import BadReply, Overloaded
from llmpipe.types import (
    Audio,
    Completion,
    Message,
    ModelInfo,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
)

DIALECT = AnthropicMessages()


def reply(*content, stop_reason="end_turn", usage=None, **fields):
    body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2} if usage is None else usage,
    }
    return DIALECT.decode_reply({**body, **fields}, {"Request-Id": "req_1", "Server": "x"})


def test_every_kind_of_block_becomes_a_part():
    server = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": 1}}
    cited = {"type": "text", "text": "b", "citations": [{"type": "char_location"}]}
    done = reply(
        {"type": "thinking", "thinking": "why", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "a", "citations": None},
        cited,
        server,
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": [1]}, "caller": {"type": "direct"}},
        {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        stop_reason="tool_use",
    )
    assert done.message.parts == (
        Reasoning("why", "sig"),
        Reasoning("", None, "secret"),
        Text("a"),
        Text("b", {"citations": [{"type": "char_location"}]}),
        Opaque("anthropic.messages", server),
        ToolCall("t", "f", '{"x":[1]}', {"caller": {"type": "direct"}}),
        ToolCall("u", "g", "{}"),
    )
    assert done.finish_reason == "tool_calls"
    assert done.extra == {}
    assert done.request_id == "req_1"
    assert done.headers == {"request-id": "req_1"}


@pytest.mark.parametrize(
    ("stop_reason", "finish", "extra"),
    [
        ("end_turn", "stop", {}),
        ("stop_sequence", "stop", {"stop_reason": "stop_sequence"}),
        ("pause_turn", "stop", {"stop_reason": "pause_turn"}),
        ("max_tokens", "length", {}),
        ("model_context_window_exceeded", "length", {"stop_reason": "model_context_window_exceeded"}),
        ("tool_use", "tool_calls", {}),
        ("refusal", "refusal", {}),
        ("of_tomorrow", "stop", {"stop_reason": "of_tomorrow"}),
        (None, None, {}),
    ],
)
def test_stop_reasons_are_mapped_and_kept_where_they_say_more(stop_reason, finish, extra):
    done = reply(stop_reason=stop_reason)
    assert done.finish_reason == finish
    assert done.extra == extra
    assert DIALECT.encode_reply(done)["stop_reason"] == stop_reason


def test_a_finish_reason_that_was_changed_on_the_way_wins_over_the_wires():
    done = Completion(finish_reason="refusal", extra={"stop_reason": "pause_turn"})
    assert DIALECT.encode_reply(done)["stop_reason"] == "refusal"
    assert DIALECT.encode_reply(Completion(finish_reason="content_filter"))["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 30,
                "output_tokens": 9,
                "output_tokens_details": {"thinking_tokens": 4},
                "service_tier": "standard",
                "server_tool_use": None,
            },
            Usage(135, 9, 100, 30, 4, extra={"service_tier": "standard"}),
        ),
        ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": None}, Usage(5, 2)),
        ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": -1}, Usage(5, 2)),
        (
            {"input_tokens": 5, "output_tokens": 2, "output_tokens_details": {"thinking_tokens": 3}},
            Usage(5, 2, 0, 0, 2),
        ),
        ({"input_tokens": -5, "output_tokens": 2}, None),
        ({"input_tokens": "5", "output_tokens": 2}, None),
        ({"input_tokens": True, "output_tokens": 2}, None),
        ({"input_tokens": 5}, None),
        ({}, None),
        ("many", None),
    ],
)
def test_usage_counts_cached_input_as_input_and_nothing_that_is_no_count(wire, usage):
    assert reply(usage=wire).usage == usage


def test_usage_is_split_again_for_the_wire():
    body = DIALECT.encode_reply(Completion(usage=Usage(135, 9, 100, 30, 4)))
    assert body["usage"] == {
        "input_tokens": 5,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 30,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
    }
    assert DIALECT.encode_reply(Completion(usage=Usage(5, 1, 9)))["usage"]["input_tokens"] == 0
    assert DIALECT.encode_reply(Completion())["usage"] == {"input_tokens": 0, "output_tokens": 0}


def test_an_error_in_a_200_is_that_error():
    body = {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
        "request_id": "req_2",
    }
    with pytest.raises(Overloaded) as caught:
        DIALECT.decode_reply(body, {})
    assert caught.value.request_id == "req_2"
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"type": "message", "content": "text"},
        {"content": ["text"]},
        {"content": [{"text": "x"}]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "text", "text": 5}]},
        {"content": [{"type": "tool_use", "id": "a"}]},
        {"content": [{"type": "redacted_thinking"}]},
    ],
)
def test_what_is_no_message_is_a_bad_reply(body):
    with pytest.raises(BadReply):
        DIALECT.decode_reply(body, {})


def test_a_thinking_block_with_an_empty_signature_is_unsigned():
    assert reply({"type": "thinking", "thinking": "why", "signature": ""}).message.parts == (
        Reasoning("why"),
    )


def test_a_call_cut_by_the_limit_is_never_an_empty_one():
    done = Completion(message=Message("assistant", ToolCall("a", "f", '{"x": ')), finish_reason="length")
    body = DIALECT.encode_reply(done)
    assert body["content"][0]["input"] == '{"x": '
    assert DIALECT.decode_reply(body, {}).tool_calls[0].arguments == '{"x": '


def test_parts_without_a_form_are_left_out_and_a_refusal_is_text():
    parts = [Audio("AAAA"), Opaque("openai.responses", {}), Refusal("No."), Reasoning("why")]
    done = Completion(message=Message("assistant", parts), finish_reason="refusal")
    assert DIALECT.encode_reply(done)["content"] == [
        {"type": "text", "text": "No."},
        {"type": "thinking", "thinking": "why", "signature": ""},
    ]


def test_a_reply_that_ended_in_an_error_is_not_passed_off_as_one():
    with pytest.raises(BadReply):
        DIALECT.encode_reply(Completion(finish_reason="error"))


def test_models_come_and_go():
    listed = (
        ModelInfo("claude-b", "anthropic", 1_735_689_600.0, {"display_name": "Claude B"}),
        ModelInfo("claude-a", "anthropic"),
    )
    body = DIALECT.encode_models(listed)
    assert body["data"][0]["created_at"] == "2025-01-01T00:00:00Z"
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("claude-b", "claude-a", False)
    again = DIALECT.decode_models(body)
    assert again[0] == listed[0]
    assert again[1].created is None
    assert DIALECT.encode_models([])["data"] == []
    for odd in ("yesterday", None, 5):
        assert DIALECT.decode_models({"data": [{"id": "c", "created_at": odd}, {}]}) == (
            ModelInfo("c", "anthropic"),
        )
    with pytest.raises(BadReply):
        DIALECT.decode_models({"error": "no"})


@pytest.mark.parametrize("body", [{}, {"input_tokens": "5"}, {"input_tokens": -1}])
def test_a_count_that_is_none_is_a_bad_reply(body):
    with pytest.raises(BadReply):
        DIALECT.decode_count(body)
