"""What people write where a message, a tool or a format is expected."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.errors import ConfigError
from llmpipe.types import Image, Message, Request, ResponseFormat, Text, Tool


def test_strings_and_parts_may_stand_together():
    picture = Image("https://example.com/cat.png")
    assert Message("user", ["What is this?", picture]).parts == (Text("What is this?"), picture)
    parts = (Text("a"), picture)
    assert Message("user", parts).parts is parts


def test_what_is_no_part_is_named():
    with pytest.raises(ConfigError, match=r"must be a str or one of Text, Image, .*, not dict"):
        Message("user", ["a", {"type": "text"}])  # type: ignore[list-item]  # what people write


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tools": [Tool("a"), {"type": "function"}]}, r"tools\[1\] is a mapping; expected Tool\(name,"),
        (
            {"response_format": {"type": "json_object"}},
            r"response_format is a mapping; expected ResponseFormat",
        ),
    ],
)
def test_a_providers_json_is_told_where_it_belongs(given: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says + r".*decode_request"):
        Request("m", "hi", **given)


def test_what_is_expected_is_taken():
    form = ResponseFormat("json")
    made = Request("m", "hi", tools=[Tool("a")], response_format=form)
    assert (made.tools, made.response_format) == ((Tool("a"),), form)
