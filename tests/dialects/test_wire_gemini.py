"""Recorded traffic of the Gemini API and of Vertex AI: read here a second time, by other means.

The readings below are the plainest there are: a JSON library, the names of the fields, nothing of
the package. What the dialect makes of the bytes must say the same.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson
import pytest
from attrs import asdict, evolve, frozen

from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.errors import (
    AuthenticationFailed,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    PermissionDenied,
    RateLimited,
    StreamBroken,
)
from llmpipe.types import Audio, Completion, Event, Finish, Image, Opaque, Request, fold, unfold
from tests.dialects.recordings import Exchange, bytes_of, exchanges

DIALECT = GeminiGenerate()
BLOCKED = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    3,
}
MAX_EVERY_BYTE = 6_000


def is_generate(exchange: Exchange) -> bool:
    return exchange["api"] in ("gemini.generate", "gemini.stream", "vertex.generate", "vertex.stream")


REPLIES = exchanges(lambda x: is_generate(x) and x["status"] == 200 and "response" in x)
STREAMS = exchanges(
    lambda x: is_generate(x) and x["status"] == 200 and x.get("framing") in ("sse", "json-array")
)
GOOGLE = ("gemini.", "vertex.")
NOT_OURS = ("gemini.openai_chat", "vertex.anthropic", "gemini.interactions")
ERRORS = exchanges(lambda x: x["api"].startswith(GOOGLE) and x["api"] not in NOT_OURS and x["status"] != 200)
REQUESTS = exchanges(lambda x: is_generate(x) and isinstance(x["request"], dict) and x["status"] == 200)
COUNTS = exchanges(lambda x: x["api"] in ("gemini.count_tokens", "vertex.count_tokens"))
EMBEDDINGS = exchanges(
    lambda x: (
        x["api"] in ("gemini.embed_batch", "gemini.embed", "vertex.embed", "vertex.predict")
        and x["status"] == 200
    )
)
LISTS = exchanges(lambda x: x["api"] in ("gemini.models", "vertex.models") and x["status"] == 200)


# -- an independent reading


@frozen
class Reading:
    """What a reply says, by the names of its fields."""

    text: str
    reasoning: str
    calls: list[tuple[str | None, str, dict[str, Any]]]
    signatures: list[str]
    opaque: list[dict[str, Any]]
    media: list[str]
    finish: str
    usage: tuple[int, int, int, int] | None


def usage_of(wire: dict[str, Any] | None) -> tuple[int, int, int, int] | None:
    """Input, output, reasoning and cached tokens, reasoning inside output."""
    if not wire or "promptTokenCount" not in wire:
        return None
    given = wire["promptTokenCount"] + wire.get("toolUsePromptTokenCount", 0)
    thought = wire.get("thoughtsTokenCount", 0)
    made = wire.get("candidatesTokenCount", 0) + thought
    return given, made, thought, wire.get("cachedContentTokenCount", 0)


def read_chunks(chunks: list[dict[str, Any]]) -> Reading:
    text = reasoning = ""
    calls, signatures, opaque, media = [], [], [], []
    word: Any = None
    usage = None
    for chunk in chunks:
        usage = usage_of(chunk.get("usageMetadata")) or usage
        candidate = next((one for one in chunk.get("candidates", []) if not one.get("index")), {})
        word = candidate.get("finishReason") or word
        for part in candidate.get("content", {}).get("parts", []):
            if "executableCode" in part or "codeExecutionResult" in part:
                opaque.append(part)
                continue
            if "thoughtSignature" in part:
                signatures.append(part["thoughtSignature"])
            if part.get("thought"):
                reasoning += part["text"]
            elif "text" in part:
                text += part["text"]
            elif "functionCall" in part:
                call = part["functionCall"]
                calls.append((call.get("id"), call["name"], call.get("args", {})))
            elif "inlineData" in part:
                media.append(part["inlineData"]["data"])
    finish = "content_filter" if word in BLOCKED else {"MAX_TOKENS": "length", 2: "length"}.get(word, "error")
    if word in (None, "STOP", 1):
        finish = "tool_calls" if calls else "stop"
    return Reading(text, reasoning, calls, signatures, opaque, media, finish, usage)


def chunks_of(body: str) -> list[dict[str, Any]]:
    if body.lstrip().startswith("["):
        found: list[dict[str, Any]] = json.loads(body)
        return found
    lines = body.replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def check(done: Completion, reading: Reading) -> None:
    assert done.text == reading.text
    assert done.reasoning == reading.reasoning
    assert [(c.name, json.loads(c.arguments)) for c in done.tool_calls] == [c[1:] for c in reading.calls]
    ids = [call.id for call in done.tool_calls]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    for call, (call_id, _, _) in zip(done.tool_calls, reading.calls, strict=True):
        assert call_id in (None, call.id)
    parts = done.message.parts
    assert [p.signature for p in parts if getattr(p, "signature", None)] == reading.signatures
    assert [dict(p.data) for p in parts if isinstance(p, Opaque)] == reading.opaque
    assert [p.data for p in parts if isinstance(p, (Image, Audio))] == reading.media
    assert done.finish_reason == reading.finish
    usage = done.usage
    told = usage and (
        usage.input_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        usage.cached_input_tokens,
    )
    assert told == reading.usage
    assert done.message.dialect == "gemini.generate"


def leaves(value: Any) -> set[str]:
    """Every string in a JSON value that is long enough to be known again."""
    if isinstance(value, dict):
        return set().union(*map(leaves, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(leaves, value), set())
    return {value} if isinstance(value, str) and len(value) > 6 else set()


def strings_of(done: Completion) -> str:
    return json.dumps(asdict(done), ensure_ascii=False) + "".join(c.arguments for c in done.tool_calls)


# -- full replies


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_says_what_its_json_says(exchange):
    body = exchange["response"]
    done = DIALECT.decode_reply(body, exchange["response_headers"])
    check(done, read_chunks([body]))
    assert (done.id, done.model) == (body.get("responseId", ""), body.get("modelVersion", ""))
    if "usageMetadata" in body:
        assert done.usage is not None
        assert done.usage.total_tokens == body["usageMetadata"]["totalTokenCount"]


@pytest.mark.parametrize("exchange", REPLIES)
def test_nothing_of_a_reply_is_lost(exchange):
    body = dict(exchange["response"])
    done = DIALECT.decode_reply(body, {})
    assert (done.created is None) == (body.pop("createTime", None) is None)
    found = leaves(asdict(done)) | leaves([json.loads(call.arguments) for call in done.tool_calls])
    assert leaves(body) - {"MAX_TOKENS"} <= found


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_reply_goes_on_to_our_own_callers_as_google_would_have_sent_it(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    sent = json.loads(json.dumps(DIALECT.encode_reply(done)))
    check(done, read_chunks([sent]))
    assert DIALECT.decode_reply(sent, {}) == done
    stream = through_the_encoder(unfold(done), done)
    check(done, read_chunks(chunks_of(stream)))


def through_the_encoder(events: Iterable[Event], done: Completion) -> str:
    encoder = DIALECT.encoder(Request("m", stream=True))
    return (b"".join(map(encoder.feed, events)) + encoder.close()).decode()


@pytest.mark.parametrize("exchange", REPLIES)
def test_a_full_reply_is_the_same_when_it_is_streamed(exchange):
    done = DIALECT.decode_reply(exchange["response"], {})
    assert fold(unfold(done)) == done
    events, error = decode([through_the_encoder(unfold(done), done).encode()])
    assert error == ""
    assert fold(events) == done


# -- streams


def decode(pieces: Iterable[bytes], content_type: str = "text/event-stream") -> tuple[list[Event], str]:
    """All events, and the error after them."""
    decoder, events = DIALECT.decoder(content_type), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


def kind_of(exchange: Exchange) -> str:
    return "application/json; charset=UTF-8" if exchange["framing"] == "json-array" else "text/event-stream"


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_says_what_its_chunks_say(exchange):
    events, error = decode([exchange["body"].encode()], kind_of(exchange))
    assert error == ""
    done = fold(events)
    chunks = chunks_of(exchange["body"])
    check(done, read_chunks(chunks))
    assert (done.id, done.model) == (chunks[0]["responseId"], chunks[0]["modelVersion"])


@pytest.mark.parametrize("exchange", STREAMS)
def test_nothing_of_a_stream_is_lost_but_what_a_later_chunk_says_anew(exchange):
    events, _ = decode([exchange["body"].encode()], kind_of(exchange))
    done = fold(events)
    said = strings_of(done)
    for chunk in chunks_of(exchange["body"]):
        candidates = chunk.get("candidates", [])
        for text in leaves(candidates) - {"MAX_TOKENS"}:
            assert json.dumps(text, ensure_ascii=False)[1:-1] in said


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_goes_on_to_our_own_callers_and_says_the_same_there(exchange):
    events, _ = decode([exchange["body"].encode()], kind_of(exchange))
    done = fold(events)
    again = through_the_encoder(events, done)
    check(done, read_chunks(chunks_of(again)))
    assert fold(decode([again.encode()])[0]) == done
    whole = DIALECT.decode_reply(json.loads(json.dumps(DIALECT.encode_reply(done))), {})
    assert whole == done


@pytest.mark.parametrize("exchange", STREAMS)
def test_however_a_stream_arrives_its_events_are_the_same(exchange):
    body, kind = exchange["body"].encode(), kind_of(exchange)
    expected = decode([body], kind)
    assert decode((body[i : i + 1] for i in range(len(body))), kind) == expected
    if exchange.get("reads"):
        ends = [sum(exchange["reads"][: i + 1]) for i in range(len(exchange["reads"]))]
        assert decode((body[a:b] for a, b in pairwise([0, *ends])), kind) == expected
    stride = 101 if len(body) <= MAX_EVERY_BYTE else 2003
    for offset in range(1, stride, 1 if stride == 101 else 97):
        borders = [0, *range(offset, len(body), stride), len(body)]
        assert decode((body[a:b] for a, b in pairwise(borders)), kind) == expected


@pytest.mark.parametrize("exchange", STREAMS)
def test_a_stream_cut_before_its_end_is_never_a_success(exchange):
    body, kind = exchange["body"].encode(), kind_of(exchange)
    end = len(body.rstrip())  # an event whose line end is all that is missing is whole
    if kind == "text/event-stream":
        finish = max(found.start() for found in re.finditer(rb'"finishReason"', body))
        end = min(end, finish + body[finish:].find(b"\n")) if b"\n" in body[finish:] else end
        end -= body[end - 1 : end] == b"\r"
    decoder, last = DIALECT.decoder(kind), list[Event]()
    step = 1 if len(body) <= MAX_EVERY_BYTE else 29
    for cut in range(end):
        if cut % step == 0 or cut > end - 200:
            with pytest.raises(StreamBroken) as caught:
                copy.deepcopy(decoder).close()
            assert (caught.value.billed, caught.value.phase) == ("unknown", "stream")
        last = decoder.feed(body[cut : cut + 1])
    last += decoder.feed(body[end:]) + decoder.close()
    assert any(isinstance(event, Finish) for event in last)


# -- errors


@pytest.mark.parametrize("exchange", ERRORS)
def test_an_error_is_what_its_status_and_details_say(exchange):
    status = exchange["status"]
    error = DIALECT.decode_error(status, exchange["response_headers"], bytes_of(exchange))
    told = exchange["response"]["error"]
    reasons = [detail.get("reason") for detail in told.get("details", [])]
    kinds: dict[int, type[LLMError]] = {
        400: InvalidRequest,
        401: AuthenticationFailed,
        403: PermissionDenied,
        404: ModelNotFound,
        429: RateLimited,
    }
    assert type(error) is (AuthenticationFailed if "API_KEY_INVALID" in reasons else kinds[status])
    assert error.status == status
    assert error.code in (told["status"], *reasons)
    assert error.message.split()[:5] == told["message"].split()[:5]
    delays = [detail["retryDelay"] for detail in told.get("details", []) if "retryDelay" in detail]
    assert error.retry_after == (float(delays[0].rstrip("s")) if delays else None)


# -- requests

SNAKE = re.compile("_([a-z])")
TYPES = ("", "string", "number", "integer", "boolean", "array", "object")


def camel(name: str) -> str:
    return SNAKE.sub(lambda found: found[1].upper(), name)


def schema_of(value: Any) -> Any:
    """JSON Schema of Google's: types in lower case, and names in camel case."""
    if isinstance(value, dict):
        found = {camel(name): schema_of(inner) for name, inner in value.items()}
        kind = found.get("type")
        if isinstance(kind, (str, int)):
            found["type"] = kind.lower() if isinstance(kind, str) else TYPES[kind]
        if "properties" in value:
            found["properties"] = {name: schema_of(one) for name, one in value["properties"].items()}
        return found
    return [schema_of(one) for one in value] if isinstance(value, list) else value


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """A request as it looks after it went through us, for the differences that mean nothing."""
    wire = {camel(name): value for name, value in copy.deepcopy(body).items()}
    wire.pop("model", None)
    contents = []
    ids: dict[str, list[str | None]] = {}
    for content in wire["contents"]:
        parts = [part_of(part, ids) for part in content["parts"]]
        role = content.get("role", "user")
        contents.append({"role": "user" if role == "function" else role, "parts": parts})
    wire["contents"] = contents
    if "systemInstruction" in wire:
        wire["systemInstruction"] = {"parts": wire["systemInstruction"]["parts"]}
    if "tools" in wire:
        wire["tools"] = tools_of(wire["tools"])
    config = {camel(name): value for name, value in wire.pop("generationConfig", {}).items()}
    config = {name: value for name, value in config.items() if value is not None}
    if schema := config.pop("responseSchema", None):
        config["responseJsonSchema"] = schema_of(schema)
    if "thinkingConfig" in config:
        config["thinkingConfig"] = {camel(name): value for name, value in config["thinkingConfig"].items()}
        if level := config["thinkingConfig"].get("thinkingLevel"):
            config["thinkingConfig"]["thinkingLevel"] = level.upper()
    if config:
        wire["generationConfig"] = config
    return {name: value for name, value in wire.items() if value not in ([], None)}


def part_of(part: dict[str, Any], ids: dict[str, list[str | None]]) -> dict[str, Any]:
    part = {camel(name): value for name, value in part.items()}
    for name in ("inlineData", "fileData"):
        if name in part:
            part[name] = {camel(key): value for key, value in part[name].items()}
    if call := part.get("functionCall"):
        part["functionCall"] = {"args": {}, **call}
        ids.setdefault(call["name"], []).append(call.get("id"))
    if response := part.get("functionResponse"):
        call_id = ids[response["name"]].pop(0)
        if call_id is not None:
            part["functionResponse"] = {"id": call_id, **response}
    return part


def tools_of(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tool in tools:
        for name, value in tool.items():
            if camel(name) != "functionDeclarations":
                found.append({camel(name): value})
                continue
            if not found or "functionDeclarations" not in found[-1]:
                found.append({"functionDeclarations": []})
            found[-1]["functionDeclarations"] += [function_of(one) for one in value]
    return found


def function_of(function: dict[str, Any]) -> dict[str, Any]:
    function = {camel(name): value for name, value in function.items() if value is not None}
    schema = function.pop("parameters", None)
    function.setdefault(
        "parametersJsonSchema", schema_of(schema) if schema else {"type": "object", "properties": {}}
    )
    return {"description": "", **function}


@pytest.mark.parametrize("exchange", REQUESTS)
def test_a_request_goes_on_as_it_came(exchange):
    request = DIALECT.decode_request(exchange["request"])
    assert request.dialect == "gemini.generate"
    again = DIALECT.encode_request(request)
    assert again == normal(exchange["request"])
    assert DIALECT.decode_request(orjson.loads(orjson.dumps(again))) == evolve(request, model="")


def test_a_role_that_google_refuses_is_refused_here():
    found = exchanges(lambda x: is_generate(x) and "invalid-role" in x["name"])
    if not found:
        pytest.skip("no recording of it here")
    (exchange,) = found[0].values
    with pytest.raises(InvalidRequest, match=r"contents\[0\].role"):
        DIALECT.decode_request(exchange["request"])


# -- the other calls


@pytest.mark.parametrize("exchange", COUNTS)
def test_tokens_are_counted(exchange):
    if exchange["status"] != 200:
        return
    assert DIALECT.decode_count(exchange["response"]) == exchange["response"]["totalTokens"]
    vertex = GeminiGenerate(count_whole=exchange["api"].startswith("gemini."))
    request = DIALECT.decode_count_request(exchange["request"])
    sent = vertex.encode_count_request(evolve(request, model="gemini-x"))
    expected = {name: value for name, value in normal(exchange["request"]).items() if value != {}}
    if exchange["api"].startswith("gemini."):
        expected = {"generateContentRequest": {"model": "models/gemini-x", **expected}}
    assert sent == expected


@pytest.mark.parametrize("exchange", EMBEDDINGS)
def test_vectors_are_read_and_given_on(exchange):
    body = exchange["response"]
    found = DIALECT.decode_embeddings(body, {})
    if "predictions" in body:
        expected = [one["embeddings"]["values"] for one in body["predictions"]]
        tokens = sum(one["embeddings"]["statistics"]["token_count"] for one in body["predictions"])
    else:
        items = body["embeddings"] if "embeddings" in body else [body["embedding"]]
        expected, tokens = [one["values"] for one in items], body["usageMetadata"]["promptTokenCount"]
    assert list(found.vectors) == expected
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (tokens, 0)


@pytest.mark.parametrize("exchange", EMBEDDINGS)
def test_a_request_for_vectors_goes_on_as_it_came(exchange):
    if "inline_data" in json.dumps(exchange["request"]):
        with pytest.raises(InvalidRequest, match="only text"):
            DIALECT.decode_embedding_request(exchange["request"])
        return
    request = DIALECT.decode_embedding_request(exchange["request"])
    api = request.extra.get("type", "batchEmbedContents")
    assert GeminiGenerate(embeddings_api=api).encode_embedding_request(request) == exchange["request"]
    body = DIALECT.encode_embeddings(DIALECT.decode_embeddings(exchange["response"], {}), request)
    assert body.keys() == exchange["response"].keys() - {"metadata"}


@pytest.mark.parametrize("exchange", LISTS)
def test_models_are_listed_and_given_on(exchange):
    body = exchange["response"]
    models = DIALECT.decode_models(body)
    assert [f"models/{model.id}" for model in models] == [one["name"] for one in body["models"]]
    assert [model.context_tokens for model in models] == [one["inputTokenLimit"] for one in body["models"]]
    again = [{"displayName": one["name"][7:], **one} for one in body["models"]]
    assert DIALECT.encode_models(models)["models"] == again
    assert DIALECT.decode_models(DIALECT.encode_models(models)) == tuple(
        evolve(model, extra={"displayName": model.id, **model.extra}) for model in models
    )
