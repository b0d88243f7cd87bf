"""Recorded traffic of Cohere: read here a second time, by other means.

The readings below are the plainest there are: a JSON library, the names of the fields, nothing of the
package. What the dialect makes of the bytes must say the same.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from attrs import asdict, frozen

from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.dialects.losses import Losses
from llmpipe.errors import ContextTooLong, InvalidRequest, LLMError, StreamBroken
from llmpipe.types import Completion, Event, Reasoning, Request, fold, unfold
from tests.dialects.recordings import Exchange, bytes_of, exchanges

DIALECT = CohereChat()

FINISH = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR": "error",
}
MAX_EVERY_BYTE = 20_000


def is_api(*names: str) -> Callable[[Exchange], bool]:
    return lambda exchange: exchange["api"] in names


def is_chat(exchange: Exchange) -> bool:
    return bool(exchange["api"] == "cohere.chat_v2")


REPLIES = exchanges(lambda x: is_chat(x) and x["status"] == 200 and "response" in x)
STREAMS = exchanges(lambda x: is_chat(x) and x["status"] == 200 and x.get("framing") == "sse")
ERRORS = exchanges(lambda x: x["api"].startswith("cohere.") and x["status"] != 200)
REQUESTS = exchanges(lambda x: is_chat(x) and isinstance(x["request"], dict))
EMBEDDINGS = exchanges(is_api("cohere.embed_v2"))
RANKINGS = exchanges(is_api("cohere.rerank_v2", "openrouter.rerank"))
MODELS = exchanges(is_api("cohere.models_v1"))


# -- an independent reading


@frozen
class Reading:
    """What a reply says, by the names of its fields."""

    text: str
    thinking: str
    plan: str
    calls: list[tuple[str, str, str]]
    citations: list[dict[str, Any]]
    finish: str | None
    usage: tuple[int, int] | None
    error: str | None = None


def usage_of(wire: Any) -> tuple[int, int] | None:
    if not wire:
        return None
    return wire["billed_units"]["input_tokens"], wire["billed_units"]["output_tokens"]


def read_reply(body: dict[str, Any]) -> Reading:
    message = body["message"]
    content = message.get("content") or []
    return Reading(
        "".join(item["text"] for item in content if item["type"] == "text"),
        "".join(item["thinking"] for item in content if item["type"] == "thinking"),
        message.get("tool_plan") or "",
        [
            (c["id"], c["function"]["name"], c["function"]["arguments"])
            for c in message.get("tool_calls") or []
        ],
        message.get("citations") or [],
        FINISH[body["finish_reason"]],
        usage_of(body.get("usage")),
    )


def events_of(body: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def read_stream(body: str) -> Reading:
    text = thinking = plan = ""
    calls: dict[int, list[str]] = {}
    citations, last = [], {}
    for event in events_of(body):
        message = event.get("delta", {}).get("message", {})
        if event["type"] in ("content-start", "content-delta"):
            text += message["content"].get("text") or ""
            thinking += message["content"].get("thinking") or ""
        elif event["type"] == "tool-plan-delta":
            plan += message["tool_plan"]
        elif event["type"] == "tool-call-start":
            call = message["tool_calls"]
            calls[event["index"]] = [call["id"], call["function"]["name"], call["function"]["arguments"]]
        elif event["type"] == "tool-call-delta":
            calls[event["index"]][2] += message["tool_calls"]["function"]["arguments"]
        elif event["type"] == "citation-start":
            citations.append(message["citations"])
        elif event["type"] == "message-end":
            last = event["delta"]
    found = [(call[0], call[1], call[2]) for call in calls.values()]
    finish = FINISH[last["finish_reason"]]
    usage, error = usage_of(last.get("usage")), last.get("error")
    return Reading(text, thinking, plan, found, citations, finish, usage, error)


def check(done: Completion, reading: Reading) -> None:
    thoughts = [part for part in done.message.parts if isinstance(part, Reasoning)]
    plans = [part for part in thoughts if part.extra.get("field") == "tool_plan"]
    assert done.text == reading.text
    assert "".join(part.text for part in plans) == reading.plan
    assert "".join(part.text for part in thoughts if part not in plans) == reading.thinking
    assert [(c.id, c.name, c.arguments) for c in done.tool_calls] == reading.calls
    assert done.message.extra.get("citations", []) == reading.citations
    assert done.message.dialect == "cohere.chat"
    assert done.finish_reason == reading.finish
    assert (done.usage and (done.usage.input_tokens, done.usage.output_tokens)) == reading.usage


def leaves(value: Any) -> set[str]:
    """Every string in a JSON value that is long enough to be known again."""
    if isinstance(value, dict):
        return set().union(*map(leaves, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(leaves, value), set())
    return {value} if isinstance(value, str) and len(value) > 6 else set()


# -- full replies


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_says_what_its_json_says(exchange):
    body = exchange["response"]
    done = DIALECT.decode_reply(body, exchange["response_headers"])
    check(done, read_reply(body))
    assert done.id == body["id"]
    tokens = body["usage"].get("tokens", {})
    assert done.usage is not None
    assert done.usage.reasoning_tokens == tokens.get("reasoning_tokens", 0)


@pytest.mark.parametrize("exchange", REPLIES)
def test_nothing_of_a_reply_is_lost(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    constant = {"assistant", "function", "thinking", "COMPLETE", "TOOL_CALL", "MAX_TOKENS"}
    assert leaves(exchange["response"]) - constant <= leaves(asdict(done))


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_goes_on_to_our_own_callers_as_cohere_sent_it(exchange):
    done = DIALECT.decode_reply(copy.deepcopy(exchange["response"]), {})
    assert json.loads(json.dumps(DIALECT.encode_reply(done))) == exchange["response"]


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_full_reply_is_the_same_when_it_is_streamed(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    assert fold(unfold(done)) == done
    encoder = DIALECT.encoder(Request())
    stream = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    check(done, read_stream(stream.decode()))
    events, error = decode([stream])
    assert error == ""
    assert fold(events) == done


# -- streams


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


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_says_what_its_events_say(exchange):
    reading = read_stream(exchange["body"])
    events, error = decode([exchange["body"].encode()])
    if reading.error:
        assert reading.error in error
        assert fold(events).reasoning == reading.plan + reading.thinking
        return
    assert error == ""
    done = fold(events)
    check(done, reading)
    assert done.id == events_of(exchange["body"])[0]["id"]


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_goes_on_to_our_own_callers_as_cohere_sent_it(exchange):
    """The same events in the same order with the same fields, but for the text that a block begins with."""
    events, error = decode([exchange["body"].encode()])
    if error:
        return
    encoder = DIALECT.encoder(Request())
    stream = b"".join(map(encoder.feed, events)) + encoder.close()
    assert stream.endswith(b"data: [DONE]\n\n")
    assert [plain(event) for event in events_of(stream.decode())] == [
        plain(event) for event in events_of(exchange["body"])
    ]


def plain(event: dict[str, Any]) -> dict[str, Any]:
    if event["type"].startswith("citation-"):
        return {**event, "index": 0}
    return event


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_is_the_same_when_it_is_sent_whole(exchange):
    events, error = decode([exchange["body"].encode()])
    if error:
        return
    done = fold(events)
    body = json.loads(json.dumps(DIALECT.encode_reply(done)))
    check(done, read_reply(body))
    again = DIALECT.decode_reply(body, {})
    assert again == done


@pytest.mark.parametrize("exchange", STREAMS)
def test_however_a_stream_arrives_its_events_are_the_same(exchange):
    body = exchange["body"].encode()
    expected = decode([body])
    assert decode(body[i : i + 1] for i in range(len(body))) == expected
    for step in (2, 3, 7, 64, 1000):
        assert decode(body[i : i + step] for i in range(0, len(body), step)) == expected
    if len(body) <= MAX_EVERY_BYTE:
        for cut in range(0, len(body), 3):
            assert decode([body[:cut], body[cut:]]) == expected


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_before_its_end_is_broken(exchange):
    body = exchange["body"].encode()
    end = body.rindex(b"\n\ndata: [DONE]")
    whole, error = decode([body])
    for cut in range(end):
        decoder = DIALECT.decoder()
        events = decoder.feed(body[:cut])
        assert not decoder.finished
        with pytest.raises(StreamBroken):
            decoder.close()
        assert events == whole[: len(events)]
        assert fold(events).finish_reason is None
    assert decode([body[:end]]) == (whole, error)


# -- errors


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_classified_and_keeps_its_words(exchange):
    error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
    assert isinstance(error, LLMError)
    assert error.status == exchange["status"]
    wire = exchange["response"]
    assert wire["message"] in error.message
    assert error.code == wire.get("error_type")
    if wire.get("error_type") == "TOO_MANY_TOKENS":
        assert type(error) is ContextTooLong
    status, _, body = DIALECT.encode_error(error)
    again = DIALECT.decode_error(status, {}, json.dumps(body).encode())
    assert type(again) is type(error)
    assert again.message == error.message


# -- requests


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    wire = {name: value for name, value in message.items() if value not in (None, [], "")}
    content = wire.get("content")
    if isinstance(content, list) and message["role"] == "assistant":
        content = [item for item in content if item != {"type": "text", "text": ""}]
    if isinstance(content, list) and len(content) == 1 and set(content[0]) == {"type", "text"}:
        content = content[0]["text"]
    wire.pop("content", None)
    if content:
        wire["content"] = content
    for call in wire.get("tool_calls", []):
        call.setdefault("type", "function")
        call["function"]["arguments"] = call["function"]["arguments"] or "{}"
    return wire


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body without what is said in two ways: the normalisations of the dialect, all of them."""
    wire = {name: value for name, value in copy.deepcopy(body).items() if value not in (None, [])}
    wire["messages"] = [plain_message(message) for message in wire["messages"]]
    if wire.get("stream") is False:
        del wire["stream"]
    form = wire.get("response_format", {})
    if "schema" in form:
        form["json_schema"] = form.pop("schema")
    for tool in wire.get("tools", []):
        if tool["function"].get("description") == "":
            del tool["function"]["description"]
    return wire


@pytest.mark.parametrize("exchange", REQUESTS)
def test_a_request_is_understood_and_said_again_without_loss(exchange):
    body = exchange["request"]
    try:
        request = DIALECT.decode_request(copy.deepcopy(body))
    except InvalidRequest:
        assert exchange["status"] == 400  # the provider thought no better of it
        return
    losses = Losses()
    again = json.loads(json.dumps(DIALECT.encode_request(request, losses)))
    assert canonical(again) == canonical(body)
    assert losses.warnings == ()
    assert DIALECT.decode_request(copy.deepcopy(again)) == DIALECT.decode_request(again)
    assert [message.role for message in request.messages] == [m["role"] for m in body["messages"]]
    assert {message.dialect for message in request.messages} | {request.dialect} == {"cohere.chat"}


# -- vectors, rankings, models


@pytest.mark.parametrize("exchange", EMBEDDINGS)
def test_vectors_are_those_of_the_json(exchange):
    body = exchange["response"]
    found = DIALECT.decode_embeddings(copy.deepcopy(body), exchange["response_headers"])
    assert list(found.vectors) == body["embeddings"]["float"]
    assert found.usage is not None
    assert found.usage.input_tokens == body["meta"]["billed_units"]["input_tokens"]
    assert found.id == body["id"]
    request = DIALECT.decode_embedding_request(copy.deepcopy(exchange["request"]))
    assert json.loads(json.dumps(DIALECT.encode_embeddings(found, request))) == body
    again = DIALECT.encode_embedding_request(request)
    wanted = {name: value for name, value in exchange["request"].items() if value is not None}
    assert again == {"embedding_types": ["float"], **wanted}
    assert DIALECT.decode_embedding_request(again) == request


@pytest.mark.parametrize("exchange", RANKINGS)
def test_a_ranking_is_that_of_the_json(exchange):
    body = exchange["response"]
    found = DIALECT.decode_ranking(copy.deepcopy(body), exchange["response_headers"])
    assert [(one.index, one.score) for one in found.results] == [
        (item["index"], item["relevance_score"]) for item in body["results"]
    ]
    assert all(a.score >= b.score for a, b in pairwise(found.results))
    assert found.id == body["id"]
    assert leaves(body) <= leaves(asdict(found))
    usage = body.get("usage")
    assert (found.usage and found.usage.input_tokens) == (usage["total_tokens"] if usage else None)
    again = json.loads(json.dumps(DIALECT.encode_ranking(found)))
    assert again["results"] == body["results"]
    assert again["meta"]["api_version"]["version"] in ("1", "2")
    request = DIALECT.decode_rerank_request(copy.deepcopy(exchange["request"]))
    wanted = {name: value for name, value in exchange["request"].items() if value is not None}
    assert DIALECT.encode_rerank_request(request) == wanted


@pytest.mark.parametrize("exchange", MODELS)
def test_a_model_is_that_of_the_json(exchange):
    body = exchange["response"]
    for listed in (body, {"models": [body, {"name": ""}], "next_page_token": "x"}):
        (model,) = DIALECT.decode_models(listed)
        assert model.id == body["name"]
        assert model.context_tokens == body["context_length"]
        (again,) = DIALECT.encode_models([model])["models"]
        assert again == {name: body[name] for name in again}
        assert set(again) >= {"name", "endpoints", "context_length", "features"} & set(body)


@pytest.mark.skipif(not REPLIES, reason="no recordings are here")
def test_there_is_something_to_read():
    """The tests above hold for nothing where no file is found."""
    assert len(REPLIES) >= 10
    assert len(STREAMS) >= 5
    assert ERRORS
    assert EMBEDDINGS
    assert len(RANKINGS) >= 3
    assert MODELS
