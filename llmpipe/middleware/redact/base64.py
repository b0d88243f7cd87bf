"""What is written in base64: text of ASCII is looked for in it, once and no deeper."""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate

from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.checks import Match, Span
from llmpipe.middleware.redact.detector import Detector

__all__ = ("in_base64",)

_SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_MOST = 1_024  # groups of four, of three bytes each


def _class(bit: int) -> str:
    """The signs, of either alphabet, whose value has not that bit."""
    return "[" + "".join([sign for value, sign in enumerate(_SIGNS) if not value & bit]) + "]"


# In three bytes of ASCII the highest bits are 0: of the first sign the first bit, of the second the
# third, of the third the fifth. Of random signs one group in eight is such a one, and four in a row are rare.
_ANY = r"[A-Za-z0-9+/_\-]"
_GROUP = rf"{_class(32)}{_class(8)}{_class(2)}{_ANY}"
_TAIL = rf"{_class(32)}{_class(8)}(?:{_class(2)})?+"


def _text(guard: str = "") -> str:
    """The pattern of a text: of ten signs at least, which is seven characters."""
    return (
        rf"{_class(32)}(?<![A-Za-z0-9+/_\-=].){guard}{_class(8)}{_class(2)}{_ANY}"
        rf"(?>(?:{_GROUP}){{2,{_MOST - 1}}}+(?:{_TAIL})?+|{_GROUP}{_TAIL})"
    )


_URL_SAFE = bytes.maketrans(b"-_", b"+/")
# A last sign without the bits that are left over, by how many signs a last group has.
_LAST = {
    left: {sign: _SIGNS[value >> bits << bits] for value, sign in enumerate(_SIGNS)}
    for left, bits in ((2, 4), (3, 2))
}
_WHITE = str.maketrans("\t\n\r", "   ")


def in_base64(spans: Callable[[str], Sequence[tuple[int, int, str]]]) -> tuple[Detector, ...]:
    """Detectors of texts in base64 in which `spans` finds something: (start, end, kind).

    All of such a text is the finding, and its kind that of the first thing found in it. Passed over are
    those with neither a digit nor a ``=`` at the end, which are few, and what is not ASCII.
    """

    def check(match: Match) -> Span | None:
        text = _decoded(match.group())
        found = spans(text) if text else ()
        return (*match.span(), found[0][2]) if found else None

    def sift(regex: re.Pattern[str], text: str, places: Iterable[int]) -> Iterator[int]:
        """Many are decoded and searched as one text."""
        matches = [match for place in places if (match := regex.match(text, place)) is not None]
        pieces = [_filled(match.group().rstrip("=")) for match in matches]
        ends = list(accumulate([len(piece) // 4 * 3 for piece in pieces]))
        decoded = a2b_base64("".join(pieces).encode().translate(_URL_SAFE))
        done = 0
        for start, end, _ in spans(decoded.decode("ascii").translate(_WHITE)):
            last = bisect_right(ends, end - 1) + 1
            yield from [match.start() for match in matches[max(done, bisect_right(ends, start)) : last]]
            done = last

    # Each group begins with a letter, so the first digit of all stands behind one.
    with_digit = rf"[0-9](?<=[A-Za-z].)(?:(?<={_ANY}{{5}}.)|(?={_ANY}{{5}}))"
    either, padded = _text() + "={0,2}+", _text("(?![A-Za-z+/]{0,64}+[0-9])") + "={1,2}+"
    return (
        Detector("base64", either, check, 1, probe=with_digit, sift=partial(sift, re.compile(either))),
        Detector("base64", padded, check, hint=hints.equals, sift=partial(sift, re.compile(padded))),
    )


def _filled(signs: str) -> str:
    """Whole groups, and at the end such as mean zeros, which separate this text from the next."""
    left = len(signs) % 4
    if not left:
        return signs + "AAAA"
    return signs[:-1] + _LAST[left].get(signs[-1], "A") + "A" * (8 - left)


def _decoded(signs: str) -> str:
    """What is written so; nothing where that is no text."""
    data = signs.rstrip("=").encode().translate(_URL_SAFE)
    try:
        text = a2b_base64(data + b"=" * (-len(data) % 4)).decode("ascii").translate(_WHITE)
    except (Error, UnicodeDecodeError):  # as of a word that happens to look like it
        return ""
    return text if text.isprintable() else ""
