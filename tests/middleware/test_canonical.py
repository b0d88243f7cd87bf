"""The key of a request: the same for equal requests, and for no others."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from attrs import evolve, fields
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpipe.middleware.canonical import deterministic, key_of, uses_server_state
from llmpipe.pipeline.call import Call
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

RUNTIME, PROVIDER = Runtime(), MockProvider()


def key(request, *, version="", vary=(), provider=PROVIDER, **options) -> bytes | None:
    return key_of(Call(request, RUNTIME, provider=provider, **options), version, vary)


# Few and short strings, so that two draws are often alike but for where one string ends.
word = st.sampled_from(["", "a", "b", "ab", '"', '","', "],[", "\\", "user", "é"])
maybe = st.none() | word
extra = st.dictionaries(word, word | st.integers(0, 2) | st.none() | st.booleans(), max_size=2)
simple = st.one_of(
    st.builds(Text, word, extra),
    st.builds(Image, maybe, maybe, maybe, maybe, extra),
    st.builds(Document, maybe, maybe, maybe, maybe, maybe, maybe, extra),
    st.builds(Audio, word, word, extra),
    st.builds(Reasoning, word, maybe, maybe, extra),
    st.builds(ToolCall, word, word, word, extra),
    st.builds(Refusal, word, extra),
    st.builds(Opaque, word, extra),
)
part = simple | st.builds(ToolResult, word, st.lists(simple, max_size=2), st.booleans(), maybe, extra)
message = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    word | st.lists(part, max_size=2),
    maybe,
    extra,
)
number = st.none() | st.sampled_from([0, 0.0, -0.0, 1, 1.0, 0.5, float("inf"), -float("inf")])
count = st.none() | st.integers(0, 2)
chat = st.builds(
    Request,
    model=word,
    messages=st.lists(message, max_size=2),
    tools=st.lists(st.builds(Tool, word, word, extra, st.none() | st.booleans(), extra), max_size=2),
    tool_choice=st.sampled_from([None, "auto", "none", "required"]) | st.builds(NamedTool, word),
    parallel_tool_calls=st.none() | st.booleans(),
    temperature=number,
    top_p=number,
    max_tokens=count,
    stop=st.lists(word, max_size=2),
    seed=count,
    frequency_penalty=number,
    presence_penalty=number,
    response_format=st.none()
    | st.builds(
        ResponseFormat, st.sampled_from(["text", "json"]), st.none() | extra, word, st.none() | st.booleans()
    ),
    reasoning=st.none() | st.builds(ReasoningOptions, maybe, count, st.none() | st.booleans()),
    stream=st.booleans(),
    metadata=extra,
    extra=extra,
)
embedding = st.builds(
    EmbeddingRequest,
    word,
    st.lists(word | st.lists(st.integers(0, 2), max_size=2), max_size=2),
    count,
    extra,
    extra,
)
rerank = st.builds(RerankRequest, word, word, st.lists(word, max_size=2), count, extra, extra)
request = chat | embedding | rerank


def plain(value):
    """What the wire would show of a value: mappings without order, sequences without type, True unlike 1."""
    if isinstance(value, dict):
        return frozenset((k, plain(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if hasattr(value, "__attrs_attrs__"):
        return (
            type(value),
            *(plain(getattr(value, f.name)) for f in fields(type(value)) if f.name != "stream"),
        )
    return (isinstance(value, bool), value)


def same(one, other) -> bool:
    """Whether two requests ask the same of one provider, whose default model is ``mock-1``."""
    named = [evolve(r, model=r.model or "mock-1") for r in (one, other)]
    return plain(named[0]) == plain(named[1])


@settings(max_examples=400)
@given(request, request)
def test_two_requests_have_one_key_if_and_only_if_they_ask_the_same(one, other):
    assert (key(one) == key(other)) == same(one, other)


@settings(max_examples=400)
@given(chat, st.data())
def test_a_change_in_any_field_is_another_key_and_streaming_is_none(one, data):
    name = data.draw(st.sampled_from([f.name for f in fields(Request)]))
    other = evolve(one, **{name: getattr(data.draw(chat), name)})
    assert (key(one) == key(other)) == same(one, other)
    assert key(evolve(one, stream=not one.stream)) == key(one)


@given(st.lists(st.tuples(word, word), max_size=3), st.lists(st.tuples(word, word), max_size=3))
def test_strings_cut_elsewhere_are_other_requests(one, other):
    """The attack on keys that are joined together: what ends one field begins the next."""
    requests = [
        Request("m", [Message("user", list(map(Text, pair))) for pair in pairs]) for pairs in (one, other)
    ]
    assert (key(requests[0]) == key(requests[1])) == (one == other)


@given(word, word, word, word, st.tuples(word, word), st.tuples(word, word))
def test_tenant_version_model_and_tags_cannot_be_shifted_into_each_other(a, b, c, d, e, f):
    def keyed(tenant, version, model, tags):
        values = dict(zip(("x", "y"), tags, strict=True))
        return key(Request(model or "m", "hi"), version=version, vary=("x", "y"), tenant=tenant, tags=values)

    one, other = (a, b, c or "m", e), (c, d, a or "m", f)
    assert (keyed(*one) == keyed(*other)) == (one == other)


def test_all_pairs_of_65_536_small_requests_have_different_keys():
    """Not a proof against accidents in the digest, which has 256 bits, but against one in the fields."""
    words = [f"{n:x}" for n in range(32)]
    seen = set()
    for one in words:
        for other in words:
            for third in words:
                seen.add(key(Request(one, [Message("user", other), Message("assistant", third)])))
                seen.add(key(Request(one, [Message("user", [Text(other), Text(third)])])))
    assert len(seen) == 2 * 32**3


# ---------------------------------------------------------------- what it is made of


def test_the_target_is_part_of_it_and_names_the_model_that_is_not_named():
    other = MockProvider(name="other")
    assert key(Request("mock-1", "hi")) == key(Request("", "hi"))
    assert key(Request("", "hi")) != key(Request("", "hi"), provider=MockProvider(model="mock-2"))
    assert key(Request("m", "hi")) != key(Request("m", "hi"), provider=other)
    assert key(Request("m", "hi"), target=other) == key(Request("m", "hi"), provider=other)


def test_each_tenant_and_each_version_has_its_own():
    hi = Request("m", "hi")
    keys = [key(hi), key(hi, tenant="a"), key(hi, tenant="b"), key(hi, version="a"), key(hi, version="b")]
    assert len(set(keys)) == 5


def test_equal_numbers_have_one_spelling():
    zero = [key(Request("m", "hi", temperature=value)) for value in (0, 0.0, -0.0)]
    assert len(set(zero)) == 1
    odd = [key(Request("m", "hi", temperature=value)) for value in (None, float("inf"), -float("inf"), 1)]
    assert len({*zero, *odd}) == 5


def test_tags_count_if_they_are_declared():
    hi = Request("m", "hi")
    assert key(hi, tags={"a": "1"}) == key(hi)
    assert key(hi, tags={"a": "1"}, vary=["a"]) != key(hi, tags={"a": "2"}, vary=["a"])
    assert key(hi, tags={"a": "1", "b": "2"}, vary=["a"]) == key(hi, tags={"a": "1"}, vary=["a"])
    assert key(hi, tags={"a": ""}, vary=["a"]) != key(hi, vary=["a"])


def test_user_priority_and_time_do_not_count_and_skipped_layers_do():
    hi = Request("m", "hi")
    assert key(hi, user="u", priority=3, deadline=9.0, id="x") == key(hi)
    assert key(hi, without=frozenset({"redact"})) != key(hi)


def test_mappings_of_any_kind_and_order_are_one():
    one = Request("m", "hi", extra={"a": 1, "b": {"c": [1, 2]}})
    other = Request("m", "hi", extra=MappingProxyType({"b": MappingProxyType({"c": (1, 2)}), "a": 1}))
    assert key(one) == key(other)
    assert key(Request("m", "hi", extra={"a": True})) != key(Request("m", "hi", extra={"a": 1}))


@pytest.mark.parametrize(
    "unsendable", [{"a": b"bytes"}, {1: 2}, {"a": object()}, {"a": 2**70}, {"a": "\ud800"}]
)
def test_what_has_no_json_has_no_key(unsendable):
    assert key(Request("m", "hi", extra=unsendable)) is None
    nested: list = []
    nested.append(nested)
    assert key(Request("m", "hi", extra={"a": nested})) is None


def test_the_key_is_of_its_json_however_long_it_is():
    assert key(EmbeddingRequest("m", [range(3)])) == key(EmbeddingRequest("m", [[0, 1, 2]]))
    assert len(key(Request("m", "x" * 1_000_000)) or b"") == 32


MARK = {"a": 1}
TOLD = [
    Request("m", "hi", extra=MARK),
    Request("m", "hi", metadata=MARK),
    Request("m", "hi", tools=[Tool("f", extra=MARK)]),
    Request("m", "hi", response_format=ResponseFormat("json", extra=MARK)),
    Request("m", "hi", reasoning=ReasoningOptions("low", extra=MARK)),
    EmbeddingRequest("m", "hi", extra=MARK),
    RerankRequest("m", "hi", ("a",), extra=MARK),
]


@pytest.mark.parametrize("request_", TOLD)
def test_the_same_words_of_another_dialect_ask_something_else(request_):
    keys = {key(evolve(request_, dialect=name)) for name in ("", "openai.chat", "anthropic.messages")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "hi", extra=MARK),
        Message("user", [Text("hi", MARK)]),
        Message("tool", ToolResult("a", [Text("hi", MARK)])),
    ],
)
def test_words_of_a_message_count_with_the_dialect_they_are_in(message):
    keys = {key(Request("m", [evolve(message, dialect=name)])) for name in ("", "openai.chat")}
    assert len(keys) == 2


def test_without_words_of_its_own_a_dialect_does_not_count():
    parts = ("hi", Reasoning("hm", origin="openai.chat"), Opaque("cohere.chat", MARK))
    plain = Request("m", [Message("assistant", parts), Message("user", "hi")], tools=[Tool("f")], seed=1)
    said = [evolve(message, dialect="openai.chat") for message in plain.messages]
    assert key(evolve(plain, messages=said, dialect="openai.chat")) == key(plain)
    vectors = EmbeddingRequest("m", "hi")
    assert key(evolve(vectors, dialect="cohere.chat")) == key(vectors)


def test_whose_a_proof_is_counts_and_what_vectors_are_for():
    one = Request("m", [Message("assistant", Reasoning("hm", "sig", origin="anthropic.messages"))])
    other = Request("m", [Message("assistant", Reasoning("hm", "sig", origin="bedrock.converse"))])
    assert key(one) != key(other)
    assert key(EmbeddingRequest("m", "hi", input_type="query")) != key(EmbeddingRequest("m", "hi"))


# ---------------------------------------------------------------- what it is asked for


def test_what_is_meant_to_be_the_same_each_time():
    assert deterministic(Request("m", "hi", temperature=0))
    assert deterministic(Request("m", "hi", seed=0))
    assert not deterministic(Request("m", "hi"))
    assert not deterministic(Request("m", "hi", temperature=0.1))
    assert deterministic(EmbeddingRequest("m", "hi"))
    assert deterministic(RerankRequest("m", "hi", ("a",)))


@given(extra)
def test_what_a_server_remembers_is_named_in_extra(values):
    assume("store" not in values)
    hi = Request("m", "hi", extra=values)
    assert not uses_server_state(hi)
    assert uses_server_state(evolve(hi, extra={**values, "previous_response_id": "resp_1"}))
    assert not uses_server_state(evolve(hi, extra={**values, "store": False, "conversation": None}))
    assert uses_server_state(hi, ["a"]) == (values.get("a") not in (None, False))
