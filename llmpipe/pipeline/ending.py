"""What of a reply's end may suspend: closing its source, resuming the middlewares that yielded it.

Runs in a task of its own (`llmpipe.runtime.shielded`). Whatever a part does, the next one follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from llmpipe.pipeline.outcome import Outcome, Status
from llmpipe.pipeline.pump import Pump
from llmpipe.runtime import Alarm

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call

__all__ = ("Frame", "HARMLESS", "How", "close", "resume")

How = Literal["call", "step", "await"]
"""A function is called. A middleware that yielded is resumed: by one step where that cannot suspend."""

Frame = tuple[Any, How, Any, "Call"]
"""Who is told of the end, how, what passed it (the result of a full reply, a place in the pump of a
streamed one), and of which call."""

HARMLESS = (Exception, asyncio.CancelledError, GeneratorExit)
"""What a frame or a source may raise without more harm than a line in the log; KeyboardInterrupt and
SystemExit pass. A frame that raises its outcome's error again raises CancelledError like any other."""

_SLOW = partial(TimeoutError, "it took too long")


async def close(
    pump: Pump, status: Status, seconds: float, report: Callable[[str, BaseException], None]
) -> None:
    """Close the source of `pump`, whose reply has ended so; it may take `seconds`."""
    relay = pump.relay
    try:
        with Alarm(asyncio.get_running_loop().time() + seconds, _SLOW):
            await (pump.source.aclose() if relay is None else relay.end(status))
    except HARMLESS as error:  # reported: clean-up never replaces the outcome
        report("closing a stream", error)


async def resume(
    frames: Iterable[Frame],
    outcome_at: Callable[[Any], Outcome],
    report: Callable[[Any, BaseException], None],
) -> None:
    """Resume `frames` in order. One that is out of time is cancelled by `shielded`, and the next resumed."""
    task = asyncio.current_task()
    assert task is not None
    for frame, how, place, call in frames:
        try:
            if how == "call":
                frame(call, outcome_at(place))
                continue
            await frame.asend(outcome_at(place))
            report(frame, RuntimeError("the middleware yielded twice; it must yield exactly one reply"))
            await frame.aclose()
        except StopAsyncIteration as end:
            if how == "call":  # of a function it is no end, but an error like any other
                report(frame, end)
        except HARMLESS as error:  # reported: clean-up never replaces the outcome
            cut = isinstance(error, asyncio.CancelledError) and task.cancelling()
            report(frame, _SLOW() if cut else error)
            if cut:
                task.uncancel()
