"""Whatever our types can hold, these dialects write it or raise one of our errors; nothing else happens."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmpipe import dialects
from llmpipe.dialects.losses import Losses
from llmpipe.errors import LLMError, StreamBroken
from llmpipe.types import Completion, Event, Finish, Message, Opaque, Request, Text, fold, unfold
from tests.dialects.any_values import any_completions, any_events, any_requests

CLIENTS = ("anthropic.messages", "bedrock.converse", "cohere.chat", "gemini.generate", "ollama.chat")
SERVERS = ("cohere.chat", "gemini.generate")
some = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", CLIENTS)
@some
@example(request=Request(messages=(Message("system", [Text("", {"text": None})]),)))
@example(request=Request(messages=(Message("user", [Text(" ", {"text": 1})]),)))
@given(request=any_requests())
def test_any_request_is_written_or_refused(name: str, request: Request) -> None:
    losses = Losses()
    body: dict[str, Any] = {}
    refusal: LLMError | None = None
    try:
        body = dialects.get(name).encode_request(request, losses)
    except LLMError as error:
        refusal = error
    assert refusal is None or not refusal.sent
    assert type(body) is dict
    assert all(isinstance(warning, str) for warning in losses.warnings)


@pytest.mark.parametrize("name", SERVERS)
@some
@given(completion=any_completions())
def test_any_reply_is_written_and_read_again(name: str, completion: Completion) -> None:
    dialect = dialects.get(name)
    wire = orjson.loads(orjson.dumps(dialect.encode_reply(completion)))
    try:
        dialect.decode_reply(wire, {})
    except LLMError:
        # Its own words say that it is an error, or no reply: in `extra`, or in a part that no wire ever had.
        parts = completion.message.parts
        assert completion.extra or any(type(part) is Opaque and part.dialect == name for part in parts)
    read_stream(name, list(unfold(completion)))


@pytest.mark.parametrize("name", SERVERS)
@some
@given(events=any_events())
def test_any_events_are_written_and_read_again(name: str, events: list[Event]) -> None:
    read_stream(name, events)


def read_stream(name: str, events: list[Event]) -> None:
    """Write `events` and read them: to the end, or the stream is broken as it had none."""
    encoder, decoder = dialects.get(name).encoder(Request("m")), dialects.get(name).decoder()
    data = b"".join([*map(encoder.feed, events), encoder.close()])
    found: list[Event] = []
    problem: LLMError | None = None
    try:
        found += decoder.feed(data)
        found += decoder.close()
    except LLMError as error:
        problem = error
    assert sum(isinstance(one, Finish) for one in found) == (problem is None)
    fold(found)
    own = any(getattr(event, "extra", None) or getattr(event, "data", None) for event in events)
    if problem is not None and not own:  # its own words may say that it is an error, or no reply
        assert isinstance(problem, StreamBroken)
        assert not any(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize("name", CLIENTS)
@some
@given(data=st.binary(max_size=300), size=st.integers(1, 50))
def test_any_bytes_are_an_error_of_ours_and_never_a_success(name: str, data: bytes, size: int) -> None:
    for content_type in ("text/event-stream", "application/json"):
        decoder = dialects.get(name).decoder(content_type)
        with pytest.raises(LLMError):
            for start in range(0, len(data), size):
                decoder.feed(data[start : start + size])
            decoder.close()
