"""Recorded exchanges with Bedrock's Converse.

What a reply says is read from its JSON here, in the plainest way, and compared with what the dialect
says; so is what a recorded request says. Without the recordings nothing of this runs but the streams
made by hand in ``test_bedrock_stream``.
"""

from __future__ import annotations

import base64
import copy
import json
from urllib.parse import unquote, urlsplit

import attrs
import pytest

from llmpipe.dialects.losses import Losses
from llmpipe.errors import AuthenticationFailed, LLMError, ModelNotFound, StreamBroken
from llmpipe.types import Message, Opaque, Reasoning, Request, Text, ToolCall, Usage, fold, unfold
from tests.dialects.bedrock_values import DIALECT, NAME, decode_all, frames, message_of, parts_of, request_of
from tests.dialects.recordings import bytes_of, exchanges

FULL_LIMIT = 3000
"""Bytes of a stream up to which every cut is a run of its own; a longer one is cut by combs."""


def ours(exchange) -> bool:
    return exchange["api"] in ("bedrock.converse", "bedrock.converse_stream")


def stream_of(exchange) -> bytes:
    return base64.b64decode(exchange["body_base64"])


def all_events(exchange) -> bool:
    return all(headers[":message-type"] == "event" for headers, _ in frames(stream_of(exchange)))


REPLIES = exchanges(lambda e: ours(e) and e["status"] == 200 and "output" in e.get("response", ()))
STREAMS = exchanges(lambda e: ours(e) and e["status"] == 200 and "body_base64" in e and all_events(e))
FAILED = exchanges(lambda e: ours(e) and e["status"] == 200 and "body_base64" in e and not all_events(e))
ERRORS = exchanges(lambda e: ours(e) and e["status"] != 200)
REQUESTS = exchanges(lambda e: ours(e) and isinstance(e["request"], dict))


def body_of(exchange) -> dict:
    return exchange["response"] if "response" in exchange else message_of(stream_of(exchange))


def model_of(exchange) -> str:
    return unquote(urlsplit(exchange["url"]).path.split("/model/")[1].rpartition("/")[0])


def strings_in(value, *, under: str = "") -> set[str]:
    """All strings of some JSON, but those that are names of the protocol's own."""
    if isinstance(value, str):
        return {value} if under not in ("role", "stopReason", "format") else set()
    if isinstance(value, dict):
        return set().union(*(strings_in(inner, under=key) for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(strings_in(inner) for inner in value))
    return set()


FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}


def check(done, body):
    """That a completion says what the body says."""
    blocks = [block for block in body["output"]["message"]["content"] if block not in ({"text": ""}, {})]
    expected = parts_of(blocks)
    assert len(done.message.parts) == len(expected)
    for part, meant in zip(done.message.parts, expected, strict=True):
        if isinstance(meant, ToolCall):  # the JSON text of a stream has other spaces
            assert part.args == meant.args
            part = attrs.evolve(part, arguments=meant.arguments)
        assert part == meant
        if isinstance(meant, Reasoning):
            assert part.origin == meant.origin
    assert done.message.dialect == NAME
    assert done.finish_reason == FINISH[body["stopReason"]]
    told = body["usage"]
    read, written = told.get("cacheReadInputTokens", 0), told.get("cacheWriteInputTokens", 0)
    known = ("inputTokens", "outputTokens", "totalTokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    assert done.usage == Usage(
        told["inputTokens"] + read + written,
        told["outputTokens"],
        read,
        written,
        extra={k: v for k, v in told.items() if k not in known and not k.endswith("TokenCount")},
    )
    assert done.usage.total_tokens == told["totalTokens"]
    for name in body.keys() - {"output", "stopReason", "usage"}:
        assert done.extra[name] == body[name]


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_says_what_its_json_says(exchange):
    body = exchange["response"]
    done = DIALECT.decode_reply(copy.deepcopy(body), exchange["response_headers"])
    check(done, body)
    assert done.request_id == exchange["response_headers"].get("x-amzn-requestid")
    assert fold(unfold(done)) == done


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_says_what_its_events_say(exchange):
    body = message_of(stream_of(exchange))
    done = fold(decode_all(stream_of(exchange)))
    check(done, body)
    full = DIALECT.decode_reply(body, {})
    without = [
        attrs.evolve(p, arguments=str(p.args)) if isinstance(p, ToolCall) else p for p in done.message.parts
    ]
    meant = [
        attrs.evolve(p, arguments=str(p.args)) if isinstance(p, ToolCall) else p for p in full.message.parts
    ]
    assert without == meant
    assert attrs.evolve(done, message=full.message) == full


@pytest.mark.parametrize("exchange", REPLIES + STREAMS)
def test_nothing_of_a_reply_is_lost(exchange):
    body = body_of(exchange)
    if "response" in exchange:
        done = DIALECT.decode_reply(copy.deepcopy(body), {})
    else:
        done = fold(decode_all(stream_of(exchange)))
    found = set()
    for part in done.message.parts:
        value = attrs.asdict(part)
        found |= strings_in({**value, "arguments": part.args} if isinstance(part, ToolCall) else value)
    found |= strings_in(dict(done.extra)) | strings_in(dict(done.usage.extra))
    # Pieces of a cited text are one text.
    lost = {text for text in strings_in(body) - found if text not in done.text}
    assert not lost


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_may_be_cut_anywhere(exchange):
    stream = stream_of(exchange)
    expected = decode_all(stream)
    if len(stream) <= FULL_LIMIT:
        for cut in range(1, len(stream)):
            assert decode_all(stream, [cut]) == expected
    for step in (1, 7, 61, 1000):
        assert decode_all(stream, range(step, len(stream), step)) == expected
    if "reads" in exchange:
        ends = [sum(exchange["reads"][: n + 1]) for n in range(len(exchange["reads"]))]
        assert decode_all(stream, ends[:-1]) == expected


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_short_is_never_a_success(exchange):
    stream = stream_of(exchange)
    ends, stopped, at = [], 0, 0
    for headers, _ in frames(stream):
        at += int.from_bytes(stream[at : at + 4])
        ends.append(at)
        stopped = at if headers[":event-type"] == "messageStop" else stopped
    combs = {*range(0, stopped, 97), *ends[:-1], 1}
    cuts = range(len(stream)) if len(stream) <= FULL_LIMIT else sorted(combs)
    for cut in cuts:
        if cut < stopped:
            with pytest.raises(StreamBroken) as caught:
                decode_all(stream[:cut])
            assert caught.value.code == "stream_cut"
        else:
            assert fold(decode_all(stream[:cut])).usage is None


def test_a_stream_with_an_exception_in_it_fails_with_that():
    for (exchange,) in (param.values for param in FAILED):
        headers = [headers for headers, _ in frames(stream_of(exchange))][-1]
        with pytest.raises(LLMError) as caught:
            decode_all(stream_of(exchange))
        assert caught.value.code == headers.get(":exception-type", headers.get(":error-code"))


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_classified(exchange):
    error = DIALECT.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
    said = exchange["response"]["message"]
    assert error.message == said
    if "model identifier is invalid" in said:
        assert type(error) is ModelNotFound
    elif "security token" in said or "Signature" in said:
        assert type(error) is AuthenticationFailed
        assert not error.retryable
    else:
        assert type(error) is not LLMError
    named = exchange["response_headers"].get("x-amzn-errortype")
    assert error.code == (named.partition(":")[0] if named else "model_not_found")


def normal(body):
    """What a body says without what says nothing: empty objects, `type: object` of a schema, split turns."""
    body = {key: value for key, value in copy.deepcopy(body).items() if value not in ({}, [])}
    inference = body.get("inferenceConfig", {})
    if inference.get("stopSequences") == []:
        del inference["stopSequences"]
    messages: list[dict] = []
    for message in body["messages"]:
        if messages and messages[-1]["role"] == message["role"]:
            messages[-1]["content"] += message["content"]
        else:
            messages.append(message)
    body["messages"] = messages
    for tool in body.get("toolConfig", {}).get("tools", ()):
        if "toolSpec" in tool:
            tool["toolSpec"]["inputSchema"]["json"].setdefault("type", "object")
    if "textFormat" in body.get("outputConfig", {}):
        schema = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
        schema["schema"] = json.loads(schema["schema"])
    return body


@pytest.mark.parametrize("exchange", REQUESTS)
def test_a_recorded_request_is_written_as_it_was(exchange):
    request = request_of(model_of(exchange), exchange["request"])
    losses = Losses()
    body = DIALECT.encode_request(request, losses)
    assert normal(body) == normal(exchange["request"])
    assert losses.warnings == ()


@pytest.mark.parametrize("exchange", REPLIES + STREAMS)
def test_a_reply_can_be_sent_back(exchange):
    body = body_of(exchange)
    if "response" in exchange:
        done = DIALECT.decode_reply(copy.deepcopy(body), {})
    else:
        done = fold(decode_all(stream_of(exchange)))
    losses = Losses()
    sent = DIALECT.encode_request(
        Request(model=model_of(exchange), messages=[Message("user", "?"), done.message]), losses
    )
    unsigned = {
        index
        for index, part in enumerate(done.message.parts)
        if isinstance(part, Reasoning) and part.signature is None and part.encrypted is None
    }
    blank = {
        i for i, part in enumerate(done.message.parts) if isinstance(part, Text) and not part.text.strip()
    }
    expected = [p for i, p in enumerate(done.message.parts) if i not in unsigned | blank or part_cites(p)]
    again = parts_of(sent["messages"][1]["content"]) if expected else []
    assert len(sent["messages"]) == 1 + bool(expected)
    for part, meant in zip(again, expected, strict=True):
        if isinstance(meant, ToolCall):
            assert (part.id, part.name, part.args) == (meant.id, meant.name, meant.args)
        else:
            assert part == meant
    assert any("did not sign" in warning for warning in losses.warnings) == bool(unsigned)


def part_cites(part) -> bool:
    return isinstance(part, Opaque) or (isinstance(part, Text) and "citations" in part.extra)
