"""How the limits stand, as headers of a reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from llmpipe.middleware.limits.plan import Plan
from llmpipe.middleware.limits.rule import REQUESTS, TOKENS
from llmpipe.state import Ask, Level, Taken
from llmpipe.state.memory.limits import Answer

__all__ = ("Standing", "WithLimits", "ratelimit_headers")

Standing = tuple[Plan, Taken | Answer]
"""What was asked at one time, and what came of it."""

_NAMES = {
    unit: tuple([f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset")])
    for unit in (REQUESTS, TOKENS)
}


def ratelimit_headers(levels: Iterable[tuple[str, Ask, Level]]) -> dict[str, str]:
    """How the limits of requests and of tokens stand of which the least is left, as OpenAI's headers say it.

    ``limit`` is what the limit allows in a period, ``remaining`` what is admitted now, and after ``reset`` as
    much is as ever (OpenAI's guide "Rate limits"). What remains is told of the bucket, whose burst may be
    less than a period's: who read there that 900,000 of a day's million tokens remain could be refused the
    next thousand.
    """
    tightest: dict[str, tuple[Ask, Level]] = {}
    for unit, ask, level in levels:
        if unit in _NAMES and (unit not in tightest or level.remaining < tightest[unit][1].remaining):
            tightest[unit] = (ask, level)
    found: dict[str, str] = {}
    for unit, (ask, level) in tightest.items():
        limit, remaining, reset = _NAMES[unit]
        found[limit] = str(int(ask.limit))
        found[remaining] = str(max(0, int(level.remaining)))
        found[reset] = f"{ceil(level.reset * 1000)}ms"
    return found


class WithLimits(Mapping[str, str]):
    """`headers` and those of the limits, which are worked out when somebody looks: few ever do.

    They tell how the limits stood when the call took from them, however late somebody looks.
    """

    __slots__ = ("_found", "_headers", "_standings")

    def __init__(self, headers: Mapping[str, str], standings: Sequence[Standing]) -> None:
        self._headers = headers
        self._standings = standings
        self._found: dict[str, str] | None = None

    def _all(self) -> dict[str, str]:
        if self._found is None:
            levels = [
                level
                for plan, taken in self._standings
                for level in zip(plan.units, plan.asks, taken.levels, strict=False)  # none in an outage
            ]
            self._found = {**self._headers, **ratelimit_headers(levels)}
        return self._found

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled, it is a plain dict."""
        return (dict, (self._all(),))
