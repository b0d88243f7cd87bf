"""The file of answers, and that of failures beside it: lines in the form of OpenAI's batches.

``answers.jsonl`` gets a line for each request that was answered, ``answers.errors.jsonl`` one for each that
was not. What a line says stays said: lines are appended whole, and what a crash leaves of one is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson

from llmpipe.errors import ConfigError, StoreUnavailable

__all__ = ("Again", "Results", "errors_of", "merge")

_BEGIN = b'{"id":'  # of each line that is written here
Again = Literal["retryable", "failed", "none"]
"""Which failures of an earlier run are tried again: those that may pass, all of them, or none."""


class Results:
    """Both files, held by this process until it leaves the block.

    Attributes: known is the ids of what needs no more asking.

    Raises: ConfigError for a file that holds something else; StoreUnavailable where another process
    writes to it, and where the disk does not take it.
    """

    def __init__(self, path: Path, again: Again) -> None:
        self._path = path
        self._again = again
        self._files: list[int] = []
        self._lost: OSError | None = None
        self.known: set[str] = set()

    def __enter__(self) -> Results:
        try:
            self._files.append(_locked(self._path))
            self.known = {line["custom_id"] for line in _lines(self._path, torn=True)}
            _cut(self._path, self._files[0], ours=bool(self.known))
            self._open_errors()
        except BaseException as error:  # whatever it is goes on; the files must not stay open
            self._close()
            if isinstance(
                error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError
            ):
                raise ConfigError(f"{error.filename or self._path}: {error.strerror}") from None
            if isinstance(error, OSError):
                raise _unavailable(self._path, error) from None
            raise
        return self

    def _open_errors(self) -> None:
        """Keep those failures that are not to be tried again: written anew, for they may be fewer."""
        path = errors_of(self._path)
        kept = []
        if path.exists() and self._again != "failed":
            kept = [line for line in _lines(path, torn=True) if self._stays(line)]
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            file.write(b"".join([orjson.dumps(line) + b"\n" for line in kept]))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._files.append(os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)))
        self.known |= {line["custom_id"] for line in kept}

    def _stays(self, line: dict[str, Any]) -> bool:
        if line["custom_id"] in self.known:
            return False  # it was answered since
        return self._again == "none" or not (line.get("error") or {}).get("retryable")

    def add(self, line: dict[str, Any]) -> None:
        """Keep an answer. Raises: StoreUnavailable where the disk does not take it."""
        self._append(0, line)

    def fail(self, line: dict[str, Any]) -> None:
        """Keep a failure. Raises: as `add`."""
        self._append(1, line)

    def _append(self, which: int, line: dict[str, Any]) -> None:
        view = memoryview(orjson.dumps(line) + b"\n")
        self._check()  # half a line may stand there, which another must not run on
        try:
            while view:
                view = view[os.write(self._files[which], view) :]
        except OSError as error:
            self._lost = error
            raise _unavailable(self._path, error) from None

    def sync(self) -> None:
        """Have all of it on the disk. Blocks. Raises: as `add`, and again each time after the first."""
        self._check()  # what a disk has lost it tells once, and the next fsync is a success
        try:
            for file in self._files:
                os.fsync(file)
        except OSError as error:
            self._lost = error
            raise _unavailable(self._path, error) from None

    def _check(self) -> None:
        if self._lost is not None:
            raise _unavailable(self._path, self._lost)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
            if not os.fstat(self._files[1]).st_size:
                errors_of(self._path).unlink(missing_ok=True)
        finally:
            self._close()

    def _close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def errors_of(path: Path) -> Path:
    """The file of failures beside that of answers."""
    return path.with_name(f"{path.stem}.errors{path.suffix}")


def merge(results: str | Path, parts: Sequence[str | Path]) -> int:
    """Make one file of answers of those of all shards, and one of their failures; how many answers it has.

    The files appear whole or not at all. The parts are left where they are.

    Raises: ConfigError for a part that is not there, or holds something else.
    """
    path, count = Path(results), 0
    answers = [Path(part) for part in parts]
    failures = [found for part in answers if (found := errors_of(part)).exists()]
    for target, sources in ((path, answers), (errors_of(path), failures)):
        if target is not path and not sources:
            target.unlink(missing_ok=True)
            continue
        fresh = target.with_name(target.name + ".new")
        try:
            with fresh.open("wb") as file:
                for source in sources:
                    for line in _lines(source, torn=True):
                        file.write(orjson.dumps(line) + b"\n")
                        count += target is path
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except OSError as error:
            raise ConfigError(f"{error.filename or target}: {error.strerror}") from None
        finally:
            fresh.unlink(missing_ok=True)
    return count


def _lines(path: Path, *, torn: bool = False) -> Iterator[dict[str, Any]]:
    """The lines of a file of ours; `torn` says that the last may be the beginning of one."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if torn and not text.endswith(b"\n"):
                return
            try:
                line = orjson.loads(text)
                if isinstance(line["custom_id"], str) and "response" in line:
                    yield line
                    continue
            except (orjson.JSONDecodeError, KeyError, TypeError):
                pass
            raise ConfigError(f"{path}: line {number} is no answer of a bulk job; name another file")


def _cut(path: Path, descriptor: int, *, ours: bool) -> None:
    """Cut off what a crash has left of a last line; `ours` says that there are whole ones.

    Raises: ConfigError where there are none, and it is no beginning of one either.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        for block in _blocks_backwards(file, end):
            start, data = block
            at = data.rfind(b"\n")
            whole = start + at + 1 if at >= 0 else start
            if at >= 0:
                break
        file.seek(whole)
        begin = file.read(len(_BEGIN))
    if whole < end and not ours and begin != _BEGIN[: len(begin)]:
        raise ConfigError(f"{path}: line 1 is no answer of a bulk job; name another file")
    if whole < end:
        os.ftruncate(descriptor, whole)


def _blocks_backwards(file: Any, end: int) -> Iterable[tuple[int, bytes]]:
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        yield start, file.read(end - start)
        end = start


def _locked(path: Path) -> int:
    """A descriptor to append to the file by, made if it is not there, that only this process has."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        import fcntl  # noqa: PLC0415  not on Windows, where nobody looks after that

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ModuleNotFoundError:
        pass
    except BlockingIOError:
        os.close(descriptor)
        raise StoreUnavailable(
            f"{path}: another run writes to it; wait for its end, or name another file"
        ) from None
    return descriptor


def _unavailable(path: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"{error.filename or path}: {error.strerror or error}")
