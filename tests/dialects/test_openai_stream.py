"""Streams, in and out: what servers send, and what we send."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import (
    BadReply,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Completion,
    Event,
    Extra,
    Finish,
    Message,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Start,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
    unfold,
)

DIALECT = OpenAIChat()
USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
DONE = b"data: [DONE]\n\n"


def chunk(
    delta: Any = None, finish: str | None = None, *, index: int = 0, choice: Any = None, **top: Any
) -> bytes:
    body: dict[str, Any] = {
        "id": "r",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        "choices": [],
    }
    if delta is not None:
        body["choices"] = [{"index": index, "delta": delta, "finish_reason": finish, **(choice or {})}]
    return b"data: " + orjson.dumps({**body, **top}) + b"\n\n"


def calls(*pieces: Any, **top: Any) -> bytes:
    return chunk({"tool_calls": list(pieces)}, **top)


def piece(
    index: Any = None, call_id: Any = None, name: Any = None, arguments: Any = None, **more: Any
) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fields = {"index": index, "id": call_id, "function": function}
    return {key: value for key, value in fields.items() if value is not None} | more


def decode(*pieces: bytes) -> list[Event]:
    decoder = DIALECT.decoder()
    events = [event for data in pieces for event in decoder.feed(data)]
    assert not decoder.finished or decoder.close() == []
    return events if decoder.finished else events + decoder.close()


def failure(*pieces: bytes) -> tuple[list[Event], LLMError]:
    """The events of a stream that fails, and the error, which stays."""
    decoder, events = DIALECT.decoder(), []
    with pytest.raises(LLMError) as caught:
        for data in pieces:
            events += decoder.feed(data)
        decoder.close()
    with pytest.raises(type(caught.value)):
        decoder.feed(DONE)
    with pytest.raises(type(caught.value)):
        decoder.close()
    return events, caught.value


# -- in


def test_a_stream_is_read_event_by_event():
    body = (
        chunk({"role": "assistant", "content": ""})
        + chunk({"content": "a"})
        + chunk({"content": "b"}, "stop")
    )
    assert decode(body + chunk(usage=USAGE) + DONE) == [
        Start("r", "m", created=5.0),
        TextDelta("a"),
        TextDelta("b"),
        UsageUpdate(Usage(2, 3)),
        Finish("stop"),
    ]


def test_events_are_given_as_soon_as_they_are_complete():
    decoder = DIALECT.decoder()
    assert decoder.feed(chunk({"content": "a"})[:-1]) == []
    assert decoder.feed(b"\n") == [Start("r", "m", created=5.0), TextDelta("a")]
    assert not decoder.finished
    assert decoder.feed(chunk({}, "stop")) == []
    assert decoder.feed(DONE) == [Finish("stop")]
    assert decoder.finished


def test_what_comes_after_the_end_is_ignored():
    body = chunk({"content": "a"}, "stop") + DONE
    more = DONE + chunk({"content": "zzz"}) + b": ping\n\ndata: {broken\n\n"
    assert decode(body + more) == decode(body)
    decoder = DIALECT.decoder()
    decoder.feed(body)
    assert decoder.feed(more) == []
    assert decoder.feed(b"data: " + b"x" * 9_000_000) == []


@pytest.mark.parametrize(
    "end", [b"data: [DONE]", b"data:[DONE]\n\n", b"data:  [DONE] \r\n\r\n", b"data: [DONE]\n"]
)
def test_the_end_is_known_however_it_is_written(end):
    assert decode(chunk({"content": "a"}, "stop"), end)[-1] == Finish("stop")


def test_comments_and_empty_events_are_signs_of_life():
    events = decode(b": PROCESSING\n\ndata:\n\n" + chunk({"content": "a"}, "stop") + DONE)
    assert events[:2] == [Ping(), Ping()]


def test_a_stream_may_end_without_done_where_its_last_chunk_says_everything():
    last = chunk({}, "stop", usage=USAGE)
    assert decode(chunk({"content": "a"}) + last)[-1] == Finish("stop")
    assert decode(chunk({"content": "a"}) + last[:-2])[-1] == Finish("stop")
    assert decode(chunk({"content": "a"}) + chunk({}, "stop", x_groq={"usage": USAGE}))[-1] == Finish("stop")
    perplexity = chunk(
        {"content": ""}, "stop", object="chat.completion.done", choice={"message": {"content": "a"}}
    )
    assert fold(decode(chunk({"content": "a"}) + perplexity)).text == "a"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data",
        b": ping\n\n",
        chunk({"content": "a"}),
        chunk({"content": "a"}, "stop"),
        chunk({"content": "a"}, "stop") + chunk(usage=USAGE),
        chunk({"content": "a"}, usage=USAGE) + chunk({}, "stop"),
        chunk({"content": "a"}, "stop", usage=None),
        chunk({"content": "a"}, "stop", usage={"prompt_tokens": 2, "completion_tokens": None}),
        chunk({"content": "a"}, "stop", usage=USAGE)[:-4],
        chunk({"content": "a"}, "stop", usage=USAGE) + chunk({"content": "more"}),
        chunk({"content": "a"}, index=1) + chunk({"content": "a"}, "stop", usage=USAGE),
        chunk({"content": "a"}, "stop") + b"data: [DONE",
    ],
)
def test_a_stream_without_its_end_is_broken_however_finished_it_looks(body):
    events, error = failure(body)
    assert isinstance(error, StreamBroken)
    assert (error.phase, error.billed, error.retryable, error.partial) == ("stream", "unknown", True, None)
    assert fold(events).finish_reason is None


def test_the_end_without_a_reply_is_a_bad_one():
    for body in (DONE, chunk(usage=USAGE) + DONE, b": x\n\n" + DONE, chunk({"content": "a"}, index=1) + DONE):
        assert isinstance(failure(body)[1], BadReply)


def test_an_end_without_a_finish_reason_ends_for_what_was_said():
    assert decode(chunk({"content": "a"}) + DONE)[-1] == Finish("stop")
    assert decode(calls(piece(0, "c", "f", "{}")) + DONE)[-1] == Finish("tool_calls")


def test_there_is_one_finish_and_the_first_word_counts():
    events = decode(chunk({"content": "a"}, "eos") + chunk({"content": "b"}, "length") + DONE)
    assert [event for event in events if type(event) is Finish] == [Finish("stop", {"finish_reason": "eos"})]
    assert events[-1] == Finish("stop", {"finish_reason": "eos"})
    assert fold(events).text == "ab"


def test_the_start_waits_for_the_first_chunk_that_says_whose_reply_it_is():
    first = chunk(id="", model="", created=0, prompt_filter_results=[{"prompt_index": 0}])
    events = decode(first + chunk({"content": "a"}, "stop", system_fingerprint="f") + DONE)
    extra = {"prompt_filter_results": [{"prompt_index": 0}], "system_fingerprint": "f"}
    assert events[0] == Start("r", "m", created=5.0, extra=extra)
    nameless = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    assert decode(nameless + DONE)[0] == Start()


# -- tool calls


def called(*bodies: bytes) -> list[tuple[str, str, str]]:
    done = fold(decode(b"".join(bodies) + chunk({}, "tool_calls") + DONE))
    return [(call.id, call.name, call.arguments) for call in done.tool_calls]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (  # OpenAI
            calls(piece(0, "c1", "f", ""))
            + calls(piece(0, arguments='{"a"'))
            + calls(piece(0, arguments=":1}")),
            [("c1", "f", '{"a":1}')],
        ),
        (  # parallel, in turn
            calls(piece(0, "c1", "f", ""))
            + calls(piece(0, arguments="{}"))
            + calls(piece(1, "c2", "g", "[]")),
            [("c1", "f", "{}"), ("c2", "g", "[]")],
        ),
        (  # interleaved, and out of order
            calls(piece(1, "c2", "g", "{"), piece(0, "c1", "f", "{"))
            + calls(piece(0, arguments="}"), piece(1, arguments=" }")),
            [("c2", "g", "{ }"), ("c1", "f", "{}")],
        ),
        (  # whole calls without a number
            calls(piece(None, "c1", "f", "{}"), piece(None, "c2", "f", "{}"))
            + calls(piece(None, "c3", "g", "{}")),
            [("c1", "f", "{}"), ("c2", "f", "{}"), ("c3", "g", "{}")],
        ),
        (  # whole calls, all numbered 0 (Ollama)
            calls(piece(0, "c1", "f", "{}"), piece(0, "c2", "f", "{}")),
            [("c1", "f", "{}"), ("c2", "f", "{}")],
        ),
        (  # id and name in every piece
            calls(piece(0, "c1", "f", "{"))
            + calls(piece(0, "c1", "f", "}"))
            + calls(piece(0, "c1", "f", "")),
            [("c1", "f", "{}")],
        ),
        (  # pieces without a number
            calls(piece(None, "c1", "f", ""))
            + calls(piece(None, None, None, "{"))
            + calls(piece(None, "c1", None, "}")),
            [("c1", "f", "{}")],
        ),
        (  # the name comes later than the id
            calls(piece(0, "c1")) + calls(piece(0, None, "f", "{}")),
            [("c1", "f", "{}")],
        ),
        (  # arguments as an object
            calls(piece(0, "c1", "f", {"a": 1})),
            [("c1", "f", '{"a":1}')],
        ),
        (  # cut off: it stays what it is
            calls(piece(0, "c1", "f", '{"a": [1, ')),
            [("c1", "f", '{"a": [1, ')],
        ),
    ],
)
def test_the_pieces_of_calls_come_together(body, expected):
    assert called(body) == expected


def test_calls_without_ids_are_told_apart_and_given_ids():
    gemini = calls(piece(0, "", "f", '{"a":1}')) + calls(piece(0, "", "f", '{"a":2}'))
    unnumbered = calls(piece(None, None, "f", '{"a":1}'), piece(None, "null", "f", '{"a":2}'))
    repeated = (
        calls(piece(0, None, "f", '{"a":'))
        + calls(piece(0, None, "f", "1}"))
        + calls(piece(1, None, "f", '{"a":2}'))
    )
    for body in (gemini, unnumbered, repeated):
        found = called(body)
        assert [call[1:] for call in found] == [("f", '{"a":1}'), ("f", '{"a":2}')]
        assert len({call[0] for call in found}) == 2
        assert all(0 < len(call[0]) <= 40 for call in found)
        assert called(body) == found


def test_a_function_of_2023_is_a_call():
    body = chunk({"function_call": {"name": "f", "arguments": ""}}) + chunk(
        {"function_call": {"arguments": "{}"}}
    )
    done = fold(decode(body + chunk({}, "function_call") + DONE))
    assert [(call.name, call.arguments, call.extra) for call in done.tool_calls] == [
        ("f", "{}", {"type": "function_call"})
    ]
    assert done.finish_reason == "tool_calls"


def test_custom_tools_and_what_calls_carry_besides_are_kept():
    custom = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "q", "input": "SEL"}}
    body = calls(custom) + calls({"index": 0, "type": "custom", "custom": {"input": "ECT"}})
    body += calls(piece(1, "c2", "f", "{}", extra_content={"google": {"thought_signature": "x"}}))
    done = fold(decode(body + DONE))
    assert done.tool_calls == (
        ToolCall("c1", "q", "SELECT", {"type": "custom"}),
        ToolCall("c2", "f", "{}", {"extra_content": {"google": {"thought_signature": "x"}}}),
    )


# -- reasoning


def thoughts(*deltas: dict[str, Any]) -> tuple[Any, ...]:
    return fold(decode(b"".join(map(chunk, deltas)) + DONE)).message.parts


def block(kind: str, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    return {"reasoning_details": [{"type": f"reasoning.{kind}", "index": index, "format": None, **fields}]}


@pytest.mark.parametrize(
    ("deltas", "parts"),
    [
        (
            [{"reasoning_content": "a"}, {"reasoning_content": "b"}, {"content": "c"}],
            (Reasoning("ab"), Text("c")),
        ),
        ([{"reasoning": "a"}, {"reasoning": "b"}], (Reasoning("ab", extra={"field": "reasoning"}),)),
        (
            [
                {"reasoning": "a", **block("text", text="a")},
                {"reasoning": "b", **block("text", text="b")},
                block("text", signature="s"),
            ],
            (Reasoning("ab", "s", extra={"type": "reasoning.text", "index": 0, "field": "reasoning"}),),
        ),
        (
            [
                block("summary", summary="a"),
                block("summary", summary="b"),
                block("encrypted", data="x", id="r"),
            ],
            (
                Reasoning("ab", extra={"type": "reasoning.summary", "index": 0}),
                Reasoning(encrypted="x", extra={"type": "reasoning.encrypted", "index": 0, "id": "r"}),
            ),
        ),
        (
            [block("text", 0, text="a"), block("text", 1, text="b"), block("text", 0, text="c")],
            (
                Reasoning("ac", extra={"type": "reasoning.text", "index": 0}),
                Reasoning("b", extra={"type": "reasoning.text", "index": 1}),
            ),
        ),
        (
            [{"reasoning": "a", **block("encrypted", data="x")}],
            (
                Reasoning("a", extra={"field": "reasoning"}),
                Reasoning(encrypted="x", extra={"type": "reasoning.encrypted", "index": 0}),
            ),
        ),
        (
            [{"reasoning_content": None, "reasoning": "", "content": "c", "reasoning_details": []}],
            (Text("c"),),
        ),
        (
            [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": t}]}]} for t in "ab"]
            + [{"content": "c"}, {"content": [{"type": "text", "text": "d"}]}],
            (Reasoning("ab", extra={"type": "thinking"}), Text("cd")),
        ),
        (
            [{"content": "a"}, {"content": [{"type": "reference", "reference_ids": [1]}]}, {"content": "b"}],
            (Text("a"), Opaque("openai.chat", {"type": "reference", "reference_ids": [1]}), Text("b")),
        ),
    ],
)
def test_reasoning_of_every_kind_comes_together(deltas, parts):
    assert thoughts(*deltas) == parts


def test_a_refusal_is_no_text():
    events = decode(chunk({"refusal": "I ca"}) + chunk({"refusal": "n't"}, "stop") + DONE)
    assert events[1:3] == [RefusalDelta("I ca"), RefusalDelta("n't")]
    assert (fold(events).refusal, fold(events).text) == ("I can't", "")


# -- what is not modelled


def test_fields_of_chunks_are_kept_where_they_change():
    body = chunk({"content": "a"}, system_fingerprint="f", citations=["x"], obfuscation="zz", p="abc")
    body += chunk({"content": "b"}, system_fingerprint="f", citations=["x"])
    body += chunk({"content": "c"}, system_fingerprint="g", citations=["x", "y"], timings={"ms": 5})
    events = decode(body + DONE)
    assert [event for event in events if type(event) is Extra] == [
        Extra({"system_fingerprint": "g"}),
        Extra({"citations": ["y"]}),
        Extra({"timings": {"ms": 5}}),
    ]
    assert fold(events).extra == {"system_fingerprint": "g", "citations": ["x", "y"], "timings": {"ms": 5}}


def test_fields_of_choices_and_deltas_are_kept_as_in_a_full_reply():
    first = {"logprobs": {"content": [{"token": "a"}]}, "content_filter_results": {}, "seed": 7, "text": "a"}
    second = {"logprobs": {"content": [{"token": "b"}]}, "content_filter_results": {"hate": {}}, "seed": 7}
    body = chunk({"content": "a", "name": "assistant", "token_id": 1}, choice=first)
    body += chunk({"content": "b", "name": "assistant", "annotations": [1]}, choice=second)
    body += chunk({"annotations": [1]}, "stop")
    done = fold(decode(body + DONE))
    assert done.extra == {
        "logprobs": {"content": [{"token": "a"}, {"token": "b"}]},
        "content_filter_results": {"hate": {}},
        "choice": {"seed": 7},
    }
    assert done.message.extra == {"name": "assistant", "annotations": [1, 1]}


def test_usage_may_stand_in_any_chunk_and_only_news_are_told():
    body = chunk({"content": "a"}, usage={"prompt_tokens": 2, "completion_tokens": None})
    body += chunk({"content": "b"}, usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3})
    body += chunk({"content": "c"}, usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3})
    body += chunk({}, "stop", x_groq={"id": "q", "usage": USAGE}) + chunk(usage=USAGE)
    updates = [event.usage for event in decode(body + DONE) if type(event) is UsageUpdate]
    assert updates == [Usage(2, 1), Usage(2, 3)]


def test_other_choices_are_kept_whole_in_the_form_of_a_full_reply():
    body = chunk({"role": "assistant", "content": "A"}) + chunk({"content": "B"}, index=1)
    body += chunk({"content": "2"}, index=1, choice={"logprobs": {"content": [1]}}) + chunk(
        {}, "length", index=1
    )
    body += chunk({"tool_calls": [piece(0, "c", "f", "{}")]}, "tool_calls", index=2) + chunk(
        {"content": "1"}, "stop"
    )
    done = fold(decode(body + DONE))
    assert done.text == "A1"
    assert done.extra["choices"] == [
        {
            "index": 1,
            "message": {"role": "assistant", "content": "B2", "refusal": None},
            "logprobs": {"content": [1]},
            "finish_reason": "length",
        },
        {
            "index": 2,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
    ]


def test_a_whole_message_in_a_chunk_counts_only_where_there_were_no_deltas():
    whole = chunk(
        None, choices=[{"index": 0, "message": {"content": "all"}, "finish_reason": "stop"}], usage=USAGE
    )
    assert fold(decode(whole)).text == "all"
    assert fold(decode(chunk({"content": "al"}) + chunk({"content": "l"}) + whole)).text == "all"


# -- errors


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b'data: {"error":{"message":"down","code":503}}\n\n', Overloaded, "down"),
        (b'data: {"error":{"message":"slow","type":"rate_limit_error"}}\n\n', RateLimited, "slow"),
        (b'data: {"error":"down"}\n\n', ServiceUnavailable, "down"),
        (
            b'data: {"object":"error","message":"bad","type":"BadRequestError","code":400}\n\n',
            InvalidRequest,
            "bad",
        ),
        (b'event: error\ndata: {"message":"down"}\n\n', ServiceUnavailable, "down"),
        (chunk({"content": ""}, "error", error={"code": 502, "message": "down"}), ServiceUnavailable, "down"),
        (chunk({"content": ""}, choice={"error": {"code": 429, "message": "slow"}}), RateLimited, "slow"),
        (b"data: {broken\n\n", BadReply, "not JSON"),
        (b'data: {"a":1}{"b":2}\n\n', BadReply, "character 7"),
        (b"data: [1]\n\n", BadReply, "no object"),
        (b"data: null\n\n", BadReply, "no object"),
        (b'data: "x"\n\n', BadReply, "no object"),
        (chunk({}, choice={"index": "x"}), BadReply, "index"),
    ],
)
def test_an_error_inside_a_stream_is_classified_and_comes_after_what_was_complete(data, kind, words):
    events, error = failure(chunk({"content": "a"}) + data + chunk({"content": "z"}) + DONE)
    assert type(error) is kind
    assert words in error.message
    assert error.phase == "stream"
    assert error.billed == "unknown"
    assert events[1] == TextDelta("a")
    assert fold(events).text == "a"
    assert fold(events).finish_reason is None


def test_the_usage_that_comes_with_an_error_is_told():
    events, _ = failure(chunk({"content": "a"}) + chunk({}, error={"code": 400, "message": "x"}, usage=USAGE))
    assert events[-1] == UsageUpdate(Usage(2, 3))


def test_a_plain_json_error_in_place_of_a_stream_is_that_error():
    events, error = failure(b'{"error": {"message": "no capacity", "type": "overloaded_error"}}\n')
    assert (events, type(error)) == ([], Overloaded)
    assert isinstance(failure(b"<html>busy</html>\n")[1], StreamBroken)


def test_secrets_in_a_broken_chunk_are_not_shown():
    _, error = failure(b"data: {oops sk-abcdefghijklmnop\n\n")
    assert "abcdefghijklmnop" not in error.message


def test_an_event_past_the_limit_is_a_bad_reply():
    decoder = OpenAIChat(max_event_bytes=300).decoder()
    with pytest.raises(BadReply, match="300 bytes"):
        decoder.feed(chunk({"content": "x" * 400}))


def test_a_json_body_in_place_of_a_stream_is_read_whole():
    decoder = DIALECT.decoder("application/json; charset=utf-8")
    body = orjson.dumps(
        DIALECT.encode_reply(Completion("r", "m", Message("assistant", "a"), "stop", Usage(1, 2)))
    )
    assert decoder.feed(body[:9]) == decoder.feed(body[9:]) == []
    assert not decoder.finished
    done = fold(decoder.close())
    assert (done.text, done.finish_reason, done.usage) == ("a", "stop", Usage(1, 2))
    cut = DIALECT.decoder("application/json")
    cut.feed(body[:-5])
    with pytest.raises(BadReply):
        cut.close()
    with pytest.raises(BadReply, match="limit"):
        OpenAIChat(max_event_bytes=10).decoder("application/json").feed(body)


# -- out


def encode(*events: Event, request: Request | None = None) -> list[Any]:
    encoder = DIALECT.encoder(request or Request())
    body = b"".join(map(encoder.feed, events)) + encoder.close()
    assert body.endswith(b"\n\n")
    return [
        orjson.loads(line[6:]) if line != b"data: [DONE]" else "[DONE]"
        for line in body.split(b"\n\n")
        if line
    ]


ASKED = Request(stream=True, extra={"stream_options": {"include_usage": True}})


def test_a_stream_is_sent_as_openai_sends_it():
    sent = encode(
        Start("r", "m", "p", 5.7, extra={"service_tier": "default"}),
        TextDelta('Grüß "dich"\n\u2028'),
        Finish("stop"),
        UsageUpdate(Usage(2, 3)),
        request=ASKED,
    )
    head = {"id": "r", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert sent == [
        {
            **head,
            "service_tier": "default",
            "choices": [{**choice, "delta": {"role": "assistant", "content": ""}}],
        },
        {**head, "choices": [{**choice, "delta": {"content": 'Grüß "dich"\n\u2028'}}]},
        {**head, "choices": [{**choice, "delta": {}, "finish_reason": "stop"}]},
        {
            **head,
            "choices": [],
            "usage": {
                **USAGE,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        },
        "[DONE]",
    ]


@pytest.mark.parametrize(
    "extra", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}]
)
def test_usage_is_sent_only_where_it_was_asked_for(extra):
    sent = encode(
        Start("r"), TextDelta("a"), UsageUpdate(Usage(1, 1)), Finish("stop"), request=Request(extra=extra)
    )
    assert not any("usage" in item for item in sent[:-1])


def test_the_role_comes_first_even_where_no_start_was_given():
    assert encode(TextDelta("a"))[0]["choices"][0]["delta"]["role"] == "assistant"
    assert encode(ToolDelta(0, "c", "f"))[0]["choices"][0]["delta"]["role"] == "assistant"
    assert encode()[0]["choices"][0]["delta"]["role"] == "assistant"


def test_calls_are_numbered_from_zero_in_the_order_they_begin():
    sent = encode(
        Start("r"),
        TextDelta("a"),
        ToolDelta(3, "c3", "f"),
        ToolDelta(3, arguments="{}"),
        ToolDelta(1, "c1", "g", "{"),
        ToolDelta(3, arguments=" "),
        ToolDelta(1, arguments="}", extra={"extra_content": 1}),
    )
    deltas = [item["choices"][0]["delta"]["tool_calls"][0] for item in sent[2:-1]]
    assert deltas == [
        {"index": 0, "id": "c3", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": "{}"}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": " "}},
        {"index": 1, "function": {"arguments": "}"}, "extra_content": 1},
    ]


def test_a_late_id_or_name_of_a_call_is_sent_too():
    sent = encode(ToolDelta(0, arguments=""), ToolDelta(0, "c", "f", "{}"))
    assert sent[2]["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "function": {"name": "f", "arguments": "{}"}, "id": "c"}
    ]


@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (ReasoningDelta("hm"), {"reasoning_content": "hm"}),
        (ReasoningDelta("hm", extra={"field": "reasoning"}), {"reasoning": "hm"}),
        (ReasoningDelta("hm", extra={"type": "thinking", "closed": True}), {"reasoning_content": "hm"}),
        (
            ReasoningDelta(signature="s"),
            {"reasoning_details": [{"type": "reasoning.text", "signature": "s"}]},
        ),
        (
            ReasoningDelta(encrypted="x", extra={"type": "reasoning.encrypted", "index": 0}),
            {"reasoning_details": [{"type": "reasoning.encrypted", "index": 0, "data": "x"}]},
        ),
        (RefusalDelta("no"), {"refusal": "no"}),
        (Extra({"annotations": [1]}, of="message"), {"annotations": [1]}),
    ],
)
def test_each_event_has_its_delta(event, delta):
    assert encode(Start("r"), event)[1]["choices"][0]["delta"] == delta


def test_every_piece_of_a_thought_goes_where_its_first_went():
    """Else the pieces would be several thoughts, and the signature nobody's."""
    block = {"type": "reasoning.text", "index": 0, "format": "v1"}
    sent = encode(
        Start("r"),
        ReasoningDelta("I ", extra={**block, "field": "reasoning"}),
        ReasoningDelta("see", 0),
        ReasoningDelta(signature="s"),
        ReasoningDelta("elsewhere", 1),
    )
    assert [item["choices"][0]["delta"] for item in sent[1:-1]] == [
        {"reasoning": "I ", "reasoning_details": [{**block, "text": "I "}]},
        {"reasoning": "see", "reasoning_details": [{**block, "text": "see"}]},
        {"reasoning_details": [{**block, "signature": "s"}]},
        {"reasoning_content": "elsewhere"},
    ]


def test_a_provider_event_we_cannot_say_is_left_out():
    assert (
        len(encode(Start("r"), Extra(part=Opaque("anthropic.messages", {"type": "x"})), ReasoningDelta("")))
        == 2
    )


def test_pings_are_comments():
    encoder = DIALECT.encoder(Request())
    assert encoder.feed(Ping()) == b": ping\n\n"
    assert DIALECT.decoder().feed(encoder.feed(Ping())) == [Ping()]


@pytest.mark.parametrize("kind", [Overloaded, RateLimited, InvalidRequest, ServiceUnavailable])
def test_a_failure_ends_the_stream_without_its_end_and_is_read_as_the_same_failure(kind):
    encoder = DIALECT.encoder(Request())
    body = encoder.feed(TextDelta("a")) + encoder.fail(kind("no sk-abcdefghijkl", code="why"))
    assert b"[DONE]" not in body
    assert b"abcdefghijkl" not in body
    events, error = failure(body)
    assert type(error) is kind
    assert (error.code, error.retryable) == ("why", kind.default_retryable)
    assert fold(events).text == "a"


def test_the_official_client_understands_our_chunks():
    chat = pytest.importorskip("openai.types.chat")
    done = Completion(
        "r",
        "m",
        Message("assistant", [Text("a"), ToolCall("c", "f", "{}")]),
        "tool_calls",
        Usage(1, 2),
        created=3.0,
    )
    for item in encode(*unfold(done), request=ASKED)[:-1]:
        chat.ChatCompletionChunk.model_validate(item, strict=True)
