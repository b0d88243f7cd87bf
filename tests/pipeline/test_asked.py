"""What a request asks of whoever answers it."""

from __future__ import annotations

import pytest
from attrs import evolve, fields

from llmpipe.pipeline.asked import EMULATED, asked_of, field_of, in_words
from llmpipe.pipeline.provider import Capabilities
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    ReasoningOptions,
    Request,
    RerankRequest,
    ResponseFormat,
    Tool,
    ToolCall,
    ToolResult,
)

PLAIN = Request("m", ["hello", Message("system", "be kind")])


def said(*parts, role="user") -> Request:
    return Request("m", ["hello", Message(role, parts), "so?"])


def test_plain_text_asks_nothing_and_makes_nothing():
    assert asked_of(PLAIN) == frozenset()
    assert asked_of(PLAIN) is asked_of(Request("other", "hi"))


@pytest.mark.parametrize(
    ("request_", "capability", "where"),
    [
        (evolve(PLAIN, stream=True), "streaming", "stream"),
        (evolve(PLAIN, tools=[Tool("f")]), "tools", "tools"),
        (said(ToolCall("1", "f"), role="assistant"), "tools", "messages[1].parts[0]"),
        (said(ToolResult("1", "4"), role="tool"), "tools", "messages[1].parts[0]"),
        (said("look", Image(url="https://x/y.png")), "vision", "messages[1].parts[1]"),
        (said(Document(data="QQ==")), "documents", "messages[1].parts[0]"),
        (said(Audio("UklG")), "audio", "messages[1].parts[0]"),
        (evolve(PLAIN, response_format=ResponseFormat("json")), "json_mode", "response_format"),
        (evolve(PLAIN, response_format=ResponseFormat("json_schema", {})), "json_schema", "response_format"),
        (evolve(PLAIN, reasoning=ReasoningOptions(effort="low")), "reasoning", "reasoning"),
        (Request("m", ["Go on:", Message("assistant", "Once")]), "prefill", "messages[1]"),
        (EmbeddingRequest("m", ["a"]), "embeddings", "inputs"),
        (RerankRequest("m", "q", ["a"]), "rerank", "documents"),
    ],
)
def test_what_is_used_is_asked_and_found(request_, capability: str, where: str):
    assert asked_of(request_) == {capability}
    assert field_of(request_, capability) == where
    assert field_of(request_, "count_tokens") == ""


def test_a_picture_in_a_tools_result_is_found():
    request = said(ToolResult("1", ["see:", Image(data="aGk=", media_type="image/png")]), role="tool")
    assert asked_of(request) == {"tools", "vision"}
    assert field_of(request, "vision") == "messages[1].parts[0].content[1]"


@pytest.mark.parametrize(
    "request_",
    [
        evolve(PLAIN, response_format=ResponseFormat("text")),
        evolve(PLAIN, reasoning=ReasoningOptions(enabled=False)),
        evolve(PLAIN, reasoning=ReasoningOptions(effort="none")),
        evolve(PLAIN, parallel_tool_calls=True),
        Request("m", ["hi", Message("assistant", ())]),
        Request("m", []),
    ],
)
def test_what_asks_for_the_usual_asks_nothing(request_):
    assert asked_of(request_) == frozenset()


def test_all_that_is_used_is_asked():
    request = evolve(said(Image(url="https://x/y.png")), stream=True, tools=[Tool("f")])
    assert asked_of(request) == {"streaming", "tools", "vision"}


def test_every_word_is_a_field_of_capabilities():
    names = {a.name for a in fields(Capabilities)}
    assert names >= EMULATED
    assert in_words("vision") == "images"
    assert all(in_words(name) for name in names)


def test_a_document_of_text_asks_for_nothing():
    assert asked_of(Request("m", [Message("user", [Document(text="plain")])])) == frozenset()
    assert asked_of(Request("m", [Message("user", [Document(data="QQ==")])])) == {"documents"}
