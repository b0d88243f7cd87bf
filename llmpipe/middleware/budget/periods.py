"""Periods of a calendar, in a time zone: when the one that a moment lies in began, and when it ends."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from difflib import get_close_matches
from math import floor
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from attrs import frozen

from llmpipe.errors import ConfigError

__all__ = ("PERIODS", "Period", "PeriodName", "Zone", "midnight", "period_at", "zone_of")

PeriodName = Literal["hour", "day", "week", "month", "total"]
PERIODS: tuple[str, ...] = ("hour", "day", "week", "month", "total")
Zone = ZoneInfo | timezone


@frozen
class Period:
    """From `start` until before `end`, seconds since the epoch; `end` is None for one that never ends."""

    start: int
    end: float | None


def zone_of(name: str, where: str) -> Zone:
    """The zone called `name`, such as ``Europe/Berlin``.

    Raises: ConfigError that names the nearest one, or says that this machine has none.
    """
    if name == "UTC":
        return UTC  # on every machine, time zone data or not
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        known = available_timezones()
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if not known:
            hint = "; this machine has no time zones: pip install tzdata"
        raise ConfigError(f"{where}: there is no timezone {name!r}{hint}") from error


def period_at(at: float, period: PeriodName, zone: Zone) -> Period:
    """The period that `at`, seconds since the epoch, lies in.

    Days begin at midnight of the zone, weeks on Monday (ISO 8601), months on the 1st. A day on which
    clocks are changed has 23 or 25 hours; one without a midnight begins when its clocks do. An hour
    is one of real time, so those hours that a clock shows twice are two.
    """
    if period == "total":
        return Period(0, None)
    local = datetime.fromtimestamp(at, zone)
    if period == "hour":
        offset = local.utcoffset()
        shift = 0 if offset is None else floor(offset.total_seconds()) % 3600  # half past, in India
        start = floor((at + shift) // 3600 * 3600 - shift)
        return Period(start, start + 3600.0)
    day = local.date()
    if period == "week":
        day -= timedelta(days=day.weekday())
    elif period == "month":
        day = day.replace(day=1)
    return Period(floor(midnight(day, zone)), midnight(_next(day, period), zone))


def midnight(day: date, zone: Zone) -> float:
    """When `day` begins in that zone, seconds since the epoch."""
    return datetime.combine(day, time(), zone).timestamp()


def _next(day: date, period: PeriodName) -> date:
    if period == "month":
        return (day + timedelta(days=31)).replace(day=1)
    return day + timedelta(days=7 if period == "week" else 1)
