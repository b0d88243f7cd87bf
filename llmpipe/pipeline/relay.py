"""One reply read by another: for a middleware that hands on a reply of its own making, from one it was given.

The laws, which `tests/pipeline/test_relay.py` holds: what breaks, closes, cancels or times out the
reply that is handed on does the same to the one behind it, so that the frames and the attempt of both
are told the same end; an error says what had arrived as the reply handed on gave it, after its stages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from llmpipe.pipeline.reply import Reply

if TYPE_CHECKING:
    from llmpipe.errors import LLMError
    from llmpipe.pipeline.outcome import Status
    from llmpipe.types import Event

__all__ = ("Relay", "batch", "relayed")


class Relay:
    """A source that reads `reply`. A subclass may put another one in its place between two reads."""

    __slots__ = ("reply",)
    relays: ClassVar[bool] = True

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def read(self) -> Sequence[Event]:
        """The next events of the reply."""
        return await batch(self.reply)

    def interrupt(self, error: LLMError) -> bool:
        """End the read of the reply that is under way with `error`; whether there was one."""
        pump = self.reply._pump
        return pump is not None and pump.interrupt(error)

    async def drain(self) -> Sequence[Event]:
        """End the reply, all content of which was delivered; what came of it after that."""
        reply, pump = self.reply, self.reply._pump
        passed = [] if pump is None else pump.passed()
        given = len(passed)  # each batch is read to its last event
        await reply.aclose()
        return passed[given:]

    async def end(self, status: Status) -> None:
        """Close the reply."""
        await self.reply.aclose(status)

    async def aclose(self) -> None:
        """Close the reply."""
        await self.reply.aclose()


async def batch(reply: Reply) -> Sequence[Event]:
    """The next events of `reply`, all that are in hand; empty at its end. Raises as reading it does."""
    try:
        first = await anext(reply)
    except StopAsyncIteration:
        return ()
    pump = reply._pump
    if pump is None:
        rest = reply._rest or []
        events = [first, *reversed(rest)]
        rest.clear()
    else:
        events = [first, *pump.ready]
        pump.ready.clear()
    return events


def relayed(relay: Relay, first: Sequence[Event] = ()) -> Reply:
    """A stream that gives `first`, which was read of the relay's reply, and then what the relay reads.

    It adopts the relay's reply, which must be a stream, and is to be handed on at once. What the middlewares
    further in had amended stays amended.
    """
    inner = relay.reply.adopt()
    assert inner._pump is not None
    reply = Reply.stream(relay, first)
    for change in inner._pump.amends:
        reply.amend(change)
    if inner._call is not None:
        reply._call, reply._loop = inner._call, asyncio.get_running_loop()
        reply._committed_at = reply._loop.time()
    return reply
