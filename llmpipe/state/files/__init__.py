"""The backend ``file://``: an audit trail as lines of JSON, for one process."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.secret import scrub
from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.state import Backend
from llmpipe.state.files.audit import FileAudit
from llmpipe.state.files.engine import engine_of
from llmpipe.state.files.parts import Rotation
from llmpipe.state.url import flag, number, one_of, options

__all__ = ("FileState", "open_files")

_OF = "a trail in files"
_TIMEOUT = 5.0
_PATIENCE = 600.0  # seconds for what reads or rewrites the whole file


class FileState(Backend):
    """A file, and how long an operation may take, seconds. Opened, and locked, on first use.

    With `read_only` it is not locked, so that a trail can be looked at while its process writes: as
    it is when it is opened.

    With a `rotation` there are older files beside it, numbered ``.000001`` and so on: see `parts`.

    Attributes:
        ahead: seconds by which its clock is taken to be later than it is; for tests.
        patience: seconds for a query and for pruning, which read all of the files.
    """

    scheme: ClassVar[str] = "file"
    offers: ClassVar[frozenset[str]] = frozenset({"audit"})

    def __init__(
        self,
        path: Path,
        timeout: float = _TIMEOUT,
        *,
        read_only: bool = False,
        rotation: Rotation | None = None,
    ) -> None:
        self.path, self.timeout, self.patience = path, timeout, max(timeout, _PATIENCE)
        self.ahead = 0.0
        self.engine = engine_of(path, read_only=read_only, rotation=rotation)

    def __repr__(self) -> str:
        return f"FileState({str(self.path)!r})"

    def audit(self, name: str) -> Audit:
        """The audit trail called `name`."""
        return FileAudit(self, name)

    async def check(self) -> None:
        """Open the file, which reads all of it.

        Raises: StoreUnavailable if another process writes to it; StoreDamaged.
        """
        self.engine.use(self)
        await self.engine.journal(self.patience)

    async def aclose(self) -> None:
        """Write what was asked, and let go of the file. Whoever asks again opens it again."""
        await self.engine.release(self)


def open_files(url: str) -> FileState:
    """The backend of ``file:///path/to/audit.jsonl``, absolute.

    Settings: timeout (5 seconds), read_only (``false``), rotate_mb (a file of that many MiB is full) and
    rotate (``day``: each day of UTC has a file of its own); see `parts`.

    Raises: ConfigError for another form, an unknown setting, a directory that is not there, and a path
    that is no file.
    """
    rest, _, query = url.removeprefix("file://").partition("?")
    name = unquote(rest)
    if not name.startswith("/") or name.endswith("/") or "\0" in name:
        raise ConfigError(
            f"{scrub(url)!r} names no file: write file:///var/log/audit.jsonl, with the absolute path"
        )
    settings = _settings(query)
    try:
        path = Path(name).resolve()
        if not path.parent.is_dir():
            raise ConfigError(f"the directory {path.parent} is not there; make it first, or name another")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no plain file")
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise ConfigError(f"{scrub(name)} cannot be looked at: {error}") from None
    return FileState(path, settings.timeout, read_only=settings.read_only, rotation=settings.rotation)


@frozen
class _Settings:
    timeout: float
    read_only: bool
    rotation: Rotation | None


def _settings(query: str) -> _Settings:
    told = options(query, ("read_only", "rotate", "rotate_mb", "timeout"), of=_OF)
    timeout = number("timeout", told["timeout"], 0.01, 3600.0, of=_OF) if "timeout" in told else _TIMEOUT
    daily = "rotate" in told and one_of("rotate", told["rotate"], ("day",), of=_OF) == "day"
    max_bytes = 0
    if "rotate_mb" in told:
        max_bytes = int(number("rotate_mb", told["rotate_mb"], 0.001, 1e6, of=_OF) * 2**20)
    rotation = Rotation(max_bytes=max_bytes, daily=daily) if max_bytes or daily else None
    return _Settings(timeout, flag("read_only", told.get("read_only", "false"), of=_OF), rotation)
