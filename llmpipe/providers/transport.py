"""One aiohttp session for each provider and event loop, with our own limits, and errors as ours.

Never follows a redirect, never retries, never takes a proxy or a cookie from its surroundings,
decompresses under its own cap, and puts keys into headers only. aiohttp is imported on first use.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    LimitReached,
    LLMError,
    NetworkError,
    StreamBroken,
    scrub,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = ("Exchange", "Transport")

_ERROR_BODY_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0  # for the last chunk of a body whose protocol has already ended


# The same for every request and set once: merging headers anew costs a tenth of a call (measured).
# Streams come with "Accept: application/json" too, as the vendors' own SDKs send it.
_HEADERS = {
    "User-Agent": "llmpipe",
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
}


class Transport:
    """HTTP to one endpoint.

    Args:
        headers: sent with every request; the place for the key.
        connect_timeout: seconds for DNS, TCP and TLS together.
        max_connections: open at once; further requests wait for one.
        pool_timeout: seconds a request waits for a connection before LimitReached.
        keepalive: seconds an idle connection is kept; less than what servers allow (60 and more),
            so that we do not send into a connection that is just being closed.
        max_body_bytes: of one full reply, after decompression.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        connect_timeout: float = 5.0,
        max_connections: int = 1000,
        pool_timeout: float = 30.0,
        keepalive: float = 30.0,
        max_body_bytes: int = 64 * 1024 * 1024,
        ssl: Any = True,
    ) -> None:
        self._headers = dict(headers)
        self.connect_timeout = connect_timeout
        self.max_connections = max_connections
        self.pool_timeout = pool_timeout
        self.keepalive = keepalive
        self.max_body_bytes = max_body_bytes
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = Slots(max_connections)

    @property
    def in_use(self) -> int:
        """Connections that carry an exchange now."""
        return self._slots.taken

    def _open(self) -> aiohttp.ClientSession:
        """The session of the running loop. One made in another loop is dropped with that loop."""
        import aiohttp

        loop = asyncio.get_running_loop()
        self._loop, self._slots = loop, Slots(self.max_connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=self.keepalive, ttl_dns_cache=60, ssl=self._ssl
            ),
            headers={**_HEADERS, **self._headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout(self.connect_timeout),
            auto_decompress=False,
            trust_env=False,
        )
        return self._session

    def _timeout(self, connect: float) -> aiohttp.ClientTimeout:
        import aiohttp

        # Only the connection: what a reply may take is the business of the Timeout middleware.
        return aiohttp.ClientTimeout(total=None, sock_connect=connect)

    async def send(
        self,
        method: str,
        url: Any,
        body: bytes | None,
        connect_timeout: float | None,
    ) -> Exchange:
        """Send one request; the exchange is open when the response's head is in.

        Raises: ConnectFailed, ConnectTimeout (nothing sent), NetworkError, BadReply, LimitReached.
        """
        session = self._session
        if session is None or self._loop is not asyncio.get_running_loop():
            session = self._open()
        slots = self._slots
        if slots.taken < slots.limit:
            slots.taken += 1
        else:
            await slots.wait(self.pool_timeout)
        options: dict[str, Any] = {}
        if connect_timeout is not None and connect_timeout != self.connect_timeout:
            options["timeout"] = self._timeout(connect_timeout)
        problem: LLMError
        try:
            response = await session.request(method, url, data=body, allow_redirects=False, **options)
        except (OSError, TimeoutError, ValueError, _client_error()) as error:
            slots.release()
            problem = _classified(error)
        except BaseException:  # cancelled, most likely: goes on when the permit is back
            slots.release()
            raise
        else:
            return Exchange(response, slots, self.max_body_bytes)
        raise problem  # outside of the except block: aiohttp's errors hold our headers, key included

    async def aclose(self) -> None:
        """Close all connections; a later request opens anew."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()


class Slots:
    """So many connections at once; who comes too late waits its turn. One turn of the loop at a time."""

    __slots__ = ("_waiting", "limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self, seconds: float) -> None:
        """Take the next slot that is given back, first come, first served. Raises LimitReached."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:  # cancelled or out of time: a slot that was just handed over goes on
            if turn.done() and not turn.cancelled():
                self.release()
            if not isinstance(error, TimeoutError):
                raise
            raise LimitReached(
                f"all {self.limit} connections were in use for {seconds:g} s",
                retry_after=1.0,
                phase="connect",
                status=503,
            ) from None

    def release(self) -> None:
        """Give a slot back: to the first who still waits, if any."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1


class Exchange:
    """A response whose head is in. Ends with `release` (the connection is kept) or `drop`."""

    __slots__ = (
        "_content",
        "_encoding",
        "_inflate",
        "_max_bytes",
        "_response",
        "_slots",
        "headers",
        "status",
    )

    def __init__(self, response: aiohttp.ClientResponse, slots: Slots, max_bytes: int) -> None:
        self._response = response
        self._content = response.content
        self._slots: Slots | None = slots
        self._max_bytes = max_bytes
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._inflate: Inflate | None = None
        self._encoding = self.headers.get("Content-Encoding", "")

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """The next bytes of the body, decompressed; empty at its end.

        Raises: StreamBroken if the connection ended before the body did; BadReply for a bomb.
        """
        problem: LLMError
        if self._encoding and self._inflate is None and self._encoding.strip().lower() != "identity":
            self._inflate = Inflate(self._encoding, self._max_bytes)
        try:
            while data := await self._content.readany():
                if self._inflate is None:
                    return data
                if plain := self._inflate.feed(data):
                    return plain
        except (OSError, TimeoutError, ValueError, _client_error()) as error:
            problem = StreamBroken(
                f"the connection broke in the middle of a reply: {_words(error)}", phase="body"
            )
        else:
            if self._inflate is not None:
                self._inflate.close()
            return b""
        raise problem

    async def body(self, limit: int | None = None) -> bytes:
        """The rest of the body; the exchange is released. `limit` in bytes cuts instead of failing."""
        content = self._content
        if (
            limit is None
            and not self._encoding
            and content.is_eof()
            and content.total_bytes <= self._max_bytes
        ):
            data = content.read_nowait()  # all of it came with the head
            self.release()
            return data
        chunks: list[bytes] = []
        size = 0
        while data := await self.read():
            chunks.append(data)
            size += len(data)
            if limit is not None and size >= limit:
                self.drop()
                return b"".join(chunks)[:limit]
            if size > self._max_bytes:
                raise BadReply(f"the reply is larger than {self._max_bytes} bytes", phase="body")
        self.release()
        return b"".join(chunks) if len(chunks) != 1 else chunks[0]

    async def error_body(self) -> bytes:
        """What an error reply says, at most 64 KiB; what it cannot say is left out."""
        try:
            return await self.body(_ERROR_BODY_BYTES)
        except LLMError:
            self.drop()
            return b""

    async def finish(self) -> None:
        """The protocol has ended: keep the connection if the body ends with it, else drop it."""
        if not self._content.at_eof():
            try:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    rest = await self._content.readany()
            except (OSError, TimeoutError, _client_error()):
                rest = b"?"
            if rest:
                self.drop()
                return
        self.release()

    def release(self) -> None:
        """The body was read to its end; aiohttp has taken the connection back."""
        self._response.release()
        self._give_back()

    def drop(self) -> None:
        """Close the connection: its framing is in doubt, or nobody wants the rest."""
        self._response.close()
        self._give_back()

    def _give_back(self) -> None:
        if self._slots is not None:
            self._slots.release()
            self._slots = None


class Inflate:
    """Incremental gzip under a cap: aiohttp's own was a zip bomb until 3.13.2 (CVE-2025-69223).

    Raises: BadReply for an encoding we did not ask for, broken data, or more than `max_bytes`.
    """

    __slots__ = ("_left", "_stream")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        if encoding.strip().lower() not in ("gzip", "x-gzip"):
            raise BadReply(f"the reply has content-encoding {encoding!r}, which was not asked for")
        self._stream = zlib.decompressobj(wbits=31)
        self._left = max_bytes

    def feed(self, data: bytes) -> bytes:
        """The plain bytes that `data` completes."""
        if self._stream.eof:
            raise BadReply("the reply goes on after the end of its gzip data")
        try:
            plain = self._stream.decompress(data, self._left + 1)
        except zlib.error as error:
            raise BadReply(f"the reply's gzip data is broken: {error}") from None
        self._left -= len(plain)
        if self._left < 0:
            raise BadReply("the reply decompresses to more than its cap; it looks like a gzip bomb")
        if self._stream.unused_data:
            raise BadReply("the reply goes on after the end of its gzip data")
        return plain

    def close(self) -> None:
        """The body is over. Raises StreamBroken if its gzip data is not."""
        if not self._stream.eof:
            raise StreamBroken("the reply's gzip data ended too early", phase="body")


def _client_error() -> type[Exception]:
    import aiohttp

    return aiohttp.ClientError


def _words(error: BaseException) -> str:
    return scrub(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, max_chars=300)


def _classified(error: BaseException) -> LLMError:
    """What a failure before the response's head means."""
    import aiohttp

    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)):
        # Trying again changes no certificate; another target may be fine.
        return ConnectFailed(f"TLS failed: {_words(error)}", phase="tls", retryable=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectFailed(f"no connection: {_words(error)}", phase="connect")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectTimeout("no connection within the connect timeout", phase="connect")
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionError, OSError)):
        return NetworkError(f"the connection broke before a reply: {_words(error)}", phase="request")
    if isinstance(error, aiohttp.ClientResponseError):
        return BadReply(f"the reply is not HTTP: {scrub(error.message, max_chars=300)}", phase="headers")
    return BadReply(f"the exchange failed: {_words(error)}", phase="request")
