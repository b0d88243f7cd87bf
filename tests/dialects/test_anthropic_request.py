from __future__ import annotations

import attrs
import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.json_mode import JSON_INSTRUCTION
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import (
    Audio,
    Document,
    Image,
    Message,
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

DIALECT = AnthropicMessages()
HELLO = Message("user", "Hello")


def encode(*messages, dialect=DIALECT, **fields):
    return dialect.encode_request(Request("claude", messages or (HELLO,), **fields))


def decode(messages=({"role": "user", "content": "Hello"},), **fields):
    body = {"model": "claude", "max_tokens": 5, "messages": messages}
    body["messages"] = list(messages) if isinstance(messages, tuple) else messages
    return DIALECT.decode_request({**body, **fields})


def test_the_least_request_names_model_limit_and_messages():
    assert encode() == {
        "model": "claude",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hello"}],
    }


def test_the_default_limit_is_the_dialects_and_makes_room_for_thinking():
    dialect = AnthropicMessages(default_max_tokens=100)
    assert encode(dialect=dialect)["max_tokens"] == 100
    assert encode(dialect=dialect, reasoning=ReasoningOptions(max_tokens=2000))["max_tokens"] == 2100
    assert encode(dialect=dialect, max_tokens=0)["max_tokens"] == 0


def test_leading_system_messages_become_one_system_prompt():
    marked = Text("rules", {"cache_control": {"type": "ephemeral"}})
    body = encode(Message("system", "Be brief."), Message("system", marked), HELLO)
    assert body["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}},
    ]
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert encode(Message("system", "Be brief."), HELLO)["system"] == "Be brief."
    assert "system" not in encode(Message("system", ""), HELLO)


def test_a_later_system_message_stays_in_its_place_or_moves_into_the_prompt():
    conversation = (HELLO, Message("assistant", "Hi"), Message("system", "Now in French."), HELLO)
    body = encode(*conversation)
    assert body["messages"][2] == {"role": "system", "content": "Now in French."}
    body = encode(*conversation, dialect=AnthropicMessages(system_in_messages=False))
    assert body["system"] == "Now in French."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_results_of_parallel_calls_and_the_words_after_them_are_one_user_message():
    body = encode(
        HELLO,
        Message("assistant", [ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "")]),
        Message("tool", ToolResult("a", "1")),
        Message("tool", ToolResult("b", [Text("no"), Image(data="iVBORw0KGgoAAA")], is_error=True)),
        Message("user", "Go on."),
        Message("user", "Please."),
    )
    calls, results, last = body["messages"][1:]
    assert [block["input"] for block in calls["content"]] == [{"x": 1}, {}]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAA"}
    assert results == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "1"},
            {
                "type": "tool_result",
                "tool_use_id": "b",
                "content": [{"type": "text", "text": "no"}, {"type": "image", "source": source}],
                "is_error": True,
            },
            {"type": "text", "text": "Go on."},
        ],
    }
    assert last == {"role": "user", "content": "Please."}


def test_thinking_is_replayed_unchanged_and_in_order():
    turn = [
        Reasoning("why", "sig=="),
        Reasoning("", None, "secret"),
        Reasoning("", "only-a-signature"),
        Text("So."),
        ToolCall("a", "f"),
    ]
    blocks = encode(HELLO, Message("assistant", turn), HELLO)["messages"][1]["content"]
    assert blocks == [
        {"type": "thinking", "thinking": "why", "signature": "sig=="},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "thinking", "thinking": "", "signature": "only-a-signature"},
        {"type": "text", "text": "So."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
    ]


def test_unsigned_thinking_is_left_out_unless_asked_for():
    turn = Message("assistant", [Reasoning("why"), Text("So.")])
    assert encode(HELLO, turn)["messages"][1]["content"] == "So."
    alone = Message("assistant", Reasoning("why"))
    assert len(encode(HELLO, alone, HELLO)["messages"]) == 2
    dialect = AnthropicMessages(replay_unsigned_thinking=True)
    assert encode(HELLO, turn, dialect=dialect)["messages"][1]["content"][0] == {
        "type": "thinking",
        "thinking": "why",
        "signature": "",
    }


def test_blank_text_is_left_out_beside_other_blocks():
    turn = Message("assistant", [Text("\n\n"), ToolCall("a", "f")])
    assert [b["type"] for b in encode(HELLO, turn)["messages"][1]["content"]] == ["tool_use"]
    assert encode(Message("user", ""))["messages"] == [{"role": "user", "content": ""}]


def test_pictures_and_documents_take_their_sources():
    parts = [
        Image("https://x/y.png", detail="high"),
        Image("data:image/gif;base64,R0lGOD"),
        Document(data="JVBERi0", name="a.pdf", extra={"citations": {"enabled": True}}),
        Document(text="words"),
        Document(file_id="file_1"),
        Document("https://x/y.pdf"),
    ]
    blocks = encode(Message("user", parts))["messages"][0]["content"]
    assert [block["source"] for block in blocks] == [
        {"type": "url", "url": "https://x/y.png"},
        {"type": "base64", "media_type": "image/gif", "data": "R0lGOD"},
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0"},
        {"type": "text", "media_type": "text/plain", "data": "words"},
        {"type": "file", "file_id": "file_1"},
        {"type": "url", "url": "https://x/y.pdf"},
    ]
    assert blocks[2]["title"] == "a.pdf"
    assert blocks[2]["citations"] == {"enabled": True}


@pytest.mark.parametrize(
    ("options", "thinking", "effort"),
    [
        (ReasoningOptions("high"), None, "high"),
        (ReasoningOptions("minimal"), None, "low"),
        (ReasoningOptions("none"), {"type": "disabled"}, None),
        (ReasoningOptions(max_tokens=2048), {"type": "enabled", "budget_tokens": 2048}, None),
        (ReasoningOptions("max", enabled=True), {"type": "adaptive"}, "max"),
        (ReasoningOptions(enabled=False), {"type": "disabled"}, None),
        (
            ReasoningOptions(enabled=True, extra={"display": "omitted"}),
            {"type": "adaptive", "display": "omitted"},
            None,
        ),
    ],
)
def test_reasoning_options_are_thinking_and_effort(options, thinking, effort):
    body = encode(reasoning=options)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def test_a_schema_is_an_output_format_and_json_mode_an_instruction():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = ResponseFormat("json_schema", schema, name="dropped", strict=True)
    body = encode(
        response_format=wanted, reasoning=ReasoningOptions("low"), extra={"output_config": {"x": 1}}
    )
    assert body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": schema},
        "x": 1,
    }
    body = encode(Message("system", "Be brief."), HELLO, response_format=ResponseFormat("json"))
    assert body["system"] == f"Be brief.\n\n{JSON_INSTRUCTION}"
    assert "output_config" not in encode(response_format=ResponseFormat("text"))
    with pytest.raises(InvalidRequest, match="schema"):
        encode(response_format=ResponseFormat("json_schema"))


def test_tools_of_ours_have_a_schema_and_anthropics_own_have_a_type():
    tools = [
        Tool("f", "does", {"properties": {}}, strict=True, extra={"cache_control": {"type": "ephemeral"}}),
        Tool("web_search", extra={"type": "web_search_20250305", "max_uses": 2}),
    ]
    assert encode(tools=tools)["tools"] == [
        {
            "name": "f",
            "description": "does",
            "input_schema": {"type": "object", "properties": {}},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "web_search", "type": "web_search_20250305", "max_uses": 2},
    ]


def test_one_call_at_a_time_needs_a_tool_choice_on_this_wire():
    tool = Tool("f")
    assert encode(tools=[tool], parallel_tool_calls=False)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    assert "tool_choice" not in encode(tools=[tool], parallel_tool_calls=True)
    assert "tool_choice" not in encode(parallel_tool_calls=False)
    assert encode(tools=[tool], tool_choice="none", parallel_tool_calls=False)["tool_choice"] == {
        "type": "none"
    }


def test_hints_without_a_form_are_left_out_and_extra_goes_through():
    body = encode(seed=1, frequency_penalty=0.5, presence_penalty=0.5, extra={"top_k": 5, "n": 1})
    assert body["top_k"] == 5
    assert not {"seed", "frequency_penalty", "presence_penalty", "n"} & body.keys()


@pytest.mark.parametrize(
    "request_",
    [
        Request("m", HELLO, extra={"n": 2}),
        Request("m", Message("user", Audio("AAAA"))),
        Request("m", Message("user", Opaque("openai.responses", {"type": "x"}))),
    ],
)
def test_what_the_wire_cannot_say_is_unsupported(request_):
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode_request(request_)
    assert caught.value.sent is False
    assert caught.value.rescue == "any"


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (Message("assistant", ToolCall("a", "f", '{"x": ')), "arguments of tool call 'f'"),
        (Message("tool", "loose words"), r"messages\[0\]\.parts\[0\]: a tool message holds ToolResult"),
        (Message("user", Image()), r"messages\[0\]\.parts\[0\]: the image"),
        (Message("user", Image(data="AAAA")), "media_type"),
    ],
)
def test_a_message_that_cannot_be_right_is_refused_before_it_is_sent(message, match):
    with pytest.raises(InvalidRequest, match=match):
        encode(message)


def test_refusals_and_own_opaque_parts_are_replayed():
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    turn = Message("assistant", [Refusal("No."), Opaque("anthropic.messages", block)])
    assert encode(HELLO, turn)["messages"][1]["content"] == [{"type": "text", "text": "No."}, block]


def test_a_tool_result_message_is_decoded_in_its_order():
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "1"}]}
    bare = {"type": "tool_result", "tool_use_id": "b", "is_error": True}
    content = [{"type": "text", "text": "first"}, result, bare, {"type": "text", "text": "then"}]
    assert decode([{"role": "user", "content": content}]).messages == (
        Message("user", "first"),
        Message("tool", ToolResult("a", "1")),
        Message("tool", ToolResult("b", [], is_error=True)),
        Message("user", "then"),
    )


def test_the_old_name_of_the_output_format_is_understood():
    schema = {"type": "object"}
    request = decode(output_format={"type": "json_schema", "schema": schema})
    assert request.response_format == ResponseFormat("json_schema", schema)
    assert DIALECT.encode_request(request)["output_config"] == {
        "format": {"type": "json_schema", "schema": schema}
    }


def test_unknown_fields_are_kept_where_they_stand():
    request = decode(
        [{"role": "user", "content": [{"type": "text", "text": "x", "t": 1}], "m": 2}],
        speed="fast",
        null=None,
        thinking={"type": "between_tools"},
        tool_choice={"type": "auto", "c": 3},
    )
    assert request.messages == (Message("user", Text("x", {"t": 1}), extra={"m": 2}),)
    assert request.extra == {"speed": "fast", "tool_choice": {"c": 3}}
    assert request.reasoning == ReasoningOptions(extra={"type": "between_tools"})
    body = DIALECT.encode_request(request)
    assert body["thinking"] == {"type": "between_tools"}
    assert body["tool_choice"] == {"c": 3, "type": "auto"}


def test_vertex_names_the_model_in_the_address():
    body = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 1, "messages": []}
    request = DIALECT.decode_request(body)
    assert request.model == ""
    assert DIALECT.encode_request(request) == body


def test_a_whole_number_is_an_integer_however_it_is_written():
    assert decode(max_tokens=16.0).max_tokens == 16


def test_input_nested_too_deep_to_be_written_is_refused():
    deep = {}
    for _ in range(300):
        deep = {"x": deep}
    with pytest.raises(InvalidRequest, match=r"messages\.0\.content\.1\.input"):
        decode(_block(type="tool_use", id="a", name="f", input=deep))


def _block(**block):
    return [{"role": "user", "content": [{"type": "text", "text": "x"}, block]}]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("messages", {"messages": None}),
        ("messages", {"messages": {"role": "user"}}),
        ("messages.0", {"messages": ["Hello"]}),
        ("messages.0.role", {"messages": [{"content": "x"}]}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages.0.content.0", {"messages": [{"role": "user", "content": ["x"]}]}),
        ("messages.0.content.1.type", {"messages": _block(text="x")}),
        ("messages.0.content.1.text", {"messages": _block(type="text")}),
        ("messages.0.content.1.source", {"messages": _block(type="image")}),
        ("messages.0.content.1.source.type", {"messages": _block(type="image", source={"url": "x"})}),
        ("messages.0.content.1.source.url", {"messages": _block(type="image", source={"type": "url"})}),
        (
            "messages.0.content.1.source.media_type",
            {"messages": _block(type="document", source={"type": "base64", "data": "x"})},
        ),
        ("messages.0.content.1.tool_use_id", {"messages": _block(type="tool_result")}),
        (
            "messages.0.content.1.content.0.text",
            {"messages": _block(type="tool_result", tool_use_id="a", content=[{"type": "text"}])},
        ),
        (
            "messages.0.content.1.is_error",
            {"messages": _block(type="tool_result", tool_use_id="a", is_error="yes")},
        ),
        ("messages.0.content.1.input", {"messages": _block(type="tool_use", id="a", name="f", input="{}")}),
        ("messages.0.content.1.data", {"messages": _block(type="redacted_thinking")}),
        ("system", {"system": 5}),
        ("system.0.text", {"system": [{"type": "text", "text": None}]}),
        ("model", {"model": 5}),
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": -1}),
        ("max_tokens", {"max_tokens": True}),
        ("temperature", {"temperature": "hot"}),
        ("stream", {"stream": 1}),
        ("metadata", {"metadata": "me"}),
        ("stop_sequences.1", {"stop_sequences": ["a", 1]}),
        ("tools", {"tools": {}}),
        ("tools.0.name", {"tools": [{"input_schema": {}}]}),
        ("tools.0.input_schema", {"tools": [{"name": "f"}]}),
        ("tool_choice", {"tool_choice": "auto"}),
        ("tool_choice.type", {"tool_choice": {"type": "required"}}),
        ("tool_choice.name", {"tool_choice": {"type": "tool"}}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled"}}),
        ("output_config.format.schema", {"output_config": {"format": {"type": "json_schema"}}}),
        ("output_config.format.type", {"output_config": {"format": {"type": "json_object"}}}),
    ],
)
def test_a_wrong_field_is_named(field, changes):
    with pytest.raises(InvalidRequest) as caught:
        decode(**changes)
    assert caught.value.metadata["param"] == field
    assert caught.value.message.startswith(f"{field}: ")
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidRequest):
        DIALECT.decode_request(body)


def test_counting_sends_no_limit_and_reads_the_count():
    request = attrs.evolve(
        Request("claude", HELLO, tools=[Tool("f")], max_tokens=5), temperature=1.0, stream=True
    )
    body = DIALECT.encode_count_request(request)
    assert body.keys() == {"model", "messages", "tools"}
    assert DIALECT.decode_request(body).max_tokens is None
    assert DIALECT.decode_count({"input_tokens": 12}) == 12


def test_a_ban_on_parallel_calls_is_read():
    wire = {"type": "any", "disable_parallel_tool_use": True}
    request = decode(tool_choice=wire, tools=[{"name": "f", "input_schema": {"type": "object"}}])
    assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
    assert decode(tool_choice={"type": "any"}).parallel_tool_calls is None
