"""What operations are given to: threads that work on the file, and a wait that holds up no loop."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from llmpipe.errors import ConfigError, LLMError, StoreUnavailable
from llmpipe.state.contracts.audit import AuditRecord
from llmpipe.state.files.journal import Asked, Journal, closed
from llmpipe.state.files.parts import Rotation

__all__ = ("Change", "Engine", "engine_of")

T = TypeVar("T")


class Change(Protocol):
    """Does `work` in the thread that writes, and waits for that."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """What `work` gives."""
        ...


_engines: weakref.WeakValueDictionary[str, Engine] = weakref.WeakValueDictionary()
_making = threading.Lock()
_all: weakref.WeakSet[Engine] = weakref.WeakSet()  # those that only read too


def engine_of(path: Path, *, read_only: bool = False, rotation: Rotation | None = None) -> Engine:
    """The engine of that file: one in each process, for its lock is the process's.

    For those who only read it is another one for each, which looks at the file as it is then.

    Raises: ConfigError if the file is open with another rotation.
    """
    if read_only:
        return Engine(path, read_only=True)
    with _making:
        engine = _engines.get(str(path))
        if engine is None:
            engine = _engines[str(path)] = Engine(path, rotation=rotation)
        if rotation is not None:
            engine.rotate(rotation)
        return engine


class Engine:
    """Runs operations on one file, for all in this process who use it. Opens it when it is first asked."""

    def __init__(self, path: Path, *, read_only: bool = False, rotation: Rotation | None = None) -> None:
        self.path, self.read_only, self._rotation = path, read_only, rotation
        self.alive: dict[tuple[str, str], float] = {}  # until when, by trail and writer; `time.monotonic`
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._journal: Journal | None = None
        self._asked: list[Asked] = []
        self._lock = threading.Lock()
        # Three threads: who reads all of a long file, or goes through it for what is old, keeps nobody from
        # appending.
        self._writing = ThreadPoolExecutor(1, "llmpipe-file")
        self._reading = ThreadPoolExecutor(1, "llmpipe-file-read")
        self._pruning = ThreadPoolExecutor(1, "llmpipe-file-prune")

    def rotate(self, rotation: Rotation) -> None:
        """Begin another file when that says so. Raises: ConfigError if something else is agreed on."""
        if self._rotation not in (None, rotation) and self._users:
            raise ConfigError(f"{self.path} is open in this process with another rotation: give it one")
        self._rotation = rotation
        if self._journal is not None:
            self._journal.rotation = rotation

    def use(self, user: object) -> None:
        """Whoever has used the file closes it."""
        self._users.add(user)

    def forget(self) -> None:
        """In a process that was just forked: the threads are the parent's, and so is the lock.

        The lock is its as long as anybody has the file as it was opened, so here that is closed.
        """
        if self._journal is not None:
            self._journal.let_go()
        self._begin()

    async def write(self, work: Callable[[Journal], T], patience: float) -> T:
        """What `work` gives, in the thread that writes."""
        return await self._wait(self._writing.submit(self._change, work), patience)

    async def read(self, work: Callable[[Journal], T], patience: float) -> T:
        """What `work` gives, beside the thread that writes."""
        await self.journal(patience)
        return await self._wait(self._reading.submit(self._look, work), patience)

    async def prune(self, work: Callable[[Journal, Change], T], patience: float) -> T:
        """What `work` gives, beside the thread that writes; it is told how to have something done in that."""
        await self.journal(patience)
        return await self._wait(
            self._pruning.submit(self._look, lambda journal: work(journal, partial(self._in_turn, journal))),
            patience,
        )

    def _in_turn(self, journal: Journal, work: Callable[[], T]) -> T:
        def change() -> T:
            if self._journal is not journal:
                raise closed(self.path)
            return self._change(lambda _: work())

        return self._writing.submit(change).result()

    async def journal(self, patience: float) -> Journal:
        """The open file. Raises: StoreUnavailable, StoreDamaged."""
        if self._journal is None:
            return await self.write(lambda journal: journal, patience)
        return self._journal

    async def append(self, trail: str, records: Sequence[AuditRecord], patience: float) -> None:
        """Keep `records`, with those of all who ask at the same time."""
        loop = asyncio.get_running_loop()
        one = Asked(trail, records, loop, loop.create_future())
        with self._lock:
            self._asked.append(one)
            if len(self._asked) == 1:  # else the thread has been told, and has not begun
                self._writing.submit(self._drain)
        timer = loop.call_later(patience, self._lose_patience, one.done, patience)
        try:
            with _held(loop):
                await one.done
        except asyncio.CancelledError:
            _heard(one.done)
            raise
        finally:
            timer.cancel()

    async def release(self, user: object) -> None:
        """Close the file, if nobody else in this process uses it."""
        self._users.discard(user)
        if not self._users and self._journal is not None:
            await self._wait(self._writing.submit(self._close), 60.0)
            await self._wait(self._pruning.submit(int), 60.0)  # it sees that, and lets go of the lock too

    def _look(self, work: Callable[[Journal], T]) -> T:
        try:
            return work(self._opened())
        except OSError as error:
            raise self._unavailable(error) from None

    def _change(self, work: Callable[[Journal], T]) -> T:
        try:
            return work(self._opened())
        except OSError as error:
            self._close()  # as in `_drain`
            raise self._unavailable(error) from None

    def _opened(self) -> Journal:
        if self._journal is None:
            self._journal = Journal(self.path, read_only=self.read_only, rotation=self._rotation)
        return self._journal

    def _drain(self) -> None:
        with self._lock:
            asked, self._asked = self._asked, []
        if not asked:
            return
        try:
            self._opened().append(asked)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            self._fail(asked, self._unavailable(error) if isinstance(error, OSError) else error)
            if isinstance(error, OSError):
                self._close()  # what the disk has of it is not known: it is read anew

    @staticmethod
    def _fail(asked: Sequence[Asked], error: Exception) -> None:
        for one in asked:
            one.tell(type(error)(error.message, code=error.code) if isinstance(error, LLMError) else error)

    def _close(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{self.path}: {error.strerror or type(error).__name__}")

    def _silent(self, patience: float) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.path}: the disk has not answered in {patience:g} s; it is not known whether this was done"
        )

    def _lose_patience(self, waiting: asyncio.Future[None], patience: float) -> None:
        if not waiting.done():
            waiting.set_exception(self._silent(patience))

    async def _wait(self, work: Future[T], patience: float) -> T:
        waiting = asyncio.wrap_future(work)
        try:
            async with asyncio.timeout(patience):
                with _held(asyncio.get_running_loop()):
                    return await asyncio.shield(waiting)
        except TimeoutError:
            waiting.add_done_callback(_heard)
            raise self._silent(patience) from None
        except asyncio.CancelledError:
            waiting.add_done_callback(_heard)
            raise


def _held(loop: Any) -> AbstractContextManager[None]:
    """Of llmpipe.testing's loop: its clock stands still while a thread works."""
    hold: Callable[[], AbstractContextManager[None]] = getattr(loop, "hold", nullcontext)
    return hold()


def _heard(waiting: asyncio.Future[Any]) -> None:
    """Nobody waits any more: the error, if there is one, is nobody's."""
    if waiting.done() and not waiting.cancelled():
        waiting.exception()


def _after_fork() -> None:
    global _making  # noqa: PLW0603  somebody may have held it in the parent, and will never let go of it here
    _making = threading.Lock()
    for engine in list(_all):
        engine.forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
