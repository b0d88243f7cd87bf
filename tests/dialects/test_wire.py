"""Recorded traffic of everybody who speaks OpenAI's chat: read here a second time, by other means.

The readings below are the plainest there are: a JSON library, the names of the fields, nothing of
the package. What the dialect makes of the bytes must say the same.
"""

from __future__ import annotations

import copy
import json
import struct
from base64 import b64decode
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from attrs import asdict, evolve, frozen

from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    StreamBroken,
)
from llmpipe.types import Completion, Event, Reasoning, Refusal, Request, Text, ToolCall, fold, unfold
from tests.dialects.recordings import Exchange, bytes_of, exchanges

DIALECT = OpenAIChat()

FINISH = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
}
MAX_EVERY_BYTE = 20_000


def is_chat(exchange: Exchange) -> bool:
    api = exchange["api"].partition(".")[2]
    return api in ("chat", "openai_chat")


REPLIES = exchanges(lambda x: is_chat(x) and x["status"] == 200 and "response" in x)
STREAMS = exchanges(lambda x: is_chat(x) and x["status"] == 200 and x.get("framing") == "sse")
ERRORS = exchanges(lambda x: is_chat(x) and x["status"] != 200)
REQUESTS = exchanges(lambda x: is_chat(x) and isinstance(x["request"], dict))


# -- an independent reading


@frozen
class Reading:
    """What a reply says, by the names of its fields."""

    text: str
    reasoning: str
    calls: list[tuple[str | None, str, str]]
    finish: str | None
    usage: tuple[int, int, int] | None
    error: dict[str, Any] | None = None


def text_of(content: Any) -> tuple[str, str]:
    """Text and thinking of a `content`."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False), ""
    text = thinking = ""
    for part in content or []:
        if part["type"] == "text":
            text += part["text"]
        elif part["type"] == "thinking":
            thinking += "".join(chunk["text"] for chunk in part["thinking"])
    return text, thinking


def thought_of(message: dict[str, Any]) -> str:
    plain = message.get("reasoning_content") or message.get("reasoning")
    if plain:
        return plain
    details = message.get("reasoning_details") or []
    return "".join(item.get("text") or item.get("summary") or "" for item in details)


def usage_of(wire: Any) -> tuple[int, int, int] | None:
    """Input, output and reasoning tokens, reasoning inside output."""
    if not isinstance(wire, dict) or not isinstance(wire.get("completion_tokens"), int):
        return None
    given, made, total = wire["prompt_tokens"], wire["completion_tokens"], wire["total_tokens"]
    thought = (wire.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    audio = (wire.get("prompt_tokens_details") or {}).get("audio_tokens") or 0
    left = total - given - made
    if left and left == thought:
        made += left  # xAI
    elif left and left == audio:
        given += left  # Mistral
    elif left:
        made, thought = made + left, left  # Gemini's compatible endpoint
    return given, made, min(thought, made)


def error_of(wire: dict[str, Any]) -> Any:
    return wire.get("error") or next((c["error"] for c in wire.get("choices") or [] if c.get("error")), None)


def calls_of(message: dict[str, Any]) -> list[tuple[str | None, str, str]]:
    calls = [
        (c.get("id"), c["function"]["name"], c["function"]["arguments"])
        for c in message.get("tool_calls") or []
    ]
    legacy = message.get("function_call") or {}
    if legacy.get("name"):
        calls.append((None, legacy["name"], legacy["arguments"]))
    return calls


def finish_of(word: str | None, calls: list[Any]) -> str:
    return FINISH[word] if word else "tool_calls" if calls else "stop"


def read_reply(body: dict[str, Any]) -> Reading:
    choice = body["choices"][0]
    message = choice["message"]
    text, thinking = text_of(message.get("content"))
    calls = calls_of(message)
    return Reading(
        text=text,
        reasoning=thinking or thought_of(message),
        calls=calls,
        finish=finish_of(choice.get("finish_reason") or choice.get("finish_details", {}).get("type"), calls),
        usage=usage_of(body.get("usage")),
        error=error_of(body),
    )


def chunks_of(body: str) -> list[dict[str, Any]]:
    lines = body.replace("\r\n", "\n").split("\n")
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    return [json.loads(item) for item in data if item != "[DONE]"]


def read_stream(body: str) -> Reading:
    text = reasoning = ""
    calls: dict[Any, list[Any]] = {}
    finish: str | None = None
    usage: tuple[int, int, int] | None = None
    error = None
    for chunk in chunks_of(body):
        error = error or error_of(chunk)
        usage = usage_of(chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")) or usage
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue
            finish = finish or choice.get("finish_reason")
            delta = choice.get("delta") or {}
            more, thinking = text_of(delta.get("content"))
            text += more
            reasoning += thinking or thought_of(delta)
            for call in delta.get("tool_calls") or []:
                function = call.get("function") or {}
                known = calls.setdefault(call["index"], [call.get("id"), function.get("name"), ""])
                known[2] += function.get("arguments") or ""
            legacy = delta.get("function_call") or {}
            if legacy.get("name") or legacy.get("arguments"):
                known = calls.setdefault("legacy", [None, legacy.get("name"), ""])
                known[2] += legacy.get("arguments") or ""
    found = [tuple(call) for call in calls.values()]
    return Reading(text, reasoning, found, finish_of(finish, found), usage, error)  # type: ignore[arg-type]  # lists of three


def check(done: Completion, reading: Reading) -> None:
    assert done.text == reading.text
    assert done.reasoning == reading.reasoning
    assert [(c.name, c.arguments) for c in done.tool_calls] == [call[1:] for call in reading.calls]
    for call, (call_id, _, _) in zip(done.tool_calls, reading.calls, strict=True):
        assert call.id
        assert call_id in (None, "", call.id)
    assert done.finish_reason == reading.finish
    usage = done.usage and (done.usage.input_tokens, done.usage.output_tokens, done.usage.reasoning_tokens)
    assert usage == reading.usage
    if done.usage is not None:
        assert done.usage.cached_input_tokens + done.usage.cache_write_tokens <= 2 * done.usage.input_tokens
        assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


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
    reading = read_reply(body)
    if reading.error:
        with pytest.raises(LLMError) as caught:
            DIALECT.decode_reply(body, exchange["response_headers"])
        assert caught.value.status == reading.error["code"]
        return
    done = DIALECT.decode_reply(body, exchange["response_headers"])
    check(done, reading)
    assert (done.id, done.model) == (body["id"], body["model"])
    assert not done.created or done.created == body["created"]


@pytest.mark.parametrize("exchange", REPLIES)
def test_nothing_of_a_reply_is_lost(exchange):
    body = exchange["response"]
    if read_reply(body).error or isinstance(body["choices"][0]["message"].get("content"), dict):
        return
    done = DIALECT.decode_reply(body, {})
    constant = {"chat.completion", "assistant", "function"}
    assert leaves(body) - constant <= leaves(asdict(done))


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_goes_on_to_our_own_callers_as_openai_would_have_sent_it(exchange):
    if read_reply(exchange["response"]).error:
        return
    done = DIALECT.decode_reply(exchange["response"], {})
    again = read_reply(json.loads(json.dumps(DIALECT.encode_reply(done))))
    check(done, again)
    assert again.finish in ("stop", "length", "tool_calls", "content_filter")
    encoder = DIALECT.encoder(Request(stream=True, extra={"stream_options": {"include_usage": True}}))
    stream = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    check(done, read_stream(stream.decode()))


# -- streams and full replies alike


def through_a_body(done: Completion) -> Completion:
    return DIALECT.decode_reply(json.loads(json.dumps(DIALECT.encode_reply(done))), {})


def through_a_stream(events: Iterable[Event]) -> Completion:
    encoder = DIALECT.encoder(Request(stream=True, extra={"stream_options": {"include_usage": True}}))
    again, error = decode([b"".join(map(encoder.feed, events)) + encoder.close()])
    assert error == ""
    return fold(again)


def comparable(done: Completion) -> Completion:
    """Without what only one of the two can say: the order of kinds of parts, and a null of another choice."""
    kinds = (Reasoning, Text, Refusal, ToolCall)
    parts = sorted(done.message.parts, key=lambda part: kinds.index(type(part)))
    extra = dict(done.extra)
    if "choices" in extra:
        extra["choices"] = [without_nulls(choice) for choice in extra["choices"]]
    return evolve(done, message=evolve(done.message, parts=parts), extra=extra)


def without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(item) for name, item in value.items() if item is not None}


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_full_reply_is_the_same_when_it_is_streamed(exchange):
    if read_reply(exchange["response"]).error:
        return
    done = DIALECT.decode_reply(exchange["response"], {})
    assert fold(unfold(done)) == done
    assert comparable(through_a_stream(unfold(done))) == comparable(through_a_body(done))


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_is_the_same_when_it_is_sent_whole(exchange):
    events, error = decode([exchange["body"].encode()])
    if error:
        return
    done = fold(events)
    assert comparable(through_a_stream(events)) == comparable(through_a_body(done))
    assert through_a_body(done).message.extra == done.message.extra


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
def test_a_stream_says_what_its_chunks_say(exchange):
    reading = read_stream(exchange["body"])
    events, error = decode([exchange["body"].encode()])
    if reading.error:
        assert reading.error["message"] in error
        return
    assert error == ""
    check(fold(events), reading)


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_goes_on_to_our_own_callers_as_openai_would_have_sent_it(exchange):
    if read_stream(exchange["body"]).error:
        return
    decoder = DIALECT.decoder()
    encoder = DIALECT.encoder(Request(stream=True, extra={"stream_options": {"include_usage": True}}))
    events = decoder.feed(exchange["body"].encode())
    events += decoder.close()
    stream = b"".join(map(encoder.feed, events)) + encoder.close()
    check(fold(events), read_stream(stream.decode()))
    assert all(call["index"] == place for place, call in enumerate(_first_calls(stream.decode())))


def _first_calls(body: str) -> list[dict[str, Any]]:
    deltas = [choice["delta"] for chunk in chunks_of(body) for choice in chunk["choices"]]
    return [call for delta in deltas for call in delta.get("tool_calls") or [] if call.get("id")]


@pytest.mark.parametrize("exchange", STREAMS)
def test_however_a_stream_arrives_its_events_are_the_same(exchange):
    """Cut in two at every byte (or, where that is much, with every byte a border of one cutting)."""
    body = exchange["body"].encode()
    expected = decode([body])
    assert decode(body[i : i + 1] for i in range(len(body))) == expected
    if exchange.get("reads"):
        ends = [sum(exchange["reads"][: i + 1]) for i in range(len(exchange["reads"]))]
        assert ends[-1] == len(body)
        assert decode(body[a:b] for a, b in zip([0, *ends], ends, strict=False)) == expected
    if len(body) <= 2500:
        for cut in range(len(body)):
            assert decode([body[:cut], body[cut:]]) == expected
    # A decoder knows nothing of pieces gone by but its state, so one run checks many borders.
    stride, offsets = (101, range(101)) if len(body) <= MAX_EVERY_BYTE else (2003, range(0, 2003, 97))
    for offset in offsets:
        borders = [0, *range(offset, len(body), stride), len(body)]
        assert decode(body[a:b] for a, b in pairwise(borders)) == expected


def whole_from(body: bytes) -> int:
    """Where a stream says for the first time that it is whole: the first byte after that."""
    ends = [body.find(b"[DONE]") + 6] if b"[DONE]" in body else []
    place, seen, finished = 0, set(), set()
    for line in body.splitlines(keepends=True):
        place += len(line)
        data = line.strip()[5:].strip() if line.startswith(b"data:") else b""
        if not data.startswith(b"{"):
            continue
        chunk = json.loads(data)
        for choice in chunk.get("choices") or []:
            seen.add(choice.get("index"))
            if choice.get("finish_reason"):
                finished.add(choice.get("index"))
        told = usage_of(chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage"))
        says_finish = any(choice.get("finish_reason") for choice in chunk.get("choices") or [])
        if (
            seen
            and seen == finished
            and ((told and says_finish) or chunk.get("object") == "chat.completion.done")
        ):
            ends.append(place - len(line) + len(line.rstrip()))
    return min(ends)


def fork(decoder: Any, last: bytes) -> Any:
    """A decoder in the same state; deeply copied only where its last event could be whole."""
    if last in b"}]\r\n":
        return copy.deepcopy(decoder)
    twin, twin._parser = copy.copy(decoder), copy.copy(decoder._parser)
    twin._parser._line, twin._parser._data = bytearray(decoder._parser._line), list(decoder._parser._data)
    return twin


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_before_its_end_is_never_a_success(exchange):
    body = exchange["body"].encode()
    full_error = decode([body])[1]
    end = len(body) if full_error else whole_from(body)
    step = 1 if len(body) <= MAX_EVERY_BYTE else 13
    last_events = max(0, end - 400)
    decoder, failed = DIALECT.decoder(), None
    for cut in range(end):
        if cut % step == 0 or cut > last_events:
            with pytest.raises(LLMError) as caught:
                fork(decoder, body[cut - 1 : cut]).close()
            error = caught.value
            if isinstance(error, StreamBroken):
                assert (error.billed, error.phase) == ("unknown", "stream")
            else:
                assert f"{type(error).__name__}: {error}" == full_error
        try:
            if failed is None:
                decoder.feed(body[cut : cut + 1])
        except LLMError as error:
            failed = error


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_at_its_end_or_later_is_whole(exchange):
    body = exchange["body"].encode()
    expected, error = decode([body])
    if error:
        return
    done = fold(expected)
    for cut in {whole_from(body), len(body.rstrip()), len(body)}:
        events, error = decode([body[:cut]])
        assert error == ""
        assert fold(events).message == done.message


# -- errors


def kind_of(exchange: Exchange) -> type[LLMError]:
    """The error that a status and a code mean, by the providers' documentation."""
    response = exchange.get("response")
    error = response.get("error", response) if isinstance(response, dict) else {}
    code = error.get("code") if isinstance(error, dict) else None
    if code == "model_not_found":
        return ModelNotFound
    if code == "context_length_exceeded" or "exceeded max context length" in str(error):
        return ContextTooLong
    if code == "insufficient_quota":
        return QuotaExceeded
    table: dict[int, type[LLMError]] = {
        400: InvalidRequest,
        401: AuthenticationFailed,
        402: QuotaExceeded,
        403: PermissionDenied,
        404: ModelNotFound,
        422: InvalidRequest,
        429: RateLimited,
    }
    return table[exchange["status"]]


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_classified_and_says_what_the_provider_said(exchange):
    error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
    assert type(error) is kind_of(exchange)
    assert error.status == exchange["status"]
    assert not error.retryable or exchange["status"] in (408, 409, 429) or exchange["status"] >= 500
    response = exchange.get("response")
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        words = response["error"]["message"]
        assert words.split("sk-")[0].strip()[:200] in error.message
    assert error.request_id == exchange["response_headers"].get("x-request-id", error.request_id)


# -- requests


def plain(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a request without what is said in two ways."""
    wire = {name: value for name, value in message.items() if value not in (None, [])}
    content = wire.get("content")
    if isinstance(content, list):
        content = [{name: value for name, value in part.items() if value is not None} for part in content]
        for part in content:
            if isinstance(part.get("image_url"), str):
                part["image_url"] = {"url": part["image_url"]}
        if len(content) == 1 and set(content[0]) == {"type", "text"} and content[0]["type"] == "text":
            content = content[0]["text"]
        wire["content"] = content
    if wire["role"] == "assistant" and not content:
        wire.pop("content", None)
    if wire.get("reasoning_content") == "":
        del wire["reasoning_content"]
    for call in wire.get("tool_calls") or []:
        call.setdefault("type", "function")
    return wire


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body without what is said in two ways: the normalisations of the dialect, all of them."""
    wire = {name: value for name, value in copy.deepcopy(body).items() if value is not None}
    wire["messages"] = [plain(message) for message in wire["messages"]]
    if "max_completion_tokens" in wire:
        wire["max_tokens"] = wire.pop("max_completion_tokens")
    if isinstance(wire.get("stop"), str):
        wire["stop"] = [wire["stop"]]
    if wire.get("stream"):
        wire["stream_options"] = {**wire.get("stream_options", {}), "include_usage": True}
    else:
        wire.pop("stream", None)
    if wire.get("tool_choice") == "any":
        wire["tool_choice"] = "required"
    for name in ("tools", "metadata", "stop"):
        if wire.get(name) in ([], {}):
            del wire[name]
    if set(wire.get("reasoning", ())) == {"effort"}:
        wire["reasoning_effort"] = wire.pop("reasoning")["effort"]
    for tool in wire.get("tools", []):
        tool.setdefault("type", "function")
        function = tool.get("function")
        if function is not None:
            for name in [
                name
                for name, value in function.items()
                if value is None or (name, value) == ("description", "")
            ]:
                del function[name]
            function.setdefault("parameters", {"type": "object", "properties": {}})
    form = wire.get("response_format", {}).get("json_schema")
    if form is not None:
        form.setdefault("name", "response")
    return wire


@pytest.mark.parametrize("exchange", REQUESTS)
def test_a_request_is_understood_and_said_again_without_loss(exchange):
    body = exchange["request"]
    try:
        request = DIALECT.decode_request(copy.deepcopy(body))
    except InvalidRequest:
        assert exchange["status"] == 400  # the provider thought no better of it
        return
    again = orjson.loads(orjson.dumps(DIALECT.encode_request(request)))
    assert canonical(again) == canonical(body)
    assert DIALECT.decode_request(again) == DIALECT.decode_request(orjson.loads(orjson.dumps(again)))
    assert [m.role for m in request.messages] == [
        {"developer": "system", "function": "tool"}.get(m["role"], m["role"]) for m in body["messages"]
    ]


# -- vectors and models


def is_api(name: str) -> Callable[[Exchange], bool]:
    return lambda exchange: exchange["api"].partition(".")[2] == name


@pytest.mark.parametrize("exchange", exchanges(is_api("embeddings")))
def test_vectors_are_those_of_the_json(exchange):
    try:
        request = DIALECT.decode_embedding_request(copy.deepcopy(exchange["request"]))
    except InvalidRequest:
        assert exchange["status"] == 400  # the provider thought no better of it
        return
    wire = {name: value for name, value in exchange["request"].items() if value is not None}
    given = wire["input"] if isinstance(wire["input"], list) else [wire["input"]]
    again = {
        name: value for name, value in DIALECT.encode_embedding_request(request).items() if value is not None
    }
    assert {**again, "input": None} == {**wire, "input": None}
    assert again["input"] == ([given] if given and isinstance(given[0], int) else given)
    if exchange["status"] != 200:
        error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
        assert type(error) is kind_of(exchange)
        return
    body = exchange["response"]
    found = DIALECT.decode_embeddings(body, exchange["response_headers"])
    assert len(found.vectors) == len(body["data"])
    for item, vector in zip(body["data"], found.vectors, strict=True):
        if isinstance(item["embedding"], str):
            size = len(b64decode(item["embedding"])) // 4
            assert vector == list(struct.unpack(f"<{size}f", b64decode(item["embedding"])))
        else:
            assert vector == item["embedding"]
    assert found.usage is not None
    assert found.usage.input_tokens == body["usage"].get("prompt_tokens", body["usage"]["total_tokens"])


@pytest.mark.parametrize("exchange", exchanges(is_api("models")))
def test_the_models_are_those_of_the_json(exchange):
    if "data" not in exchange["response"]:
        return  # Google's own list
    models = DIALECT.decode_models(exchange["response"])
    assert [model.id for model in models] == [entry["id"] for entry in exchange["response"]["data"]]
    assert DIALECT.encode_models(models)["data"] == [
        {"created": 0, **entry} for entry in exchange["response"]["data"]
    ]


def test_there_is_something_to_read():
    """The tests above hold for nothing where no file is found."""
    assert len(REPLIES) >= 3
    assert len(STREAMS) >= 5
    assert len(ERRORS) >= 2
