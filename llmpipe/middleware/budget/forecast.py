"""What a budget will have spent when its period ends, and when it will be used up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from attrs import frozen

from llmpipe.middleware.budget.periods import Period, Zone
from llmpipe.state import Spend

__all__ = ("Forecast", "forecast")

_HOUR, _WEEK = 3600.0, 7 * 86_400.0
_HOURS_OF_WEEK = 168


@frozen(kw_only=True)
class Forecast:
    """How a budget will go on. Money is nano-USD, times are seconds since the epoch.

    Attributes:
        per_hour: what is spent in an hour, on average since the period began.
        projected: what will be spent at the period's end; None for a budget that never begins anew.
        exhausted_at: when all of it is spent, if that is before the period's end, else None.
        basis: ``profile``: as the hours of previous weeks went, scaled to this period; ``run rate``: as
            the period went so far.
    """

    limit: int
    spent: int
    per_hour: int
    projected: int | None
    exhausted_at: float | None
    basis: Literal["profile", "run rate"]

    @property
    def share(self) -> float | None:
        """What of the budget will be spent at the period's end; above 1 where it is not enough."""
        return None if self.projected is None else self.projected / self.limit


def forecast(
    *, spent: int, limit: int, period: Period, now: float, zone: Zone, history: Sequence[Spend] = ()
) -> Forecast:
    """The forecast at `now` for a budget of which `spent` nano-USD are spent in `period`.

    With a week or more of `history` before the period, the hours to come are expected to go as the same
    hours of the week did, scaled by how this period went against them so far. Else as it went so far.
    Of a budget that never begins anew, the run rate is that of its last four weeks.
    """
    first = min((row.at for row in history), default=now)
    profile = _profile(history, period.start if period.end is not None else now, zone)
    begun = float(period.start) if period.end is not None else max(first, now - 4 * _WEEK)
    elapsed = max(now - begun, 1.0)
    recent = spent
    if period.end is None:
        recent = sum([row.nano or 0 for row in history if row.at >= begun])
    rate = recent / elapsed
    ends = period.end
    if profile is None or ends is None:
        projected = None if ends is None else spent + round(rate * max(0.0, ends - now))
        runs_out = now + max(0, limit - spent) / rate if rate > 0 else None
        basis: Literal["profile", "run rate"] = "run rate"
    else:
        expected = sum([nano for _, nano in _hours(profile, begun, now, zone)])
        scale = _scale(spent, expected, profile)
        projected, runs_out = _walk(spent, limit, scale, _hours(profile, now, ends, zone))
        basis = "profile"
    if spent >= limit:
        runs_out = now
    if runs_out is not None and ends is not None and runs_out >= ends:
        runs_out = None
    return Forecast(
        limit=limit,
        spent=spent,
        per_hour=round(rate * _HOUR),
        projected=projected,
        exhausted_at=runs_out,
        basis=basis,
    )


def _profile(history: Sequence[Spend], before: float, zone: Zone) -> list[float] | None:
    """Nano-USD of each hour of the week, Monday first, on average; None for less than a week.

    A tenth of each is the average hour, so that an hour in which nothing was spent is not one in which
    nothing can be.
    """
    rows = [row for row in history if row.at < before and row.nano]
    if not rows or before - min(row.at for row in rows) < _WEEK:
        return None
    weeks = (before - min(row.at for row in rows)) / _WEEK
    sums = [0.0] * _HOURS_OF_WEEK
    for row in rows:
        sums[_hour_of_week(row.at, zone)] += row.nano or 0
    average = sum(sums) / _HOURS_OF_WEEK
    return [(0.9 * nano + 0.1 * average) / weeks for nano in sums]


def _hour_of_week(at: float, zone: Zone) -> int:
    local = datetime.fromtimestamp(at, zone)
    return 24 * local.weekday() + local.hour


def _hours(profile: list[float], begin: float, end: float, zone: Zone) -> list[tuple[float, float]]:
    """Each hour between the two, or the part of it, as (when it ends, what is spent in it)."""
    found = []
    at = begin
    while at < end:
        until = min(end, (at // _HOUR + 1) * _HOUR)
        found.append((until, profile[_hour_of_week(at, zone)] * (until - at) / _HOUR))
        at = until
    return found


def _scale(spent: int, expected: float, profile: list[float]) -> float:
    """How this period goes against the profile. What an average day spends is weighed in as it was."""
    day = sum(profile) / 7
    return (spent + day) / (expected + day) if expected + day > 0 else 1.0


def _walk(spent: int, limit: int, scale: float, hours: list[tuple[float, float]]) -> tuple[int, float | None]:
    """What is spent at the end of `hours`, and when the limit is passed."""
    total, out = float(spent), None
    for until, nano in hours:
        total += scale * nano
        if out is None and total >= limit:
            out = until
    return round(total), out
