"""How long a refusing server asks to be left alone, in every form they say it.

Instants are measured against the response's own ``Date`` header, so that a wrong local clock
changes nothing.

Sources: RFC 9110 (Retry-After, HTTP-date); the retry code of the OpenAI, Anthropic and Azure
SDKs (``retry-after-ms``, ``x-ms-retry-after-ms``, ``x-should-retry``); OpenAI's "Rate limits"
page (resets as Go durations); Anthropic's "Rate limits" page (resets as RFC 3339).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from llmpipe.dialects.headers import lower_case

__all__ = ("MAX_WAIT", "parse_duration", "parse_retry_after", "should_retry")

MAX_WAIT = 86_400.0
"""Seconds; no hint is taken for more. Nobody sleeps as long, but a router may park a target."""

_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}")
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(d|h|ms|m|us|µs|μs|ns|s)")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8}(?: GMT| UTC| [+-][0-9]{4})?"  # IMF-fixdate
    r"|[A-Z][a-z]{5,8}, [0-9]{1,2}-[A-Z][a-z]{2}-[0-9]{2} [0-9:]{8} GMT"  # RFC 850
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} +[0-9]{1,2} [0-9:]{8} [0-9]{4}"  # asctime
)
_RESET = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:[a-z]+-){0,3}?reset(?:-[a-z\-]{1,40})?")


def parse_retry_after(
    headers: Mapping[str, str], *, status: int | None = None, now: float | None = None
) -> float | None:
    """Seconds to wait that `headers` ask for, in [0, `MAX_WAIT`]; None if they ask for nothing valid.

    Milliseconds win over ``retry-after``; of several values the largest valid one is taken; an
    instant in the past is 0. Rate-limit resets count only for a 429 without a better hint,
    and only those whose own `remaining` is 0, for a reset is the time until the bucket is full.

    Args: now is the Unix time to use where the response has no ``Date``; without both, instants
        are ignored.
    """
    low = lower_case(headers)
    origin = _http_date(low.get("date", ""))
    if origin is None:
        origin = now
    waits = [
        float(number) / 1000
        for name in ("retry-after-ms", "x-ms-retry-after-ms")
        for number in _numbers(low.get(name, ""))
    ]
    if not waits and "retry-after" in low:
        waits = list(_waits(low["retry-after"], origin))
    if not waits and status == 429:
        waits = [wait for value in _exhausted(low) for wait in _waits(value, origin)]
    return min(max(*waits, 0.0), MAX_WAIT) if waits else None


def should_retry(headers: Mapping[str, str]) -> bool | None:
    """The server's own word on whether a retry makes sense (``x-should-retry``), or None."""
    value = lower_case(headers).get("x-should-retry", "").strip().lower()
    return {"true": True, "false": False}.get(value)


def parse_duration(text: str) -> float | None:
    """Seconds of a Go or protobuf duration such as ``6m0s``, ``1h2m3.5s``, ``20ms`` or ``34.07s``."""
    text = text.strip()
    total, position = 0.0, 0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            return None
        unit = match[2].replace("µ", "u").replace("μ", "u")
        total += float(match[1]) * _SECONDS[unit]
        position = match.end()
    return total if text and position == len(text) else None


def _exhausted(low: Mapping[str, str]) -> Iterator[str]:
    """Values of the reset headers whose limit is used up."""
    for name, value in low.items():
        if _RESET.fullmatch(name) and low.get(name.replace("reset", "remaining"), "").strip() == "0":
            yield value


def _waits(value: str, origin: float | None) -> Iterator[float]:
    """Seconds from `origin`, for each of the forms found in a header's value."""
    for match in _HTTP_DATE.finditer(value):
        instant = _http_date(match[0])
        if instant is not None and origin is not None:
            yield instant - origin
    for part in map(str.strip, _HTTP_DATE.sub("", value).split(",")):
        duration = parse_duration(part)
        if duration is not None:
            yield duration
        elif _NUMBER.fullmatch(part):
            number = float(part)
            # Epoch seconds and milliseconds by magnitude: 2001 to 2286 either way. Nobody means
            # a wait of 31 years, so nothing is lost.
            instant = number if 1e9 <= number < 1e10 else number / 1000 if 1e12 <= number < 1e13 else None
            if instant is None:
                yield number
            elif origin is not None:
                yield instant - origin
        else:
            instant = _rfc3339(part)
            if instant is not None and origin is not None:
                yield instant - origin


def _numbers(value: str) -> Iterator[str]:
    return (part.strip() for part in value.split(",") if _NUMBER.fullmatch(part.strip()))


def _http_date(text: str) -> float | None:
    """Unix time of an HTTP date in one of its three forms (RFC 9110, 5.6.7)."""
    if not _HTTP_DATE.fullmatch(text.strip()):
        return None
    try:
        moment = parsedate_to_datetime(text.strip())
    except ValueError:  # a 31st of February
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _rfc3339(text: str) -> float | None:
    if not 19 <= len(text) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
