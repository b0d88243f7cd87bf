"""Hints of a refusing server, form by form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from llmpipe.dialects.headers import _wanted, headers_of_interest, lower_case, request_id
from llmpipe.dialects.retry_after import MAX_WAIT, parse_duration, parse_retry_after, should_retry

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
EPOCH = 1445412480  # the same instant


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20),
        ("1.5", 1.5),
        (".5", 0.5),
        (" 20 ", 20),
        ("0", 0),
        ("-5", None),
        ("", None),
        ("abc", None),
        ("NaN", None),
        ("nan", None),
        ("inf", None),
        ("Infinity", None),
        ("1e309", None),
        ("1_000", None),
        ("٣", None),
        ("0x10", None),
        ("20 seconds", None),
        ("9" * 5000, None),
        ("999999999999", MAX_WAIT),
        ("86401", MAX_WAIT),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30),
        ("Wed Oct 21 07:28:30 2015", 30),
        ("Sun Nov  1 07:28:30 2015", MAX_WAIT),
        ("Wed, 21 Oct 2015 07:28:30 +0000", 30),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0),
        ("Wed, 31 Feb 2015 07:28:30 GMT", None),
        ("Wed, 21 Oct 2015 27:28:30 GMT", None),
        ("20, 30", 30),
        ("30, abc, 20", 30),
        ("abc, -1", None),
        ("20, Wed, 21 Oct 2015 07:28:50 GMT", 50),
        (str(EPOCH + 30), 30),
        (str((EPOCH + 30) * 1000), 30),
        (str(EPOCH - 30), 0),
        ("2015-10-21T07:28:30Z", 30),
        ("2015-10-21T09:28:30+02:00", 30),
        ("6m0s", 360),
    ],
)
def test_each_form_of_the_header_means_what_it_says(value, seconds):
    for status in (429, 503, 302):
        found = parse_retry_after({"Retry-After": value, "Date": DATE}, status=status)
        assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "NaN", "retry-after": "20"}, 20),
        ({"retry-after-ms": "-1", "retry-after": "20"}, 20),
        ({"x-ms-retry-after-ms": "200"}, 0.2),
        ({"x-ms-retry-after-ms": "200", "retry-after-ms": "300"}, 0.3),
        ({"x-ms-retry-after-ms": "100, 900"}, 0.9),
        ({}, None),
    ],
)
def test_milliseconds_win_over_seconds(headers, seconds):
    found = parse_retry_after({**headers, "date": DATE}, status=503)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12"}, 12),
        ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "6m0s"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, None),
        (
            {
                "x-ratelimit-remaining-requests": "5",
                "x-ratelimit-reset-requests": "6m0s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "8s",
            },
            8,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str((EPOCH + 9) * 1000)}, 9),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(EPOCH + 9)}, 9),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "50"}, 50),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2015-10-21T07:28:09Z",
            },
            9,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "3",
                "anthropic-ratelimit-requests-reset": "2015-10-21T07:28:09Z",
            },
            None,
        ),
        (
            {
                "retry-after": "2",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            2,
        ),
    ],
)
def test_resets_are_the_last_resort_of_a_429(headers, seconds):
    headers = {**headers, "date": DATE}
    assert parse_retry_after(headers, status=429) == (None if seconds is None else pytest.approx(seconds))
    if "retry-after" not in headers:
        assert parse_retry_after(headers, status=503) is None


def test_instants_count_from_the_servers_clock_and_not_from_ours():
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": DATE}
    assert parse_retry_after(headers, now=EPOCH + 9999) == 30


def test_without_a_date_instants_count_from_now_and_without_now_they_are_ignored():
    headers = {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert parse_retry_after(headers, now=EPOCH + 10) == 20
    assert parse_retry_after(headers) is None
    assert parse_retry_after({**headers, "date": "yesterday"}, now=EPOCH + 10) == 20


def test_seconds_need_no_clock():
    assert parse_retry_after({"retry-after": "20"}) == 20


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=40)))
def test_any_header_gives_a_wait_within_bounds_or_none(headers):
    found = parse_retry_after(headers, status=429, now=0.0)
    assert found is None or (0 <= found <= MAX_WAIT and math.isfinite(found))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("34.07s", 34.07),
        ("1h", 3600),
        ("1d2h", 93_600),
        ("100µs", 0.0001),
        ("7.66s", 7.66),
        ("0s", 0),
        ("", None),
        ("5", None),
        ("5x", None),
        ("s", None),
        ("-5s", None),
        ("1h 2m", None),
        ("1hh", None),
    ],
)
def test_durations_are_those_of_go(text, seconds):
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [("true", True), ("False", False), (" true ", True), ("1", None), ("", None), (None, None)],
)
def test_the_server_may_say_whether_to_retry(value, verdict):
    assert should_retry({} if value is None else {"X-Should-Retry": value}) is verdict


def test_headers_of_interest_are_ids_limits_hints_and_the_date():
    headers = {
        "X-Request-ID": "req_1",
        "Content-Type": "application/json",
        "Set-Cookie": "session=secret",
        "Date": DATE,
        "Retry-After": "3",
        "X-RateLimit-Remaining-Tokens": "9",
        "anthropic-ratelimit-requests-limit": "50",
        "openai-organization": "org-1",
    }
    assert headers_of_interest(headers) == {
        "x-request-id": "req_1",
        "date": DATE,
        "retry-after": "3",
        "x-ratelimit-remaining-tokens": "9",
        "anthropic-ratelimit-requests-limit": "50",
    }


def test_a_repeated_header_is_a_list():
    repeated = CIMultiDict([("Retry-After", "20"), ("Server", "a"), ("retry-after", "30"), ("Date", DATE)])
    assert lower_case(repeated) == {"retry-after": "20, 30", "server": "a", "date": DATE}
    assert headers_of_interest(repeated) == {"retry-after": "20, 30", "date": DATE}
    assert parse_retry_after(repeated) == 30


def test_headers_of_ever_new_names_are_not_kept_for_ever():
    for number in range(1000):
        names = [f"X-{number}-{place}" for place in range(8)]
        found = headers_of_interest({**dict.fromkeys(names, "a"), "Retry-After": str(number)})
        assert found == {"retry-after": str(number)}
    before = len(_wanted)
    assert before <= 128
    assert headers_of_interest({"X" * 8192: "a", "Date": DATE}) == {"date": DATE}
    assert len(_wanted) == before


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"request-id": "a"}, "a"),
        ({"x-request-id": "a", "cf-ray": "b"}, "a"),
        ({"CF-Ray": "b"}, "b"),
        ({"x-request-id": ""}, None),
        ({}, None),
    ],
)
def test_the_request_id_is_the_providers_own_before_that_of_a_proxy(headers, found):
    assert request_id(headers) == found
