"""One response, byte by byte, with the faults of the transport."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from typing import NoReturn

from aiohttp import web

from llmpipe.testing.simulator.faults import Fault

__all__ = ("Hangup", "Wire")


class Hangup(Exception):
    """The simulator has closed the connection, as its script says."""


class Wire:
    """Writes a response under a `Fault`: cut or reset at a byte, or slowly.

    Raises: Hangup when the script hangs up.
    """

    def __init__(self, http: web.Request, fault: Fault) -> None:
        self._http = http
        self._fault = fault
        self._sent = 0
        self._response: web.StreamResponse | None = None

    async def start(
        self, content_type: str, headers: Mapping[str, str], length: int | None = None
    ) -> web.StreamResponse:
        """Send the head of a 200."""
        response = web.StreamResponse(headers=headers)
        response.content_type = content_type
        response.content_length = length
        self._response = response
        await response.prepare(self._http)
        return response

    async def send(self, body: bytes, content_type: str, headers: Mapping[str, str]) -> web.StreamResponse:
        """A whole response of known length."""
        response = await self.start(content_type, headers, len(body))
        await self.write(body)
        await response.write_eof()
        return response

    async def write(self, data: bytes) -> None:
        """Send `data`, as far as the script lets it."""
        fault, response = self._fault, self._response
        assert response is not None
        ends = [end for end in (fault.cut_at, fault.reset_at) if end is not None]
        left = min(ends) - self._sent if ends else None
        whole = left is None or left > len(data)
        part = data if whole else data[:left]
        if fault.bytes_per_second is None:
            if part:
                await response.write(part)
        else:
            for byte in range(0, len(part), 16):
                await response.write(part[byte : byte + 16])
                await asyncio.sleep(len(part[byte : byte + 16]) / fault.bytes_per_second)
        self._sent += len(part)
        if not whole:
            self.hang_up(reset=fault.reset_at is not None and self._sent >= fault.reset_at)

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
