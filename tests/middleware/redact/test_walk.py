"""Every string of a request that says something, and no other."""

from __future__ import annotations

from functools import partial

import pytest
from attrs import fields, has

from llmpipe.middleware.redact.walk import rewrite_json, rewrite_request, strings_of
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
    Refusal,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

# Each string is named for where it stands. Those in capitals are not to be touched.
PARTS = (
    Text("text", {"k1": "text.extra"}),
    Image("https://x/image.url", None, "MEDIA", "DETAIL", {"k2": "image.extra"}),
    Image("data:image.head;base64,DATA"),
    Document(
        "https://x/document.url",
        "DATA",
        "document.text",
        "FILE",
        "MEDIA",
        "document.name",
        {"k3": "document.extra"},
    ),
    Audio("DATA", "FORMAT", {"k4": "audio.extra"}),
    Reasoning("reasoning", "SIGNATURE", "ENCRYPTED", {"k5": "reasoning.extra"}),
    ToolCall("ID", "call.name", '{"call": "arguments"}', {"k6": "call.extra"}),
    ToolResult("ID", [Text("result.text")], False, "result.name", {"k7": "result.extra"}),
    Refusal("refusal", {"k8": "refusal.extra"}),
    Opaque("DIALECT", {"k9": ["opaque.data", {"k10": "opaque.inner"}, 5]}),
)
REQUEST = Request(
    "MODEL",
    [Message("user", PARTS, "message.name", {"k11": "message.extra"})],
    [Tool("tool.name", "tool.description", {"k12": {"k13": "tool.schema"}}, None, {"k14": "tool.extra"})],
    NamedTool("choice.name"),
    stop=["stop"],
    response_format=ResponseFormat(
        "json_schema",
        {"k15": "format.schema"},
        "format.name",
        None,
        "format.description",
        {"k16": "format.extra"},
    ),
    reasoning=ReasoningOptions("EFFORT", extra={"k17": "options.extra"}),
    metadata={"k18": "metadata"},
    extra={"k19": "request.extra"},
)
REQUESTS = (
    REQUEST,
    EmbeddingRequest("MODEL", ["input", [1, 2]], metadata={"k": "metadata"}, extra={"k": "extra"}),
    RerankRequest("MODEL", "query", ["document"], metadata={"k": "metadata"}, extra={"k": "extra"}),
)


def leaves(value) -> list[str]:
    """All strings in a value, by looking at every field of everything."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in (*leaves(key), *leaves(item))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if has(type(value)):
        return [leaf for a in fields(type(value)) for leaf in leaves(getattr(value, a.name))]
    return []


def test_whose_words_and_whose_proofs_they_are_is_kept():
    thought = Reasoning("reasoning", "SIGNATURE", origin="gemini.generate")
    message = Message("assistant", [thought], None, {"k": "extra"}, "anthropic.messages")
    request = Request("MODEL", [message], extra={"k": "extra"}, dialect="openai.chat")
    changed = rewrite_request(request, lambda text, _: f"<{text}>")
    assert isinstance(changed, Request)
    [said] = changed.messages
    [part] = said.parts
    assert isinstance(part, Reasoning)
    assert (part.text, part.origin) == ("<reasoning>", "gemini.generate")
    assert (said.dialect, changed.dialect) == ("anthropic.messages", "openai.chat")


def touched(text: str) -> bool:
    return bool(text) and not text.isupper() and text not in ("user", "json_schema")


@pytest.mark.parametrize("request_", REQUESTS)
def test_every_string_is_rewritten_but_ids_and_data(request_):
    wanted = sorted(text.removesuffix(";base64,DATA") for text in leaves(request_) if touched(text))
    assert sorted(text for text, _ in strings_of(request_)) == wanted
    changed = rewrite_request(request_, lambda text, _: f"<{text}>")
    for text in leaves(changed):
        assert text.startswith("<") == touched(text.strip("<>").partition(";base64")[0]), text


@pytest.mark.parametrize("request_", REQUESTS)
def test_where_nothing_changes_it_is_the_same_object(request_):
    assert rewrite_request(request_, lambda text, _: text) is request_


def test_each_string_is_told_what_it_is():
    roles = {role: sorted(text for text, r in strings_of(REQUEST) if r == role) for role in ("name", "json")}
    assert roles["json"] == ['{"call": "arguments"}']
    assert roles["name"] == [
        "call.name",
        "choice.name",
        "format.name",
        "message.name",
        "result.name",
        "tool.name",
    ]


def test_only_what_changed_is_made_anew():
    changed = rewrite_request(REQUEST, lambda text, _: "x" if text == "metadata" else text)
    assert changed.metadata == {"k18": "x"}
    assert changed.messages is REQUEST.messages
    assert changed.tools is REQUEST.tools
    assert REQUEST.metadata == {"k18": "metadata"}


def test_the_data_of_a_data_url_is_not_looked_at_unless_it_is_plain():
    def urls(url: str) -> list[str]:
        return [text for text, _ in strings_of(Request("", [Message("user", [Image(url)])]))]

    assert urls("data:image/png;base64,AAAA") == ["data:image/png"]
    assert urls("data:text/plain,john@example.com") == ["data:text/plain,john@example.com"]


def test_keys_that_become_one_are_kept_apart():
    changed = rewrite_json(
        {"a": 1, "b": 2, "c": 3, "x_2": 4}, lambda text, _: "x" if len(text) == 1 else text
    )
    assert changed == {"x": 1, "x_3": 2, "x_4": 3, "x_2": 4}


def test_lists_stay_lists_and_tuples_tuples():
    assert rewrite_json({"a": ["b", ("c", 1)]}, lambda text, _: text.upper()) == {"A": ["B", ("C", 1)]}


def test_a_request_of_plain_messages_is_read_as_by_the_walk():
    texts = [Message("system", "a"), Message("user", [Text("b"), Text("c")]), Message("user", [])]
    changes: list[dict[str, object]] = [
        {},
        {"tools": [Tool("t")]},
        {"stop": ["s"]},
        {"tool_choice": NamedTool("n")},
        {"tool_choice": "auto"},
        {"response_format": ResponseFormat("json", name="r")},
        {"reasoning": ReasoningOptions("low")},
        {"reasoning": ReasoningOptions(extra={"k": "v"})},
        {"metadata": {"k": "v"}},
        {"extra": {"k": "v"}},
        {"messages": [*texts, Message("user", "d", name="e")]},
        {"messages": [*texts, Message("user", "d", extra={"k": "v"})]},
        {"messages": [*texts, Message("user", [Text("d", {"k": "v"})])]},
        {"messages": [*texts, Message("user", [Text("d"), Refusal("f")])]},
    ]
    for change in changes:
        request = Request(**{"messages": texts, **change})
        walked: list[tuple[str, str]] = []
        rewrite_request(request, partial(keep, walked))
        assert strings_of(request) == walked, change


def keep(strings: list[tuple[str, str]], text: str, role: str) -> str:
    strings.append((text, role))
    return text
