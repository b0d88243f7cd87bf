"""Whatever a provider answers, what our callers get is what the vendors' SDKs have types for."""

from __future__ import annotations

from typing import Any

import orjson
import pydantic
import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from attrs import evolve
from hypothesis import given, settings
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent

from llmpipe import dialects
from llmpipe.errors import InvalidRequest
from llmpipe.types import (
    Completion,
    Document,
    Image,
    Message,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    unfold,
)
from tests.dialects.any_values import any_completions


def _is_call(call: ToolCall) -> bool:
    """Anthropic's types know no input that is no object; what a model says is shown all the same."""
    try:
        return isinstance(call.args, dict)
    except InvalidRequest:
        return False


TYPES: dict[str, tuple[Any, Any]] = {
    "openai.chat": (ChatCompletion, ChatCompletionChunk),
    "openai.responses": (Response, ResponseStreamEvent),
    "anthropic.messages": (AnthropicMessage, RawMessageStreamEvent),
}
EVENTS = {name: pydantic.TypeAdapter(event) for name, (_, event) in TYPES.items()}


def foreign(done: Completion) -> Completion:
    """`done` as another dialect's provider answers it, which is where we choose every word."""
    # OpenAI's types have no word for a reply that was cut or failed; OpenRouter says "error" as we do.
    reason = done.finish_reason if done.finish_reason not in (None, "error") else "stop"
    parts = [
        part
        for part in done.message.parts
        if isinstance(part, (Text, Refusal, Reasoning)) or (isinstance(part, ToolCall) and _is_call(part))
    ]
    return evolve(done, finish_reason=reason, message=evolve(done.message, parts=parts, dialect="another"))


@pytest.mark.parametrize("name", TYPES)
def test_every_reply_of_another_dialect_fits_the_sdk(name):
    dialect, (whole, _) = dialects.get(name), TYPES[name]

    @settings(deadline=None, max_examples=150)
    @given(any_completions())
    def check(done):
        body = dialect.encode_reply(foreign(done))
        whole.model_validate(orjson.loads(orjson.dumps(body)))

    check()


@pytest.mark.parametrize("name", TYPES)
def test_every_stream_of_another_dialect_fits_the_sdk(name):
    dialect = dialects.get(name)

    @settings(deadline=None, max_examples=100)
    @given(any_completions())
    def check(done):
        encoder = dialect.encoder(Request("m", stream=True))
        data = b"".join(map(encoder.feed, unfold(foreign(done)))) + encoder.close()
        for line in data.split(b"\n"):
            if not line.startswith(b"data: ") or line == b"data: [DONE]":
                continue
            event = orjson.loads(line.removeprefix(b"data: "))
            if event["type" if "type" in event else "object"] not in ("ping", "error"):
                EVENTS[name].validate_python(event)

    check()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize(
    "part",
    [
        Image(data="????"),
        Image(),
        Image("https://x/y.png"),
        Document(),
        Document(file_id="f"),
        Document(data="AA=="),
    ],
)
def test_what_a_provider_drew_never_fails_an_answer(name, part):
    done = Completion("r", "m", Message("assistant", [Text("See:"), part], dialect="another"), "stop")
    dialect = dialects.get(name)
    assert b"See:" in orjson.dumps(dialect.encode_reply(done))
    encoder = dialect.encoder(Request("m", stream=True))
    assert b"See:" in b"".join(map(encoder.feed, unfold(done))) + encoder.close()
