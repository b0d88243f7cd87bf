"""Full replies, errors, vectors and lists of models: what servers send, and what we send."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe import errors
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.dialects.openai_chat.usage import decode_usage
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LimitReached,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Completion,
    Embeddings,
    Message,
    ModelInfo,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
    fold,
)
from tests.dialects.strategies import json_values

DIALECT = OpenAIChat()


def reply(message=None, finish="stop", **top):
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": "a"},
        "finish_reason": finish,
    }
    return {"id": "r1", "object": "chat.completion", "created": 5, "model": "m", "choices": [choice], **top}


def decode(message=None, finish="stop", **top) -> Completion:
    return DIALECT.decode_reply(reply(message, finish, **top), {})


# -- completions


def test_a_reply_is_read():
    headers = {"X-Request-Id": "req_1", "x-ratelimit-limit-tokens": "9", "set-cookie": "a"}
    done = DIALECT.decode_reply(reply(service_tier="default"), headers)
    assert done == Completion(
        id="r1",
        model="m",
        message=Message("assistant", "a"),
        finish_reason="stop",
        created=5.0,
        request_id="req_1",
        headers={"x-request-id": "req_1", "x-ratelimit-limit-tokens": "9"},
        extra={"service_tier": "default"},
    )


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"content": ""}, ()),
        ({"content": None}, ()),
        ({}, ()),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, (Text("a"), Text("b"))),
        (
            {"content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": 3}]},
            (
                Opaque("openai.chat", {"type": "reference", "reference_ids": [1]}),
                Opaque("openai.chat", {"type": "text", "text": 3}),
            ),
        ),
        ({"content": {"a": 1}}, (Text('{"a":1}'),)),
        ({"content": None, "refusal": "no"}, (Refusal("no"),)),
        ({"content": "a", "refusal": ""}, (Text("a"),)),
        ({"content": "a", "reasoning_content": "hm"}, (Reasoning("hm"), Text("a"))),
        ({"content": "a", "reasoning": "hm"}, (Reasoning("hm", extra={"field": "reasoning"}), Text("a"))),
        (
            {"content": "a", "reasoning": "hm", "reasoning_content": "hm"},
            (Reasoning("hm", extra={"field": "reasoning+reasoning_content"}), Text("a")),
        ),
        ({"content": "a", "reasoning_content": "", "reasoning": None}, (Text("a"),)),
        (
            {
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}],
            },
            (Reasoning("hm", "s", extra={"type": "reasoning.text", "field": "reasoning"}),),
        ),
        (
            {
                "reasoning": "hm",
                "reasoning_details": [{"type": "reasoning.encrypted", "data": "x", "id": None}],
            },
            (
                Reasoning("hm", extra={"field": "reasoning"}),
                Reasoning(encrypted="x", extra={"type": "reasoning.encrypted"}),
            ),
        ),
        (
            {"reasoning": "other", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
            (
                Reasoning(
                    "other",
                    extra={
                        "field": "reasoning",
                        "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
                    },
                ),
            ),
        ),
        ({"tool_calls": [CALL]}, (ToolCall("c1", "f", '{"a": 1}'),)),
        ({"tool_calls": None, "content": "a"}, (Text("a"),)),
        (
            {
                "tool_calls": [
                    {**CALL, "index": 0, "custom": {"name": "", "input": ""}, "extra_content": {"g": 1}}
                ]
            },
            (ToolCall("c1", "f", '{"a": 1}', {"extra_content": {"g": 1}}),),
        ),
        (
            {"tool_calls": [{"id": "c2", "type": "custom", "custom": {"name": "q", "input": "SELECT"}}]},
            (ToolCall("c2", "q", "SELECT", {"type": "custom"}),),
        ),
        (
            {"tool_calls": [{"id": "c3", "function": {"name": "f", "arguments": {"a": [1]}}}]},
            (ToolCall("c3", "f", '{"a":[1]}'),),
        ),
        (
            {"tool_calls": [{"id": "c4", "function": {"name": "f", "arguments": None}}]},
            (ToolCall("c4", "f", ""),),
        ),
        ({"function_call": {"name": "", "arguments": ""}, "content": "a"}, (Text("a"),)),
    ],
)
def test_each_part_of_a_message_is_found(message, parts):
    assert decode({"role": "assistant", **message}).message.parts == parts


def test_calls_without_an_id_are_given_one_that_is_always_the_same():
    calls = [
        {"id": "", "function": {"name": "f", "arguments": "{}"}},
        {"function": {"name": "f", "arguments": "{}"}},
    ]
    calls.append({"id": "null", "function": {"name": "g", "arguments": "{}"}})
    first, again = (decode({"tool_calls": calls}).tool_calls for _ in range(2))
    ids = [call.id for call in first]
    assert first == again
    assert len(set(ids)) == 3
    assert all(0 < len(call_id) <= 40 for call_id in ids)
    legacy = decode({"function_call": {"name": "f", "arguments": "{}"}}, "function_call").tool_calls[0]
    assert (legacy.name, legacy.extra) == ("f", {"type": "function_call"})
    assert legacy.id


@pytest.mark.parametrize(
    ("word", "reason", "kept"),
    [
        ("stop", "stop", None),
        ("eos", "stop", "eos"),
        ("length", "length", None),
        ("model_length", "length", "model_length"),
        ("tool_calls", "tool_calls", None),
        ("tool_call", "tool_calls", "tool_call"),
        ("function_call", "tool_calls", "function_call"),
        ("content_filter", "content_filter", None),
        ("sensitive", "content_filter", "sensitive"),
        ("error", "error", None),
        ("STOP", "stop", "STOP"),
        ("something new", "stop", "something new"),
        ("", "stop", None),
        (None, "stop", None),
        (7, "stop", None),
    ],
)
def test_finish_reasons_are_ours_and_the_servers_word_is_kept(word, reason, kept):
    done = decode(finish=word)
    assert (done.finish_reason, done.extra.get("finish_reason")) == (reason, kept)


def test_a_reply_with_calls_and_no_finish_reason_ends_for_its_calls():
    assert decode({"tool_calls": [CALL]}, "").finish_reason == "tool_calls"


def test_what_is_not_modelled_is_kept_where_it_can_be_found():
    body = reply(citations=["https://x"], x_groq={"id": "q"}, prompt_logprobs=None)
    body["choices"][0] |= {"logprobs": {"content": []}, "content_filter_results": {"hate": {}}, "seed": 4}
    body["choices"][0]["message"] |= {"annotations": [{"type": "url"}], "audio": None}
    body["choices"].append({"index": 1, "message": {"content": "b"}, "finish_reason": "length"})
    done = DIALECT.decode_reply(body, {})
    assert done.extra == {
        "citations": ["https://x"],
        "x_groq": {"id": "q"},
        "logprobs": {"content": []},
        "content_filter_results": {"hate": {}},
        "choice": {"seed": 4},
        "choices": [{"index": 1, "message": {"content": "b"}, "finish_reason": "length"}],
    }
    assert done.message.extra == {"annotations": [{"type": "url"}]}


def test_what_says_nothing_is_not_kept_as_a_stream_would_not_tell_it():
    body = reply()
    noise = {"logprobs": [], "content_filter_results": {}, "delta": {"content": ""}, "text": "a"}
    body["choices"][0] |= noise
    body["choices"][0]["message"] |= {"annotations": [], "function_call": {"name": "", "arguments": ""}}
    done = DIALECT.decode_reply(body, {})
    assert (done.extra, done.message.extra) == ({}, {})
    body["choices"][0]["message"]["function_call"] = "none"
    assert DIALECT.decode_reply(body, {}).message.extra == {"function_call": "none"}


def test_a_call_without_an_id_has_the_same_one_whole_and_streamed():
    call: dict[str, Any] = {"function": {"name": "f", "arguments": "{}"}}
    for message in (
        {"tool_calls": [call, {**call, "id": "c"}]},
        {"function_call": call["function"]},
        {"tool_calls": [call], "function_call": call["function"]},
    ):
        body = reply()
        body["choices"][0]["message"] = message
        decoder = DIALECT.decoder()
        deltas = dict(message)
        if "tool_calls" in message:
            deltas["tool_calls"] = [{"index": i, **one} for i, one in enumerate(message["tool_calls"])]
        chunk = {**body, "choices": [{"index": 0, "delta": deltas, "finish_reason": "tool_calls"}]}
        events = decoder.feed(b"data: %s\n\ndata: [DONE]\n\n" % orjson.dumps(chunk)) + decoder.close()
        whole = DIALECT.decode_reply(body, {})
        assert fold(events).tool_calls == whole.tool_calls
        assert len({made.id for made in whole.tool_calls}) == len(whole.tool_calls)


def test_the_choice_with_index_zero_is_the_reply():
    body = reply()
    body["choices"].insert(0, {"index": 1, "message": {"content": "b"}})
    done = DIALECT.decode_reply(body, {})
    assert done.text == "a"
    assert [choice["index"] for choice in done.extra["choices"]] == [1]


USAGES = [
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}, (9, 5, 0, 0, 0)),
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        (9, 5, 4, 2, 3),
    ),
    (  # xAI
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 114,
            "completion_tokens_details": {"reasoning_tokens": 100},
        },
        (9, 105, 0, 0, 100),
    ),
    ({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}, (35, 74, 0, 0, 62)),  # Gemini
    (  # Mistral, audio
        {
            "prompt_tokens": 9,
            "completion_tokens": 201,
            "total_tokens": 585,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375},
        },
        (384, 201, 0, 0, 0),
    ),
    (  # a wire that leaves cached tokens out of the prompt
        {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 114, "cache_read_input_tokens": 100},
        (109, 5, 100, 0, 0),
    ),
    (  # Azure's Grok: more cached than there is
        {
            "prompt_tokens": 7,
            "completion_tokens": 1,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 163},
        },
        (7, 1, 7, 0, 0),
    ),
    (  # OpenRouter: more reasoning than output
        {
            "prompt_tokens": 43,
            "completion_tokens": 10,
            "total_tokens": 53,
            "completion_tokens_details": {"reasoning_tokens": 11},
        },
        (43, 10, 0, 0, 10),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 8}, (9, 5, 8, 0, 0)),  # DeepSeek
    ({"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 8}, (9, 5, 8, 0, 0)),  # Together
    ({"prompt_tokens": 9, "completion_tokens": 5, "num_cached_tokens": 8}, (9, 5, 8, 0, 0)),  # Mistral
    ({"prompt_tokens": 9.0, "completion_tokens": 5.0, "total_tokens": 14.0}, (9, 5, 0, 0, 0)),
    ({"prompt_tokens": 9, "total_tokens": 14}, (9, 5, 0, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, (9, 0, 0, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": None}, (9, 5, 0, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": -1}, (9, 5, 0, 0, 0)),
    ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 10**12}, (9, 5, 0, 0, 0)),
    (
        {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": -4}},
        (9, 5, 0, 0, 0),
    ),
    (None, None),
    ({}, None),
    ([], None),
    ("many", None),
    ({"prompt_tokens": None, "completion_tokens": None}, None),
    ({"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None}, None),  # Databricks, midway
    ({"prompt_tokens": -9, "completion_tokens": 5}, None),
    ({"prompt_tokens": "9", "completion_tokens": 5}, None),
    ({"prompt_tokens": True, "completion_tokens": 5}, None),
    ({"prompt_tokens": 10**9, "completion_tokens": 5}, None),
    ({"prompt_tokens": 9, "completion_tokens": -5}, None),
    ({"prompt_tokens": 9.5, "completion_tokens": 5}, None),
]


@pytest.mark.parametrize(("wire", "counts"), USAGES)
def test_usage_is_one_convention_whatever_the_wire_says(wire, counts):
    usage = decode(usage=wire).usage
    if counts is None:
        assert usage is None
        return
    assert usage is not None
    found = (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens)
    assert (*found, usage.cache_write_tokens, usage.reasoning_tokens) == counts
    assert usage.source == "provider"
    assert decode_usage(json.loads(json.dumps(DIALECT.encode_reply(decode(usage=wire))["usage"]))) == evolve(
        usage, extra={**usage.extra}
    )


a_count: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 30),
    st.sampled_from([None, True, -1, 2.0, 2.5, "3", 10**9 - 1, 10**9, []]),
)


@st.composite
def openai_usages(draw: st.DrawFn) -> dict[str, Any]:
    """Usage under OpenAI's names, more often than not sound."""
    prompt, completion = draw(a_count), draw(a_count)
    both = type(prompt) is int and type(completion) is int
    total = prompt + completion if both and draw(st.booleans()) else draw(a_count)
    wire = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    for name, fields in (
        ("prompt_tokens_details", ("cached_tokens", "cache_write_tokens", "audio_tokens")),
        ("completion_tokens_details", ("reasoning_tokens", "audio_tokens")),
    ):
        details = st.dictionaries(st.sampled_from(fields), a_count, max_size=3)
        wire[name] = draw(st.one_of(details, st.sampled_from([None, 7, []])))
    return {name: wire[name] for name in draw(st.sets(st.sampled_from(sorted(wire)))) | {"prompt_tokens"}}


@settings(max_examples=500, deadline=None)
@given(openai_usages())
def test_a_usage_that_is_looked_at_closely_says_the_same(wire):
    """Sound usage is read straight; one more name makes the reader look at every count."""
    straight, closely = decode_usage(wire), decode_usage({**wire, "queue_time": 0.5})
    if straight is None:
        assert closely is None
    else:
        assert closely == evolve(straight, extra={**straight.extra, "queue_time": 0.5})
        for count in (straight.input_tokens, straight.output_tokens, straight.reasoning_tokens):
            assert type(count) is int
            assert count >= 0


def test_usage_keeps_what_it_does_not_model_and_groqs_place_for_it_is_known():
    wire: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    wire |= {"cost": 0.5, "is_byok": False}
    wire["prompt_tokens_details"] = {"cached_tokens": 0, "audio_tokens": 7}
    usage = decode(usage=wire).usage
    assert usage is not None
    assert usage.extra == {"cost": 0.5, "is_byok": False, "prompt_tokens_details": {"audio_tokens": 7}}
    assert decode(x_groq={"usage": {"prompt_tokens": 1, "completion_tokens": 2}}).usage == Usage(1, 2)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"error": {"message": "boom", "code": 502}}, ServiceUnavailable, "boom"),
        ({"error": {"message": "slow", "type": "rate_limit_error"}}, RateLimited, "slow"),
        ({"error": {"message": "boom"}}, ServiceUnavailable, "boom"),
        ({"error": "boom"}, ServiceUnavailable, "boom"),
        ({"error": {"message": "half", "code": 429}, **reply()}, RateLimited, "half"),
        ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, InvalidRequest, "no"),
        ({"detail": "Not Found"}, ServiceUnavailable, "Not Found"),
        (
            {"success": False, "errors": [{"code": 5007, "message": "No such model"}]},
            ModelNotFound,
            "No such model",
        ),
        ({}, BadReply, "no choices"),
        ({"choices": []}, BadReply, "no choices"),
        ({"choices": None, "id": "x"}, BadReply, "no choices"),
        ({"choices": ["x"]}, BadReply, "no choices"),
        ({"choices": {}}, BadReply, "no choices"),
    ],
)
def test_a_200_that_is_no_reply_is_the_error_it_is(body, kind, words):
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(body, {"x-request-id": "req_5"})
    assert type(caught.value) is kind
    assert words in caught.value.message
    assert caught.value.phase == "body"


def test_an_error_in_the_choice_is_the_error_of_the_reply():
    body = reply()
    body["choices"][0]["error"] = {
        "code": 502,
        "message": "Provider returned error",
        "metadata": {"raw": "boom"},
    }
    with pytest.raises(ServiceUnavailable, match="Provider returned error: boom"):
        DIALECT.decode_reply(body, {})


def test_an_error_that_is_nothing_is_none():
    assert decode(error=None).text == decode(error={}).text == decode(error="").text == "a"


message_fields = st.sampled_from(
    ["content", "tool_calls", "function_call", "reasoning", "reasoning_details", "refusal"]
)
calls = st.lists(
    st.dictionaries(st.sampled_from(["id", "function", "type"]), json_values, max_size=2), max_size=2
)
choice_fields = st.sampled_from(["index", "message", "finish_reason", "error", "finish_details", "logprobs"])


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["id", "choices", "usage", "created", "error"]), json_values, max_size=3),
    st.lists(
        st.dictionaries(
            choice_fields,
            json_values | st.dictionaries(message_fields, json_values | calls, max_size=3),
            max_size=3,
        ),
        max_size=2,
    ),
)
def test_any_json_is_a_reply_or_one_typed_error(body, choices):
    for candidate in (body, {**body, "choices": choices}):
        try:
            done = DIALECT.decode_reply(candidate, {})
        except LLMError:
            continue
        assert json.dumps(DIALECT.encode_reply(done))


# -- what our own callers get


def test_a_reply_of_another_dialect_is_said_as_openai_says_it():
    done = Completion(
        id="msg_1",
        model="claude",
        message=Message(
            "assistant",
            [
                Reasoning("hm", "sig"),
                Text("one ", {"citations": []}),
                Opaque("anthropic.messages", {"type": "server_tool_use"}),
                Text("two"),
                ToolCall("t1", "f", "{}"),
            ],
        ),
        finish_reason="refusal",
        usage=Usage(7, 3, 2),
        created=12.9,
    )
    body = DIALECT.encode_reply(done)
    assert body == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 12,
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "one two",
                    "reasoning_content": "hm",
                    "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "sig"}],
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    ],
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "content_filter",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_a_providers_own_finish_word_does_not_reach_clients_that_know_five():
    body = DIALECT.encode_reply(decode(finish="eos"))
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["native_finish_reason"] == "eos"
    assert "finish_reason" not in body


def test_thinking_in_a_list_reaches_clients_as_reasoning_beside_a_string():
    content = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
    ]
    message = DIALECT.encode_reply(decode({"content": content}))["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("a", "hm")


def test_the_official_client_understands_our_replies():
    chat = pytest.importorskip("openai.types.chat")
    done = Completion(
        id="r",
        model="m",
        message=Message("assistant", [Text("a"), Refusal("no"), ToolCall("c", "f", "{}")]),
        finish_reason="tool_calls",
        usage=Usage(1, 2),
        created=3.0,
    )
    parsed = chat.ChatCompletion.model_validate(DIALECT.encode_reply(done), strict=True)
    assert parsed.choices[0].message.tool_calls[0].function.name == "f"
    assert parsed.usage.total_tokens == 3


# -- errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "words"),
    [
        (
            400,
            {"error": {"message": "too long", "code": "context_length_exceeded", "param": "messages"}},
            ContextTooLong,
            "context_length_exceeded",
            "too long",
        ),
        (
            400,
            {
                "error": {
                    "message": "filtered",
                    "code": "content_filter",
                    "innererror": {
                        "code": "ResponsibleAIPolicyViolation",
                        "content_filter_result": {"hate": {}},
                    },
                }
            },
            ContentFiltered,
            "content_filter",
            "filtered",
        ),
        (400, {"error": {"message": "no", "code": "content_policy_violation"}}, ContentFiltered, None, "no"),
        (
            400,
            {"error": {"message": "x", "inner_error": {"code": "ResponsibleAIPolicyViolation"}}},
            ContentFiltered,
            None,
            "x",
        ),
        (
            429,
            {"error": {"message": "quota", "type": "insufficient_quota"}},
            QuotaExceeded,
            "insufficient_quota",
            "quota",
        ),
        (429, {"error": {"message": "arrears", "code": "1113"}}, QuotaExceeded, "1113", "arrears"),
        (402, {"error": {"message": "pay", "code": 402}}, QuotaExceeded, "402", "pay"),
        (
            403,
            {"error": {"message": "flagged", "code": 403, "metadata": {"reasons": ["violence"]}}},
            ContentFiltered,
            None,
            "flagged",
        ),
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": "Provider returned error",
                    "metadata": {
                        "provider_name": "OpenAI",
                        "raw": json.dumps(
                            {
                                "error": {
                                    "message": "maximum context length is 9",
                                    "code": "context_length_exceeded",
                                }
                            }
                        ),
                    },
                }
            },
            ContextTooLong,
            "context_length_exceeded",
            "Provider returned error: maximum context length is 9",
        ),
        (
            400,
            {"code": "Client specified an invalid argument", "error": "bad schema"},
            InvalidRequest,
            None,
            "bad schema",
        ),
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": "field required"}]},
            InvalidRequest,
            None,
            "field required",
        ),
        (
            422,
            {"error": "Input validation error", "error_type": "validation"},
            InvalidRequest,
            "validation",
            "Input validation",
        ),
        (
            400,
            {"object": "error", "message": "too long: context length", "code": 400},
            ContextTooLong,
            None,
            "too long",
        ),
        (404, {"error": "model 'x' not found"}, ModelNotFound, None, "not found"),
        (
            404,
            [{"error": {"code": 404, "message": "gone", "status": "NOT_FOUND"}}],
            ModelNotFound,
            "NOT_FOUND",
            "gone",
        ),
        (401, {"message": "Unauthorized"}, AuthenticationFailed, None, "Unauthorized"),
        (403, {"error": {"message": {"en": "no"}}}, PermissionDenied, None, '{"en":"no"}'),
        (500, {"error": {"error": {"message": "deep"}}}, ServiceUnavailable, None, "deep"),
        (503, {"errors": [{"message": "down", "code": 3040}]}, Overloaded, "3040", "down"),
        (529, None, Overloaded, None, "null"),
        (500, "oops", ServiceUnavailable, None, "oops"),
        (418, {}, InvalidRequest, None, "status 418"),
    ],
)
def test_each_spelling_of_an_error_is_understood(status, body, kind, code, words):
    error = DIALECT.decode_error(status, {}, json.dumps(body).encode())
    assert type(error) is kind
    assert words.replace("null", "None") in error.message
    assert code is None or error.code == code
    assert error.status == status


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>502</title></head><body>Bad Gateway " + b"x" * 5000 + b"</body></html>",
        b"\xff\xfe\x00",
        b"upstream connect error, key sk-abcdefghijklmnop was rejected",
        b'{"error": {"message": "cut off he',
    ],
)
def test_a_body_that_is_no_json_is_shown_from_its_beginning(body):
    error = DIALECT.decode_error(502, {"content-type": "text/html"}, body)
    assert isinstance(error, ServiceUnavailable)
    assert 0 < len(error.message) <= 512
    assert "abcdefghijklmnop" not in error.message


def test_an_empty_body_is_an_error_all_the_same():
    assert "status 502" in DIALECT.decode_error(502, {}, b"").message


def test_hints_of_header_and_body_come_with_the_error():
    body = {
        "error": {"code": 429, "message": "slow", "details": [{"@type": "RetryInfo", "retryDelay": "34.07s"}]}
    }
    error = DIALECT.decode_error(429, {"Retry-After": "3"}, json.dumps(body).encode())
    assert (type(error), error.retry_after, error.throttled) == (RateLimited, 34.07, True)
    late = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert DIALECT.decode_error(429, late, b"{}", now=1445412480.0).retry_after == 30
    assert (
        DIALECT.decode_error(503, {"retry-after": "7", "x-should-retry": "false"}, b"{}").retryable is False
    )


def test_what_helps_to_understand_an_error_is_in_its_metadata_and_scrubbed():
    body = {
        "error": {
            "message": "bad key sk-abcdefghijklmnop",
            "type": "invalid_request_error",
            "param": "tools[0]",
            "failed_generation": "password=hunter22" + "x" * 1000,
            "n_ctx": 256,
        }
    }
    error = DIALECT.decode_error(400, {}, json.dumps(body).encode())
    assert error.metadata["param"] == "tools[0]"
    assert error.metadata["n_ctx"] == "256"
    assert len(error.metadata["failed_generation"]) < 600
    assert "hunter22" not in str(error.metadata)
    assert "abcdefghijklmnop" not in error.message


@settings(deadline=None)
@given(
    st.integers(100, 999), st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode())
)
def test_any_body_of_any_status_is_one_error(status, body):
    assert isinstance(DIALECT.decode_error(status, {}, body), LLMError)


def test_a_body_nested_too_deeply_to_be_written_is_one_error():
    body = b'{"error": {"message": ' + b"[" * 500 + b"]" * 500 + b"}}"
    assert (
        "nested" in DIALECT.decode_error(400, {}, body).message or DIALECT.decode_error(400, {}, body).message
    )


EVERY_ERROR = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LLMError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_every_error_of_ours_reaches_a_client_with_its_status_and_its_verdict(kind):
    error = kind("no", code="why", retry_after=1.25, metadata={"param": "n"})
    status, headers, body = DIALECT.encode_error(error)
    assert status == kind.default_status
    assert headers["retry-after"] == "2"
    assert headers["retry-after-ms"] == "1250"
    assert body == {"error": {"message": "no", "type": kind.wire_type, "param": "n", "code": "why"}}
    again = DIALECT.decode_error(status, headers, json.dumps(body).encode())
    assert again.retryable is error.retryable
    assert again.retry_after == 1.25


def test_the_status_of_an_error_is_always_one_of_an_error():
    redirect = DIALECT.decode_error(302, {"location": "https://elsewhere.example/"}, b"")
    assert DIALECT.encode_error(redirect)[0] == 502


def test_no_hint_is_sent_where_there_is_none_and_no_verdict_where_the_status_says_it():
    assert DIALECT.encode_error(Overloaded("no"))[1] == {}
    assert DIALECT.encode_error(InvalidRequest("no"))[1] == {}
    assert DIALECT.encode_error(LimitReached("no"))[1] == {"x-should-retry": "false"}
    assert DIALECT.encode_error(QuotaExceeded("no"))[1] == {"x-should-retry": "false"}
    assert DIALECT.encode_error(StreamBroken("no", retry_after=float("inf")))[1] == {}


def test_secrets_do_not_leave_in_the_text_of_an_error():
    assert "abcdefghijkl" not in json.dumps(DIALECT.encode_error(LLMError("key sk-abcdefghijklmn"))[2])


# -- vectors and models


def vectors(*items, **top):
    return {"object": "list", "model": "e", "data": list(items), **top}


def test_vectors_are_put_in_the_order_of_the_inputs():
    body = vectors({"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1.0]})
    body["usage"] = {"prompt_tokens": 8, "total_tokens": 8}
    found = DIALECT.decode_embeddings(body, {"x-request-id": "q"})
    assert found.vectors == ([1.0], [3, 4.5])
    assert (found.usage, found.model, found.request_id) == (Usage(8), "e", "q")


def test_vectors_in_base64_are_little_endian_floats():
    data = b64encode(struct.pack("<3f", 0.5, -2.0, 1e-3)).decode()
    (vector,) = DIALECT.decode_embeddings(vectors({"index": 0, "embedding": data}), {}).vectors
    assert vector == pytest.approx([0.5, -2.0, 1e-3])


def test_vectors_without_an_index_stand_in_order_and_usage_may_be_missing():
    found = DIALECT.decode_embeddings(vectors({"embedding": [1.0]}, {"embedding": [2.0]}), {})
    assert found.vectors == ([1.0], [2.0])
    assert found.usage is None


@pytest.mark.parametrize(
    "items",
    [
        ["x"],
        [{"index": 0}],
        [{"index": 0, "embedding": "!!"}],
        [{"index": 0, "embedding": "AAA="}],
        [{"index": 0, "embedding": [1.0, "x"]}],
        [{"index": 0, "embedding": [True]}],
        [{"index": 1, "embedding": [1.0]}],
        [{"index": -1, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": "0", "embedding": [1.0]}],
    ],
)
def test_vectors_that_are_none_are_a_bad_reply_that_says_which(items):
    with pytest.raises(BadReply, match=r"data\[\d\]"):
        DIALECT.decode_embeddings(vectors(*items), {})


@pytest.mark.parametrize(
    "body", [{"error": {"message": "no", "code": 429}}, {"data": None, "message": "no"}, {}]
)
def test_a_200_without_vectors_is_an_error(body):
    with pytest.raises(LLMError):
        DIALECT.decode_embeddings(body, {})


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ([1, 2],)),
        ([[1, 2], [3]], ([1, 2], [3])),
    ],
)
def test_inputs_are_texts_or_tokens(value, inputs):
    request = DIALECT.decode_embedding_request({"model": "e", "input": value, "dimensions": 4, "user": "u"})
    assert (request.inputs, request.dimensions, request.extra) == (inputs, 4, {"user": "u"})


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [None]}, "input[0]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [[1.5]]}, "input[0]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "model": 1}, "model"),
    ],
)
def test_a_wrong_embedding_request_is_named_by_its_path(body, path):
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_embedding_request(body)
    assert caught.value.metadata["param"] == path


def test_the_official_client_understands_our_vectors_and_models():
    types = pytest.importorskip("openai.types")
    body = DIALECT.encode_embeddings(Embeddings(([0.5],), "e", Usage(1)))
    assert types.CreateEmbeddingResponse.model_validate(body, strict=True).data[0].embedding == [0.5]
    listed = DIALECT.encode_models((ModelInfo("m", "o", 5.0),))
    assert types.Model.model_validate(listed["data"][0], strict=True).owned_by == "o"


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"object": "list", "data": [{"id": "a", "owned_by": "x", "created": 5}, {"id": "b"}]}, ["a", "b"]),
        ([{"id": "a", "context_length": 9}], ["a"]),
        ({"data": [{"id": None}, "x", {"id": "a"}]}, ["a"]),
        ({"data": []}, []),
    ],
)
def test_models_are_listed(body, ids):
    assert [model.id for model in DIALECT.decode_models(body)] == ids


def test_a_list_of_models_that_is_none_is_the_error_it_is():
    with pytest.raises(AuthenticationFailed, match="no key"):
        DIALECT.decode_models({"error": {"message": "no key", "code": "invalid_api_key"}})
