"""All backends side by side: the same is asked of each at the same time, and what they say is compared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import isclose
from typing import Any

from attrs import define, evolve, field

from llmpipe.state import Leased, Level, QueueConflict, QueueCounts, QueueFull, Taken, Trip

__all__ = ("HUGE", "LONG", "NAMES", "Asked", "Side", "Sides")

LONG = "x" * 10_000
HUGE = 5 * 1024 * 1024
NAMES = (
    "", " ", "a", " a", "a ", "A", "é", "e\u0301", "\0", "a\0b", "\1", "\1\1", "a\nb", "\r\n", "%", "_",
    "%s%d%n", "*", "[^a-z]", "?", "$1", ":1", "'; DROP TABLE holds; --", '"', "\\", "\\x00", "]]", "--[[",
    "ARGV[1]", "0|a", "state", "{a}", "a:b", "ticket:a", "\ud7ff", "\ud800", "a\udfffb", "\ud83d", "\ue000",
    "\ufdd0", "\uffff", "😀", "😀\ud83d", "\U0010ffff", LONG,
)  # fmt: skip
"""Names that separators, patterns, encodings and languages have trouble with."""

Asked = Callable[["Side"], Awaitable[Any]]
_SLACK = 20.0
"""Seconds by which the real clocks of the stores may be ahead of the model's."""


@define
class Side:
    """One backend: its things by kind, and the tokens of the queue's leases in the order they were given."""

    name: str
    things: dict[str, Any]
    tokens: list[int] = field(factory=list)

    def __getattr__(self, kind: str) -> Any:
        try:
            return self.things[kind]
        except KeyError:
            raise AttributeError(kind) from None

    def token(self, number: int) -> int:
        """The token of that lease; of one that nobody was given, one that no lease has."""
        return self.tokens[number] if number < len(self.tokens) else 10**9 + number


@define
class Sides:
    """The model first, and those that are to be like it."""

    model: Side
    others: list[Side]

    async def ask(self, kind: str, what: str, asked: Asked) -> Any:
        """What all that keep `kind` answer; the same, or errors of one class."""
        sides = [side for side in (self.model, *self.others) if kind in side.things]
        answers = await asyncio.gather(*[_answer(side, asked) for side in sides])
        for side, answer in zip(sides[1:], answers[1:], strict=True):
            assert _alike(answers[0], answer), (
                f"{what}\n  {sides[0].name}: {answers[0]!r:.600}\n  {side.name}: {answer!r:.600}"
            )
        return answers[0]


async def _answer(side: Side, asked: Asked) -> Any:
    try:
        async with asyncio.timeout(30):
            answer = await asked(side)
    except (QueueConflict, QueueFull) as error:
        return type(error)
    except ValueError as error:
        driver = type(error).__module__.partition(".")[0] in ("asyncpg", "sqlite3", "redis")
        return type(error) if driver else ValueError
    if isinstance(answer, list) and answer and isinstance(answer[0], Leased):
        side.tokens += [leased.token for leased in answer]
        assert side.tokens == sorted(set(side.tokens)), "tokens rise with each lease"
        return [evolve(leased, token=0) for leased in answer]
    return answer


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Taken):
        return (
            one.refused == other.refused
            and _alike(one.levels, other.levels)
            and (one.retry_after is None) == (other.retry_after is None)
            and abs((one.retry_after or 0.0) - (other.retry_after or 0.0)) < _SLACK
        )
    if isinstance(one, Level):
        return isclose(one.remaining, other.remaining, rel_tol=1e-9, abs_tol=0.01) and _near(
            one.reset, other.reset
        )
    if isinstance(one, QueueCounts):
        return evolve(one, oldest=0.0) == evolve(other, oldest=0.0) and _near(one.oldest, other.oldest)
    if isinstance(one, Trip):
        return bool(one.reopens == other.reopens) and _near(one.seconds, other.seconds)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def _near(one: float, other: float) -> bool:
    return one == other or isclose(one, other, rel_tol=1e-9, abs_tol=_SLACK)
