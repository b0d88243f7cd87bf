"""What a URL of Redis says, checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.state.url import number, options

__all__ = ("Settings",)


@frozen(kw_only=True)
class Settings:
    """Where a Redis is, and how it is used.

    Attributes:
        host, port, db, username, password: of the server; `password` is in no repr.
        sentinels, master: hosts and ports of the sentinels that know where the server is, and what they call
            it (``redis+sentinel://``); `host` is "" then.
        sentinel_username, sentinel_password: of the sentinels.
        tls: whether the connection is encrypted, with the server's name checked (``rediss://``).
        ca, cert, key: files in PEM form: who signed the server's certificate, if not the system's
            authorities know it; the certificate and key that this side shows, or "".
        prefix: every key begins with it, in braces: ``{llmpipe:ledger:main}…``.
        timeout: seconds that one operation may take, connecting included; 0.01 to 60.
        connections: how many there are at most, for each event loop; 1 to 1000.
        remember: seconds for which a settlement that arrives twice is known as such; 60 at least.
        lines: how many lines a ledger's journal has at most; then the oldest go.
    """

    host: str = ""
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
    sentinels: tuple[tuple[str, int], ...] = ()
    master: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Host and port, for people; of sentinels too."""
        if self.sentinels:
            return f"{self.master}@" + ",".join([f"{host}:{port}" for host, port in self.sentinels])
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

        Of sentinels: ``redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0?…``.

        Raises: ConfigError for what is not understood. The URL itself is in no error.
        """
        wrong = ""
        try:
            parts = urlsplit(url)
            userinfo, at, servers = parts.netloc.rpartition("@")
            places = [_place(server) for server in servers.split(",")]
            parts = parts._replace(netloc=f"{userinfo}{at}")
        except ValueError as error:
            wrong = "the port is no number from 0 to 65535" if "ort" in str(error) else "it cannot be read"
        if wrong:  # raised here, for a ValueError of urlsplit may quote the URL, and would be its context
            raise ConfigError(f"the URL of a Redis store: {wrong}")
        scheme, mark, watched = parts.scheme.partition("+")
        if scheme not in {"redis", "rediss"} or mark + watched not in {"", "+sentinel"}:
            raise ConfigError("the URL of a Redis store begins with redis://, rediss:// or redis+sentinel://")
        if not all(host for host, _ in places):
            raise ConfigError("the URL of a Redis store names no host: redis://localhost:6379/0")
        if parts.fragment or "#" in url:
            raise ConfigError("the URL of a Redis store has a #; in a password it is written %23")
        where, path = _watched(places, parts.path) if watched else (_alone(places), parts.path)
        return cls(
            **where,
            db=_db(path),
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            tls=scheme == "rediss",
            **_options(parts.query, tls=scheme == "rediss", watched=bool(watched)),
        )


def _place(server: str) -> tuple[str, int | None]:
    """Host and port of one server of the URL. Raises: ValueError."""
    parts = urlsplit(f"//{server}")
    return parts.hostname or "", parts.port


def _alone(places: list[tuple[str, int | None]]) -> dict[str, Any]:
    if len(places) > 1:
        raise ConfigError("the URL of a Redis store names one host; redis+sentinel:// may have several")
    host, port = places[0]
    return {"host": host, "port": 6379 if port is None else port}


def _watched(places: list[tuple[str, int | None]], path: str) -> tuple[dict[str, Any], str]:
    """Where the sentinels are, and what they call the master; and the rest of the path."""
    master, mark, db = path.removeprefix("/").partition("/")
    if not master:
        raise ConfigError("the path of redis+sentinel:// begins with the master's name: …:26379/mymaster/0")
    sentinels = tuple([(host, 26379 if port is None else port) for host, port in places])
    return {"sentinels": sentinels, "master": unquote(master)}, mark + db


def _db(path: str) -> int:
    text = path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError(
            f"the path of a Redis URL is the number of a database, such as /0; it has {len(path)} characters"
        )
    return int(text)


def _options(query: str, *, tls: bool, watched: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in options(query, _OPTIONS, of="a Redis store").items():
        if name in {"ca", "cert", "key"} and not tls:
            raise ConfigError(f"Redis setting {name!r} needs rediss://")
        if name.startswith("sentinel_") and not watched:
            raise ConfigError(f"Redis setting {name!r} needs redis+sentinel://")
        found[name] = _OPTIONS[name](name, value)
    if ("cert" in found) != ("key" in found):
        raise ConfigError("Redis settings 'cert' and 'key' come together")
    return found


def _number(least: float, most: float) -> Callable[[str, str], float]:
    return lambda name, text: number(name, text, least, most, of="a Redis store")


def _prefix(name: str, text: str) -> str:
    if not 0 < len(text) <= 100:
        raise ConfigError(f"Redis setting {name!r} has 1 to 100 characters")
    return text


def _text(name: str, text: str) -> str:
    return text


def _file(name: str, text: str) -> str:
    if not Path(text).is_file():
        raise ConfigError(f"Redis setting {name!r} names no file")
    return text


_OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "ca": _file,
    "cert": _file,
    "connections": _number(1, 1000),
    "key": _file,
    "lines": _number(1, 10**9),
    "prefix": _prefix,
    "remember": _number(60.0, 366 * 86_400.0),
    "sentinel_password": _text,
    "sentinel_username": _text,
    "timeout": _number(0.01, 60.0),
}
