"""Where in the onion a concern sits: lower runs further out.

Bands are a hundred apart, so that third parties fit between. Within a band the number decides,
then the order in which middlewares were added.
"""

from __future__ import annotations

__all__ = (
    "ADMIT",
    "AGAIN",
    "ATTEMPT",
    "BANDS",
    "DEADLINE",
    "GUARD",
    "HEALTH",
    "OBSERVE",
    "ROUTE",
    "SHORTCUT",
    "SPEND",
    "band_of",
)

OBSERVE = 100
DEADLINE = 200
GUARD = 300
SHORTCUT = 400
SPEND = 500
ROUTE = 600
AGAIN = 700
ADMIT = 800
HEALTH = 900
ATTEMPT = 1000

BANDS: dict[int, tuple[str, str]] = {
    OBSERVE: ("OBSERVE", "sees every call and how it really ended, refusals and hits included"),
    DEADLINE: ("DEADLINE", "bounds the whole call: queueing, retries and fallbacks included"),
    GUARD: ("GUARD", "checks and rewrites what may leave, before anything is stored or spent"),
    SHORTCUT: ("SHORTCUT", "answers without a provider where it can"),
    SPEND: ("SPEND", "counts and bounds the money of all attempts together"),
    ROUTE: ("ROUTE", "chooses the target, and the next one when a target fails"),
    AGAIN: ("AGAIN", "tries the same target again"),
    ADMIT: ("ADMIT", "waits for room under the limits, for every attempt anew"),
    HEALTH: ("HEALTH", "refuses what would fail; inside the queue, because time passes there"),
    ATTEMPT: ("ATTEMPT", "bounds and observes a single attempt"),
}


def band_of(priority: int) -> str:
    """The name of the band that `priority` falls in: the nearest one at or below it."""
    below = [start for start in BANDS if start <= priority]
    return BANDS[max(below)][0] if below else "OUTSIDE"
