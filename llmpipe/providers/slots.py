"""So many at once, and who comes too late waits its turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from llmpipe.errors import LimitReached
from llmpipe.runtime import Alarm

__all__ = ("Slots",)


class Slots:
    """`limit` permits of one event loop, first come, first served.

    Attributes:
        taken: how many are.
        held: the connections they were taken for. So a connection outlives a reply that is dropped,
            whose clean-up then closes it. Dropped with it, aiohttp would complain beside us.

    Whoever finds `taken` below `limit` adds one to it; others `wait`. Given back is a permit with
    `release`, from anywhere, which never suspends.
    """

    __slots__ = ("_waiting", "held", "limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.held: set[object] = set()
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    async def wait(self, seconds: float) -> None:
        """Take the next permit that is given back. Raises LimitReached when that takes `seconds`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = None
        try:
            with Alarm(loop.time() + seconds, TimeoutError):
                await turn
        except BaseException as error:  # goes on; cancelled or out of time, its turn must not be lost
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled():
                self.release()
            if not isinstance(error, TimeoutError):
                raise
        else:
            return
        raise LimitReached(
            f"all {self.limit} connections were in use for {seconds:g} s",
            code="pool_exhausted",
            status=503,
            phase="connect",
        )

    def release(self) -> None:
        """Give a permit back: to the first who still waits, if any."""
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1
