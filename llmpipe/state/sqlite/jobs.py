"""What is asked of the thread, and how the answers come back."""

from __future__ import annotations

import sqlite3
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from typing import Any, Literal

from attrs import define

from llmpipe.errors import LLMError, StoreDamaged
from llmpipe.state.sqlite.clock import Clock
from llmpipe.state.sqlite.faults import damaged
from llmpipe.state.sqlite.text import as_bytes

__all__ = ("Job", "Mode", "NeedsWrite", "Session", "own", "resolve", "tell")

Mode = Literal["read", "soft", "hard"]


class NeedsWrite(Exception):
    """Raised by an operation that was to read, and has found that it must write first."""


class Session:
    """What an operation works with: the connection, the time, and whether it may write.

    `swept` has what was seen to be swept at this time, so that it is done once for a batch.
    """

    __slots__ = ("base", "db", "now", "path", "swept", "writes")

    def __init__(self, db: sqlite3.Connection, path: str, clock: Clock) -> None:
        self.db, self.path, self.base = db, path, clock.base
        self.now, self.writes = 0.0, False
        self.swept: set[tuple[str, str]] = set()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        try:
            return self.db.execute(sql, values)
        except UnicodeEncodeError:  # half a surrogate pair, which only bytes can say
            return self.db.execute(*as_bytes(sql, values))

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement with each of `rows`; perhaps twice with some, which must be the same as once."""
        try:
            self.db.executemany(sql, rows)
        except UnicodeEncodeError:
            for row in rows:
                self.execute(sql, row)

    def must_write(self) -> None:
        """Go on only if this is a transaction that writes."""
        if not self.writes:
            raise NeedsWrite

    def damaged(self, what: str) -> StoreDamaged:
        """The error for a row that is not as it was written."""
        return damaged(self.path, what)


@define(eq=False)
class Job:
    """An operation, who waits for it, until when for the file (`time.monotonic`), and what came of it."""

    work: Callable[[Session], Any]
    mode: Mode
    loop: AbstractEventLoop
    future: Future[Any]
    deadline: float
    result: Any = None
    error: BaseException | None = None
    done: bool = False


def own(error: BaseException) -> BaseException:
    """An error of each one's own: who catches one may change it."""
    return type(error)(error.message, code=error.code) if isinstance(error, LLMError) else error


def tell(jobs: Sequence[Job]) -> None:
    """Give all who wait what came of it, with one call for each event loop."""
    by_loop: dict[AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, told in by_loop.items():
        try:
            loop.call_soon_threadsafe(resolve, told)
        except RuntimeError:  # the loop is closed: nobody waits there any more
            continue


def resolve(jobs: Sequence[Job]) -> None:
    """In the loop of those who wait: what came of it, unless they have been told, or left."""
    for job in jobs:
        future = job.future
        if future.done():  # cancelled, or out of patience
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)
