"""Decompression under our own cap."""

from __future__ import annotations

import zlib

from llmpipe.errors import BadReply, StreamBroken

__all__ = ("Inflate",)

_STEP = 256 * 1024  # bytes that one turn of the inner loop may give
_MAX_RATIO = 200  # text reaches 20, very repetitive JSON 100; a bomb has 1000
_FREE_BYTES = 1024 * 1024  # so much may come of any ratio


class Inflate:
    """Incremental gzip, bounded in bytes and in ratio.

    aiohttp's own was a zip bomb until 3.13.2 (CVE-2025-69223), so it is switched off.

    Raises: BadReply for an encoding we did not ask for, broken data, something after its end, more than
    `max_bytes`, or more than 200 times of what came.
    """

    __slots__ = ("_came", "_gave", "_max_bytes", "_stream")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        if encoding.strip().lower() not in ("gzip", "x-gzip"):
            raise BadReply(
                f"the reply has content-encoding {encoding[:40]!r}, which was not asked for", phase="headers"
            )
        self._stream = zlib.decompressobj(wbits=31)
        self._came = self._gave = 0
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> bytes:
        """The plain bytes that `data` completes."""
        self._came += len(data)
        plain = [self._step(data)] if data else []
        # A full step may have left more inside of zlib, although all of the data has gone in.
        while (rest := self._rest()) or (plain and len(plain[-1]) == _STEP and not self._stream.eof):
            plain.append(self._step(rest))
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def _rest(self) -> bytes:
        return self._stream.unused_data or self._stream.unconsumed_tail

    def _step(self, data: bytes) -> bytes:
        if self._stream.eof:
            raise BadReply("the reply goes on after the end of its gzip data", phase="body")
        try:
            plain = self._stream.decompress(data, _STEP)
        except zlib.error as error:
            raise BadReply(f"the reply's gzip data is broken: {error}", phase="body") from None
        self._gave += len(plain)
        if self._gave > self._max_bytes or self._gave > max(_FREE_BYTES, _MAX_RATIO * self._came):
            raise BadReply(
                f"{self._came} bytes of the reply decompress to more than {self._gave}: "
                f"too large, or a gzip bomb",
                code="reply_too_large",
                phase="body",
            )
        return plain

    def close(self) -> None:
        """The body is over. Raises StreamBroken if its gzip data is not."""
        if not self._stream.eof:
            raise StreamBroken("the reply's gzip data ended too early", code="truncated", phase="body")
