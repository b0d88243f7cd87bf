"""Replies, streams and errors of Gemini that no recording has."""

from __future__ import annotations

from itertools import pairwise

import orjson
import pytest

from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.dialects.gemini_generate.array import ArraySplitter
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.types import (
    Completion,
    Extra,
    Finish,
    Image,
    Message,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
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

NAME = "gemini.generate"
DIALECT = GeminiGenerate()


def reply(*parts, finish="STOP", **more):
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": finish, "index": 0}
    return {"candidates": [{**candidate, **more}], "modelVersion": "m", "responseId": "r"}


def sse(*chunks):
    return b"".join(b"data: %s\r\n\r\n" % orjson.dumps(chunk) for chunk in chunks)


def read(body, kind="text/event-stream"):
    decoder = DIALECT.decoder(kind)
    return decoder.feed(body) + decoder.close()


# -- full replies


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        (1, "stop"),
        ("A_REASON_OF_TOMORROW", "stop"),
        ("MAX_TOKENS", "length"),
        (2, "length"),
        *[(word, "content_filter") for word in ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "SPII")],
        *[(word, "content_filter") for word in ("PROHIBITED_CONTENT", "IMAGE_SAFETY", "MODEL_ARMOR", 3, 8)],
        *[(word, "error") for word in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", 5)],
    ],
)
def test_a_finish_reason_is_ours_and_stays_the_wires(word, reason):
    done = DIALECT.decode_reply(reply({"text": "x"}, finish=word), {})
    assert done.finish_reason == reason
    if isinstance(word, str):
        assert DIALECT.encode_reply(done)["candidates"][0]["finishReason"] == word


def test_calls_make_the_finish_tool_calls_and_get_ids():
    call = {"functionCall": {"name": "f", "args": {"a": 1}}}
    done = DIALECT.decode_reply(reply(call, call), {})
    assert done.finish_reason == "tool_calls"
    assert [(one.name, one.arguments) for one in done.tool_calls] == [("f", '{"a":1}')] * 2
    assert len({one.id for one in done.tool_calls}) == 2
    assert done.tool_calls == fold(read(sse(reply(call), reply(call)))).tool_calls


def test_a_signature_stands_before_what_it_signs():
    signed = {"inlineData": {"mimeType": "image/png", "data": "AA=="}, "thoughtSignature": "s1"}
    parts = [
        {"text": "hm", "thought": True, "thoughtSignature": "s0"},
        signed,
        {"text": "", "thoughtSignature": "s2"},
    ]
    done = DIALECT.decode_reply(reply(*parts), {})
    assert done.message.parts == (
        Reasoning("hm", "s0"),
        Reasoning("", "s1"),
        Image(data="AA==", media_type="image/png"),
        Reasoning("", "s2", extra={"field": "text"}),
    )
    assert {part.origin for part in done.message.parts if isinstance(part, Reasoning)} == {NAME}
    assert DIALECT.encode_reply(done)["candidates"][0]["content"]["parts"] == parts


@pytest.mark.parametrize("streamed", [False, True])
def test_a_blocked_prompt_is_an_error(streamed):
    feedback = {
        "blockReason": "PROHIBITED_CONTENT",
        "blockReasonMessage": "no",
        "safetyRatings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "HIGH"}],
    }
    body = {
        "promptFeedback": feedback,
        "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4},
        "modelVersion": "m",
    }
    with pytest.raises(ContentFiltered) as caught:
        read(sse(body)) if streamed else DIALECT.decode_reply(body, {})
    assert caught.value.code == "PROHIBITED_CONTENT"
    assert caught.value.metadata == {"categories": ["HARM_CATEGORY_HATE_SPEECH"]}


def test_a_reply_without_candidates_is_none():
    for body in ({}, {"candidates": []}, {"usageMetadata": {"promptTokenCount": 3}, "modelVersion": "m"}):
        with pytest.raises(BadReply) as caught:
            DIALECT.decode_reply(body, {})
        assert caught.value.retryable
    with pytest.raises(Overloaded):
        DIALECT.decode_reply({"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}, {})


def test_further_candidates_are_kept_whole_and_streamed_alike():
    second = {
        "content": {"parts": [{"text": "bcd"}], "role": "model"},
        "finishReason": "MAX_TOKENS",
        "index": 1,
    }
    body = reply({"text": "a"})
    body["candidates"].append(second)
    done = DIALECT.decode_reply(body, {})
    assert (done.text, done.extra) == ("a", {"candidates": [second]})
    half = {**second, "content": {"parts": [{"text": "b"}], "role": "model"}, "finishReason": None}
    rest = {**second, "content": {"parts": [{"text": "cd"}], "role": "model"}}
    chunks = [{**body, "candidates": [body["candidates"][0], half]}, {**body, "candidates": [rest]}]
    assert fold(read(sse(*chunks))) == done
    with pytest.raises(StreamBroken):
        read(sse(chunks[0]))


@pytest.mark.parametrize(
    ("wire", "counts"),
    [
        (
            {
                "promptTokenCount": 5,
                "candidatesTokenCount": 3,
                "thoughtsTokenCount": 4,
                "totalTokenCount": 12,
            },
            (5, 7, 4),
        ),
        (
            {
                "promptTokenCount": 5,
                "candidatesTokenCount": 7,
                "thoughtsTokenCount": 4,
                "totalTokenCount": 12,
            },
            (5, 7, 4),
        ),
        ({"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 12}, (5, 7, 4)),
        ({"promptTokenCount": 5, "toolUsePromptTokenCount": 9, "totalTokenCount": 14}, (14, 0, 0)),
        ({"promptTokenCount": 5, "totalTokenCount": 5}, (5, 0, 0)),
        ({"trafficType": "ON_DEMAND"}, None),
        ({"promptTokenCount": -1, "candidatesTokenCount": "x"}, None),
    ],
)
def test_thoughts_are_part_of_the_output(wire, counts):
    done = DIALECT.decode_reply({**reply({"text": "x"}), "usageMetadata": wire}, {})
    usage = done.usage
    assert (usage and (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens)) == counts
    if usage is not None:
        again = DIALECT.encode_reply(done)["usageMetadata"]
        assert again["totalTokenCount"] == wire["totalTokenCount"]
        assert again["promptTokenCount"] == wire["promptTokenCount"]


# -- streams


def test_words_come_as_they_are_written_and_the_finish_when_nothing_more_can_come():
    decoder = DIALECT.decoder()
    usage = {"promptTokenCount": 2, "candidatesTokenCount": 1, "totalTokenCount": 3}
    assert decoder.feed(sse(reply({"text": "a"}, finish=None))) == [Start("r", "m"), TextDelta("a", 0)]
    assert decoder.feed(sse(reply({"text": "b"}))) == [TextDelta("b", 0)]
    assert decoder.feed(b": alive\r\n\r\n") == [Ping()]
    assert decoder.feed(sse({"usageMetadata": usage})) == [UsageUpdate(Usage(2, 1))]
    assert not decoder.finished
    assert decoder.close() == [Finish("stop")]


def test_a_stream_of_old_that_says_stop_in_every_chunk_is_read_to_its_end():
    done = fold(read(sse(reply({"text": "a"}), reply({"text": "b"}))))
    assert (done.text, done.finish_reason) == ("ab", "stop")


def test_an_array_ends_with_its_bracket():
    body = orjson.dumps(
        [reply({"text": 'a]}"\\'}, finish=None), reply({"text": "b"})], option=orjson.OPT_INDENT_2
    )
    decoder = DIALECT.decoder("application/json; charset=UTF-8")
    events = [
        event for a, b in pairwise([*range(0, len(body), 3), len(body)]) for event in decoder.feed(body[a:b])
    ]
    assert decoder.finished
    assert fold(events + decoder.close()).text == 'a]}"\\b'
    with pytest.raises(StreamBroken, match="not closed"):
        read(body[:-1], "application/json")
    with pytest.raises(StreamBroken, match="finish reason"):
        read(orjson.dumps([reply({"text": "a"}, finish=None)]), "application/json")


@pytest.mark.parametrize("body", [b"", b" ", b"[]", b"<html>", b"nope", b"[1]", b'{"a":', b"[{},]"])
def test_an_array_that_is_none_is_an_error(body):
    with pytest.raises((BadReply, StreamBroken)):
        read(body, "application/json")


def test_an_array_in_bytes_of_one_is_scanned_once():
    splitter, body = ArraySplitter(100), b'\xef\xbb\xbf[{"a":"\\\\\\"}"} , {"b":[{}]}]'
    assert [found for i in range(len(body)) for found in splitter.feed(body[i : i + 1])] == [
        b'{"a":"\\\\\\"}"}',
        b'{"b":[{}]}',
    ]
    assert splitter.closed
    with pytest.raises(BadReply, match="larger"):
        ArraySplitter(100).feed(b"[{" + b" " * 200)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (
            sse(
                reply({"text": "a"}, finish=None),
                {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}},
            ),
            "text/event-stream",
        ),
        (
            sse(reply({"text": "a"}, finish=None)) + b'[{"error": {"code": 503, "message": "x"}}]',
            "text/event-stream",
        ),
        (
            orjson.dumps([reply({"text": "a"}, finish=None), {"error": {"code": 503, "message": "x"}}]),
            "application/json",
        ),
    ],
)
def test_an_error_inside_a_stream_comes_after_what_was_before_it(body, kind):
    decoder = DIALECT.decoder(kind)
    assert TextDelta("a", 0) in decoder.feed(body)
    with pytest.raises(Overloaded) as caught:
        decoder.close()
    assert (caught.value.billed, caught.value.phase) == ("unknown", "stream")


def test_an_error_in_place_of_an_array_is_told():
    with pytest.raises(RateLimited):
        read(b'{"error": {"code": 429, "message": "x"}}', "application/json")


def test_arguments_that_come_in_pieces_are_one_call():
    def piece(path, value, **more):
        return {"jsonPath": path, "stringValue": value, **more}

    chunks = [
        reply({"functionCall": {"name": "f", "willContinue": True}, "thoughtSignature": "s"}, finish=None),
        reply(
            {"functionCall": {"partialArgs": [piece("$.a", "x", willContinue=True)], "willContinue": True}},
            finish=None,
        ),
        reply(
            {
                "functionCall": {
                    "partialArgs": [
                        piece("$.a", "y"),
                        {"jsonPath": "$.list[1].b", "numberValue": 2},
                        {"jsonPath": "$['c d']", "nullValue": "NULL_VALUE"},
                        {"jsonPath": "$..x", "boolValue": True},
                    ],
                    "willContinue": True,
                }
            },
            finish=None,
        ),
        reply({"functionCall": {}}, {"functionCall": {"name": "g", "args": {}}}),
    ]
    done = fold(read(sse(*chunks)))
    f, g = done.tool_calls
    assert orjson.loads(f.arguments) == {"a": "xy", "list": [None, {"b": 2}], "c d": None}
    assert (g.name, g.arguments) == ("g", "{}")
    assert done.message.parts[0] == Reasoning("", "s")


def test_grounding_that_grows_is_told_once_at_the_end():
    first = {"groundingChunks": [{"web": {"uri": "a"}}]}
    second = {"groundingChunks": [{"web": {"uri": "a"}}, {"web": {"uri": "b"}}], "webSearchQueries": ["q"]}
    chunks = [
        reply({"text": "x"}, finish=None, groundingMetadata=first),
        reply({"text": "y"}, groundingMetadata=second),
    ]
    assert fold(read(sse(*chunks))).extra == {"groundingMetadata": second}


def test_parts_of_tomorrow_are_opaque():
    part = {"aPartOfTomorrow": {"x": 1}, "thoughtSignature": "s"}
    assert DIALECT.decode_reply(reply(part), {}).message.parts == (Opaque(NAME, part),)
    assert Extra(part=Opaque(NAME, part)) in read(sse(reply(part)))


# -- the server's side


def test_a_call_that_is_no_json_is_what_gemini_calls_malformed():
    message = Message("assistant", [Text("x"), ToolCall("a", "f", '{"x": ')])
    done = Completion("r", "m", message, "tool_calls")
    (candidate,) = DIALECT.encode_reply(done)["candidates"]
    assert candidate["finishReason"] == "MALFORMED_FUNCTION_CALL"
    assert candidate["content"]["parts"] == [{"text": "x"}]
    encoder = DIALECT.encoder(Request("m"))
    again = fold(read(b"".join(map(encoder.feed, unfold(done))) + encoder.close()))
    assert (again.finish_reason, again.tool_calls) == ("error", ())
    assert "f(" in again.extra["finishMessage"]


def test_calls_that_come_interleaved_go_out_whole():
    encoder = DIALECT.encoder(Request("m"))
    events = [
        ToolDelta(0, "a", "f", '{"x"'),
        ToolDelta(1, "b", "g", "{"),
        ToolDelta(0, arguments=":1}"),
        ToolDelta(1, arguments="}"),
        Finish("tool_calls"),
    ]
    done = fold(read(b"".join(map(encoder.feed, events)) + encoder.close()))
    assert done.tool_calls == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))
    assert done.finish_reason == "tool_calls"


def test_other_dialects_extra_is_not_shown():
    message = Message(
        "assistant", [Text("x", {"citations": []}), Opaque("other", {})], extra={"a": 1}, dialect="other"
    )
    done = Completion(
        "r", "m", message, "stop", Usage(1, 2, extra={"tier": "x"}), extra={"stop_sequence": "x"}
    )
    expected = {
        "candidates": [
            {"content": {"parts": [{"text": "x"}], "role": "model"}, "finishReason": "STOP", "index": 0}
        ],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
        "modelVersion": "m",
        "responseId": "r",
    }
    assert DIALECT.encode_reply(done) == expected
    encoder = DIALECT.encoder(Request("m"))
    wire = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    assert all(word not in wire for word in (b"citations", b"stop_sequence", b"tier", b'"a":'))


def test_a_proof_of_another_provider_is_sealed_and_comes_back():
    origin = "anthropic.messages"
    message = Message(
        "assistant",
        [Reasoning("t", "s", origin=origin), Reasoning("", None, "e", origin=origin)],
        dialect=origin,
    )
    content = DIALECT.encode_reply(Completion("r", "m", message, "stop"))["candidates"][0]["content"]
    assert all(part["thoughtSignature"] != "s" and part["thought"] for part in content["parts"])
    request = DIALECT.decode_request({"contents": [content]})
    assert request.messages[0].parts == message.parts
    assert [part.origin for part in request.messages[0].parts] == [origin, origin]
    encoder = DIALECT.encoder(Request("m"))
    events = [
        Start(dialect=origin),
        ReasoningDelta("t"),
        ReasoningDelta("u"),
        ReasoningDelta("", 0, "s", origin=origin),
        TextDelta("x", 1),
        Finish("stop"),
    ]
    wire = b"".join(map(encoder.feed, events)) + encoder.close()
    parts = [
        part
        for line in wire.split(b"\n")
        if line
        for part in orjson.loads(line[6:])["candidates"][0]["content"]["parts"]
    ]
    (turn,) = DIALECT.decode_request({"contents": [{"role": "model", "parts": parts}]}).messages
    assert turn.parts[:2] == (Reasoning("tu", "s"), Text("x"))


@pytest.mark.parametrize("forged", ["bGxtcGlwZTo=", "bGxtcGlwZTphOnt9", "bGxtcGlwZTphOlsxLDJd", "%%%", "é"])
def test_a_seal_that_is_none_of_ours_is_a_signature_like_any(forged):
    part = {"functionCall": {"name": "f"}, "thoughtSignature": forged}
    (message,) = DIALECT.decode_request({"contents": [{"role": "model", "parts": [part]}]}).messages
    assert message.parts[0] == Reasoning("", forged)


# -- errors


def wire_error(status, word, message="m", *details):
    return orjson.dumps(
        [{"error": {"code": status, "message": message, "status": word, "details": list(details)}}]
    )


QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}


@pytest.mark.parametrize(
    ("violation", "kind", "after"),
    [
        ({"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}, RateLimited, 12.5),
        ({"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}, QuotaExceeded, None),
        ({"quotaId": "InputTokensPerModelPerMinute-FreeTier", "quotaValue": "0"}, QuotaExceeded, None),
    ],
)
def test_a_days_quota_is_no_rate_limit(violation, kind, after):
    body = wire_error(429, "RESOURCE_EXHAUSTED", "m", {"@type": QUOTA, "violations": [violation]}, RETRY)
    error = DIALECT.decode_error(429, {}, body)
    assert type(error) is kind
    assert (error.retry_after, error.code) == (after, "RESOURCE_EXHAUSTED")
    assert error.metadata["quotas"] == violation["quotaId"]


@pytest.mark.parametrize(
    ("status", "word", "message", "kind"),
    [
        (400, "INVALID_ARGUMENT", "m", InvalidRequest),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (9) exceeds the maximum number of tokens allowed (8).",
            ContextTooLong,
        ),
        (401, "UNAUTHENTICATED", "m", AuthenticationFailed),
        (403, "PERMISSION_DENIED", "m", PermissionDenied),
        (404, "NOT_FOUND", "m", ModelNotFound),
        (429, "RESOURCE_EXHAUSTED", "m", RateLimited),
        (499, "CANCELLED", "m", ServiceUnavailable),
        (500, "INTERNAL", "m", ServiceUnavailable),
        (503, "UNAVAILABLE", "m", Overloaded),
        (504, "DEADLINE_EXCEEDED", "m", ServiceUnavailable),
    ],
)
def test_errors_are_classified_the_same_everywhere(status, word, message, kind):
    body = wire_error(status, word, message)
    error = DIALECT.decode_error(status, {}, body)
    assert type(error) is kind
    assert (error.status, error.code, error.message) == (status, word, message)
    with pytest.raises(kind):
        read(b"data: " + body + b"\n\n")
    with pytest.raises(kind):
        read(body, "application/json")


def test_a_precondition_that_failed_may_hold_elsewhere():
    error = DIALECT.decode_error(400, {}, wire_error(400, "FAILED_PRECONDITION", "not in your country"))
    assert (type(error), error.rescue, error.retryable) == (InvalidRequest, "any", False)


def test_a_page_of_a_proxy_is_an_error_too():
    assert type(DIALECT.decode_error(502, {"retry-after": "3"}, b"<html>bad</html>")) is ServiceUnavailable
    assert DIALECT.decode_error(429, {}, b"").message


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("x", metadata={"param": "a"}),
        ContextTooLong("too much"),
        ContentFiltered("no"),
        AuthenticationFailed("who"),
        PermissionDenied("you"),
        ModelNotFound("what"),
        QuotaExceeded("broke"),
        RateLimited("slow", retry_after=2.25),
        Overloaded("full"),
    ],
)
def test_our_errors_come_back_as_what_they_were(error):
    status, headers, body = DIALECT.encode_error(error)
    again = DIALECT.decode_error(status, headers, orjson.dumps(body))
    assert type(again) is type(error)
    assert (again.status, again.message) == (error.status, error.message)
    assert body["error"]["code"] == status
    if error.retry_after is not None:
        assert headers == {"retry-after": "3"}
        assert body["error"]["details"][1]["retryDelay"] == "2.25s"


def test_every_error_can_be_encoded():
    for kind in (StreamBroken, BadReply, LLMError):
        status, _, body = DIALECT.encode_error(kind("x", retry_after=float("nan")))
        assert 500 <= status < 600
        assert orjson.loads(DIALECT.encoder(Request("m")).fail(kind("x"))[6:])["error"]["message"] == "x"
        assert body["error"]["status"] in ("INTERNAL", "UNAVAILABLE")


# -- counts, vectors, models


def test_a_count_that_is_none_is_an_error():
    assert DIALECT.decode_count({"totalTokens": 3}) == 3
    with pytest.raises(BadReply):
        DIALECT.decode_count({"totalTokens": "x"})
    with pytest.raises(ModelNotFound):
        DIALECT.decode_count({"error": {"code": 404, "message": "x"}})


def test_vectors_that_are_none_are_an_error():
    for body in ({}, {"embeddings": [{}]}, {"embedding": {"values": ["x"]}}, {"predictions": [{}]}):
        with pytest.raises(BadReply):
            DIALECT.decode_embeddings(body, {})
    with pytest.raises(RateLimited):
        DIALECT.decode_embeddings({"error": {"code": 429, "message": "x"}}, {})


def test_lists_of_models_have_three_names():
    assert DIALECT.decode_models({}) == ()
    (vertex,) = DIALECT.decode_models({"publisherModels": [{"name": "publishers/google/models/gemini-x"}]})
    assert (vertex.id, vertex.owner, vertex.context_tokens) == ("gemini-x", "google", None)
    with pytest.raises(AuthenticationFailed):
        DIALECT.decode_models({"error": {"code": 401, "message": "x"}})
    with pytest.raises(BadReply):
        DIALECT.decode_models([])
