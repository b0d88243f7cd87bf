"""The connections of one event loop to one host, and an exchange over one of them.

Two roads lead through aiohttp. The short one takes a connection from its connector (pool, DNS,
happy eyeballs, TLS), writes head and body at once, and has its parser read the response: 45 µs of
CPU a call, against 95 by way of `ClientSession.request` with all its options set for speed and 110
without (measured on Python 3.11). The long one is that method; it is taken where something stands
in its place (aioresponses in a test, a tracer), which is meant to see every call, and with an
aiohttp that is not of version 3.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from math import inf
from types import FunctionType
from typing import Any

import aiohttp  # noqa: TID253  this module is imported where aiohttp is
import aiohttp.client  # noqa: TID253  the same
from yarl import URL

from llmpipe.errors import BadReply, LLMError
from llmpipe.providers.exchange import Exchange
from llmpipe.providers.failures import BROKEN, no_connection, no_head
from llmpipe.providers.route import Route
from llmpipe.providers.slots import Slots

__all__ = ("Pool",)

_MAX_INFORMATIONAL = 32  # responses of status 1xx before the one that counts
_MAX_STALE = 64  # idle connections in a row that turn out to be useless


class Pool:
    """Connections of the loop that is running when it is made.

    Args:
        host: any address of that host.
        connect_timeout: seconds for DNS, TCP and TLS together.
        keepalive: seconds an idle connection is kept.
        ssl: what aiohttp takes: True, or an `ssl.SSLContext`.
    """

    __slots__ = ("_connector", "_genuine", "_limits", "_loop", "_request", "_session", "slots")

    def __init__(
        self, host: str, *, max_connections: int, connect_timeout: float, keepalive: float, ssl: Any
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.slots = Slots(max_connections)
        self._connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=keepalive, ttl_dns_cache=60, ssl=ssl
        )
        # The connector asks a request where it goes. This one is never sent and holds no key.
        self._request = aiohttp.ClientRequest("GET", URL(host), loop=self._loop)
        self._limits = _limits(connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._genuine: Any = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Whose connections these are."""
        return self._loop

    async def send(
        self, route: Route, body: bytes | None, connect_timeout: float | None, max_bytes: int
    ) -> Exchange:
        """One exchange, open when the response's head is in. The caller has taken a slot for it.

        Raises: ConnectFailed, ConnectTimeout (nothing sent), NetworkError, BadReply.
        """
        limits = self._limits
        if connect_timeout is not None and connect_timeout != limits.connect:
            limits = _limits(connect_timeout)
        if self._genuine is not aiohttp.ClientSession._request and not self._is_genuine():
            return await self._by_session(route, body, limits, max_bytes)
        problem: LLMError
        try:
            connection = await self._connection(limits)
        except BROKEN as error:
            problem = no_connection(error)
        else:
            try:
                protocol, transport = connection.protocol, connection.transport
                assert protocol is not None
                assert transport is not None
                # Else nothing says that the body ends where a connection does.
                protocol.set_response_params(read_until_eof=True, auto_decompress=False)
                transport.write(route.request(body))
                message, content = await protocol.read()
                for _ in range(_MAX_INFORMATIONAL):
                    if not 100 <= message.code < 200 or message.code == 101:
                        break
                    message, content = await protocol.read()
                if message.version[0] == 1 and not 100 <= message.code < 200:
                    return Exchange(connection, message.code, message.headers, content, self.slots, max_bytes)
                problem = BadReply(
                    f"the reply is none: HTTP/{message.version[0]} with status {message.code}",
                    code="not_http",
                    phase="headers",
                )
            except BROKEN as error:
                problem = no_head(error)
            except BaseException:  # cancelled, most likely: goes on when the connection is closed
                connection.close()
                raise
            connection.close()
        raise problem  # outside of the except block, so that nothing of aiohttp's hangs on to it

    async def _connection(self, limits: aiohttp.ClientTimeout) -> aiohttp.connector.Connection:
        for _ in range(_MAX_STALE):
            connection = await self._connector.connect(self._request, [], limits)
            assert connection.protocol is not None
            # What a connection says unasked is no answer to the next request.
            if not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("the server talks before it is asked")

    def _is_genuine(self) -> bool:
        """Whether `ClientSession.request` is aiohttp's own, of a version whose inner parts are known here."""
        found = aiohttp.ClientSession._request
        genuine = (
            aiohttp.__version__.startswith("3.")
            and isinstance(found, FunctionType)
            and found.__code__.co_filename == aiohttp.client.__file__
        )
        if genuine:
            self._genuine = found
        return genuine

    async def _by_session(
        self, route: Route, body: bytes | None, limits: aiohttp.ClientTimeout, max_bytes: int
    ) -> Exchange:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        problem: LLMError
        try:
            response = await self._session.request(
                route.method,
                route.url,
                headers=route.headers,
                data=body,
                allow_redirects=False,
                timeout=limits,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            problem = no_connection(error)
        except BROKEN as error:
            problem = no_head(error)
        else:
            return Exchange(
                response, response.status, response.headers, response.content, self.slots, max_bytes
            )
        raise problem  # as above

    async def aclose(self) -> None:
        """Close all connections. What is under way over them fails."""
        for protocol in tuple(self._connector._acquired):
            if protocol.transport is not None:
                # Whoever reads from it hears of this, and would not of `connector.close`.
                protocol.transport.abort()
        await asyncio.sleep(0)  # in which they hear of it
        if self._session is not None:
            await self._session.close()
        await self._connector.close()


@lru_cache(maxsize=32)
def _limits(connect: float) -> aiohttp.ClientTimeout:
    # Only of the connection: what a reply may take is the business of the Timeout middleware. The
    # threshold keeps aiohttp from rounding up to whole seconds.
    seconds = None if connect == inf else connect
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds, ceil_threshold=1e9)
