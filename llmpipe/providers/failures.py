"""What goes wrong with a connection, as our errors.

They are made from the words of aiohttp's, and never chained to them: those hold the request's
headers, with the key.
"""

from __future__ import annotations

import errno

import aiohttp  # noqa: TID253  this module is imported where aiohttp is
from aiohttp.http_exceptions import HttpProcessingError  # noqa: TID253  the same

from llmpipe.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    LimitReached,
    LLMError,
    NetworkError,
    StreamBroken,
)
from llmpipe.secret import scrub

__all__ = ("BROKEN", "broken_body", "no_connection", "no_head", "no_reply", "shut")

BROKEN = (aiohttp.ClientError, aiohttp.EofStream, HttpProcessingError, OSError, TimeoutError, ValueError)
"""What aiohttp raises for a connection that fails, or says what is not HTTP."""

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}


def no_connection(error: BaseException) -> LLMError:
    """No connection came about; nothing was sent."""
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        # Its words hold the fingerprints and the host.
        return ConnectFailed(
            "TLS failed: the certificate is not the one that is pinned",
            code="tls", phase="tls", retryable=False,
        )  # fmt: skip
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError):
        # Trying again changes no certificate; another target may be fine.
        return ConnectFailed(
            f"TLS failed: {_words(error)}; base_url says https", code="tls", phase="tls", retryable=False
        )
    if isinstance(error, OSError) and error.errno in _OURS:
        # Of descriptors or ports: says nothing about the provider.
        return LimitReached(
            f"this machine has nothing left to connect with: {_words(error)}",
            code="out_of_sockets",
            status=503,
            phase="connect",
        )
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientConnectorError):
        return ConnectTimeout("no connection within the connect timeout", phase="connect")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ConnectFailed(f"the host's name was not found: {_words(error)}", code="dns", phase="connect")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionResetError):
        # TCP was there. A server that shuts out our versions of TLS does this, and one in trouble too.
        return ConnectFailed("the connection was closed in the TLS handshake", code="tls", phase="tls")
    return ConnectFailed(f"no connection: {_words(error)}", phase="connect")


def no_head(error: BaseException) -> LLMError:
    """The request was sent, at least in part, and no response's head came back."""
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        words = _one_line(error.message)
        # A TLS record of type alert, which is what a TLS server says to plain HTTP.
        hint = "; the server speaks TLS: try https:// in base_url" if "\\x15\\x03" in words else ""
        return BadReply(f"the reply is not HTTP: {words}{hint}", code="not_http", phase="headers")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return NetworkError("the server closed the connection before a reply", phase="request")
    return NetworkError(f"the connection broke before a reply: {_words(error)}", phase="request")


def no_reply(version: int, status: int) -> LLMError:
    """There is a head, and it is none that answers a request of HTTP/1.1."""
    return BadReply(
        f"the reply is none: HTTP/{version} with status {status}", code="not_http", phase="headers"
    )


def shut(*, sent: bool) -> LLMError:
    """The provider was closed, by us, under the call. Says nothing about its health."""
    if sent:
        return NetworkError("the provider was closed under the call", phase="request", health="ignore")
    return ConnectFailed(
        "the provider was closed before the call had a connection", phase="connect", health="ignore"
    )


def broken_body(error: BaseException) -> LLMError:
    """The head was there, and the body came to no proper end."""
    words = _words(error)
    reset = isinstance(error, ConnectionResetError) or "ConnectionResetError" in words
    # aiohttp's words for a body that is cut, of lengths and headers, say nothing more to a reader.
    more = "" if reset or "Not enough data" in words else f": {words}"
    return StreamBroken(
        f"the connection {'was reset' if reset else 'ended'} in the middle of a reply{more}",
        code="connection_reset" if reset else "connection_closed",
        phase="body",
    )


def _words(error: BaseException) -> str:
    return _one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _one_line(text: str) -> str:
    return scrub(" ".join(text.split()), max_chars=300)
