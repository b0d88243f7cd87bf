"""What characters look like to a reader, each judged by itself.

Full-width and mathematical letters, digits of all scripts, letters of other alphabets that look
Latin, dashes and spaces of all kinds look like ASCII; zero-width and formatting characters and
combining marks are not seen.

Source of the look-alikes: Unicode Technical Standard #39, confusables, the single-letter ones.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from functools import cache

__all__ = ("UNSEEN", "is_none", "looks")

UNSEEN = "\ufdd0"
"""Stands for what is not seen, where something must. It is none of Unicode's characters: see `is_none`."""

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
# What looks like itself, and is not asked about: Han and Hangul; private, and not assigned.
_PLAIN = (
    *(range(0x3400, 0xA000), range(0xAC00, 0xD7A4), range(0xE000, 0xF900)),
    *(range(0x20000, 0x2F800), range(0x30000, 0xE0000), range(0xE1000, 0x110000)),
)
_MOST = 8_192  # characters that are kept one by one
_SHORT = 128  # characters of which it takes longer to exchange a few all at once than each by itself
_FEW = 4  # as many as a disguise needs
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def is_none(char: str) -> bool:
    """Whether it is one of those that Unicode leaves to programs, and that no text has."""
    return "\ufdd0" <= char <= "\ufdef"


def _look(code: int) -> int:
    """The code point that character `code` looks like; `UNSEEN` for one that is not seen."""
    if code < 128:
        return code
    for those in _PLAIN:
        if code in those:
            return code
    char = chr(code)
    if is_none(char):
        return 0xFFFD
    if char in _LOOK_ALIKES:
        return ord(_LOOK_ALIKES[char])
    category = unicodedata.category(char)
    if category in ("Cf", "Mn", "Me") or char in _INVISIBLE:
        return ord(UNSEEN)
    if category == "Nd":
        return ord("0") + unicodedata.decimal(char)
    if category[0] == "Z":
        return ord(" ") if category == "Zs" else ord("\n")
    if not unicodedata.decomposition(char):
        return code
    plain = [part for part in unicodedata.normalize("NFKD", char) if not unicodedata.combining(part)]
    return ord(plain[0]) if len(plain) == 1 and plain[0].isascii() else code


class _Looks(dict[int, int]):
    """A translation table that fills itself; for the characters in use, not for all of Unicode."""

    def __missing__(self, code: int) -> int:
        look = _look(code)
        if len(self) < _MOST:
            self[code] = look
        return look


_LOOKS = _Looks()


@cache
def _all_looks() -> array[int]:
    """The same for all of Unicode: 4 MB, made in 60 ms where so many characters are in use."""
    found = array("I", range(0x110000))
    done = 128
    for those in _PLAIN:  # of which the last goes to the end
        found[done : those.start] = array("I", map(_look, range(done, those.start)))
        done = those.stop
    return found


def looks(text: str) -> str:
    """`text` as it looks, with `UNSEEN` in the place of each character that is not seen."""
    # What an escape stands for that is none is U+FFFD, which looks like itself: a text can be full of it.
    if text.isascii() or text.replace("\ufffd", "?").isascii():
        return text
    if len(text) > _SHORT and (exchanged := _exchanged(text)) is not None:
        return exchanged
    return text.translate(_LOOKS if len(_LOOKS) < _MOST else _all_looks())


def _exchanged(text: str) -> str | None:
    """The same in a tenth of the time, where `text` has only a few characters beyond ASCII; None where more.

    One after the other is exchanged wherever it stands. None becomes another that is exchanged later.
    """
    rest, place = text, 0
    for _ in range(_FEW):
        match = _NOT_ASCII.search(rest, place)
        if match is None:
            return text
        char, place = match.group(), match.end()
        if is_none(char):  # `UNSEEN` is one
            return None
        rest = rest.replace(char, "?")
        text = text.replace(char, chr(_LOOKS[ord(char)]))
    return text if rest.isascii() else None
