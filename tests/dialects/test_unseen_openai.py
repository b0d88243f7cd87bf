"""What servers of OpenAI's chat send that no recording here has; each shape with where it was told of.

The sources are documentation of the server that is named, or an issue or change request of a public
project where somebody met the shape (``owner/repo#number`` on GitHub).
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.errors import (
    AuthenticationFailed,
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
from llmpipe.types import Completion, Message, Reasoning, Request, Text, ToolCall, Usage, fold
from tests.dialects.test_openai_laws import outcome

DIALECT = OpenAIChat()
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def chunk(delta: Any, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more.pop("choice", {})}
    return event({"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more})


def body(message: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish, **more.pop("choice", {})}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], **more}


def read(stream: bytes) -> Completion:
    """The completion of a stream, which is the same for every cutting of its bytes."""
    events, error = outcome([stream])
    assert error is None
    assert outcome([stream[i : i + 1] for i in range(len(stream))]) == (events, None)
    return fold(events)


def broken(stream: bytes) -> LLMError:
    _, error = outcome([stream])
    assert error is not None
    _, same = outcome([stream[i : i + 1] for i in range(len(stream))])
    assert type(same) is type(error)
    return error


TEXT, END = chunk({"role": "assistant", "content": "hi"}), chunk({}, "stop")


# -- framing


@pytest.mark.parametrize(
    "stream",
    [
        (TEXT + END + DONE).replace(b"\n\n", b"\n"),  # BerriAI/litellm#25492: SGLang's errors come so
        TEXT + END.replace(b"\n\n", b"\n") + DONE,
        TEXT + b"event: ping\ndata: {}\n\n" + END + b"event: done\ndata: [DONE]\n\n",
        TEXT.replace(b"data: ", b"data:") + END + b"data:[DONE]",
    ],
)
def test_a_stream_without_its_blank_lines_is_read_line_by_line(stream):
    assert read(stream) == fold(outcome([TEXT + END + DONE])[0])


def test_lines_that_are_glued_and_not_json_are_no_chunks():
    assert "not JSON" in broken(TEXT.replace(b"\n\n", b"\n") + b"data: {oops\n\n" + DONE).message


@pytest.mark.parametrize(
    ("stream", "kind", "words"),
    [
        # BerriAI/litellm#25492
        (
            b'data: {"error": {"message": "over the maximum context length of 196608", "code": 400}}\n'
            + DONE,
            ContextTooLong,
            "196608",
        ),
        # ggml-org/llama.cpp, examples/server: server_sent_event(sink, "error", …) writes "error" for "data"
        (
            TEXT + b'error: {"code":500,"message":"no slot","type":"server_error"}\n\n' + DONE,
            ServiceUnavailable,
            "no slot",
        ),
        (TEXT + b"event: error\ndata: upstream died\n\n", ServiceUnavailable, "upstream died"),
        (TEXT + b'{"error":{"message":"died","type":"overloaded_error"}}\n', Overloaded, "died"),
        (TEXT + b'{\n  "error": {\n    "message": "died",\n    "code": 429\n  }\n}\n', RateLimited, "died"),
        (b'[{"error":{"code":429,"message":"slow","status":"RESOURCE_EXHAUSTED"}}]', RateLimited, "slow"),
        (TEXT + event([{"error": {"code": 429, "message": "slow"}}]) + DONE, RateLimited, "slow"),
        # FastAPI, whose errors know no events
        (event({"detail": "Not authenticated"}) + DONE, ServiceUnavailable, "Not authenticated"),
        (TEXT + event({"errors": [{"code": 3040, "message": "full"}]}) + DONE, Overloaded, "full"),
        (TEXT + event({"errors": ["full"]}) + DONE, ServiceUnavailable, "full"),
        # DashScope and SiliconFlow
        (event({"code": "Throttling.RateQuota", "message": "slow", "request_id": "r"}), RateLimited, "slow"),
        (event({"code": 20012, "message": "no such model", "data": None}), ServiceUnavailable, "no such"),
        # MiniMax, in a 200 and after content
        (
            event({"choices": None, "base_resp": {"status_code": 1004, "status_msg": "login fail"}}),
            AuthenticationFailed,
            "login fail",
        ),
        (
            chunk({"content": "x"}, base_resp={"status_code": 1027, "status_msg": "output sensitive"}),
            ContentFiltered,
            "sensitive",
        ),
        # Tencent Hunyuan
        (
            event({"Response": {"Error": {"Code": "AuthFailure.SignatureFailure", "Message": "bad key"}}}),
            AuthenticationFailed,
            "bad key",
        ),
    ],
)
def test_an_error_is_that_error_wherever_a_stream_has_it(stream, kind, words):
    error = broken(stream)
    assert type(error) is kind
    assert words in error.message


@pytest.mark.parametrize(
    "harmless",
    [
        event({"type": "ping", "message": "still here"}),
        event({"object": "chat.reasoning", "message": "thinking", "choices": []}),
        event({"code": 0, "message": "Success", "sid": "s"}),  # iFlytek says so in every chunk
        event({"id": "x", "choices": None, "base_resp": {"status_code": 0, "status_msg": ""}}),
        event({}),
        b"error_count 0\n\n",
    ],
)
def test_what_only_looks_like_an_error_is_none(harmless):
    assert read(TEXT + harmless + END + DONE).text == "hi"


def test_a_broken_stream_shows_what_came_instead():
    error = broken(b"<html><body>502 Bad Gateway</body></html>\n")
    assert isinstance(error, StreamBroken)
    assert "502 Bad Gateway" in error.message


# -- usage and the end


@pytest.mark.parametrize("end", [DONE, b""])
def test_moonshot_tells_the_usage_in_the_choice(end):
    # https://platform.moonshot.ai/docs: the last chunk has choices[0].usage
    last = chunk({}, "stop", choice={"usage": {**USAGE, "cached_tokens": 3}})
    done = read(TEXT + last + end)
    assert (done.usage, done.finish_reason) == (Usage(5, 2, 3), "stop")
    whole = DIALECT.decode_reply(body({"content": "hi"}, choice={"usage": USAGE}), {})
    assert (whole.usage, dict(whole.extra)) == (Usage(5, 2), {})


def test_usage_may_have_the_names_of_the_newer_api():
    done = read(TEXT + chunk({}, "stop", usage={"input_tokens": 5, "output_tokens": 2}) + DONE)
    assert done.usage == Usage(5, 2)


def test_a_finish_reason_that_is_the_word_null_is_none():
    stream = chunk({"content": "h"}, "null", usage=USAGE)
    assert isinstance(broken(stream), StreamBroken)
    done = read(stream + chunk({"content": "i"}, "length") + DONE)
    assert (done.text, done.finish_reason, dict(done.extra)) == ("hi", "length", {})


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("FINISH_REASON_MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),  # Z.AI
        ("ERROR_LIMIT", "length"),  # Cohere
        ("max_new_tokens", "length"),
        ("tool-calls", "tool_calls"),
        ("function_calls", "tool_calls"),  # microsoft/autogen#4878
        ("content-filter", "content_filter"),
        ("content_filter: OTHER", "content_filter"),  # Gemini's endpoint names the filter
        ("ERROR_TOXIC", "content_filter"),
        ("function_call_filter: UNEXPECTED_TOOL_CALL", "error"),
        ("insufficient_system_resource", "error"),  # DeepSeek
        ("abort", "error"),
        ("normal", "stop"),  # Baidu
        ("something_new", "stop"),
    ],
)
def test_finish_reasons_in_other_words_are_understood_and_kept(word, reason):
    whole = DIALECT.decode_reply(body({"content": "a"}, word), {})
    streamed = read(chunk({"content": "a"}, word) + DONE)
    assert whole.finish_reason == streamed.finish_reason == reason
    assert whole.extra["finish_reason"] == streamed.extra["finish_reason"] == word


# -- tool calls


def piece(index: int | None = None, **call: Any) -> dict[str, Any]:
    numbered = {} if index is None else {"index": index}
    function = {name: call.pop(name) for name in ("name", "arguments") if name in call}
    return {**numbered, **call, "function": function}


def calls(*deltas: Any) -> bytes:
    return b"".join(chunk({"tool_calls": delta}) for delta in deltas) + chunk({}, "tool_calls") + DONE


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # agno-agi/agno#8880: the second call begins as number 0 and goes on as number 1
        (
            calls(
                [piece(0, id="a", name="f", arguments='{"x":1}')],
                [piece(0, id="b", name="f", arguments="")],
                [piece(1, arguments='{"y":2}')],
            ),
            [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "f", '{"y":2}')],
        ),
        # vercel/ai#15879: no numbers, the name in every piece, the id in the first
        (
            calls([piece(id="a", name="f", arguments='{"x"')], [piece(id="", name="f", arguments=":1}")]),
            [ToolCall("a", "f", '{"x":1}')],
        ),
        # the whole call once more at the end
        (
            calls([piece(0, id="a", name="f", arguments="{}")], [piece(0, id="a", name="f", arguments="{}")]),
            [ToolCall("a", "f", "{}")],
        ),
        (calls(piece(0, id="a", name="f", arguments={"x": 1})), [ToolCall("a", "f", '{"x":1}')]),
        (calls([{"index": 0, "id": "a", "name": "f", "arguments": "{}"}]), [ToolCall("a", "f", "{}")]),
        # https://platform.moonshot.ai/docs/guide/use-web-search
        (
            calls([piece(0, id="a", type="builtin_function", name="$web_search", arguments="{}")]),
            [ToolCall("a", "$web_search", "{}", {"type": "builtin_function"})],
        ),
        (calls([piece(0, id="a", type=["x"], name="f", arguments="{}")]), [ToolCall("a", "f", "{}")]),
    ],
)
def test_the_pieces_of_calls_find_their_call(stream, expected):
    assert list(read(stream).tool_calls) == expected


def test_two_whole_calls_alike_without_ids_or_numbers_stay_two():
    stream = calls([piece(name="f", arguments='{"x":1}')], [piece(name="f", arguments='{"x":2}')])
    assert [call.arguments for call in read(stream).tool_calls] == ['{"x":1}', '{"x":2}']


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        ({"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}, ToolCall("a", "f", '{"x":1}')),
        ([{"id": "a", "name": "f", "arguments": "{}"}], ToolCall("a", "f", "{}")),
        (
            [{"id": "a", "type": "builtin_function", "function": {"name": "f", "arguments": "{}"}}],
            ToolCall("a", "f", "{}", {"type": "builtin_function"}),
        ),
    ],
)
def test_calls_of_a_full_reply_are_found_and_go_back_as_they_came(wire, expected):
    done = DIALECT.decode_reply(body({"content": None, "tool_calls": wire}, "tool_calls"), {})
    assert done.tool_calls == (expected,)
    sent = DIALECT.encode_request(Request("m", [done.message]))["messages"][0]["tool_calls"][0]
    assert sent["type"] == expected.extra.get("type", "function")
    assert sent["function"] == {"name": "f", "arguments": expected.arguments}
    again = DIALECT.decode_request({"messages": [{"role": "assistant", "tool_calls": [sent]}]})
    assert again.messages[0].tool_calls == (expected,)


# -- content


def test_databricks_reasoning_is_reasoning_and_goes_back_as_it_came():
    # https://docs.databricks.com/aws/en/machine-learning/model-serving/query-reason-models
    def part(text: str, signature: str) -> dict[str, Any]:
        return {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text, "signature": signature}],
        }

    content = [part("hmm", "sig"), {"type": "text", "text": "hi"}]
    done = DIALECT.decode_reply(body({"role": "assistant", "content": content}), {})
    reasoning = Reasoning("hmm", "sig", extra={"type": "reasoning"})
    assert done.message.parts == (reasoning, Text("hi"))
    assert DIALECT.encode_request(Request("m", [done.message]))["messages"][0]["content"] == content
    deltas = ([part("h", "")], [part("mm", "sig")], [{"type": "text", "text": "hi"}])
    streamed = read(b"".join(chunk({"content": delta}) for delta in deltas) + END + DONE)
    assert streamed.message.parts == done.message.parts
    several = [{"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]}]
    kept = DIALECT.decode_reply(body({"content": several}), {}).message
    assert kept.reasoning == "ab"
    assert DIALECT.encode_request(Request("m", [kept]))["messages"][0]["content"] == several


def test_thinking_beside_the_content_is_reasoning():
    done = DIALECT.decode_reply(body({"content": "hi", "thinking": "hmm"}), {})
    streamed = read(chunk({"thinking": "h"}) + chunk({"thinking": "mm"}) + TEXT + END + DONE)
    assert done.reasoning == streamed.reasoning == "hmm"
    assert DIALECT.encode_request(Request("m", [done.message]))["messages"][0]["thinking"] == "hmm"
    odd = DIALECT.decode_reply(body({"content": "hi", "thinking": {"a": 1}}), {}).message
    assert (odd.reasoning, dict(odd.extra)) == ("", {"thinking": {"a": 1}})


def test_the_text_of_the_older_api_is_text():
    whole = {"id": "x", "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]}
    assert DIALECT.decode_reply(whole, {}).text == "hi"
    assert DIALECT.decode_reply(body("hi"), {}).text == "hi"
    pieces = [event({"id": "x", "choices": [{"index": 0, "text": text}]}) for text in "hi"]
    assert read(b"".join(pieces) + END + DONE).text == "hi"


def test_sound_in_pieces_is_put_together():
    # OpenAI's API reference, ChoiceDeltaAudio
    deltas = (
        {"id": "a", "transcript": "He"},
        {"transcript": "llo"},
        {"data": "AAAA"},
        {"data": "BBBB"},
        {"expires_at": 12},
    )
    done = read(b"".join(chunk({"audio": delta}) for delta in deltas) + END + DONE)
    assert done.message.extra["audio"] == {
        "id": "a",
        "transcript": "Hello",
        "data": "AAAABBBB",
        "expires_at": 12,
    }


# -- errors


@pytest.mark.parametrize(
    ("status", "wire", "kind", "words"),
    [
        # https://help.openai.com/en/articles/6614457
        (
            429,
            {"error": {"message": "x", "type": "billing", "code": "credit_balance_exhausted"}},
            QuotaExceeded,
            "x",
        ),
        (429, {"error": {"message": "x", "code": "project_spend_limit_exceeded"}}, QuotaExceeded, "x"),
        # continuedev/continue#10740, warpdotdev/warp#14863
        (
            403,
            {
                "code": "permission-denied",
                "error": "Your team t has either used all available credits or reached its monthly "
                "spending limit. To continue making API requests, please purchase more credits.",
            },
            QuotaExceeded,
            "Your team",
        ),
        # https://console.groq.com/docs/flex-processing
        (498, {"error": {"message": "full", "code": "capacity_exceeded"}}, Overloaded, "full"),
        (498, {}, Overloaded, "498"),
        (400, {"error": {"message": "no", "code": "organization_restricted"}}, PermissionDenied, "no"),
        # https://docs.fireworks.ai/guides/inference-error-codes
        (412, {"error": {"message": "suspended"}}, PermissionDenied, "suspended"),
        # https://www.volcengine.com/docs/82379/1299023
        (
            403,
            {"error": {"code": "AccountOverdueError", "message": "x", "type": "Forbidden"}},
            QuotaExceeded,
            "x",
        ),
        (429, {"error": {"code": "ServerOverloaded", "message": "x"}}, Overloaded, "x"),
        (429, {"error": {"code": "RateLimitExceeded.EndpointRPMExceeded"}}, RateLimited, "429"),
        (
            400,
            {"error": {"code": "SensitiveContentDetected.SevereViolation", "message": "x"}},
            ContentFiltered,
            "x",
        ),
        # https://cloud.baidu.com/doc/qianfan-api/s/rmwbl43x7
        (400, {"error": {"code": "tokens_too_long", "message": "x"}}, ContextTooLong, "x"),
        (400, {"error": {"code": "image_url_unsafe", "type": "unsafe_request"}}, ContentFiltered, "unsafe"),
        # https://help.aliyun.com/zh/model-studio/error-code
        (
            403,
            {"error": {"code": "AllocationQuota.FreeTierOnly", "message": "x"}},
            QuotaExceeded,
            "x",
        ),
        (400, {"message": "Range of input length should be [1, 30720]"}, ContextTooLong, "Range"),
        (
            400,
            {"error": {"message": "Invalid request: Your request exceeded model token limit: 8192"}},
            ContextTooLong,
            "8192",
        ),
        # Novita names its reason beside the status
        (403, {"code": 403, "reason": "NOT_ENOUGH_BALANCE", "message": "x"}, QuotaExceeded, "x"),
        (400, {"code": 400, "reason": "MODEL_NOT_FOUND", "message": "x"}, ModelNotFound, "x"),
        # Google's ErrorInfo
        (
            400,
            [{"error": {"code": 400, "message": "x", "details": [{"reason": "API_KEY_INVALID"}]}}],
            AuthenticationFailed,
            "x",
        ),
        # DeepInfra, Spring, Nest, RFC 9457, AWS, Apigee, Google's older APIs
        (402, {"detail": {"error": "please enter a payment method"}}, QuotaExceeded, "payment method"),
        (
            404,
            {"status": 404, "error": "Not Found", "message": "no route", "path": "/"},
            ModelNotFound,
            "no r",
        ),
        (429, {"statusCode": 429, "message": "slow", "error": "Too Many Requests"}, RateLimited, "slow"),
        (
            401,
            {"type": "about:blank", "title": "Unauthorized", "detail": "no key"},
            AuthenticationFailed,
            "no k",
        ),
        (403, {"Message": "not authorized"}, PermissionDenied, "not authorized"),
        (500, {"fault": {"faultstring": "late", "detail": {"errorcode": "x.y"}}}, ServiceUnavailable, "late"),
        (403, {"error": {"code": 403, "errors": [{"message": "x"}]}}, PermissionDenied, "x"),
        (400, {"errors": ["first", "second"]}, InvalidRequest, "first"),
        # LiteLLM's proxy writes Python's None
        (
            400,
            {
                "error": {
                    "message": "litellm.ContextWindowExceededError: x",
                    "type": "None",
                    "param": "None",
                    "code": "400",
                }
            },
            ContextTooLong,
            "litellm",
        ),
    ],
)
def test_an_error_is_told_by_what_its_server_calls_it(status, wire, kind, words):
    error = DIALECT.decode_error(status, {}, orjson.dumps(wire))
    assert type(error) is kind
    assert error.status == status
    assert words in error.message
    assert error.code not in ("None", "error", "about:blank")


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}, "choices": None}, RateLimited),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, QuotaExceeded),
        ({"base_resp": {"status_code": 1039, "status_msg": "token limit"}}, ContextTooLong),
        ({"base_resp": {"status_code": 2013, "status_msg": "invalid params"}}, InvalidRequest),
        ({"success": False, "code": 500, "msg": "404 NOT_FOUND"}, ServiceUnavailable),  # Z.AI
        ({"error_code": 17, "error_msg": "daily limit"}, ServiceUnavailable),
        ({"message": "Internal server error"}, ServiceUnavailable),
    ],
)
def test_an_error_in_a_200_is_that_error(wire, kind):
    with pytest.raises(LLMError) as caught:
        DIALECT.decode_reply(wire, {})
    assert type(caught.value) is kind
    assert caught.value.message


def test_a_reply_of_minimax_is_a_reply():
    wire = body({"content": "hi"}, base_resp={"status_code": 0, "status_msg": ""}, input_sensitive=False)
    done = DIALECT.decode_reply(wire, {})
    assert (done.text, done.extra["base_resp"]["status_code"]) == ("hi", 0)
    assert done.message == Message("assistant", "hi")
