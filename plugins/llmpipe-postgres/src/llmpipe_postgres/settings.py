"""What the URL of a database says, read once and refused where it makes no sense."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote

from attrs import field, frozen

from llmpipe.errors import ConfigError

__all__ = ("Settings", "read_url")

_OWN = ("pgbouncer", "pool", "schema", "timeout")
# What asyncpg (as libpq) understands in a URL beside these.
_DRIVERS = (
    "host",
    "passfile",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
)
_SSL_MODES = ("allow", "disable", "prefer", "require", "verify-ca", "verify-full")
_SESSIONS = ("any", "prefer-standby", "primary", "read-only", "read-write", "standby")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@frozen(kw_only=True)
class Settings:
    """How to reach a database, and how much of it to use. The password is in `url`, and in no repr.

    Attributes:
        url: for the driver.
        place: host, port and database, for people.
        password: to be found and hidden in what a server says; "" if the URL has none.
        schema: where the tables are, made if it is not there.
        pool: connections at most, for each event loop of each process.
        timeout: seconds any operation may take.
        pgbouncer: something that pools transactions stands between: no prepared statement outlives one.
    """

    url: str = field(repr=False)
    place: str
    password: str = field(repr=False)
    schema: str = "llmpipe"
    pool: int = 10
    timeout: float = 2.0
    pgbouncer: bool = False


def read_url(url: str) -> Settings:
    """The settings of ``postgresql://user:password@host:5432/db?schema=llmpipe&pool=10&timeout=2``.

    Several hosts stand with commas between them; then the one that can be written to is taken.

    Raises: ConfigError, which never shows the password.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres"):
        raise ConfigError("the URL of a PostgreSQL database begins with postgresql://")
    if "#" in rest:
        raise ConfigError("a '#' in the URL of a database is written %23")
    address, _, query = rest.partition("?")
    options = _options(query)
    login, _, hosts = address.rpartition("@")
    hosts, _, database = hosts.partition("/")
    user, _, password = login.partition(":")
    if not database:
        raise ConfigError("the URL names no database: postgresql://user:password@host:5432/database")
    _check_hosts(hosts)
    if not hosts and "host" not in options:
        raise ConfigError("the URL names no host: postgresql://user:password@host:5432/database")
    if "," in hosts:
        options.setdefault("target_session_attrs", "read-write")
    drivers = "&".join(f"{name}={options[name]}" for name in _DRIVERS if name in options)
    own: dict[str, Any] = {}
    if "schema" in options:
        own["schema"] = _schema(options["schema"])
    if "pool" in options:
        own["pool"] = int(_number("pool", options["pool"], 1, 1000, whole=True))
    if "timeout" in options:
        own["timeout"] = _number("timeout", options["timeout"], 0.01, 600)
    if "pgbouncer" in options:
        own["pgbouncer"] = _one_of("pgbouncer", options["pgbouncer"], tuple(_FLAGS)) in ("true", "1")
    return Settings(
        url=f"postgresql://{address}?{drivers}",
        place=f"postgresql://{hosts or unquote(options['host'])}/{unquote(database)}",
        password=unquote(password) if user else "",
        **own,
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OWN and name not in _DRIVERS:
            known = ", ".join(sorted((*_OWN, *_DRIVERS)))
            raise ConfigError(f"the URL of a database has no setting {name[:40]!r}; there are {known}")
        if name in options:
            raise ConfigError(f"the URL of the database sets {name!r} twice")
        options[name] = value
    if "sslmode" in options:
        _one_of("sslmode", options["sslmode"], _SSL_MODES)
    if "target_session_attrs" in options:
        _one_of("target_session_attrs", options["target_session_attrs"], _SESSIONS)
    return options


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(",") if hosts else ():
        name, colon, port = host.rpartition(":")
        if colon and not name.startswith("[") and ":" in name:
            raise ConfigError("an IPv6 address in the URL of a database stands in brackets: [::1]:5432")
        bare = host.endswith("]") or not colon
        if not bare and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
            raise ConfigError("a port in the URL of a database is a number from 1 to 65535")
        if not (host if bare else name):
            raise ConfigError("the URL of the database has a port without a host")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{name} of a database is one of {', '.join(known)}, not {value[:40]!r}")
    return value


def _schema(value: str) -> str:
    if not _NAME.fullmatch(value) or value.startswith("pg_"):
        raise ConfigError(
            f"schema is a name of small letters, digits and _ that does not begin pg_, not {value[:70]!r}"
        )
    return value


def _number(name: str, value: str, least: float, most: float, *, whole: bool = False) -> float:
    try:
        number = float(int(value)) if whole else float(value)
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        kind = "whole number" if whole else "number"
        raise ConfigError(f"{name} of a database is a {kind} from {least:g} to {most:g}, not {value[:40]!r}")
    return number
