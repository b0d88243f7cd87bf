"""What a reader sees in a text: the form that detectors match on, with the way back to the original.

Full-width and mathematical letters, digits of all scripts, letters of other alphabets that look
Latin, dashes and spaces of all kinds stand in it as ASCII; what is not seen (zero-width and
formatting characters, combining marks) is gone. Each character is judged by itself, so a text cut
anywhere has the same view as the whole.

Source of the look-alikes: Unicode Technical Standard #39, confusables, the single-letter ones.
"""

from __future__ import annotations

import json
import re
import unicodedata

__all__ = ("JSONView", "View", "unescape")

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
_MAX_RUN = 16
"""Invisible characters in a row that are passed over. A longer run separates, like a control
character: nobody writes one, and to wait for its end would be to wait for ever."""
_CUT = "\x00"


def _seen(code: int) -> int | None:
    """The code point that character `code` looks like; None for one that is not seen."""
    if code < 128:
        return code
    char = chr(code)
    if char in _LOOK_ALIKES:
        return ord(_LOOK_ALIKES[char])
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me") or char in _INVISIBLE:
        return None
    if category == "Nd":
        return ord("0") + unicodedata.decimal(char)
    if category[0] == "Z":
        return ord(" ") if category == "Zs" else ord("\n")
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
            self._append([(char, base + i, base + i + 1) for i, char in enumerate(piece)])
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

    def _append(self, characters: list[tuple[str, int, int]]) -> None:
        """Add (character, start, end) one by one."""
        if self._starts is None:
            self._starts = list(range(len(self.text)))
            self._ends = list(range(1, len(self.text) + 1))
        seen = []
        for char, start, end in characters:
            code = _TABLE[ord(char)]
            if code is None:
                self._run += 1
                if self._run != _MAX_RUN + 1:
                    continue
                char = _CUT
            else:
                self._run = 0
                char = chr(code)
            seen.append(char)
            self._starts.append(start)
            self._ends.append(end)
        self.text += "".join(seen)

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


# A character of JSON text as it is written; `open` is half an escape, at the end of what there is.
_TOKEN = re.compile(r"\\u[0-9A-Fa-f]{4}|(?P<open>\\(?:u[0-9A-Fa-f]{0,3})?\Z)|\\.|.", re.DOTALL)
_LAST_TOKEN = re.compile(r"\\u[0-9A-Fa-f]{4}|(?P<open>(?!))|\\.|.", re.DOTALL)
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JSONView(View):
    """The view of a JSON text: escapes in its strings stand in it as what they mean."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        super().__init__()
        self._waiting = 0  # characters at the end of `raw` that are not in `text` yet

    def feed(self, piece: str) -> None:
        """Add `piece` at the end."""
        if not self._waiting and "\\" not in piece:
            super().feed(piece)
            return
        self._take(len(self.raw) - self._waiting, piece)

    def finish(self) -> None:
        """No more will come: half an escape is text."""
        if self._waiting:
            self._take(len(self.raw) - self._waiting, "", last=True)

    def _take(self, base: int, piece: str, *, last: bool = False) -> None:
        self.raw += piece
        characters: list[tuple[str, int, int]] = []
        until = len(self.raw)
        for token in (_LAST_TOKEN if last else _TOKEN).finditer(self.raw, base):
            if token["open"] is not None:
                until = token.start()
                break
            char = _meaning(token.group())
            before = characters[-1] if characters else None
            if (
                before is not None
                and _is_high(before)
                and len(token.group()) == 6
                and "\udc00" <= char <= "\udfff"
            ):
                whole = chr(0x10000 + ((ord(before[0]) & 0x3FF) << 10) + (ord(char) & 0x3FF))
                characters[-1] = (whole, before[1], token.end())
            else:
                characters.append((char, *token.span()))
        if characters and not last and characters[-1][2] == until and _is_high(characters[-1]):
            until = characters.pop()[1]  # the second half of the pair may come
        self._waiting = len(self.raw) - until
        self._append(characters)

    def _viewed(self) -> int:
        return len(self.raw) - self._waiting


def _meaning(token: str) -> str:
    if len(token) == 6:
        return chr(int(token[2:], 16))  # noqa: FURB166  there is no prefix
    return _SHORT.get(token[1], token[1]) if len(token) == 2 else token


def _is_high(character: tuple[str, int, int]) -> bool:
    """Whether it is the escaped first half of a surrogate pair."""
    char, start, end = character
    return end - start == 6 and "\ud800" <= char <= "\udbff"


def unescape(raw: str) -> str:
    """What a piece of a JSON string means; as it is where it is no such piece."""
    if "\\" not in raw:
        return raw
    try:
        meaning = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw
    return str(meaning)
