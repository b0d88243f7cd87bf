"""What a reader sees in a text: the form that detectors match on, with the way back to the original.

Full-width and mathematical letters, digits of all scripts, letters of other alphabets that look
Latin, dashes and spaces of all kinds stand in it as ASCII; what is not seen (zero-width and
formatting characters, combining marks) is gone. Each character is judged by itself, so a text cut
anywhere has the same view as the whole.

Source of the look-alikes: Unicode Technical Standard #39, confusables, the single-letter ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import compress

__all__ = ("CUT", "MARKED", "MAX_RUN", "UNSEEN", "View")

_LOOK_ALIKES = {
    # Cyrillic and Greek letters, small and capital.
    **dict(zip("аеорсухіјѕһԁԛԝвкмнтьѵӏ", "aeopcyxijshdqwbkmhtbvl", strict=True)),
    **dict(zip("АВЕЅІЈКМНОРСТУХԚԜҺЗ", "ABESIJKMHOPCTYXQWH3", strict=True)),
    **dict(zip("αικνορτυχωγε", "aikvoptuxwye", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    # Latin ones that do not decompose, and signs.
    **dict(zip("ıɡɑⅼøØłŁđĐ", "igaloOlLdD", strict=True)),
    **dict(zip("‐‑‒–—―−⁃﹣－", "----------", strict=True)),
    **dict(zip("․。｡·•∙⋅．", "........", strict=True)),
    **dict(zip("﹕：∶꞉ː", ":::::", strict=True)),
    **dict(zip("⁄∕／", "///", strict=True)),
    **dict(zip("‘’‚′“”„″", "''''\"\"\"\"", strict=True)),
}
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # blank letters: category Lo or So
MAX_RUN = 16
"""Invisible characters in a row that are passed over. A longer run separates, like a control
character: nobody writes one, and to wait for its end would be to wait for ever."""
CUT = "\x00"
UNSEEN = "\ufdd0"
"""Stands for what is not seen, where something must. Never a character, says Unicode."""
_WITHOUT_LIKES = (range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0x20000, 0x2F800))


def _seen(code: int) -> int | None:
    """The code point that character `code` looks like; None for one that is not seen."""
    if code < 128:
        return code
    for those in _WITHOUT_LIKES:
        if code in those:
            return code
    char = chr(code)
    if char == UNSEEN:
        return 0xFFFD
    if char in _LOOK_ALIKES:
        return ord(_LOOK_ALIKES[char])
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me") or char in _INVISIBLE:
        return None
    if category == "Nd":
        return ord("0") + unicodedata.decimal(char)
    if category[0] == "Z":
        return ord(" ") if category == "Zs" else ord("\n")
    if not unicodedata.decomposition(char):
        return code
    plain = [part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)]
    return ord(plain[0]) if len(plain) == 1 and plain[0].isascii() else code


class _Table(dict[int, "int | None"]):
    """A translation table that fills itself; for the characters in use, not for all of Unicode."""

    def __missing__(self, code: int) -> int | None:
        seen = _seen(code)
        if len(self) < 8192:
            self[code] = seen
        return seen


_TABLE = _Table()


class _Marked(_Table):
    """The same with `UNSEEN` for what is not seen."""

    def __missing__(self, code: int) -> int:
        seen = _TABLE[code]
        mark = ord(UNSEEN) if seen is None else seen
        if len(self) < 8192:
            self[code] = mark
        return mark


MARKED = _Marked()


class _Marks(dict[int, str]):
    """1 for a character that is seen, 0 for one that is not."""

    def __missing__(self, code: int) -> str:
        mark = "0" if _TABLE[code] is None else "1"
        if len(self) < 8192:
            self[code] = mark
        return mark


_MARKS = _Marks()
_LONG_RUN = re.compile(f"0{{{MAX_RUN + 1},}}")
_KEPT = bytes.maketrans(b"01", b"\0\1")


class View:
    """A text that grows at its end and is dropped at its start, and what is seen of it.

    Attributes:
        raw: the original text.
        text: what is seen. The same object as `raw` where all of it is ASCII.
    """

    __slots__ = ("_ends", "_run", "_starts", "raw", "text")

    def __init__(self) -> None:
        self.raw = self.text = ""
        # Where in `raw` each character of `text` starts and ends; None while they are the same.
        self._starts: list[int] | None = None
        self._ends: list[int] = []
        self._run = 0

    def feed(self, piece: str) -> None:
        """Add `piece` at the end."""
        seen = piece if piece.isascii() else piece.translate(_TABLE)
        if len(seen) != len(piece):
            base = len(self.raw)
            self.raw += piece
            self._append(piece, range(base, base + len(piece)), range(base + 1, base + len(piece) + 1))
            return
        if self._starts is not None:
            base = len(self.raw)
            self._starts.extend(range(base, base + len(piece)))
            self._ends.extend(range(base + 1, base + len(piece) + 1))
        if self.raw:
            same = self.text is self.raw and seen is piece
            self.raw += piece
            self.text = self.raw if same else self.text + seen
        else:
            self.raw, self.text = piece, seen
        self._run = 0 if piece else self._run

    def put(self, text: str) -> None:
        """Have `text`, which is ASCII, in the place of what there was, which was ASCII too."""
        self.raw = self.text = text
        self._run = 0

    def _append(self, text: str, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Add characters that stand in `raw` from `starts` to `ends`."""
        if self._starts is None:
            self._starts = list(range(len(self.text)))
            self._ends = list(range(1, len(self.text) + 1))
        seen = text.translate(_TABLE)
        if len(seen) == len(text):
            self._starts.extend(starts)
            self._ends.extend(ends)
            self._run = 0 if text else self._run
        else:
            before = self._run
            marks = "0" * before + text.translate(_MARKS)
            self._run = min(len(marks) - len(marks.rstrip("0")), MAX_RUN + 1)
            kept = bytearray(marks.encode().translate(_KEPT))
            characters = list(text)
            for run in _LONG_RUN.finditer(marks):
                cut = run.start() + MAX_RUN
                if cut >= before:  # else it was made when that came
                    kept[cut], characters[cut - before] = 1, CUT
            self._starts.extend(compress(starts, kept[before:]))
            self._ends.extend(compress(ends, kept[before:]))
            seen = "".join(characters).translate(_TABLE)
        self.text += seen

    def finish(self) -> None:
        """No more will come."""

    def start(self, place: int) -> int:
        """Where in `raw` the character at `place` starts; at the end of `text`, where `raw` ends."""
        if self._starts is None:
            return place
        return self._starts[place] if place < len(self._starts) else self._viewed()

    def end(self, place: int) -> int:
        """Where in `raw` the character before `place` ends."""
        return place if self._starts is None or not place else self._ends[place - 1]

    def _viewed(self) -> int:
        return len(self.raw)

    def drop(self, place: int) -> None:
        """Forget what is before `place`."""
        cut = self.start(place)
        same = self.text is self.raw
        self.raw = self.raw[cut:]
        self.text = self.raw if same else self.text[place:]
        if self._starts is None:
            return
        if self.raw == self.text:
            self._starts, self._ends, self.text = None, [], self.raw
        else:
            self._starts = [start - cut for start in self._starts[place:]]
            self._ends = [end - cut for end in self._ends[place:]]
