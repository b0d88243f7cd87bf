"""What goes out of the dialect and comes back in is the same, and so however the bytes are cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import LLMError
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    EmbeddingRequest,
    Embeddings,
    Event,
    Image,
    Message,
    ModelInfo,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
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
    usages,
    words,
)

DIALECT = OpenAIChat()

cache = st.sampled_from([{}, {"cache_control": {"type": "ephemeral"}}])
images = st.one_of(
    st.builds(
        lambda name, detail, extra: Image(f"https://{name}", detail=detail, extra=extra),
        names,
        maybe(words),
        cache,
    ),
    st.builds(
        lambda data, detail: Image(data=data, media_type="image/png", detail=detail), base64, maybe(words)
    ),
)
documents = st.one_of(
    st.builds(
        lambda data, name: Document(data=data, media_type="application/pdf", name=name), base64, maybe(words)
    ),
    st.builds(lambda data: Document(data=data), base64),
    st.builds(lambda name: Document(file_id=name), names),
    st.builds(lambda name: Document(url=f"https://{name}", name=name), names),
)
others = st.one_of(
    st.builds(Audio, base64, st.sampled_from(["wav", "mp3"])),
    st.builds(lambda text: Text(text, {"cache_control": {"type": "ephemeral"}}), texts),
    st.builds(
        lambda data: Opaque("openai.chat", {"type": "video_url", "video_url": data}), some_json_objects
    ),
)


@st.composite
def thoughts(draw: st.DrawFn) -> list[Reasoning]:
    """Reasoning as one of the three fields has it."""
    kind = draw(st.sampled_from(["none", "reasoning_content", "reasoning", "both", "blocks"]))
    if kind == "none":
        return []
    if kind == "reasoning_content":
        return [Reasoning(draw(words))]
    if kind != "blocks":
        field = "reasoning" if kind == "reasoning" else "reasoning+reasoning_content"
        return [Reasoning(draw(words), extra={"field": field})]
    origin = draw(st.sampled_from([{}, {"field": "reasoning"}, {"field": "reasoning_content"}]))
    blocks = []
    for index in range(draw(st.integers(1, 3))):
        extra = {"type": draw(st.sampled_from(["reasoning.text", "reasoning.summary"])), "index": index}
        if draw(st.booleans()):
            blocks.append(
                Reasoning(draw(words), draw(maybe(words)), extra={**extra, **origin, "format": "v1"})
            )
        else:
            blocks.append(Reasoning(encrypted=draw(words), extra={**extra, "type": "reasoning.encrypted"}))
    return blocks


formats = st.one_of(
    st.none(),
    st.just(ResponseFormat("text")),
    st.just(ResponseFormat("json")),
    st.builds(
        ResponseFormat, st.just("json_schema"), some_json_objects, words, maybe(st.booleans()), maybe(texts)
    ),
)
reasoning_options = st.one_of(
    st.none(),
    st.builds(ReasoningOptions, st.sampled_from(["low", "high"])),
    st.builds(ReasoningOptions, maybe(words), st.integers(1, 9999), maybe(st.booleans())),
    st.builds(ReasoningOptions, maybe(words), st.none(), st.booleans(), st.just({"exclude": True})),
)
request_extra = st.dictionaries(
    st.sampled_from(["user", "prediction", "service_tier", "top_k", "plugins"]), words, max_size=2
)
other_choice = st.builds(
    lambda text, reason: {
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": reason,
    },
    words,
    st.sampled_from(["stop", "length"]),
)


@st.composite
def reply_extra(draw: st.DrawFn) -> dict[str, Any]:
    """What servers put into replies besides, at each level."""
    extra: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "system_fingerprint": words,
                "service_tier": words,
                "provider": words,
                "citations": st.lists(words, min_size=1, max_size=2),
                "x_groq": some_json_objects,
                "logprobs": st.just({"content": [{"token": "a", "logprob": -0.5}]}),
                "content_filter_results": some_json_objects,
                "native_finish_reason": words,
                "choice": st.builds(lambda seed: {"seed": seed}, st.integers(1, 99)),
            },
        )
    )
    rest = draw(st.lists(other_choice, max_size=2))
    if rest:
        extra["choices"] = [{"index": index, **choice} for index, choice in enumerate(rest, 1)]
    return extra


WIRE = Wire(
    user_parts=st.one_of(images, documents, others),
    result_parts=images,
    thoughts=thoughts(),
    call_ids=words.filter(lambda word: word != "null"),  # which stands for no id
    call_extra=st.sampled_from(
        [{}, {"type": "custom"}, {"extra_content": {"google": {"thought_signature": "x"}}}]
    ),
    has_names=True,
    has_refusals=True,
    formats=formats,
    options={
        "parallel_tool_calls": maybe(st.booleans()),
        "temperature": maybe(st.floats(0, 2)),
        "top_p": maybe(st.floats(0, 1)),
        "max_tokens": maybe(st.integers(1, 100_000)),
        "stop": st.lists(words, max_size=2),
        "seed": maybe(st.integers(0, 2**53)),
        "frequency_penalty": maybe(st.floats(-2, 2)),
        "presence_penalty": maybe(st.floats(-2, 2)),
        "reasoning": reasoning_options,
        "metadata": st.dictionaries(words, words, max_size=2),
        "extra": request_extra,
    },
    streams=st.just({"stream": True, "extra": {"stream_options": {"include_usage": True}}}),
    usages=maybe(
        usages(extra=st.dictionaries(st.sampled_from(["cost", "queue_time"]), st.floats(0, 9), max_size=1))
    ),
    finish_reasons=st.sampled_from(["stop", "length", "tool_calls", "content_filter", "error"]),
    reply_extra=reply_extra(),
    message_extra=st.dictionaries(st.sampled_from(["annotations", "audio"]), json_values.filter(bool)),
)
ASKS_FOR_USAGE = Request(stream=True, extra={"stream_options": {"include_usage": True}})


def as_json(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


def streamed(completion: Completion, request: Request = ASKS_FOR_USAGE) -> bytes:
    encoder = DIALECT.encoder(request)
    return b"".join(map(encoder.feed, unfold(completion))) + encoder.close()


def outcome(pieces: Iterable[bytes], dialect: OpenAIChat = DIALECT) -> tuple[list[Event], LLMError | None]:
    """All events of a stream, and the error that ended it."""
    decoder, events = dialect.decoder(), []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except LLMError as error:
        return events, error
    return events, None


@settings(deadline=None)
@given(requests(WIRE))
def test_a_request_survives_the_wire(request):
    assert DIALECT.decode_request(as_json(DIALECT.encode_request(request))) == request


@settings(deadline=None)
@given(requests(WIRE))
def test_a_request_survives_the_wire_of_a_server_with_quirks(request):
    quirky = OpenAIChat(
        max_tokens_field="max_completion_tokens",
        seed_field="random_seed",
        reasoning_param="reasoning",
        empty_content="",
    )
    again = quirky.decode_request(as_json(quirky.encode_request(request)))
    if request.reasoning is not None and request.reasoning == ReasoningOptions(request.reasoning.effort):
        assert again.reasoning == request.reasoning
    assert again == request


@settings(deadline=None)
@given(completions(WIRE))
def test_a_reply_survives_the_wire(completion):
    assert DIALECT.decode_reply(as_json(DIALECT.encode_reply(completion)), {}) == completion


@settings(deadline=None)
@given(completions(WIRE))
def test_a_streamed_reply_is_the_same_as_the_full_one(completion):
    events, error = outcome([streamed(completion)])
    assert error is None
    assert fold(events) == completion


@settings(deadline=None)
@given(st.data(), completions(WIRE))
def test_however_a_stream_is_cut_its_events_are_the_same(data, completion):
    body = streamed(completion)
    expected = outcome([body])
    assert outcome(data.draw(cuts(body))) == expected
    assert outcome([body[i : i + 1] for i in range(len(body))]) == expected


@settings(deadline=None)
@given(st.data(), completions(WIRE))
def test_a_stream_cut_before_its_end_is_broken_whatever_is_in_it(data, completion):
    body = streamed(evolve(completion, usage=None))
    end = body.rindex(b"[DONE]") + len(b"[DONE]")
    events, error = outcome([body[: data.draw(st.integers(0, end - 1))]])
    assert error is not None
    assert error.type == "NETWORK_ERROR"
    assert error.billed == "unknown"
    assert fold(events).finish_reason is None


chunks = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", "b", "", 7]),
        "model": st.sampled_from(["m", None]),
        "created": st.sampled_from([1, 0, 2.5, "x"]),
        "system_fingerprint": st.sampled_from(["f", "g", None, ["x"], ["x", "y"]]),
        "usage": st.sampled_from([None, {}, {"prompt_tokens": 1, "completion_tokens": 2}, "many", []]),
        "obfuscation": texts,
        "object": st.sampled_from(["chat.completion.chunk", "chat.completion.done", 1]),
        "choices": st.lists(
            st.one_of(
                json_values,
                st.fixed_dictionaries(
                    {},
                    optional={
                        "index": st.sampled_from([0, 1, None, "0", -1]),
                        "finish_reason": st.sampled_from([None, "", "stop", "tool_calls", 3]),
                        "logprobs": st.sampled_from([None, {"content": [1]}]),
                        "message": st.sampled_from([None, {"content": "whole"}, 1]),
                        "delta": st.one_of(
                            json_values,
                            st.fixed_dictionaries(
                                {},
                                optional={
                                    "role": st.just("assistant"),
                                    "content": st.one_of(texts, st.none(), json_values),
                                    "reasoning": st.one_of(texts, json_values),
                                    "reasoning_content": st.one_of(texts, json_values),
                                    "reasoning_details": st.one_of(
                                        json_values,
                                        st.just([{"type": "reasoning.text", "text": "t", "index": 0}]),
                                    ),
                                    "refusal": st.one_of(texts, json_values),
                                    "tool_calls": st.one_of(
                                        json_values,
                                        st.lists(
                                            st.fixed_dictionaries(
                                                {},
                                                optional={
                                                    "index": st.sampled_from([0, 1, None, "a", [1]]),
                                                    "id": st.sampled_from(["x", "y", "", None, 5]),
                                                    "type": st.sampled_from(["function", "custom", None, 1]),
                                                    "function": st.one_of(
                                                        json_values,
                                                        st.fixed_dictionaries(
                                                            {},
                                                            optional={
                                                                "name": st.sampled_from(["f", "", None, 1]),
                                                                "arguments": st.sampled_from(
                                                                    ["{", "}", "{}", None, {"a": 1}]
                                                                ),
                                                            },
                                                        ),
                                                    ),
                                                },
                                            ),
                                            max_size=2,
                                        ),
                                    ),
                                    "function_call": st.one_of(json_values, st.just({"name": "g"})),
                                },
                            ),
                        ),
                    },
                ),
            ),
            max_size=2,
        ),
    },
)
lines = st.one_of(
    chunks.map(lambda chunk: b"data: " + orjson.dumps(chunk) + b"\n\n"),
    st.sampled_from(
        [
            b": ping\n\n",
            b"data: [DONE]\n\n",
            b"data:\n\n",
            b"data: {\n\n",
            b"event: error\ndata: {}\n\n",
            b"\r\n",
        ]
    ),
    st.binary(max_size=8),
)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.lists(lines, max_size=8).map(b"".join))
def test_any_bytes_give_events_and_at_most_one_typed_error_however_they_are_cut(data, body):
    events, error = outcome([body])
    fold(events)
    pieces = data.draw(cuts(body))
    again, error_again = outcome(pieces)
    assert again == events
    assert (type(error_again), str(error_again)) == (type(error), str(error))


class NoTemplates(OpenAIChat):
    """The same, without the shortcut for chunks that differ in their text alone."""

    def decoder(self, content_type="text/event-stream"):
        decoder = super().decoder(content_type)
        decoder._tries = 0
        return decoder


paddings = st.none() | st.text("abc", max_size=4) | st.just('q"\\')


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(texts, paddings, st.sampled_from(["content", "content", "reasoning_content"])), max_size=10
    ),
    st.sampled_from([orjson.dumps, lambda value: __import__("json").dumps(value).encode()]),
    st.lists(lines, max_size=2).map(b"".join),
)
def test_the_shortcut_for_alike_chunks_reads_what_a_full_parse_reads(deltas, dumps, between):
    body = bytearray()
    for place, (text, padding, field) in enumerate(deltas):
        chunk: dict[str, Any] = {
            "id": "i",
            "choices": [{"index": 0, "delta": {field: text}, "finish_reason": None}],
        }
        if padding is not None:
            chunk["obfuscation"] = padding
        body += b"data: " + dumps(chunk) + b"\n\n"
        if place == 5:
            body += between
    body += b"data: [DONE]\n\n"
    events, error = outcome([bytes(body)])
    plain, error_of_plain = outcome([bytes(body)], NoTemplates())
    assert events == plain
    assert str(error) == str(error_of_plain)


@settings(deadline=None)
@given(
    st.builds(
        EmbeddingRequest,
        words,
        st.one_of(
            st.lists(texts, min_size=1, max_size=3),
            st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3),
        ),
        maybe(st.integers(1, 3072)),
        extra=st.dictionaries(st.sampled_from(["user", "encoding_format"]), words),
    )
)
def test_an_embedding_request_survives_the_wire(request):
    again = DIALECT.decode_embedding_request(as_json(DIALECT.encode_embedding_request(request)))
    assert again == request


floats = st.floats(-1, 1, width=32)


@settings(deadline=None)
@given(
    st.builds(
        Embeddings,
        st.lists(st.lists(floats, min_size=1, max_size=4), max_size=3).map(tuple),
        words,
        st.builds(Usage, counts),
        extra=st.dictionaries(st.just("provider"), words),
    ),
    st.sampled_from([None, EmbeddingRequest(extra={"encoding_format": "base64"})]),
)
def test_vectors_survive_the_wire(embeddings, request):
    body = as_json(DIALECT.encode_embeddings(embeddings, request))
    assert DIALECT.decode_embeddings(body, {}) == embeddings


@given(
    st.lists(
        st.builds(
            ModelInfo,
            words,
            texts,
            maybe(st.integers(1, 2_000_000_000).map(float)),
            st.dictionaries(st.just("context_window"), counts),
        ),
        max_size=3,
    )
)
def test_a_list_of_models_survives_the_wire(models):
    models = [evolve(model, context_tokens=model.extra.get("context_window") or None) for model in models]
    assert DIALECT.decode_models(as_json(DIALECT.encode_models(models))) == tuple(models)


def test_the_laws_are_about_replies_with_something_in_them():
    """Were the strategies to draw empty replies only, the laws above would hold for nothing."""
    from hypothesis import find

    rich = find(
        completions(WIRE),
        lambda c: all((len(c.message.parts) > 3, c.tool_calls, c.refusal, c.extra, c.message.extra)),
    )
    assert isinstance(rich.message, Message)
