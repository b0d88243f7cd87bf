"""The laws that `conform` holds a middleware to, each with the function that judges it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import evolve, frozen

from llmpipe.errors import LLMError, Unsupported
from llmpipe.pipeline.outcome import Result
from llmpipe.testing.conform_cases import Case, Unheard
from llmpipe.testing.conform_run import Seen
from llmpipe.types import Completion, fold

__all__ = ("LAWS", "Violation", "judge")

LAWS: dict[str, str] = {
    "same-reply": "a stream amounts to the same completion as the full reply, and so does the second call",
    "chunking": "however the provider cuts its text, what comes out is the same",
    "commit": "a reply is handed on when its first content is there, not before",
    "streams": "a stream is handed on at once and piece by piece, unless the trait `buffers` says it is not",
    "no-second-try": "once content has reached the caller, nothing is asked of the provider again",
    "errors": "an error it has never heard of reaches the caller as it is, and no error becomes a reply",
    "ends": "every call comes to an end",
    "cancellation": "a cancelled call is cancelled: it gives no reply and no other error",
    "any-task": "a reply may be opened in one task and read in another, ten days later: no scope is held",
    "neighbours": "a cancelled call leaves an equal one that runs beside it in peace",
    "next-call": "the call after it works",
    "replies": "every reply it opened is over when the call is",
    "once": "it yields one reply, and every frame round a reply is resumed exactly once",
    "quiet": "nothing raises after the yield or in the background",
    "nothing-left": "no task and no timer is left: what must outlive a call belongs to the runtime",
    "balance": "what it took it gives back, once",
    "request": "the request is never changed in place",
}
"""What each law says, by name."""


@frozen
class Violation:
    """A law that was broken, in which case, and how it looked."""

    law: str
    case: str
    told: str


def judge(
    case: Case, seen: Seen, expected: Result | None, *, buffers: bool = False, timers: int = 0
) -> Iterator[Violation]:
    """The laws that `seen` breaks.

    `expected` is what the full call without disturbances gave, `buffers` whether the middleware has
    that trait, `timers` how many it leaves in the loop however many calls it had: shared ones.
    """
    for law, rule in _RULES:
        for told in rule(case, seen, expected):
            yield Violation(law, str(case), told)
    if len(seen.timers) > timers:
        told = f"timers after the chain was closed: {', '.join(seen.timers)}"
        yield Violation("nothing-left", str(case), told)
    if case.shape == "stream" and not buffers:
        yield from (Violation("streams", str(case), told) for told in _held_back(case, seen))


Told = Iterator[str]


def _same_reply(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.strikes or seen.error is not None or seen.result is None or expected is None:
        return
    got, wanted = _comparable(seen.result, case.way), _comparable(expected, case.way)
    if got != wanted:
        yield f"{got!r} instead of {wanted!r}"
    if seen.events and isinstance(expected, Completion):
        folded = fold(seen.events)
        for part in ("message", "finish_reason", "usage", "model"):
            there, wanted = getattr(folded, part), getattr(expected, part)
            if there != wanted:
                yield f"its events amount to {part} {there!r}, not {wanted!r}"


def _comparable(result: Result, way: str) -> Any:
    """What of a reply must be the same: all but which reply it is, and for a repeated one what it costs."""
    charge = None if way in ("again", "company") else result.charge
    if not isinstance(result, Completion):
        return evolve(result, id="", request_id=None, headers={}, charge=charge)
    return evolve(result, id="", created=None, request_id=None, headers={}, charge=charge)


def _commit(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.handed_early and seen.commits:
        yield "its reply was there before the provider had answered"


def _held_back(case: Case, seen: Seen) -> Told:
    if case.script != "ok" or case.cancels or not seen.commits or case.way == "again":
        return
    if seen.committed_at is not None and seen.committed_at > seen.commits[-1] + 5:
        yield f"handed on {seen.committed_at - seen.commits[-1]:g} s after the first content had come"
    elif case.way == "read" and (seen.content_at is None or seen.content_at > seen.commits[-1] + 15):
        yield "its first content was given out only when the last had come"


def _no_second_try(case: Case, seen: Seen, expected: Result | None) -> Told:
    if case.script not in ("broken", "burst") or seen.requests_at_content is None:
        return
    if more := seen.requests_at_end - seen.requests_at_content:
        yield f"{more} more after content had been read"


def _errors(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.strikes or seen.cancelled or seen.hung:
        return
    error = seen.error
    if error is None:
        if seen.result is not None and _swallowed(case, seen):
            yield f"the provider's error became the reply {_short(seen.result)}"
    elif case.script in ("error", "burst"):
        if not any(error is raised for raised in seen.raised):
            yield f"the error became {error!r}{' of its own' if isinstance(error, Unheard) else ''}"
    elif not isinstance(error, LLMError):
        yield f"an LLMError became {error!r}" if seen.raised else f"it raised {error!r}"
    elif (
        case.script in ("ok", "empty")
        and case.way not in ("closed", "hurried", "slow")
        and not _cannot_rerank(case, error)
    ):
        yield f"a call that should have been answered raised {error!r}"


def _cannot_rerank(case: Case, error: object) -> bool:
    """Whether another target was asked that is a mock like most: those cannot, and say so."""
    return case.shape == "rerank" and isinstance(error, Unsupported)


def _swallowed(case: Case, seen: Seen) -> bool:
    """Whether the provider failed for good, and nobody else has answered in its place."""
    if not seen.requests_at_end or case.script not in ("error", "burst", "refused", "broken"):
        return False
    # Of a reply that broke, there was one commit; any more are those of other targets.
    others = len(seen.commits) - (case.script in ("broken", "burst"))
    return others <= 0 or case.script in ("error", "burst")


def _ends(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.hung:
        yield "it hung"


def _cancellation(case: Case, seen: Seen, expected: Result | None) -> Told:
    # A scope cancels at the next suspension, and a call that is nearly over may have none.
    if seen.strikes and case.mode != "scope" and not seen.cancelled and not seen.hung:
        ending = f"raised {seen.error!r}" if seen.error is not None else f"gave {_short(seen.result)}"
        yield f"cancelled at {' and '.join(seen.places)}, it {ending}"


def _any_task(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.cancelled and not seen.strikes and not seen.hung:
        yield "the caller's task was cancelled, and not by the caller"
    for told in _reported(seen):
        if _bound(case, told):
            yield told


def _neighbours(case: Case, seen: Seen, expected: Result | None) -> Told:
    if case.way != "company" or (seen.neighbour is None):
        return
    if _cannot_rerank(case, seen.neighbour):
        return
    if isinstance(seen.neighbour, BaseException):
        yield f"the other call ended with {seen.neighbour!r}"
    elif expected is not None and _comparable(seen.neighbour, "company") != _comparable(expected, "company"):
        yield f"the other call was given {_short(seen.neighbour)}"


def _next_call(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.next_error is not None:
        yield f"{seen.next_error!r}"


def _replies(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.open:
        yield f"{seen.open} of {seen.replies} replies were never closed"


def _once(case: Case, seen: Seen, expected: Result | None) -> Told:
    for what, error in seen.reports:
        if "yielded twice" in error:
            yield f"{what}: {error}"
    if not seen.open and seen.inner != seen.replies:
        yield f"{seen.replies} replies were opened, and {seen.inner} frames within resumed"
    if seen.outer != seen.outer_committed:
        yield f"{seen.outer_committed} replies were handed on, and {seen.outer} frames without resumed"


def _quiet(case: Case, seen: Seen, expected: Result | None) -> Told:
    for told in _reported(seen):
        if not _bound(case, told):
            yield told
    yield from seen.complaints


def _bound(case: Case, told: str) -> bool:
    """Whether a report is of something bound to the task, or the context, that opened the reply.

    anyio's scopes and context variables say so; anything else shows where tasks differ.
    """
    return case.way in ("another", "slow") or "different task" in told or "different Context" in told


def _reported(seen: Seen) -> Told:
    for what, error in seen.reports:
        if "yielded twice" not in error:
            yield f"{what}: {error}"


def _nothing_left(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.tasks:
        yield f"tasks after the call: {', '.join(seen.tasks)}"
    if seen.late_tasks:
        yield f"tasks after the chain was closed: {', '.join(seen.late_tasks)}"


def _balance(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.balance is not None and seen.balance[0] != seen.balance[1]:
        yield f"{seen.balance[0]:g} before, {seen.balance[1]:g} after"


def _request(case: Case, seen: Seen, expected: Result | None) -> Told:
    if seen.changed:
        yield seen.changed


def _short(result: Any) -> str:
    text = repr(result.text) if isinstance(result, Completion) else repr(result)
    return text if len(text) < 80 else text[:77] + "..."


_RULES: tuple[tuple[str, Callable[[Case, Seen, Result | None], Told]], ...] = (
    ("same-reply", _same_reply),
    ("commit", _commit),
    ("no-second-try", _no_second_try),
    ("errors", _errors),
    ("ends", _ends),
    ("cancellation", _cancellation),
    ("any-task", _any_task),
    ("neighbours", _neighbours),
    ("next-call", _next_call),
    ("replies", _replies),
    ("once", _once),
    ("quiet", _quiet),
    ("nothing-left", _nothing_left),
    ("balance", _balance),
    ("request", _request),
)
