"""Whether a trouble is over, and how that which it was about is now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.middleware.alerts.rules import CircuitOpened, ErrorSeen, NoteSeen, Reading, ResourceUse
from llmpipe.middleware.alerts.windowed import Windowed

if TYPE_CHECKING:
    from llmpipe.middleware.alerts.cases import Case
    from llmpipe.middleware.alerts.meter import Meter
    from llmpipe.middleware.alerts.usage import Uses
    from llmpipe.runtime import Runtime

__all__ = ("closed", "ending", "unwatched")


def ending(
    case: Case, now: float, *, meters: Mapping[tuple[str, str], Meter], uses: Uses, runtime: Runtime
) -> Reading | None:
    """How it is now that `case` is over; None while it is not."""
    rule = case.rule
    if isinstance(rule, Windowed):
        meter = meters.get((rule.name, case.key))
        window = (0, 0, 0.0) if meter is None else meter.window
        return rule.now(case.key, window) if meter is None or meter.rule.judge(window) is None else None
    if isinstance(rule, ResourceUse):
        return None if uses.over(rule) else uses.now(rule)
    if isinstance(rule, CircuitOpened):
        return None if _open(case.about, runtime) else closed(case.key)
    quiet: float | None = None
    what = ""
    if isinstance(rule, ErrorSeen):
        quiet, what = rule.quiet, " or ".join(rule.types)
    elif isinstance(rule, NoteSeen):
        quiet, what = rule.quiet, rule.kind
    if quiet is None or now - case.seen_at < quiet:
        return None
    return Reading(f"{case.key}: no {what} for {now - case.seen_at:.0f} s")


def closed(key: str) -> Reading:
    """How a circuit is that lets calls through again."""
    return Reading(f"{key}: the circuit is closed")


def unwatched(key: str) -> Reading:
    """What is known of something that no rule looks at any more."""
    return Reading(f"{key}: nothing watches it any more")


def _open(about: Any, runtime: Runtime) -> bool:
    """Whether a circuit of that provider and model is still not closed."""
    for board in runtime.states("breaker").values():
        for key in board.troubled:
            if isinstance(key, tuple) and len(key) == 3 and (key[0], key[2]) == about:
                return True
    return False
