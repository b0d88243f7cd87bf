"""Requests, out and in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects import Dialect, get
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import (
    Audio,
    Document,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.dialects.strategies import json_values

DIALECT = OpenAIChat()
HELLO = {"role": "user", "content": "Hello"}


def encode(*messages: Message, dialect: OpenAIChat = DIALECT, **fields):
    return dialect.encode_request(Request("m", messages, **fields))


def decode(**fields) -> Request:
    return DIALECT.decode_request({"model": "m", "messages": [HELLO], **fields})


def test_it_is_a_dialect_and_found_by_its_name():
    assert isinstance(get("openai.chat"), Dialect)
    assert get("openai.chat").name == OpenAIChat.name == "openai.chat"


# -- out


def test_only_what_is_set_is_sent():
    assert encode(Message("user", "Hello")) == {"model": "m", "messages": [HELLO]}


def test_everything_that_is_set_is_sent():
    body = encode(
        Message("user", "Hello"),
        tools=[Tool("f", "does", {"type": "object"}, strict=True), Tool("g")],
        tool_choice=NamedTool("f"),
        parallel_tool_calls=False,
        temperature=0,
        top_p=0.5,
        max_tokens=7,
        stop="END",
        seed=0,
        frequency_penalty=0.0,
        presence_penalty=-1.0,
        response_format=ResponseFormat("json_schema", {"type": "object"}, "n", True, "d"),
        reasoning=ReasoningOptions("low"),
        metadata={"a": "b"},
        extra={"top_k": 3},
    )
    assert body == {
        "model": "m",
        "messages": [HELLO],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "f",
                    "description": "does",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
            },
            {
                "type": "function",
                "function": {"name": "g", "parameters": {"type": "object", "properties": {}}},
            },
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 0,
        "frequency_penalty": 0.0,
        "presence_penalty": -1.0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True, "description": "d"},
        },
        "reasoning_effort": "low",
        "metadata": {"a": "b"},
        "top_k": 3,
    }


def test_a_stream_is_asked_for_with_its_usage():
    body = encode(Message("user", "Hello"), stream=True)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    given_ = {"stream_options": {"include_usage": False, "include_obfuscation": False}}
    body = encode(Message("user", "Hello"), stream=True, extra=given_)
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert given_["stream_options"]["include_usage"] is False
    body = encode(Message("user", "Hello"), stream=True, extra=given_, dialect=OpenAIChat(stream_usage=False))
    assert "stream_options" not in body
    assert "stream_options" not in encode(Message("user", "Hello"), extra=given_)


def test_what_is_passed_through_overrides_nothing_that_was_checked():
    body = encode(Message("user", "Hello"), max_tokens=5, extra={"max_tokens": 10**6, "model": "dear"})
    assert (body["max_tokens"], body["model"]) == (5, "m")


@pytest.mark.parametrize(
    ("dialect", "request_fields", "field", "value"),
    [
        (OpenAIChat(max_tokens_field="max_completion_tokens"), {"max_tokens": 5}, "max_completion_tokens", 5),
        (OpenAIChat(seed_field="random_seed"), {"seed": 5}, "random_seed", 5),
        (
            OpenAIChat(reasoning_param="reasoning"),
            {"reasoning": ReasoningOptions("low")},
            "reasoning",
            {"effort": "low"},
        ),
        (
            OpenAIChat(),
            {"reasoning": ReasoningOptions(max_tokens=9, enabled=True, extra={"exclude": True})},
            "reasoning",
            {"max_tokens": 9, "enabled": True, "exclude": True},
        ),
        (
            OpenAIChat(reasoning_param="reasoning_effort"),
            {"reasoning": ReasoningOptions(enabled=False)},
            "reasoning_effort",
            "none",
        ),
    ],
)
def test_a_servers_quirks_are_data(dialect, request_fields, field, value):
    assert encode(Message("user", "x"), dialect=dialect, **request_fields)[field] == value


@pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (4096, "medium"), (32_000, "high")])
def test_a_budget_of_thought_becomes_an_effort_where_only_that_can_be_said(budget, effort):
    strict = OpenAIChat(reasoning_param="reasoning_effort")
    body = encode(Message("user", "x"), dialect=strict, reasoning=ReasoningOptions(max_tokens=budget))
    assert body["reasoning_effort"] == effort


@pytest.mark.parametrize(
    ("part", "wire"),
    [
        (
            Text("a", {"cache_control": {"type": "ephemeral"}}),
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        ),
        (
            Image("https://x/y.png", detail="low"),
            {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        ),
        (
            Image(data="aGk=", media_type="image/webp"),
            {"type": "image_url", "image_url": {"url": "data:image/webp;base64,aGk="}},
        ),
        (
            Image(data="/9j/4AAQ"),
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
        ),
        (Image(data="aGk="), {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}),
        (Audio("aGk=", "mp3"), {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}),
        (
            Document(data="aGk=", media_type="application/pdf", name="a.pdf"),
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        ),
        (Document(file_id="file-1"), {"type": "file", "file": {"file_id": "file-1"}}),
        (Document(url="https://x/a.pdf"), {"type": "file", "file": {"file_data": "https://x/a.pdf"}}),
        (Document(text="plain", name="a.txt"), {"type": "text", "text": "plain"}),
        (Opaque("openai.chat", {"type": "video_url"}), {"type": "video_url"}),
    ],
)
def test_each_part_has_its_place(part, wire):
    assert encode(Message("user", [part, Text("b")]))["messages"][0]["content"][0] == wire


@pytest.mark.parametrize(
    "message",
    [
        Message("user", Opaque("anthropic.messages", {"type": "server_tool_use"})),
        Message("user", ToolCall("1", "f")),
        Message("system", [Text("a"), ToolCall("1", "f")]),
    ],
)
def test_what_the_wire_cannot_say_is_refused_before_anything_is_sent(message):
    with pytest.raises(Unsupported) as caught:
        encode(message)
    assert not caught.value.sent


def test_an_image_of_nothing_is_the_callers_mistake():
    with pytest.raises(InvalidRequest, match="url or data"):
        encode(Message("user", [Image()]))


def test_a_turn_with_tools_is_said_as_openai_says_it():
    body = encode(
        Message("assistant", [Text("Let me see."), ToolCall("c1", "f", '{"a": 1}'), ToolCall("c2", "g", "")]),
        Message(
            "tool",
            [ToolResult("c1", "one"), ToolResult("c2", [Text("two"), Image("https://x")], is_error=True)],
        ),
        Message("user", [ToolResult("c3", "three", name="h"), Text("and?")], name="ann"),
    )
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {
            "role": "tool",
            "tool_call_id": "c2",
            "content": [
                {"type": "text", "text": "two"},
                {"type": "image_url", "image_url": {"url": "https://x"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c3", "name": "h", "content": "three"},
        {"role": "user", "content": "and?", "name": "ann"},
    ]


@pytest.mark.parametrize(
    ("parts", "dialect", "content"),
    [
        ([ToolCall("1", "f")], DIALECT, None),
        ([ToolCall("1", "f")], OpenAIChat(empty_content=""), ""),
        ([Refusal("no")], DIALECT, None),
        ([], DIALECT, ""),
        ([Reasoning("hm")], DIALECT, ""),
        ([Text("a"), Text("b")], DIALECT, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
)
def test_a_message_without_content_says_so_in_a_way_that_is_taken(parts, dialect, content):
    assert encode(Message("assistant", parts), dialect=dialect)["messages"][0]["content"] == content


BLOCK = {"type": "reasoning.text", "format": "v1", "index": 0}


@pytest.mark.parametrize(
    ("part", "field", "wire"),
    [
        (Reasoning("hm"), "reasoning_content", {"reasoning_content": "hm"}),
        (Reasoning("hm"), "reasoning", {"reasoning": "hm"}),
        (Reasoning("hm"), None, {}),
        (Reasoning("hm", extra={"field": "reasoning"}), "reasoning_content", {"reasoning": "hm"}),
        (Reasoning("hm", extra={"field": "reasoning"}), None, {}),
        (Reasoning("hm", "sig"), "reasoning_content", {"reasoning_content": "hm"}),
        (
            Reasoning("hm", "sig"),
            "reasoning_details",
            {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "sig"}]},
        ),
        (Reasoning(encrypted="xx"), "reasoning_content", {}),
        (
            Reasoning(encrypted="xx"),
            "reasoning_details",
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "xx"}]},
        ),
        (
            Reasoning("hm", "sig", extra=BLOCK),
            "reasoning_content",
            {"reasoning_details": [{**BLOCK, "text": "hm", "signature": "sig"}]},
        ),
        (
            Reasoning("hm", extra={**BLOCK, "type": "reasoning.summary", "field": "reasoning"}),
            "reasoning_content",
            {
                "reasoning": "hm",
                "reasoning_details": [{**BLOCK, "type": "reasoning.summary", "summary": "hm"}],
            },
        ),
        (Reasoning("hm", extra=BLOCK), None, {}),
    ],
)
def test_reasoning_goes_back_into_the_field_it_came_from(part, field, wire):
    message = encode(Message("assistant", [part, Text("a")]), dialect=OpenAIChat(reasoning_field=field))[
        "messages"
    ][0]
    assert message == {"role": "assistant", "content": "a", **wire}


def test_thinking_goes_back_into_the_list_it_came_from():
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}
    value = {"role": "assistant", "content": [thought, {"type": "text", "text": "a"}]}
    request = decode(messages=[value])
    assert request.messages[0].reasoning == "hm"
    assert DIALECT.encode_request(request)["messages"] == [value]
    without = OpenAIChat(reasoning_field=None).encode_request(request)
    assert without["messages"] == [{"role": "assistant", "content": "a"}]


def test_ids_of_another_provider_are_made_to_fit_alike_for_call_and_result():
    short = OpenAIChat(tool_id_chars=9)
    body = encode(
        Message("assistant", [ToolCall("toolu_01ABC", "f"), ToolCall("abcDEF123", "g")]),
        Message("tool", ToolResult("toolu_01ABC", "x")),
        dialect=short,
    )
    ids = [call["id"] for call in body["messages"][0]["tool_calls"]]
    assert ids[1] == "abcDEF123"
    assert len(ids[0]) == 9
    assert ids[0].isalnum()
    assert body["messages"][1]["tool_call_id"] == ids[0]


def test_a_servers_own_tool_goes_out_as_it_is():
    own = {"type": "web_search", "filters": {"country": "de"}}
    assert encode(Message("user", "x"), tools=[Tool("web_search", extra=own)])["tools"] == [own]


# -- in


def test_a_request_is_read():
    request = DIALECT.decode_request(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "ann"},
                {"role": "function", "name": "f", "content": "1"},
            ],
            "max_tokens": 5,
            "max_completion_tokens": 9,
            "stop": "END",
            "n": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
            "tool_choice": "any",
            "user": "u",
            "response_format": {"type": "json_object"},
            "temperature": None,
            "unheard_of": {"a": [1]},
        }
    )
    assert request == Request(
        "m",
        (
            Message("system", "brief", extra={"role": "developer"}),
            Message("user", "a", "ann"),
            Message("tool", ToolResult("", "1", name="f", extra={"role": "function"})),
        ),
        tool_choice="required",
        max_tokens=5,
        stop=("END",),
        response_format=ResponseFormat("json"),
        stream=True,
        extra={
            "n": 2,
            "stream_options": {"include_usage": True},
            "user": "u",
            "unheard_of": {"a": [1]},
        },
    )


@pytest.mark.parametrize(
    ("choice", "ours", "kept"),
    [
        ("auto", "auto", None),
        ("none", "none", None),
        ({"type": "function", "function": {"name": "f"}}, NamedTool("f"), None),
        ({"type": "tool", "name": "f"}, None, {"type": "tool", "name": "f"}),
        (
            {"type": "allowed_tools", "allowed_tools": {}},
            None,
            {"type": "allowed_tools", "allowed_tools": {}},
        ),
    ],
)
def test_tool_choices_are_read_and_foreign_ones_kept(choice, ours, kept):
    request = decode(tool_choice=choice)
    assert (request.tool_choice, request.extra.get("tool_choice")) == (ours, kept)
    assert DIALECT.encode_request(request)["tool_choice"] == choice


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ("https://x/y", Image("https://x/y")),
        ("data:image/png;base64,aGk=", Image(data="aGk=", media_type="image/png")),
        (
            "data:image/png;charset=utf-8;base64,aGk=",
            Image(data="aGk=", media_type="image/png;charset=utf-8"),
        ),
        ("data:image/svg+xml,<svg/>", Image("data:image/svg+xml,<svg/>")),
        ("data:;base64,aGk=", Image("data:;base64,aGk=")),
        ("data:image/png;base64", Image("data:image/png;base64")),
    ],
)
def test_images_are_read_from_addresses_of_every_kind(url, image):
    for value in (url, {"url": url}):
        content = [{"type": "image_url", "image_url": value}]
        assert decode(messages=[{"role": "user", "content": content}]).messages[0].parts == (image,)
    assert encode(Message("user", [image]))["messages"][0]["content"][0]["image_url"] == {"url": url}


WRONG = [
    ([], "body"),
    ("text", "body"),
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": 1}]}, "messages[0].role"),
    ({"messages": [HELLO, {"role": "user", "content": 7}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0].image_url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0].input_audio.data",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        "messages[0].content[0].file.file_data",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": 1}]}]},
        "messages[0].content[0].thinking",
    ),
    ({"messages": [{"role": "user", "content": "x", "name": []}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "refusal": 1}]}, "messages[0].refusal"),
    ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]},
        "messages[0].tool_calls[0].function.name",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]}]},
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "mcp"}]}]},
        "messages[0].tool_calls[0].type",
    ),
    ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages[0].function_call.name"),
    ({"messages": [{"role": "tool", "tool_call_id": 1}]}, "messages[0].tool_call_id"),
    ({"model": 1}, "model"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [{"function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice.function.name"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": "9"}, "max_completion_tokens"),
    ({"stop": 1}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"seed": "x"}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 100_000}, "n"),
    ({"n": "2"}, "n"),
    ({"frequency_penalty": []}, "frequency_penalty"),
    ({"presence_penalty": float("inf")}, "presence_penalty"),
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ({"reasoning_effort": 1}, "reasoning_effort"),
    ({"reasoning": "high"}, "reasoning"),
    ({"reasoning": {"max_tokens": -1}}, "reasoning.max_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": True}, "stream_options"),
    ({"metadata": []}, "metadata"),
    ({"user": 1}, "user"),
    ({"logit_bias": []}, "logit_bias"),
    ({"functions": {}}, "functions"),
]


@pytest.mark.parametrize(("body", "path"), WRONG)
def test_a_wrong_field_is_named_by_its_path(body, path):
    if isinstance(body, dict) and body and "messages" not in body:
        body = {"messages": [HELLO], **body}
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(body)
    error = caught.value
    assert error.message.startswith(f"{path}: ")
    assert error.metadata["param"] == path
    assert (error.status, error.sent, error.health, error.phase) == (400, False, "ignore", "validate")
    assert DIALECT.encode_error(error)[2]["error"]["param"] == path


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 16.0},
        {"n": 1},
        {"n": None},
        {"response_format": {"type": "grammar", "grammar": "x"}},
        {"response_format": {"type": "json_object", "schema": {"a": 1}}},
        {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
        {"functions": [{"name": "f"}], "function_call": "auto"},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": "aGk="}]}]},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}
            ]
        },
    ],
)
def test_what_servers_take_is_taken(fields):
    body = DIALECT.encode_request(decode(**fields))
    assert DIALECT.encode_request(DIALECT.decode_request(body)) == body


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "model",
                "tools",
                "tool_choice",
                "stop",
                "n",
                "metadata",
                "reasoning",
                "response_format",
                "x",
            ]
        ),
        json_values
        | st.lists(
            st.dictionaries(
                st.sampled_from(
                    ["role", "content", "tool_calls", "type", "function", "name", "reasoning_details"]
                ),
                st.sampled_from(["user", "assistant", "tool", "function"]) | json_values,
            ),
            max_size=2,
        ),
    )
)
def test_any_json_is_a_request_or_names_what_is_wrong(body):
    try:
        request = DIALECT.decode_request(body)
    except InvalidRequest as error:
        request, named = None, error.metadata["param"]
    if request is None:
        assert named
    else:
        again = DIALECT.encode_request(request)
        assert DIALECT.encode_request(DIALECT.decode_request(again)) == again
