"""Orders that look right and are not: a rule each, over what middlewares say of themselves.

A middleware says so by its `traits`:

=============  ==========================================================================
trait          the middleware
=============  ==========================================================================
``observes``   records calls for people: metrics, logs, traces
``bounds``     puts a deadline on the whole call
``checks``     refuses requests that must not be answered
``masks``      takes personal data or secrets out of requests
``stores``     keeps replies, and gives them to later calls
``shares``     sends one request for several calls, and goes on with it when the one that began has left
``routes``     sends the call to one of several targets
``retries``    sends the call to the same target again
``hedges``     sends the call to the same target twice at once
``admits``     counts attempts against a limit
``rations``    counts what callers use against what they may: money, requests, tokens
``judges``     judges the health of a target by its attempts
``buffers``    holds a stream back, until its end or for a while
``commits``    decides how much of a stream is there when it is handed on
``continues``  asks a target to go on from the text of a stream that broke
``waits``      may wait on purpose
``counts``     keeps figures
=============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import frozen

from llmpipe.pipeline.bands import ATTEMPT
from llmpipe.pipeline.linker import Middleware

__all__ = ("Finding", "TRAITS", "lint", "traits_of")

TRAITS = frozenset(
    [
        "observes",
        "bounds",
        "checks",
        "masks",
        "stores",
        "shares",
        "routes",
        "retries",
        "hedges",
        "admits",
        "rations",
        "judges",
        "buffers",
        "commits",
        "continues",
        "waits",
        "counts",
    ]
)


@frozen
class Finding:
    """Something dangerous: a stable `code`, what it is, and what to do about it."""

    code: str
    level: Literal["error", "warning"]
    message: str
    layers: tuple[str, ...] = ()


@frozen
class _Order:
    """A rule: what has trait `outer` must run outside what has trait `inner`, else `because`."""

    code: str
    level: Literal["error", "warning"]
    outer: str
    inner: str
    because: str


_ORDERS = (
    _Order("cache-outside-redaction", "error", "masks", "stores", "so it stores what would have been masked"),
    _Order(
        "validation-inside-cache", "warning", "checks", "stores", "so a hit answers what would be refused"
    ),
    _Order("observer-inside-cache", "warning", "observes", "stores", "so a hit is never seen"),
    _Order("deadline-inside-retry", "warning", "bounds", "retries", "so each attempt gets all of the time"),
    _Order("fallback-inside-retry", "warning", "routes", "retries", "so each retry asks all targets again"),
    _Order("limit-outside-retry", "warning", "retries", "admits", "so retries pass uncounted"),
    _Order(
        "breaker-outside-retry", "warning", "retries", "judges", "so it sees one failure for all attempts"
    ),
    _Order("limit-outside-hedge", "warning", "hedges", "admits", "so the second attempt passes uncounted"),
    _Order(
        "breaker-outside-hedge", "warning", "hedges", "judges", "so the attempt that loses is never judged"
    ),
    _Order("ration-outside-cache", "warning", "stores", "rations", "so a hit is paid for"),
    _Order(
        "ration-outside-coalesce",
        "warning",
        "shares",
        "rations",
        "so what a request costs after the call that sent it has left is paid by nobody",
    ),
    _Order(
        "commit-outside-retry", "warning", "retries", "commits", "so what breaks while held is not retried"
    ),
    _Order(
        "commit-outside-fallback",
        "warning",
        "routes",
        "commits",
        "so what breaks while held is not asked of another target",
    ),
    _Order(
        "commit-outside-continue",
        "warning",
        "continues",
        "commits",
        "so what could be replaced unseen is continued from its middle",
    ),
    _Order(
        "continue-outside-fallback",
        "error",
        "routes",
        "continues",
        "so a target that cannot go on from a text may be asked to, and would begin anew in the middle",
    ),
)


def traits_of(item: Middleware) -> frozenset[str]:
    """What a middleware says of itself."""
    return frozenset(getattr(item, "traits", ()))


def lint(layers: Sequence[Middleware], chain: object = None) -> list[Finding]:
    """What is dangerous in the order of `layers`, which stand outermost first; errors come first.

    Args: chain is the one they stand in, where a way back into it is looked for.
    """
    findings = [finding for rule in _ORDERS for finding in _broken(rule, layers)]
    findings += _several(layers)
    findings += _timed(layers)
    findings += _circles(layers, chain)
    return sorted(findings, key=lambda finding: finding.level)


def _broken(rule: _Order, layers: Sequence[Middleware]) -> Iterable[Finding]:
    for place, first in enumerate(layers):
        for later in layers[place + 1 :]:
            if rule.inner in traits_of(first) and rule.outer in traits_of(later):
                yield Finding(
                    rule.code,
                    rule.level,
                    f"{first.name!r} (priority {first.priority}) runs outside {later.name!r} "
                    f"({later.priority}), {rule.because}; swap their priorities",
                    (first.name, later.name),
                )


def _several(layers: Sequence[Middleware]) -> Iterable[Finding]:
    again = [item.name for item in layers if "retries" in traits_of(item)]
    if len(again) > 1:
        yield Finding(
            "retries-multiply",
            "warning",
            f"{' and '.join(map(repr, again))} both retry, so attempts multiply; keep one of them",
            tuple(again),
        )


def _timed(layers: Sequence[Middleware]) -> Iterable[Finding]:
    for item in layers:
        if item.priority >= ATTEMPT and "commits" in traits_of(item):
            yield Finding(
                "commit-inside-timeout",
                "warning",
                f"{item.name!r} (priority {item.priority}) holds streams in band ATTEMPT ({ATTEMPT}), "
                f"where the time to their first content is limited; give it a lower priority",
                (item.name,),
            )


def _circles(layers: Sequence[Middleware], chain: object) -> Iterable[Finding]:
    for item in layers:
        if any(target is chain for target in _reached(item)):
            yield Finding(
                "falls-back-on-itself",
                "warning",
                f"a target of {item.name!r} leads back into this chain, which has failed by then; "
                f"give it another target",
                (item.name,),
            )


def _reached(item: object) -> Iterable[object]:
    """The targets of `item`, and all that stand within those that are chains; each once."""
    waiting = [*getattr(item, "targets", ())]
    seen = set()
    while waiting:
        target = waiting.pop()
        if id(target) in seen:
            continue
        seen.add(id(target))
        yield target
        if (core := getattr(target, "provider", None)) is not None:
            waiting.append(core)
        for layer in getattr(target, "middleware", ()):
            waiting.extend(getattr(layer, "targets", ()))
