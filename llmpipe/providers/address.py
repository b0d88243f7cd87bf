"""A base URL, checked when a provider is made rather than when it is first called."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from llmpipe.errors import ConfigError
from llmpipe.secret import scrub

__all__ = ("checked_base_url",)

_NAME = re.compile(r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\.?")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")  # RFC 3986, section 3.3


def checked_base_url(url: object, provider: str) -> tuple[str, str]:
    """`url` without a trailing slash, its scheme in lower case; and its host, with the port unless it is 443.

    Raises: ConfigError for anything but http(s)://host[:port][/path] in ASCII. What it says holds no
    password and no query, for either may be a key.
    """
    if not url:
        raise ConfigError(f"provider {provider!r} needs base_url=…, such as 'http://localhost:8000/v1'")
    if not isinstance(url, str):
        raise ConfigError(f"base_url must be http(s)://host/…, not a {type(url).__name__}")
    shown = "this one, which may hold a key" if set("@?#") & set(url) else repr(scrub(url))
    if not url.isascii():
        raise ConfigError(
            f"base_url must be ASCII, not {shown}: a host in its xn-- form, a path with %-escapes"
        )
    try:
        parts = urlsplit(url)
        private = "@" in parts.netloc or "?" in url or "#" in url
        good = parts.scheme in ("https", "http") and (private or _is_host(parts)) and parts.port != 0
    except ValueError:  # "http://[::1"; a port that is no number
        good = private = False
    if good and private:
        raise ConfigError(
            "base_url must have no user, password, query or fragment: keys travel in headers only"
        )
    if not good or not url.isprintable() or _PATH.fullmatch(parts.path) is None:
        raise ConfigError(f"base_url must be http(s)://host/…, not {shown}")
    netloc = parts.netloc.removesuffix(":")
    endpoint = f"{netloc}:80" if parts.scheme == "http" and parts.port is None else netloc
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}", endpoint


def _is_host(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        return isinstance(ipaddress.ip_address(host), ipaddress.IPv6Address) and "%" not in host
    return _NAME.fullmatch(host) is not None and len(host) < 254
