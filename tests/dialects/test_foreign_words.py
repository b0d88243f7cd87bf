"""Words of one dialect on another's wire: translated where they are well known, never passed on blindly."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import Unsupported
from llmpipe.types import (
    EmbeddingRequest,
    Image,
    Message,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

CHAT, MESSAGES = OpenAIChat(), AnthropicMessages()
MARK = {"cache_control": {"type": "ephemeral"}}


def across(body: dict[str, Any], source: Any, target: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    return target.encode_request(source.decode_request(body), losses), losses.warnings


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}


def messages(**fields: Any) -> dict[str, Any]:
    return {**chat(), "max_tokens": 9, **fields}


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_openais_user_is_anthropics(name):
    body, warnings = across(chat(**{name: "u-1"}), CHAT, MESSAGES)
    assert body["metadata"] == {"user_id": "u-1"}
    assert warnings == ()


def test_anthropics_user_is_openais_and_a_long_one_its_hash():
    body, warnings = across(messages(metadata={"user_id": "u-1"}), MESSAGES, CHAT)
    assert (body["user"], "metadata" in body, warnings) == ("u-1", False, ())
    body, warnings = across(messages(metadata={"user_id": "u" * 65}), MESSAGES, CHAT)
    assert len(body["user"]) == 64
    assert warnings == ("metadata.user_id emulated: as user, by its hash",)


def test_anthropic_is_sent_no_metadata_that_it_refuses():
    body, warnings = across(chat(metadata={"trace": "1", "user_id": "u"}), CHAT, MESSAGES)
    assert body["metadata"] == {"user_id": "u"}
    assert warnings == ("metadata.trace dropped: Anthropic takes user_id and nothing else",)


def test_metadata_and_words_in_nobodys_dialect_go_as_they_are():
    request = Request("m", "x", metadata={"trace": "1"}, extra={"new": 1})
    for dialect in (CHAT, MESSAGES):
        losses = Losses()
        body = dialect.encode_request(request, losses)
        assert body["metadata"] == {"trace": "1"}
        assert body["new"] == 1
        assert not losses


def test_top_k_reaches_anthropic_and_the_servers_that_have_it():
    assert across(chat(top_k=5), CHAT, MESSAGES)[0]["top_k"] == 5
    assert across(messages(top_k=5), MESSAGES, OpenAIChat(top_k=True))[0]["top_k"] == 5
    body, warnings = across(messages(top_k=5), MESSAGES, CHAT)
    assert "top_k" not in body
    assert warnings == ("top_k dropped: openai.chat has no such field",)


def test_what_says_nothing_is_left_out_without_a_word():
    said = chat(n=1, logprobs=False, store=False, stream_options={"include_usage": True}, stream=True)
    said["messages"].insert(0, {"role": "developer", "content": "Be brief."})
    body, warnings = across({**said, "modalities": ["text"], "logit_bias": {}}, CHAT, MESSAGES)
    assert body.keys() == {"model", "max_tokens", "system", "messages", "stream"}
    assert warnings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 3),
        ("service_tier", "flex"),
        ("logit_bias", {"1": 2}),
        ("novel", 1),
    ],
)
def test_openais_other_words_are_dropped_and_told(name, value):
    body, warnings = across(chat(**{name: value}), CHAT, MESSAGES)
    assert name not in body
    assert warnings == (f"{name} dropped: anthropic.messages has no such field",)


def test_openais_two_wires_share_some_words():
    extra = {"prompt_cache_key": "k", "user": "u", "truncation": "auto"}
    losses = Losses()
    body = CHAT.encode_request(Request("m", "x", extra=extra, dialect="openai.responses"), losses)
    assert (body["prompt_cache_key"], body["user"], "truncation" in body) == ("k", "u", False)
    assert losses.warnings == ("truncation dropped: openai.chat has no such field",)


def test_cache_markers_cross_the_border():
    said = messages(
        system=[{"type": "text", "text": "s", **MARK}],
        tools=[{"name": "f", "input_schema": {"type": "object"}, **MARK}],
        messages=[{"role": "user", "content": [{"type": "text", "text": "x", **MARK}]}],
    )
    body, warnings = across(said, MESSAGES, CHAT)
    assert str(body).count("cache_control") == 3
    assert warnings == ()
    back, warnings = across(orjson.loads(orjson.dumps(body)), CHAT, MESSAGES)
    assert warnings == ()
    assert {name: back[name] for name in said} == said


def test_a_marked_message_marks_its_last_block_at_anthropic():
    marked = {
        "role": "user",
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        **MARK,
    }
    body, warnings = across(
        chat(messages=[{"role": "system", "content": "s", **MARK}, marked]), CHAT, MESSAGES
    )
    assert body["system"] == [{"type": "text", "text": "s", **MARK}]
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b", **MARK},
    ]
    assert warnings == ()


def test_what_the_system_prompt_of_anthropic_cannot_hold_is_told():
    losses = Losses()
    request = Request("m", [Message("system", "s", extra={"novel": 1}), Message("user", "x")])
    body = MESSAGES.encode_request(request, losses)
    assert body["system"] == "s"
    assert losses.warnings == ("messages[0].novel dropped: the system prompt has no such field",)


def test_a_custom_tool_call_of_openai_is_an_object_at_anthropic():
    call = {"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}
    said = chat(
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "ok"},
        ]
    )
    body, warnings = across(said, CHAT, MESSAGES)
    assert body["messages"][0]["content"][0]["input"] == {"input": "ls -l"}
    assert warnings == ("messages[0].parts[0].arguments emulated: the text of a custom tool is its input",)


def test_a_function_of_2023_without_an_id_is_answered_at_anthropic():
    said = chat(
        messages=[
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "ok"},
        ]
    )
    body, _ = across(said, CHAT, MESSAGES)
    assert body["messages"][0]["content"][0]["id"] == body["messages"][1]["content"][0]["tool_use_id"] == "f"


words = st.dictionaries(st.sampled_from(["zebra", "yak", "index", "type"]), st.just("inner"), max_size=3)


@given(words, words, words, words, st.sampled_from(["gemini.generate", "cohere.chat", "plugin.x"]))
def test_no_word_of_another_dialect_reaches_either_wire(one, two, three, four, written_in):
    """`type` and `index` are notes of a dialect to itself; but a type of reasoning is a way to think."""
    tool_words = {name: value for name, value in two.items() if name != "type"}
    request = Request(
        "m",
        [
            Message("user", [Text("a", one), Image("https://x/y.png", extra=two)], None, three, written_in),
            Message(
                "assistant", [Text("b", four), ToolCall("c", "f", "{}", tool_words)], None, two, written_in
            ),
            Message("tool", ToolResult("c", [Text("d", one)], extra=two), None, four, written_in),
        ],
        tools=[Tool("f", extra=tool_words)],
        response_format=ResponseFormat("json_schema", {"type": "object"}, extra=three),
        reasoning=ReasoningOptions("low", extra=four),
        extra=one,
        dialect=written_in,
    )
    for dialect in (CHAT, MESSAGES):
        losses = Losses()
        body = dialect.encode_request(request, losses)
        assert b"inner" not in orjson.dumps(body)
        told = any({"zebra", "yak"} & set(extra) for extra in (one, two, three, four)) or "type" in four
        assert bool(losses) is told


def test_what_vectors_are_for_is_said_where_there_is_a_field_for_it():
    request = EmbeddingRequest("m", ["a"], input_type="query", metadata={"a": "b"}, extra={"truncate": "END"})
    losses = Losses()
    assert CHAT.encode_embedding_request(request, losses) == {"model": "m", "input": ["a"], "truncate": "END"}
    assert losses.warnings == (
        "input_type dropped: this server makes one kind of vectors",
        "metadata dropped: requests for vectors have none",
    )
    voyage = OpenAIChat(input_type_field="input_type")
    assert voyage.encode_embedding_request(request)["input_type"] == "query"
    jina = OpenAIChat(input_type_field="task", input_types={"query": "retrieval.query"})
    assert jina.encode_embedding_request(request)["task"] == "retrieval.query"


def test_a_request_for_vectors_says_whose_words_it_has():
    request = CHAT.decode_embedding_request({"model": "m", "input": "a", "encoding_format": "base64"})
    assert request.dialect == "openai.chat"
    assert CHAT.encode_embedding_request(request)["encoding_format"] == "base64"
    losses = Losses()
    foreign = EmbeddingRequest("m", ["a"], extra={"truncate": "END", "user": "u"}, dialect="cohere.chat")
    assert CHAT.encode_embedding_request(foreign, losses) == {"model": "m", "input": ["a"], "user": "u"}
    assert losses.warnings == ("truncate dropped: openai.chat has no such field",)


@pytest.mark.parametrize(
    ("listed", "context", "output"),
    [
        ({"context_length": 8, "top_provider": {"max_completion_tokens": 4}}, 8, 4),  # OpenRouter
        ({"context_window": 8, "max_completion_tokens": 4}, 8, 4),  # Groq
        ({"max_model_len": 8}, 8, None),  # vLLM
        ({"context_length": None, "max_tokens": "many"}, None, None),
        ({}, None, None),
    ],
)
def test_the_sizes_of_a_model_are_found_under_the_names_servers_have_for_them(listed, context, output):
    [model] = CHAT.decode_models({"data": [{"id": "m", **listed}]})
    assert (model.context_tokens, model.max_output_tokens) == (context, output)
    [again] = CHAT.decode_models(CHAT.encode_models([model]))
    assert (again.context_tokens, again.max_output_tokens) == (context, output)


def test_the_sizes_of_anthropics_models_are_read():
    [model] = MESSAGES.decode_models(
        {"data": [{"id": "m", "max_input_tokens": 200_000, "max_tokens": 64_000}]}
    )
    assert (model.context_tokens, model.max_output_tokens) == (200_000, 64_000)


PICTURE = {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"}
CODEX = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [{"role": "user", "content": [PICTURE]}],
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "reasoning": {"effort": "medium", "summary": "auto"},
    "text": {"verbosity": "medium"},
    "truncation": "disabled",
    "service_tier": "auto",
}  # fmt: skip


@pytest.mark.parametrize("target", [CHAT, MESSAGES], ids=lambda dialect: dialect.name)
def test_what_happens_anyway_makes_no_noise(target):
    """An ordinary request of an agent that speaks OpenAI's Responses."""
    _, warnings = across(CODEX, OpenAIResponses(), target)
    assert warnings == ()


def test_what_openais_responses_say_elsewhere_is_said_in_chat():
    said = {
        **CODEX,
        "text": {"verbosity": "low"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 3,
    }
    body, warnings = across(said, OpenAIResponses(), CHAT)
    assert (body["verbosity"], body["logprobs"], body["top_logprobs"], warnings) == ("low", True, 3, ())
    back, warnings = across(body, CHAT, OpenAIResponses())
    assert (back["text"], back["include"][0], back["top_logprobs"]) == (
        {"verbosity": "low"}, "message.output_text.logprobs", 3
    )  # fmt: skip
    assert warnings == ()


@pytest.mark.parametrize(
    ("body", "source", "field"),
    [
        (messages(mcp_servers=[{"type": "url", "url": "https://x", "name": "s"}]), MESSAGES, "mcp_servers"),
        (chat(modalities=["text", "audio"], audio={"voice": "a", "format": "wav"}), CHAT, "audio"),
        (chat(web_search_options={"search_context_size": "low"}), CHAT, "web_search_options"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_openais_responses(body, source, field):
    with pytest.raises(Unsupported) as caught:
        across(body, source, OpenAIResponses())
    assert caught.value.metadata["param"] in (field, "modalities")


def test_a_word_that_switches_off_is_told_where_it_is_lost():
    body, warnings = across(chat(enable_thinking=False), CHAT, MESSAGES)
    assert "enable_thinking" not in body
    assert warnings == ("enable_thinking dropped: anthropic.messages has no such field",)
    _, warnings = across(messages(thinking={"type": "between_tools"}), MESSAGES, CHAT)
    assert warnings == ("reasoning.type dropped: openai.chat has no such field",)


def test_how_many_answers_is_a_word_that_openai_has():
    request = Request("m", "x", extra={"n": 2}, dialect="another")
    assert CHAT.encode_request(request)["n"] == 2


@pytest.mark.parametrize("target", [CHAT, MESSAGES, OpenAIResponses()], ids=lambda dialect: dialect.name)
def test_words_in_nobodys_dialect_pass_at_every_place(target):
    word = {"zebra": 1}
    request = Request(
        "m",
        [
            Message("user", [Text("a", word), Image("https://x/y.png", extra=word)], extra=word),
            Message("assistant", [Text("b", word), ToolCall("c", "f", "{}", word)]),
            Message("tool", ToolResult("c", "d", extra=word)),
        ],
        tools=[Tool("f", extra=word)],
        response_format=ResponseFormat("json_schema", {"type": "object"}, extra=word),
        reasoning=ReasoningOptions(enabled=True, max_tokens=10, extra=word),
        extra=word,
    )
    losses = Losses()
    body = orjson.dumps(target.encode_request(request, losses))
    assert body.count(b'"zebra":1') == 10
    assert not any("zebra" in warning for warning in losses.warnings)
