"""What the URL of a database says, read once and refused where it makes no sense."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.state.url import flag, number, one_of, options

__all__ = ("Settings", "read_url")

_OF = "a database"
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
    told = _options(query)
    login, _, hosts = address.rpartition("@")
    hosts, _, database = hosts.partition("/")
    _check_login(login)
    user, _, password = login.partition(":")
    if not database:
        raise ConfigError("the URL names no database: postgresql://user:password@host:5432/database")
    _check_hosts(hosts)
    if not hosts and "host" not in told:
        raise ConfigError("the URL names no host: postgresql://user:password@host:5432/database")
    if "," in hosts:
        told.setdefault("target_session_attrs", "read-write")
    drivers = "&".join(f"{name}={quote(told[name], safe='/')}" for name in _DRIVERS if name in told)
    own: dict[str, Any] = {}
    if "schema" in told:
        own["schema"] = _schema(told["schema"])
    if "pool" in told:
        own["pool"] = number("pool", told["pool"], 1, 1000, of=_OF)
    if "timeout" in told:
        own["timeout"] = number("timeout", told["timeout"], 0.01, 600, of=_OF)
    if "pgbouncer" in told:
        own["pgbouncer"] = flag("pgbouncer", told["pgbouncer"], of=_OF)
    return Settings(
        url=f"postgresql://{address}?{drivers}",
        place=f"postgresql://{hosts or unquote(told['host'])}/{unquote(database)}",
        password=unquote(password) if user else "",
        **own,
    )


def _options(query: str) -> dict[str, str]:
    told = options(query, (*_OWN, *_DRIVERS), of=_OF)
    for name, known in (("sslmode", _SSL_MODES), ("target_session_attrs", _SESSIONS)):
        if name in told:
            one_of(name, told[name], known, of=_OF)
    return told


def _check_login(login: str) -> None:
    # The driver would take what is behind one of these for a host or a port, and show it in its error.
    for letter in "/@[]":
        if letter in login:
            written = quote(letter, safe="")
            raise ConfigError(f"a {letter!r} in a user name or password in a URL is written {written}")


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(",") if hosts else ():
        name, colon, port = host.rpartition(":")
        if colon and not name.startswith("[") and ":" in name:
            raise ConfigError("an IPv6 address in the URL of a database stands in brackets: [::1]:5432")
        bare = host.endswith("]") or not colon
        if not bare and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
            raise ConfigError("a port in the URL of a database is a number from 1 to 65535")
        bare_name = host if bare else name
        if not bare_name:
            raise ConfigError("the URL of the database has a port without a host")
        if bare_name.startswith("[") != bare_name.endswith("]"):
            raise ConfigError("the URL of a database has a bracket without its other one: [::1]:5432")
        try:
            bare_name.encode("idna")
        except UnicodeError:
            raise ConfigError("the URL of a database has what is no name of a host") from None


def _schema(value: str) -> str:
    if not _NAME.fullmatch(value) or value.startswith("pg_"):
        raise ConfigError(
            f"schema is a name of small letters, digits and _ that does not begin pg_, not {value[:70]!r}"
        )
    return value
