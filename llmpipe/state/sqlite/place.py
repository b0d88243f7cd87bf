"""Where the file is, and its settings: what a ``sqlite://`` URL says."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.secret import hide_password, scrub
from llmpipe.state.url import number, options

__all__ = ("Place", "read_url")

_OF = "a SQLite file"
_TIMEOUT = 5.0  # seconds


@frozen
class Place:
    """A database file, absolute, and how long an operation may wait for it, seconds."""

    path: str
    timeout: float = _TIMEOUT


def read_url(url: str) -> Place:
    """What `url` names: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, each with ``?timeout=5``.

    That is SQLAlchemy's rule. Many write three slashes before an absolute path: where the directory of
    the relative reading does not exist and that of the absolute one does, the absolute one is meant.

    Raises: ConfigError for another form, an unknown setting, a directory that is not there, a path that
    is not a file, and one that may not be written.
    """
    rest, _, query = str(url).removeprefix("sqlite://").partition("?")
    name = unquote(rest)
    if not rest.startswith("/") or not name.strip("/") or "\0" in name or "#" in rest:
        raise ConfigError(
            f"{scrub(hide_password(str(url)))!r} names no file; a relative path is sqlite:///state.db, "
            "an absolute one sqlite:////var/lib/state.db; for nothing that lasts there is memory://"
        )
    if name.lstrip("/") == ":memory:":
        raise ConfigError("sqlite:// keeps things in a file; in memory they are kept by memory://")
    told = options(query, ("timeout",), of=_OF)
    timeout = number("timeout", told["timeout"], 0.01, 3600.0, of=_OF) if told else _TIMEOUT
    path = Path(name[1:])
    if not path.is_absolute() and not path.parent.is_dir() and Path(name).parent.is_dir():
        path = Path(name)
    return Place(_usable(path), timeout)


def _usable(path: Path) -> str:
    """The path, absolute, with links followed, so that it stays the same file wherever the process goes."""
    try:
        path = path.resolve()
        if path.is_dir():
            raise ConfigError(f"{path} is a directory; the URL names a file in one, such as {path}/state.db")
        if not path.parent.is_dir():
            raise ConfigError(f"the directory {path.parent} is not there; make it first, or name another")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no plain file")
        writable = os.access(path.parent, os.W_OK | os.X_OK) and (
            not path.exists() or os.access(path, os.R_OK | os.W_OK)
        )
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise ConfigError(f"{path} cannot be looked at: {error}") from None
    if not writable:
        raise ConfigError(
            f"{path} may not be written by this process; SQLite writes the file and others beside it, so the "
            "directory must be writable too"
        )
    return str(path)
