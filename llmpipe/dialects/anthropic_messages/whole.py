"""A full reply where a stream was asked for: some compatible servers know no streams."""

from __future__ import annotations

from llmpipe.dialects.anthropic_messages.reply import decode_reply
from llmpipe.dialects.jsonbody import parse_object
from llmpipe.errors import BadReply
from llmpipe.types import Event, unfold

__all__ = ("WholeReplyDecoder",)


class WholeReplyDecoder:
    """One JSON body to the events of its reply, all of them at the end of the bytes."""

    __slots__ = ("_body", "_max")

    def __init__(self, max_bytes: int) -> None:
        self._body = bytearray()
        self._max = max_bytes

    @property
    def finished(self) -> bool:
        """False: only the end of the bytes ends a body."""
        return False

    def feed(self, data: bytes) -> list[Event]:
        """Nothing yet. Raises: BadReply if the body is larger than the limit."""
        self._body += data
        if len(self._body) > self._max:
            raise BadReply(
                f"the reply is larger than the limit of {self._max} bytes",
                code="reply_too_large",
                phase="body",
            )
        return []

    def close(self) -> list[Event]:
        """All events of the reply. Raises: as `decode_reply`, and BadReply if it is not JSON."""
        return list(unfold(decode_reply(parse_object(bytes(self._body), "the reply"), {})))
