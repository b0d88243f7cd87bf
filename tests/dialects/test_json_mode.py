"""JSON from servers that cannot be held to it: asked for in the system prompt, and told."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.json_mode import JSON_INSTRUCTION, SCHEMA_INSTRUCTION, instructed, instruction
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import Unsupported
from llmpipe.types import Message, Request, ResponseFormat, Text

ANY = ResponseFormat("json")
SCHEMA = ResponseFormat("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}})
JSON_TOLD = "response_format emulated: the system prompt asks for JSON"
SCHEMA_TOLD = "response_format.schema emulated: the system prompt asks for JSON"


def encode(dialect: Any, wanted: ResponseFormat) -> tuple[dict[str, Any], tuple[str, ...]]:
    losses = Losses()
    body = dialect.encode_request(Request("m", "x", response_format=wanted), losses)
    return body, losses.warnings


@pytest.mark.parametrize(
    ("has", "wanted", "sent", "told"),
    [
        ("both", ANY, "json_object", ()),
        ("both", SCHEMA, "json_schema", ()),
        ("object", ANY, "json_object", ()),
        ("object", SCHEMA, "json_object", (SCHEMA_TOLD,)),
        ("schema", ANY, None, (JSON_TOLD,)),
        ("schema", SCHEMA, "json_schema", ()),
        ("none", ANY, None, (JSON_TOLD,)),
        ("none", SCHEMA, None, (SCHEMA_TOLD,)),
        ("none", ResponseFormat("text"), "text", ()),
    ],
)
def test_a_chat_server_is_asked_in_words_for_the_json_it_has_no_mode_for(has, wanted, sent, told):
    body, warnings = encode(OpenAIChat(json=has), wanted)
    assert warnings == told
    assert body.get("response_format", {}).get("type") == sent
    assert ("system" in [message["role"] for message in body["messages"]]) is bool(told)
    if told:
        assert body["messages"][0]["content"] == instruction(wanted)


@pytest.mark.parametrize(
    ("dialect", "wanted", "told"),
    [
        (AnthropicMessages(), ANY, (JSON_TOLD,)),
        (AnthropicMessages(), SCHEMA, ()),
        (AnthropicMessages(json_schema=False), SCHEMA, (SCHEMA_TOLD,)),
        (AnthropicMessages(json_schema=False), ResponseFormat("text"), ()),
    ],
)
def test_anthropic_is_asked_in_words_for_json_without_a_schema(dialect, wanted, told):
    body, warnings = encode(dialect, wanted)
    assert warnings == told
    assert body.get("system") == (instruction(wanted) if told else None)
    assert ("output_config" in body) is (wanted is SCHEMA and not told)


def test_the_schema_stands_in_the_instruction_with_what_it_is():
    described = ResponseFormat("json_schema", SCHEMA.schema, description="A count.")
    text = instruction(described)
    assert text.startswith(SCHEMA_INSTRUCTION)
    assert "A count." in text
    assert text.endswith('{"type":"object","properties":{"a":{"type":"integer"}}}')
    assert instruction(ANY) == JSON_INSTRUCTION


def test_the_instruction_closes_the_system_prompt_and_leaves_the_rest_alone():
    request = Request(
        "m",
        [Message("system", "A."), Message("system", "B."), Message("user", "x"), Message("system", "C.")],
        response_format=ANY,
    )
    losses = Losses()
    told = instructed(request, losses)
    assert told.messages[0] == request.messages[0]
    assert told.messages[1].text == f"B.\n\n{JSON_INSTRUCTION}"
    assert told.messages[2:] == request.messages[2:]
    assert told.response_format is None
    assert request.messages[1].text == "B."
    assert losses.warnings == (JSON_TOLD,)
    assert instructed(request, Losses(), rest=ANY).response_format == ANY


def test_what_is_marked_to_be_cached_stays_as_it_is_and_keeps_its_words():
    marked = Text("A.", {"cache_control": {"type": "ephemeral"}})
    prompt = Message("system", [marked], dialect="anthropic.messages")
    told = instructed(Request("m", [prompt, Message("user", "x")], response_format=ANY), Losses())
    assert told.messages[0].parts == (marked, Text(JSON_INSTRUCTION))
    assert told.messages[0].dialect == "anthropic.messages"


@pytest.mark.parametrize("schema", [None, {"a": object()}])
def test_a_schema_that_is_none_is_refused_by_its_path(schema):
    with pytest.raises(Unsupported) as caught:
        instruction(ResponseFormat("json_schema", schema))
    assert caught.value.metadata["param"] == "response_format.schema"
