"""What providers say of their rate limits in the headers of a reply.

Known spellings, with the header at which each was seen:

=====================================================  =======================================
``x-ratelimit-{limit,remaining,reset}-requests``       OpenAI, Groq (a day), Azure (``-1``: unknown)
``x-ratelimit-{…}-tokens-minute``, ``-requests-day``   Cerebras
``x-ratelimit-{…}-req-minute``                         Mistral
``x-ratelimit-renewalperiod-requests``                 Azure: the period, in seconds
``anthropic-ratelimit-input-tokens-{limit,…}``         Anthropic, a minute each
=====================================================  =======================================

Source: the "Rate limits" pages of these providers, and recorded replies. A reset is the time until
the bucket is full again, not a time to wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from attrs import define

from llmpipe.middleware.rate_limit.buckets import INPUT, OUTPUT, REQUESTS, TOKENS, Bucket, Limit

__all__ = ("Told", "told", "tune")

_NAME = re.compile(
    r"x-ratelimit-(?P<what>limit|remaining|reset|renewalperiod)-(?P<kind>requests|req|tokens)"
    r"(?:-(?P<period>second|minute|hour|day))?"
    r"|anthropic-ratelimit-(?P<kind2>requests|tokens|input-tokens|output-tokens)-(?P<what2>limit|remaining)"
)
_KINDS = {
    "requests": REQUESTS,
    "req": REQUESTS,
    "tokens": TOKENS,
    "input-tokens": INPUT,
    "output-tokens": OUTPUT,
}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,18})?)(d|h|ms|m|s|)")
_KIND_NAMES = {REQUESTS: "requests", TOKENS: "tokens", INPUT: "input tokens", OUTPUT: "output tokens"}
_MAX_BUCKETS = 24  # of a key; a provider that names another period in each reply gets no more
_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "": 1.0}


@define
class Told:
    """One limit as its provider sees it: units of a kind, and the period in seconds."""

    kind: int
    period: float = 60.0
    limit: float | None = None
    remaining: float | None = None


def told(headers: Mapping[str, str]) -> list[Told]:
    """The limits that `headers` (in lower case) speak of; what is unknown or no number is left out."""
    seen: dict[tuple[int, float | None], dict[str, float]] = {}
    for name, value in headers.items():
        if "ratelimit" not in name or (match := _NAME.fullmatch(name)) is None:
            continue
        number = _seconds(value)
        if number is not None:
            kind = _KINDS[match["kind"] or match["kind2"]]
            period = 60.0 if match["kind2"] else _PERIODS.get(match["period"] or "")
            seen.setdefault((kind, period), {})[match["what"] or match["what2"]] = number
    return [
        Told(kind, period or _period(values), values.get("limit") or None, values.get("remaining"))
        for (kind, period), values in seen.items()
        # Azure says limit 0 and remaining 0 (or -1) for what it does not count.
        if values.get("limit") != 0
    ]


def _seconds(value: str) -> float | None:
    """A number, or seconds of a Go duration such as ``6m0s``; None for what is neither, or negative."""
    total, at = 0.0, 0
    value = value.strip()
    for match in _DURATION.finditer(value):
        if match.start() != at or not match[0]:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    return total if value and at == len(value) else None


def _period(values: Mapping[str, float]) -> float:
    """The period nobody named. It shows in the reset: what is missing takes so long to come back."""
    if "renewalperiod" in values:
        return min(values["renewalperiod"], _PERIODS["day"]) or 60.0
    limit, remaining, reset = values.get("limit", 0.0), values.get("remaining", 0.0), values.get("reset", 0.0)
    if not (0 < remaining < limit and reset > 0):
        return 60.0
    shown = reset * limit / (limit - remaining)
    nearest = min(_PERIODS.values(), key=lambda period: max(period / shown, shown / period))
    return nearest if 0.4 < nearest / shown < 2.5 else 60.0


def tune(buckets: list[Bucket], own: Iterable[Limit], said: Told, now: float) -> Bucket | None:
    """The bucket that `said` is about, with the tighter of that limit and our own; added if it is new.

    None where nothing is known of the limit, so that there is no bucket to have, or there are too many.
    """
    place = (said.kind, said.period)
    bucket = next((b for b in buckets if (b.kind, b.limit.period) == place), None)
    if said.limit is None:
        return bucket
    mine = next((limit for limit in own if (limit.kind, limit.period) == place), None)
    if mine is None:
        limit = Limit(f"{_KIND_NAMES[said.kind]} in {said.period:g} s", said.kind, said.period, said.limit)
    else:
        limit = Limit(mine.name, mine.kind, mine.period, min(mine.amount, said.limit), mine.burst)
    if bucket is None:
        if len(buckets) >= _MAX_BUCKETS:
            return None
        bucket = Bucket.of(limit, now)
        buckets.append(bucket)
    elif bucket.limit != limit:
        bucket.retune(limit, now)
    return bucket
