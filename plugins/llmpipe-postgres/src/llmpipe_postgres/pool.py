"""Connections, as many as allowed, lent out one by one; of one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ("Pool",)


class Pool:
    """Connections that are made when they are needed, and lent to one at a time; first come, first served.

    What is given back is clean: whoever was cancelled, or does not know what its connection is in the
    middle of, calls `discard`, which ends it at once without a word to the server. (A connection with an
    answer on its way would give it to whoever asks next. asyncpg's own pool waits for a server to confirm
    a cancellation, and resets a connection with a round trip each time it is given back.)

    A connection is made by a task of its own, and is for whoever waits first when it is there: to be
    cancelled while waiting wastes none.

    Args: make gives a connection, in its own time limit; full is what it raises where the server has no
    more of them: then whoever has some already makes do with those.

    Not for threads: it belongs to the event loop that `make` connects on.
    """

    def __init__(
        self, make: Callable[[], Coroutine[Any, Any, Any]], size: int, full: type[Exception]
    ) -> None:
        self._make = make
        self._size = size
        self._full = full
        self._made = 0  # or being made
        self._closed = False
        self._idle: list[Any] = []
        self._waiters: deque[asyncio.Future[Any]] = deque()
        self._makers: set[asyncio.Task[Any]] = set()

    @property
    def connecting(self) -> bool:
        """Whether one is being made now."""
        return bool(self._makers)

    async def take(self) -> Any:
        """A connection that is open, as far as is known.

        Raises: what `make` raises.
        """
        while self._idle:
            connection = self._idle.pop()  # the last used: the others may be let go by what is between
            if not connection.is_closed():
                return connection
            self._made -= 1
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._begin()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.give(waiter.result())  # it came as we went: pass it on
            elif waiter in self._waiters:  # else somebody has passed it over already
                self._waiters.remove(waiter)
            raise

    def give(self, connection: Any) -> None:
        """Back, for the next."""
        waiter = None if connection.is_closed() else self._next()
        if waiter is not None:
            waiter.set_result(connection)
        elif self._closed or connection.is_closed():
            self.discard(connection)
        else:
            self._idle.append(connection)

    def discard(self, connection: Any) -> None:
        """End it, and make another in its place for who waits."""
        connection.terminate()
        self._made -= 1
        if self._waiters:
            self._begin()

    def drop_idle(self) -> None:
        """End those that nobody uses: they lead to a server that is not the right one any more."""
        while self._idle:
            self.discard(self._idle.pop())

    def close(self) -> None:
        """End those that nobody uses now, and the others when nobody waits for them any more."""
        self._closed = True
        self.drop_idle()
        if not self._waiters:
            for task in self._makers:
                task.cancel()

    def _begin(self) -> None:
        """Make one more, if that is allowed, for each who waits and for whom none is being made."""
        if self._made < self._size and len(self._makers) < len(self._waiters):
            self._made += 1
            task = asyncio.get_running_loop().create_task(self._make(), name="llmpipe-postgres connects")
            self._makers.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._makers.discard(task)
        if task.cancelled():
            self._made -= 1
            return
        error = task.exception()
        if error is None:
            self.give(task.result())
            return
        self._made -= 1
        if isinstance(error, self._full) and self._made:
            return
        # Whom it was for; and where nothing else is left that anybody could wait for, all who wait.
        while (waiter := self._next()) is not None:
            waiter.set_exception(error)
            if self._made:
                return

    def _next(self) -> asyncio.Future[Any] | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                return waiter
        return None
