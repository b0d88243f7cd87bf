"""One budget: how much, for how long, of whom, and what happens when it is used up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from time import time
from typing import Any, Literal

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.budget.periods import (
    PERIODS,
    Period,
    PeriodName,
    Zone,
    midnight,
    period_at,
    zone_of,
)
from llmpipe.middleware.names import names
from llmpipe.middleware.scopes import Scopes, balance_key, matches, owned, scope

__all__ = ("Rule",)

Action = Literal["block", "downgrade", "alert"]
_MOST_USD = Decimal(4_000_000)  # nano-USD of two of them still fit 53 bits, which is what Lua counts in


def _usd(value: Any) -> Decimal:
    """Dollars as they were written: 0.1 is a tenth, and not the nearest binary fraction."""
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return Decimal("NaN")  # refused below, where its name is known


def _shares(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _day(value: Any) -> Any:
    """As it is written in a file: TOML and YAML have days of their own."""
    return value.isoformat() if type(value) is date else value


@frozen(kw_only=True)
class Rule:
    """One budget. Every combination of what it is `per` has all of it.

    Attributes:
        usd: US dollars for each period, above 0.
        period: ``hour``, ``day``, ``week``, ``month``, aligned with the calendar; or ``total``.
        timezone: of the calendar, such as ``Europe/Berlin``.
        per: what is counted apart: ``global`` (nothing), ``account``, ``project``, ``user``, ``key``,
            ``provider``, ``model``, ``tag:name``; or several. A user or a project is one of its account.
        when: only calls like these: scope to a pattern with ``*`` and ``?``; ``{"model": "gpt-4o*"}``.
        action: ``block`` refuses; ``downgrade`` goes on with the model `downgrade_to`; ``alert`` only tells.
        alert_at: shares of the budget at which ``budget.alert`` is noted, each once a period.
        since, until: days (``2026-12-31``) from and to the end of which it holds, in its timezone.
        name: what it is called in errors and in the store; by default the period and what it is per.

    Raises: ConfigError for what can never hold, or names what there is not.
    """

    usd: Decimal = field(converter=_usd)
    period: PeriodName = "month"
    timezone: str = "UTC"
    per: tuple[str, ...] = field(default=("global",), converter=names)
    when: Mapping[str, str] = Factory(dict)
    action: Action = "block"
    downgrade_to: str = ""
    alert_at: tuple[float, ...] = field(default=(0.8,), converter=_shares)
    since: str = field(default="", converter=_day)
    until: str = field(default="", converter=_day)
    name: str = ""
    nano: int = field(init=False, repr=False, eq=False)
    zone: Zone = field(init=False, repr=False, eq=False)
    holds: tuple[float, float] = field(init=False, repr=False, eq=False)
    _keys: tuple[str, ...] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        where = f"budget {self.name!r}" if self.name else f"budget of {self.usd} USD"
        self._check(where)
        if len(set(self.per)) != len(self.per) or not self.per:
            raise ConfigError(f"{where}: per names scopes, each once, not {self.per}")
        keys = [scope(name, f"{where}: per") for name in self.per]
        _set = object.__setattr__  # frozen: this is part of the construction
        _set(self, "when", self._patterns(where))
        _set(self, "_keys", owned(keys))
        _set(self, "zone", zone_of(self.timezone, where))
        _set(self, "nano", int(self.usd.scaleb(9)))
        _set(self, "name", self.name or f"{self.period}:{'+'.join(self.per)}")
        _set(self, "holds", (self._moment("since", where), self._moment("until", where)))
        if self.nano < 1:
            raise ConfigError(f"{where}: {self.usd} USD is less than can be counted, 0.000000001")
        if self.holds[0] >= self.holds[1]:
            raise ConfigError(f"{where}: until is before since")
        if self.holds[1] <= time():
            raise ConfigError(f"{where}: it ended with {self.until}, and would never hold")

    def _check(self, where: str) -> None:
        """What can be said of each setting by itself."""
        if not (self.usd.is_finite() and 0 < self.usd <= _MOST_USD):
            raise ConfigError(f"{where}: usd is dollars above 0, {_MOST_USD} at most, not {self.usd}")
        if self.period not in PERIODS:
            raise ConfigError(f"{where}: period is one of {', '.join(PERIODS)}, not {self.period!r}")
        if self.action not in ("block", "downgrade", "alert"):
            raise ConfigError(f"{where}: action is block, downgrade or alert, not {self.action!r}")
        model: Any = self.downgrade_to
        if not isinstance(model, str) or (self.action == "downgrade") != bool(self.downgrade_to):
            raise ConfigError(f"{where}: action 'downgrade' and downgrade_to, a model, go together")
        share: Any  # these may be anything: not all that is configured comes from typed code
        name: Any = self.name
        zone: Any = self.timezone
        for share in self.alert_at:
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise ConfigError(f"{where}: alert_at is shares above 0, up to 1, not {self.alert_at}")
        if not isinstance(name, str) or not isinstance(zone, str):
            raise ConfigError(f"{where}: name and timezone are texts, not {self.name!r}, {self.timezone!r}")

    def _patterns(self, where: str) -> dict[str, str]:
        if not isinstance(self.when, Mapping):
            raise ConfigError(
                f'{where}: when is scopes to patterns, {{"model": "gpt-4o*"}}, not {self.when!r}'
            )
        patterns = {}
        for name, pattern in self.when.items():
            key = scope(name, f"{where}: when")
            if key == "global" or not isinstance(pattern, str):
                raise ConfigError(
                    f"{where}: when.{name} is one pattern of a scope with values, not {pattern!r}"
                )
            patterns[key] = pattern
        return patterns

    def _moment(self, name: str, where: str) -> float:
        """When the day `since` begins, or the day `until` is over; seconds since the epoch."""
        told, ends = getattr(self, name), name == "until"
        if not told:
            return float("inf") if ends else float("-inf")
        try:
            day = date.fromisoformat(told)
            return midnight(day + timedelta(days=1) if ends else day, self.zone)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{where}: {name} is a day, as 2026-12-31, not {told!r}") from None

    @property
    def limit(self) -> int | None:
        """Nano-USD that must not be exceeded; None where it only tells."""
        return None if self.action == "alert" else self.nano

    def applies(self, scopes: Scopes, at: float) -> bool:
        """Whether a call of these scopes, at that time, is paid from it."""
        if not self.holds[0] <= at < self.holds[1]:
            return False
        return not self.when or matches(self.when, scopes)

    def stands(self, scopes: Scopes, at: float) -> bool:
        """Whether calls of these scopes can be paid from it, of which not all are told."""
        told = {name: pattern for name, pattern in self.when.items() if name in scopes}
        return self.holds[0] <= at < self.holds[1] and matches(told, scopes)

    def account(self, scopes: Scopes) -> str:
        """The key of the balance that a call of these scopes is paid from."""
        name = self.name.replace("%", "%25").replace("/", "%2F") if "/" in self.name else self.name
        return balance_key(name, self._keys, scopes)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of a call that it asks for."""
        names = (*self._keys, *self.when)
        tags = [name[4:] for name in names if name.startswith("tag:")]
        return (*tags, *[name for name in names if name in ("project", "key")])

    def period_at(self, at: float) -> Period:
        """The period that `at`, seconds since the epoch, lies in."""
        return period_at(at, self.period, self.zone)

    def resets_at(self, period: Period) -> datetime | None:
        """When the period ends, as a clock in its zone shows it; None for one that never ends."""
        return None if period.end is None else datetime.fromtimestamp(period.end, self.zone)
