"""How long to wait before a retry: strategies as pure functions, and the jitter put on them.

A strategy is any callable ``(retry, base, cap, recovery) -> seconds``:

- `retry` counts from 1;
- `base` and `cap` are seconds, 0 < base <= cap;
- `recovery` is the share, 0 to 1, of the latest retries after this kind of error at this target
  that succeeded, as `llmpipe.middleware.retry.quota` learns it; 0.5 while nothing is known.

It gives the wait before jitter. `spread` then draws from it, so that callers who failed together
do not come back together. Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from attrs import field, frozen

from llmpipe.errors import ConfigError

__all__ = (
    "Adaptive",
    "Exponential",
    "STRATEGIES",
    "Strategy",
    "fibonacci",
    "linear",
    "spread",
    "strategy_of",
)

Strategy = Callable[[int, float, float, float], float]

# Beyond this many doublings every cap is reached, and a float would overflow at a thousand.
_MAX_STEPS = 64


def _at_least_one(instance: object, attribute: object, value: float) -> None:
    if not 1 <= value <= 100:
        raise ConfigError(f"multiplier must be between 1 and 100, not {value}")


@frozen
class Exponential:
    """min(cap, base · multiplierⁿ⁻¹): 0.5, 1, 2, 4, 8 s with the defaults of `Retry`."""

    multiplier: float = field(default=2.0, validator=_at_least_one)

    def __call__(self, retry: int, base: float, cap: float, recovery: float = 0.5) -> float:
        """Seconds before retry number `retry`."""
        return min(cap, base * self.multiplier ** min(_count(retry) - 1, _MAX_STEPS))


def linear(retry: int, base: float, cap: float, recovery: float = 0.5) -> float:
    """min(cap, base · n): 0.5, 1, 1.5, 2 s."""
    return min(cap, base * _count(retry))


def fibonacci(retry: int, base: float, cap: float, recovery: float = 0.5) -> float:
    """min(cap, base · Fₙ): 0.5, 0.5, 1, 1.5, 2.5, 4 s. Grows by 1.6, gentler than doubling."""
    before, here = 0, 1
    for _ in range(min(_count(retry), 2 * _MAX_STEPS) - 1):
        before, here = here, before + here
    return min(cap, base * here)


@frozen
class Adaptive:
    """Exponential, shortened where retries lately helped and lengthened where they did not.

    The exponential wait is multiplied by 4^(1 - 2·recovery): by 4 where none of the latest retries
    after this kind of error at this target succeeded, by 1 where half of them did or nothing is
    known, by 1/4 where all did. Never above the cap.
    """

    multiplier: float = field(default=2.0, validator=_at_least_one)

    def __call__(self, retry: int, base: float, cap: float, recovery: float = 0.5) -> float:
        """Seconds before retry number `retry`."""
        wait = base * self.multiplier ** min(_count(retry) - 1, _MAX_STEPS)
        return min(cap, wait * 4 ** (1 - 2 * recovery))


STRATEGIES: Mapping[str, Callable[[float], Strategy]] = {
    "adaptive": Adaptive,
    "exponential": Exponential,
    "fibonacci": lambda multiplier: fibonacci,
    "linear": lambda multiplier: linear,
}
"""By name, as a function of the multiplier, which only exponential and adaptive use."""


def strategy_of(strategy: str | Strategy, multiplier: float = 2.0) -> Strategy:
    """The strategy called `strategy`, or `strategy` itself where it is one already.

    Raises: ConfigError for a name that is none of `STRATEGIES`, or something not callable.
    """
    if isinstance(strategy, str):
        make = STRATEGIES.get(strategy)
        if make is None:
            raise ConfigError(
                f"no retry strategy is called {strategy!r}; there are {', '.join(sorted(STRATEGIES))}"
            )
        return make(multiplier)
    if not callable(strategy):
        raise ConfigError(
            f"a retry strategy is a name or a callable (retry, base, cap, recovery) -> seconds, "
            f"not {strategy!r}"
        )
    return strategy


def spread(wait: float, jitter: float | None, random: Random) -> float:
    """`wait` seconds with jitter.

    Args: jitter None is full jitter, uniform in [0, wait]; a number j in [0, 1] is uniform in
        [(1-j)·wait, (1+j)·wait]; 0 is none.
    """
    if jitter is None:
        return random.random() * wait
    return wait * (1 + jitter * (2 * random.random() - 1))


def _count(retry: int) -> int:
    if retry < 1:
        raise ValueError(f"retries count from 1, not {retry}")
    return retry
