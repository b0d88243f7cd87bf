"""The connections of one event loop to one host, and an exchange over one of them.

Two roads lead through aiohttp. The short one takes a connection from its connector (pool, DNS,
happy eyeballs, TLS), writes head and body at once, and has its parser read the response: 45 µs of
CPU a call, against 95 by way of `ClientSession.request` with all its options set for speed and 110
without (measured on Python 3.11). The long one is that method; it is taken where something stands
in its place (aioresponses in a test, a tracer), which is meant to see every call, and with an
aiohttp whose inner parts are not those that `llmpipe.providers.inner` knows.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache, partial
from io import BytesIO
from math import inf
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any
from weakref import finalize

import aiohttp  # noqa: TID253  this module is imported where aiohttp is
import aiohttp.client  # noqa: TID253  the same
from yarl import URL

from llmpipe.errors import LLMError
from llmpipe.providers.exchange import Exchange
from llmpipe.providers.failures import BROKEN, no_connection, no_head, no_reply, shut
from llmpipe.providers.lines import Line, Lines
from llmpipe.providers.route import Route
from llmpipe.providers.slots import Slots

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http import RawResponseMessage

__all__ = ("Pool",)

try:
    from llmpipe.providers import inner as _found
except (AttributeError, ImportError, TypeError):  # of an aiohttp that has other inner parts, or none
    _inner: ModuleType | None = None
else:
    _inner = _found

_MAX_INFORMATIONAL = 32  # responses of status 1xx before the one that counts
_MAX_FRESH = 2  # connections in a row that turn out to be useless
_UNCONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
)
_LARGE_BYTES = 1024 * 1024  # of a body, as aiohttp has it


class Pool:
    """Connections of the loop that is running when it is made.

    Attributes:
        closed: whether `aclose` was called: from then on it opens none.

    Args:
        host: any address of that host.
        connect_timeout: seconds for DNS, TCP and TLS together.
        keepalive: seconds an idle connection is kept.
        ssl: what aiohttp takes: True, or an `ssl.SSLContext`.
    """

    __slots__ = (
        "__weakref__", "_connector", "_genuine", "_host", "_limits", "_lines", "_loop", "_request",
        "_session", "closed", "slots",
    )  # fmt: skip

    def __init__(
        self, host: str, *, max_connections: int, connect_timeout: float, keepalive: float, ssl: Any
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines = Lines(keepalive, self._loop)
        # Where this is dropped, the connector closes them, and warns of it once and not for each. A `__del__`
        # might be called after those of the connections, if a garbage collection finds them all.
        finalize(self, self._lines.close).atexit = False
        self.slots = Slots(max_connections)
        self._connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=keepalive, ttl_dns_cache=60, ssl=ssl
        )
        if _inner is not None and hasattr(self._connector, "_factory"):
            self._connector._factory = partial(_inner.Handler, loop=self._loop)
        self._host = URL(host)
        self._request: Any = None
        self.closed = False
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
            line = self._lines.take() or await self._connect(limits)
        except BROKEN as error:
            problem = no_connection(error)
        except asyncio.CancelledError:
            # The connector cancels its look-ups when it is closed, and with them whoever waits for one.
            if not self.closed or _cancelled():
                raise
            problem = shut(sent=False)
        else:
            try:
                protocol = line.protocol
                transport = protocol.transport
                assert transport is not None
                # Else nothing says that the body ends where a connection does.
                protocol.set_response_params(read_until_eof=True, auto_decompress=False)
                transport.write(route.request(body))
                message, content = await protocol.read()
                if 100 <= message.code < 200:
                    message, content = await _past_informational(protocol, message, content)
                if message.version[0] == 1 and not 100 <= message.code < 200:
                    if transport.get_write_buffer_size() or route.secure:
                        _keep_if_sent(line.connection)
                    return Exchange(line, message.code, message.headers, content, self.slots, max_bytes)
                problem = no_reply(message.version[0], message.code)
            except BROKEN as error:
                problem = no_head(error)
            except BaseException:  # cancelled, most likely: goes on when the connection is closed
                line.close()
                raise
            line.close()
        if self.closed:
            problem = shut(sent=problem.sent)
        raise problem  # outside of the except block, so that nothing of aiohttp's hangs on to it

    async def _connect(self, limits: aiohttp.ClientTimeout) -> Line:
        for _ in range(_MAX_FRESH):
            connection = await self._connector.connect(self._request, [], limits)
            protocol: Any = connection.protocol  # made by the factory that we gave to the connector
            # What a connection says unasked is no answer to the next request.
            if not protocol.should_close and protocol.rest():
                return Line(connection, protocol, self._lines)
            connection.close()
        raise aiohttp.ClientConnectionError("the server talks, or hangs up, before it is asked")

    def _is_genuine(self) -> bool:
        """Whether `ClientSession.request` is aiohttp's own, and its inner parts are those known here."""
        found = aiohttp.ClientSession._request
        genuine = (
            aiohttp.__version__.startswith("3.")
            and isinstance(found, FunctionType)
            and found.__code__.co_filename == aiohttp.client.__file__
            and _inner is not None
            and hasattr(self._connector, "_factory")
            and _inner.as_known()
        )
        if genuine:
            # The connector asks a request where it goes. This one is never sent and holds no key.
            self._request = aiohttp.ClientRequest("GET", self._host, loop=self._loop)
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
        self._lines.give_back()  # it finds them where it looks for them
        problem: LLMError
        try:
            response = await self._session.request(
                route.method,
                route.url,
                headers=route.headers,
                # It warns of large bytes, for they are written at once. So they are on the short road.
                data=body if body is None or len(body) < _LARGE_BYTES else BytesIO(body),
                allow_redirects=False,
                timeout=limits,
            )
        except _UNCONNECTED as error:
            problem = no_connection(error)
        except BROKEN as error:
            problem = no_head(error)
        except asyncio.CancelledError as error:
            if not self.closed or _cancelled():
                raise error.with_traceback(None)  # noqa: B904  it is the same; aiohttp's frames hold the key
            problem = shut(sent=True)
        else:
            if response.version is None or response.version.major == 1:  # None: of a stub
                if response.connection is not None:  # None where all of it is here already
                    _keep_if_sent(response.connection)
                return Exchange(
                    response, response.status, response.headers, response.content, self.slots, max_bytes
                )
            problem = no_reply(response.version.major, response.status)
            response.close()
        if self.closed:
            problem = shut(sent=problem.sent)
        raise problem  # as above

    async def aclose(self) -> None:
        """Close all connections. What is under way over them fails."""
        self.closed = True
        self._lines.close()
        for protocol in tuple(getattr(self._connector, "_acquired", ())):
            if protocol.transport is not None:
                # Whoever reads from it hears of this, and would not of `connector.close`.
                protocol.transport.abort()
        try:
            await asyncio.sleep(0)  # in which they hear of it
        finally:  # nobody else has the connector
            if self._session is not None:
                await self._session.close()
            await self._connector.close()


async def _past_informational(
    protocol: ResponseHandler, message: RawResponseMessage, content: aiohttp.StreamReader
) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """The response that counts; the last of them where they do not end."""
    for _ in range(_MAX_INFORMATIONAL):
        if not 100 <= message.code < 200 or message.code == 101:
            break
        message, content = await protocol.read()
    return message, content


def _keep_if_sent(connection: aiohttp.connector.Connection) -> None:
    """Have the connection closed in the end, where a response has come before its request was all out.

    Such a server may read no more of it, or take the rest of it for the next request.
    """
    if _inner is None or connection.protocol is None or connection.transport is None:
        return
    if _inner.unsent(connection.transport):
        connection.protocol.force_close()


def _cancelled() -> bool:
    """Whether it was the running task that somebody cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


@lru_cache(maxsize=32)
def _limits(connect: float) -> aiohttp.ClientTimeout:
    # Only of the connection: what a reply may take is the business of the Timeout middleware. The
    # threshold keeps aiohttp from rounding up to whole seconds.
    seconds = None if connect == inf else connect
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds, ceil_threshold=1e9)
