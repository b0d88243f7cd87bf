"""What operations are given to: it hands them to the thread, and waits without holding up the loop.

Any number of event loops may ask. A caller that is cancelled finds its operation done or not done, never
half; one that nobody has begun is not done any more. The thread is started when something is
asked, and after `aclose` when something is asked again; it is not there in a process that was forked,
which opens the file anew.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from llmpipe.errors import StoreUnavailable
from llmpipe.state.sqlite.clock import Clock
from llmpipe.state.sqlite.jobs import Job, Mode, Session, resolve
from llmpipe.state.sqlite.opening import inspect
from llmpipe.state.sqlite.place import Place
from llmpipe.state.sqlite.writer import Writer

__all__ = ("Engine",)

T = TypeVar("T")

_PROBE = 0.05  # seconds that one waits for a file that somebody held for the whole time of another
_GRACE = 0.5  # seconds beyond its time after which one no longer waits for the thread itself
_OPENING = 600.0  # seconds that `check` gives a large file
_EXIT = 5.0  # seconds that the interpreter waits at its exit for what is not written yet


class Engine:
    """Runs operations on one file."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.clock = Clock()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._last: threading.Thread | None = None
        self._end: weakref.finalize[[], Engine] | None = None
        _engines.add(self)

    async def run(self, work: Callable[[Session], T], mode: Mode = "hard") -> T:
        """What `work` gives, done in the thread, once it is on the disk.

        Args: mode is ``read`` for what only reads; ``soft`` for what may be lost if the machine loses its
            power, though never if a process dies; ``hard`` for what is on the disk then.
            `work` may be run more than once, and must have no effects but those on the session.
        Raises: what `work` raises, StoreUnavailable, StoreDamaged.
        """
        return await self._run(work, mode, self.place.timeout)

    async def check(self) -> None:
        """Open the file and look all of it through, however long that takes.

        Raises: StoreUnavailable, StoreDamaged.
        """
        path = self.place.path
        await self._run(lambda session: inspect(session.db, path, thorough=True), "read", _OPENING)

    async def aclose(self) -> None:
        """Write what was asked, write the log back into the file, close it, and end the thread."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return
            self._last = writer.thread
            self._stop()
        await asyncio.get_running_loop().run_in_executor(
            None, writer.thread.join, self.place.timeout + _GRACE
        )
        if writer.thread.is_alive():
            raise StoreUnavailable(f"{self.place.path} is not closed yet: the disk does not answer")

    async def _run(self, work: Callable[[Session], T], mode: Mode, patience: float) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            writer = self._writer or self._started()
            if writer.silent:
                raise StoreUnavailable(f"{self.place.path}: the disk has not answered for a while")
            wait = min(patience, _PROBE) if writer.blocked else patience  # for the file; not for the thread
            job = Job(work, mode, loop, future, monotonic() + wait)
            writer.jobs.put(job)
        timer = loop.call_later(patience + _GRACE, _lose_patience, writer, job, self.place.path)
        hold = getattr(loop, "hold", None)
        try:
            if hold is None:
                return await future
            with hold():  # of llmpipe.testing's loop: its clock stands still while a thread works
                return await future
        finally:
            timer.cancel()

    def _started(self) -> Writer:
        after = self._last if self._last is not None and self._last.is_alive() else None
        writer = Writer(self.place, self.clock, after)
        writer.thread.start()
        _writers.add(writer)
        self._end = weakref.finalize(self, writer.end)
        self._end.atexit = False  # `_at_exit` does that, and waits
        self._writer = writer
        return writer

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None

    def forget(self) -> None:
        """In a process that was just forked: the thread is not here, and its connection is the parent's.

        The connection is kept for ever. Closing it would wait for locks that nobody here will ever let
        go of, and meddle with a log that the parent is writing.
        """
        self._lock = threading.Lock()
        if self._end is not None:
            self._end.detach()
        writer, self._writer, self._last, self._end = self._writer, None, None, None
        if writer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(writer))


def _lose_patience(writer: Writer, job: Job, path: str) -> None:
    if job.future.done():
        return
    writer.silent = True
    if job.done:  # answered in this very moment: the thread may be at rest, and would never clear it
        writer.silent = False
        resolve([job])
        return
    job.future.set_exception(
        StoreUnavailable(f"{path}: the disk does not answer; it is not known whether this was done")
    )


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()  # that run, also those whose engine is gone


def _at_exit() -> None:
    until = monotonic() + _EXIT
    writers = list(_writers)
    for writer in writers:
        writer.end()
    for writer in writers:
        writer.thread.join(max(0.0, until - monotonic()))


def _after_fork() -> None:
    _writers.clear()
    for engine in list(_engines):
        engine.forget()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
