"""What is asked of Ollama, and what its wire cannot say."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe import dialects
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.ollama_chat import OllamaChat
from llmpipe.errors import BadReply, ContextTooLong, InvalidRequest, LLMError, Overloaded, Unsupported
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

DIALECT = OllamaChat()
PIXEL = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
ADD = Tool("add", "Adds", SCHEMA)


def encoded(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    return DIALECT.encode_request(request, losses), losses.warnings


def test_the_dialect_is_found_by_its_name():
    assert isinstance(dialects.get("ollama.chat"), OllamaChat)


def test_a_whole_request_is_said_in_ollamas_words():
    request = Request(
        "qwen3",
        [
            Message("system", "Be brief."),
            Message("user", [Text("What is it?"), Text("Say."), Image(data=PIXEL)]),
            Message(
                "assistant", [Reasoning("Hm"), ToolCall("c1", "add", '{"a":"b"}'), ToolCall("", "now", "")]
            ),
            Message("tool", ToolResult("c1", "3")),
            Message("user", Image(url=f"data:image/png;base64,{PIXEL}")),
        ],
        [ADD],
        "auto",
        temperature=0.5,
        top_p=0.9,
        max_tokens=7,
        stop=("x",),
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        response_format=ResponseFormat("json_schema", SCHEMA),
        reasoning=ReasoningOptions(enabled=True),
        stream=True,
        extra={"keep_alive": "5m", "options": {"num_ctx": 4096, "seed": 9}},
    )
    body, warnings = encoded(request)
    assert warnings == ()
    assert body == {
        "model": "qwen3",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it?\nSay.", "images": [PIXEL]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "Hm",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "add", "arguments": {"a": "b"}}},
                    {"function": {"name": "now", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": "3", "tool_name": "add", "tool_call_id": "c1"},
            {"role": "user", "content": "", "images": [PIXEL]},
        ],
        "stream": True,
        "tools": [
            {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": SCHEMA}}
        ],
        "options": {
            "num_ctx": 4096,
            "num_predict": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 1,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.2,
            "stop": ["x"],
        },
        "format": SCHEMA,
        "think": True,
        "keep_alive": "5m",
    }


def test_a_reply_that_is_not_to_be_streamed_is_asked_for_in_so_many_words():
    assert DIALECT.encode_request(Request("m", "hi"))["stream"] is False


def test_json_without_a_schema_is_a_word():
    assert encoded(Request("m", "hi", response_format=ResponseFormat("json")))[0]["format"] == "json"
    assert "format" not in encoded(Request("m", "hi", response_format=ResponseFormat("text")))[0]


@pytest.mark.parametrize(
    ("model", "options", "think", "warned"),
    [
        ("qwen3", ReasoningOptions(enabled=False), False, False),
        ("qwen3", ReasoningOptions("none"), False, False),
        ("qwen3", ReasoningOptions("high"), None, True),
        ("qwen3", ReasoningOptions("high", enabled=True), True, True),
        ("gpt-oss:20b", ReasoningOptions("high"), "high", False),
        ("gpt-oss:20b", ReasoningOptions("max"), None, True),
        ("qwen3", ReasoningOptions(max_tokens=100), None, True),
    ],
)
def test_thinking_is_asked_for_as_far_as_a_model_knows_it(model, options, think, warned):
    body, warnings = encoded(Request(model, "hi", reasoning=options))
    assert body.get("think") == think
    assert bool(warnings) is warned


def test_a_choice_of_no_tool_leaves_the_tools_out():
    body, warnings = encoded(Request("m", "hi", [ADD], "none"))
    assert "tools" not in body
    assert warnings == ("tool_choice emulated: the tools were left out",)


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (Request("m", "hi", [ADD], "required"), "tool_choice"),
        (Request("m", "hi", [ADD], NamedTool("add")), "tool_choice"),
        (Request("m", "hi", extra={"n": 2}), "n"),
        (Request("m", Message("user", ["x", Image(url="https://x/y.png")])), "messages[0].parts[1]"),
        (Request("m", Message("user", Audio("UklGRg=="))), "messages[0].parts[0]"),
        (Request("m", Message("user", Document(data="JVBERi0="))), "messages[0].parts[0]"),
        (Request("m", Message("user", Opaque("openai.chat", {"type": "x"}))), "messages[0].parts[0]"),
        (
            Request("m", Message("tool", ToolResult("a", ["x", Audio("UklGRg==")]))),
            "messages[0].parts[0].content[1]",
        ),
        (
            Request("m", "hi", [Tool("s", extra={"type": "web_search"})], dialect="anthropic.messages"),
            "tools[0]",
        ),
    ],
)
def test_what_ollama_cannot_say_is_refused_by_its_path(request_, path):
    with pytest.raises(Unsupported) as caught:
        DIALECT.encode_request(request_)
    assert caught.value.metadata["param"] == path
    assert not caught.value.sent


def test_arguments_that_are_no_object_are_refused():
    with pytest.raises(InvalidRequest, match="not JSON"):
        DIALECT.encode_request(Request("m", Message("assistant", ToolCall("a", "add", '{"a":'))))


def test_words_of_other_dialects_do_not_reach_ollama():
    request = Request(
        "m",
        [
            Message(
                "user",
                [Text("hi", {"cache_control": {"type": "ephemeral"}}), Image(data=PIXEL, detail="high")],
                name="Ann",
                extra={"x": 1},
                dialect="openai.chat",
            ),
            Message(
                "assistant",
                [
                    Reasoning("", "sig", origin="gemini.generate"),
                    Opaque("openai.chat", {"type": "x"}),
                    Text("A"),
                ],
                dialect="openai.chat",
            ),
        ],
        [Tool("add", strict=True, extra={"cache_control": 1})],
        parallel_tool_calls=False,
        metadata={"a": "b"},
        extra={"n": 1, "top_k": 5, "user": "u", "stream_options": {"include_usage": True}},
        dialect="openai.chat",
    )
    body, warnings = encoded(request)
    assert body["messages"] == [
        {"role": "user", "content": "hi", "images": [PIXEL]},
        {"role": "assistant", "content": "A"},
    ]
    assert body["options"] == {"top_k": 5}
    assert set(body) == {"model", "messages", "stream", "tools", "options"}
    assert body["tools"][0].keys() == {"type", "function"}
    told = {warning.partition(" ")[0] for warning in warnings}
    assert told == {
        "messages[0].name",
        "messages[0].x",
        "messages[0].parts[0].cache_control",
        "messages[0].parts[1].detail",
        "messages[1].parts[0]",
        "messages[1].parts[1]",
        "tools[0].strict",
        "parallel_tool_calls",
        "metadata",
        "user",
    }


def test_a_document_of_text_is_text():
    body, warnings = encoded(Request("m", Message("user", [Document(text="facts"), Text("So?")])))
    assert body["messages"][0]["content"] == "facts\nSo?"
    assert len(warnings) == 1


def test_vectors_and_models():
    losses = Losses()
    request = EmbeddingRequest("m", ["a", "b"], 8, extra={"truncate": True}, input_type="query")
    assert DIALECT.encode_embedding_request(request, losses) == {
        "model": "m",
        "input": ["a", "b"],
        "dimensions": 8,
        "truncate": True,
    }
    assert losses.warnings == ("input_type dropped: Ollama has none",)
    with pytest.raises(Unsupported):
        DIALECT.encode_embedding_request(EmbeddingRequest("m", [[1, 2]]))
    found = DIALECT.decode_embeddings(
        {"model": "m", "embeddings": [[0.5, 1], [1, 0]], "prompt_eval_count": 4, "total_duration": 9}, {}
    )
    assert list(found.vectors) == [[0.5, 1], [1, 0]]
    assert found.usage is not None
    assert found.usage.input_tokens == 4
    assert found.extra == {"total_duration": 9}
    for body in ({}, {"embeddings": [["x"]]}, {"error": "no such model"}):
        with pytest.raises(LLMError):
            DIALECT.decode_embeddings(body, {})
    listed = {
        "models": [
            {"name": "qwen3:8b", "model": "qwen3:8b", "modified_at": "2026-01-02T03:04:05Z", "size": 5},
            {"name": ""},
        ]
    }
    (model,) = DIALECT.decode_models(listed)
    assert (model.id, model.created, model.extra["size"]) == ("qwen3:8b", 1767323045.0, 5)
    with pytest.raises(BadReply):
        DIALECT.decode_models({"data": []})


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "the input length exceeds the context length", ContextTooLong),
        (400, '"gemma3" does not support tools', InvalidRequest),
        (503, "server busy, please try again. maximum pending requests exceeded", Overloaded),
    ],
)
def test_errors_are_classified(status, words, kind):
    error = DIALECT.decode_error(status, {}, b'{"error":%s}' % orjson.dumps(words))
    assert type(error) is kind
    assert error.message == words
    assert type(DIALECT.decode_error(502, {}, b"<html>bad gateway</html>")).__name__ == "ServiceUnavailable"


def test_a_reply_that_is_none_is_an_error():
    for body in ({}, {"error": "oops"}, {"message": {"content": "x"}, "done": False}, {"message": "x"}):
        with pytest.raises(LLMError):
            DIALECT.decode_reply(body, {})
    done = DIALECT.decode_reply({"message": {"content": ""}, "done": True, "done_reason": "load"}, {})
    assert (done.finish_reason, done.extra) == ("stop", {"done_reason": "load"})


@pytest.mark.parametrize(
    "use",
    [
        lambda: DIALECT.decode_request({}),
        lambda: DIALECT.encode_reply(Completion()),
        lambda: DIALECT.encoder(Request()),
        lambda: DIALECT.encode_error(BadReply("x")),
    ],
)
def test_there_is_no_server_side(use):
    with pytest.raises(Unsupported, match=r"openai\.chat"):
        use()
