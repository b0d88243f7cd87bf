"""A stream that is one JSON array: its elements, one by one as they come.

The whole of it is scanned once, in linear time however it is cut; each element is left to a parser.
"""

from __future__ import annotations

import re

from llmpipe.dialects.jsonbody import excerpt
from llmpipe.errors import BadReply

__all__ = ("ArraySplitter",)

# A whole string at once; where its end is still to come, the quote that opens it.
_OUTSIDE = re.compile(rb'[{}\[\]]|"(?:(?:[^"\\]++|\\.)*+")?', re.DOTALL)
_INSIDE = re.compile(rb'["\\]')
_SOMETHING = re.compile(rb"[^, \t\r\n]")
_BOM = b"\xef\xbb\xbf"


class ArraySplitter:
    """Bytes to the bytes of each element of a JSON array of objects.

    A body that is one object, no array, gives that object: errors come so. `closed` is whether the
    array's ``]`` was seen, or the lone object's ``}``; `lone` tells which.

    Args: max_bytes bounds one element.
    """

    __slots__ = ("_depth", "_held", "_in_string", "_max", "_position", "closed", "lone")

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._held = bytearray()  # from the start of the element under way
        self._position = 0  # in it: all before was scanned
        self._depth = -1  # of brackets; -1 before the array's own, 0 between elements
        self._in_string = False
        self.closed = False
        self.lone = False

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that `data` completes.

        Raises: BadReply for what is no array of objects, or an element over the limit.
        """
        found: list[bytes] = []
        held = self._held
        held += data
        while not self.closed:
            if self._depth <= 0:
                if not self._between():
                    break
            elif not self._within(found):
                break
        if len(held) > self._max and not self.closed:
            raise BadReply(
                f"an element of the stream is larger than the limit of {self._max} bytes",
                code="event_too_large",
                phase="stream",
            )
        return found

    def _between(self) -> bool:
        """Go on to the next element, or to the end; False where more bytes are needed."""
        held = self._held
        if self._depth < 0 and len(held) < len(_BOM) and _BOM.startswith(bytes(held)):
            return False
        if self._depth < 0 and held.startswith(_BOM):
            del held[: len(_BOM)]
        match = _SOMETHING.search(held)
        skipped = len(held) if match is None else match.start()
        del match  # it holds the buffer, which could not shrink
        del held[:skipped]
        if not held:
            return False
        first = held[:1]
        if first == b"{":
            self.lone = self._depth < 0
            self._depth, self._position = 1, 1
        elif first == b"[" and self._depth < 0:
            self._depth = 0
            del held[:1]
        elif first == b"]" and self._depth == 0:
            self.closed = True
        else:
            raise BadReply(
                f"the stream is no JSON array of objects; here it has {excerpt(bytes(held))!r}",
                code="chunk_not_json",
                phase="stream",
            )
        return True

    def _within(self, found: list[bytes]) -> bool:
        """Go on to the end of the element; False where more bytes are needed."""
        held, position = self._held, self._position
        while True:
            match = (_INSIDE if self._in_string else _OUTSIDE).search(held, position)
            if match is None:
                self._position = len(held)
                return False
            position = match.end()
            token = match[0]
            if token == b"\\":
                if position == len(held):  # what it escapes is still to come
                    self._position = match.start()
                    return False
                position += 1
            elif token == b'"':
                self._in_string = not self._in_string
            elif len(token) > 1:
                continue
            elif token in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    break
        found.append(bytes(held[:position]))
        del match
        del held[:position]
        self._position = 0
        self.closed = self.lone
        return True
