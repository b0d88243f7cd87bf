"""One connection, of redis-py, that can be cut."""

from __future__ import annotations

import asyncio
import select
from typing import Any

from redis._parsers import _AsyncRESP2Parser
from redis.asyncio.connection import Connection, SSLConnection

from llmpipe_redis.settings import Settings

__all__ = ("Wire", "dial")


class Wire:
    """A connection that has one command under way at a time.

    redis-py 8.1 closes a connection whose command failed or was cancelled, but gently: what is not yet
    written is still to be sent, and to a server that has stopped that is never over. It sets
    TCP_NODELAY by itself. With a timeout of its own it makes a task for each write
    (`asyncio.wait_for`), so ours watches instead, from the outside.
    """

    __slots__ = ("_connection", "_readable", "_transport")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.WriteTransport | None = None
        self._readable = select.poll()

    async def open(self) -> None:
        """Connect, and say who we are. If that fails or is cancelled, `cut`."""
        connection: Any = self._connection  # its methods have no types
        await connection.connect()
        self._transport = connection._writer.transport  # nothing public names it
        self._readable.register(self._transport.get_extra_info("socket"), select.POLLIN)

    @property
    def usable(self) -> bool:
        """Whether it is open, and nothing has arrived that nobody has asked for.

        The socket is asked (1 µs), not the loop, which may not have got round to see its end. Where the loop
        has seen it the socket is closed, and its number may be that of another.
        """
        reader: Any = self._connection._reader  # the public way awaits, and asks only the loop
        if reader is None or reader._buffer or self._transport is None or self._transport.is_closing():
            return False
        return not self._readable.poll(0)

    async def ask(self, command: tuple[bytes, ...]) -> Any:
        """The answer to `command`. After any error but a ResponseError, and if cancelled, `cut` it."""
        await self._connection.send_command(*command)
        return await self._connection.read_response()

    def cut(self) -> None:
        """Close the socket at once; nothing more is sent or read."""
        connection = self._connection
        writer = connection._writer  # there is one already while it says who we are
        transport = self._transport if writer is None else writer.transport
        connection._reader = connection._writer = None  # as its own _close does
        if transport is not None:
            transport.abort()


def dial(settings: Settings) -> Wire:
    """A connection as `settings` say, not yet open."""
    common: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "db": settings.db,
        "username": settings.username or None,
        "password": settings.password or None,
        "socket_timeout": None,
        "socket_connect_timeout": settings.timeout,
        "protocol": 2,  # one greeting less, and nothing is pushed
        # hiredis, where it is installed, would take in what nobody has asked for, unseen by `usable`; it
        # saves 4 µs of 31.
        "parser_class": _AsyncRESP2Parser,
    }
    if not settings.tls:
        return Wire(Connection(**common))
    return Wire(
        SSLConnection(
            **common,
            ssl_cert_reqs="required",
            ssl_check_hostname=True,  # which redis-py did not do by itself before version 6
            ssl_ca_certs=settings.ca or None,
            ssl_certfile=settings.cert or None,
            ssl_keyfile=settings.key or None,
        )
    )
