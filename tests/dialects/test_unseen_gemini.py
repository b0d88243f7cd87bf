"""What Google's servers send that no recording has: from the types of Google's SDK, its docs, bug reports."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.dialects.gemini_generate.usage import decode_usage, encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.errors import (
    BadReply,
    ContentFiltered,
    LLMError,
    Overloaded,
    StreamBroken,
)
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    Image,
    Message,
    Opaque,
    Reasoning,
    Request,
    Start,
    Text,
    ToolCall,
    Usage,
    fold,
)

NAME = "gemini.generate"
DIALECT = GeminiGenerate()
DONE = {"candidates": [{"finishReason": "STOP"}]}


def chunk(*parts: Any, **candidate: Any) -> dict[str, Any]:
    content = {"parts": list(parts), "role": "model"}
    return {"candidates": [{"content": content, "index": 0, **candidate}], "responseId": "r"}


def call(**fields: Any) -> dict[str, Any]:
    return {"functionCall": fields}


def streamed(*chunks: Any) -> Completion:
    """The stream's completion, by server-sent events and as an array: they have to be the same."""
    by_event, by_array = DIALECT.decoder(), DIALECT.decoder("application/json")
    events = by_event.feed(b"".join(b"data: %s\n\n" % orjson.dumps(one) for one in chunks)) + by_event.close()
    assert by_array.feed(orjson.dumps(list(chunks))) + by_array.close() == events
    return fold(events)


def both(*parts: Any, **candidate: Any) -> Completion:
    """A reply, which has to be the same whole and in one chunk."""
    wire = chunk(*parts, **{"finishReason": "STOP", **candidate})
    whole, stream = DIALECT.decode_reply(wire, {}), streamed(wire)
    assert (whole.message, whole.finish_reason, whole.extra) == (
        stream.message,
        stream.finish_reason,
        stream.extra,
    )
    return whole


# -- parts


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"text": "x", "thought": False}, Text("x")),
        ({"text": "x", "thought": None, "thoughtSignature": None}, Text("x")),
        ({"text": "x", "thoughtSignature": ""}, Text("x")),
        (
            {"inlineData": {"mimeType": "image/png", "data": "AA=="}},
            Image(data="AA==", media_type="image/png"),
        ),
        (
            {"inlineData": {"mimeType": "audio/L16;codec=pcm;rate=24000", "data": "AA=="}},
            Audio("AA==", "L16;codec=pcm;rate=24000"),
        ),
        (
            {"inlineData": {"mimeType": "video/mp4", "data": "AA=="}},
            Document(data="AA==", media_type="video/mp4"),
        ),
        (
            {"fileData": {"mimeType": "image/png", "fileUri": "gs://b/o"}},
            Image(url="gs://b/o", media_type="image/png"),
        ),
        ({"functionCall": {"id": "1", "name": "f"}}, ToolCall("1", "f", "{}")),
        ({"functionCall": {"id": "1", "name": "f", "args": None}}, ToolCall("1", "f", "{}")),
        (
            {"functionCall": {"id": "1", "name": "f", "args": {"a": 1}, "new": 2}},
            ToolCall("1", "f", '{"a":1}', {"functionCall": {"new": 2}}),
        ),
        *(
            (part, Opaque(NAME, part))
            for part in (
                {"inlineData": {"mimeType": "image/png", "data": "AA=="}, "thought": True},  # a draft
                {"executableCode": {"id": "1", "language": "PYTHON", "code": "print(1)"}},
                {"codeExecutionResult": {"id": "1", "outcome": "OUTCOME_FAILED", "output": "no"}},
                {"toolCall": {"id": "t", "toolType": "GOOGLE_SEARCH_WEB", "args": {"queries": ["x"]}}},
                {"toolResponse": {"id": "t", "toolType": "URL_CONTEXT"}, "thoughtSignature": "AA=="},
                {"audioTranscription": {"text": "hello"}},
                {"somethingNew": []},
            )
        ),
    ],
)
def test_a_part_of_each_kind_is_read_and_goes_back_as_it_was(part, found):
    done = both(part)
    assert done.message.parts == (found,)
    wire = DIALECT.encode_request(Request("m", [Message("user", "x"), done.message]))["contents"][1]["parts"]
    said = {
        name: value for name, value in part.items() if value or name not in ("thought", "thoughtSignature")
    }
    if "functionCall" in said:
        said = {"functionCall": {**said["functionCall"], "args": said["functionCall"].get("args") or {}}}
    assert wire == [said]


@pytest.mark.parametrize(
    "part", [{}, {"text": ""}, {"text": None}, {"text": "", "thought": True}, {"thought": True, "text": None}]
)
def test_a_part_that_says_nothing_is_none(part):
    assert both(part).message.parts == ()


@pytest.mark.parametrize("content", [None, {}, {"role": "model"}, {"parts": None}, {"parts": []}])
def test_a_candidate_without_parts_has_ended_all_the_same(content):
    wire = {"candidates": [{"content": content, "finishReason": "STOP"}]}
    assert DIALECT.decode_reply(wire, {}).finish_reason == "stop"
    assert streamed(wire).finish_reason == "stop"


def test_a_part_that_stands_alone_is_not_lost():
    wire = {"candidates": [{"content": {"parts": {"text": "hi"}}, "finishReason": "STOP"}]}
    assert DIALECT.decode_reply(wire, {}).text == streamed(wire).text == "hi"
    with pytest.raises(BadReply):
        DIALECT.decode_reply({"candidates": [{"content": {"parts": "hi"}, "finishReason": "STOP"}]}, {})


def test_a_signature_after_the_last_word_survives():
    done = streamed(
        chunk({"text": "Hi"}), chunk({"text": "", "thoughtSignature": "AA=="}, finishReason="STOP")
    )
    assert done.message.parts == (Text("Hi"), Reasoning("", "AA==", extra={"field": "text"}))
    wire = DIALECT.encode_request(Request("m", ["x", done.message]))
    assert wire["contents"][1]["parts"] == [{"text": "Hi"}, {"text": "", "thoughtSignature": "AA=="}]


# -- tool calls


def test_parallel_calls_of_one_name_are_two_and_know_their_results():
    done = streamed(
        chunk({**call(name="f", args={"a": 1}), "thoughtSignature": "AA=="}),
        chunk(call(name="f", args={"a": 2})),
        chunk({"text": ""}, finishReason="STOP"),
    )
    assert [one.args for one in done.tool_calls] == [{"a": 1}, {"a": 2}]
    assert len({one.id for one in done.tool_calls}) == 2
    assert done.finish_reason == "tool_calls"


def test_a_call_whose_arguments_come_later_without_its_name_is_one_call():
    done = streamed(
        chunk(call(name="f", args={})),
        chunk(call(args={"path": "/a"})),
        chunk(call(name="g", args={})),
        chunk(call(name="f", args={})),
        chunk(call(args={"path": "/b"}), finishReason="STOP"),
    )
    assert [(one.name, one.args) for one in done.tool_calls] == [
        ("f", {"path": "/a"}),
        ("g", {}),
        ("f", {"path": "/b"}),
    ]


@pytest.mark.parametrize("last", [call(), {"functionCall": {"willContinue": False}}])
def test_streamed_arguments_end_with_an_empty_call_or_without(last):
    pieces = [
        chunk(call(name="f", willContinue=True)),
        chunk(
            call(
                partialArgs=[{"jsonPath": "$.a", "stringValue": "Bo", "willContinue": True}],
                willContinue=True,
            )
        ),
        chunk(call(partialArgs=[{"jsonPath": "$.a", "stringValue": "ston"}], willContinue=True)),
        chunk(
            call(
                partialArgs=[
                    {"jsonPath": "$.b[1].c", "numberValue": 3},
                    {"jsonPath": "$['x y']", "nullValue": "NULL_VALUE"},
                    {"jsonPath": "$.d", "boolValue": False},
                    {"jsonPath": "not a path", "stringValue": "x"},
                    None,
                ]
            )
        ),
        chunk(last),
        chunk(call(name="g"), finishReason="STOP"),
    ]
    for end in (pieces, [*pieces[:4], *pieces[5:]]):
        first, second = streamed(*end).tool_calls
        assert first.args == {"a": "Boston", "b": [None, {"c": 3}], "x y": None, "d": False}
        assert (second.name, second.args) == ("g", {})


# -- ends


def test_every_finish_reason_and_block_reason_of_googles_sdk_is_known():
    types = pytest.importorskip("google.genai.types")
    from llmpipe.dialects.gemini_generate.finish import _FINISH

    assert {word.value for word in types.FinishReason} <= set(_FINISH)
    for reason in types.BlockedReason:
        wire = {"promptFeedback": {"blockReason": reason.value}}
        kind = BadReply if reason.value.endswith("UNSPECIFIED") else ContentFiltered
        with pytest.raises(kind):
            DIALECT.decode_reply(wire, {})


def test_every_field_of_a_candidate_in_googles_sdk_stands_by_its_name():
    types = pytest.importorskip("google.genai.types")
    names = {field.alias or name for name, field in types.Candidate.model_fields.items()}
    others = names - {"content", "finishReason", "index"}
    values = {name: {"x": [name]} for name in others}
    done = both({"text": "x"}, **values)
    assert {name: done.extra[name] for name in others} == values
    assert DIALECT.encode_reply(done)["candidates"][0].items() >= values.items()


@pytest.mark.parametrize("word", ["SAFETY", "PROHIBITED_CONTENT", "SPII", "RECITATION"])
def test_a_filter_in_the_middle_keeps_what_was_said(word):
    done = streamed(
        chunk({"text": "Once"}),
        {"candidates": [{"finishReason": word, "index": 0, "safetyRatings": [{"blocked": True}]}]},
        {"usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 5}},
    )
    assert (done.text, done.finish_reason) == ("Once", "content_filter")
    assert done.usage == Usage(3, 2, reasoning_tokens=2)


def test_a_prompt_blocked_in_a_stream_is_an_error_at_its_end():
    blocked = {"promptFeedback": {"blockReason": "JAILBREAK"}, "modelVersion": "m"}
    for chunks in ([blocked], [blocked, {"usageMetadata": {"promptTokenCount": 3}}]):
        with pytest.raises(ContentFiltered) as caught:
            streamed(*chunks)
        assert caught.value.code == "JAILBREAK"


def test_ratings_of_a_prompt_that_passed_are_no_refusal():
    done = streamed(
        {"promptFeedback": {"safetyRatings": [{"probability": "LOW"}]}, **chunk({"text": "x"})}, DONE
    )
    assert (done.text, done.finish_reason) == ("x", "stop")


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [
            {"usageMetadata": {"promptTokenCount": 3}, "modelVersion": "m"}
        ],  # an empty reply, as 2.5 sends some
        [{"candidates": []}],
        [chunk({"text": "x"})],
        [chunk({"text": "x"}, finishReason=None)],
        [chunk({"text": "x"}, finishReason="FINISH_REASON_UNSPECIFIED")],
        [DONE, {"candidates": [{"index": 1, "content": {"parts": [{"text": "x"}]}}]}],
    ],
)
def test_a_stream_without_its_end_is_no_success(chunks):
    with pytest.raises(StreamBroken):
        streamed(*chunks)


def test_fields_of_tomorrow_are_kept_at_every_level():
    done = streamed(
        {**chunk({"text": "a", "new": 1}), "modelStatus": {"stage": "PREVIEW"}},
        chunk({"text": "b"}, later={"x": 1}),
        {"candidates": [{"content": {"parts": [], "novel": True}, "finishReason": "STOP"}], "odd": [2]},
    )
    assert done.extra == {"modelStatus": {"stage": "PREVIEW"}, "odd": [2], "candidate": {"later": {"x": 1}}}
    assert done.message.extra == {"novel": True}
    assert done.message.parts == (Text("a", {"new": 1}), Text("b"))


# -- usage


@pytest.mark.parametrize(
    ("wire", "usage"),
    [
        ({"trafficType": "ON_DEMAND"}, None),
        ({}, None),
        ({"promptTokenCount": None, "totalTokenCount": None}, None),
        ({"promptTokenCount": "12", "candidatesTokenCount": "3"}, Usage(12, 3)),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, Usage(5, 0)),
        ({"promptTokenCount": 5, "cachedContentTokenCount": 9}, Usage(5, 0, cached_input_tokens=5)),
        ({"promptTokenCount": -1, "candidatesTokenCount": 2, "totalTokenCount": 6}, Usage(4, 2)),
    ],
)
def test_usage_comes_in_many_states(wire, usage):
    assert decode_usage(wire) == usage


_counts = (
    st.none() | st.integers(-5, 200) | st.integers(0, 2**40) | st.sampled_from(("7", "x", 1.5, 2.0, [], True))
)
_FIELDS = (
    "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount",
    "totalTokenCount", "toolUsePromptTokenCount",
)  # fmt: skip


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_FIELDS, _counts)))
def test_usage_of_any_numbers_adds_up(wire):
    usage = decode_usage(wire)
    if usage is None:
        return
    assert 0 <= usage.cached_input_tokens <= usage.input_tokens
    assert 0 <= usage.reasoning_tokens <= usage.output_tokens
    assert decode_usage(encode_usage(usage)) is not None


def test_usage_is_the_last_that_was_told():
    told = [{"promptTokenCount": 4, "candidatesTokenCount": n, "totalTokenCount": 4 + n} for n in (1, 5)]
    first, second = ({**chunk({"text": "x"}), "usageMetadata": one} for one in told)
    assert streamed(first, second, DONE).usage == Usage(4, 5)
    assert streamed(first, second, {**DONE, "usageMetadata": {"trafficType": "x"}}).usage == Usage(4, 5)
    assert streamed(chunk({"text": "x"}), DONE).usage is None


def test_counts_that_cannot_be_are_never_written_negative():
    assert encode_usage(Usage(1, 2, reasoning_tokens=9))["candidatesTokenCount"] == 0


# -- errors


@pytest.mark.parametrize(
    "last",
    [
        b'data: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}\n\n',
        b'data: [{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]\n\n',
        b'event: error\ndata: {"error":{"code":503,"message":"overloaded"}}\n\n',
        b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}\n',
    ],
)
def test_an_error_in_the_middle_comes_after_what_was_said(last):
    decoder = DIALECT.decoder()
    events = decoder.feed(b"data: %s\n\n" % orjson.dumps(chunk({"text": "Hi"})))
    assert fold(events).text == "Hi"
    with pytest.raises(Overloaded):
        for piece in itertools.chain((last,), ()):
            decoder.feed(piece)
        decoder.close()


# -- what goes out


@pytest.mark.parametrize("created", [1.7e12, -1e20, 1e300, float("nan")])
def test_an_instant_that_is_none_is_left_out(created):
    done = Completion("i", "m", Message("assistant", "x"), "stop", created=created)
    assert "createTime" not in DIALECT.encode_reply(done)
    encoder = DIALECT.encoder(Request("m"))
    encoder.feed(Start(created=created))
    assert b"createTime" not in encoder.close()


def test_empty_text_of_other_dialects_callers_is_not_sent_beside_other_parts():
    said = Message("user", [Text(""), Text("x")], dialect="openai.chat")
    answered = Message("assistant", [Text(""), ToolCall("c", "f", "{}")], dialect="openai.chat")
    contents = DIALECT.encode_request(Request("m", [said, answered]), Losses())["contents"]
    assert [content["parts"] for content in contents] == [
        [{"text": "x"}],
        [{"functionCall": {"id": "c", "name": "f", "args": {}}}],
    ]


def test_half_a_character_in_a_document_is_an_invalid_request():
    with pytest.raises(LLMError) as caught:
        DIALECT.encode_request(Request("m", Message("user", Document(text="\ud800"))))
    assert caught.value.metadata["param"] == "messages[0].parts[0].text"
