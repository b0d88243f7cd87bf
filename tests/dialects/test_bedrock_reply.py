from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import BadReply, LLMError, PermissionDenied
from llmpipe.types import Audio, Image, Opaque, Reasoning, Text, ToolCall, Usage
from tests.dialects import strategies
from tests.dialects.bedrock_values import DIALECT, NAME

USAGE = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}


def body_of(*blocks, stop="end_turn", **more):
    message = {"role": "assistant", "content": list(blocks)}
    return {
        "output": {"message": message},
        "stopReason": stop,
        "usage": USAGE,
        "metrics": {"latencyMs": 9},
        **more,
    }


def decoded(*blocks, **more):
    return DIALECT.decode_reply(body_of(*blocks, **more), {})


def part(block):
    (found,) = decoded(block).message.parts
    return found


def test_a_reply_of_text():
    headers = {"X-Amzn-RequestId": "r-1", "Content-Type": "application/json"}
    done = DIALECT.decode_reply(body_of({"text": "hi"}), headers)
    assert (done.text, done.finish_reason, done.usage) == ("hi", "stop", Usage(3, 2))
    assert (done.request_id, done.id, done.model) == ("r-1", "", "")
    assert done.extra == {"metrics": {"latencyMs": 9}}
    assert done.message.dialect == NAME


@pytest.mark.parametrize(
    ("told", "meant", "extra"),
    [
        ("end_turn", "stop", False),
        ("stop_sequence", "stop", True),
        ("max_tokens", "length", False),
        ("model_context_window_exceeded", "length", True),
        ("guardrail_intervened", "content_filter", True),
        ("content_filtered", "content_filter", False),
        ("malformed_model_output", "error", True),
        ("malformed_tool_use", "error", True),
        ("something_new", "stop", True),
    ],
)
def test_every_reason_to_stop_is_understood(told, meant, extra):
    done = decoded({"text": "x"}, stop=told)
    assert done.finish_reason == meant
    assert done.extra.get("stopReason") == (told if extra else None)


def test_every_reason_that_the_service_model_names_is_in_the_table():
    loaders = pytest.importorskip("botocore.loaders")
    shapes = loaders.Loader().load_service_model("bedrock-runtime", "service-2")["shapes"]
    from llmpipe.dialects.bedrock_converse.reply import _FINISH

    assert set(shapes["StopReason"]["enum"]) == set(_FINISH)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            {"toolUse": {"toolUseId": "t", "name": "add", "input": {"a": [1]}, "type": "tool_use"}},
            ToolCall("t", "add", '{"a":[1]}', {"type": "tool_use"}),
        ),
        ({"toolUse": {"toolUseId": "t", "name": "add"}}, ToolCall("t", "add", "{}")),
        (
            {"toolUse": {"toolUseId": "t", "name": "search", "input": {}, "type": "server_tool_use"}},
            Opaque(
                NAME,
                {"toolUse": {"toolUseId": "t", "name": "search", "input": {}, "type": "server_tool_use"}},
            ),
        ),
        (
            {"toolResult": {"toolUseId": "t", "content": []}},
            Opaque(NAME, {"toolResult": {"toolUseId": "t", "content": []}}),
        ),
        ({"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}}, Reasoning("t", "s")),
        ({"reasoningContent": {"reasoningText": {"text": "t", "signature": ""}}}, Reasoning("t")),
        ({"reasoningContent": {"redactedContent": "eA=="}}, Reasoning("", None, "eA==")),
        (
            {"citationsContent": {"content": [{"text": "a"}, {"text": "b"}], "citations": [{"title": "T"}]}},
            Text("ab", {"citations": [{"title": "T"}]}),
        ),
        (
            {"image": {"format": "png", "source": {"bytes": "AAAA"}}},
            Image(data="AAAA", media_type="image/png"),
        ),
        ({"audio": {"format": "mp3", "source": {"bytes": "AAAA"}}}, Audio("AAAA", "mp3")),
        (
            {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/x"}}}},
            Opaque(NAME, {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/x"}}}}),
        ),
        ({"somethingNew": {"a": 1}}, Opaque(NAME, {"somethingNew": {"a": 1}})),
        ({"text": "a", "also": 1}, Opaque(NAME, {"text": "a", "also": 1})),
    ],
)
def test_every_kind_of_block_is_read(block, expected):
    assert part(copy.deepcopy(block)) == expected


def test_whose_reasoning_it_is_is_told_where_it_is_proved():
    assert part({"reasoningContent": {"reasoningText": {"text": "t", "signature": "s"}}}).origin == NAME
    assert part({"reasoningContent": {"redactedContent": "x"}}).origin == NAME
    assert part({"reasoningContent": {"reasoningText": {"text": "t"}}}).origin == ""


def test_empty_text_is_no_part():
    assert decoded({"text": ""}, {"text": "x"}).message.parts == (Text("x"),)


def test_a_call_without_an_id_gets_one_that_stays_the_same():
    call = part({"toolUse": {"name": "add", "input": {}}})
    assert call.id.startswith("call_")
    assert call == part({"toolUse": {"name": "add", "input": {}, "toolUseId": ""}})


def test_the_rest_stands_in_extra_under_its_own_name():
    more = {
        "trace": {"guardrail": {"x": 1}},
        "additionalModelResponseFields": {"stop_sequence": "a"},
        "serviceTier": {"type": "flex"},
        "performanceConfig": None,
    }
    done = decoded({"text": "x"}, **more)
    assert done.extra == {"metrics": {"latencyMs": 9}, **{k: v for k, v in more.items() if v is not None}}


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        (
            {
                "inputTokens": 10,
                "outputTokens": 4,
                "totalTokens": 44,
                "cacheReadInputTokens": 20,
                "cacheWriteInputTokens": 10,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 10}],
            },
            Usage(40, 4, 20, 10, extra={"cacheDetails": [{"ttl": "1h", "inputTokens": 10}]}),
        ),
        (
            {
                "inputTokens": 1.0,
                "outputTokens": 4,
                "cacheReadInputTokenCount": 2,
                "cacheWriteInputTokenCount": None,
            },
            Usage(3, 4, 2, 0),
        ),
        ({"inputTokens": 1}, None),
        ({"inputTokens": -1, "outputTokens": 1}, None),
        ({"inputTokens": True, "outputTokens": 1}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_counts_cached_input_in(wire, usage):
    assert decoded({"text": "x"}, usage=wire).usage == usage


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"output": None},
        {"output": {}},
        {"output": {"message": {"role": "assistant"}}},
        {"output": {"message": {"content": "x"}}},
        body_of("x"),
        body_of({}),
        body_of({"text": 1}),
        body_of({"toolUse": None}),
        body_of({"toolUse": {}}),
        body_of({"toolUse": {"name": 1}}),
        body_of({"reasoningContent": {}}),
        body_of({"reasoningContent": {"reasoningText": "x"}}),
        body_of({"reasoningContent": {"redactedContent": 1}}),
        body_of({"citationsContent": {"content": [1]}}),
        body_of({"image": []}),
    ],
)
def test_what_is_no_reply_is_a_bad_one(body):
    with pytest.raises(BadReply):
        DIALECT.decode_reply(body, {})


def test_an_error_in_a_success_is_that_error():
    with pytest.raises(PermissionDenied, match="not yours") as caught:
        DIALECT.decode_reply({"__type": "com.x#AccessDeniedException", "message": "not yours"}, {})
    assert caught.value.code == "AccessDeniedException"
    wrong = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
    with pytest.raises(LLMError) as unknown:
        DIALECT.decode_reply(wrong, {})
    assert unknown.value.code == "UnknownOperationException"


blocks = st.one_of(
    st.builds(lambda text: {"text": text}, strategies.texts),
    st.builds(
        lambda value: {"toolUse": {"toolUseId": "t", "name": "n", "input": value}}, strategies.json_objects
    ),
    st.dictionaries(
        st.sampled_from(
            [
                "text",
                "toolUse",
                "toolResult",
                "reasoningContent",
                "citationsContent",
                "image",
                "audio",
                "document",
            ]
        ),
        strategies.json_values,
        max_size=2,
    ),
    strategies.json_values,
)


@given(st.lists(blocks, max_size=3), strategies.json_values, strategies.json_values)
def test_no_json_raises_anything_but_our_errors(content, usage, stop):
    body = body_of(*content, stop=stop, usage=usage)
    try:
        done = DIALECT.decode_reply(json.loads(json.dumps(body)), {})
    except LLMError:
        return
    assert len(done.message.parts) <= len(content)


@given(
    st.recursive(
        strategies.json_objects, lambda inner: st.fixed_dictionaries({"output": inner, "message": inner})
    )
)
def test_no_body_raises_anything_but_our_errors(body):
    with pytest.raises(LLMError):
        DIALECT.decode_reply(body, {})
