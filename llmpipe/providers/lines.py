"""The connections of a pool that stay open between two exchanges.

They stay with us, and not with aiohttp's connector, which they came from: its own book-keeping of each
exchange, for limits and proxies that we do not use, costs twice as much as all of this.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from llmpipe.providers.inner import Handler

__all__ = ("Line", "Lines")


class Line:
    """A connection for one exchange after the other, until it is closed.

    Attributes:
        connection: aiohttp's.
        protocol: its end of it.
        since: monotonic seconds; when it was last given back.
    """

    __slots__ = ("_idle", "connection", "protocol", "since")

    def __init__(self, connection: Connection, protocol: Handler, idle: Lines) -> None:
        self.connection = connection
        self.protocol = protocol
        self._idle = idle
        self.since = 0.0

    def release(self) -> None:
        """Keep it for the next exchange, unless the framing of this one is in doubt."""
        protocol = self.protocol
        if protocol.should_close or not protocol.rest():
            self.connection.close()
        else:
            self._idle.keep(self)

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


class Lines:
    """Those that carry nothing now, for `keepalive` seconds each, or up to twice that if nobody asks."""

    __slots__ = ("__weakref__", "_closed", "_idle", "_keepalive", "_loop", "_sweep")

    def __init__(self, keepalive: float, loop: asyncio.AbstractEventLoop) -> None:
        self._keepalive = keepalive
        self._loop = loop
        self._idle: deque[Line] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self) -> Line | None:
        """The one that has been idle for longest and is fit for a request; None if there is none."""
        idle, oldest = self._idle, monotonic() - self._keepalive
        while idle:
            line = idle.popleft()
            if line.since >= oldest and line.protocol.is_connected():
                return line
            line.close()
        return None

    def keep(self, line: Line) -> None:
        """Have it for a later `take`."""
        if self._closed:
            line.close()
            return
        line.since = monotonic()
        self._idle.append(line)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keepalive, _swept, ref(self))

    def give_back(self) -> None:
        """Give all of them back to the connector."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._loop.is_closed():
            self._idle.clear()  # nothing can be done with them any more
        while self._idle:
            self._idle.popleft().connection.release()

    def close(self) -> None:
        """The same, and from now on keep none. The connector is to be closed next."""
        self._closed = True
        self.give_back()

    def sweep(self) -> None:
        """Close those that are useless by now, and look again after a while if any are left."""
        self._sweep = None
        lines, self._idle = self._idle, deque()
        oldest = monotonic() - self._keepalive
        for line in lines:
            if line.since >= oldest and line.protocol.is_connected():
                self._idle.append(line)
            else:
                line.close()
        if self._idle:
            self._sweep = self._loop.call_later(self._keepalive, _swept, ref(self))


def _swept(lines: ref[Lines]) -> None:
    """The timer of `Lines`, which does not keep them from being dropped."""
    if (found := lines()) is not None:
        found.sweep()
