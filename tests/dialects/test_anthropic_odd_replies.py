"""What Anthropic's API says that came after the recordings: nothing is lost, full or streamed, either way."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.types import Completion, Message, Opaque, Reasoning, Request, Text, ToolCall, fold, unfold

DIALECT = AnthropicMessages()
USAGE: dict[str, Any] = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 4,
    "cache_read_input_tokens": 2,
    "output_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 1},
    "iterations": [
        {"type": "compaction", "input_tokens": 7, "output_tokens": 1},
        {"type": "message", "input_tokens": 3},
    ],
    "fallback_credit": {"type": "redeemed"},
    "server_tool_use": {"web_search_requests": 1},
    "service_tier": "standard",
    "inference_geo": "eu",
    "speed": "fast",
}
BLOCKS: list[dict[str, Any]] = [
    {
        "type": "compaction",
        "content": "So far …",
        "encrypted_content": "enc",
        "signature": "sig",
        "tool_changes": [],
    },
    {"type": "compaction", "content": None},
    {
        "type": "fallback",
        "from": {"model": "claude-a"},
        "to": {"model": "claude-b"},
        "trigger": {"type": "refusal"},
    },
    {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "f", "server_name": "s", "input": {"a": 1}},
    {
        "type": "mcp_tool_result",
        "tool_use_id": "mcptoolu_1",
        "is_error": False,
        "content": [{"type": "text", "text": "x"}],
    },
    {"type": "mcp_tool_listing", "server_name": "s", "tools": []},
    {
        "type": "server_tool_use",
        "id": "srvtoolu_1",
        "name": "tool_search_tool_regex",
        "input": {"q": "x"},
        "caller": {"type": "direct"},
    },
    {
        "type": "tool_search_tool_result",
        "tool_use_id": "srvtoolu_1",
        "content": {
            "type": "tool_search_tool_search_result",
            "tool_references": [{"type": "tool_reference", "tool_name": "f"}],
        },
    },
    {
        "type": "bash_code_execution_tool_result",
        "tool_use_id": "srvtoolu_2",
        "content": {"type": "bash_code_execution_tool_result_error", "error_code": "unavailable"},
    },
    {
        "type": "advisor_tool_result",
        "tool_use_id": "srvtoolu_3",
        "content": {"type": "advisor_result", "text": "no"},
    },
    {"type": "container_upload", "file_id": "file_1"},
    {"type": "connector_text", "text": "from afar", "signature": "sig"},
    {"type": "never_heard_of", "deep": {"er": [1, {"a": None}]}},
]


def message(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
        **more,
    }


def streamed(completion: Completion) -> Completion:
    """Out as a stream, and in again."""
    encoder, decoder = DIALECT.encoder(Request()), DIALECT.decoder()
    data = b"".join(map(encoder.feed, unfold(completion))) + encoder.close()
    events = [event for at in range(0, len(data), 7) for event in decoder.feed(data[at : at + 7])]
    return fold([*events, *decoder.close()])


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["type"])
def test_a_block_that_is_not_modelled_survives_everywhere(block):
    body = message({"type": "text", "text": "a"}, block, {"type": "text", "text": "b"})
    completion = DIALECT.decode_reply(body, {})
    assert completion.message.parts == (Text("a"), Opaque(DIALECT.name, block), Text("b"))
    assert DIALECT.encode_reply(completion)["content"] == body["content"]
    assert streamed(completion).message == completion.message
    history = [Message("user", "x"), completion.message]
    sent = DIALECT.encode_request(Request("m", history))["messages"][1]
    assert sent["content"][1] == block
    again = DIALECT.decode_request({"model": "m", "messages": [sent], "max_tokens": 9})
    assert again.messages[0].parts[1] == Opaque(DIALECT.name, block)


def test_usage_of_every_kind_survives():
    completion = DIALECT.decode_reply(message({"type": "text", "text": "a"}), {})
    assert completion.usage is not None
    assert (completion.usage.input_tokens, completion.usage.cache_write_tokens) == (16, 4)
    assert DIALECT.encode_reply(completion)["usage"] == USAGE
    assert streamed(completion).usage == completion.usage


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("pause_turn", "stop"),
        ("compaction", "stop"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refusal"),
        ("never_heard_of", "stop"),
        (None, None),
    ],
)
def test_every_stop_reason_comes_back_as_it_was(word, reason):
    details = {"type": "refusal", "category": "cyber", "explanation": None, "recommended_model": "claude-b"}
    more = {"stop_details": details} if word == "refusal" else {}
    body = message({"type": "text", "text": "a"}, stop_reason=word, **more)
    completion = DIALECT.decode_reply(body, {})
    assert completion.finish_reason == reason
    assert DIALECT.encode_reply(completion) == body
    if reason is not None:
        assert streamed(completion) == completion


@pytest.mark.parametrize(
    "more",
    [
        {"container": {"id": "c", "expires_at": "2030-01-01", "skills": None}},
        {
            "context_management": {
                "applied_edits": [{"type": "clear_tool_uses_20250919", "cleared_tool_uses": 2}]
            }
        },
        {"input_transformations": [{"type": "thinking_dropped", "message_index": 1}]},
        {"diagnostics": {"cache_miss_reason": {"type": "model_changed"}}},
        {"stop_sequence": "END", "stop_reason": "stop_sequence"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_stands_beside_the_content_survives(more):
    body = message({"type": "text", "text": "a"}, **more)
    completion = DIALECT.decode_reply(body, {})
    assert DIALECT.encode_reply(completion) == body
    assert streamed(completion).extra == completion.extra


def test_what_comes_at_the_end_of_a_stream_beside_its_delta_is_kept():
    """After a fallback amid a stream the whole list comes again, in place of the one at the beginning."""
    begin = message(stop_reason=None, input_transformations=[{"type": "thinking_dropped", "at": 1}])
    last = [{"type": "thinking_mismatch_allowed", "at": 2}]
    data = b"".join(
        b"data: %s\n\n" % orjson.dumps(event)
        for event in (
            {"type": "message_start", "message": begin},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": None,
                "input_transformations": last,
            },
            {"type": "message_stop"},
        )
    )
    decoder = DIALECT.decoder()
    completion = fold([*decoder.feed(data), *decoder.close()])
    assert completion.extra["input_transformations"] == last


def test_thinking_that_is_not_shown_is_kept_with_its_proof():
    body = message(
        {"type": "thinking", "thinking": "", "signature": "sig"},
        {"type": "redacted_thinking", "data": "enc"},
        {"type": "text", "text": "a"},
    )
    completion = DIALECT.decode_reply(body, {})
    first, second = completion.message.parts[:2]
    assert (first, second) == (Reasoning("", "sig"), Reasoning("", None, "enc"))
    assert DIALECT.encode_reply(completion)["content"] == body["content"]
    assert streamed(completion).message == completion.message
    sent = DIALECT.encode_request(Request("m", [Message("user", "x"), completion.message]))
    assert sent["messages"][1]["content"] == body["content"]


def test_thinking_without_text_or_signature_is_an_empty_thought():
    completion = DIALECT.decode_reply(message({"type": "thinking", "thinking": None}), {})
    assert completion.message.parts == (Reasoning(""),)


def test_estimates_in_deltas_are_signs_of_life():
    data = b"".join(
        b"data: %s\n\n" % orjson.dumps(event)
        for event in (
            {"type": "message_start", "message": message(stop_reason=None)},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "thinking", "thinking": "", "signature": ""},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "thinking_delta", "thinking": "", "estimated_tokens": 64},
            },
            {"type": "content_block_delta", "index": 0, "delta": {"type": "telepathy_delta", "x": 1}},
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "signature_delta", "signature": "sig"},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 3},
            },
            {"type": "message_stop"},
        )
    )
    decoder = DIALECT.decoder()
    completion = fold([*decoder.feed(data), *decoder.close()])
    assert completion.message.parts == (Reasoning("", "sig"),)


@pytest.mark.parametrize("text", ['{"a": ', "not json", '{"a": 1}{', "[1]"])
def test_arguments_that_are_no_object_survive_fine_grained_streams(text):
    """Fine-grained tool streaming checks nothing, so what comes is the model's own text."""
    call = ToolCall("toolu_1", "f", text, {"caller": {"type": "direct"}, "toolset_name": "computer"})
    completion = Completion(
        id="msg_1",
        model="claude-x",
        message=Message("assistant", [call], dialect=DIALECT.name),
        finish_reason="tool_calls",
        usage=DIALECT.decode_reply(message(), {}).usage,
    )
    assert streamed(completion).message == completion.message
    assert DIALECT.encode_reply(completion)["content"][0]["input"] == text


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "adaptive"},
        {"type": "adaptive", "display": "omitted"},
        {"type": "between_tools"},
        {"type": "enabled", "budget_tokens": 2000, "display": "summarized"},
        {"type": "disabled"},
    ],
)
def test_requests_of_today_go_as_they_came(thinking):
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {
                "role": "user",
                "content": [{"type": "search_result", "source": "s", "title": "t", "content": []}],
            },
            {"role": "assistant", "content": BLOCKS},
            {"role": "user", "content": "go on"},
        ],
        "thinking": thinking,
        "output_config": {
            "effort": "xhigh",
            "format": {"type": "json_schema", "schema": {"type": "object"}},
            "task_budget": {"type": "tokens", "total": 20000},
        },
        "context_management": {"edits": [{"type": "compact_20260112"}]},
        "container": {"id": "c"},
        "mcp_servers": [{"type": "url", "url": "https://x", "name": "s"}],
        "tools": [
            {"type": "memory_20250818", "name": "memory"},
            {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
            {"type": "mcp_toolset", "mcp_server_name": "s"},
            {
                "name": "f",
                "input_schema": {"type": "object"},
                "defer_loading": True,
                "strict": True,
                "eager_input_streaming": True,
            },
        ],
        "fallbacks": [{"model": "claude-b"}],
        "speed": "fast",
        "inference_geo": "eu",
    }
    assert DIALECT.encode_request(DIALECT.decode_request(body)) == body
