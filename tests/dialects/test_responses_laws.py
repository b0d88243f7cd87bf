"""What goes out of the dialect and comes back in is the same, whatever it is."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import InvalidRequest, LLMError
from llmpipe.types import (
    Completion,
    Document,
    Finish,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    ToolCall,
    Usage,
    fold,
    unfold,
)
from tests.dialects.recordings import HERE, WIRE, Exchange, _load, bytes_of
from tests.dialects.strategies import (
    Wire,
    base64,
    completions,
    cuts,
    json_objects,
    json_values,
    maybe,
    names,
    requests,
    texts,
    usages,
    words,
)
from tests.dialects.test_mutations import mutated, mutated_stream, outcome

DIALECT = OpenAIResponses()
NAME = DIALECT.name

ids = st.text("0123456789abcdef", min_size=4, max_size=8)
marks: Any = st.fixed_dictionaries({}, optional={"phase": st.sampled_from(("commentary", "final_answer"))})


def marked(prefix: str, **more: Any) -> st.SearchStrategy[dict[str, Any]]:
    """The mark of an item with an id."""
    found: Any = st.builds(lambda one, mark: {"id": f"{prefix}_{one}", **mark}, ids, marks)
    return found.map(lambda mark: {"item": {**mark, **more}})


@st.composite
def thought(draw: st.DrawFn) -> Reasoning:
    """Reasoning as it comes: a summary in parts, or open thoughts, or a proof alone."""
    pieces = draw(st.lists(words, max_size=3))
    mark: dict[str, Any] = {"id": f"rs_{draw(ids)}"}
    if pieces and draw(st.booleans()):
        mark["kind"] = "content"
    if len(pieces) > 1:
        mark["sizes"] = [len(piece) for piece in pieces]
    proof = draw(maybe(words))
    return Reasoning("\n\n".join(pieces), None, proof, {"item": mark}, NAME if proof else "")


unknown_items = st.builds(
    lambda one, more: Opaque(NAME, {**more, "type": "web_search_call", "id": f"ws_{one}"}), ids, json_objects
)
calls_extra: Any = st.one_of(
    marked("fc"), st.builds(lambda mark: {**mark, "type": "custom"}, marked("ctc", namespace="n"))
)
notes = st.fixed_dictionaries(
    {"type": st.just("url_citation"), "url": words, "start_index": st.integers(0, 9)}
)


def distinct(parts: list[Part]) -> bool:
    """Whether items can be told apart: by ids, which nobody gives twice."""
    found = [part.extra["item"]["id"] for part in parts if "item" in getattr(part, "extra", {})]
    opaque = [part.data["id"] for part in parts if isinstance(part, Opaque)]
    return len(set(found)) == len(found) and len(set(opaque)) == len(opaque)


formats = st.one_of(
    st.none(),
    st.builds(ResponseFormat, st.just("text")),
    st.builds(ResponseFormat, st.just("json")),
    st.builds(
        ResponseFormat, st.just("json_schema"), json_objects, names, maybe(st.booleans()), maybe(words)
    ),
)
images = st.one_of(
    st.builds(lambda url, detail: Image(url=f"https://{url}", detail=detail), names, maybe(words)),
    st.builds(lambda data: Image(data=data, media_type="image/png"), base64),
    st.builds(lambda one: Image(extra={"file_id": f"file-{one}"}), ids),
)
documents = st.one_of(
    st.builds(lambda data, name: Document(data=data, media_type="application/pdf", name=name), base64, words),
    st.builds(lambda one: Document(file_id=f"file-{one}"), ids),
    st.builds(lambda url, name: Document(url=f"https://{url}", name=name), names, maybe(words)),
)
ASKED = Wire(
    user_parts=images | documents,
    result_parts=images | documents,
    thoughts=st.lists(thought(), max_size=1),
    call_extra=calls_extra,
    has_refusals=True,
    choices=st.none() | st.sampled_from(("auto", "none", "required")) | st.builds(NamedTool, names),
    formats=formats,
    options={
        "temperature": maybe(st.floats(0, 2)),
        "top_p": maybe(st.floats(0, 1)),
        "max_tokens": maybe(st.integers(1, 10**6)),
        "parallel_tool_calls": maybe(st.booleans()),
        "reasoning": maybe(
            st.builds(
                ReasoningOptions,
                st.sampled_from(("none", "low", "xhigh")),
                extra=st.fixed_dictionaries({}, optional={"summary": st.just("auto")}),
            )
        ),
        "metadata": st.dictionaries(names, words, max_size=2),
        "extra": st.fixed_dictionaries(
            {},
            optional={
                "store": st.booleans(),
                "previous_response_id": words,
                "include": st.just(["reasoning.encrypted_content"]),
                "text": st.just({"verbosity": "low"}),
            },
        ),
    },
)
made: st.SearchStrategy[list[Part]] = st.lists(
    st.one_of(
        thought(),
        unknown_items,
        st.builds(
            lambda text, mark, found: Text(text, {**({"annotations": found} if found else {}), **mark}),
            texts,
            marked("msg"),
            st.lists(notes, max_size=2),
        ),
        st.builds(ToolCall, ids, names, texts, calls_extra),
    ),
    max_size=5,
).filter(distinct)
REPLY = Wire(
    user_parts=st.nothing(),
    result_parts=st.nothing(),
    usages=maybe(usages(extra=st.fixed_dictionaries({}, optional={"cost": st.floats(0, 1)}))),
    finish_reasons=st.sampled_from(("stop", "length", "content_filter")),
    reply_extra=st.fixed_dictionaries({}, optional={"service_tier": words, "text": json_objects}),
)


@st.composite
def replies(draw: st.DrawFn) -> Completion:
    """A reply the wire can say; why it stopped is told by what it made."""
    done = draw(completions(REPLY))
    parts = draw(made)
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assume(len({call.id for call in calls}) == len(calls))
    reason = "tool_calls" if calls and done.finish_reason == "stop" else done.finish_reason
    return evolve(done, message=Message("assistant", parts, dialect=NAME), finish_reason=reason)


def through_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def known(done: Completion) -> Completion:
    """Without what a reply has by default, where its writer did not say."""
    said = {name: value for name, value in done.extra.items() if name in ("service_tier", "text")}
    return evolve(done, extra={n: v for n, v in said.items() if v != {"format": {"type": "text"}}})


def stream(done: Completion) -> bytes:
    encoder = DIALECT.encoder(Request(model="asked"))
    return b"".join(map(encoder.feed, unfold(done))) + encoder.close()


def merged(request: Request) -> Request:
    """A request whose neighbouring assistant's messages are one, as this wire has only items."""
    messages: list[Message] = []
    for message in request.messages:
        last = messages[-1] if messages else None
        if message.role != "assistant" or last is None or last.role != "assistant":
            messages.append(message)
        else:
            messages[-1] = evolve(last, parts=(*last.parts, *message.parts))
    kept = [message for message in messages if message.parts]
    return evolve(request, messages=[evolve(message, dialect=NAME) for message in kept], dialect=NAME)


def items(body: dict[str, Any]) -> list[str]:
    return [item.get("type", "message") for item in body["input"]]


@settings(max_examples=150, deadline=None)
@given(requests(ASKED))
def test_a_request_survives_the_wire(request):
    request = merged(request)
    assume(request.messages)
    again = DIALECT.decode_request(through_json(DIALECT.encode_request(request)))
    if [m.role for m in again.messages] == [m.role for m in request.messages]:
        assert again == request
    assert [part for m in again.messages for part in m.parts] == [
        part for m in request.messages for part in m.parts
    ]
    assert evolve(again, messages=()) == evolve(request, messages=())


@settings(max_examples=150, deadline=None)
@given(requests(ASKED))
def test_encoding_a_decoded_request_gives_the_same_json(request):
    body = DIALECT.encode_request(evolve(request, dialect=NAME))
    assert DIALECT.encode_request(DIALECT.decode_request(through_json(body))) == body


@settings(max_examples=150, deadline=None)
@given(replies())
def test_a_reply_survives_the_wire(done):
    assert known(DIALECT.decode_reply(through_json(DIALECT.encode_reply(done)), {})) == known(done)


@settings(max_examples=150, deadline=None)
@given(replies(), st.data())
def test_a_streamed_reply_survives_the_wire_however_it_is_cut(done, data):
    body = stream(done)
    events, error = outcome([body], DIALECT.decoder())
    assert error is None
    assert known(fold(events)) == known(done)
    assert outcome(data.draw(cuts(body)), DIALECT.decoder()) == (events, None)


@settings(max_examples=100, deadline=None)
@given(replies())
def test_a_stream_through_the_server_and_the_client_stays_the_same_stream(done):
    """Events of a decoder, which come in small pieces, can be encoded again as they come."""
    events, _ = outcome([stream(done)], DIALECT.decoder())
    encoder = DIALECT.encoder(Request())
    again = b"".join(map(encoder.feed, events)) + encoder.close()
    assert known(fold(outcome([again], DIALECT.decoder())[0])) == known(done)


@settings(max_examples=100, deadline=None)
@given(replies())
def test_a_stream_ends_with_the_full_reply(done):
    last = orjson.loads(stream(done).rsplit(b"data: ", 1)[1])
    assert last["response"] == through_json(DIALECT.encode_reply(done))


@settings(max_examples=100, deadline=None)
@given(replies())
def test_every_item_of_a_stream_begins_in_order_and_ends(done):
    open_: dict[int, str] = {}
    parts: set[tuple[int, int]] = set()
    begun = 0
    for number, line in enumerate(stream(done).split(b"\ndata: ")[1:]):
        event = orjson.loads(line.split(b"\n")[0])
        assert event["sequence_number"] == number
        kind, at = event["type"], event.get("output_index", -1)
        place = at, event.get("content_index", event.get("summary_index", -1))
        if kind == "response.output_item.added":
            assert at == begun
            open_[at] = event["item"].get("id", "")
            begun += 1
        elif kind == "response.output_item.done":
            assert open_.pop(at) == event["item"].get("id", "")
            assert not [one for one in parts if one[0] == at]
        elif kind.endswith("_part.added"):
            parts.add(place)
        elif kind.endswith("_part.done"):
            parts.remove(place)
        elif at >= 0:
            assert open_[at] == event["item_id"]
            assert "arguments" in kind or "input" in kind or place in parts
    assert not open_
    assert not parts


@settings(max_examples=100, deadline=None)
@given(replies(), st.data())
def test_a_stream_cut_anywhere_is_broken(done, data):
    body = stream(done)
    end = body.rindex(b"\n\n")
    cut = data.draw(st.integers(0, end - 1))
    assert outcome([body[:cut]], DIALECT.decoder())[1] == "StreamBroken"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(("refusal", "text")), max_size=4), words)
def test_refusals_and_texts_share_a_message(kinds, text):
    parts = [Refusal(text) if kind == "refusal" else Text(text) for kind in kinds]
    done = Completion("r", "m", Message("assistant", parts), "stop", Usage(1, 2))
    full = DIALECT.encode_reply(done)
    assert len(full["output"]) == bool(parts)
    again = DIALECT.decode_reply(through_json(full), {})
    assert [type(part) for part in again.message.parts] == [type(part) for part in parts]
    assert orjson.loads(stream(done).rsplit(b"data: ", 1)[1])["response"] == through_json(full)


# -- what providers sent, changed at random

seeds = st.integers(0, 2**32)
APIS = (".responses", ".openai_responses")


@cache
def recorded() -> list[Exchange]:
    found = [one for folder in (HERE, WIRE) for one in _load(folder) if one["api"].endswith(APIS)]
    return [one for one in found if len(orjson.dumps(one)) < 40_000]


def pick(wanted: Any, chance: random.Random) -> Exchange:
    found = [one for one in recorded() if wanted(one)]
    if not found:
        pytest.skip("there are no such recordings here")
    return chance.choice(found)


@settings(max_examples=200, deadline=None)
@given(seed=seeds)
def test_a_changed_reply_is_a_completion_or_one_error(seed):
    chance = random.Random(seed)
    body = mutated(pick(lambda one: isinstance(one.get("response"), dict), chance)["response"], chance)
    before = orjson.dumps(body)
    try:
        done = DIALECT.decode_reply(body, {})
    except LLMError:
        return
    assert orjson.dumps(body) == before
    assert fold(unfold(done)).text == done.text
    orjson.dumps(DIALECT.encode_reply(done))
    assert stream(done)


@settings(max_examples=200, deadline=None)
@given(seed=seeds)
def test_a_changed_stream_is_a_completion_or_one_error_however_it_is_cut(seed):
    chance = random.Random(seed)
    body = mutated_stream(pick(lambda one: one.get("framing") == "sse", chance)["body"].encode(), chance)
    events, error = outcome([body], DIALECT.decoder())
    places = sorted(chance.sample(range(len(body) + 1), min(9, len(body))))
    pieces = [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]
    assert outcome(pieces, DIALECT.decoder()) == (events, error)
    if error is None:
        assert sum(type(event) is Finish for event in events) == 1
    encoder = DIALECT.encoder(Request())
    assert b"".join(map(encoder.feed, events)) + encoder.close()
    assert stream(fold(events))


@settings(max_examples=200, deadline=None)
@given(seed=seeds)
def test_a_changed_request_is_understood_or_the_field_is_named(seed):
    chance = random.Random(seed)
    body = mutated(pick(lambda one: isinstance(one.get("request"), dict), chance)["request"], chance)
    problem = None
    try:
        request = DIALECT.decode_request(body)
    except InvalidRequest as error:
        problem = error
    if problem is not None:
        assert problem.metadata["param"]
        assert problem.sent is False
        return
    orjson.dumps(DIALECT.encode_request(request))
    orjson.dumps(DIALECT.encode_request(evolve(request, dialect="")))


@settings(max_examples=200, deadline=None)
@given(seed=seeds, status=st.sampled_from([400, 401, 404, 429, 500, 503]))
def test_a_changed_error_is_one_error(seed, status):
    chance = random.Random(seed)
    wire = mutated(orjson.loads(bytes_of(pick(lambda one: one["status"] >= 400, chance))), chance)
    error = DIALECT.decode_error(status, {}, orjson.dumps(wire))
    assert (error.status, bool(error.message)) == (status, True)
    if isinstance(wire, dict) and wire:
        event = b"data: " + orjson.dumps({"type": "error", "error": wire}) + b"\n\n"
        assert outcome([event], DIALECT.decoder())[1] is not None


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(("type", "response", "item", "delta", "output_index", "x")), json_values)
)
def test_any_event_is_understood_or_one_error(event):
    for kind in ("response.output_item.added", "response.output_item.done", "response.completed", "x"):
        body = b"data: " + orjson.dumps({**event, "type": kind}) + b"\n\n"
        outcome([body], DIALECT.decoder())
