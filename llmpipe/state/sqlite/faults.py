"""What SQLite's errors mean to whoever asked.

========================================================  ===============================================
result code                                               error
========================================================  ===============================================
BUSY, LOCKED, PROTOCOL, INTERRUPT                         StoreUnavailable: somebody holds the file
FULL, IOERR, READONLY, CANTOPEN, NOMEM, PERM, NOLFS       StoreUnavailable: the disk will not have it
CORRUPT, NOTADB, FORMAT, ERROR; text that is no UTF-8     StoreDamaged: what is there is not what was written
TOOBIG, MISMATCH, CONSTRAINT, RANGE; what it cannot bind  ValueError: the argument cannot be kept
========================================================  ===============================================
"""

from __future__ import annotations

import sqlite3

from llmpipe.errors import StoreDamaged, StoreUnavailable

__all__ = ("breaks", "busy", "damaged", "is_full", "translated")

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT}
_DISK = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
}
_VALUE = {
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_MISUSE,
}


def _code(error: BaseException) -> int:
    """SQLite's primary result code, 0 for what the module sqlite3 found by itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def busy(error: BaseException) -> bool:
    """Whether somebody else holds the file, and it may be tried again."""
    return isinstance(error, sqlite3.Error) and _code(error) in _BUSY


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, so that something smaller may still fit."""
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL


def breaks(error: BaseException) -> bool:
    """Whether nothing that happened in the transaction can be relied on after `error`."""
    if isinstance(error, MemoryError | UnicodeDecodeError):
        return True
    return (
        isinstance(error, sqlite3.Error)
        and not busy(error)
        and not isinstance(_translated(error), ValueError)
    )


def damaged(path: str, why: str) -> StoreDamaged:
    """What is raised for a file that cannot be trusted."""
    return StoreDamaged(
        f"{path}: {why}. Nothing was changed in it. Put a backup in its place, or move it away together with "
        "its -wal and -shm to begin with an empty one; `sqlite3 FILE .recover` saves what can be read"
    )


def translated(error: BaseException, path: str) -> BaseException:
    """`error` as whoever asked should see it; what is none of SQLite's stays as it is."""
    if isinstance(error, OverflowError):
        return ValueError(f"a number beyond 64 bits cannot be kept: {error}")
    if isinstance(error, MemoryError):
        return StoreUnavailable(f"{path}: out of memory")
    if isinstance(error, UnicodeDecodeError):  # of a value, or of what stands in a message of SQLite's
        return damaged(path, "there is text in it that is no UTF-8")
    if not isinstance(error, sqlite3.Error):
        return error
    found = _translated(error)
    if isinstance(found, StoreDamaged):
        return damaged(path, f"SQLite says {error}")
    if isinstance(found, StoreUnavailable):
        return StoreUnavailable(f"{path}: {error}", code=getattr(error, "sqlite_errorname", None))
    return found


def _translated(error: sqlite3.Error) -> Exception:
    code = _code(error)
    if code in _BUSY or code in _DISK:
        return StoreUnavailable(str(error))
    if code in _VALUE or (not code and isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError)):
        return ValueError(f"cannot be kept: {error}")
    return StoreDamaged(str(error))
