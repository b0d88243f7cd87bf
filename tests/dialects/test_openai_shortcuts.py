"""The short ways through OpenAI's dialect give what the long ones give."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from llmpipe.dialects.headers import headers_of_interest, lower_case
from llmpipe.dialects.openai_chat import OpenAIChat, reply, usage
from llmpipe.errors import LLMError
from llmpipe.types import Completion, Event, TextDelta
from tests.dialects.test_wire import REPLIES

DIALECT = OpenAIChat()
_NONE = frozenset[str]()


def short_and_long(body: dict[str, Any]) -> tuple[Completion | str, Completion | str]:
    """What a body is by both ways, or what is wrong with it."""
    before = orjson.dumps(body)
    with pytest.MonkeyPatch.context() as patch:
        short = decoded(body)
        patch.setattr(reply, "_PLAIN", _NONE)
        patch.setattr(reply, "_SILENT", _NONE)
        patch.setattr(usage, "_OPENAI", _NONE)
        long = decoded(body)
    assert orjson.dumps(body) == before  # it is the caller's
    return short, long


def decoded(body: dict[str, Any]) -> Completion | str:
    try:
        return DIALECT.decode_reply(body, {})
    except LLMError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("exchange", REPLIES)
def test_every_recorded_reply_is_the_same_by_both_ways(exchange):
    body = exchange["response"]
    short, long = short_and_long(orjson.loads(body) if isinstance(body, str) else body)
    assert short == long
    assert list(getattr(short, "extra", ())) == list(getattr(long, "extra", ()))


odd = st.sampled_from(
    [None, "", "a", 0, 0.0, 1, 2.5, False, True, [], {}, ["b"], [{}], {"c": 1}, {"type": "t"}]
)
counts = st.sampled_from([None, 0, 1, 2, 3, 3.0, 2.5, -1, True, False, "3", 10**9, 10**12, [], {}])


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict(fields))


messages = some(
    role=st.just("assistant"),
    content=st.one_of(st.just("Hello."), odd),
    refusal=odd,
    annotations=odd,
    tool_calls=odd,
    function_call=odd,
    reasoning=odd,
    name=odd,
)
choices = some(
    index=st.sampled_from([0, 1, None]),
    message=st.one_of(messages, odd),
    delta=messages,
    text=odd,
    logprobs=odd,
    finish_reason=st.one_of(st.just("stop"), odd),
    finish_details=odd,
    usage=odd,
    seed=odd,
    error=st.sampled_from([None, {}, {"message": "no"}]),
)
details = st.one_of(
    odd, some(cached_tokens=counts, reasoning_tokens=counts, audio_tokens=counts, cache_write_tokens=counts)
)
usages = st.one_of(
    odd,
    some(
        prompt_tokens=counts,
        completion_tokens=counts,
        total_tokens=counts,
        prompt_tokens_details=details,
        completion_tokens_details=details,
        cached_tokens=counts,
    ),
)
bodies = some(
    id=odd,
    object=st.sampled_from(["chat.completion", "error", None]),
    created=odd,
    model=odd,
    choices=st.one_of(st.lists(st.one_of(choices, odd), max_size=2), choices.map(lambda one: [one]), odd),
    usage=usages,
    error=st.sampled_from([None, "", {}, {"message": "no"}]),
    service_tier=odd,
    system_fingerprint=odd,
    base_resp=st.sampled_from([None, {"status_code": 0}, {"status_code": 1000, "status_msg": "no"}]),
    x_groq=odd,
)


@settings(deadline=None, max_examples=300)
@given(bodies)
def test_every_reply_is_the_same_by_both_ways(body):
    short, long = short_and_long(body)
    assert short == long
    assert repr(short) == repr(long)  # 1 is True, and 3 is 3.0


# Replies as they are, but for one or two fields of the message.
nearly_plain = st.fixed_dictionaries(
    {"content": st.just("Hello.")},
    optional={"annotations": odd, "refusal": odd, "tool_calls": odd, "name": odd},
).map(lambda said: {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})


@settings(deadline=None, max_examples=300)
@given(nearly_plain)
def test_every_nearly_plain_reply_is_the_same_by_both_ways(body):
    short, long = short_and_long(body)
    assert short == long
    assert repr(short) == repr(long)


names = st.sampled_from(
    ["Date", "date", "Retry-After", "X-Request-Id", "x-request-id", "X-RateLimit-Limit", "Set-Cookie"]
)


@given(st.lists(st.tuples(names, st.text("ab,", max_size=3)), max_size=8))
def test_headers_of_interest_are_those_among_all(pairs):
    wanted = {"date", "retry-after", "x-request-id", "x-ratelimit-limit"}
    for headers in (CIMultiDictProxy(CIMultiDict(pairs)), dict(pairs)):
        expected = {name: value for name, value in lower_case(headers).items() if name in wanted}
        for _ in range(2):  # the second time its names are known
            found = headers_of_interest(headers)
            assert found == expected
            assert list(found) == list(expected)


# -- runs of chunks that are alike


def outcome(pieces: list[bytes], tries: int) -> tuple[list[Event], str]:
    """All events of a stream, and what ended it."""
    decoder = DIALECT.decoder()
    decoder._tries = tries
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.feed(b"")
        events += decoder.close()
    except LLMError as error:
        return events, f"{type(error).__name__}: {error}"
    return events, ""


# What fills the hole of a chunk: mostly one string, but also what only looks like one beside its neighbours.
holes = st.one_of(
    st.text(max_size=5).map(lambda text: orjson.dumps(text)),
    st.sampled_from(
        (
            b'"x"',
            b'" y"',
            b'"\\u0000\\n\\ud83d\\ude00"',
            b'""',
            b' "a" ',
            b'"a"\t',
            b'"a","b"',
            b'"a',
            b'b"',
            b'a"',
            b'"a\\',
            b'"a"]',
            b'["a"',
            b'"b"]',
            b'"a"],["b"',
            b'"a"],\n["b"',
            b'"a",1],["b"',
            b'"a"\n',
            b'\n"a"',
            b'"a\nb"',
            b'"a\rb"',
            b'"a"\r',
            b'"a"\n\ndata: "b"',
            b'{"a":"b"}',
            b'{"a":"b"',
            b'"c":"d"}',
            b"1",
            b"null",
            b"",
            b" ",
            b",",
            b'"a",',
            b',"a"',
            b'"\xff"',
            b'"a","obfuscation":"b"',
            b'"a"},"finish_reason":null}],"obfuscation":"p"',
        )
    ),
)


def chunk(hole: bytes, padding: bytes | None) -> bytes:
    more = b"" if padding is None else b',"obfuscation":' + padding
    return b'data: {"id":"i","choices":[{"index":0,"delta":{"content":%b},"finish_reason":null}]%b}\n\n' % (
        hole,
        more,
    )


# What stands in the middle of a run: another kind of event, of the same length too.
betweens = st.sampled_from(
    (
        b"",
        b": ping\n\n",
        b"\n",
        b"event: a\ndata: {}\n\n",
        b"data: {",
        b"data: [DONE]\n\n",
        chunk(b'"o"', None).replace(b'"index":0', b'"index":1'),
        chunk(b'"o"', b'"pp"').replace(b'"index":0', b'"index":1'),
        chunk(b'"o"', None).replace(b"data: ", b"date: "),
        chunk(b'"o"', b'"pp"').replace(b"\n\n", b"\n"),
        b'data: {"id":"i","choices":[{"index":0,"delta":{"content":"a","b"}\n\n',
    )
)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.lists(st.tuples(holes, st.just(b'"p"') | holes), max_size=2), st.booleans(), betweens)
def test_a_run_of_alike_chunks_is_read_as_each_of_them_would_be(data, filled, padded, between):
    good = chunk(b'"first"', b'"pp"' if padded else None)
    odd = b"".join(chunk(hole, padding if padded else None) for hole, padding in filled)
    body = good * 2 + odd + good + between + good * 2 + b"data: [DONE]\n\n"
    long = outcome([body], 0)
    assert outcome([body], 64) == long
    lines = [place + 1 for place, byte in enumerate(body) if byte == 0x0A]
    cut = data.draw(st.sampled_from(lines) | st.integers(0, len(body)))
    assert outcome([body[:cut], body[cut:]], 64) == long


@pytest.mark.parametrize(
    "events",
    [
        [chunk(b'"x","y"', None), chunk(b'"p', None), chunk(b'q"', None)],
        [chunk(b'["x"', None), chunk(b'"y"]', None)],
        [chunk(b'"x"],["y"', b'"p"'), chunk(b'"z"', b'"p"')],
        [chunk(b'"x', b'y","p"')],
        [chunk(b'"x",1],["y"', b'"p"')],
        [b'data: {"id":"i","choices":[{"index":0,"delta":{"content":"x","p"}\n\n'],
    ],
)  # fmt: skip
def test_events_that_are_json_together_only_are_broken(events):
    padding = b'"pp"' if b"obfuscation" in events[0] or b"finish" not in events[0] else None
    body = chunk(b'"first"', padding) * 2 + b"".join(events) + b"data: [DONE]\n\n"
    long = outcome([body], 0)
    assert outcome([body], 64) == long
    assert "BadReply" in long[1]


def test_a_run_comes_after_the_event_that_is_held_before_it():
    good = chunk(b'"first"', None)
    pieces = [good * 2 + chunk(b'"held"', None)[:-1], good * 3 + b"data: [DONE]\n\n"]
    assert outcome(pieces, 64) == outcome(pieces, 0)


def beside(text: str, **more: Any) -> bytes:
    """A chunk whose delta says something beside a text."""
    delta = {name: text if value is ... else value for name, value in more.items()}
    return b"data: %b\n\n" % orjson.dumps({"id": "i", "choices": [{"index": 0, "delta": delta}]})


@pytest.mark.parametrize(
    "more",
    [
        {"content": ..., "audio": {"id": "a", "data": "AAAA"}},  # silence: the same sound in each chunk
        {"reasoning_content": ..., "reasoning": "same"},
        {"reasoning_content": ..., "thinking": "same"},
        {
            "reasoning_content": ...,
            "reasoning_details": [{"type": "reasoning.text", "text": "same", "index": 0}],
        },
    ],
    ids=lambda more: "+".join(more),
)
@pytest.mark.parametrize("texts", [["same", "same", "same", "b", "c"], ["a", "same", "same", "b", "", "c"]])
def test_what_stays_the_same_beside_a_text_is_read_in_each_chunk(more, texts):
    body = b"".join(beside(text, **more) for text in texts) + b"data: [DONE]\n\n"
    long = outcome([body], 0)
    assert repr(outcome([body], 64)) == repr(long)
    assert repr(outcome([body[place : place + 1] for place in range(len(body))], 64)) == repr(long)


def test_of_a_text_that_is_there_twice_the_last_one_counts_in_each_chunk():
    twice = [(b'"a"', b'"b"'), (b'"c"', b'"\\u0000"'), (b'"d"', b'"\\u0000"'), (b'"e"', b'"\\u0000"')]
    body = b"".join(chunk(b'%b,"content":%b' % pair, None) for pair in twice) + b"data: [DONE]\n\n"
    long = outcome([body], 0)
    assert [event.text for event in long[0] if isinstance(event, TextDelta)] == ["b", "\0", "\0", "\0"]
    assert outcome([body], 64) == long


def test_runs_are_what_is_read_there(monkeypatch):
    """Were none of the chunks above read as a run, the law above would hold for nothing."""
    from llmpipe.dialects.openai_chat.template import Template

    read: list[int] = []
    real = Template._texts

    def texts(self: Template, found: list[bytes]) -> list[str] | None:
        said = real(self, found)
        read.append(0 if said is None else len(said))
        return said

    monkeypatch.setattr(Template, "_texts", texts)
    for padding in (None, b'"pp"'):
        body = chunk(b'"first"', padding) * 50
        events, _ = outcome([body], 64)
        assert [event.text for event in events if hasattr(event, "text")] == ["first"] * 50
        assert read.pop() == 48  # the first begins the reply, the second gives the template
        outcome([body + chunk(b'"a","b"', padding)], 64)
        assert read.pop() == 0
    assert not any(read)
