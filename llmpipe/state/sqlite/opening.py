"""Opening the file: made if it is not there, looked through if it is, never made anew."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.state.sqlite import seals, wal
from llmpipe.state.sqlite.clock import Clock, this_boot
from llmpipe.state.sqlite.faults import damaged
from llmpipe.state.sqlite.schema import APPLICATION_ID, VERSION, expected, migrate, shape
from llmpipe.state.sqlite.text import decoded

__all__ = ("connect", "inspect")

_THOROUGH = 32 * 1024 * 1024
"""Bytes up to which a file is looked through wholly whenever it is opened: 0.2 s for 10 MB. Of a larger one
SQLite's pages are (quick_check), which finds what a disk does to sectors; `State.check` does the rest."""

_MADE_FOR = (3, 37, 0)  # STRICT tables


def connect(path: str, timeout: float, clock: Clock, *, known: bool) -> sqlite3.Connection:
    """A connection to the file, which is there, whole, and of this version; `clock` goes by it.

    Args: timeout is how long to wait for who holds the file, seconds; known says that it was open before, so
    that it must be there.
    Raises: StoreDamaged; sqlite3.Error, OSError for what `faults.translated` knows.
    """
    if sqlite3.sqlite_version_info < _MADE_FOR:
        raise ConfigError(f"sqlite:// needs SQLite 3.37 or newer; this Python has {sqlite3.sqlite_version}")
    _look(path, known=known)
    db = _open(path, timeout)
    try:
        _whose(db, path)
        if not clock.read(db):  # noted in the file itself, where it can be read without the log
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        size = Path(path).stat().st_size
        inspect(db, path, thorough=size <= _THOROUGH)
        db.execute("PRAGMA busy_timeout = 25")  # from now on the writer does the waiting
    except BaseException:  # whatever it is goes on; the connection must not
        db.close()
        raise
    return db


def _look(path: str, *, known: bool) -> None:
    """Make the file if there is none, and see that the log beside it is whole.

    This is before SQLite opens it, for that would take what it can read of the log and drop the rest.
    Only the log is read here: whoever closes a file that SQLite has open in this process takes all
    of SQLite's locks on it away (POSIX, fcntl).
    """
    log = path + "-wal"
    try:
        size = Path(path).stat().st_size
    except FileNotFoundError:
        if known:
            raise damaged(path, "the file is gone, and was there before") from None
        if _size(log):
            raise damaged(path, "the file is gone, and the log beside it (-wal) is still there") from None
        _make(path)
        return
    if size == 0:
        raise damaged(path, "the file is empty, which a database never is")
    for _ in range(3):
        before = _state(log)
        found = wal.lost(log) if before is not None else None
        if found is None:
            return
        time.sleep(0.05)
        if _state(log) == before:  # else somebody is writing there, who has seen the log when it was whole
            if _noted_boot(path) == this_boot() != "":
                raise damaged(path, f"the log beside it (-wal): {found}")
            return  # the power may have been cut, which tears what was not acknowledged yet


def _noted_boot(path: str) -> str:
    """On which start of the machine the file was last opened, read without its log."""
    db = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
    try:
        row = db.execute("SELECT boot FROM clock").fetchone()
        return "" if row is None else str(row[0])
    finally:
        db.close()


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def _make(path: str) -> None:
    """Make the file under another name, whole and on the disk, and only then give it its own.

    So there is never a file that is half made, whoever is killed; and of two who make it, one does.
    """
    made = f"{path}.new-{secrets.token_hex(4)}"
    try:
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        db = _open(made, 1.0)
        try:
            migrate(db)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            db.close()
        with suppress(FileExistsError):
            _name(made, path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(made + suffix).unlink(missing_ok=True)
    if os.name != "posix":  # elsewhere a directory cannot be opened, nor need it be
        return
    directory = os.open(Path(path).parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _name(made: str, path: str) -> None:
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as FAT: as well as can be
        if not Path(path).exists():
            Path(made).rename(path)


def _open(path: str, timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"file:{quote(path)}?mode=rw", uri=True, isolation_level=None, timeout=timeout, cached_statements=256
    )
    try:
        db.text_factory = decoded
        db.execute("PRAGMA cell_size_check = ON")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(f"{path}: this file system has no write-ahead log ({mode} instead)")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it, between two batches
        db.execute("PRAGMA journal_size_limit = 4194304")
        db.execute("PRAGMA cache_size = -8192")
    except BaseException:  # whatever it is goes on; the connection must not
        db.close()
        raise
    return db


def _whose(db: sqlite3.Connection, path: str) -> None:
    """See that the file is ours and of a version that is known; bring an older one up to date."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID or version < 1:
        raise damaged(path, "this is a database of something else, or its header is damaged")
    if version > VERSION:
        raise damaged(
            path,
            f"it is of version {version}, written by a newer llmpipe; this one reads {VERSION}: upgrade it",
        )
    if version < VERSION:
        migrate(db)
    missing = expected() - shape(db)
    if missing:
        names = ", ".join(sorted(name for _, name, _ in missing))
        raise damaged(path, f"its tables are not those of version {version}: {names}")


# By table, all columns, the seal last. The journal and the queue are checked row by row as they are read.
_SEALED = (
    "SELECT * FROM sums",
    "SELECT * FROM holds",
    "SELECT * FROM buckets",
    "SELECT * FROM slots",
    "SELECT * FROM tickets",
    "SELECT * FROM totals",
    "SELECT * FROM vault",
    "SELECT * FROM providers",
)


def inspect(db: sqlite3.Connection, path: str, *, thorough: bool) -> None:
    """Look through the file.

    Raises: StoreDamaged for what is wrong; sqlite3.DatabaseError for what cannot be read at all.
    """
    check = "PRAGMA integrity_check(3)" if thorough else "PRAGMA quick_check(3)"
    found = [str(line) for (line,) in db.execute(check)]
    if found != ["ok"]:
        raise damaged(path, f"SQLite says {'; '.join(found)[:500]}")
    if not thorough:
        return
    for query in _SEALED:
        for row in db.execute(query):
            if not seals.whole(row):
                raise damaged(path, f"a row of the table {query.rpartition(' ')[2]} was changed ({row[0]!r})")
