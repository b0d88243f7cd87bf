"""What a wire cannot say: told where it only hints, refused where the answer would be another."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.losses import Losses, function_only, native
from llmpipe.dialects.openai_chat import OpenAIChat
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

CHAT, MESSAGES = "openai.chat", "anthropic.messages"
MARK = {"cache_control": {"type": "ephemeral"}}
OPENAI = OpenAIChat(
    reasoning_param="reasoning_effort",
    reasoning_field=None,
    cache_control=False,
    tool_media=False,
    file_urls=False,
    max_stop=4,
    max_tool_id=40,
)


def encode(dialect: Any, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    body = dialect.encode_request(request, losses)
    assert body == dialect.encode_request(request)  # nobody needs to listen
    return body, losses.warnings


def asked(*messages: Message, **fields: Any) -> Request:
    return Request("m", messages or (Message("user", "x"),), **fields)


def said(*parts: Any, role: Any = "user", dialect: str = "", **fields: Any) -> Request:
    return asked(Message(role, parts, dialect=dialect), **fields)


@pytest.mark.parametrize("dialect", [OpenAIChat(), AnthropicMessages()])
def test_a_plain_request_loses_nothing(dialect):
    request = asked(
        Message("system", "Be brief."),
        Message("user", "x"),
        Message("assistant", ["ok", ToolCall("a", "f", "{}")]),
        Message("tool", ToolResult("a", "done")),
        tools=[Tool("f", "does f", strict=True)],
        temperature=0.5,
        max_tokens=9,
        stop=["."],
    )
    assert encode(dialect, request)[1] == ()


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"seed": 1}, "seed dropped: Anthropic has none"),
        ({"frequency_penalty": 0.5}, "frequency_penalty dropped: Anthropic has none"),
        ({"presence_penalty": 0.5}, "presence_penalty dropped: Anthropic has none"),
        ({"temperature": 1.5}, "temperature emulated: lowered to 1, the highest here"),
        ({"reasoning": ReasoningOptions("minimal")}, "reasoning.effort emulated: 'minimal' is 'low' here"),
        (
            {"response_format": ResponseFormat("json_schema", {"type": "object"}, description="a thing")},
            "response_format.description dropped: Anthropic has none",
        ),
    ],
)
def test_what_anthropic_lacks_is_told(fields, warning):
    body, warnings = encode(AnthropicMessages(), asked(**fields))
    assert warnings == (warning,)
    assert not {"seed", "frequency_penalty", "presence_penalty"} & body.keys()
    assert body.get("temperature", 0) <= 1


def test_parts_that_anthropic_says_less_of_are_told_by_their_path():
    request = asked(
        Message("user", ["look", Image("https://x/y.png", detail="low")], name="ann"),
        Message("assistant", [Refusal("no"), Reasoning("hm")]),
        Message("user", "why"),
    )
    body, warnings = encode(AnthropicMessages(), request)
    assert body["messages"][1]["content"] == "no"
    assert warnings == (
        "messages[0].parts[1].detail dropped: Anthropic has none",
        "messages[0].name dropped: Anthropic has none",
        "messages[1].parts[0] emulated: a refusal is text",
        "messages[1].parts[1] dropped: Anthropic takes signed thinking only",
    )


@pytest.mark.parametrize(
    ("dialect", "request_", "path"),
    [
        (AnthropicMessages(), said("a", Audio("AAAA")), "messages[0].parts[1]"),
        (AnthropicMessages(), asked(extra={"n": 2}), "n"),
        (AnthropicMessages(), asked(extra={"n": 2}, dialect=CHAT), "n"),
        (AnthropicMessages(), said(Opaque(CHAT, {"type": "video_url"})), "messages[0].parts[0]"),
        (
            AnthropicMessages(),
            said(Document(file_id="file-1"), dialect=CHAT),
            "messages[0].parts[0].file_id",
        ),
        (
            AnthropicMessages(),
            asked(tools=[Tool("f"), Tool("t", extra={"type": "custom", "custom": {}})], dialect=CHAT),
            "tools[1]",
        ),
        (AnthropicMessages(), asked(extra={"functions": [{"name": "f"}]}, dialect=CHAT), "functions"),
        (AnthropicMessages(), asked(extra={"modalities": ["text", "audio"]}, dialect=CHAT), "modalities"),
        (AnthropicMessages(), asked(extra={"tool_choice": {"type": "x"}}, dialect=CHAT), "tool_choice"),
        (
            AnthropicMessages(json_schema=False),
            asked(response_format=ResponseFormat("json_schema")),
            "response_format.schema",
        ),
        (OPENAI, said(Opaque(MESSAGES, {"type": "search_result"})), "messages[0].parts[0]"),
        (
            OPENAI,
            asked(Message("tool", ToolResult("a", ["x", Opaque(MESSAGES, {"type": "x"})]))),
            "messages[0].parts[0].content[1]",
        ),
        (OPENAI, said(Document("https://x/y.pdf")), "messages[0].parts[0].url"),
        (OPENAI, said(Document(file_id="f"), dialect=MESSAGES), "messages[0].parts[0].file_id"),
        (
            OPENAI,
            said(Document(extra={"source": {"type": "content"}}), dialect=MESSAGES),
            "messages[0].parts[0]",
        ),
        (OPENAI, asked(stop=list("abcde")), "stop"),
        (
            OPENAI,
            asked(tools=[Tool("web_search", extra={"type": "web_search_20250305"})], dialect=MESSAGES),
            "tools[0]",
        ),
        (OPENAI, asked(extra={"mcp_servers": [{"url": "https://x"}]}, dialect=MESSAGES), "mcp_servers"),
        (OpenAIChat(lacks=("tool_choice",)), asked(tool_choice="required"), "tool_choice"),
        (OpenAIChat(lacks=("n",)), asked(extra={"n": 3}), "n"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_its_path(dialect, request_, path):
    with pytest.raises(Unsupported) as caught:
        dialect.encode_request(request_)
    assert caught.value.metadata["param"] == path
    assert caught.value.message.startswith(f"{path}: ")


def test_a_blob_of_another_dialect_is_left_out_of_what_a_model_once_answered():
    history = Message(
        "assistant", ["Found.", Opaque(MESSAGES, {"type": "server_tool_use"})], dialect=MESSAGES
    )
    body, warnings = encode(OpenAIChat(), asked(Message("user", "x"), history, Message("user", "y")))
    assert body["messages"][1] == {"role": "assistant", "content": "Found."}
    assert warnings == ("messages[1].parts[1] dropped: openai.chat cannot say a part of anthropic.messages",)
    theirs = Message("assistant", ["Found.", Opaque(CHAT, {"type": "x"})], dialect=CHAT)
    body, warnings = encode(AnthropicMessages(), asked(Message("user", "x"), theirs, Message("user", "y")))
    assert body["messages"][1] == {"role": "assistant", "content": "Found."}
    assert warnings == ("messages[1].parts[1] dropped: anthropic.messages cannot say a part of openai.chat",)


def test_openai_is_sent_no_cache_markers_and_others_are():
    request = asked(
        Message("user", [Text("a", MARK), "b"], extra=MARK),
        tools=[Tool("f", extra=MARK)],
        extra=MARK,
    )
    body, warnings = encode(OPENAI, request)
    assert "cache_control" not in str(body)
    assert warnings == (
        "messages[0].parts[0].cache_control (and 3 more) dropped: this server does not take it",
    )
    body, warnings = encode(OpenAIChat(), request)
    assert str(body).count("cache_control") == 4
    assert warnings == ()


def test_media_of_a_tool_are_shown_after_the_tools_where_their_messages_take_text_only():
    request = asked(
        Message("assistant", [ToolCall("a", "f"), ToolCall("b", "f")]),
        Message("tool", ToolResult("a", ["seen", Image("https://x/y.png")])),
        Message("tool", ToolResult("b", Image("https://x/z.png"))),
        Message("user", "go on"),
    )
    body, warnings = encode(OPENAI, request)
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    assert [message["role"] for message in body["messages"]] == ["assistant", "tool", "tool", "user", "user"]
    assert body["messages"][1]["content"] == "seen"
    assert body["messages"][3]["content"][:2] == [{"type": "text", "text": "Output of tool call a:"}, picture]
    assert body["messages"][3]["content"][3]["image_url"]["url"] == "https://x/z.png"
    assert len(warnings) == 1
    assert "messages[1].parts[0].content (and 1 more) emulated" in warnings[0]
    assert encode(OpenAIChat(), request)[0]["messages"][1]["content"][1] == picture
    at_the_end, _ = encode(OPENAI, asked(*request.messages[:3]))
    assert at_the_end["messages"] == body["messages"][:4]


def test_that_a_tool_failed_has_no_field_at_openai():
    request = asked(
        Message("assistant", ToolCall("a", "f")), Message("tool", ToolResult("a", "boom", is_error=True))
    )
    body, warnings = encode(OpenAIChat(), request)
    assert body["messages"][1] == {"role": "tool", "tool_call_id": "a", "content": "boom"}
    assert warnings == (
        "messages[1].parts[0].is_error dropped: there is no such field; the text has to say it",
    )


def test_a_document_of_text_is_text_at_openai():
    part = Document(text="the law", name="law.txt", extra={**MARK, "citations": {"enabled": True}})
    body, warnings = encode(OpenAIChat(), said("see", part, dialect=MESSAGES))
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "the law", **MARK}
    assert warnings == (
        "messages[0].parts[1].citations dropped: openai.chat has no such field",
        "messages[0].parts[1] emulated: a document of text is text",
        "messages[0].parts[1].name dropped: text has none",
    )


def test_a_server_is_not_sent_what_it_is_said_to_lack():
    server = OpenAIChat(
        lacks=("seed", "logprobs", "max_completion_tokens", "n", "messages.name", "tools.strict"),
        max_tokens_field="max_completion_tokens",
        seed_field="seed",
    )
    request = asked(
        Message("user", "x", "ann"),
        tools=[Tool("f", strict=True)],
        seed=1,
        max_tokens=9,
        extra={"logprobs": True, "n": 1},
    )
    body, warnings = encode(server, request)
    assert body.keys() == {"model", "messages", "tools"}
    assert body["messages"] == [{"role": "user", "content": "x"}]
    assert "strict" not in body["tools"][0]["function"]
    assert set(warnings) == {
        f"{path} dropped: this server does not take it"
        for path in ("messages[0].name", "tools[0].strict", "seed", "logprobs", "max_tokens")
    }


def test_only_an_effort_is_left_of_what_more_was_asked_of_openais_thinking():
    options = ReasoningOptions("low", 9000, extra={"exclude": True})
    body, warnings = encode(OPENAI, asked(reasoning=options))
    assert body["reasoning_effort"] == "low"
    assert warnings == (
        "reasoning.exclude dropped: this server takes an effort and nothing else",
        "reasoning.max_tokens dropped: this server takes an effort and nothing else",
    )
    body, warnings = encode(OPENAI, asked(reasoning=ReasoningOptions(enabled=True)))
    assert "reasoning_effort" not in body
    assert warnings == ("reasoning.enabled dropped: this server takes an effort and nothing else",)
    assert encode(OPENAI, asked(reasoning=ReasoningOptions(max_tokens=20_000)))[1] == (
        "reasoning.max_tokens emulated: as effort 'high'",
    )


def test_a_long_id_of_a_call_is_the_same_short_one_in_its_result():
    long = "toolu_" + "x" * 60
    request = asked(Message("assistant", ToolCall(long, "f")), Message("tool", ToolResult(long, "ok")))
    body, _ = encode(OPENAI, request)
    sent = body["messages"][0]["tool_calls"][0]["id"]
    assert len(sent) == 40
    assert body["messages"][1]["tool_call_id"] == sent


def test_an_id_that_anthropic_refuses_is_the_same_allowed_one_in_the_result():
    history = (
        Message("assistant", ToolCall("functions.f:0", "f"), dialect=CHAT),
        Message("tool", ToolResult("functions.f:0", "ok"), dialect=CHAT),
    )
    body, _ = encode(AnthropicMessages(), asked(*history))
    sent = body["messages"][0]["content"][0]["id"]
    assert re.fullmatch(r"toolu_[0-9a-f]{24}", sent)
    assert body["messages"][1]["content"][0]["tool_use_id"] == sent


@pytest.mark.parametrize("dialect", [OpenAIChat(), AnthropicMessages()])
def test_a_picture_without_anything_to_see_is_the_callers_mistake(dialect):
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.parts\[1\]"):
        dialect.encode_request(said("a", Image()))


@pytest.mark.parametrize("url", ["http://169.254.169.254/x", "file:///etc/passwd", "ftp://x/y", "/x.png"])
def test_a_callers_picture_is_at_an_address_that_anybody_may_look_at(url):
    chat = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    with pytest.raises(InvalidRequest) as caught:
        OpenAIChat().decode_request(chat)
    assert caught.value.metadata["param"] == "messages[0].content[0].image_url.url"
    for kind in ("image", "document"):
        block = {"type": kind, "source": {"type": "url", "url": url}}
        with pytest.raises(InvalidRequest) as caught:
            AnthropicMessages().decode_request({"messages": [{"role": "user", "content": [block]}]})
        assert caught.value.metadata["param"] == "messages.0.content.0.source.url"


def test_warnings_of_one_kind_are_one_with_how_many_there_were():
    losses = Losses()
    assert not losses
    for at in range(3):
        losses.dropped(f"messages[{at}].name", "has none")
    losses.emulated("temperature", "lowered")
    assert losses
    assert losses.warnings == (
        "messages[0].name (and 2 more) dropped: has none",
        "temperature emulated: lowered",
    )


def test_of_anothers_words_only_those_that_are_kept_arrive_and_marks_go_without_a_word():
    losses = Losses()
    extra = {"cache_control": 1, "index": 0, "role": "developer", "nothing": None, "citations": [1]}
    assert native(extra, CHAT, MESSAGES, "messages[0]", losses, keeps=("cache_control",)) == {
        "cache_control": 1
    }
    assert losses.warnings == ("messages[0].citations dropped: anthropic.messages has no such field",)
    for own in ("", MESSAGES):
        assert native(extra, own, MESSAGES, "messages[0]", losses) is extra


@pytest.mark.parametrize(
    ("tool", "written_in", "ours"),
    [
        (Tool("f"), CHAT, True),
        (Tool("f", extra={"type": "custom"}), MESSAGES, True),
        (Tool("f", extra={"type": "custom"}), "openai.responses", False),
        (Tool("", extra={"googleSearch": {}}), "gemini.generate", False),
        (Tool("bash", extra={"type": "bash_20250124"}), MESSAGES, False),
    ],
)
def test_every_provider_has_functions_and_nothing_else_of_tools(tool, written_in, ours):
    if ours:
        function_only(tool, written_in, "tools[0]")
    else:
        with pytest.raises(Unsupported, match=r"^tools\[0\]: "):
            function_only(tool, written_in, "tools[0]")
