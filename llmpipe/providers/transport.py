"""HTTP to one endpoint: our limits, our errors, and nothing that we did not ask for.

Never follows a redirect, never retries, takes no proxy and no cookie from its surroundings,
decompresses under its own cap, and puts keys into headers only. aiohttp is imported on first use.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from ssl import SSLContext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from llmpipe.errors import ConfigError

if TYPE_CHECKING:
    from llmpipe.providers.exchange import Exchange
    from llmpipe.providers.pool import Pool
    from llmpipe.providers.route import Route

__all__ = ("Transport", "checked_headers")

# Streams come with "Accept: application/json" too, as the vendors' own SDKs send it.
_HEADERS = {
    "User-Agent": "llmpipe",
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")
# Where a request ends and to whom it goes is said once, by us.
_OURS = frozenset((
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
))  # fmt: skip


class Transport:
    """Connections to one host, a pool for each event loop that uses them.

    Args:
        base_url: scheme, host and the path that all addresses begin with.
        headers: sent with every request; the place for the key.
        connect_timeout: seconds for DNS, TCP and TLS together.
        max_connections: open at once, in each loop; further requests wait for one.
        pool_timeout: seconds a request waits for a connection before LimitReached.
        keepalive: seconds an idle connection is kept; less than what servers allow (60 and more),
            so that we do not send into a connection that is just being closed.
        max_body_bytes: of one reply, after decompression.
        ssl: True for the system's certificates, an `ssl.SSLContext`, or an `aiohttp.Fingerprint`.

    Raises: ConfigError for a limit that is not above zero, for another `ssl`, and for a header that HTTP
    cannot carry or that is not ours to give.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        connect_timeout: float = 5.0,
        max_connections: int = 1000,
        pool_timeout: float = 30.0,
        keepalive: float = 30.0,
        max_body_bytes: int = 64 * 1024 * 1024,
        ssl: Any = True,
    ) -> None:
        for name, limit in (
            ("connect_timeout", connect_timeout),
            ("max_connections", max_connections),
            ("pool_timeout", pool_timeout),
            ("keepalive", keepalive),
            ("max_body_bytes", max_body_bytes),
        ):
            whole = name in ("max_connections", "max_body_bytes")
            if isinstance(limit, bool) or not isinstance(limit, int if whole else int | float):
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"transport: {name} must be {kind}, not {limit!r}")
            if not limit > 0:
                raise ConfigError(f"transport: {name} must be above 0, not {limit!r}")
        of_aiohttp = type(ssl).__module__.startswith("aiohttp.")  # its Fingerprint; it is not loaded yet
        if ssl is not True and not of_aiohttp and not isinstance(ssl, SSLContext):
            # False would take any certificate: whoever wants that says so in a context of their own.
            raise ConfigError(f"transport: ssl must be True or an ssl.SSLContext, not {ssl!r}")
        self._headers = _all_headers(headers)
        self._base_url = base_url
        self._max_connections = max_connections
        self._connect_timeout = connect_timeout
        self._pool_timeout = pool_timeout
        self._keepalive = keepalive
        self._max_body_bytes = max_body_bytes
        self._ssl = ssl
        self._pool: Pool | None = None  # of the loop that was here last
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = WeakKeyDictionary()

    @property
    def in_use(self) -> int:
        """Connections that carry an exchange now."""
        return sum(pool.slots.taken for pool in self._open())

    def route(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Route:
        """Where `send` sends to: `path` below the base URL, with `headers` over those of all requests."""
        from llmpipe.providers.route import Route  # noqa: PLC0415  yarl takes 20 ms; a chain over mocks has no use

        route = Route(method, self._base_url + path, self._headers)
        return route.plus(checked_headers(headers)) if headers else route

    async def send(
        self, route: Route, body: bytes | None = None, connect_timeout: float | None = None
    ) -> Exchange:
        """Send one request; the exchange is open when the response's head is in.

        Raises: ConnectFailed, ConnectTimeout (nothing sent), NetworkError, BadReply, LimitReached.
        """
        pool = self._pool
        if pool is None or pool.loop is not asyncio.get_running_loop():
            pool = self._here()
        slots = pool.slots
        if slots.taken < slots.limit:
            slots.taken += 1
        else:
            await slots.wait(self._pool_timeout)
            if pool.closed:
                from llmpipe.providers.failures import shut  # noqa: PLC0415  it imports aiohttp

                slots.release()
                raise shut(sent=False)
        try:
            return await pool.send(route, body, connect_timeout, self._max_body_bytes)
        except BaseException:  # failed or cancelled: goes on when the slot is given back
            slots.release()
            raise

    def _open(self) -> list[Pool]:
        """All pools. Other threads may add theirs meanwhile, so the mapping is not walked over."""
        found = [self._pools.get(loop) for ref in self._pools.keyrefs() if (loop := ref()) is not None]
        return [pool for pool in found if pool is not None]

    def _here(self) -> Pool:
        """The pool of the running loop. Those of loops that are closed are forgotten."""
        from llmpipe.providers.pool import Pool  # noqa: PLC0415  aiohttp takes 180 ms to import

        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in self._open():
                if other.loop.is_closed():
                    self._pools.pop(other.loop, None)
            pool = self._pools[loop] = Pool(
                self._base_url,
                max_connections=self._max_connections,
                connect_timeout=self._connect_timeout,
                keepalive=self._keepalive,
                ssl=self._ssl,
            )
        self._pool = pool
        return pool

    async def aclose(self) -> None:
        """Close the running loop's connections; a later request opens anew."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            if self._pool is pool:
                self._pool = None
            await pool.aclose()


def checked_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """`headers`, as HTTP can carry them.

    Raises: ConfigError for one that it cannot, or that is not ours to give.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of an HTTP header")
        if name.lower() in _OURS:
            raise ConfigError(f"the header {name!r} is not yours to give: it belongs to the connection")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ConfigError(f"the header {name!r} must be text without control characters")
    return dict(headers)


def _all_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    """The headers over `_HEADERS`, each name once in whatever case: the last one counts."""
    sent = {name.lower(): (name, value) for name, value in _HEADERS.items()}
    sent |= {name.lower(): (name, value) for name, value in checked_headers(headers).items()}
    return dict(sent.values())
