"""Rate-limit headers as providers really send them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.rate_limit.buckets import INPUT, OUTPUT, REQUESTS, TOKENS, Bucket, Limit
from llmpipe.middleware.rate_limit.headers import Told, told, tune


def by_kind(headers: dict[str, str]) -> dict[tuple[int, float], tuple[float | None, float | None]]:
    return {(said.kind, said.period): (said.limit, said.remaining) for said in told(headers)}


def test_openai_names_requests_and_tokens_of_a_minute():
    assert by_kind(
        {
            "x-ratelimit-limit-requests": "5000",
            "x-ratelimit-remaining-requests": "4999",
            "x-ratelimit-reset-requests": "12ms",
            "x-ratelimit-limit-tokens": "800000",
            "x-ratelimit-remaining-tokens": "799000",
            "x-ratelimit-reset-tokens": "75ms",
            "x-request-id": "req_1",
        }
    ) == {(REQUESTS, 60.0): (5000, 4999), (TOKENS, 60.0): (800000, 799000)}


def test_a_period_that_nobody_names_shows_in_the_reset():
    assert by_kind(
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14399",
            "x-ratelimit-reset-requests": "6s",
        }
    ) == {(REQUESTS, 86400.0): (14400, 14399)}
    assert by_kind(
        {
            "x-ratelimit-limit-requests": "200",
            "x-ratelimit-remaining-requests": "199",
            "x-ratelimit-reset-requests": "7m12s",
        }
    ) == {(REQUESTS, 86400.0): (200, 199)}


def test_anthropic_counts_input_and_output_apart():
    headers = {"anthropic-ratelimit-requests-limit": "4000", "anthropic-ratelimit-requests-remaining": "3999"}
    headers |= {
        f"anthropic-ratelimit-{kind}-{what}": value
        for kind, limit, left in (
            ("input-tokens", "2000000", "1999000"),
            ("output-tokens", "400000", "400000"),
        )
        for what, value in (("limit", limit), ("remaining", left), ("reset", "2026-02-17T23:44:15Z"))
    }
    assert by_kind(headers) == {
        (REQUESTS, 60.0): (4000, 3999),
        (INPUT, 60.0): (2000000, 1999000),
        (OUTPUT, 60.0): (400000, 400000),
    }


def test_periods_in_the_name_are_taken_from_there():
    assert by_kind(
        {
            "x-ratelimit-limit-requests-day": "1440000",
            "x-ratelimit-remaining-requests-day": "1439000",
            "x-ratelimit-limit-tokens-minute": "100000",
            "x-ratelimit-limit-req-minute": "100",
        }
    ) == {
        (REQUESTS, 86400.0): (1440000, 1439000),
        (TOKENS, 60.0): (100000, None),
        (REQUESTS, 60.0): (100, None),
    }


def test_no_period_is_longer_than_a_day():
    headers = {"x-ratelimit-limit-requests": "10", "x-ratelimit-renewalperiod-requests": "999999999"}
    assert [said.period for said in told(headers)] == [86_400]


def test_azure_says_how_long_its_period_is_and_minus_one_for_unknown():
    assert by_kind(
        {
            "x-ratelimit-limit-requests": "10",
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-renewalperiod-requests": "10",
            "x-ratelimit-limit-tokens": "-1",
            "x-ratelimit-remaining-tokens": "-1",
        }
    ) == {(REQUESTS, 10.0): (10, 9)}
    assert told({"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0"}) == []


@given(st.dictionaries(st.sampled_from(["x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"]), st.text()))
def test_nonsense_is_left_out(headers):
    for said in told(headers):
        assert said.limit is None or said.limit > 0
        assert said.period > 0


def test_redacted_and_empty_values_are_left_out():
    assert (
        told({"x-ratelimit-limit-tokens": "X-RATELIMIT-LIMIT-TOKENS-XXX", "x-ratelimit-limit-requests": ""})
        == []
    )


def headers_in(wire: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted(wire.rglob("*.json")):
        text = path.read_text(errors="replace")
        if "ratelimit-" in text.lower():
            stack = [json.loads(text)]
            while stack:
                value = stack.pop()
                if isinstance(value, list):
                    stack.extend(value)
                elif isinstance(value, dict):
                    low = {str(k).lower(): v for k, v in value.items() if isinstance(v, str)}
                    if any("ratelimit-" in name for name in low):
                        found.append(low)
                    stack.extend(value.values())
    return found


def test_every_recorded_reply_gives_sensible_limits(wire):
    if wire is None:
        pytest.skip("no recorded traffic here")
    limits = [said for headers in headers_in(wire) for said in told(headers)]
    assert len(limits) > 100
    for said in limits:
        assert said.period in (10.0, 60.0, 3600.0, 86400.0)
        assert said.limit is None or said.limit >= 1
        assert said.remaining is None or said.limit is None or said.remaining <= said.limit


def test_the_tighter_of_our_limit_and_theirs_holds():
    own = [Limit("requests_per_minute", REQUESTS, 60.0, 100, 7.0)]
    buckets = [Bucket.of(own[0], 0.0)]
    assert tune(buckets, own, Told(REQUESTS, 60.0, 500), 0.0) is buckets[0]
    assert (buckets[0].limit.amount, buckets[0].burst) == (100, 7)
    tune(buckets, own, Told(REQUESTS, 60.0, 30), 0.0)
    assert (buckets[0].limit.amount, buckets[0].rate) == (30, 0.5)
    tune(buckets, own, Told(REQUESTS, 60.0, 500), 0.0)
    assert buckets[0].limit.amount == 100


def test_a_limit_we_did_not_set_gets_a_bucket_of_its_own():
    buckets: list[Bucket] = []
    assert tune(buckets, (), Told(TOKENS, 60.0, None, 5), 0.0) is None
    new = tune(buckets, (), Told(TOKENS, 60.0, 6000), 0.0)
    assert buckets == [new]
    assert new is not None
    assert (new.limit.name, new.burst) == ("tokens in 60 s", 600)
