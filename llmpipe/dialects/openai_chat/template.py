"""A shortcut for the chunks that differ from the one before in their text alone.

Nearly all chunks of a stream are the same bytes but for one JSON string, so most need no full
parse. It is exact: where a chunk is the same bytes around a hole, and what fills the hole is one
JSON string, its parse is the same tree with another string in that place. OpenAI and Mistral also
pad each chunk with a string of random length, which is a second hole. Measured with 64 KiB of
OpenAI's chunks: 1.5 times the cost of splitting and parsing them, events included, against 2.8
times without.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from llmpipe.dialects.sse import ServerSentEvent
from llmpipe.types import Event, ReasoningDelta, TextDelta

__all__ = ("Template",)

_loads = orjson.loads
# Possessive: a text of megabytes would leave a state behind for each of its bytes, half a second a MiB.
_HOLES = {
    TextDelta: ("content", re.compile(rb'"content": ?("(?:[^"\\]++|\\.)*+")')),
    ReasoningDelta: ("reasoning_content", re.compile(rb'"reasoning_content": ?("(?:[^"\\]++|\\.)*+")')),
}
_PADDING = re.compile(rb'"(obfuscation|p)": ?("[^"\\]*")')


class Template:
    """The bytes of one chunk around its text, and around its padding where it has some."""

    __slots__ = ("_end", "_head", "_index", "_kind", "_middle", "_start", "_stop")

    def __init__(
        self,
        kind: type[TextDelta | ReasoningDelta],
        index: int,
        head: bytes,
        middle: bytes | None,
        end: bytes,
    ) -> None:
        self._kind = kind
        self._index = index
        self._head = head
        self._middle = middle
        self._end = end
        self._start, self._stop = len(head), -len(end)

    @classmethod
    def of(cls, data: bytes, chunk: dict[str, Any], event: TextDelta | ReasoningDelta) -> Template | None:
        """The template of a chunk whose only meaning was `event`; None if its bytes do not show it.

        Args: chunk is the parse of `data`; it is changed here.
        """
        field, pattern = _HOLES[type(event)]
        hole = pattern.search(data)
        delta = chunk["choices"][0].get("delta")
        if hole is None or not isinstance(delta, dict) or delta.get(field) != event.text:
            return None
        head, end, middle = data[: hole.start(1)], data[hole.end(1) :], None
        probe = [head, b'"\\u0000"', end]
        delta[field] = "\0"
        padding = _PADDING.search(end)
        if padding is not None:
            middle, end = end[: padding.start(2)], end[padding.end(2) :]
            probe[2:] = [middle, b'"\\u0000"', end]
            chunk[padding[1].decode()] = "\0"
        try:
            same = _loads(b"".join(probe)) == chunk
        except orjson.JSONDecodeError:
            same = False
        return cls(type(event), event.index, head, middle, end) if same else None

    def read(self, chunks: Sequence[ServerSentEvent], place: int, events: list[Event]) -> int:
        """Add to `events` what the chunks from `place` on say, as long as they fit.

        Returns: the place of the first that does not fit; how many there are, if all of them do.
        """
        head, middle, end, start, stop = self._head, self._middle, self._end, self._start, self._stop
        kind, index = self._kind, self._index
        for name, data in chunks[place:] if place else chunks:
            if name is not None or data is None or not (data.startswith(head) and data.endswith(end)):
                break
            text = data[start:stop]
            try:
                if middle is not None:
                    text, found, padding = text.rpartition(middle)
                    if not found or type(_loads(padding)) is not str:
                        break
                value = _loads(text)
            except orjson.JSONDecodeError:
                break
            if not value or type(value) is not str:
                break
            events.append(kind(value, index))
            place += 1
        return place
