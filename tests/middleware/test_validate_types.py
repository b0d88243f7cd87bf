"""Validate: a value of any wrong type in any field is a problem that is told, never an accident."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve, fields

from llmpipe.middleware.validate import Validate
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

WRONG = (5, 1.5, math.nan, True, "\ud800", b"x", [], [1], [[1]], {1: 2}, object(), set(), 10**400, None)
PARTS = (
    Text("a"),
    Image(url="https://example.org/a.png"),
    Image(data="aa", media_type="image/png"),
    Document(text="a"),
    Audio("aa"),
    Reasoning("a"),
    ToolCall("1", "f"),
    ToolResult("1", "a"),
    Refusal("no"),
    Opaque("d", {}),
)
GOOD = Request("m", "hi")


def bent(value: Any, wrong: Any) -> Iterator[Any]:
    """Copies of an attrs value with `wrong` in one field each, as far as its class takes it."""
    for field in fields(type(value)):
        try:
            yield evolve(value, **{field.name: wrong})
        except (TypeError, ValueError, AttributeError):
            continue


def requests(wrong: Any) -> Iterator[Any]:
    yield from bent(GOOD, wrong)
    yield from bent(EmbeddingRequest("m", ["a"]), wrong)
    yield from bent(RerankRequest("m", "q", ["a"]), wrong)
    if not isinstance(wrong, dict):  # which a request does not take
        yield evolve(GOOD, tools=(wrong,))
    yield EmbeddingRequest("m", [wrong])
    yield RerankRequest("m", "q", [wrong])
    for message in bent(Message("user", "hi"), wrong):
        yield Request("m", [message])
    for tool in bent(Tool("f"), wrong):
        yield evolve(GOOD, tools=(tool,))
    for wanted in bent(ResponseFormat("json_schema", {}), wrong):
        yield evolve(GOOD, response_format=wanted)
    for whole in PARTS:
        for part in bent(whole, wrong):
            for role in ("assistant", "user", "tool"):
                yield Request("m", [Message(role, [part])])  # type: ignore[arg-type]  # the loop's words


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_nothing_that_stands_in_a_request_makes_validate_stumble(wrong: Any):
    seen = 0
    for request in requests(wrong):
        for path, problem in Validate().problems(request):
            assert path
            assert problem.isprintable()
            seen += 1
    assert seen
