"""What is asked of Cohere: what its wire cannot say, and what callers of our own may say."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe import dialects
from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.proofs import seal
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

DIALECT = CohereChat()
PIXEL = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ADD, SUB = Tool("add", "Adds", SCHEMA), Tool("sub", "Subtracts", SCHEMA)


def encoded(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    return DIALECT.encode_request(request, losses), losses.warnings


def test_the_dialect_is_found_by_its_name():
    assert isinstance(dialects.get("cohere.chat"), CohereChat)


def test_a_whole_request_is_said_in_coheres_words():
    request = Request(
        "command-a",
        [
            Message("system", "Be brief."),
            Message("user", [Text("What is it?"), Image(data=PIXEL, detail="low")]),
            Message(
                "assistant",
                [Reasoning("I add.", extra={"field": "tool_plan"}), ToolCall("c1", "add", '{"a":"b"}')],
            ),
            Message("tool", ToolResult("c1", "3")),
            Message("assistant", "3"),
            Message("user", "Go on."),
        ],
        [ADD],
        "required",
        temperature=0.5,
        top_p=0.9,
        max_tokens=7,
        stop=("x",),
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        response_format=ResponseFormat("json_schema", SCHEMA),
        reasoning=ReasoningOptions(max_tokens=100),
        stream=True,
        extra={"safety_mode": "STRICT", "k": 3},
    )
    body, warnings = encoded(request)
    assert warnings == ()
    assert body == {
        "model": "command-a",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
                    },
                ],
            },
            {
                "role": "assistant",
                "tool_plan": "I add.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":"b"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
            {"role": "assistant", "content": "3"},
            {"role": "user", "content": "Go on."},
        ],
        "tools": [
            {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": SCHEMA}}
        ],
        "tool_choice": "REQUIRED",
        "temperature": 0.5,
        "p": 0.9,
        "max_tokens": 7,
        "stop_sequences": ["x"],
        "seed": 1,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "response_format": {"type": "json_object", "json_schema": SCHEMA},
        "thinking": {"type": "enabled", "token_budget": 100},
        "stream": True,
        "safety_mode": "STRICT",
        "k": 3,
    }


@pytest.mark.parametrize(
    ("choice", "wire", "tools", "warned"),
    [
        (None, None, ["add", "sub"], False),
        ("auto", None, ["add", "sub"], False),
        ("none", "NONE", ["add", "sub"], False),
        ("required", "REQUIRED", ["add", "sub"], False),
        (NamedTool("sub"), "REQUIRED", ["sub"], True),
    ],
)
def test_a_tool_choice_is_said_or_emulated(choice, wire, tools, warned):
    body, warnings = encoded(Request("m", "hi", [ADD, SUB], choice))
    assert body.get("tool_choice") == wire
    assert [tool["function"]["name"] for tool in body["tools"]] == tools
    assert bool(warnings) is warned


def test_one_tool_that_is_named_is_forced_without_a_word():
    assert encoded(Request("m", "hi", [ADD], NamedTool("add")))[1] == ()
    with pytest.raises(InvalidRequest, match="tool_choice"):
        encoded(Request("m", "hi", [ADD], NamedTool("mul")))


@pytest.mark.parametrize(
    ("strict", "wire", "warned"),
    [
        ((True, True), True, False),
        ((False, False), False, False),
        ((None, None), None, False),
        ((True, None), None, True),
        ((False, None), None, False),
    ],
)
def test_strictness_is_for_all_tools_or_none(strict, wire, warned):
    tools = [Tool(name, strict=one) for name, one in zip("ab", strict, strict=True)]
    body, warnings = encoded(Request("m", "hi", tools))
    assert body.get("strict_tools") == wire
    assert bool(warnings) is warned


@pytest.mark.parametrize(
    ("options", "wire", "warned"),
    [
        (ReasoningOptions("high"), None, True),
        (ReasoningOptions("none"), {"type": "disabled"}, False),
        (ReasoningOptions(max_tokens=0), {"type": "disabled"}, False),
        (ReasoningOptions(enabled=True), {"type": "enabled"}, False),
        (ReasoningOptions("low", 50), {"type": "enabled", "token_budget": 50}, True),
    ],
)
def test_thinking_is_asked_for_by_a_budget(options, wire, warned):
    body, warnings = encoded(Request("m", "hi", reasoning=options))
    assert body.get("thinking") == wire
    assert bool(warnings) is warned


def test_numbers_that_cohere_would_refuse_are_brought_to_it_or_dropped():
    request = Request("m", "hi", top_p=1, frequency_penalty=-0.5, presence_penalty=1.5)
    body, warnings = encoded(request)
    assert body["p"] == 0.99
    assert not body.keys() & {"frequency_penalty", "presence_penalty"}
    assert [warning.split()[0] for warning in warnings] == ["top_p", "frequency_penalty", "presence_penalty"]
    own = Request("m", "hi", top_p=1, frequency_penalty=-0.5, dialect="cohere.chat")
    assert encoded(own) == (
        {"model": "m", "messages": body["messages"], "p": 1, "frequency_penalty": -0.5},
        (),
    )


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (Request("m", "hi", extra={"n": 2}), "n"),
        (Request("m", Message("user", ["x", Audio("UklGRg==")])), "messages[0].parts[1]"),
        (Request("m", Message("user", Document(data="JVBERi0="))), "messages[0].parts[0]"),
        (Request("m", Message("user", Document(url="https://x/y.pdf"))), "messages[0].parts[0]"),
        (Request("m", Message("user", Opaque("openai.chat", {"type": "x"}))), "messages[0].parts[0]"),
        (Request("m", Message("system", Image(data=PIXEL))), "messages[0].parts[0]"),
        (Request("m", Message("assistant", Image(data=PIXEL))), "messages[0].parts[0]"),
        (Request("m", Message("tool", Text("x"))), "messages[0].parts[0]"),
        (
            Request("m", Message("tool", ToolResult("a", ["x", Image(data=PIXEL)]))),
            "messages[0].parts[0].content[1]",
        ),
        (
            Request("m", "hi", [ADD, Tool("s", extra={"type": "web_search"})], dialect="anthropic.messages"),
            "tools[1]",
        ),
    ],
)
def test_what_cohere_cannot_say_is_refused_by_its_path(request_, path):
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode_request(request_)
    assert caught.value.metadata["param"] == path
    assert not caught.value.sent


def test_words_of_other_dialects_do_not_reach_cohere():
    request = Request(
        "m",
        [
            Message("system", "x", extra={"role": "developer"}, dialect="openai.chat"),
            Message(
                "user",
                [Text("hi", {"cache_control": {"type": "ephemeral"}})],
                name="Ann",
                extra={"x": 1},
                dialect="openai.chat",
            ),
            Message(
                "assistant",
                [
                    Reasoning("Hm", "sig", origin="anthropic.messages"),
                    Reasoning("", encrypted="e", origin="openai.responses"),
                    Opaque("openai.chat", {"type": "x"}),
                    Text("Let me see.", {"citations": []}),
                    ToolCall("c", "add", "", {"extra_content": {"google": 1}}),
                ],
                dialect="openai.chat",
            ),
            Message("tool", ToolResult("c", "3"), dialect="openai.chat"),
        ],
        [Tool("add", strict=True, extra={"type": "function", "cache_control": 1})],
        parallel_tool_calls=False,
        response_format=ResponseFormat("json_schema", SCHEMA, "answer", True, "what"),
        metadata={"a": "b"},
        extra={
            "n": 1,
            "top_k": 5,
            "logprobs": True,
            "top_logprobs": 2,
            "user": "u",
            "stream_options": {"include_usage": True},
        },
        dialect="openai.chat",
    )
    body, warnings = encoded(request)
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "x"},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_plan": "Let me see.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "3"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "add", "parameters": request.tools[0].parameters}}
        ],
        "strict_tools": True,
        "response_format": {"type": "json_object", "json_schema": SCHEMA},
        "k": 5,
        "logprobs": True,
    }
    assert {warning.partition(" ")[0] for warning in warnings} == {
        "messages[1].name",
        "messages[1].x",
        "messages[1].parts[0].cache_control",
        "messages[2].parts[0]",
        "messages[2].parts[1]",
        "messages[2].parts[2]",
        "messages[2].parts[3]",
        "messages[2].parts[4].extra_content",
        "parallel_tool_calls",
        "response_format.description",
        "metadata",
        "top_logprobs",
        "user",
    }


def test_thoughts_of_other_models_go_along_where_thinking_is_asked_for():
    thought = Message(
        "assistant", [Reasoning("Hm", "sig", origin="anthropic.messages"), Text("A")], dialect="x"
    )
    body, warnings = encoded(Request("m", [thought], reasoning=ReasoningOptions(enabled=True)))
    assert body["messages"][0]["content"] == [
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "A"},
    ]
    assert warnings == ()
    body, warnings = encoded(Request("m", [thought]))
    assert body["messages"][0]["content"] == "A"
    assert len(warnings) == 1


def test_documents_in_a_message_are_the_requests_documents():
    parts = [
        Document(text="facts", name="a.txt"),
        Document(text='{"a": 1}', media_type="application/json"),
        Text("So?"),
    ]
    body, warnings = encoded(Request("m", Message("user", parts), extra={"documents": ["first"]}))
    assert body["messages"] == [{"role": "user", "content": "So?"}]
    assert body["documents"] == [
        "first",
        {"data": {"title": "a.txt", "text": "facts"}},
        {"data": {"a": 1}},
    ]
    assert len(warnings) == 1
    assert "(and 1 more)" in warnings[0]


def test_a_tool_may_answer_with_documents():
    result = ToolResult("c", [Document(text="facts", extra={"id": "d1"}), Text("x")])
    body, warnings = encoded(Request("m", Message("tool", result)))
    assert body["messages"][0]["content"] == [
        {"type": "document", "document": {"id": "d1", "data": {"text": "facts"}}},
        {"type": "text", "text": "x"},
    ]
    assert warnings == ()


def test_several_results_in_one_message_become_one_message_each():
    message = Message("user", [ToolResult("a", "1"), ToolResult("b", "2"), Text("Go on.")])
    body, _ = encoded(Request("m", message))
    assert [(m["role"], m["content"]) for m in body["messages"]] == [
        ("tool", "1"),
        ("tool", "2"),
        ("user", "Go on."),
    ]


# -- the server's side


def asked(**fields: Any) -> Request:
    return DIALECT.decode_request({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def test_documents_of_a_request_stand_where_all_dialects_have_them():
    request = asked(documents=["x", {"id": "1", "data": {"text": "y", "title": "t"}}, {"data": {"n": 1}}])
    documents = request.messages[-1].parts[:-1]
    assert [(d.text, d.name) for d in documents if isinstance(d, Document)] == [
        ("x", None),
        ("y", "t"),
        ('{"n":1}', None),
    ]
    only = DIALECT.decode_request({"messages": [{"role": "system", "content": "x"}], "documents": ["y"]})
    assert only.extra == {"documents": ["y"]}
    assert DIALECT.encode_request(only)["documents"] == ["y"]


def test_documents_whose_data_is_text_stay_text():
    """Cohere's own examples send a tool's answer so."""
    content: Any = [{"type": "document", "document": {"data": '{"sky": "clear"}', "id": "1"}}]
    wire = {
        "messages": [{"role": "tool", "tool_call_id": "c", "content": content}],
        "documents": [{"data": "x"}],
    }
    request = DIALECT.decode_request(wire)
    (result,) = request.messages[0].parts
    assert isinstance(result, ToolResult)
    assert isinstance(result.content[0], Document)
    assert result.content[0].text == '{"sky": "clear"}'
    assert DIALECT.encode_request(request) == wire
    said: Any = {"messages": [{"role": "user", "content": "hi"}], "documents": [{"data": "x"}]}
    assert DIALECT.encode_request(DIALECT.decode_request(said)) == said
    own: Any = [
        {"type": "document", "document": {"data": {"a": 1}}}
    ]  # not in Cohere's API, so Cohere judges it
    said = {"messages": [{"role": "user", "content": own}]}
    assert DIALECT.encode_request(DIALECT.decode_request(said)) == said


def test_a_proof_that_we_gave_is_taken_back():
    sealed = seal("sig", "anthropic.messages", "cohere.chat")
    content = [{"type": "thinking", "thinking": "Hm", "signature": sealed}, {"type": "text", "text": "A"}]
    request = DIALECT.decode_request({"messages": [{"role": "assistant", "content": content}]})
    (thought, _) = request.messages[0].parts
    assert isinstance(thought, Reasoning)
    assert (thought.text, thought.signature, thought.origin) == ("Hm", "sig", "anthropic.messages")
    assert DIALECT.encode_request(request)["messages"][0]["content"][0] == {
        "type": "thinking",
        "thinking": "Hm",
    }


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
                ]
            },
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "AUTO"}, "tool_choice"),
        ({"documents": [7]}, "documents[0]"),
        ({"documents": [{"id": "x"}]}, "documents[0].data"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"p": 2}, "p"),
        ({"temperature": "warm"}, "temperature"),
        ({"stream": 1}, "stream"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"thinking": {"type": "enabled", "token_budget": 0}}, "thinking.token_budget"),
        ({"response_format": {"type": "json_schema"}}, "response_format.type"),
        ({"strict_tools": "yes"}, "strict_tools"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(fields, path):
    with pytest.raises(InvalidRequest) as caught:
        asked(**fields)
    assert caught.value.metadata["param"] == path
    assert not caught.value.sent


# -- vectors and rankings


def test_vectors_are_asked_for_documents_unless_told_otherwise():
    losses = Losses()
    request = EmbeddingRequest(
        "m", ["a"], 256, extra={"encoding_format": "base64", "user": "u"}, dialect="openai.chat"
    )
    assert DIALECT.encode_embedding_request(request, losses) == {
        "model": "m",
        "input_type": "search_document",
        "texts": ["a"],
        "embedding_types": ["float"],
        "output_dimension": 256,
    }
    assert losses.warnings == ("user dropped: cohere.chat has no such field",)
    query = EmbeddingRequest("m", ["a"], input_type="query", extra={"truncate": "END"})
    body = DIALECT.encode_embedding_request(query)
    assert (body["input_type"], body["truncate"]) == ("search_query", "END")
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode_embedding_request(EmbeddingRequest("m", ["a", [1, 2]]))
    assert caught.value.metadata["param"] == "inputs[1]"


def test_vectors_of_pictures_pass_through():
    body = {
        "model": "embed-v4.0",
        "input_type": "image",
        "images": [f"data:image/png;base64,{PIXEL}"],
        "embedding_types": ["int8"],
    }
    request = DIALECT.decode_embedding_request(dict(body))
    assert request.inputs == ()
    assert DIALECT.encode_embedding_request(request) == body


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"input_type": "search_query"}, "texts"),
        ({"input_type": "search_query", "texts": [7]}, "texts[0]"),
        ({"texts": ["x"]}, "input_type"),
        ({"input_type": "search_query", "texts": ["x"], "embedding_types": ["half"]}, "embedding_types[0]"),
    ],
)
def test_a_wrong_request_for_vectors_names_the_field(body, path):
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_embedding_request(body)
    assert caught.value.metadata["param"] == path


def test_documents_to_rank_are_texts():
    request = DIALECT.decode_rerank_request({"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1})
    assert request.documents == ("a", "b")
    for body in ({"query": "q"}, {"documents": ["a"]}, {"query": "q", "documents": [{"text": "a", "id": 1}]}):
        with pytest.raises(InvalidRequest):
            DIALECT.decode_rerank_request(body)
    losses = Losses()
    foreign = RerankRequest("m", "q", ["a"], extra={"truncation": True}, dialect="voyage", metadata={"a": 1})
    assert DIALECT.encode_rerank_request(foreign, losses) == {"model": "m", "query": "q", "documents": ["a"]}
    assert len(losses.warnings) == 2
