"""The thread that owns the connection: takes what was asked, does it in batches, commits once for each.

A batch is all that was asked while the one before it was done. Its readings come first, then its
writings in one transaction, and when that is on the disk all are told. An operation that fails
takes nothing of the others with it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal

from attrs import define, field

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state.sqlite.clock import Clock
from llmpipe.state.sqlite.faults import breaks, busy, damaged, is_full, translated
from llmpipe.state.sqlite.jobs import Job, NeedsWrite, Session, own, tell
from llmpipe.state.sqlite.opening import connect
from llmpipe.state.sqlite.place import Place

__all__ = ("Writer",)

log = logging.getLogger("llmpipe.state")

_CHECKPOINTS = {
    "RESTART": "PRAGMA wal_checkpoint(RESTART)",
    "TRUNCATE": "PRAGMA wal_checkpoint(TRUNCATE)",
}
_BATCH = 512
_COMMITS = 250  # after which the log is written back
_LOG_BYTES = 16 * 1024 * 1024
_DAMAGED_FOR = 5.0  # seconds for which a file that is damaged is not looked through again


@define(eq=False)
class Writer:
    """One connection and its thread. `end` lets it finish what it was given, and close."""

    place: Place
    clock: Clock
    after: threading.Thread | None = None  # that of the one before, whose connection is to be closed first
    known: bool = False
    jobs: SimpleQueue[Job | None] = field(factory=SimpleQueue)
    thread: threading.Thread = field(init=False)
    blocked: bool = False  # somebody else holds the file: whoever asks now does not wait for long
    silent: bool = False  # this thread hangs in the disk: set by who waits, cleared when it is back
    db: sqlite3.Connection | None = None
    _session: Session | None = None
    _inode: tuple[int, int] = (0, 0)
    _ending: bool = False
    _commits: int = 0
    _sync: str = "hard"
    _refusal: tuple[float, StoreDamaged] | None = None
    _batch: list[Job] = field(factory=list)  # what is being done, with what came while it waited

    def __attrs_post_init__(self) -> None:
        # A daemon, so that a disk that hangs cannot keep the interpreter from exiting; `engine` waits for it.
        self.thread = threading.Thread(target=self._run, name="llmpipe-sqlite", daemon=True)

    def end(self) -> None:
        """Let the thread finish what it was given, close the file, and end."""
        self.jobs.put(None)

    def _run(self) -> None:
        if self.after is not None:
            self.after.join()
            self.after = None
        while not self._ending:
            first = self.jobs.get()
            batch = [] if first is None else [first]
            self._ending = first is None
            self._drain(batch)
            if batch:
                self._serve(batch)
                self.silent = False
            batch.clear()
            del first  # what it holds must not live until the next one comes
        self._close(checkpoint=True)

    def _drain(self, batch: list[Job]) -> None:
        try:
            while len(batch) < _BATCH:
                job = self.jobs.get_nowait()
                if job is None:
                    self._ending = True
                else:
                    batch.append(job)
        except Empty:
            return

    def _serve(self, batch: list[Job]) -> None:
        """Do what was asked, and tell."""
        self._batch = batch
        try:
            session = self._opened()
            writing = self._read(session, batch)
            if writing:
                tell([job for job in batch if job.done])  # who only reads need not wait for the disk
                self._write(session, writing)
        except Exception as error:  # noqa: BLE001  whatever it is, who waits must hear of it, and the thread go on
            self._fail(batch, error)
        tell(batch)
        if self._commits >= _COMMITS or self._log_size() > _LOG_BYTES:
            self._checkpoint("RESTART" if self._commits >= _COMMITS else "TRUNCATE")

    def _fail(self, batch: Sequence[Job], error: BaseException) -> None:
        """Tell all who have no answer yet; let the connection go if it cannot be relied on."""
        shown = translated(error, self.place.path)
        if isinstance(error, OSError):
            shown = StoreUnavailable(f"{self.place.path}: {error.strerror or error}")
        for job in batch:
            if not job.done:
                job.error, job.done = own(shown), True
        if self.db is not None and self.db.in_transaction:
            _quietly(self.db, "ROLLBACK")
        if isinstance(shown, StoreUnavailable) and not busy(error) and not is_full(error):
            # After a failed fsync nobody knows what is on the disk: only reading it again tells.
            self._close(checkpoint=False)

    # -- the connection

    def _opened(self) -> Session:
        if self._session is not None:
            return self._session
        if self._refusal is not None:
            until, error = self._refusal
            if monotonic() < until:
                raise own(error)
        self._refusal = None
        try:
            self.db = connect(self.place.path, self.place.timeout, self.clock, known=self.known)
        except (StoreDamaged, sqlite3.Error, UnicodeDecodeError) as error:
            shown = translated(error, self.place.path)
            if isinstance(shown, StoreDamaged):
                self._refusal = (monotonic() + _DAMAGED_FOR, shown)
            raise shown from error
        self.known, self._sync, self._commits = True, "hard", 0
        self._inode = self._place_inode()
        self._session = Session(self.db, self.place.path, self.clock)
        return self._session

    def _place_inode(self) -> tuple[int, int]:
        try:
            found = os.stat(self.place.path)  # noqa: PTH116  a Path would be made for each commit
        except FileNotFoundError:
            return (-1, -1)
        return found.st_dev, found.st_ino

    def _close(self, *, checkpoint: bool) -> None:
        db, self.db, self._session = self.db, None, None
        if db is None:
            return
        if checkpoint:
            _quietly(db, "PRAGMA wal_checkpoint(TRUNCATE)")
        try:
            db.close()
        except sqlite3.Error as error:
            log.warning("closing %s: %s", self.place.path, error)

    def _log_size(self) -> int:
        if self._session is None or not self._commits:
            return 0
        try:
            log = self.place.path + "-wal"
            return os.stat(log).st_size if self._commits > 16 else 0  # noqa: PTH116  as above
        except OSError:
            return 0

    def _checkpoint(self, how: Literal["RESTART", "TRUNCATE"]) -> None:
        """Write the log back into the file.

        Only in ways that hold the write lock meanwhile: in SQLite before 3.51.3 a checkpoint beside
        another process that writes can damage the file ("WAL-reset bug").
        """
        self._commits = 0
        if self.db is not None:
            _quietly(self.db, _CHECKPOINTS[how])

    # -- what was asked

    def _read(self, session: Session, batch: Sequence[Job]) -> list[Job]:
        """Answer what only reads; what is left has to write, or to wait."""
        reading = [job for job in batch if job.mode == "read"]
        if not reading:
            return list(batch)
        session.now, session.writes = self.clock.now(), False
        session.swept.clear()
        left: set[int] = set()
        try:
            session.execute("BEGIN")
            for job in reading:
                if not self._try(session, job):
                    left.add(id(job))
            session.execute("COMMIT")
        except sqlite3.Error as error:
            if not busy(error):
                raise
            if session.db.in_transaction:
                session.execute("ROLLBACK")
            left = {id(job) for job in reading if not job.done}
        return [job for job in batch if job.mode != "read" or id(job) in left]

    def _try(self, session: Session, job: Job) -> bool:
        """Do one operation; False if it has to write, and may not, or must wait."""
        if job.future.done():
            job.done = True
            return True
        try:
            job.result = job.work(session)
        except NeedsWrite:
            return False
        except Exception as error:
            if busy(error):
                return False
            if breaks(error):
                raise
            job.error = translated(error, session.path)
        job.done = True
        return True

    def _write(self, session: Session, jobs: list[Job]) -> None:
        """Do what writes, all in one transaction; one by one if that cannot be had."""
        careful = False
        while self._locked(session, jobs):
            try:
                if self._transaction(session, jobs, careful=careful):
                    return
            except sqlite3.Error as error:
                if session.db.in_transaction:
                    _quietly(session.db, "ROLLBACK")
                if not is_full(error) or len(jobs) == 1:
                    raise
                for job in jobs:  # what is smaller than the one that did not fit may still fit
                    self._alone(session, job)
                return
            careful = True

    def _alone(self, session: Session, job: Job) -> None:
        alone = [job]
        try:
            if self._locked(session, alone):
                self._transaction(session, alone, careful=True)
        except sqlite3.Error as error:
            self._fail(alone, error)
            if self._session is None:  # it cannot be relied on any more: the others are told the same
                raise

    def _transaction(self, session: Session, jobs: Sequence[Job], *, careful: bool) -> bool:
        """Do `jobs` and commit. False if one failed half-way: then all is undone, and to be done with care.

        With care each is done behind a savepoint. That is two statements more for each, and few fail.
        """
        session.now, session.writes = self.clock.now(), True
        session.swept.clear()
        for job in jobs:
            if job.done or job.future.done():
                continue
            before = session.db.total_changes
            if careful:
                session.execute("SAVEPOINT one")
            try:
                job.result, job.error = job.work(session), None
            except Exception as error:
                if breaks(error) or not session.db.in_transaction:
                    raise
                job.error = translated(error, session.path)
                if careful:
                    session.execute("ROLLBACK TO one")
                    session.swept.clear()
                elif session.db.total_changes != before:
                    session.execute("ROLLBACK")
                    return False
            if careful:
                session.execute("RELEASE one")
        self.clock.note(session.db)
        session.execute("COMMIT")
        self._commits += 1
        for job in jobs:
            job.done = True
        return True

    def _locked(self, session: Session, jobs: list[Job]) -> bool:
        """Begin a transaction that writes. Meanwhile readings are answered, and who is out of time is told.

        False if nobody is left that would wait.
        """
        if self._place_inode() != self._inode:
            raise damaged(self.place.path, "the file was removed or replaced while it was open")
        while True:
            jobs[:] = [job for job in jobs if not job.done and not job.future.done()]
            if not jobs:
                return False
            wanted = "hard" if any(job.mode != "soft" for job in jobs) else "soft"
            if wanted != self._sync:
                session.execute(
                    "PRAGMA synchronous = FULL" if wanted == "hard" else "PRAGMA synchronous = NORMAL"
                )
                self._sync = wanted
            try:
                session.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if not busy(error):
                    raise
            else:
                self.blocked = False
                return True
            self._while_waiting(session, jobs)

    def _while_waiting(self, session: Session, jobs: list[Job]) -> None:
        now = monotonic()
        late = [job for job in jobs if job.deadline <= now]
        for job in late:
            job.error = StoreUnavailable(
                f"{self.place.path} is held by another process that writes: not free in time, try again"
            )
            self.blocked, job.done = True, True
        tell(late)
        more: list[Job] = []
        self._drain(more)
        if more:
            self._batch += more
            jobs += self._read(session, more)
            tell([job for job in more if job.done])


def _quietly(db: sqlite3.Connection, statement: str) -> None:
    """Run what is not vital: a log that is not written back grows, a rollback that fails was done."""
    try:
        db.execute(statement).fetchall()
    except sqlite3.Error as error:
        log.warning("%s: %s", statement, error)
