"""What holds for every request and reply that Google's wire can say, and for every one that it cannot."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from functools import cache
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.errors import InvalidRequest, LLMError
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    EmbeddingRequest,
    Event,
    Finish,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    fold,
    unfold,
)
from tests.dialects.recordings import HERE, WIRE, Exchange, _load, bytes_of
from tests.dialects.strategies import (
    base64,
    cuts,
    json_objects,
    maybe,
    names,
    some_json_objects,
    usages,
    words,
)
from tests.dialects.test_mutations import mutated

NAME = "gemini.generate"
DIALECT = GeminiGenerate()

# -- requests that the wire can say

ids = names.map(lambda name: f"id_{name}")
media: st.SearchStrategy[Part] = st.one_of(
    st.builds(lambda data: Image(data=data, media_type="image/png"), base64),
    st.builds(lambda url: Image(url=f"https://{url}", media_type="image/webp"), names),
    st.builds(lambda data: Document(data=data, media_type="application/pdf"), base64),
    st.builds(lambda url: Document(url=f"gs://{url}/x.mp4", media_type="video/mp4"), names),
    st.builds(Audio, base64, st.sampled_from(["wav", "mp3", "flac", "l16"])),
)
texts = st.builds(Text, words, st.sampled_from([{}, {"videoMetadata": {"fps": 2}}]))
code = names.map(lambda text: Opaque(NAME, {"executableCode": {"language": "PYTHON", "code": text}}))
calls = st.builds(
    lambda name, args, extra: ToolCall("", name, orjson.dumps(args).decode(), extra),
    names,
    json_objects,
    st.sampled_from([{}, {"functionCall": {"note": "n"}}]),
)
signed = base64.map(lambda proof: Reasoning("", proof, origin=NAME))
thoughts = st.one_of(
    st.builds(Reasoning, words),
    st.builds(lambda text, proof: Reasoning(text, proof, origin=NAME), words, base64),
)


@st.composite
def model_parts(draw: st.DrawFn) -> list[Part]:
    """A turn of the model, every part of which may be signed; never two texts or thoughts in a row."""
    parts: list[Part] = []
    kinds = draw(st.lists(st.sampled_from(["thought", "text", "call", "code", "image"]), max_size=5))
    for place, kind in enumerate(kinds):
        if kind in ("thought", "text") and place and kinds[place - 1] == kind:
            continue
        if kind == "thought":
            parts.append(draw(thoughts))
            continue
        if kind != "code" and draw(st.booleans()):
            parts.append(draw(signed))
        if kind == "call":
            parts.append(evolve(draw(calls), id=f"call-{place}"))
        else:
            image = base64.map(lambda data: Image(data=data, media_type="image/png"))
            parts.append(draw({"text": st.builds(Text, words), "code": code, "image": image}[kind]))
    if draw(st.booleans()):
        parts.append(Reasoning("", draw(base64), extra={"field": "text"}, origin=NAME))
    return parts


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns in the order in which Gemini wants them: calls are followed by their results."""
    user = st.builds(lambda parts: Message("user", parts), st.lists(texts | media, min_size=1, max_size=3))
    found: list[Message] = []
    if draw(st.booleans()):
        found.append(Message("system", [Text(draw(words))]))
    found.append(draw(user))
    for turn in range(draw(st.integers(0, 2))):
        parts = draw(model_parts())
        if not parts:
            continue
        parts = [evolve(one, id=f"{turn}-{one.id}") if isinstance(one, ToolCall) else one for one in parts]
        found.append(Message("assistant", parts))
        for call in (part for part in parts if isinstance(part, ToolCall)):
            said = draw(st.one_of(words, some_json_objects.map(lambda value: orjson.dumps(value).decode())))
            is_error = not said.startswith("{") and draw(st.booleans())
            content: list[Part] = [Text(said), *draw(st.lists(media, max_size=1))]
            found.append(Message("tool", [ToolResult(call.id, content, is_error, call.name)]))
        found.append(draw(user))
    return found


schemas = st.sampled_from(
    [
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
        {"type": "object", "properties": {}, "additionalProperties": False},
        {
            "type": "array",
            "items": {"anyOf": [{"type": "integer"}, {"$ref": "#/$defs/x"}]},
            "$defs": {"x": {}},
        },
    ]
)
tools = st.one_of(
    st.builds(Tool, names, st.text(max_size=5), schemas),
    st.just(Tool("googleSearch", extra={"googleSearch": {}})),
    st.just(Tool("codeExecution", extra={"codeExecution": {}})),
)
requests = st.builds(
    Request,
    messages=conversations(),
    tools=st.lists(tools, max_size=3),
    tool_choice=st.none() | st.sampled_from(["auto", "none", "required"]) | st.builds(NamedTool, names),
    temperature=maybe(st.floats(0, 2)),
    top_p=maybe(st.floats(0, 1)),
    max_tokens=maybe(st.integers(1, 10_000)),
    stop=st.lists(words, max_size=2),
    seed=maybe(st.integers(0, 2**31)),
    presence_penalty=maybe(st.floats(-2, 2)),
    frequency_penalty=maybe(st.floats(-2, 2)),
    response_format=st.none()
    | st.sampled_from([ResponseFormat("text"), ResponseFormat("json")])
    | st.builds(lambda schema: ResponseFormat("json_schema", schema), schemas),
    reasoning=st.sampled_from(
        [
            None,
            ReasoningOptions("low"),
            ReasoningOptions("high", extra={"includeThoughts": True}),
            ReasoningOptions(max_tokens=128),
            ReasoningOptions(enabled=False),
            ReasoningOptions(enabled=True),
        ]
    ),
    extra=st.fixed_dictionaries(
        {},
        optional={
            "safetySettings": st.just([{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]),
            "cachedContent": st.just("cachedContents/x"),
            "topK": st.integers(1, 40),
            "candidateCount": st.integers(1, 4),
            "responseModalities": st.just(["TEXT", "IMAGE"]),
            "generationConfig": st.just({"aFieldOfTomorrow": 1}),
            "toolConfig": st.just({"includeServerSideToolInvocations": True}),
        },
    ),
    dialect=st.just(NAME),
)


@given(requests)
@settings(max_examples=150)
def test_a_request_comes_back_as_it_went(request: Request) -> None:
    body = orjson.loads(orjson.dumps(DIALECT.encode_request(request)))
    assert DIALECT.decode_request(body) == request
    assert DIALECT.encode_request(DIALECT.decode_request(body)) == body


# -- replies that the wire can say

endings: st.SearchStrategy[tuple[Any, dict[str, Any]]] = st.sampled_from(
    [
        ("stop", {}),
        ("length", {}),
        ("content_filter", {}),
        ("content_filter", {"finishReason": "RECITATION", "finishMessage": "as in a book"}),
        ("error", {"finishReason": "MALFORMED_FUNCTION_CALL"}),
        ("error", {}),
    ]
)
reply_extra = st.fixed_dictionaries(
    {},
    optional={
        "safetyRatings": st.just([{"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW"}]),
        "groundingMetadata": st.just({"webSearchQueries": ["x"], "groundingChunks": [{"web": {"uri": "u"}}]}),
        "candidate": st.just({"aFieldOfTomorrow": [1]}),
        "candidates": st.just(
            [{"content": {"parts": [{"text": "b"}], "role": "model"}, "finishReason": "STOP", "index": 1}]
        ),
        "promptFeedback": st.just({"safetyRatings": []}),
        "modelStatus": json_objects,
    },
)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    reason, extra = draw(endings)
    parts = draw(model_parts())
    if reason == "stop" and any(isinstance(part, ToolCall) for part in parts):
        reason = "tool_calls"
    usage = draw(usages(extra=st.sampled_from([{}, {"trafficType": "ON_DEMAND"}])))
    return Completion(
        id=draw(names),
        model=draw(names),
        message=Message("assistant", parts, extra=draw(st.sampled_from([{}, {"aFieldOfTomorrow": 2}]))),
        finish_reason=reason,
        usage=evolve(usage, cache_write_tokens=0),
        created=draw(maybe(st.integers(1, 4_000_000_000).map(float))),
        extra={**extra, **draw(reply_extra)},
    )


@given(completions())
@settings(max_examples=150)
def test_a_reply_comes_back_as_it_went(completion: Completion) -> None:
    body = orjson.loads(orjson.dumps(DIALECT.encode_reply(completion)))
    assert DIALECT.decode_reply(body, {}) == completion


@given(completions(), st.data())
@settings(max_examples=150)
def test_a_stream_comes_back_as_it_went_however_it_is_cut(
    completion: Completion, data: st.DataObject
) -> None:
    encoder, decoder = DIALECT.encoder(Request("m")), DIALECT.decoder()
    wire = b"".join(map(encoder.feed, unfold(completion))) + encoder.close()
    events: list[Event] = []
    for piece in data.draw(cuts(wire)):
        events += decoder.feed(piece)
    events += decoder.close()
    assert fold(events) == completion
    chunks = [orjson.loads(line[6:]) for line in wire.split(b"\n") if line]
    array = b"[" + b",\n".join(map(orjson.dumps, chunks)) + b"\n]"
    decoder, again = DIALECT.decoder("application/json"), []
    for piece in data.draw(cuts(array)):
        again += decoder.feed(piece)
    assert decoder.finished
    assert again + decoder.close() == events


@given(
    st.builds(
        EmbeddingRequest,
        model=names,
        inputs=st.lists(words, min_size=1, max_size=3),
        dimensions=maybe(st.integers(1, 3072)),
        extra=st.sampled_from([{}, {"taskType": "FACT_VERIFICATION"}, {"title": "t"}]),
        dialect=st.just(NAME),
    ),
    st.sampled_from(["query", "document", "classification", "clustering", None]),
    st.sampled_from(["batchEmbedContents", "predict", "embedContent"]),
)
def test_a_request_for_vectors_comes_back_as_it_went(request: EmbeddingRequest, kind: Any, api: Any) -> None:
    if kind is not None:
        request = evolve(request, input_type=kind, extra={})
    if api == "embedContent":
        request = evolve(request, inputs=request.inputs[:1])
    body = orjson.loads(orjson.dumps(GeminiGenerate(embeddings_api=api).encode_embedding_request(request)))
    expected = request
    if api != "batchEmbedContents":  # the model is in the address there
        expected = evolve(request, model="", extra={**request.extra, "type": api})
    assert DIALECT.decode_embedding_request(body) == expected


# -- what nobody should send, and somebody will

seeds = st.integers(0, 2**32)


@cache
def recorded(kind: str) -> list[Exchange]:
    apis = ("gemini.generate", "gemini.stream", "vertex.generate", "vertex.stream")
    found = [x for folder in (HERE, WIRE) for x in _load(folder) if x["api"] in apis]
    found = [x for x in found if len(orjson.dumps(x)) < 20_000]
    if kind == "error":
        return [x for x in found if x["status"] != 200]
    if kind == "request":
        return [x for x in found if isinstance(x["request"], dict) and x["status"] == 200]
    return [x for x in found if x["status"] == 200 and (("body" in x) == (kind == "stream"))]


def pick(kind: str, chance: random.Random) -> Exchange:
    found = recorded(kind)
    if not found:
        pytest.skip("no recordings here")
    return chance.choice(found)


def goes_on(done: Completion) -> None:
    """A completion of whatever came can be sent on, whole and streamed."""
    orjson.dumps(DIALECT.encode_reply(done))
    encoder = DIALECT.encoder(Request("m"))
    assert b"".join(map(encoder.feed, unfold(done))) + encoder.close()


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_a_changed_reply_is_a_completion_or_one_error(seed: int) -> None:
    chance = random.Random(seed)
    body = mutated(pick("reply", chance)["response"], chance)
    if not isinstance(body, dict):
        return
    with suppress(LLMError):
        goes_on(DIALECT.decode_reply(body, {}))


@given(seeds)
@settings(max_examples=150, deadline=None)
def test_a_changed_stream_is_a_completion_or_one_error_however_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    exchange = pick("stream", chance)
    text = exchange["body"].replace("\r\n", "\n")
    chunks = (
        orjson.loads(text)
        if exchange["framing"] == "json-array"
        else [orjson.loads(line[5:]) for line in text.split("\n") if line.startswith("data:")]
    )
    changed = [mutated(chunk, chance) if chance.random() < 0.5 else chunk for chunk in chunks]
    for kind, body in (
        ("text/event-stream", b"".join(b"data: %s\r\n\r\n" % orjson.dumps(chunk) for chunk in changed)),
        ("application/json", orjson.dumps(changed)),
    ):
        whole, size = read([body], kind), chance.randint(1, 50)
        assert read([body[i : i + size] for i in range(0, len(body), size)], kind) == whole
        events, error = whole
        assert (error == "") == any(isinstance(event, Finish) for event in events)
        if not error:
            goes_on(fold(events))


def read(pieces: list[bytes], kind: str) -> tuple[list[Event], str]:
    decoder, events = DIALECT.decoder(kind), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


@given(seeds)
@settings(max_examples=200, deadline=None)
def test_a_changed_request_is_a_request_or_an_error_that_names_the_field(seed: int) -> None:
    chance = random.Random(seed)
    body = mutated(copy.deepcopy(pick("request", chance)["request"]), chance)
    problem: LLMError | None = None
    try:
        orjson.dumps(DIALECT.encode_request(DIALECT.decode_request(body)))
    except InvalidRequest as error:
        problem = error
    assert problem is None or (problem.metadata["param"] and not problem.sent)


@given(seeds, st.sampled_from([200, 400, 401, 403, 404, 429, 499, 500, 503]))
@settings(max_examples=150, deadline=None)
def test_a_changed_error_is_still_one(seed: int, status: int) -> None:
    chance = random.Random(seed)
    wire = mutated(orjson.loads(bytes_of(pick("error", chance))), chance)
    error = DIALECT.decode_error(status, {}, orjson.dumps(wire))
    assert isinstance(error, LLMError)
    body = DIALECT.encode_error(error)[2]
    orjson.dumps(body)
