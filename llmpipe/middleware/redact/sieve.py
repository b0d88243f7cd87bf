"""The places of a long text where detectors may find something, in linear time and little of it.

A search with `re` is the quickest where little begins like something that is looked for: three
nanoseconds a character. In a text made to hurt, every other character does. So a detector goes on
without `re` where what its pattern begins with is frequent, or where its check has refused a few.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmpipe.middleware.redact.checks import CONTEXT
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.hints import is_dense
from llmpipe.middleware.redact.planes import Planes

__all__ = ("Beginnings", "sieved")

_BLOCK = 131_072  # characters at once
_FAR = 64  # times as dear as others is a beginning from which a match runs on for a thousand characters


class Beginnings:
    """At how many places of a text from `start` up to `limit` a match may begin."""

    __slots__ = ("_counts", "_data")

    def __init__(self, seen: str, start: int, limit: int) -> None:
        self._data = seen[start:limit].encode("ascii", "replace")
        self._counts: dict[bytes, int] = {}

    def count(self, detector: Detector) -> int:
        """Of a match of the detector, all of them if it begins in no few ways; counted once for all alike."""
        begin = detector.beginnings
        if begin is None:
            return len(self._data)
        if begin not in self._counts:
            self._counts[begin] = len(self._data) - len(self._data.translate(None, begin))
        return self._counts[begin]

    def dense(self, detector: Detector, count: int) -> bool:
        """Whether to search with `re` for what begins at so many places takes long."""
        return is_dense(count * (_FAR if detector.runs_on else 1), len(self._data))


def sieved(
    seen: str, limit: int, reach: int, todo: list[tuple[Detector, int]]
) -> Iterator[tuple[Detector, Iterable[int]]]:
    """Of each detector the places where a match may start that passes its check, in order, in one go or many.

    Args:
        reach: characters from its start on that a match may depend on.
        todo: detectors, and from where on each is to look.
    """
    for begin in range(min([place for _, place in todo], default=limit), limit, _BLOCK):
        end, first = min(begin + _BLOCK, limit), max(0, begin - CONTEXT - 1)
        piece = seen[first : end + reach]
        planes: Planes | None = None
        for detector, start in todo:
            if start >= end:
                continue
            if detector.places is not None:
                yield detector, detector.places(seen, max(start, begin), end)
                continue
            found: Iterable[int] = range(begin - first, end - first)
            if detector.back is not None:
                planes = planes or Planes(piece)
                found = planes.places(detector.back(planes, planes.every))
            low, high = max(start, begin) - first, end - first
            yield detector, [first + here for here in found if low <= here < high]
