"""What a URL of Redis says, checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from attrs import field, frozen

from llmpipe.errors import ConfigError

__all__ = ("Settings",)


@frozen(kw_only=True)
class Settings:
    """Where a Redis is, and how it is used.

    Attributes:
        host, port, db, username, password: of the server; `password` is in no repr.
        tls: whether the connection is encrypted, with the server's name checked (``rediss://``).
        ca, cert, key: files in PEM form: who signed the server's certificate, if not the system's
            authorities know it; the certificate and key that this side shows, or "".
        prefix: every key begins with it, in braces: ``{llmpipe:ledger:main}…``.
        timeout: seconds that one operation may take, connecting included; 0.01 to 60.
        connections: how many there are at most, for each event loop; 1 to 1000.
        remember: seconds for which a settlement that arrives twice is known as such; 60 at least.
        lines: how many lines a ledger's journal has at most; then the oldest go.
    """

    host: str
    port: int = 6379
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    prefix: str = "llmpipe"
    timeout: float = 0.5
    connections: int = 16
    remember: float = 7 * 86_400.0
    lines: int = 1_000_000

    @property
    def place(self) -> str:
        """Host and port, for people."""
        return f"{self.host}:{self.port}"

    def base(self, kind: str, name: str) -> str:
        """What the keys of one thing begin with: a hash tag, so that a cluster keeps them in one slot."""
        return f"{{{quote(self.prefix, safe='')}:{kind}:{quote(name, safe='', errors='surrogatepass')}}}"

    @property
    def format_key(self) -> str:
        """The key that says of which form all others are."""
        return f"{{{quote(self.prefix, safe='')}}}:format"

    @classmethod
    def of(cls, url: str) -> Settings:
        """The settings of ``redis://user:password@host:6379/0?prefix=llmpipe&timeout=0.5``.

        Raises: ConfigError for what is not understood. The URL itself is in no error.
        """
        wrong = ""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            wrong = "the port is no number from 0 to 65535" if "ort" in str(error) else "it cannot be read"
        if wrong:  # raised here, for a ValueError of urlsplit may quote the URL, and would be its context
            raise ConfigError(f"the URL of a Redis store: {wrong}")
        if parts.scheme not in {"redis", "rediss"}:
            raise ConfigError("the URL of a Redis store begins with redis:// or rediss://")
        if not host:
            raise ConfigError("the URL of a Redis store names no host: redis://localhost:6379/0")
        if parts.fragment or "#" in url:
            raise ConfigError("the URL of a Redis store has a #; in a password it is written %23")
        return cls(
            host=host,
            port=6379 if port is None else port,
            db=_db(parts.path),
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=parts.scheme == "rediss",
            **_options(parts.query, tls=parts.scheme == "rediss"),
        )


def _db(path: str) -> int:
    text = path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError(
            f"the path of a Redis URL is the number of a database, such as /0; it has {len(path)} characters"
        )
    return int(text)


def _options(query: str, *, tls: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ConfigError(f"Redis knows no setting of that name; known: {', '.join(sorted(_OPTIONS))}")
        if name in found:
            raise ConfigError(f"Redis setting {name!r} is there twice")
        if name in {"ca", "cert", "key"} and not tls:
            raise ConfigError(f"Redis setting {name!r} needs rediss://")
        found[name] = _OPTIONS[name](name, value)
    if ("cert" in found) != ("key" in found):
        raise ConfigError("Redis settings 'cert' and 'key' come together")
    return found


def _number(least: float, most: float, kind: type[int | float]) -> Callable[[str, str], float]:
    def read(name: str, text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(least) - 1
        if not least <= value <= most:
            raise ConfigError(f"Redis setting {name!r} is a number from {least:g} to {most:g}")
        return value

    return read


def _prefix(name: str, text: str) -> str:
    if not 0 < len(text) <= 100:
        raise ConfigError(f"Redis setting {name!r} has 1 to 100 characters")
    return text


def _file(name: str, text: str) -> str:
    if not Path(text).is_file():
        raise ConfigError(f"Redis setting {name!r} names no file")
    return text


_OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "ca": _file,
    "cert": _file,
    "connections": _number(1, 1000, int),
    "key": _file,
    "lines": _number(1, 1e9, int),
    "prefix": _prefix,
    "remember": _number(60, 366 * 86_400, float),
    "timeout": _number(0.01, 60, float),
}
