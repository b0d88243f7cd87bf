"""The inner parts of aiohttp that the short road of a pool uses, and whether they are as known here.

Whether they are is not read off a version or a list of names: one response is played through them,
on a wire that goes nowhere (a tenth of a millisecond, once in a process). Where that does not end as
it should, the pool takes the long road, which is public.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cache
from inspect import signature
from typing import Any

import aiohttp  # noqa: TID253  this module is imported where aiohttp is
from aiohttp.client_proto import ResponseHandler  # noqa: TID253  the same
from yarl import URL

__all__ = ("Handler", "as_known", "unsent")


class Handler(ResponseHandler):
    """aiohttp's end of a connection, more careful in what it keeps and in how it closes."""

    def is_connected(self) -> bool:
        """Whether an idle connection is fit for a request: what it said unasked is no answer to the next."""
        transport = self.transport
        return not (transport is None or transport.is_closing() or self._buffer or self._tail)

    def rest(self) -> bool:
        """Whether nothing has come behind the response that is over. What comes from now on is unasked.

        A parser keeps the beginning of another response to itself, and the next request gets a new parser,
        which would begin in the middle.
        """
        parser, self._parser = self._parser, None
        try:
            # The parser in C gives what it holds, the one in Python may have it there.
            return parser is None or (parser.feed_eof() is None and not getattr(parser, "_lines", None))
        except Exception:  # noqa: BLE001  whatever it cannot read there, nobody has asked for it
            return False

    def close(self) -> None:
        """Close the connection; at once where something of a request is still unsent.

        A transport that is closed sends first what it holds. To a server that reads no more, such as
        one that has refused a large request or hangs, that is never: socket and request would stay.
        """
        if self.transport is not None and unsent(self.transport):
            self.abort()
        else:
            super().close()


def unsent(transport: asyncio.WriteTransport) -> int:
    """Bytes that were written and are not yet with the kernel."""
    # Under TLS, asyncio's transport hands all of them down to the one below, which has the buffer.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    return transport.get_write_buffer_size() + (0 if below is None else below.get_write_buffer_size())


@cache
def as_known() -> bool:
    """Whether the inner parts do what the short road relies on. Call it where a loop runs."""
    try:
        _rehearse()
    except Exception:  # noqa: BLE001  whatever is different there, the other road leads round it
        return False
    return True


def _rehearse() -> None:
    loop = asyncio.get_running_loop()
    request = aiohttp.ClientRequest("GET", URL("http://localhost/"), loop=loop)
    limits = aiohttp.ClientTimeout(total=None)
    signature(aiohttp.TCPConnector.connect).bind(None, request, [], limits)
    kind = aiohttp.connector.Connection
    _insist(all(callable(getattr(kind, name)) for name in ("close", "release")))
    _insist(all(isinstance(getattr(kind, name), property) for name in ("protocol", "transport")))

    protocol = Handler(loop)
    protocol.connection_made(_Nowhere())
    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    protocol.data_received(b"HTTP/1.1 100 Continue\r\n\r\n")
    message, content = _at_once(protocol.read())
    _insist(message.code == 100)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Kind: a\r\n\r\n{}")
    message, content = _at_once(protocol.read())
    _insist((message.code, message.version[0], message.headers["x-kind"]) == (200, 1, "a"))
    _insist(content.is_eof() and not content.at_eof() and content.total_bytes == 2)
    _insist(b"".join(content._buffer) == b"{}" and not protocol.should_close)
    content._buffer.clear()
    _insist(content.at_eof())
    _insist(protocol.is_connected())
    _insist(protocol.rest() and protocol.rest() and protocol.is_connected())

    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 4")
    _at_once(protocol.read())
    _insist(not protocol.should_close and not protocol.rest())
    protocol.data_received(b"08 Request Time-out\r\n")
    _insist(protocol.should_close and not protocol.is_connected())
    protocol._tail = b""

    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    _insist(protocol.should_close and not protocol.is_connected())  # for nobody has asked
    _at_once(protocol.read())

    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    _, content = _at_once(protocol.read())
    _insist(protocol.should_close)  # for it is not over
    protocol.force_close()
    protocol.connection_lost(None)
    try:
        _at_once(content.readany())
    except aiohttp.ClientPayloadError:
        _insist(content._buffer and content._read_nowait(-1) == b"ab")
    else:
        raise LookupError("a body that was cut ended without an error")


def _insist(there: object) -> None:
    if not there:
        raise LookupError("not what the short road relies on")


def _at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives without waiting. Raises LookupError if it waits."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    work.close()
    raise LookupError("waits for what is there")


class _Nowhere(asyncio.Transport):
    """A wire without an end."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
