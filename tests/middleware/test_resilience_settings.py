"""Retry, breaker and fallback as a configuration file has them."""

from __future__ import annotations

import tomllib

import pytest

from llmpipe.errors import ConfigError
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.migration import Migration
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider


def test_every_setting_of_retry_can_stand_in_a_file():
    settings = tomllib.loads(
        """
        attempts = 3
        base = 0.1
        cap = 5
        throttled_base = 0.1
        strategy = "fibonacci"
        multiplier = 3.0
        jitter = 0.25
        max_hint = 60
        min_attempt = 1.0
        budget = 100
        cost = 10
        throttled_cost = 2
        only_unsent = true
        immediate = true
        name = "again"
        priority = 710

        [policy]
        TIMEOUT = false
        NETWORK_ERROR = 5
        RATE_LIMIT = { attempts = 6, base = 1.0, cap = 30.0, strategy = "linear", immediate = false }
        """
    )
    made = build("retry", settings)
    assert made == Retry(**settings)
    assert made.policy["RATE_LIMIT"].attempts == 6


def test_every_setting_of_the_breaker_can_stand_in_a_file():
    settings = tomllib.loads(
        """
        window = 60
        min_calls = 20
        ratio = 0.6
        consecutive = 0
        base = 10
        cap = 300
        probes = 2
        close_after = 3
        max_half_open = 90
        adaptive = true
        slow = 20
        mode = "metrics_only"
        """
    )
    assert build("breaker", settings) == Breaker(**settings)


def test_the_targets_of_a_fallback_are_given_by_whoever_knows_them():
    other = MockProvider(name="other")
    settings = {"targets": [other], "on_policy": True, "cooldown": 5}
    assert build("fallback", settings) == Fallback(other, on_policy=True, cooldown=5)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("retry", {"atempts": 3}, "attempts"),
        ("retry", {"attempts": "3"}, "expected int"),
        ("retry", {"policy": {"TIMOUT": 3}}, "did you mean 'TIMEOUT'"),
        ("breaker", {"mode": "off"}, "mode"),
        ("breaker", {"ratio": 5.0}, "ratio"),
        ("fallback", {"targets": []}, "at least one target"),
        ("fallback", {"targets": ["claude"]}, "not a provider or chain"),
    ],
)
def test_a_bad_setting_is_refused_by_name(name: str, settings, says: str):
    with pytest.raises(ConfigError, match=says):
        build(name, settings)


def test_the_standard_order_is_explained_and_has_no_findings():
    chain = Chain(MockProvider(), Breaker(), Retry(), Fallback(MockProvider(name="other")))
    told = chain.explain()
    assert [layer.name for layer in told.layers] == ["fallback", "retry", "breaker"]
    assert all(layer.why for layer in told.layers)
    assert chain.lint() == []


def test_a_breaker_or_a_fallback_on_the_wrong_side_of_retry_is_found():
    other = MockProvider(name="other")
    chain = Chain(MockProvider(), Breaker(priority=650), Retry(), Fallback(other, priority=750))
    assert {finding.code for finding in chain.lint()} == {"breaker-outside-retry", "fallback-inside-retry"}
    moved = Chain(MockProvider(), Retry(), Migration(other, priority=750))
    assert {finding.code for finding in moved.lint()} == {"fallback-inside-retry"}
