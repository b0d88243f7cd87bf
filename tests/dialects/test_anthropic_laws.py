"""What goes out of the dialect and comes back in is the same."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.types import Completion, Request, fold, unfold
from tests.dialects.anthropic_values import completions, decode_all, requests, split_at
from tests.dialects.strategies import cuts

DIALECT = AnthropicMessages()


def stream(completion: Completion) -> bytes:
    encoder = DIALECT.encoder(Request(model="asked"))
    return b"".join(map(encoder.feed, unfold(completion))) + encoder.close()


def events_of(body: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


@settings(max_examples=150, deadline=None)
@given(requests)
def test_a_request_survives_the_wire(request):
    body = orjson.loads(orjson.dumps(DIALECT.encode_request(request)))
    assert DIALECT.decode_request(body) == request


@settings(max_examples=150, deadline=None)
@given(requests)
def test_encoding_a_decoded_request_gives_the_same_json(request):
    body = DIALECT.encode_request(request)
    assert DIALECT.encode_request(DIALECT.decode_request(body)) == body


@settings(max_examples=150, deadline=None)
@given(completions)
def test_a_reply_survives_the_wire(completion):
    body = orjson.loads(orjson.dumps(DIALECT.encode_reply(completion)))
    assert DIALECT.decode_reply(body, {}) == completion


@settings(max_examples=150, deadline=None)
@given(completions)
def test_a_streamed_reply_survives_the_wire(completion):
    assert fold(decode_all(DIALECT.decoder(), [stream(completion)])) == completion


@settings(max_examples=150, deadline=None)
@given(completions)
def test_blocks_of_a_stream_are_numbered_as_they_start_and_every_one_stops(completion):
    open_, count, ended = [], 0, False
    for event in events_of(stream(completion)):
        kind = event["type"]
        if kind == "content_block_start":
            assert event["index"] == count
            open_.append(count)
            count += 1
        elif kind == "content_block_delta":
            assert event["index"] in open_
        elif kind == "content_block_stop":
            open_.remove(event["index"])
        elif kind in ("message_delta", "message_stop"):
            assert not open_
            assert ended is (kind == "message_stop")
            ended = True
        else:
            assert kind == ("message_start" if not count else "ping")
    assert ended
    assert count == len(completion.message.parts)


@settings(max_examples=150, deadline=None)
@given(completions, st.data())
def test_events_are_the_same_however_the_bytes_are_cut(completion, data):
    body = stream(completion)
    whole = decode_all(DIALECT.decoder(), [body])
    assert decode_all(DIALECT.decoder(), data.draw(cuts(body))) == whole
    assert decode_all(DIALECT.decoder(), split_at(body, range(len(body)))) == whole


@settings(max_examples=100, deadline=None)
@given(completions)
def test_a_stream_through_the_server_and_the_client_stays_the_same_stream(completion):
    """Events of a decoder, which come in small pieces, can be encoded again as they come."""
    events = decode_all(DIALECT.decoder(), [stream(completion)])
    encoder = DIALECT.encoder(Request())
    again = b"".join(map(encoder.feed, events)) + encoder.close()
    assert fold(decode_all(DIALECT.decoder(), [again])) == completion
