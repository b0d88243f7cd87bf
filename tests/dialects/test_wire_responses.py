"""Recorded traffic of everybody who speaks OpenAI's Responses: read here a second time, by other means.

The readings below are the plainest there are: a JSON library, the names of the fields, nothing of the
package. What the dialect makes of the bytes must say the same.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from attrs import asdict, evolve, frozen

from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    QuotaExceeded,
    StreamBroken,
)
from llmpipe.types import (
    Completion,
    Event,
    Message,
    Opaque,
    Part,
    Reasoning,
    Request,
    Text,
    ToolCall,
    fold,
    unfold,
)
from tests.dialects.recordings import Exchange, bytes_of, exchanges

DIALECT = OpenAIResponses()
MAX_EVERY_BYTE = 20_000
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
LAST = ("response.completed", "response.incomplete")


def is_responses(exchange: Exchange) -> bool:
    return exchange["api"].partition(".")[2] in ("responses", "openai_responses", "responses_other")


def is_response(exchange: Exchange) -> bool:
    wire = exchange.get("response")
    return isinstance(wire, dict) and wire.get("object") == "response"


REPLIES = exchanges(lambda x: is_responses(x) and x["status"] == 200 and is_response(x))
STREAMS = exchanges(lambda x: is_responses(x) and x["status"] == 200 and x.get("framing") == "sse")
ERRORS = exchanges(lambda x: is_responses(x) and x["status"] != 200)
REQUESTS = exchanges(
    lambda x: is_responses(x) and isinstance(x["request"], dict) and x["url"].endswith("/responses")
)
COUNTS = exchanges(lambda x: is_responses(x) and x["url"].endswith("/input_tokens"))
COMPACT = exchanges(lambda x: is_responses(x) and x["url"].endswith("/compact"))


# -- an independent reading


@frozen
class Reading:
    """What a reply says, by the names of its fields."""

    text: str
    refusal: str
    reasoning: str
    proofs: int
    calls: list[tuple[str, str, str]]
    others: list[str]
    finish: str | None
    usage: tuple[int, int, int, int] | None


def texts(parts: Any) -> list[str]:
    return [part["text"] for part in parts or []]


def usage_of(wire: Any) -> tuple[int, int, int, int] | None:
    if not wire:
        return None
    cached = (wire.get("input_tokens_details") or {}).get("cached_tokens") or 0
    thought = (wire.get("output_tokens_details") or {}).get("reasoning_tokens") or 0
    return wire["input_tokens"], wire["output_tokens"], cached, thought


def finish_of(body: dict[str, Any], calls: list[Any], refusal: str, text: str) -> str | None:
    if body["status"] in ("queued", "in_progress"):
        return None
    if body["status"] == "incomplete":
        return {"max_output_tokens": "length"}[body["incomplete_details"]["reason"]]
    return "tool_calls" if calls else "refusal" if refusal and not text else "stop"


def read_reply(body: dict[str, Any]) -> Reading:
    items = body["output"]
    said = [part for item in items if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in said if part["type"] == "output_text")
    refusal = "".join(part["refusal"] for part in said if part["type"] == "refusal")
    thoughts = [item for item in items if item["type"] == "reasoning"]
    calls = [(i["call_id"], i["name"], i[CALLS[i["type"]]]) for i in items if i["type"] in CALLS]
    return Reading(
        text,
        refusal,
        "".join("\n\n".join(texts(item["summary"]) or texts(item.get("content"))) for item in thoughts),
        sum(bool(item.get("encrypted_content")) for item in thoughts),
        calls,
        [i["type"] for i in items if i["type"] not in (*CALLS, "message", "reasoning")],
        finish_of(body, calls, refusal, text),
        usage_of(body.get("usage")),
    )


def events_of(body: str) -> list[dict[str, Any]]:
    lines = [line[5:].strip() for line in body.replace("\r\n", "\n").split("\n") if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def read_stream(body: str) -> Reading:
    """By the deltas, and the items' ends; not by the whole response at the end."""
    events = events_of(body)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    calls = [(i["call_id"], i["name"], i[CALLS[i["type"]]]) for i in done if i["type"] in CALLS]
    parts: dict[Any, str] = {}
    for event in events:
        kind = event["type"]
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            place = event["output_index"], event.get("summary_index", event.get("content_index"))
            parts[place] = parts.get(place, "") + event["delta"]
    items: dict[int, list[str]] = {}
    for (at, _), piece in parts.items():
        items.setdefault(at, []).append(piece)

    def joined(kind: str) -> str:
        return "".join(event["delta"] for event in events if event["type"] == kind)

    text, refusal = joined("response.output_text.delta"), joined("response.refusal.delta")
    last = events[-1]["response"]
    return Reading(
        text,
        refusal,
        "".join("\n\n".join(pieces) for pieces in items.values()),
        sum(bool(item.get("encrypted_content")) for item in done if item["type"] == "reasoning"),
        calls,
        [i["type"] for i in done if i["type"] not in (*CALLS, "message", "reasoning")],
        finish_of(last, calls, refusal, text),
        usage_of(last["usage"]),
    )


def check(done: Completion, reading: Reading) -> None:
    assert done.text == reading.text
    assert (done.refusal or "") == reading.refusal
    assert done.reasoning == reading.reasoning
    parts = done.message.parts
    proved = [part for part in parts if isinstance(part, Reasoning) and part.encrypted]
    assert len(proved) == reading.proofs
    assert all(part.origin == DIALECT.name for part in proved)
    assert [(call.id, call.name, call.arguments) for call in done.tool_calls] == reading.calls
    assert [part.data["type"] for part in parts if isinstance(part, Opaque)] == reading.others
    assert done.finish_reason == reading.finish
    usage = done.usage and (
        done.usage.input_tokens,
        done.usage.output_tokens,
        done.usage.cached_input_tokens,
        done.usage.reasoning_tokens,
    )
    assert usage == reading.usage
    assert done.message.dialect == DIALECT.name


def leaves(value: Any) -> set[str]:
    """Every string in a JSON value that is long enough to be known again."""
    if isinstance(value, dict):
        return set().union(*map(leaves, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(leaves, value), set())
    return {value} if isinstance(value, str) and len(value) > 6 else set()


def bare(message: Message) -> list[Part]:
    """The parts of a message without what differs each time OpenAI says it, and without made-up ids."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, Reasoning):
            part = evolve(part, encrypted=part.encrypted and "proof")  # encrypted anew at the end
        if isinstance(part, Reasoning | Text | ToolCall) and "item" in part.extra:
            rest = {name: value for name, value in part.extra.items() if name != "item"}
            mark = {name: value for name, value in part.extra["item"].items() if name != "id"}
            part = evolve(part, extra={**rest, **({"item": mark} if mark else {})})
        parts.append(part)
    return parts


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


# -- full replies


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_says_what_its_json_says(exchange):
    body = exchange["response"]
    before = json.dumps(body)
    done = DIALECT.decode_reply(body, exchange["response_headers"])
    check(done, read_reply(body))
    assert (done.id, done.model, done.created) == (body["id"], body["model"], body["created_at"])
    assert json.dumps(body) == before


@pytest.mark.parametrize("exchange", REPLIES)
def test_nothing_of_a_reply_is_lost(exchange):
    body = exchange["response"]
    known = leaves(asdict(DIALECT.decode_reply(body, {})))
    words = {"message", "assistant", "output_text", "summary_text", "reasoning_text", "response"}
    words |= {"completed", "incomplete", "function_call", "reasoning", "refusal", "max_output_tokens"}
    refusals = [item["id"] for item in body["output"] if "refusal" in str(item.get("content"))]
    missing = leaves(body) - words - known - set(refusals)
    assert not [text for text in missing if not any(text in other for other in known)]


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_goes_on_to_our_own_callers_as_openai_would_have_sent_it(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    again = json.loads(json.dumps(DIALECT.encode_reply(done)))
    check(done, read_reply(again))
    ours, theirs = without_nulls(again["output"]), without_nulls(exchange["response"]["output"])
    for item in (*ours, *theirs):
        item.setdefault("status", "completed")
        for part in item.get("content") or []:
            for name in ("annotations", "logprobs"):
                if part.get(name) == []:
                    del part[name]
        if item.get("content") == []:
            del item["content"]
        for name in ("item_id", "output_index"):  # of an event, which Amazon Bedrock leaves there
            item.pop(name, None)
    assert [{**item, "id": ""} for item in ours] == [{**item, "id": ""} for item in theirs]
    named = [("id" in item, item["id"]) for item in theirs if "id" in item and "refusal" not in str(item)]
    assert set(named) <= {("id" in item, item["id"]) for item in ours}


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_full_reply_is_the_same_when_it_is_streamed(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    assert fold(unfold(done)) == done
    if done.finish_reason is None:
        return  # it is still under way
    encoder = DIALECT.encoder(Request(stream=True))
    body = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    check(done, read_stream(body.decode()))
    events, error = decode([body])
    assert error == ""
    assert bare(fold(events).message) == bare(done.message)
    final = events_of(body.decode())[-1]["response"]
    full = DIALECT.encode_reply(done)
    assert without_nulls(final) == without_nulls(json.loads(json.dumps(full)))


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
    events, error = decode([exchange["body"].encode()])
    assert error == ""
    done = fold(events)
    check(done, read_stream(exchange["body"]))
    last = events_of(exchange["body"])[-1]["response"]
    assert (done.id, done.model) == (last["id"], last["model"])


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_folds_to_the_reply_that_its_end_repeats(exchange):
    events, _ = decode([exchange["body"].encode()])
    done, last = fold(events), events_of(exchange["body"])[-1]["response"]
    full = DIALECT.decode_reply(last, {})
    assert bare(done.message) == bare(full.message)
    assert (done.finish_reason, done.usage, done.created) == (full.finish_reason, full.usage, full.created)
    assert done.extra == full.extra


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_goes_on_to_our_own_callers_as_openai_would_have_sent_it(exchange):
    events, _ = decode([exchange["body"].encode()])
    encoder = DIALECT.encoder(Request(stream=True))
    body = (b"".join(map(encoder.feed, events)) + encoder.close()).decode()
    check(fold(events), read_stream(body))
    again, error = decode([body.encode()])
    assert error == ""
    assert bare(fold(again).message) == bare(fold(events).message)
    sent = events_of(body)
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    final = sent[-1]["response"]
    assert final["output"] == [e["item"] for e in sent if e["type"] == "response.output_item.done"]


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
    stride, offsets = (101, range(101)) if len(body) <= MAX_EVERY_BYTE else (2003, range(0, 2003, 97))
    for offset in offsets:
        borders = [0, *range(offset, len(body), stride), len(body)]
        assert decode(body[a:b] for a, b in pairwise(borders)) == expected


def whole_from(body: bytes) -> int:
    """Where a stream says that it is whole: the first byte after the data of its last event."""
    place = 0
    for line in body.splitlines(keepends=True):
        place += len(line)
        is_event = line.startswith(b"data:") and line.strip() != b"data: [DONE]"
        if is_event and json.loads(line[5:])["type"] in LAST:
            return place - len(line) + len(line.rstrip())
    raise AssertionError("the recording has no end")


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_before_its_end_is_never_a_success(exchange):
    body = exchange["body"].encode()
    end = whole_from(body)
    step = 1 if len(body) <= MAX_EVERY_BYTE else 13
    decoder = DIALECT.decoder()
    for cut in range(end):
        if cut % step == 0 or cut > end - 200:
            # A decoder in the same state: copied in depth only where its last event could be whole.
            twin = copy.copy(decoder)
            if body[cut - 1 : cut] in (b"}", b"]", b"\n", b"\r", b""):
                twin = copy.deepcopy(decoder) if len(body) <= MAX_EVERY_BYTE else copy.copy(decoder)
            twin._parser = copy.copy(decoder._parser)
            twin._parser._line = bytearray(decoder._parser._line)
            twin._parser._data = list(decoder._parser._data)
            with pytest.raises(StreamBroken) as caught:
                twin.close()
            assert (caught.value.billed, caught.value.phase) == ("unknown", "stream")
            assert not decoder.finished
        decoder.feed(body[cut : cut + 1])


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_at_its_end_or_later_is_whole(exchange):
    body = exchange["body"].encode()
    done = fold(decode([body])[0])
    for cut in {whole_from(body), len(body.rstrip()), len(body)}:
        events, error = decode([body[:cut]])
        assert error == ""
        assert fold(events) == done


# -- errors


def kind_of(exchange: Exchange) -> type[LLMError]:
    """The error that a status and a code mean, by the providers' documentation."""
    error = exchange["response"].get("error", exchange["response"])
    code = error.get("code") if isinstance(error, dict) else None
    named = {
        "model_not_found": ModelNotFound,
        "context_length_exceeded": ContextTooLong,
        "insufficient_quota": QuotaExceeded,
    }
    by_status = {400: InvalidRequest, 401: AuthenticationFailed, 404: ModelNotFound}
    return named.get(code) or by_status[exchange["status"]]


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_classified_and_says_what_the_provider_said(exchange):
    error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
    assert type(error) is kind_of(exchange)
    assert (error.status, error.retryable) == (exchange["status"], False)
    told = exchange["response"]["error"]
    words = told["message"] if isinstance(told, dict) else told
    assert words.split("provided: ")[0].strip()[:200] in error.message


# -- requests


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a request without what is said in two ways."""
    wire = {name: value for name, value in item.items() if value is not None}
    kind = wire.get("type", "message")
    if kind == "message":
        wire.pop("type", None)
    if wire.get("status") == "completed" and kind in ("message", "reasoning", *CALLS):
        del wire["status"]
    if kind == "reasoning" and wire.get("content") == []:
        del wire["content"]
    for name in ("content", "output"):
        parts = wire.get(name)
        if kind == "reasoning" or not isinstance(parts, list):
            continue
        parts = [{k: v for k, v in part.items() if v is not None and v != []} for part in parts]
        if len(parts) == 1 and set(parts[0]) == {"type", "text"}:
            parts = parts[0]["text"]
        wire[name] = parts
    return wire


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body without what is said in two ways: the normalisations of the dialect, all of them."""
    wire = {name: value for name, value in copy.deepcopy(body).items() if value is not None}
    given = wire.get("input")
    if isinstance(given, str):
        wire["input"] = given = [{"role": "user", "content": given}]
    if given is not None:
        wire["input"] = [plain(item) for item in given]
    if not wire.get("stream"):
        wire.pop("stream", None)
    for name in ("tools", "metadata", "include"):
        if wire.get(name) in ([], {}):
            del wire[name]
    for name in ("text", "reasoning"):
        if name in wire:
            wire[name] = without_nulls(wire[name])
            if not wire[name]:
                del wire[name]
    for at, tool in enumerate(wire.get("tools", [])):
        if tool["type"] != "function":
            continue
        tool = {**tool.get("function", {}), **{k: v for k, v in tool.items() if v is not None}}
        tool.pop("function", None)
        tool = {k: v for k, v in tool.items() if v is not None and (k, v) != ("description", "")}
        tool.setdefault("parameters", {"type": "object", "properties": {}})
        wire["tools"][at] = tool
    return wire


@pytest.mark.parametrize("exchange", REQUESTS)
def test_a_request_is_understood_and_said_again_without_loss(exchange):
    body = exchange["request"]
    try:
        request = DIALECT.decode_request(copy.deepcopy(body))
    except InvalidRequest:
        assert exchange["status"] in (400, 401)  # the provider thought no better of it
        return
    assert request.dialect == DIALECT.name
    again = json.loads(json.dumps(DIALECT.encode_request(request)))
    assert canonical(again) == canonical(body)
    assert DIALECT.decode_request(again) == DIALECT.decode_request(json.loads(json.dumps(again)))


@pytest.mark.parametrize("exchange", COUNTS)
def test_tokens_are_counted(exchange):
    request = DIALECT.decode_request(exchange["request"])
    body = DIALECT.encode_count_request(request)
    assert canonical(body) == canonical(exchange["request"])
    assert DIALECT.decode_count(exchange["response"]) == exchange["response"]["input_tokens"]


@pytest.mark.parametrize("exchange", COMPACT)
def test_what_was_compacted_can_be_sent_again(exchange):
    """The output of a compaction is the input of the next request."""
    output = exchange["response"]["output"]
    request = DIALECT.decode_request({"model": "m", "input": output})
    again = DIALECT.encode_request(request)["input"]
    assert [plain(item) for item in again] == [plain(item) for item in output]


def test_there_is_something_to_read():
    """The tests above hold for nothing where no file is found."""
    if not REPLIES:
        pytest.skip("there are no recordings here; the values of the laws are the set made by hand")
    assert len(REPLIES) > 50
    assert len(STREAMS) > 20
    assert len(ERRORS) > 5
