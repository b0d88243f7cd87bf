from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)
from tests.dialects import strategies
from tests.dialects.bedrock_values import DIALECT

CORAL = ":http://internal.amazon.com/coral/com.amazon.bedrock/"


def decoded(status, name, message="It failed.", **headers) -> LLMError:
    return DIALECT.decode_error(
        status,
        {"x-amzn-ErrorType": name + CORAL, "x-amzn-RequestId": "r-1", **headers},
        json.dumps({"message": message}).encode(),
    )


CASES = [
    (400, "ValidationException", "1 validation error detected", InvalidRequest),
    (400, "ValidationException", "Input is too long for requested model.", ContextTooLong),
    (
        400,
        "ValidationException",
        "Input Tokens Exceeded: Number of input tokens exceeds maximum length.",
        ContextTooLong,
    ),
    (
        400,
        "ValidationException",
        "Malformed input request: expected maxLength: 50000, actual: 60000",
        ContextTooLong,
    ),
    (
        400,
        "ValidationException",
        "The model returned the following errors: prompt is too long: 2 > 1",
        ContextTooLong,
    ),
    (400, "ValidationException", "The provided model identifier is invalid.", ModelNotFound),
    (
        400,
        "ValidationException",
        "Invocation of model ID x with on-demand throughput isn’t supported.",
        ModelNotFound,
    ),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model", ModelNotFound),
    (403, "AccessDeniedException", "You don't have access to the model", PermissionDenied),
    (403, "UnrecognizedClientException", "The security token included is invalid.", AuthenticationFailed),
    (
        403,
        "ExpiredTokenException",
        "The security token included in the request is expired",
        AuthenticationFailed,
    ),
    (403, "InvalidSignatureException", "Signature expired", AuthenticationFailed),
    (403, "MissingAuthenticationTokenException", "Missing Authentication Token", AuthenticationFailed),
    (400, "IncompleteSignatureException", "Authorization header requires", AuthenticationFailed),
    (429, "ThrottlingException", "Too many requests, please wait before trying again.", RateLimited),
    (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", QuotaExceeded),
    (400, "ThrottlingException", "Rate exceeded", RateLimited),
    (400, "ServiceQuotaExceededException", "Your request exceeds the service quota", QuotaExceeded),
    (429, "ModelNotReadyException", "The model is not ready", Overloaded),
    (408, "ModelTimeoutException", "The request took too long to process.", ServiceUnavailable),
    (424, "ModelErrorException", "The model failed", ServiceUnavailable),
    (500, "InternalServerException", "oh", ServiceUnavailable),
    (503, "ServiceUnavailableException", "busy", Overloaded),
]


@pytest.mark.parametrize(("status", "name", "message", "expected"), CASES)
def test_each_error_of_the_api_is_what_it_means(status, name, message, expected):
    error = decoded(status, name, message)
    assert type(error) is expected
    assert (error.code, error.status, error.request_id, error.phase) == (name, status, "r-1", "headers")
    assert error.message == message


@pytest.mark.parametrize(("status", "name", "message", "expected"), CASES)
def test_the_name_may_stand_in_the_body_instead(status, name, message, expected):
    body = {"__type": f"com.amazon.bedrock#{name}", "Message": message}
    error = DIALECT.decode_error(status, {}, json.dumps(body).encode())
    assert (type(error), error.code, error.message) == (expected, name, message)


def test_a_name_that_was_not_kept_is_told_by_the_status():
    body = b'{"message": "The provided model identifier is invalid."}'
    assert type(DIALECT.decode_error(400, {}, body)) is ModelNotFound
    assert type(DIALECT.decode_error(429, {}, b'{"message": "Too many tokens per day"}')) is QuotaExceeded
    assert (
        type(DIALECT.decode_error(403, {}, b'{"message": "model identifier is invalid"}')) is PermissionDenied
    )


def test_a_hint_to_wait_is_taken():
    assert decoded(429, "ThrottlingException", **{"Retry-After": "3"}).retry_after == 3


def test_an_address_that_is_none():
    body = {"Output": {"__type": "com.amazon.coral.service#UnknownOperationException"}, "Version": "1.0"}
    error = DIALECT.decode_error(404, {}, json.dumps(body).encode())
    assert (type(error), error.code) == (ModelNotFound, "UnknownOperationException")


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[]", b"null", b'"x"', b"\xff", b"{}"])
def test_bodies_that_are_no_json_object_are_told_as_they_are(body):
    error = DIALECT.decode_error(502, {}, body)
    assert type(error) is ServiceUnavailable
    assert error.message


def test_no_secret_gets_into_an_error():
    error = decoded(403, "UnrecognizedClientException", "Credential AKIAABCDEFGHIJKLMNOP is unknown")
    assert "AKIA" not in str(error)
    assert "AKIA" not in str(DIALECT.decode_error(400, {}, b'{"__type": "AKIAABCDEFGHIJKLMNOP"}').code)


def test_every_error_that_the_service_model_names_is_classified():
    loaders = pytest.importorskip("botocore.loaders")
    model = loaders.Loader().load_service_model("bedrock-runtime", "service-2")
    for operation in ("Converse", "ConverseStream"):
        for error in model["operations"][operation]["errors"]:
            name = error["shape"]
            status = model["shapes"][name]["error"]["httpStatusCode"]
            assert name in {case[1] for case in CASES} | {"ModelStreamErrorException"}
            in_stream = DIALECT.decode_error(200, {"x-amzn-errortype": name}, b"{}")
            if name != "ModelStreamErrorException":
                assert type(in_stream) in {case[3] for case in CASES if case[1] == name}
            assert decoded(status, name).retryable == in_stream.retryable


some_headers = st.dictionaries(st.sampled_from(["x-amzn-errortype", "retry-after"]), st.text(max_size=9))


@given(st.integers(100, 999), some_headers, strategies.json_values)
def test_it_never_raises(status, headers, body):
    assert isinstance(DIALECT.decode_error(status, headers, json.dumps(body).encode()), LLMError)


@given(st.integers(400, 599), st.binary(max_size=30))
def test_it_never_raises_for_any_bytes(status, body):
    assert isinstance(DIALECT.decode_error(status, {}, body), LLMError)
