"""What is sent to a provider of OpenAI's Responses, and what a caller's JSON is understood as."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from llmpipe import dialects
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import (
    Audio,
    Completion,
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

DIALECT = OpenAIResponses()
NAME = DIALECT.name
ENCRYPTED = "reasoning.encrypted_content"
TURN = Message(
    "assistant",
    [
        Reasoning("why", None, "proof", {"item": {"id": "rs_1"}}, NAME),
        Text("Let me look.", {"item": {"id": "msg_1", "phase": "commentary"}}),
        ToolCall("call_1", "weather", "{}", {"item": {"id": "fc_1"}}),
    ],
    dialect=NAME,
)


def encode(request: Request, dialect: OpenAIResponses = DIALECT) -> tuple[dict, tuple[str, ...]]:
    losses = Losses()
    return dialect.encode_request(request, losses), losses.warnings


def body_of(request: Request, dialect: OpenAIResponses = DIALECT) -> dict:
    body, warnings = encode(request, dialect)
    assert warnings == ()
    return body


def input_of(*messages: Message, dialect: OpenAIResponses = DIALECT, **more) -> list:
    return body_of(Request("m", messages, **more), dialect)["input"]


# -- what is kept, and what is sent back


def test_nothing_is_kept_unless_asked_for():
    assert body_of(Request("m", "hi")) == {
        "model": "m",
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
    }
    assert body_of(Request("m", "hi", extra={"store": True}))["store"] is True
    assert "store" not in body_of(Request("m", "hi"), OpenAIResponses(store=None))


def test_a_conversation_that_the_provider_keeps_is_kept():
    assert "store" not in body_of(Request("m", "hi", extra={"conversation": "conv_1"}))


def test_a_caller_of_this_dialect_decides_himself_what_is_kept():
    body = {"model": "m", "input": "hi", "reasoning": {"effort": "low"}}
    again = body_of(DIALECT.decode_request(body))
    assert again == {**body, "input": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (None, False),
        (ReasoningOptions("high"), True),
        (ReasoningOptions(enabled=True), True),
        (ReasoningOptions(extra={"summary": "auto"}), True),
        (ReasoningOptions("none"), False),
        (ReasoningOptions("high", enabled=False), False),
    ],
)
def test_encrypted_thoughts_are_asked_for_where_there_are_thoughts(options, asked):
    body = body_of(Request("m", "hi", reasoning=options))
    assert body.get("include") == ([ENCRYPTED] if asked else None)


def test_encrypted_thoughts_are_not_asked_for_where_the_provider_keeps_them():
    wanted = Request("m", "hi", reasoning=ReasoningOptions("high"))
    assert "include" not in body_of(evolve(wanted, extra={"store": True}))
    assert "include" not in body_of(wanted, OpenAIResponses(encrypted_reasoning=False))
    more = body_of(evolve(wanted, extra={"include": ["message.output_text.logprobs"]}))
    assert more["include"] == ["message.output_text.logprobs", ENCRYPTED]
    assert body_of(evolve(wanted, extra={"include": [ENCRYPTED]}))["include"] == [ENCRYPTED]


def test_a_turn_goes_back_without_ids_where_nothing_is_kept():
    assert input_of(TURN) == [
        {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "why"}],
            "encrypted_content": "proof",
        },
        {"role": "assistant", "content": "Let me look.", "phase": "commentary"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    ]


def test_a_turn_goes_back_with_its_ids_where_it_is_kept():
    thought, said, call = input_of(TURN, extra={"store": True})
    assert (thought["id"], call["id"]) == ("rs_1", "fc_1")
    assert said == {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
        "status": "completed",
        "id": "msg_1",
        "phase": "commentary",
    }


def test_a_thought_without_proof_goes_back_only_where_it_is_kept():
    turn = Message("assistant", Reasoning("why", extra={"item": {"id": "rs_1"}}), dialect=NAME)
    body, warnings = encode(Request("m", [turn]))
    assert body["input"] == []
    assert warnings == (
        "messages[0].parts[0] dropped: reasoning that its provider has not encrypted cannot be sent back",
    )
    (item,) = input_of(turn, extra={"store": True})
    assert (item["id"], item["summary"][0]["text"]) == ("rs_1", "why")


def test_open_thoughts_go_back_to_the_servers_that_show_them():
    turn = Message(
        "assistant", Reasoning("raw", extra={"item": {"id": "rs_1", "kind": "content"}}), dialect=NAME
    )
    assert input_of(turn) == [
        {
            "type": "reasoning",
            "summary": [],
            "id": "rs_1",
            "content": [{"type": "reasoning_text", "text": "raw"}],
        }
    ]
    plain = Message("assistant", [Reasoning("hm"), Text("hi")], dialect="openai.chat")
    (item, _) = input_of(plain, dialect=OpenAIResponses(replay_plain_reasoning=True))
    assert item["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert item["id"].startswith("rs_")


@pytest.mark.parametrize("store", [False, True])
def test_a_proof_of_another_provider_is_not_sent(store):
    turn = Message("assistant", [Reasoning("why", "sig", origin="anthropic.messages"), Text("hi")])
    body, warnings = encode(Request("m", [turn], extra={"store": store}))
    assert body["input"] == [{"role": "assistant", "content": "hi"}]
    assert warnings == ("messages[0].parts[0] dropped: reasoning that anthropic.messages proved",)


def test_parts_of_a_summary_are_told_apart_again():
    turn = Message(
        "assistant",
        Reasoning("one\n\ntwo\n\nthree", None, "p", {"item": {"sizes": [3, 10]}}, NAME),
        dialect=NAME,
    )
    (item,) = input_of(turn)
    assert [piece["text"] for piece in item["summary"]] == ["one", "two\n\nthree"]
    changed = evolve(turn, parts=[evolve(turn.parts[0], text="masked")])
    assert [piece["text"] for piece in input_of(changed)[0]["summary"]] == ["masked"]


def test_texts_of_two_items_stay_two_and_texts_of_one_stay_one():
    texts = [Text(text, {"item": {"id": item}}) for text, item in (("a", "x"), ("b", "x"), ("c", "y"))]
    said = input_of(Message("assistant", [*texts, Refusal("no")], dialect=NAME))
    assert [[part.get("text", part.get("refusal")) for part in item["content"]] for item in said] == [
        ["a", "b"],
        ["c", "no"],
    ]


def test_server_tools_of_the_history_go_back_as_they_are():
    call = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    assert input_of(Message("assistant", [Opaque(NAME, call), Text("hi")], dialect=NAME))[0] == call


# -- what is said


def test_everything_that_the_wire_can_say_is_said():
    request = Request(
        "m",
        [
            Message("system", "Be brief."),
            Message(
                "user",
                [
                    Text("Look"),
                    Image(url="https://x/y.png", detail="low"),
                    Image(data="iVBORw0KGgo="),
                    Document(data="JVBERi0=", name="a.pdf"),
                    Document(data="YQ==", media_type="text/plain"),
                    Document(url="https://x/z.pdf"),
                    Document(file_id="file-1"),
                ],
            ),
            Message("assistant", [ToolCall("c1", "f", ""), ToolCall("c2", "sh", "ls", {"type": "custom"})]),
            Message(
                "tool", [ToolResult("c1", "ok"), ToolResult("c2", [Text("see"), Image(url="https://x")])]
            ),
        ],
        tools=[
            Tool("f", "does", {"type": "object", "properties": {}}, True),
            Tool("sh", extra={"type": "custom", "name": "sh", "format": {"type": "text"}}),
            Tool("web_search", extra={"type": "web_search", "search_context_size": "low"}),
        ],
        tool_choice=NamedTool("sh"),
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.9,
        max_tokens=100,
        response_format=ResponseFormat("json_schema", {"type": "object"}, "out", True, "what"),
        reasoning=ReasoningOptions("low", extra={"summary": "auto"}),
        metadata={"a": "b"},
        stream=True,
        extra={"text": {"verbosity": "low"}, "truncation": "auto"},
    )
    assert body_of(request) == {
        "model": "m",
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look"},
                    {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
                    {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="},
                    {
                        "type": "input_file",
                        "file_data": "data:application/pdf;base64,JVBERi0=",
                        "filename": "a.pdf",
                    },
                    {
                        "type": "input_file",
                        "file_data": "data:text/plain;base64,YQ==",
                        "filename": "document.txt",
                    },
                    {"type": "input_file", "file_url": "https://x/z.pdf"},
                    {"type": "input_file", "file_id": "file-1"},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "sh", "input": "ls"},
            {"type": "function_call_output", "call_id": "c1", "output": "ok"},
            {
                "type": "custom_tool_call_output",
                "call_id": "c2",
                "output": [
                    {"type": "input_text", "text": "see"},
                    {"type": "input_image", "image_url": "https://x"},
                ],
            },
        ],
        "tools": [
            {
                "type": "function",
                "name": "f",
                "description": "does",
                "parameters": {"type": "object", "properties": {}},
                "strict": True,
            },
            {"type": "custom", "name": "sh", "format": {"type": "text"}},
            {"type": "web_search", "search_context_size": "low"},
        ],
        "tool_choice": {"type": "custom", "name": "sh"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 100,
        "text": {
            "verbosity": "low",
            "format": {
                "type": "json_schema",
                "name": "out",
                "schema": {"type": "object"},
                "strict": True,
                "description": "what",
            },
        },
        "reasoning": {"effort": "low", "summary": "auto"},
        "metadata": {"a": "b"},
        "store": False,
        "include": [ENCRYPTED],
        "stream": True,
        "truncation": "auto",
    }


def test_a_function_is_not_strict_unless_it_says_so():
    """It is by default here, and nowhere else."""
    assert body_of(Request("m", "x", [Tool("f")]))["tools"][0]["strict"] is False
    asked = {"model": "m", "input": "x", "tools": [{"type": "function", "name": "f", "parameters": {}}]}
    assert "strict" not in body_of(DIALECT.decode_request(asked))["tools"][0]


def test_instructions_are_a_system_message_and_go_back():
    body = {"model": "m", "instructions": "Be brief.", "input": [{"role": "user", "content": "x"}]}
    request = DIALECT.decode_request(body)
    assert (request.messages[0].role, request.system) == ("system", "Be brief.")
    assert body_of(request) == body


def test_instructions_that_do_not_come_first_any_more_stay_where_they_stand():
    request = DIALECT.decode_request({"model": "m", "instructions": "b", "input": "x"})
    more = evolve(request, messages=(Message("system", "a"), *request.messages))
    assert body_of(more)["input"] == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "x"},
    ]


def test_an_empty_message_is_said_all_the_same():
    assert input_of(Message("user", ())) == [{"role": "user", "content": ""}]


@pytest.mark.parametrize(
    ("extra", "choice"),
    [
        ({}, {"type": "function", "name": "t"}),
        ({"type": "custom"}, {"type": "custom", "name": "t"}),
        ({"type": "web_search"}, {"type": "web_search"}),
        ({"type": "mcp", "server_label": "wiki"}, {"type": "mcp", "server_label": "wiki"}),
    ],
)
def test_a_tool_is_chosen_as_its_kind_is(extra, choice):
    body = body_of(Request("m", "x", [Tool("t", extra=extra)], tool_choice=NamedTool("t")))
    assert body["tool_choice"] == choice


def test_a_server_that_insists_on_instructions_is_given_them():
    messages = [Message("system", "a"), Message("system", "b"), Message("user", "x")]
    body = body_of(Request("m", messages), OpenAIResponses(instructions_field=True))
    assert (body["instructions"], len(body["input"])) == ("a\n\nb", 1)
    (role, _) = input_of(
        Message("system", "a"), Message("user", "x"), dialect=OpenAIResponses(system_role="developer")
    )
    assert role == {"role": "developer", "content": "a"}


def test_a_request_may_go_on_where_the_provider_stopped():
    body = {"model": "m", "previous_response_id": "resp_1"}
    assert body_of(DIALECT.decode_request(body)) == body
    with pytest.raises(InvalidRequest, match="input: is required"):
        DIALECT.decode_request({"model": "m"})


def test_a_field_that_we_model_is_not_overridden_by_extra():
    body = body_of(Request("m", "x", max_tokens=5, extra={"max_output_tokens": 9, "model": "other"}))
    assert (body["max_output_tokens"], body["model"]) == (5, "m")


# -- what the wire cannot say


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"stop": ["x"]}, "stop"),
        ({"extra": {"n": 2}}, "n"),
        ({"messages": [Message("user", Audio("aGk="))]}, "messages[0].parts[0]"),
        (
            {"messages": [Message("user", Opaque("anthropic.messages", {"type": "x"}))]},
            "messages[0].parts[0]",
        ),
        ({"messages": [Message("user", ToolCall("a", "b"))]}, "messages[0].parts[0]"),
        ({"messages": [Message("tool", "lost its call")]}, "messages[0].parts[0]"),
        ({"messages": [Message("assistant", ["a", Image(url="https://x")])]}, "messages[0].parts[1]"),
        ({"dialect": "anthropic.messages", "tools": [Tool("s", extra={"type": "web_1"})]}, "tools[0]"),
        ({"dialect": "openai.chat", "extra": {"tool_choice": {"type": "x"}}}, "tool_choice"),
        ({"dialect": "openai.chat", "extra": {"response_format": {"type": "x"}}}, "response_format"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_path(more, path):
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode_request(Request("m", **{"messages": "x", **more}))
    assert caught.value.metadata["param"] == path
    assert caught.value.sent is False


def test_what_only_hints_is_left_out_with_a_warning():
    request = Request(
        "m",
        [Message("user", "x", "Ann"), Message("tool", ToolResult("c", "no", is_error=True))],
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        reasoning=ReasoningOptions("low", 2000),
    )
    body, warnings = encode(request)
    assert sorted(body) == ["include", "input", "model", "reasoning", "store"]
    assert [warning.partition(" ")[0] for warning in warnings] == [
        "messages[0].name",
        "messages[1].parts[0].is_error",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "reasoning.max_tokens",
    ]


def test_a_document_of_text_is_said_as_text():
    body, warnings = encode(Request("m", [Message("user", Document(text="long"))]))
    assert body["input"][0]["content"] == [{"type": "input_text", "text": "long"}]
    assert warnings == ("messages[0].parts[0] emulated: the document's text is sent as text",)


def test_words_of_openais_older_api_are_translated():
    chat = dialects.get("openai.chat").decode_request(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "verbosity": "low",
            "logprobs": True,
            "top_logprobs": 2,
            "user": "u",
            "service_tier": "flex",
            "prompt_cache_key": "k",
            "stream_options": {"include_usage": True},
            "logit_bias": {"1": 2},
            "tools": [
                {
                    "type": "custom",
                    "custom": {"name": "sh", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}},
                }
            ],
        }
    )
    body, warnings = encode(evolve(chat, dialect="openai.chat"))
    assert {name: body[name] for name in ("text", "include", "user", "service_tier", "prompt_cache_key")} == {
        "text": {"verbosity": "low"},
        "include": ["message.output_text.logprobs"],
        "user": "u",
        "service_tier": "flex",
        "prompt_cache_key": "k",
    }
    assert body["top_logprobs"] == 2
    assert body["tools"] == [
        {"type": "custom", "name": "sh", "format": {"type": "grammar", "syntax": "lark"}}
    ]
    assert [warning.partition(" ")[0] for warning in warnings] == ["logit_bias"]


def test_words_of_anthropic_are_translated():
    request = Request(
        "m",
        "x",
        metadata={"user_id": "u"},
        extra={"service_tier": "standard_only", "top_k": 5},
        dialect="anthropic.messages",
    )
    body, warnings = encode(request)
    assert (body["user"], body["service_tier"], "metadata" in body) == ("u", "default", False)
    assert [warning.partition(" ")[0] for warning in warnings] == ["top_k"]


def test_words_of_another_dialect_never_reach_this_wire():
    marked = {"cache_control": {"type": "ephemeral"}}
    message = Message("user", Text("x", marked), extra={"odd": 1}, dialect="anthropic.messages")
    tool = Tool("f", extra=marked)
    form = ResponseFormat("json_schema", {}, extra={"odd": 1})
    body, warnings = encode(
        Request("m", [message], [tool], response_format=form, dialect="anthropic.messages")
    )
    assert "cache_control" not in str(body)
    assert "odd" not in str(body)
    assert [warning.partition(" dropped")[0] for warning in warnings] == [
        "messages[0].odd (and 1 more)",
        "messages[0].parts[0].cache_control (and 1 more)",
    ]


# -- callers


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc"}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://in.side"}]}]},
            "input[0].content[0].file_url",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].file_data"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": 1}]},
            "input[0].arguments",
        ),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"store": "no"}, "store"),
        ({"include": "x"}, "include"),
        ({"reasoning": "low"}, "reasoning"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(change, param):
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request({"model": "m", "input": "x", **change})
    assert caught.value.metadata["param"] == param


def test_items_of_a_turn_become_one_message():
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
        {
            "type": "message",
            "role": "assistant",
            "id": "m1",
            "content": [{"type": "output_text", "text": "a"}],
        },
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "d", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "function_call_output", "call_id": "d", "output": "2"},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "item_reference", "id": "msg_9"},
        {"type": "mcp_approval_response", "approve": True},
    ]
    request = DIALECT.decode_request({"model": "m", "input": items})
    assert [(m.role, len(m.parts)) for m in request.messages] == [
        ("user", 1),
        ("assistant", 5),
        ("tool", 1),
        ("tool", 1),
        ("assistant", 1),
        ("assistant", 1),
        ("user", 1),
        ("user", 1),
    ]
    assert request.messages[1].parts[0].origin == NAME
    assert all(message.dialect == NAME for message in request.messages)
    again = body_of(request)["input"]
    assert [item.get("type", item.get("role")) for item in again] == [
        item.get("type", item.get("role")) for item in items
    ]


@pytest.mark.parametrize(
    "part",
    [
        Reasoning("why", "sig==", None, {}, "anthropic.messages"),
        Reasoning("", None, "hidden", {}, "anthropic.messages"),
        Reasoning("", "thought", None, {}, "gemini.generate"),
    ],
)
def test_a_proof_of_another_provider_survives_a_caller_of_this_dialect(part):
    """It goes out sealed in the one field there is, comes back so, and is what it was."""
    message = Message("assistant", [part, ToolCall("c", "f")], dialect=part.origin)
    output = DIALECT.encode_reply(Completion("r", "m", message, "tool_calls"))["output"]
    assert output[0]["encrypted_content"].startswith(f"llmpipe:{part.origin}:")
    again = DIALECT.decode_request({"model": "m", "input": output}).messages[0].parts[0]
    assert (again.text, again.signature, again.encrypted, again.origin) == (
        part.text,
        part.signature,
        part.encrypted,
        part.origin,
    )


def test_what_another_provider_said_besides_is_not_shown():
    message = Message(
        "assistant",
        [Text("hi", {"citations": [1]}), Opaque("anthropic.messages", {"type": "x"})],
        dialect="anthropic.messages",
    )
    body = DIALECT.encode_reply(Completion("r", "m", message, "stop", extra={"container": "c"}))
    assert body["output"][0]["content"] == [
        {"type": "output_text", "annotations": [], "logprobs": [], "text": "hi"}
    ]
    assert len(body["output"]) == 1
    assert "container" not in body


def test_what_a_chain_told_the_model_is_not_shown():
    message = Message("assistant", "hi", dialect=NAME)
    body = DIALECT.encode_reply(
        Completion("r", "m", message, "stop", extra={"instructions": "secret", "tools": []})
    )
    assert body["instructions"] is None
    assert "secret" not in str(body)


def test_counting_sends_what_matters_to_the_count():
    body = DIALECT.encode_count_request(Request("m", "x", max_tokens=5, stream=True))
    assert body == {"model": "m", "input": [{"role": "user", "content": "x"}]}
    assert DIALECT.decode_count({"object": "response.input_tokens", "input_tokens": 7}) == 7
