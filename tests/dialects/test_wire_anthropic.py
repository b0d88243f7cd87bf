"""Recorded exchanges with Anthropic's API, and with those who serve Claude elsewhere.

What a reply says is read from its JSON here, in the plainest way, and compared with what the
dialect says. Without the recordings the hand-made exchanges in ``data/`` are all there is.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import Opaque, ToolCall, fold, unfold
from tests.dialects.anthropic_values import decode_all, split_at

DIALECT = AnthropicMessages()
HERE = Path(__file__).parent
RECORDED = Path(os.environ.get("LLMPIPE_WIRE") or HERE.parents[2] / "shared" / "wire")
FOLDERS = ("anthropic", "azure", "vertex", "bedrock")
FULL_LIMIT = 4000
"""Bytes of a stream up to which every cut is a run of its own; a longer one is cut by combs."""


def _load() -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in orjson.loads((HERE / "data" / "anthropic_messages.json").read_bytes()):
        yield f"made-{entry['name']}", entry
    for folder in FOLDERS:
        for path in sorted((RECORDED / folder).glob("*.json")):
            yield f"{folder}/{path.stem}", orjson.loads(path.read_bytes())


def _ours(exchange: dict[str, Any]) -> bool:
    api, request = exchange["api"], exchange["request"]
    if api == "bedrock.invoke":
        return "anthropic.claude" in exchange["url"] and "messages" in request
    return api in ("anthropic.messages", "azure.anthropic_messages", "vertex.anthropic")


EVERY = dict(_load())
EXCHANGES = {name: exchange for name, exchange in EVERY.items() if _ours(exchange)}
COUNTS = {name: e for name, e in EVERY.items() if e["api"] == "anthropic.count_tokens"}
SSE = {name: e["body"].encode() for name, e in EXCHANGES.items() if e.get("framing") == "sse"}
STREAMS = {
    name: body for name, body in SSE.items() if b'"message_stop"' in body and b"event: error" not in body
}
UNENDED = {name: body for name, body in SSE.items() if name not in STREAMS}
BODIES = {name: e for name, e in EXCHANGES.items() if e["status"] == 200 and "response" in e}
FULL = {name: e for name, e in BODIES.items() if "content" in e["response"]}
FAILED = {name: e for name, e in BODIES.items() if name not in FULL}
ERRORS = {name: e for name, e in EVERY.items() if e["status"] != 200 and (_ours(e) or name in COUNTS)}


def each(exchanges: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", sorted(exchanges))


def message_of(stream: bytes) -> dict[str, Any]:
    """The message of a stream, put together as the API's documentation tells."""
    message: dict[str, Any] = {}
    pieces: dict[int, str] = {}
    for line in stream.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        event = orjson.loads(line[5:])
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "citations_delta":
                        block["citations"] = [*(block.get("citations") or []), delta["citation"]]
                    case "input_json_delta":
                        pieces[event["index"]] = pieces.get(event["index"], "") + delta["partial_json"]
                    case "compaction_delta":
                        block.update({key: value for key, value in delta.items() if key != "type"})
            case "message_delta":
                message.update({key: value for key, value in event["delta"].items() if value is not None})
                message["usage"].update(
                    {key: value for key, value in event["usage"].items() if value is not None}
                )
    for index, text in pieces.items():
        if text:
            message["content"][index]["input"] = orjson.loads(text)
    return message


def check(done, message):
    """That a completion says what the message says."""
    blocks = message["content"]
    assert done.id == message["id"]
    assert done.model == message["model"]
    assert done.text == "".join(block["text"] for block in blocks if block["type"] == "text")
    assert done.reasoning == "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    called = [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    assert [(call.id, call.name, call.args) for call in done.tool_calls] == called
    assert len(done.message.parts) == len(blocks)
    for part, block in zip(done.message.parts, blocks, strict=True):
        match block["type"]:
            case "thinking":
                assert part.signature == (block["signature"] or None)
            case "redacted_thinking":
                assert part.encrypted == block["data"]
            case "text":
                assert part.extra.get("citations") == (block.get("citations") or None)
            case "tool_use":
                assert part.extra.get("caller") == block.get("caller")
            case _:
                assert part == Opaque("anthropic.messages", block)
    finish = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "refusal",
    }
    assert done.finish_reason == finish[message["stop_reason"]]
    for name in ("stop_sequence", "container", "stop_details"):
        assert done.extra.get(name) == message.get(name)
    usage = message["usage"]
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    assert done.usage.input_tokens == usage["input_tokens"] + cached + written
    assert done.usage.output_tokens == usage["output_tokens"]
    assert done.usage.cached_input_tokens == cached
    assert done.usage.cache_write_tokens == written
    assert done.usage.reasoning_tokens == (usage.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    for name in ("cache_creation", "service_tier", "server_tool_use"):
        assert done.usage.extra.get(name) == usage.get(name)


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """A request in the one form of those that mean the same (see `server.decode_request`)."""
    body = {name: value for name, value in body.items() if value not in (None, [], {}, "")}
    wanted = body.pop("output_format", None)
    if wanted is not None:
        body["output_config"] = {**body.get("output_config", {}), "format": wanted}
    if not body.get("stream", True):
        del body["stream"]
    body.setdefault("max_tokens", DIALECT.default_max_tokens)
    system, messages = _blocks(body.pop("system", [])), []
    for message in body["messages"]:
        blocks = _blocks(message["content"])
        if message["role"] == "system" and not messages:
            system += blocks
        elif messages and message["role"] == messages[-1]["role"] == "user":
            messages[-1]["content"] += blocks
        else:
            messages.append({**message, "content": blocks})
    tools = [_tool(tool) for tool in body.get("tools", [])]
    return {**body, "system": system, "messages": messages, "tools": tools}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    tool = {name: value for name, value in tool.items() if (name, value) != ("description", "")}
    if "input_schema" in tool:
        tool["input_schema"] = {"type": "object", **tool["input_schema"]}
    return tool


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = []
    for block in content:
        block = dict(block)
        if block["type"] == "tool_result":
            block["content"] = _blocks(block.get("content") or [])
            if not block.get("is_error", True):
                del block["is_error"]
        blocks.append(block)
    shown = [block for block in blocks if block.keys() != {"type", "text"} or block["text"].strip()]
    return shown or blocks[:1]


@each(FULL)
def test_a_full_reply_says_what_its_json_says(name):
    exchange = FULL[name]
    done = DIALECT.decode_reply(copy.deepcopy(exchange["response"]), exchange["response_headers"])
    check(done, exchange["response"])
    headers = exchange["response_headers"]
    if "request-id" in headers and "x-request-id" not in headers:
        assert done.request_id == headers["request-id"]
    again = orjson.loads(orjson.dumps(DIALECT.encode_reply(done)))
    check(DIALECT.decode_reply(again, {}), exchange["response"])
    encoder = DIALECT.encoder(DIALECT.decode_request(exchange["request"]))
    stream = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    check(fold(decode_all(DIALECT.decoder(), [stream])), exchange["response"])
    check(done, message_of(stream))


@each(STREAMS)
def test_a_stream_says_what_its_json_says(name):
    events = decode_all(DIALECT.decoder(), [STREAMS[name]])
    check(fold(events), message_of(STREAMS[name]))
    encoder = DIALECT.encoder(DIALECT.decode_request(EXCHANGES[name]["request"]))
    again = b"".join(map(encoder.feed, events)) + encoder.close()
    assert bare(message_of(again)) == bare(message_of(STREAMS[name]))
    assert fold(decode_all(DIALECT.decoder(), [again])) == fold(events)


def bare(value: Any) -> Any:
    """JSON without what says nothing: nulls, empty citations and counts of zero."""
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if v not in (None, 0) and (k, v) != ("citations", [])}
    return [bare(item) for item in value] if isinstance(value, list) else value


@each(STREAMS)
def test_a_stream_gives_the_same_events_however_it_is_cut(name):
    stream = STREAMS[name]
    whole = decode_all(DIALECT.decoder(), [stream])
    assert decode_all(DIALECT.decoder(), split_at(stream, range(len(stream)))) == whole
    reads = EXCHANGES[name].get("reads") or []
    assert decode_all(DIALECT.decoder(), split_at(stream, _sums(reads))) == whole
    step = len(stream) if len(stream) <= FULL_LIMIT else 512
    for position in range(step):
        pieces = split_at(stream, range(position, len(stream), step))
        assert decode_all(DIALECT.decoder(), pieces) == whole


def _sums(sizes: list[int]) -> list[int]:
    return [sum(sizes[: count + 1]) for count in range(len(sizes) - 1)]


@each(STREAMS)
def test_a_stream_cut_before_its_end_is_never_a_success(name):
    stream = STREAMS[name]
    end = stream.rindex(b"}") + 1  # of message_stop, which is the end even before its line ends
    assert b"message_stop" in stream[stream.rindex(b"data:") : end]
    open_ = DIALECT.decoder()  # has read all events before the one that is cut
    start = 0
    for position in range(end):
        if stream.startswith(b"\n\n", position - 2) and position > 1:
            open_.feed(stream[start:position])
            start = position
        decoder = copy.deepcopy(open_)
        decoder.feed(stream[start:position])
        assert not decoder.finished
        with pytest.raises(StreamBroken) as caught:
            decoder.close()
        assert (caught.value.phase, caught.value.billed) == ("stream", "unknown")
    for position in range(end, len(stream) + 1):
        assert fold(decode_all(DIALECT.decoder(), [stream[:position]])).finish_reason is not None


@each(UNENDED)
def test_a_stream_without_its_end_is_never_a_success(name):
    stream = UNENDED[name]
    reported = [orjson.loads(line[5:]) for line in stream.split(b"\n") if line.startswith(b"data:")]
    reported = [event["error"] for event in reported if event["type"] == "error"]
    for pieces in ([stream], split_at(stream, range(len(stream)))):
        with pytest.raises(LLMError) as caught:
            decode_all(DIALECT.decoder(), pieces)
        assert caught.value.retryable
        if reported:
            assert (caught.value.code, caught.value.message) == (reported[0]["type"], reported[0]["message"])
        else:
            assert type(caught.value) is StreamBroken


@each(FAILED)
def test_an_error_in_a_200_is_raised(name):
    response = FAILED[name]["response"]
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(response, FAILED[name]["response_headers"])
    assert caught.value.code == response["error"]["type"]


KINDS = {
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: ModelNotFound,
    413: RequestTooLarge,
    429: RateLimited,
    529: Overloaded,
}


@each(ERRORS)
def test_an_error_becomes_the_right_one(name):
    exchange = ERRORS[name]
    status, headers = exchange["status"], exchange["response_headers"]
    response: Any = exchange.get("response")
    body = orjson.dumps(response) if "response" in exchange else exchange["response_text"].encode()
    error = DIALECT.decode_error(status, headers, body)
    kind = KINDS.get(status) or (InvalidRequest if status < 500 else ServiceUnavailable)
    assert error.status == status
    assert isinstance(error, kind)
    response = response[0] if isinstance(response, list) else response
    told = response.get("error", response) if isinstance(response, dict) else {}
    if "message" in told:
        assert error.message == told["message"]
        assert isinstance(error, ContextTooLong) is ("too long" in told["message"])
    if "type" in told:
        assert error.code == told["type"]
        assert type(error) in (kind, ContextTooLong)
    if "request-id" in headers or "request_id" in (response or {}):
        assert error.request_id == (headers.get("request-id") or response["request_id"])
    assert error.retryable is (status in (408, 409, 429) or status >= 500)
    if "retry-after" in headers:
        assert error.retry_after == float(headers["retry-after"])


@each({**EXCHANGES, **COUNTS})
def test_a_request_goes_through_us_unchanged(name):
    body = EVERY[name]["request"]
    try:
        request = DIALECT.decode_request(copy.deepcopy(body))
    except InvalidRequest:  # the provider refused it too
        assert EVERY[name]["status"] == 400
        return
    again = orjson.loads(orjson.dumps(DIALECT.encode_request(request)))
    assert normal(again) == normal(body)
    assert DIALECT.encode_request(DIALECT.decode_request(again)) == again


@each(COUNTS)
def test_a_count_goes_through_us_unchanged(name):
    exchange = COUNTS[name]
    counted = DIALECT.encode_count_request(DIALECT.decode_request(copy.deepcopy(exchange["request"])))
    expected = normal(exchange["request"])
    del expected["max_tokens"]
    assert {**normal(counted), "max_tokens": 0} == {**expected, "max_tokens": 0}
    if exchange["status"] == 200:
        assert DIALECT.decode_count(exchange["response"]) == exchange["response"]["input_tokens"]


@each(FULL)
def test_a_reply_can_be_sent_back_as_it_came(name):
    """Thinking with its signatures, tool ids and server tools return unchanged and in order."""
    done = DIALECT.decode_reply(copy.deepcopy(FULL[name]["response"]), {})
    request = DIALECT.decode_request(copy.deepcopy(FULL[name]["request"]))
    replay = attrs.evolve(request, messages=(*request.messages, done.message))
    try:
        sent = DIALECT.encode_request(replay)["messages"][-1]
    except InvalidRequest:  # cut by max_tokens inside a call's arguments: no reply to send back
        assert any(isinstance(part, ToolCall) for part in done.message.parts)
        return
    assert sent["role"] == "assistant"
    kept = [
        {
            key: value
            for key, value in block.items()
            if value is not None and (key, value) != ("citations", [])
        }
        for block in FULL[name]["response"]["content"]
    ]
    assert _blocks(sent["content"]) == kept


def test_the_recordings_are_looked_at():
    if not (RECORDED / "anthropic").is_dir():
        pytest.skip(f"no recordings in {RECORDED}")
    for kind in (STREAMS, FULL, ERRORS, COUNTS):
        assert sum(not name.startswith("made-") for name in kind) > 0
