"""What a reader sees in a text: the form that detectors match on, with the way back to the original.

The text is cut and put together by a few calls of C, whatever is in it. The way back is made when
somebody asks for it: of texts that are made to be slow few have a finding.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from typing import ClassVar

from llmpipe.middleware.redact.characters import UNSEEN, looks
from llmpipe.middleware.redact.tokens import Escapes

__all__ = ("CUT", "Kind", "MAX_RUN", "Reading")

MAX_RUN = 16
"""Invisible characters in a row that are passed over. A longer run separates, like a control
character: nobody writes one, and to wait for its end would be to wait for ever."""
CUT = "\x00"
_LONG_RUN = re.compile(f"({UNSEEN}{{{MAX_RUN + 1},}}+)")


class _Cuts(dict[str, str]):
    """Long runs of what is not seen, with what separates in them; made once for each length."""

    def __missing__(self, run: str) -> str:
        found = self[run] = run[:MAX_RUN] + CUT + run[MAX_RUN + 1 :]
        return found


class Kind:
    """A kind of text, by what may be escaped in it."""

    __slots__ = ()

    escapes: ClassVar[Escapes | None] = None


class Reading:
    """What is seen of `raw`, which is a text of `kind`.

    Args:
        before: characters in a row right before `raw` that are not seen.
        marked: what `raw` looks like, where that is known and nothing in it is escaped.

    Attributes:
        text: what is seen. The same object as `raw` where that is seen as it stands.
        run: characters in a row at the end that are not seen, or `MAX_RUN` + 1 if there are more.
        is_even: whether each character of `raw` is seen as one.
    """

    __slots__ = ("_ends", "_escapes", "_marked", "_raw", "_seen", "is_even", "run", "text")

    def __init__(self, raw: str, kind: type[Kind], before: int = 0, marked: str | None = None) -> None:
        self._raw = raw
        self._seen: list[int] | None = None
        self._ends: tuple[list[int], list[int]] | None = None
        self._escapes: Escapes | None = None
        self.run = 0 if raw else before
        if marked is None:
            escapes, meant = kind.escapes, raw
            if escapes is not None and escapes.may_be_in(raw):
                meant = escapes.read(raw)
                if len(meant) < len(raw):
                    self._escapes = escapes
                else:
                    meant = raw
            marked = looks(meant)
        self.text = self._marked = marked
        self.is_even = self._escapes is None
        if UNSEEN in marked:
            self._hide(before)

    def _hide(self, before: int) -> None:
        marked = UNSEEN * before + self._marked
        self.run = min(len(marked) - len(marked.rstrip(UNSEEN)), MAX_RUN + 1)
        if UNSEEN * (MAX_RUN + 1) in marked:
            runs = _LONG_RUN.split(marked)
            runs[1::2] = map(_Cuts().__getitem__, runs[1::2])
            marked = "".join(runs)
        self._marked = marked[before:]
        self.text = self._marked.replace(UNSEEN, "")
        self.is_even = False

    def start(self, place: int) -> int:
        """Where in `raw` the character at `place` starts."""
        return self._place(place)[0]

    def end(self, place: int) -> int:
        """Where in `raw` the character before `place` ends."""
        return self._place(place - 1)[1]

    def _place(self, place: int) -> tuple[int, int]:
        """Where in `raw` the character at `place` starts and ends."""
        if self.text is not self._marked:
            if self._seen is None:  # where each run ends of characters that are seen
                self._seen = list(accumulate(map(len, self._marked.split(UNSEEN))))
            place += bisect_right(self._seen, place)  # there is one that is not seen after each run
        if self._escapes is None:
            return place, place + 1
        if self._ends is None:  # where text and escapes end by turns, in what is meant and in `raw`
            raw = list(map(len, self._escapes.split(self._raw)))
            meant = raw.copy()
            meant[1::2] = [1] * (len(raw) // 2)
            self._ends = list(accumulate(meant)), list(accumulate(raw))
        meant, raw = self._ends
        number = bisect_right(meant, place)
        if number % 2:
            return raw[number - 1], raw[number]
        start = raw[number] - (meant[number] - place)
        return start, start + 1
