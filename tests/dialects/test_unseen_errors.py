"""Errors of Google, Cohere and Bedrock in every shape that is documented or was reported, and in none."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmpipe import dialects
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
    RequestTooLarge,
    ServiceUnavailable,
)

GEMINI, COHERE, BEDROCK, OLLAMA = (
    dialects.get(name) for name in ("gemini.generate", "cohere.chat", "bedrock.converse", "ollama.chat")
)
KEY = "AIzaSyA1234567890abcdefghijklmnopqrstuv"
_RPC = "type.googleapis.com/google.rpc."
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


def rpc(status: str, message: str = "no", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": 400, "status": status, "message": message, "details": list(details)}}


def info(reason: str) -> dict[str, Any]:
    return {"@type": f"{_RPC}ErrorInfo", "reason": reason, "domain": "googleapis.com"}


def quota(name: str) -> dict[str, Any]:
    return {"@type": f"{_RPC}QuotaFailure", "violations": [{"quotaId": name}]}


EXPIRED = rpc("INVALID_ARGUMENT", "API key expired.", info("API_KEY_INVALID"))
TOO_LONG = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, EXPIRED, AuthenticationFailed),
        (400, [EXPIRED], AuthenticationFailed),
        (400, rpc("INVALID_ARGUMENT", TOO_LONG), ContextTooLong),
        (400, {"error": {"message": TOO_LONG}}, ContextTooLong),
        (403, rpc("PERMISSION_DENIED", "Your API key was reported as leaked."), PermissionDenied),
        (403, rpc("PERMISSION_DENIED", "no", info("SERVICE_DISABLED")), PermissionDenied),
        (404, rpc("NOT_FOUND", "models/x is not found for API version v1beta"), ModelNotFound),
        (429, rpc("RESOURCE_EXHAUSTED", "Resource has been exhausted"), RateLimited),
        (429, rpc("RESOURCE_EXHAUSTED", "no", quota(PER_DAY)), QuotaExceeded),
        (429, b"", RateLimited),
        (503, rpc("UNAVAILABLE", "The model is overloaded."), Overloaded),
        (500, {"error": "An internal error has occurred."}, ServiceUnavailable),
        (502, f"<html><h1>Bad Gateway</h1>{KEY}</html>".encode(), ServiceUnavailable),
        (504, b"upstream request timeout", ServiceUnavailable),
        (413, b"<html>Your client issued a request that was too large.</html>", RequestTooLarge),
    ],
)
def test_googles_errors_are_what_they_mean(status, body, kind):
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    error = GEMINI.decode_error(status, {}, raw)
    assert (type(error), error.status) == (kind, status)
    assert error.message
    assert KEY not in str(error)


@pytest.mark.parametrize("delay", ["34.074824224s", "34s", "34.5s"])
def test_googles_hint_to_wait_is_taken(delay):
    body = rpc("RESOURCE_EXHAUSTED", "no", {"@type": f"{_RPC}RetryInfo", "retryDelay": delay})
    error = GEMINI.decode_error(429, {}, orjson.dumps(body))
    assert error.retry_after is not None
    assert 34 <= error.retry_after < 35


TRIAL = b'{"message":"You are using a Trial key, which is limited to %s."}'
COUNTED = b'{"id":"x","message":"too many tokens: total number of tokens in the prompt cannot exceed 4081"}'


@pytest.mark.parametrize(
    ("status", "raw", "kind"),
    [
        (400, b'{"message":"invalid request: all elements in messages must have content"}', InvalidRequest),
        (400, COUNTED, ContextTooLong),
        (400, b'{"message":"too many tokens","error_type":"TOO_MANY_TOKENS"}', ContextTooLong),
        (401, b'{"message":"invalid api token"}', AuthenticationFailed),
        (401, b"no api key supplied", AuthenticationFailed),
        (402, b'{"message":"please add or update your payment method"}', QuotaExceeded),
        (404, b'{"message":"model \'x\' not found, make sure the correct ID was used"}', ModelNotFound),
        (429, TRIAL % b"10 API calls / minute", RateLimited),
        (429, TRIAL % b"1000 API calls / month", QuotaExceeded),
        (429, b"", RateLimited),
        (498, b'{"message":"blocked output"}', ContentFiltered),
        (500, b'{"message":"internal server error, this has been reported"}', ServiceUnavailable),
        (502, b"<html><body>Bad Gateway</body></html>", ServiceUnavailable),
        (503, b'{"data":"upstream connect error"}', Overloaded),
        (504, b"\xff\xfe", ServiceUnavailable),
        (422, b'{"data":[{"loc":["body"],"msg":"field required"}]}', InvalidRequest),
    ],
)
def test_coheres_errors_are_what_they_mean(status, raw, kind):
    error = COHERE.decode_error(status, {}, raw)
    assert type(error) is kind
    assert error.message


INVALID, DENIED, SLOW = "ValidationException", "AccessDeniedException", "ThrottlingException"


@pytest.mark.parametrize(
    ("status", "name", "message", "kind"),
    [
        (400, INVALID, "Input is too long for requested model.", ContextTooLong),
        (400, INVALID, "prompt is too long: 210000 tokens > 200000 maximum", ContextTooLong),
        (400, INVALID, "input length and `max_tokens` exceed context limit: 1 + 2 > 2", ContextTooLong),
        (400, INVALID, "The provided model identifier is invalid.", ModelNotFound),
        (400, INVALID, "Invocation of x with on-demand throughput isn\u2019t supported.", ModelNotFound),
        (403, DENIED, "You don't have access to the model with the specified ID.", PermissionDenied),
        (403, "UnrecognizedClientException", "The security token is invalid.", AuthenticationFailed),
        (403, "ExpiredTokenException", "The security token is expired", AuthenticationFailed),
        (429, SLOW, "Too many tokens, please wait before trying again.", RateLimited),
        (429, SLOW, "Too many tokens per day, please wait before trying again.", QuotaExceeded),
        (429, "ModelNotReadyException", "Model is not ready for inference.", Overloaded),
        (424, "ModelErrorException", "The model returned an error.", ServiceUnavailable),
        (408, "ModelTimeoutException", "Model took too long.", ServiceUnavailable),
        (503, "ServiceUnavailableException", "Bedrock is unable to process it.", Overloaded),
    ],
)
@pytest.mark.parametrize("shape", ["header", "__type", "Message", "code"])
def test_bedrocks_errors_are_what_they_mean(status, name, message, kind, shape):
    headers, wire = {}, {"message": message}
    if shape == "header":
        headers["X-Amzn-ErrorType"] = f"{name}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    elif shape == "__type":
        wire["__type"] = f"com.amazon.coral.service#{name}"
    elif shape == "Message":
        wire = {"Message": message, "__type": name}
    else:
        wire["code"] = name
    error = BEDROCK.decode_error(status, headers, orjson.dumps(wire))
    assert (type(error), error.code) == (kind, name)
    assert message[:20] in error.message


@pytest.mark.parametrize("dialect", [GEMINI, COHERE, BEDROCK, OLLAMA])
@pytest.mark.parametrize(
    "raw", [b"", b"<html><h1>403 Forbidden</h1></html>", b"null", b"[]", b"Forbidden", b"\xff"]
)
@pytest.mark.parametrize(
    ("status", "kind"), [(403, PermissionDenied), (503, Overloaded), (502, ServiceUnavailable)]
)
def test_an_error_that_is_no_json_goes_by_its_status(dialect, raw, status, kind):
    error = dialect.decode_error(status, {"retry-after": "7"}, raw)
    assert (type(error), error.retry_after) == (kind, 7.0)
    assert error.message


@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        (OLLAMA, b'{"error":"the input length exceeds the context length"}\n'),
        (COHERE, b'data: {"type":"message-end","delta":{"error":"too many tokens: limit is 4081"}}\n\n'),
        (GEMINI, b"data: %s\n\n" % orjson.dumps(rpc("INVALID_ARGUMENT", TOO_LONG))),
    ],
)
def test_a_prompt_that_is_too_long_is_known_in_a_stream_too(dialect, data):
    decoder = dialect.decoder()
    with pytest.raises(LLMError) as caught:
        decoder.feed(data)
        decoder.close()
    assert type(caught.value) is ContextTooLong
