"""Recorded traffic of Ollama's own API, and a few replies made by hand, read a second time by other means."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any

import orjson
import pytest
from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.ollama_chat import OllamaChat
from llmpipe.errors import BadReply, LLMError, ModelNotFound, StreamBroken
from llmpipe.types import Completion, Event, Extra, Start, UsageUpdate, fold, unfold
from tests.dialects.recordings import bytes_of, exchanges

DIALECT = OllamaChat()

BY_HAND: list[dict[str, Any]] = [
    {"message": {"role": "assistant", "content": "", "thinking": "Hm"}, "done": False},
    {"message": {"role": "assistant", "content": "", "thinking": "m."}, "done": False},
    {"message": {"role": "assistant", "content": "Grü"}, "done": False},
    {"message": {"role": "assistant", "content": "ße\n"}, "done": False, "logprobs": [{"token": "ße"}]},
    {
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "function": {"index": 0, "name": "get_weather", "arguments": {"at": "Köln"}},
                },
                {"function": {"name": "get_time", "arguments": {}}},
            ],
        },
        "done": False,
        "logprobs": [{"token": "tool"}],
    },
    {
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 5,
        "prompt_eval_count": 11,
        "eval_count": 7,
    },
]
HEAD = {
    "model": "qwen3:8b",
    "created_at": "2026-01-02T03:04:05.123456789Z",
    "remote_host": "https://ollama.com",
}
LINES = b"".join(orjson.dumps({**HEAD, **line}) + b"\n" for line in BY_HAND)


def native(api: str, **wanted: Any) -> list[Any]:
    def picks(exchange: dict[str, Any]) -> bool:
        return exchange["api"] == api and all(exchange.get(key) == value for key, value in wanted.items())

    return exchanges(picks)


REPLIES = native("ollama.native_chat", status=200, stream=False)
STREAMS = native("ollama.native_chat", status=200, framing="ndjson")
EMBEDDINGS = native("ollama.native_embeddings", status=200)
ERRORS = exchanges(lambda x: x["api"].startswith("ollama.native") and x["status"] != 200)
BODIES = [pytest.param(LINES, id="by-hand")] + [
    pytest.param(param.values[0]["body"].encode(), id=param.id) for param in STREAMS
]


def decode(pieces: Iterable[bytes]) -> tuple[list[Event], str]:
    """All events, and the error after them."""
    decoder, events = DIALECT.decoder(), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


def check(done: Completion, lines: list[dict[str, Any]]) -> None:
    """Against the plainest reading there is."""
    messages, last = [line["message"] for line in lines], lines[-1]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    assert done.text == "".join(message["content"] for message in messages)
    assert done.reasoning == "".join(message.get("thinking", "") for message in messages)
    assert [(call.name, call.args) for call in done.tool_calls] == [
        (c["name"], c["arguments"]) for c in calls
    ]
    assert len({call.id for call in done.tool_calls} - {""}) == len(calls)
    assert done.model == lines[0]["model"]
    assert done.message.dialect == "ollama.chat"
    assert done.created is not None
    assert abs(done.created - datetime.fromisoformat(lines[0]["created_at"]).timestamp()) < 1e-5
    assert done.finish_reason == ("tool_calls" if calls else last["done_reason"])
    if "prompt_eval_count" in last:
        assert done.usage is not None
        assert done.usage.input_tokens == last["prompt_eval_count"]
        assert done.usage.output_tokens == last["eval_count"]
    else:
        assert done.usage is None
        assert done.extra["eval_count"] == last["eval_count"]
    assert done.extra["total_duration"] == last["total_duration"]


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_says_what_its_json_says(exchange):
    body = exchange["response"]
    done = DIALECT.decode_reply(copy.deepcopy(body), exchange["response_headers"])
    check(done, [body])
    assert fold(unfold(done)) == done


@pytest.mark.parametrize("body", BODIES)
def test_a_stream_says_what_its_lines_say(body):
    events, error = decode([body])
    assert error == ""
    check(fold(events), [json.loads(line) for line in body.splitlines()])


def test_a_full_reply_is_the_same_as_its_stream():
    whole = copy.deepcopy({**HEAD, **BY_HAND[-1]})
    whole["message"] = {
        "role": "assistant",
        "content": "Grüße\n",
        "thinking": "Hmm.",
        "tool_calls": BY_HAND[4]["message"]["tool_calls"],
    }
    whole["logprobs"] = [{"token": "ße"}, {"token": "tool"}]
    events, _ = decode([LINES])
    done = DIALECT.decode_reply(whole, {})
    assert fold(events) == done
    assert done.extra["remote_host"] == "https://ollama.com"
    assert sum(isinstance(event, Start | UsageUpdate) for event in events) == 2
    assert sum("remote_host" in (event.data or {}) for event in events if isinstance(event, Extra)) == 1
    sent, _ = decode([orjson.dumps(whole)])  # as one line
    assert fold(sent) == done
    decoder = DIALECT.decoder("application/json; charset=utf-8")
    assert fold([*decoder.feed(orjson.dumps(whole)), *decoder.close()]) == done
    assert {"get_weather", "call_1"} <= leaves(asdict(done))


def leaves(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(leaves, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(leaves, value), set())
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("body", BODIES)
def test_however_a_stream_arrives_its_events_are_the_same(body):
    expected = decode([body])
    assert decode(body[i : i + 1] for i in range(len(body))) == expected
    assert decode([body.replace(b"\n", b"\r\n")]) == expected
    for cut in range(0, len(body), 1 if len(body) < 20_000 else 97):
        assert decode([body[:cut], body[cut:]]) == expected


@pytest.mark.parametrize("body", BODIES)
def test_a_stream_cut_before_its_end_is_broken(body):
    whole, _ = decode([body])
    for cut in range(0, len(body) - 1, 1 if len(body) < 20_000 else 53):
        decoder = DIALECT.decoder()
        events = decoder.feed(body[:cut])
        assert not decoder.finished
        with pytest.raises(StreamBroken):
            decoder.close()
        assert events == whole[: len(events)]
    assert decode([body[:-1]]) == (whole, "")  # only the line end is missing


@pytest.mark.parametrize("place", range(len(BY_HAND) - 1))
def test_an_error_inside_a_stream_comes_after_what_was_said_before_it(place):
    lines = LINES.splitlines(keepends=True)
    body = b"".join(lines[:place]) + b'{"error":"an error was encountered while running the model"}\n'
    events, error = decode([body])
    assert "while running the model" in error
    assert events == decode([b"".join(lines)])[0][: len(events)]
    assert decode(body[i : i + 1] for i in range(len(body))) == (events, error)


@pytest.mark.parametrize(
    "body", [b"<html>\n", b"[1]\n", b'{"message": []}\n', b'{"message":{"tool_calls":[7]}}\n', b"\xff\n"]
)
def test_what_is_not_the_protocol_is_a_bad_reply(body):
    decoder = DIALECT.decoder()
    with pytest.raises(BadReply):
        decoder.feed(body)
        decoder.close()
    with pytest.raises(BadReply):
        decoder.close()


def test_a_line_has_a_bound():
    decoder = OllamaChat(max_event_bytes=200).decoder()
    events = decoder.feed(LINES.splitlines(keepends=True)[0] + b"x" * 300)
    assert fold(events).reasoning == "Hm"
    with pytest.raises(BadReply, match="larger than the limit"):
        decoder.feed(b"x")
    with pytest.raises(BadReply, match="larger than the limit"):
        decoder.close()


@given(st.data())
def test_mutated_replies_give_a_completion_or_one_error(data):
    lines = [{**copy.deepcopy(HEAD), **copy.deepcopy(line)} for line in BY_HAND]
    for _ in range(data.draw(st.integers(1, 3))):
        holder: Any = data.draw(st.sampled_from(lines))
        for _ in range(data.draw(st.integers(0, 3))):
            inner = [item for item in holder.values() if isinstance(item, dict) and item]
            holder = data.draw(st.sampled_from(inner)) if inner else holder
        key = data.draw(st.sampled_from(sorted(holder)))
        holder[key] = data.draw(
            st.sampled_from([None, "", "x", 0, -1, 1.5, True, [], {}, [None], {"a": [1]}])
        )
    body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    whole = decode([body])
    assert decode(body[i : i + 11] for i in range(0, len(body), 11)) == whole
    for line in lines:
        with suppress(LLMError):
            assert DIALECT.decode_reply(line, {}).message.dialect == "ollama.chat"


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_classified_and_keeps_its_words(exchange):
    error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
    assert error.message == exchange["response"]["error"]
    assert error.status == exchange["status"]
    assert type(error) is ModelNotFound


@pytest.mark.parametrize("exchange", EMBEDDINGS)
def test_the_older_vectors_are_those_of_the_json(exchange):
    found = DIALECT.decode_embeddings(exchange["response"], exchange["response_headers"])
    assert found.vectors == (exchange["response"]["embedding"],)
    assert found.usage is None


@pytest.mark.skipif(not REPLIES, reason="no recordings are here")
def test_there_is_something_to_read():
    assert len(STREAMS) >= 3
    assert ERRORS
    assert EMBEDDINGS
