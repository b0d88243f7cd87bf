from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe import errors
from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    FeatureDisabled,
    InvalidRequest,
    LimitReached,
    LLMError,
    ModelNotFound,
    NetworkError,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ReplyClosed,
    RequestTooLarge,
    ServiceUnavailable,
    Timeout,
    UnknownError,
)

DIALECT = AnthropicMessages()


def failed(status, error, headers=None, **fields):
    body = orjson.dumps({"type": "error", "error": error, "request_id": "req_1", **fields})
    return DIALECT.decode_error(status, headers or {}, body)


@pytest.mark.parametrize(
    ("status", "type_", "kind", "retryable"),
    [
        (400, "invalid_request_error", InvalidRequest, False),
        (401, "authentication_error", AuthenticationFailed, False),
        (402, "billing_error", QuotaExceeded, False),
        (403, "permission_error", PermissionDenied, False),
        (404, "not_found_error", ModelNotFound, False),
        (413, "request_too_large", RequestTooLarge, False),
        (429, "rate_limit_error", RateLimited, True),
        (500, "api_error", ServiceUnavailable, True),
        (504, "timeout_error", ServiceUnavailable, True),
        (529, "overloaded_error", Overloaded, True),
    ],
)
def test_every_documented_error_is_classified(status, type_, kind, retryable):
    error = failed(status, {"type": type_, "message": "what happened"})
    assert type(error) is kind
    assert error.retryable is retryable
    assert (error.status, error.code, error.request_id) == (status, type_, "req_1")
    assert error.message == "what happened"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("prompt is too long: 3333404 tokens > 200000 maximum", ContextTooLong),
        (
            "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease …",
            ContextTooLong,
        ),
        ("Your credit balance is too low to access the Anthropic API. Please go to Plans …", QuotaExceeded),
        ("You have reached your specified API usage limits. You will regain access on …", QuotaExceeded),
        ("You have reached your specified workspace API usage limits. …", QuotaExceeded),
        ("Output blocked by content filtering policy", ContentFiltered),
        ("max_tokens: Field required", InvalidRequest),
    ],
)
def test_what_only_the_text_tells_is_told_from_a_malformed_request(message, kind):
    assert type(failed(400, {"type": "invalid_request_error", "message": message})) is kind


@pytest.mark.parametrize(
    ("status", "type_", "code", "kind"),
    [
        (429, "rate_limit_error", "enforced_spend_limit_reached", QuotaExceeded),
        (429, "rate_limit_error", "contract_spend_limit_reached", QuotaExceeded),
        (429, "rate_limit_error", "ramp_limit_exceeded", RateLimited),
        (400, "invalid_request_error", "organization_on_hold", AuthenticationFailed),
    ],
)
def test_an_error_code_is_more_exact_than_its_type(status, type_, code, kind):
    error = failed(status, {"type": type_, "message": "x", "details": {"error_code": code}})
    assert type(error) is kind
    assert (error.code, error.status) == (code, status)


def test_the_wait_is_the_headers():
    headers = {"Retry-After": "17", "Request-Id": "req_2"}
    error = failed(429, {"type": "rate_limit_error", "message": "x"}, headers)
    assert (error.retry_after, error.request_id) == (17.0, "req_2")
    headers = {
        "date": "Thu, 01 Jan 2026 00:00:00 GMT",
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:30Z",
        "anthropic-ratelimit-requests-remaining": "9",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:00Z",
    }
    assert failed(429, {"type": "rate_limit_error", "message": "x"}, headers).retry_after == 30.0
    assert failed(500, {"type": "api_error", "message": "x"}, {"x-should-retry": "false"}).retryable is False


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (503, b"<html>upstream connect error</html>", Overloaded, "upstream connect error"),
        (502, b"", ServiceUnavailable, "502"),
        (500, b"\xff\xfe", ServiceUnavailable, ""),
        (400, b"null", InvalidRequest, "null"),
        (400, b"[]", InvalidRequest, ""),
        (
            429,
            b'[{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}]',
            RateLimited,
            "Quota",
        ),
        (
            404,
            b'{"error":{"code":404,"message":"No such model","status":"NOT_FOUND"}}',
            ModelNotFound,
            "No such",
        ),
        (404, b'{"error":{"code":"DeploymentNotFound","message":"gone"}}', ModelNotFound, "gone"),
        (401, b'{"error":{"code":"401","message":"Access denied"}}', AuthenticationFailed, "Access denied"),
        (400, b'{"message":"Input is too long for requested model."}', ContextTooLong, "Input is too long"),
        (403, b'{"Message":"no access"}', PermissionDenied, "no access"),
        (422, b'{"detail":"bad"}', InvalidRequest, "bad"),
        (400, b'{"error":"plain words"}', InvalidRequest, "plain words"),
        (
            529,
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n',
            Overloaded,
            "busy",
        ),
    ],
)
def test_bodies_of_other_shapes_are_understood(status, body, kind, message):
    error = DIALECT.decode_error(status, {}, body)
    assert type(error) is kind
    assert message in error.message


def test_no_text_carries_a_key_on():
    key = "sk-ant-api03-" + "x" * 40
    for body in (b'{"error":{"message":"bad key %s"}}', b"bad key %s"):
        assert key not in str(DIALECT.decode_error(401, {}, body % key.encode()))
    assert key not in str(DIALECT.encode_error(AuthenticationFailed(f"bad key {key}")))


@given(
    st.integers(100, 999),
    st.binary(max_size=60) | st.sampled_from([b"[" * 5000, b'{"error":[1]}', b'{"error":{"type":5}}']),
)
def test_decoding_an_error_never_raises(status, body):
    assert isinstance(DIALECT.decode_error(status, {}, body), LLMError)


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (InvalidRequest("x", status=422), 400, "invalid_request_error"),
        (ContentFiltered("x"), 400, "invalid_request_error"),
        (RequestTooLarge("x"), 413, "request_too_large"),
        (ModelNotFound("x"), 404, "not_found_error"),
        (AuthenticationFailed("x"), 401, "authentication_error"),
        (PermissionDenied("x"), 403, "permission_error"),
        (FeatureDisabled("x"), 403, "permission_error"),
        (QuotaExceeded("x"), 402, "billing_error"),
        (BudgetExceeded("x"), 402, "billing_error"),
        (RateLimited("x"), 429, "rate_limit_error"),
        (LimitReached("x"), 429, "rate_limit_error"),
        (DeadlineExceeded("x"), 504, "timeout_error"),
        (Timeout("x"), 504, "timeout_error"),
        (Overloaded("x"), 529, "overloaded_error"),
        (CircuitOpen("x"), 529, "overloaded_error"),
        (ReplyClosed("x"), 499, "api_error"),
        (NetworkError("x"), 502, "api_error"),
        (UnknownError("x", status=418), 500, "api_error"),
    ],
)
def test_every_error_has_a_form_on_the_wire(error, status, type_):
    sent, headers, body = DIALECT.encode_error(error)
    assert (sent, headers) == (status, {})
    assert body["type"] == "error"
    assert body["error"]["type"] == type_
    assert body["error"]["message"] == "x"


def test_the_wire_says_how_long_to_wait_in_whole_seconds():
    status, headers, body = DIALECT.encode_error(RateLimited("x", retry_after=1.2, request_id="req_1"))
    assert headers == {"retry-after": "2", "request-id": "req_1"}
    assert (status, body["request_id"]) == (429, "req_1")
    assert DIALECT.encode_error(RateLimited("x", retry_after=0))[1] == {"retry-after": "0"}


def test_clients_know_a_prompt_that_is_too_long_by_its_words():
    _, _, body = DIALECT.encode_error(ContextTooLong("9 tokens are more than 5"))
    assert body["error"]["message"] == "prompt is too long: 9 tokens are more than 5"
    told = ContextTooLong("prompt is too long: 9 tokens > 5 maximum", code="invalid_request_error")
    assert DIALECT.encode_error(told)[2]["error"] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 9 tokens > 5 maximum",
    }


@pytest.mark.parametrize(
    "kind",
    [
        AuthenticationFailed,
        ContentFiltered,
        ContextTooLong,
        InvalidRequest,
        ModelNotFound,
        Overloaded,
        PermissionDenied,
        QuotaExceeded,
        RateLimited,
        RequestTooLarge,
    ],
)
def test_an_error_keeps_its_class_over_the_wire(kind):
    status, headers, body = DIALECT.encode_error(kind("what happened", retry_after=3.0))
    again = DIALECT.decode_error(status, headers, orjson.dumps(body))
    assert type(again) is kind
    assert again.retry_after == 3.0


def test_every_class_of_the_tree_can_be_sent():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, LLMError):
            status, _, body = DIALECT.encode_error(kind("x"))
            assert 400 <= status < 600
            assert orjson.dumps(body)
