"""One response whose head is in, and its body as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from llmpipe.errors import BadReply, LLMError
from llmpipe.providers.failures import BROKEN, broken_body
from llmpipe.providers.inflate import Inflate
from llmpipe.providers.lines import Line
from llmpipe.runtime import Alarm

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from llmpipe.providers.slots import Slots

__all__ = ("Carrier", "Exchange")

_REFUSAL_BYTES = 64 * 1024
_REFUSAL_SECONDS = 2.0
# For the last chunk of a body whose protocol has already ended. A reader waits for it, and a new
# connection costs less than that.
_LAST_CHUNK_SECONDS = 0.25
_LAST_CHUNK_BYTES = 64 * 1024


class Carrier(Protocol):
    """What an exchange travels on: a line, or aiohttp's response."""

    def release(self) -> object:
        """Back into the pool, if the framing is not in doubt."""
        ...

    def close(self) -> object:
        """Hang up."""
        ...


class Exchange:
    """Read it with `read`, or whole with `body`; end it with `finish`, `release` or `drop`.

    Attributes:
        status: of HTTP.
        headers: of the response, found in any case.
    """

    __slots__ = ("_carrier", "_content", "_encoding", "_inflate", "_max_bytes", "_slots", "headers", "status")

    def __init__(  # noqa: PLR0917  keywords cost half a microsecond, and one caller is all there is
        self,
        carrier: Carrier,
        status: int,
        headers: Mapping[str, str],
        content: StreamReader,
        slots: Slots,
        max_bytes: int,
    ) -> None:
        self._carrier = carrier
        self.status = status
        self.headers = headers
        self._content = content
        self._slots: Slots | None = slots
        slots.held.add(carrier)
        self._max_bytes = max_bytes
        encoding = headers.get("Content-Encoding") or ""
        self._encoding = "" if encoding and encoding.strip().lower() == "identity" else encoding
        self._inflate: Inflate | None = None

    @property
    def content_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read(self) -> bytes:
        """The next bytes of the body, decompressed; empty at its end.

        Raises: StreamBroken if the connection ended before the body did, after everything that had
        come of it; BadReply for a bomb.
        """
        if self._encoding and self._inflate is None:
            self._inflate = Inflate(self._encoding, self._max_bytes)
        while True:
            data = await self._came()
            if self._inflate is None:
                return data
            if not data:
                self._inflate.close()
                return b""
            if plain := self._inflate.feed(data):
                return plain

    async def _came(self) -> bytes:
        """The next bytes as they are on the wire."""
        content = self._content
        try:
            return await content.readany()
        except BROKEN as error:
            problem = broken_body(error)
            _forget_frames(error)
        # What had come before it broke: `readany` gives none of it any more, and nothing public does.
        if getattr(content, "_buffer", None) and hasattr(content, "_read_nowait"):
            return content._read_nowait(-1)
        raise problem

    async def body(self) -> bytes:
        """The rest of the body; the exchange is released.

        Raises: as `read`; BadReply if it is larger than the limit.
        """
        content = self._content
        if not self._encoding and content.is_eof() and content.total_bytes <= self._max_bytes:
            # All of it came with the head.
            if type(self._carrier) is Line:
                # `read_nowait` without what that does to go on reading: a fifth of aiohttp's work.
                data = b"".join(content._buffer)
                content._buffer.clear()
            else:
                data = content.read_nowait()
            self.release()
            return data
        chunks: list[bytes] = []
        size = 0
        while data := await self.read():
            chunks.append(data)
            size += len(data)
            if size > self._max_bytes:
                raise BadReply(
                    f"the reply is larger than {self._max_bytes} bytes", code="reply_too_large", phase="body"
                )
        self.release()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def refusal(self) -> bytes:
        """What an error response says: at most 64 KiB, and what comes within two seconds. Never raises."""
        chunks: list[bytes] = []
        size = 0
        try:
            with Alarm(asyncio.get_running_loop().time() + _REFUSAL_SECONDS, TimeoutError):
                while size < _REFUSAL_BYTES and (data := await self.read()):
                    chunks.append(data)
                    size += len(data)
        except (LLMError, TimeoutError):
            pass  # the status speaks for itself
        self.release()  # which closes the connection where the body has not ended
        return b"".join(chunks)[:_REFUSAL_BYTES]

    async def finish(self) -> None:
        """The protocol has ended: keep the connection if the body soon ends too, else drop it."""
        content, left = self._content, _LAST_CHUNK_BYTES
        if not content.at_eof():
            try:
                with Alarm(asyncio.get_running_loop().time() + _LAST_CHUNK_SECONDS, TimeoutError):
                    while left > 0 and (data := await content.readany()):
                        left -= len(data)
            except BROKEN:
                pass  # all that was said had been said
        self.release()

    def release(self) -> None:
        """Give the connection back. If its body has not been read to the end, it is closed."""
        slots = self._slots
        if slots is not None:  # else it carries somebody else's exchange by now
            self._slots = None
            slots.held.discard(self._carrier)
            slots.release()
            self._carrier.release()

    def drop(self) -> None:
        """Close the connection: its framing is in doubt, or nobody wants the rest."""
        slots = self._slots
        if slots is not None:
            self._slots = None
            slots.held.discard(self._carrier)
            slots.release()
            self._carrier.close()


def _forget_frames(error: BaseException | None) -> None:
    """Cut `error` from where it was raised, and what it came from as well.

    The reader keeps it, and whoever keeps our own error keeps the reader. It was raised in a callback of
    the loop, so its frames lead to the loop's, and to what other calls had in hand at that moment: a reply
    that somebody dropped would not be collected, nor what it holds be given back.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
