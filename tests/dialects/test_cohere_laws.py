"""What goes out of the dialect and comes back in is the same, and so however the bytes are cut."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.dialects.losses import Losses
from llmpipe.errors import LLMError, StreamBroken
from llmpipe.types import (
    Completion,
    Document,
    EmbeddingRequest,
    Embeddings,
    Event,
    Image,
    Message,
    ModelInfo,
    Opaque,
    Ranked,
    Ranking,
    Reasoning,
    ReasoningOptions,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    ToolDelta,
    Usage,
    fold,
    unfold,
)
from tests.dialects.strategies import (
    Wire,
    base64,
    completions,
    counts,
    cuts,
    json_values,
    maybe,
    names,
    requests,
    some_json_objects,
    texts,
    words,
)

DIALECT = CohereChat()
NAME = "cohere.chat"

images = st.one_of(
    st.builds(lambda name, detail: Image(f"https://{name}", detail=detail), names, maybe(words)),
    st.builds(
        lambda data, detail: Image(data=data, media_type="image/png", detail=detail), base64, maybe(words)
    ),
)
documents = st.one_of(
    st.builds(lambda text, name: Document(text=text, name=name), texts, maybe(words)),
    st.builds(lambda text, ident: Document(text=text, extra={"id": ident}), texts, words),
    st.builds(
        lambda data: Document(text=orjson.dumps(data).decode(), extra={"type": "object"}),
        some_json_objects.filter(lambda data: not data.keys() <= {"text", "title"}),
    ),
)
own_parts = st.builds(lambda data: Opaque(NAME, {**data, "type": "video"}), some_json_objects)
citations = st.builds(
    lambda start, text: {"start": start, "end": start + 1, "text": text, "sources": [], "type": "PLAN"},
    counts,
    words,
)


@st.composite
def thoughts(draw: st.DrawFn) -> list[Reasoning]:
    """A plan, and a thought after it."""
    found = [Reasoning(draw(words), extra={"field": "tool_plan"})] if draw(st.booleans()) else []
    return found + ([Reasoning(draw(words))] if draw(st.booleans()) else [])


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """What is billed, and what was read besides where that is more."""
    given, made = draw(counts), draw(counts)
    thought = draw(st.integers(0, made))
    if draw(st.booleans()):
        return Usage(given, made, draw(st.integers(0, given)), 0, thought)
    tokens = {"input_tokens": given + 1 + draw(counts), "output_tokens": made, "reasoning_tokens": thought}
    extra: dict[str, Any] = {"tokens": tokens}
    if draw(st.booleans()):
        extra["cached_tokens"] = draw(counts)
    if draw(st.booleans()):
        extra["billed_units"] = {"search_units": 1}
    return Usage(given, made, 0, 0, thought, extra=extra)


WIRE = Wire(
    user_parts=images | own_parts,
    result_parts=documents,
    thoughts=thoughts(),
    call_extra=st.sampled_from([{}, {"function": {"index": 1}}, {"index": 1}]),
    arguments=words.filter(str.strip),
    choices=st.none() | st.sampled_from(("none", "required")),
    formats=st.one_of(
        st.none(),
        st.just(ResponseFormat("text")),
        st.just(ResponseFormat("json")),
        st.builds(ResponseFormat, st.just("json_schema"), some_json_objects),
    ),
    options={
        "temperature": maybe(st.floats(0, 2)),
        "top_p": maybe(st.floats(0, 1)),
        "max_tokens": maybe(st.integers(0, 100_000)),
        "stop": st.lists(words, max_size=2),
        "seed": maybe(st.integers(0, 2**53)),
        "frequency_penalty": maybe(st.floats(-2, 2)),
        "presence_penalty": maybe(st.floats(-2, 2)),
        "reasoning": maybe(
            st.one_of(
                st.builds(ReasoningOptions, max_tokens=maybe(st.integers(1, 999)), enabled=st.just(True)),
                st.just(ReasoningOptions(enabled=False)),
                st.just(ReasoningOptions(extra={"type": "auto"})),
            )
        ),
        "extra": st.fixed_dictionaries(
            {},
            optional={
                "safety_mode": words,
                "citation_options": st.just({"mode": "FAST"}),
                "logprobs": st.booleans(),
                "k": st.integers(0, 500),
                "priority": counts,
            },
        ),
        "dialect": st.just(NAME),
    },
    usages=maybe(usages()),
    finish_reasons=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "error"]),
    reply_extra=st.one_of(
        st.just({}), st.just({"logprobs": [{"text": "a", "token_ids": [1], "logprobs": [-0.5]}]})
    ),
    message_extra=st.builds(
        lambda found: {"citations": found} if found else {}, st.lists(citations, max_size=3)
    ),
)


def own(value: Request) -> Request:
    """The same, said in Cohere's words, as it would come from one of its callers."""
    return evolve(value, messages=[evolve(message, dialect=NAME) for message in value.messages])


def told(value: Completion) -> Completion:
    """Without what the wire does not tell."""
    return evolve(value, model="", created=None, message=evolve(value.message, dialect=NAME))


def as_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def streamed(events: Iterable[Event]) -> bytes:
    encoder = DIALECT.encoder(Request())
    return b"".join(map(encoder.feed, events)) + encoder.close()


def outcome(pieces: Iterable[bytes]) -> tuple[list[Event], str]:
    """All events of a stream, and the error that ended it."""
    decoder, events = DIALECT.decoder(), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


@settings(deadline=None)
@given(requests(WIRE).map(own))
def test_a_request_survives_the_wire(request):
    losses = Losses()
    again = DIALECT.decode_request(as_json(DIALECT.encode_request(request, losses)))
    assert again == request
    assert again.dialect == NAME
    assert losses.warnings == ()


@settings(deadline=None)
@given(
    st.lists(documents | st.builds(lambda text: Document(text=text, extra={"type": "string"}), texts)), texts
)
def test_documents_survive_the_wire(given_, text):
    request = own(Request("m", [Message("user", "a"), Message("user", [*given_, Text(text)])]))
    body = DIALECT.encode_request(request)
    assert len(body.get("documents", [])) == len(given_)
    assert DIALECT.decode_request(as_json(body)) == request


@settings(deadline=None)
@given(completions(WIRE).map(told))
def test_a_reply_survives_the_wire(completion):
    body = as_json(DIALECT.encode_reply(completion))
    again = DIALECT.decode_reply(body, {})
    assert again == completion
    assert as_json(DIALECT.encode_reply(again)) == body


@settings(deadline=None)
@given(completions(WIRE).map(told))
def test_a_streamed_reply_is_the_same_as_the_full_one(completion):
    events, error = outcome([streamed(unfold(completion))])
    assert error == ""
    assert fold(events) == completion


@settings(deadline=None)
@given(st.data(), completions(WIRE).map(told))
def test_however_a_stream_is_cut_its_events_are_the_same(data, completion):
    body = streamed(unfold(completion))
    expected = outcome([body])
    assert outcome(data.draw(cuts(body))) == expected
    assert outcome([body[i : i + 1] for i in range(len(body))]) == expected


@settings(deadline=None)
@given(st.data(), completions(WIRE).map(told))
def test_a_stream_cut_before_its_end_is_broken_whatever_is_in_it(data, completion):
    body = streamed(unfold(completion))
    end = body.rindex(b"\n\ndata: [DONE]")
    events, error = outcome([body[: data.draw(st.integers(0, end - 1))]])
    assert error.startswith(StreamBroken.__name__)
    assert fold(events).finish_reason is None


@settings(deadline=None)
@given(st.data(), st.lists(some_json_objects, min_size=1, max_size=3))
def test_calls_that_come_interleaved_go_out_one_after_the_other(data, arguments):
    """However their pieces are mixed, a caller sees each call whole before the next begins."""
    left = [list(orjson.dumps(one).decode()) for one in arguments]
    events: list[Event] = []
    begun: set[int] = set()
    while any(left):
        index = data.draw(st.sampled_from([i for i, pieces in enumerate(left) if pieces]))
        size = data.draw(st.integers(1, len(left[index])))
        piece, left[index] = "".join(left[index][:size]), left[index][size:]
        first = {"id": f"c{index}", "name": f"f{index}"} if index not in begun else {}
        begun.add(index)
        events.append(ToolDelta(index, **first, arguments=piece))
    body = streamed(events)
    again, error = outcome([body])
    assert error == ""
    calls = fold(again).tool_calls
    assert {call.id: call.args for call in calls} == {f"c{i}": one for i, one in enumerate(arguments)}
    kinds = [
        line.removeprefix("event: ") for line in body.decode().split("\n") if line.startswith("event: tool")
    ]
    open_ = 0
    for kind in kinds:
        open_ += {"tool-call-start": 1, "tool-call-end": -1}.get(kind, 0)
        assert open_ in (0, 1)
    assert open_ == 0


events_of_the_wire = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                [
                    "message-start",
                    "content-start",
                    "content-delta",
                    "content-end",
                    "tool-plan-delta",
                    "tool-call-start",
                    "tool-call-delta",
                    "tool-call-end",
                    "citation-start",
                    "message-end",
                    "debug",
                    7,
                ]
            )
        },
        optional={
            "id": json_values,
            "index": st.sampled_from([0, 1, None, "0", [1]]),
            "logprobs": json_values,
            "delta": st.one_of(
                json_values,
                st.fixed_dictionaries(
                    {},
                    optional={
                        "finish_reason": st.sampled_from(["COMPLETE", "TOOL_CALL", "x", None, 1]),
                        "usage": st.one_of(json_values, st.just({"tokens": {"input_tokens": 1.0}})),
                        "error": st.sampled_from([None, "no", {"message": "no"}]),
                        "message": st.one_of(
                            json_values,
                            st.fixed_dictionaries(
                                {},
                                optional={
                                    "content": st.one_of(
                                        json_values,
                                        st.fixed_dictionaries(
                                            {},
                                            optional={
                                                "type": st.sampled_from(["text", "thinking", "new", None, 1]),
                                                "text": texts | json_values,
                                                "thinking": texts | json_values,
                                                "more": json_values,
                                            },
                                        ),
                                    ),
                                    "tool_plan": texts | json_values,
                                    "citations": json_values,
                                    "tool_calls": st.one_of(
                                        json_values,
                                        st.fixed_dictionaries(
                                            {},
                                            optional={
                                                "id": words | json_values,
                                                "function": st.one_of(
                                                    json_values,
                                                    st.fixed_dictionaries(
                                                        {},
                                                        optional={
                                                            "name": words | json_values,
                                                            "arguments": words | json_values,
                                                        },
                                                    ),
                                                ),
                                            },
                                        ),
                                    ),
                                },
                            ),
                        ),
                    },
                ),
            ),
        },
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=100)
@given(events_of_the_wire)
def test_any_events_give_a_completion_or_one_error(wire):
    body = b"".join(b"data: %s\n\n" % orjson.dumps(event) for event in wire)
    events, error = outcome([body])
    assert outcome(body[i : i + 1] for i in range(len(body))) == (events, error)
    done = fold(events)
    assert error or done.finish_reason
    body = streamed(events)
    again, error = outcome([body])
    assert error == ""
    assert fold(again).text == done.text
    assert fold(again).tool_calls == done.tool_calls


REPLY: dict[str, Any] = {
    "id": "a",
    "message": {
        "role": "assistant",
        "tool_plan": "p",
        "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "x"}],
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "citations": [{"start": 0, "end": 1, "text": "x", "sources": []}],
    },
    "finish_reason": "COMPLETE",
    "usage": {
        "billed_units": {"input_tokens": 1, "output_tokens": 2},
        "tokens": {"input_tokens": 9, "output_tokens": 3},
        "cached_tokens": 4,
    },
}
REQUEST = {
    "model": "m",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aa"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "t"}],
            "tool_calls": REPLY["message"]["tool_calls"],
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "document", "document": {"data": {"a": 1}, "id": "1"}}],
        },
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "documents": ["x", {"data": {"text": "y"}}],
    "response_format": {"type": "json_object", "json_schema": {"type": "object"}},
    "thinking": {"type": "enabled", "token_budget": 5},
    "stop_sequences": ["x"],
    "strict_tools": True,
    "p": 0.5,
}


@st.composite
def mutated(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """`body` with some of its values gone or replaced by others."""
    result = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        places: list[tuple[Any, Any]] = []
        left: list[Any] = [result]
        while left:
            holder = left.pop()
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            left += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
        if places:
            holder, key = draw(st.sampled_from(places))
            holder[key] = draw(json_values | st.none())
    return result


@settings(deadline=None, max_examples=100)
@given(mutated(REPLY))
def test_any_body_is_a_completion_or_one_error(body):
    with suppress(LLMError):
        done = DIALECT.decode_reply(body, {})
        assert DIALECT.decode_reply(as_json(DIALECT.encode_reply(done)), {}) is not None
        assert fold(outcome([streamed(unfold(done))])[0]).text == done.text


def test_a_caller_with_documents_and_no_text_is_the_same_again():
    body = {"model": "m", "messages": [{"role": "user", "content": []}], "documents": ["x"]}
    request = DIALECT.decode_request(body)
    assert DIALECT.decode_request(as_json(DIALECT.encode_request(request))) == request


@settings(deadline=None, max_examples=100)
@given(mutated(REQUEST))
def test_any_request_is_understood_or_refused(body):
    with suppress(LLMError):
        request = DIALECT.decode_request(body)
        assert DIALECT.decode_request(as_json(DIALECT.encode_request(request))) == request


@settings(deadline=None)
@given(
    st.builds(
        EmbeddingRequest,
        words,
        st.lists(texts, min_size=1, max_size=3),
        maybe(st.integers(1, 4096)),
        extra=st.sampled_from([{}, {"truncate": "END"}, {"embedding_types": ["int8", "base64"]}]),
        input_type=st.sampled_from(["query", "document", "classification", "clustering"]),
    ),
    st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=3), min_size=1, max_size=3),
    counts,
)
def test_vectors_survive_the_wire(request, vectors, tokens):
    assert DIALECT.decode_embedding_request(as_json(DIALECT.encode_embedding_request(request))) == request
    found = Embeddings(tuple(vectors), usage=Usage(tokens), id="e")
    body = as_json(DIALECT.encode_embeddings(found))
    again = DIALECT.decode_embeddings(body, {})
    assert (again.vectors, again.usage, again.id) == (found.vectors, found.usage, found.id)
    packed = as_json(DIALECT.encode_embeddings(found, evolve(request, extra={"embedding_types": ["base64"]})))
    for one, vector in zip(DIALECT.decode_embeddings(packed, {}).vectors, vectors, strict=True):
        assert all(abs(a - b) < 1e-6 for a, b in zip(one, vector, strict=True))


@settings(deadline=None)
@given(
    st.builds(RerankRequest, words, words, st.lists(texts, min_size=1, max_size=4), maybe(st.integers(1, 9))),
    st.lists(st.tuples(counts, st.floats(0, 1)), unique_by=lambda pair: pair[0], max_size=4),
)
def test_rankings_survive_the_wire(request, scores):
    assert DIALECT.decode_rerank_request(as_json(DIALECT.encode_rerank_request(request))) == request
    ranked = sorted([Ranked(index, score) for index, score in scores], key=lambda one: -one.score)
    ranking = Ranking(tuple(ranked), usage=Usage(7), id="r")
    again = DIALECT.decode_ranking(as_json(DIALECT.encode_ranking(ranking)), {})
    assert (again.results, again.usage, again.id) == (ranking.results, ranking.usage, ranking.id)


@given(st.lists(st.builds(ModelInfo, words, context_tokens=maybe(st.integers(1, 10**6))), max_size=3))
def test_models_survive_the_wire(models):
    again = DIALECT.decode_models(as_json(DIALECT.encode_models(models)))
    assert [(m.id, m.context_tokens) for m in again] == [(m.id, m.context_tokens) for m in models]
