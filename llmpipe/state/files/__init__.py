"""The backend ``file://``: an audit trail as lines of JSON, for one process."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qsl, unquote

from llmpipe.errors import ConfigError
from llmpipe.secret import scrub
from llmpipe.state.contracts.audit import Audit
from llmpipe.state.contracts.state import Backend
from llmpipe.state.files.audit import FileAudit
from llmpipe.state.files.engine import engine_of

__all__ = ("FileState", "open_files")

_TIMEOUT = 5.0
_PATIENCE = 600.0  # seconds for what reads or rewrites the whole file


class FileState(Backend):
    """A file, and how long an operation may take, seconds. Opened, and locked, on first use.

    With `read_only` it is not locked, so that a trail can be looked at while its process writes: as
    it is when it is opened.

    Attributes:
        ahead: seconds by which its clock is taken to be later than it is; for tests.
        patience: seconds for a query and for pruning, which read all of the file.
    """

    scheme: ClassVar[str] = "file"
    offers: ClassVar[frozenset[str]] = frozenset({"audit"})

    def __init__(self, path: Path, timeout: float = _TIMEOUT, *, read_only: bool = False) -> None:
        self.path, self.timeout, self.patience = path, timeout, max(timeout, _PATIENCE)
        self.ahead = 0.0
        self.engine = engine_of(path, read_only=read_only)

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
    """The backend of ``file:///path/to/audit.jsonl``, absolute; ``?timeout=5&read_only=true`` may follow.

    Raises: ConfigError for another form, an unknown setting, a directory that is not there, and a path
    that is no file.
    """
    rest, _, query = url.removeprefix("file://").partition("?")
    name = unquote(rest)
    if not name.startswith("/") or name.endswith("/") or "\0" in name:
        raise ConfigError(
            f"{scrub(url)!r} names no file: write file:///var/log/audit.jsonl, with the absolute path"
        )
    timeout, read_only = _TIMEOUT, False
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "read_only" and value in ("true", "false"):
            read_only = value == "true"
            continue
        if key != "timeout":
            raise ConfigError(
                f"file:// has no setting {scrub(f'{key}={value}')!r}; it has timeout=5 and read_only=true"
            )
        try:
            timeout = float(value)
        except ValueError:
            timeout = 0.0
        if not 0 < timeout <= 3600:
            raise ConfigError(f"timeout is seconds above 0, up to 3600, not {scrub(value)!r}")
    try:
        path = Path(name).resolve()
        if not path.parent.is_dir():
            raise ConfigError(f"the directory {path.parent} is not there; make it first, or name another")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path} is no plain file")
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise ConfigError(f"{scrub(name)} cannot be looked at: {error}") from None
    return FileState(path, timeout, read_only=read_only)
