"""Alerts as JSON to an address of yours.

The sender is `http.client` in a thread, and no more: it follows no redirect and reads no proxy from the
environment, so an address that holds a secret reaches the host it names and no other. aiohttp belongs
to the providers' layer, above this one. A thread is held for as long as an endpoint takes, ten seconds
at most: its socket is then shut under it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import SplitResult, urlsplit

from anyio import CapacityLimiter, to_thread
from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Alert, Severity, check_severity
from llmpipe.middleware.alerts.sinks.base import Undelivered
from llmpipe.middleware.log.jsonlog import json_line
from llmpipe.secret import Secret

__all__ = ("Webhook", "address", "post", "secret")

_PORTS = {"https": 443, "http": 80}  # said, for http.client would look for one in an IPv6 address
_MAX_WAIT = 300.0  # seconds of a Retry-After that are believed


def secret(value: Any) -> Secret:
    """`value` as a secret. Raises: ConfigError, which does not show it."""
    try:
        return Secret(value)
    except ConfigError:
        raise ConfigError("alerts: an address or key is a text of printable ASCII characters") from None


def _secrets(values: Mapping[str, Any]) -> Mapping[str, Secret]:
    if not isinstance(values, Mapping):
        raise ConfigError("alerts: headers are a table of names and values")
    return {str(name): secret(value) for name, value in values.items()}


def address(url: Secret, where: str, *, plain: bool) -> SplitResult:
    """The parts of `url`. Raises: ConfigError, which does not show it, for what is no https address."""
    try:
        parts = urlsplit(url.reveal())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"alert sink {where}: the address cannot be read") from None
    if not host or parts.scheme not in ("https", "http") or parts.username is not None:
        raise ConfigError(f"alert sink {where}: the address begins with https://, and has a host and no user")
    if parts.scheme == "http" and not plain:
        raise ConfigError(f"alert sink {where}: http is not encrypted; use https, or say plain_http = true")
    return parts


@frozen(kw_only=True)
class Webhook:
    """Posts the JSON of each alert (`Alert.json`) to an address. Any status but 2xx is a failure.

    Attributes:
        url: https; it may hold a secret, and is never shown.
        headers: more of them, such as ``Authorization``; never shown either.
        source: who says so, in the body.
        plain_http: allow an address without encryption.
        ca_file: certificates to trust in place of the system's.
        at_least: the mildest severity it is given.
    """

    url: Secret = field(converter=secret)
    headers: Mapping[str, Secret] = field(default=Factory(dict), converter=_secrets)
    source: str = "llmpipe"
    plain_http: bool = False
    ca_file: str | None = None
    at_least: Severity = "info"
    name: str = "webhook"

    def __attrs_post_init__(self) -> None:
        check_severity(self.at_least, f"alert sink {self.name}: at_least")
        address(self.url, self.name, plain=self.plain_http)

    async def send(self, alert: Alert) -> None:
        """Post it. Raises: Undelivered."""
        headers = {name: value.reveal() for name, value in self.headers.items()}
        await post(self.url, alert.json(self.source), headers, ca_file=self.ca_file)


async def post(
    url: Secret, body: Any, headers: Mapping[str, str] | None = None, *, ca_file: str | None = None
) -> None:
    """Post `body` as JSON to `url`. Cancelled, it shuts the socket. Raises: Undelivered for all but 2xx."""
    work = _Post(
        url, json_line(body).encode(), {"Content-Type": "application/json", **(headers or {})}, ca_file
    )
    try:
        status, wait = await to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    finally:
        work.shut()
    if not 200 <= status < 300:
        retryable = status >= 500 or status in (408, 425, 429)
        raise Undelivered(f"it was answered with status {status}", retryable=retryable, retry_after=wait)


class _Post:
    """One exchange, in a thread."""

    def __init__(self, url: Secret, body: bytes, headers: Mapping[str, str], ca_file: str | None) -> None:
        self._parts = urlsplit(url.reveal())
        self._body = body
        self._headers = headers
        self._ca_file = ca_file
        self._connection: HTTPConnection | None = None
        self._over = False

    def run(self) -> tuple[int, float | None]:
        """The status, and the seconds to wait if it says so. Raises: Undelivered."""
        parts = self._parts
        host, path = parts.hostname or "", parts.path or "/"
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        try:
            if parts.scheme == "https":
                context = ssl.create_default_context(cafile=self._ca_file)
                made: HTTPConnection = HTTPSConnection(host, port, timeout=10.0, context=context)
            else:
                made = HTTPConnection(host, port, timeout=10.0)
            self._connection = made
            target = f"{path}?{parts.query}" if parts.query else path
            made.request("POST", target, self._body, {"Connection": "close", **self._headers})
            if self._over:
                self.shut()  # it was given up while it connected
            answer = made.getresponse()
            return answer.status, _seconds(answer.getheader)
        except (OSError, HTTPException, ValueError) as error:  # their texts may hold the address
            raise Undelivered(f"it could not be reached: {type(error).__name__}") from None
        finally:
            if self._connection is not None:
                self._connection.close()

    def shut(self) -> None:
        """Wake a thread that still waits for the other side."""
        self._over = True
        sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with suppress(OSError):  # it is closed already
                sock.shutdown(SHUT_RDWR)


def _seconds(header: Callable[[str], str | None]) -> float | None:
    told = header("Retry-After")
    return min(float(told), _MAX_WAIT) if told is not None and told.isdecimal() else None
