"""The file itself: one process appends to it, and what `append` has returned from is on the disk.

Whoever writes holds a lock (``flock``) on the file. Lines are appended in one write, and synced together
with those of all who asked meanwhile. A last line that a crash has cut is cut off, and reported, when the
file is opened; anything else that is not as it was written is `StoreDamaged`, and nothing is changed then.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from llmpipe.errors import ConfigError, StoreDamaged, StoreUnavailable
from llmpipe.state.contracts.audit import Anchor, AuditRecord
from llmpipe.state.files.index import Index, mark
from llmpipe.state.files.lines import (
    HEAD,
    VERSION,
    Unreadable,
    read_line,
    read_record,
    record_line,
    torn,
)

__all__ = ("Asked", "Journal", "lines_in", "take")

_CHUNK = 1 << 20

log = logging.getLogger("llmpipe")


@define(eq=False)
class Asked:
    """Records of one trail that somebody wants kept, and what has come of it."""

    trail: str
    records: Sequence[AuditRecord]
    done: Future[None] = field(factory=Future)


class Journal:
    """An open file, written by one thread at a time; its index may be read by any.

    Args: read_only takes no lock, and looks at the file as it is now, a last line that is not whole left out.
    Raises: StoreUnavailable if another process writes to the file, or the disk fails; StoreDamaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self.trails: dict[str, Index] = {}
        self.lock = threading.Lock()  # of the file as it is replaced
        self._last = ""  # the record that was read last, for errors
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if read_only else _locked(path)
        try:
            self.size = self._read()
        except BaseException:  # whatever it is, the lock is given back
            os.close(self.descriptor)
            raise

    def _read(self) -> int:
        """Make the index; the file's size when what a crash has left at its end is cut off."""
        whole = os.fstat(self.descriptor).st_size
        place = 0
        for number, (line, ended) in enumerate(lines_in(self.descriptor, whole), 1):
            if not ended:
                if not (torn(line) if place else HEAD.startswith(line)):
                    raise self.damaged(number, "was changed where it ended")
                if not self.read_only:
                    log.warning(
                        "%s: the last line was cut by a crash; %d bytes are cut off", self.path, len(line)
                    )
                    os.ftruncate(self.descriptor, place)
                    os.fsync(self.descriptor)
                break
            try:
                record = take(self.trails, line, number)
            except Unreadable as error:
                raise self.damaged(number, str(error)) from None
            if record is not None:
                self._last = f", behind record {record.seq} of {record.writer!r},"
            place += len(line) + 1
        if not place and not self.read_only:
            _write(self.descriptor, HEAD)
            os.fsync(self.descriptor)
            _sync_directory(self.path)
            place = len(HEAD)
        return place

    def damaged(self, number: int, why: str) -> StoreDamaged:
        """The error for a line that is not as it was written."""
        return StoreDamaged(
            f"{self.path}: line {number}{self._last} {why}. Nothing was changed. Put a backup in its place, "
            "or move it away to begin with an empty one"
        )

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

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
                one.done.set_exception(error)
                continue
            staged.update({(one.trail, each.writer, each.seq): mark(each.hash) for each in new})
            good.append((one, new))
        if lines:
            data = b"".join(lines)
            try:
                _write(self.descriptor, data)
                os.fsync(self.descriptor)
            except OSError:
                with suppress(OSError):  # whoever opens the file next cuts off what is not whole
                    os.ftruncate(self.descriptor, self.size)
                    os.fsync(self.descriptor)
                raise
            self.size += len(data)
        for one, new in good:
            index = self.trails.setdefault(one.trail, Index())
            for record in new:
                index.add(record)
        for one, _ in good:
            one.done.set_result(None)

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

    def snapshot(self) -> tuple[int, int]:
        """A descriptor of the file as it is, which whoever asks closes, and its size."""
        with self.lock:
            return os.dup(self.descriptor), self.size

    def replace(self, write: Callable[[Callable[[bytes], None]], dict[str, Index]]) -> None:
        """Put another file in its place, as a whole or not at all: `write` gives its lines and its index."""
        self._check_writable()
        beside = self.path.with_name(self.path.name + ".new")
        beside.unlink(missing_ok=True)
        fresh = _locked(beside)
        try:
            parts: list[bytes] = []
            size = 0

            def put(line: bytes) -> None:
                nonlocal size
                parts.append(line)
                size += len(line)
                if len(parts) >= 1000:
                    _write(fresh, b"".join(parts))
                    parts.clear()

            put(HEAD)
            trails = write(put)
            _write(fresh, b"".join(parts))
            os.fsync(fresh)
            beside.replace(self.path)
        except BaseException:  # whatever it is, what was there stays
            os.close(fresh)
            beside.unlink(missing_ok=True)
            raise
        with self.lock:
            old, self.descriptor, self.size, self.trails = self.descriptor, fresh, size, trails
        os.close(old)
        _sync_directory(self.path)


def take(trails: dict[str, Index], line: bytes, number: int) -> AuditRecord | None:
    """Enter what a line says; the record that it is.

    Raises: Unreadable; StoreDamaged for a file of a newer version.
    """
    said = read_line(line)
    if number == 1:
        if said.get("llmpipe") != "audit" or "version" not in said:
            raise Unreadable("does not say that this is an audit trail")
        if said["version"] != VERSION:
            raise StoreDamaged(f"an audit trail of version {said['version']}; this reads version {VERSION}")
        return None
    try:
        index = trails.setdefault(said["trail"], Index())
        if "record" in said:
            record = read_record(said)
            index.add(record)
            return record
        if "anchor" in said:
            writer, seq, hash_ = said["anchor"]
            index.begin_at(writer, Anchor(seq, hash_))
        else:
            index.over.update(said["ended"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"says nothing that is known: {error}") from None
    return None


def lines_in(descriptor: int, size: int) -> Iterator[tuple[bytes, bool]]:
    """The lines of the first `size` bytes, without their ends, and whether they had one."""
    rest, place = b"", 0
    while place < size:
        chunk = os.pread(descriptor, min(_CHUNK, size - place), place)
        if not chunk:
            break
        place += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line, True
    if rest:
        yield rest, False


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
