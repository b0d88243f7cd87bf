r"""Log records as lines of JSON, written by a thread of their own.

A line is one JSON object whatever is in it: line breaks, escape sequences, direction overrides
and halves of surrogate pairs come out as ``\u`` escapes, so that nothing a caller or a model says
can begin a new line, colour a terminal or reorder what a person reads.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from logging.handlers import TimedRotatingFileHandler
from math import isfinite
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import orjson

from llmpipe.errors import ConfigError
from llmpipe.secret import scrub

__all__ = ("BackgroundHandler", "JSONFormatter", "json_line", "json_logging", "printable")

# What every record has; the rest of its attributes was given with `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "llmpipe"}
_MAX_TEXT = 100_000


class JSONFormatter(logging.Formatter):
    """A record as one line of JSON: time (UTC, ISO 8601), level, logger, message, and what came with it.

    The fields of a call (see `Log`) and those given with ``extra=`` stand beside these four.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": scrub(record.getMessage(), max_chars=_MAX_TEXT),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and key not in line:
                line[key] = value
        line.update(getattr(record, "llmpipe", ()))
        if record.exc_info:
            line["exception"] = scrub(self.formatException(record.exc_info), max_chars=_MAX_TEXT)
        return json_line(line)


def json_line(value: Any) -> str:
    """`value` as JSON without a line break or any other character that does not print.

    What JSON does not know is written as text; a broken string as its escapes.
    """
    try:
        text = orjson.dumps(value, default=_as_text, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # half a surrogate pair, or an integer beyond 64 bits
        text = json.dumps(_finite(value), default=_as_text, skipkeys=True)
    return text if text.isprintable() else printable(text)


def _finite(value: Any) -> Any:
    """`value` with null for each number that JSON has not, as orjson writes them."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def printable(text: str) -> str:
    """`text` with a JSON escape in place of every character that does not print."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def _as_text(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return scrub(repr(value))


class BackgroundHandler(logging.Handler):
    """Hands records to another handler in a thread, so that a slow disk or pipe delays no call.

    A full queue drops the record and counts it. Closing writes what is queued, for `timeout` seconds
    at most, and closes the other handler.

    Attributes:
        dropped: records that found the queue full.
        failed: records the other handler could not write.
    """

    def __init__(self, target: logging.Handler, *, max_records: int = 10_000, timeout: float = 5.0) -> None:
        super().__init__(target.level)
        if max_records < 1:
            raise ConfigError(f"max_records must be at least 1, not {max_records}")
        self.target = target
        self.dropped = 0
        self.failed = 0
        self._max_records = max_records
        self._timeout = timeout
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="llmpipe-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record."""
        if self._queue.qsize() >= self._max_records:
            self.dropped += 1
        else:
            self._queue.put(record)

    def close(self) -> None:
        """Write what is queued, then close the target."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(self._timeout)
        if not self._thread.is_alive():  # one that hangs is left to its thread
            self.target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self.target.handle(record)
            except Exception:  # noqa: BLE001  a sink that fails must not end the thread; it is counted
                self.failed += 1


class _Counting(logging.StreamHandler[Any]):
    """Raises what writing raises, for the handler outside to count."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        raise  # noqa: PLE0704  `emit` calls this in its except clause


class _CountingFile(TimedRotatingFileHandler):
    handleError = _Counting.handleError  # noqa: N815  logging's own name


def json_logging(
    *,
    level: str = "INFO",
    path: str | Path | None = None,
    stream: TextIO | None = None,
    retention_days: int = 30,
    logger: str = "llmpipe",
) -> BackgroundHandler:
    """Write what `logger` and those below it log as lines of JSON, in the background.

    Args:
        path: a file; a new one is begun at midnight UTC, and those older than `retention_days` are deleted.
        stream: where there is no path; standard error by default.

    Returns: the handler, whose `close` writes what is queued. Raises: ConfigError for an unknown level.
    """
    if not isinstance(logging.getLevelName(level), int):
        raise ConfigError(f"unknown log level {level!r}; there are DEBUG, INFO, WARNING, ERROR, CRITICAL")
    target: logging.Handler
    if path is not None:
        target = _CountingFile(
            path, when="midnight", backupCount=retention_days, utc=True, encoding="utf-8", delay=True
        )
    else:
        target = _Counting(stream or sys.stderr)
    target.setFormatter(JSONFormatter())
    handler = BackgroundHandler(target)
    found = logging.getLogger(logger)
    found.addHandler(handler)
    found.setLevel(level)
    return handler
