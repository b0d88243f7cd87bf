"""What is done when a target has failed: whether another may be asked, and what is raised in the end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.errors import LLMError
from llmpipe.pricing import prices
from llmpipe.routing.health import Sliding

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.routing.lane import Lane

__all__ = ("Budget", "entries", "left", "most_useful")

_WINDOW = 60.0


class Budget:
    """How many failovers a router may spend: a share of its calls, and a floor.

    One that ends in an answer costs nothing, so that the outage of one target of several is made good
    for every call. Those that fail, which add load and help nobody, are counted over a minute, and the
    ones under way with them. At a share of 0.1 and a floor of 20, a total outage at ten calls a second
    sends 1.13 times the requests.

    Source: Finagle's retry budget (a share of requests and a reserve over a sliding window).
    """

    __slots__ = ("floor", "share", "under_way", "window")

    def __init__(self, share: float, floor: int) -> None:
        self.share = share
        self.floor = floor
        self.under_way = 0
        self.window = Sliding(_WINDOW)  # calls of the router, and failovers that failed

    def take(self, now: float) -> bool:
        """Begin a failover; False where there is nothing left to pay it with."""
        calls, spent = self.window.at(now)
        if self.under_way + spent >= self.floor + self.share * calls:
            return False
        self.under_way += 1
        return True

    def settle(self) -> None:
        """A failover is over."""
        self.under_way -= 1

    def lose(self, now: float) -> None:
        """A failover has sent a request and brought nothing."""
        self.window.spoil(now)


def left(
    call: Call,
    lanes: Sequence[Lane],
    failures: Sequence[tuple[Lane, LLMError]],
    rescued: Collection[str],
) -> Sequence[Lane]:
    """Who of `lanes` could answer what all of `failures` could not; `rescued` are the causes that go on."""
    if failures[-1][1].rescue not in rescued:
        return ()
    tried = [lane for lane, _ in failures]
    others: Sequence[Lane] = [lane for lane in lanes if lane not in tried]
    for small, error in failures:
        if error.rescue == "context":
            others = [lane for lane in others if _holds_more(lane, small, call.request.model)]
    return others


def _holds_more(lane: Lane, small: Lane, model: str) -> bool:
    """Whether the context of `lane` may be larger than that of `small`: what nobody knows is a maybe."""
    mine, its = _context(lane, model), _context(small, model)
    if mine is None or its is None:
        named = lane.model or model
        return not named or named != (small.model or model)  # one model is as large everywhere
    return mine > its


def _context(lane: Lane, model: str) -> int | None:
    if lane.context is not None:
        return lane.context
    price = prices().find(lane.priced_as, lane.model or model)
    return None if price is None else price.context_window


def most_useful(failures: Sequence[tuple[str, LLMError]]) -> LLMError:
    """The error that tells the caller most about a later try.

    First one that may be retried, then one that says when, then one of a target that was really asked;
    among equals the first.
    """

    def rank(error: LLMError) -> tuple[bool, bool, bool]:
        return not error.retryable, error.retry_after is None, not error.sent

    return min((error for _, error in failures), key=rank)


def entries(
    failures: Iterable[tuple[str, LLMError]], passed: Iterable[tuple[str, str]]
) -> list[dict[str, Any]]:
    """What every target said, and why others were not asked, for an error's metadata."""
    told: list[dict[str, Any]] = [
        {"target": name, "type": error.type, "status": error.status, "message": str(error)}
        for name, error in failures
    ]
    told += [
        {"target": name, "type": "NOT_ASKED", "status": None, "message": reason} for name, reason in passed
    ]
    return told
