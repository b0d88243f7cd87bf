"""JSON lines: bytes to lines, however the bytes are cut."""

from __future__ import annotations

from llmpipe.errors import BadReply

__all__ = ("LineParser",)


class LineParser:
    """One stream's bytes to its lines; those that are empty are left out.

    Args: max_line_bytes bounds the one line that is held at a time.
    """

    __slots__ = ("_error", "_line", "_max")

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._line = bytearray()  # the line that has not ended yet
        self._error: BadReply | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes.

        Raises: BadReply if a line is larger than the limit; lines before it are returned first, and the
        error then comes from the next `feed` or `close`.
        """
        if self._error is not None:
            raise self._error
        head, found, tail = data.rpartition(b"\n")
        lines: list[bytes] = []
        if found:
            lines = (bytes(self._line) + head).split(b"\n")
            self._line[:] = tail
        else:
            self._line += data
        sizes = [len(line) for line in lines]
        if len(self._line) > self._max or (sizes and max(sizes) > self._max):
            self._error = BadReply(
                f"a line of the stream is larger than the limit of {self._max} bytes",
                code="event_too_large",
                phase="stream",
            )
            lines = lines[: next((i for i, size in enumerate(sizes) if size > self._max), len(lines))]
            if not lines:
                raise self._error
        return [line for line in lines if line.strip()]

    def close(self) -> bytes:
        """The last line, which no line end followed; it may have been cut short."""
        if self._error is not None:
            raise self._error
        return bytes(self._line).strip()
