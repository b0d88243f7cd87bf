"""A full reply where a stream was asked for: some servers know no streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmpipe.dialects.jsonbody import parse_object
from llmpipe.errors import BadReply
from llmpipe.types import Completion, Event, unfold

__all__ = ("WholeReplyDecoder", "is_json")


def is_json(content_type: str) -> bool:
    """Whether what was announced is one JSON body and no stream."""
    return content_type.partition(";")[0].strip().lower() == "application/json"


class WholeReplyDecoder:
    """One JSON body to the events of its reply, all of them at the end of the bytes.

    Args: decode is the dialect's `decode_reply`; max_bytes bounds the body.
    """

    __slots__ = ("_body", "_decode", "_max")

    def __init__(
        self, decode: Callable[[dict[str, Any], Mapping[str, str]], Completion], max_bytes: int
    ) -> None:
        self._body = bytearray()
        self._decode = decode
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
        return list(unfold(self._decode(parse_object(bytes(self._body), "the reply"), {})))
