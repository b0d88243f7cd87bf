"""The file itself: one process appends to it, and what `append` has returned from is on the disk.

Whoever writes holds a lock (``flock``) on the file. Lines are appended in one write, and synced together
with those of all who asked meanwhile. A last line that a crash has cut is cut off, and reported, when the
file is opened; anything else that is not as it was written is `StoreDamaged`, and nothing is changed then.

A trail may have several files (see `parts`). The one that is written says where all chains begin, so that
what older ones have of records that were pruned is passed over.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import define, frozen

from llmpipe.errors import ConfigError, StoreDamaged, StoreUnavailable
from llmpipe.state.contracts.audit import AuditRecord
from llmpipe.state.files.contents import lines_in, standing, take, where_chains_begin
from llmpipe.state.files.index import Index, mark
from llmpipe.state.files.lines import HEAD, Unreadable, line_of, record_line, torn, torn_head
from llmpipe.state.files.parts import Rotation, day_of, next_part, parts_of

__all__ = ("Asked", "Beside", "Journal", "View", "closed", "take")  # `take`: for tests of damage

log = logging.getLogger("llmpipe")

_NEXT, PRUNED = ".new", ".pruned"
"""Of files that are made beside the one that is written. What a crash leaves of them is not of the trail."""


@define(eq=False)
class Asked:
    """Records of one trail that somebody in `loop` wants kept."""

    trail: str
    records: Sequence[AuditRecord]
    loop: AbstractEventLoop
    done: Future[None]

    def tell(self, error: Exception | None = None) -> None:
        """From another thread: they are kept, or why they are not. What is told first holds."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            self.loop.call_soon_threadsafe(_resolve, self.done, error)


def _resolve(done: Future[None], error: Exception | None) -> None:
    if done.done():  # told, or cancelled, or out of patience
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


@frozen
class View:
    """The files of a trail as they are now.

    Attributes:
        parts: the older ones.
        descriptor, size: of the one that is written; whoever asked closes it.
        begins: by trail and writer, the number of the last record that was pruned.
    """

    parts: tuple[Path, ...]
    descriptor: int
    size: int
    begins: Mapping[tuple[str, str], int]


@define(eq=False)
class Beside:
    """A file that is to take the place of the one that is written; `descriptor` is -1 when it has.

    Attributes: filled says whether it has records.
    """

    path: Path
    descriptor: int
    size: int = 0
    filled: bool = False

    def write(self, data: bytes) -> None:
        """Write `data` behind all else."""
        _write(self.descriptor, data)
        self.size += len(data)


class Journal:
    """Open files of one trail, written by one thread at a time; their index may be read by any.

    Args:
        read_only: takes no lock, and looks at the files as they are now, a last line that is not whole left
            out.
    Raises: StoreUnavailable if another process writes to them, or the disk fails; StoreDamaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False, rotation: Rotation | None = None) -> None:
        self.path, self.read_only = path, read_only
        self.rotation = rotation or Rotation()
        self.trails: dict[str, Index] = {}
        self.lock = threading.Lock()  # of the files as they are replaced
        self.descriptor = -1
        self._last = ""  # the record that was read last, for errors
        self._filled = False  # whether the file that is written has records
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if read_only else _locked(path)
        try:
            for suffix in () if read_only else (_NEXT, PRUNED):
                with suppress(OSError):  # it only takes room
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
            while True:
                try:
                    self.parts = self._find_parts()
                    self.size = self._read()
                    break
                except FileNotFoundError:  # it was pruned as we came to it
                    if not read_only:
                        raise
                    self._open_anew()
            self._day = day_of(os.fstat(self.descriptor).st_mtime)
        except BaseException:  # whatever it is, the lock is given back
            self.let_go()
            raise

    def _find_parts(self) -> tuple[Path, ...]:
        """The older files. Whoever reads only opens the newest anew until nothing came between."""
        while True:
            parts = parts_of(self.path)
            mine = os.fstat(self.descriptor)
            if parts and os.path.samestat(mine, parts[-1].stat()):  # a crash, or now, amid `_rotate`
                if not self.read_only:
                    parts[-1].unlink()
                    _sync_directory(self.path)
                del parts[-1]
            if not self.read_only or os.path.samestat(mine, self.path.stat()):
                return tuple(parts)
            self._open_anew()

    def _open_anew(self) -> None:
        fresh = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        os.close(self.descriptor)
        self.descriptor = fresh

    def _read(self) -> int:
        """Make the index; the size of the file that is written."""
        whole = os.fstat(self.descriptor).st_size
        self.trails = standing(self.descriptor, whole)
        for part in self.parts:
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._read_file(part, descriptor, os.fstat(descriptor).st_size)
            finally:
                os.close(descriptor)
        return self._read_file(self.path, self.descriptor, whole)

    def _read_file(self, path: Path, descriptor: int, whole: int) -> int:
        """Enter what it says; its size when what a crash has left at its end is cut off."""
        place = 0
        for number, (line, ended) in enumerate(lines_in(descriptor, whole), 1):
            if not ended:
                if path != self.path or not (torn(line) if place else torn_head(line)):
                    raise self.damaged(number, "was changed where it ended", path)
                if not self.read_only:
                    log.warning("%s: the last line was cut by a crash; %d bytes are cut off", path, len(line))
                    os.ftruncate(descriptor, place)
                    os.fsync(descriptor)
                break
            try:
                record = take(self.trails, line, number)
            except Unreadable as error:
                raise self.damaged(number, str(error), path) from None
            if record is not None:
                self._filled = path == self.path
                self._last = f", behind record {record.seq} of {record.writer!r},"
            place += len(line) + 1
        if not place and not self.read_only:
            _write(descriptor, HEAD)
            os.fsync(descriptor)
            _sync_directory(path)
            place = len(HEAD)
        return place

    def damaged(self, number: int, why: str, path: Path | None = None) -> StoreDamaged:
        """The error for a line that is not as it was written."""
        return StoreDamaged(
            f"{path or self.path}: line {number}{self._last} {why}. Nothing was changed. Put a backup in its "
            "place, or move it away to begin with an empty one"
        )

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self.let_go()

    def let_go(self) -> None:
        """As `close`, where nobody else is at work: of one that is dropped, or of the parent of a fork."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.let_go()

    # ------------------------------------------------------------ appending

    def append(self, asked: Sequence[Asked]) -> None:
        """Keep what was asked for, with one write and one sync, and tell each what came of it.

        Raises: StoreUnavailable, for all; the file is as it was.
        """
        self._check_writable()
        staged: dict[tuple[str, str, int], bytes] = {}
        lines: list[bytes] = []
        good: list[tuple[Asked, list[AuditRecord]]] = []
        for one in asked:
            try:
                new = self._new(one, staged)
                lines += [record_line(one.trail, record) for record in new]
            except ValueError as error:
                one.tell(error)
                continue
            staged.update({(one.trail, each.writer, each.seq): mark(each.hash) for each in new})
            good.append((one, new))
        if lines:
            if self._filled and self.rotation.due(self.size, self._day):
                self._rotate()
            self._put(b"".join(lines))
            self._filled = True
        for one, new in good:
            index = self.trails.setdefault(one.trail, Index())
            for record in new:
                index.add(record)
        for one, _ in good:
            one.tell()

    def _put(self, data: bytes) -> None:
        """Write `data` behind all else, and see it on the disk; or leave the file as it was."""
        try:
            _write(self.descriptor, data)
            os.fsync(self.descriptor)
        except OSError:
            with suppress(OSError):  # whoever opens the file next cuts off what is not whole
                os.ftruncate(self.descriptor, self.size)
                os.fsync(self.descriptor)
            raise
        self.size += len(data)
        self._day = day_of(time.time())

    def _rotate(self) -> None:
        """Number the file that is written, and begin another, which says where the chains begin."""
        numbered = next_part(self.path, [*self.parts])
        with self.beside(_NEXT) as fresh:
            fresh.write(b"".join((HEAD, *[line_of(said) for said in where_chains_begin(self.trails)])))
            os.fsync(fresh.descriptor)
            os.link(self.path, numbered)
            try:
                _sync_directory(self.path)  # else a power cut may keep the next step without this one
                fresh.path.replace(self.path)
            except BaseException:  # whatever it is, the file has one name again
                numbered.unlink()
                raise
            self._change_over(fresh, (*self.parts, numbered))
        _sync_directory(self.path)

    def _new(self, one: Asked, staged: dict[tuple[str, str, int], bytes]) -> list[AuditRecord]:
        """Those of the records that are not there yet. Raises: ValueError if one is, as another."""
        index = self.trails.get(one.trail) or Index()
        new: dict[tuple[str, int], AuditRecord] = {}
        for record in one.records:
            chain, place = index.chain(record.writer), (record.writer, record.seq)
            there = new.get(place)
            found = (
                mark(there.hash)
                if there is not None
                else staged.get((one.trail, *place)) or chain.find(record.seq)
            )
            if found is not None and found != mark(record.hash):
                raise ValueError(
                    f"record {record.seq} of writer {record.writer!r} is there, and is another one"
                )
            if found is None and record.seq > chain.anchor.seq:
                new[place] = record
        return [*new.values()]

    def _check_writable(self) -> None:
        if self.read_only:
            raise ConfigError(f"{self.path} was opened to be read only")

    # ------------------------------------------------------------ reading and replacing

    def view(self) -> View:
        """The files as they are now."""
        with self.lock:
            begins = {
                (name, writer): chain.anchor.seq
                for name, index in [*self.trails.items()]
                for writer, chain in [*index.chains.items()]
                if chain.anchor.seq
            }
            return View(self.parts, os.dup(self.descriptor), self.size, begins)

    @contextmanager
    def beside(self, suffix: str) -> Iterator[Beside]:
        """An empty file beside the one that is written, locked; gone again if it does not take its place."""
        self._check_writable()
        path = self.path.with_name(self.path.name + suffix)
        path.unlink(missing_ok=True)
        fresh = Beside(path, _locked(path))
        try:
            yield fresh
        finally:
            if fresh.descriptor >= 0:
                os.close(fresh.descriptor)
                path.unlink(missing_ok=True)

    def replace(self, fresh: Beside) -> None:
        """Put `fresh` in the place of the only file, as a whole or not at all."""
        os.fsync(fresh.descriptor)
        fresh.path.replace(self.path)
        self._change_over(fresh, self.parts)
        _sync_directory(self.path)

    def _change_over(self, fresh: Beside, parts: tuple[Path, ...]) -> None:
        with self.lock:
            old, self.descriptor, self.size = self.descriptor, fresh.descriptor, fresh.size
            self.parts, self._filled, fresh.descriptor = parts, fresh.filled, -1
        os.close(old)

    def say(self, lines: bytes) -> None:
        """Write what is no record."""
        self._check_writable()
        self._put(lines)

    def drop(self, gone: Collection[Path]) -> None:
        """Delete the parts that are `gone`. What a crash leaves goes when records are dropped again."""
        with self.lock:
            self.parts = tuple([part for part in self.parts if part not in gone])
        for part in gone:
            part.unlink()
        _sync_directory(self.path)


def closed(path: Path) -> StoreUnavailable:
    """The error for who has begun something, and finds that nobody has the file open any more."""
    return StoreUnavailable(f"{path}: the file was closed meanwhile")


def _locked(path: Path) -> int:
    """A descriptor of the file, made if it is not there, that only this process holds."""
    try:
        import fcntl  # noqa: PLC0415  not on Windows
    except ImportError:
        raise ConfigError("file:// needs advisory locks, which this system lacks; use sqlite://") from None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor  # else it was replaced between opening and locking
        except BlockingIOError:
            os.close(descriptor)
            raise StoreUnavailable(
                f"{path}: another process writes to it; one file is for one process"
            ) from None
        except BaseException:  # whatever it is, the descriptor is closed
            os.close(descriptor)
            raise
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
