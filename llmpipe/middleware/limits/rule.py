"""One set of limits: how much, in what time, of whom."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.scopes import OF_A_TARGET, Scopes, balance_key, matches, owned, scope
from llmpipe.state import Ask

__all__ = ("Limit", "REQUESTS", "SLOTS", "TOKENS")

REQUESTS, TOKENS, SLOTS = "requests", "tokens", "slots"

# Setting, unit, seconds of the period, its name in keys.
_RATES = (
    ("requests_per_second", REQUESTS, 1.0, "second"),
    ("requests_per_minute", REQUESTS, 60.0, "minute"),
    ("requests_per_hour", REQUESTS, 3600.0, "hour"),
    ("requests_per_day", REQUESTS, 86_400.0, "day"),
    ("tokens_per_minute", TOKENS, 60.0, "minute"),
    ("tokens_per_day", TOKENS, 86_400.0, "day"),
)


@frozen(kw_only=True)
class Limit:
    """Limits that hold together. Every combination of what they are `per` has all of them.

    Attributes:
        per: what is counted apart: ``global`` (nothing), ``account``, ``project``, ``user``, ``key``,
            ``provider``, ``model``, ``tag:name``; or several. A user or a project is one of its account.
        when: only calls like these: scope to a pattern with ``*`` and ``?``; ``{"model": "gpt-4o*"}``.
        requests_per_second, requests_per_minute, requests_per_hour, requests_per_day: any of them.
        tokens_per_minute, tokens_per_day: input and output together.
        concurrency: calls under way.
        burst: requests that may be made at once; None is 10 % of the limit, at least 1. In any time t
            at most the burst and the limit's share of t are admitted.
        token_burst: the same of tokens; None is the whole of a minute's, and 10 % of a day's.
        name: what it is called in errors and in the store; by default what it is per.
    """

    per: tuple[str, ...] = field(default=("global",), converter=names)
    when: Mapping[str, str] = Factory(dict)
    requests_per_second: float | None = None
    requests_per_minute: float | None = None
    requests_per_hour: float | None = None
    requests_per_day: float | None = None
    tokens_per_minute: float | None = None
    tokens_per_day: float | None = None
    concurrency: int | None = None
    burst: float | None = None
    token_burst: float | None = None
    name: str = ""
    of_a_target: bool = field(init=False, repr=False, eq=False)
    _keys: tuple[str, ...] = field(init=False, repr=False, eq=False)
    _asks: tuple[tuple[str, Ask], ...] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        where = f"limit {self.name!r}" if self.name else f"limit per {'+'.join(self.per)}"
        check_numbers(self, f"{where}:")
        keys = owned([scope(name, f"{where}: per") for name in self.per])
        when = {scope(name, f"{where}: when"): str(one) for name, one in self.when.items()}
        set_ = object.__setattr__  # frozen: this is part of the construction
        set_(self, "when", when)
        set_(self, "_keys", keys)
        set_(self, "of_a_target", bool(OF_A_TARGET & {*keys, *when}))
        set_(self, "name", self.name or "+".join(self.per))
        told = (*(setting for setting, *_ in _RATES), "concurrency", "burst", "token_burst")
        for setting in told:
            value = getattr(self, setting)
            if value is not None and not value > 0:
                raise ConfigError(f"{where}: {setting} must be above 0, or None for no limit, not {value}")
        set_(self, "_asks", tuple(self._made()))
        if not self._asks:
            raise ConfigError(f"{where}: it limits nothing; give it one of {', '.join(told[:-2])}")

    def _made(self) -> list[tuple[str, Ask]]:
        made = []
        for setting, unit, period, word in _RATES:
            limit = getattr(self, setting)
            if limit is not None:
                name = f"{self.name}:{unit}/{word}"
                made.append((unit, Ask(name, 0.0, float(limit), period, self._burst(unit, limit, period))))
        if self.concurrency is not None:
            made.append((SLOTS, Ask(f"{self.name}:slots", 1.0, float(self.concurrency))))
        return made

    def _burst(self, unit: str, limit: float, period: float) -> float:
        if unit == REQUESTS:
            return max(1.0, limit / 10) if self.burst is None else self.burst
        if self.token_burst is not None:
            return self.token_burst
        return limit if period == 60.0 else limit / 10

    @property
    def scopes(self) -> frozenset[str]:
        """What it tells calls apart by."""
        return frozenset((*self._keys, *self.when))

    def applies(self, scopes: Scopes) -> bool:
        """Whether it is a limit of calls of these scopes."""
        return not self.when or matches(self.when, scopes)

    def asks(self, scopes: Scopes, tokens: float) -> list[tuple[str, Ask]]:
        """What a call of these scopes takes: unit and ask."""
        made = []
        for unit, ask in self._asks:
            key = balance_key(ask.key, self._keys, scopes)
            amount = tokens if unit == TOKENS else 1.0
            made.append((unit, Ask(key, amount, ask.limit, ask.period, ask.burst)))
        return made
