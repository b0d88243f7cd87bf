"""One response, byte by byte, with the faults of the transport."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NoReturn

from aiohttp import web

from llmpipe.testing.simulator.faults import Fault

__all__ = ("Hangup", "Wire")

_PIECE_BYTES = 16  # that a slow body comes in


class Hangup(Exception):
    """The simulator has closed the connection, as its script says."""


class Wire:
    """Writes a response under a `Fault`: cut or reset at a byte, or slowly; with `headers` of its own.

    `sent`, where it is set, is told of all bytes of the body that go out. Raises: Hangup when the
    script hangs up.
    """

    def __init__(self, http: web.Request, fault: Fault, headers: Mapping[str, str] | None = None) -> None:
        self._http = http
        self._fault = fault
        self._headers = headers or {}
        self._sent = 0
        self.sent: Callable[[bytes], None] | None = None
        self._response: web.StreamResponse | None = None

    async def start(
        self, headers: Mapping[str, str], content_type: str, length: int | None = None
    ) -> web.StreamResponse:
        """Send the head of a 200; `headers` go over what it has by itself."""
        self._response = response = web.StreamResponse()
        response.content_type = content_type
        response.content_length = length
        response.headers.update({**self._headers, **headers})
        await response.prepare(self._http)
        return response

    async def send(self, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
        """A whole response of known length."""
        response = await self.start(headers, "application/json", len(body))
        await self.write(body)
        await response.write_eof()
        return response

    async def end(self) -> None:
        """The proper end of a body whose length was not told."""
        assert self._response is not None
        if self._left() == 0:
            self._cut()
        await self._response.write_eof()

    async def write(self, data: bytes) -> None:
        """Send `data`, as far as the script lets it. What ends at its cut is sent whole."""
        response, left = self._response, self._left()
        assert response is not None
        if left == 0 and data:
            self._cut()
        part = data if left is None else data[:left]
        speed = self._fault.bytes_per_second
        step = len(part) if speed is None else _PIECE_BYTES
        for at in range(0, len(part), step or 1):
            piece = part[at : at + step]
            await response.write(piece)
            self._sent += len(piece)
            if self.sent is not None:
                self.sent(piece)
            if speed is not None:
                await asyncio.sleep(len(piece) / speed)
        if len(part) < len(data):
            self._cut()

    def _left(self) -> int | None:
        """Bytes of body until the script hangs up; None if it does not."""
        ends = [end for end in (self._fault.cut_at, self._fault.reset_at) if end is not None]
        return min(ends) - self._sent if ends else None

    def _cut(self) -> NoReturn:
        self.hang_up(reset=self._fault.reset_at is not None and self._sent >= self._fault.reset_at)

    def hang_up(self, *, reset: bool) -> NoReturn:
        """Close the connection: politely with FIN, or with RST."""
        transport = self._http.transport
        if transport is not None:
            if reset:
                # Linger 0 makes close send RST, as a crashed or overloaded peer does.
                peer = transport.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                transport.abort()
            else:
                transport.close()
        raise Hangup
