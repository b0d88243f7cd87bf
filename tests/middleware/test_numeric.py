"""Settings that are numbers, given as something else."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from attrs import resolve_types

from llmpipe.errors import ConfigError
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout


@pytest.mark.parametrize(
    ("make", "settings", "says"),
    [
        (Retry, {"attempts": "3"}, "retry attempts must be a number, such as 4, not '3'"),
        (Retry, {"attempts": None}, "retry attempts must be a number, such as 4, not None"),
        (Retry, {"multiplier": "2"}, "retry multiplier must be a number, such as 2, not '2'"),
        (Retry, {"jitter": "full"}, "retry jitter must be a number, or None, not 'full'"),
        (Retry, {"priority": "first"}, "retry priority must be a number"),
        (
            Retry,
            {"policy": {"TIMEOUT": {"attempts": "2"}}},
            "retry policy attempts must be a number, or None, not '2'",
        ),
        (Breaker, {"slow": "2s"}, "breaker slow must be a number, or None, not '2s'"),
        (Breaker, {"ratio": "half"}, "breaker ratio must be a number, such as 0.5, or None"),
        (Breaker, {"window": None}, "breaker window must be a number, such as 30, not None"),
        (Cache, {"ttl": "1h"}, "cache: ttl must be a number, such as 3600, not '1h'"),
        (Cache, {"stale": None, "name": "mine"}, "mine: stale must be a number, such as 0, not None"),
        (
            RateLimit,
            {"requests_per_minute": "60"},
            "rate_limit: requests_per_minute must be a number, or None",
        ),
        (RateLimit, {"concurrency": [5]}, "rate_limit: concurrency must be a number, or None, not \\[5\\]"),
        (Timeout, {"total": "30s"}, "timeout: total must be a number, such as 600, or None, not '30s'"),
    ],
)
def test_a_number_given_as_text_is_refused_with_what_would_be_right(make: Any, settings: Any, says: str):
    with pytest.raises(ConfigError, match=f"^{says}"):
        make(**settings)


def test_any_kind_of_real_number_is_one_and_none_is_where_it_means_something():
    assert Retry(base=Fraction(1, 2)).base == Fraction(1, 2)
    assert Timeout(total=None).total is None
    assert Retry(jitter=None, attempts=2).attempts == 2


def test_settings_are_known_to_be_numbers_when_their_hints_were_resolved_too():
    resolve_types(Cache)  # as a chain file does
    with pytest.raises(ConfigError, match="ttl must be a number"):
        Cache(ttl="1h")  # type: ignore[arg-type]  # on purpose
    resolve_types(Timeout)
    assert Timeout(total=None).total is None
    with pytest.raises(ConfigError, match="total must be a number, such as 600, or None"):
        Timeout(total="5")  # type: ignore[arg-type]  # on purpose


def test_a_limit_that_limits_nothing_names_the_limits_there_are():
    with pytest.raises(ConfigError, match=r"no limit .*there are requests_per_second, .*tokens.*concurrency"):
        RateLimit(learn=False)
