"""Statuses and codes to errors and their verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe import errors
from llmpipe.dialects.status import error_for_status, says_context_too_long
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
    RequestTooLarge,
    ServiceUnavailable,
)


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "health"),
    [
        (400, InvalidRequest, False, "success"),
        (401, AuthenticationFailed, False, "ignore"),
        (402, QuotaExceeded, False, "ignore"),
        (403, PermissionDenied, False, "ignore"),
        (404, ModelNotFound, False, "success"),
        (405, InvalidRequest, False, "success"),
        (408, ServiceUnavailable, True, "failure"),
        (409, ServiceUnavailable, True, "failure"),
        (413, RequestTooLarge, False, "success"),
        (422, InvalidRequest, False, "success"),
        (424, ServiceUnavailable, True, "failure"),
        (425, ServiceUnavailable, True, "failure"),
        (429, RateLimited, True, "ignore"),
        (451, PermissionDenied, False, "ignore"),
        (500, ServiceUnavailable, True, "failure"),
        (501, ServiceUnavailable, False, "failure"),
        (502, ServiceUnavailable, True, "failure"),
        (503, Overloaded, True, "failure"),
        (504, ServiceUnavailable, True, "failure"),
        (520, ServiceUnavailable, True, "failure"),
        (529, Overloaded, True, "failure"),
        (204, BadReply, True, "failure"),
        (206, BadReply, True, "failure"),
        (999, BadReply, True, "failure"),
        (0, BadReply, True, "failure"),
    ],
)
def test_a_status_alone_decides(status, kind, retryable, health):
    error = error_for_status(status, message="no")
    assert (type(error), error.retryable, error.health) == (kind, retryable, health)
    assert error.status == (status if 400 <= status < 600 else kind.default_status)


@pytest.mark.parametrize(
    ("status", "codes", "kind"),
    [
        (400, ("context_length_exceeded",), ContextTooLong),
        (413, ("tokens_limit_reached",), ContextTooLong),
        (500, ("exceed_context_size_error",), ContextTooLong),
        (400, ("content_filter",), ContentFiltered),
        (400, (None, "ResponsibleAIPolicyViolation"), ContentFiltered),
        (400, ("content_policy_violation",), ContentFiltered),
        (429, ("insufficient_quota",), QuotaExceeded),
        (429, ("billing_hard_limit_reached",), QuotaExceeded),
        (429, (None, "insufficient_quota"), QuotaExceeded),
        (429, ("rate_limit_exceeded", "tokens"), RateLimited),
        (429, ("1113",), QuotaExceeded),
        (429, (3036,), QuotaExceeded),
        (429, ("engine_overloaded_error",), Overloaded),
        (400, ("model_decommissioned",), ModelNotFound),
        (400, ("invalid_model",), ModelNotFound),
        (404, ("DeploymentNotFound",), ModelNotFound),
        (400, ("API_KEY_INVALID",), AuthenticationFailed),
        (401, ("invalid_api_key", "invalid_request_error"), AuthenticationFailed),
        (401, ("invalid_request_error",), AuthenticationFailed),
        (403, (None, "invalid_request_error"), PermissionDenied),
        (413, ("rate_limit_exceeded", "tokens"), RequestTooLarge),
        (400, ("rate_limit_exceeded",), InvalidRequest),
        (500, ("overloaded_error",), Overloaded),
    ],
)
def test_a_code_decides_only_where_it_is_more_exact_than_the_status(status, codes, kind):
    assert type(error_for_status(status, codes=codes)) is kind


@pytest.mark.parametrize(
    ("codes", "kind", "status"),
    [
        ((502,), ServiceUnavailable, 502),
        (("429",), RateLimited, 429),
        ((529,), Overloaded, 529),
        (("rate_limit_exceeded",), RateLimited, 429),
        ((None, "server_error"), ServiceUnavailable, 500),
        (("invalid_request_error",), InvalidRequest, 400),
        (("overloaded_error",), Overloaded, 503),
        (("context_length_exceeded",), ContextTooLong, 400),
        ((), ServiceUnavailable, 502),
        (("something new",), ServiceUnavailable, 502),
        (("9" * 5000,), ServiceUnavailable, 502),
    ],
)
def test_an_error_inside_a_200_is_what_its_code_says(codes, kind, status):
    error = error_for_status(None, codes=codes)
    assert (type(error), error.status) == (kind, status)


def test_every_wire_type_of_ours_is_understood_again():
    """What our own gateway sends inside a stream comes back as an error with the same verdicts."""
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, LLMError) and kind.wire_type != "api_error":
            again = error_for_status(None, codes=(kind.wire_type,))
            assert again.wire_type in (kind.wire_type, "service_unavailable", "insufficient_quota")


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt too long; exceeded max context length by 1119046 tokens (ref: 96164522)",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "the request exceeds the available context size. try increasing the context size",
        "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        "Input is too long for requested model.",
        "Prompt contains 40961 tokens, too large for model with 32768 maximum context length",
    ],
)
def test_servers_without_a_code_for_a_long_prompt_are_known_by_their_words(message):
    assert says_context_too_long(message)
    assert type(error_for_status(400, message=message)) is ContextTooLong
    assert error_for_status(400, message=message).rescue == "context"
    assert type(error_for_status(401, message=message)) is AuthenticationFailed


@pytest.mark.parametrize(
    "message", ["Invalid value for max_tokens", "the image is too large", "context is required", ""]
)
def test_other_words_say_nothing(message):
    assert type(error_for_status(400, message=message)) is InvalidRequest


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://evil.example/steal?key=sk-abcdefghijkl", "evil.example"),
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("/v2/chat", "no other host"),
        ("", "no other host"),
        ("http://[", "no other host"),
        (None, "no other host"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_an_error_that_names_the_host_and_nothing_else(status, location, shown):
    error = error_for_status(status, headers={} if location is None else {"Location": location})
    assert isinstance(error, BadReply)
    assert not error.retryable
    assert shown in error.message
    assert "abcdefghijkl" not in error.message
    assert "steal" not in error.message


@pytest.mark.parametrize(("word", "status", "verdict"), [("true", 400, True), ("false", 503, False)])
def test_the_servers_own_word_on_retrying_wins(word, status, verdict):
    assert error_for_status(status, headers={"x-should-retry": word}).retryable is verdict


def test_hints_and_ids_travel_with_the_error():
    headers = {"Retry-After": "7", "X-Request-Id": "req_9"}
    error = error_for_status(429, headers=headers, message="slow down", phase="headers")
    assert (error.retry_after, error.request_id, error.phase) == (7.0, "req_9", "headers")
    assert error_for_status(429, headers=headers, retry_after=30.0).retry_after == 30.0
    assert error_for_status(429, retry_after=3.0).retry_after == 3.0
    assert error_for_status(429).retry_after is None


def test_nothing_secret_is_in_the_message_and_the_code_is_a_word_where_there_is_one():
    error = error_for_status(401, codes=(401, "invalid_api_key"), message=" bad key sk-abcdefghijklmnop ")
    assert error.message == "bad key [REDACTED]"
    assert error.code == "invalid_api_key"
    assert error_for_status(401, codes=(401,)).code == "401"
    assert error_for_status(500).message == "the provider answered with status 500 and gave no message"
    assert error_for_status(None).message == "the provider failed and gave no message"


def test_an_error_inside_a_stream_may_have_cost_something():
    assert error_for_status(None, codes=(400,), phase="stream").billed == "unknown"
    assert error_for_status(400, phase="headers").billed == "no"


anything = st.one_of(st.none(), st.integers(), st.text(max_size=10), st.sampled_from([429, "server_error"]))


@given(
    st.none() | st.integers(-10, 1100),
    st.lists(anything, max_size=4).map(tuple),
    st.text(max_size=60),
    st.dictionaries(st.text(max_size=10) | st.just("retry-after"), st.text(max_size=20), max_size=3),
)
def test_whatever_a_server_says_there_is_one_error_for_it(status, codes, message, headers):
    error = error_for_status(status, codes=codes, message=message, headers=headers, now=0.0)
    assert isinstance(error, LLMError)
    assert error.message
    assert 300 <= error.status < 600
