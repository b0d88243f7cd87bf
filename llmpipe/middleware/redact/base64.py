"""What is written in base64: text of ASCII is looked for in it, once and no deeper."""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, compress

from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.checks import Match, Span
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.linear import analyse

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
_WHITE = str.maketrans("\t\n\r", "   ")
_WHITE_BYTES = bytes.maketrans(b"\t\n\r", b"   ")

# Many are decoded as one, with a line's end and a zero behind each: no pattern goes on over both. They are
# written as signs, of which each puts a byte in the place of that which ends with it, or none; they make
# whole groups of what there is, by the signs it has too many.
_PUTS = {"=": b"\n", ".": b"\0", ",": b"\xff"}
_APART = "\n\0"
_NONE = _PUTS[","]  # which no ASCII has
_FILL = ("A=.,", "=.,", "=.", "=A.,,")
_SIGNS_ONLY = bytes.maketrans(b"-_=.,", b"+/AAA")
_KEPT = bytes(0 if chr(code) in _PUTS else 255 for code in range(256))
_PUT = bytes(_PUTS.get(chr(code), b"\0")[0] for code in range(256))


def in_base64(spans: Callable[[str], Sequence[tuple[int, int, str]]]) -> tuple[Detector, ...]:
    """Detectors of texts in base64 in which `spans` finds something: (start, end, kind).

    All of such a text is the finding, and its kind that of the first thing found in it. Passed over are
    those with neither a digit nor a ``=`` at the end, which are few, and what is not ASCII.
    """

    def check(match: Match) -> Span | None:
        text = _decoded(match.group())
        found = spans(text) if text else ()
        return (*match.span(), found[0][2]) if found else None

    def places(regex: re.Pattern[str], longest: int, text: str, place: int, limit: int) -> Iterator[int]:
        """Many are decoded and searched as one text."""
        stop = limit + longest + 1  # a match that begins before `limit` sees no end of the text there
        pieces = regex.findall(text, place, stop)
        decoded = _all_decoded("".join([piece + _FILL[len(piece) & 3] for piece in pieces]).encode())
        texts = decoded.split(_APART)[:-1]
        # What is no text has no finding, and there can be much of it.
        is_text = [meant.isprintable() for meant in texts]
        if not all(is_text):
            texts = list(compress(texts, is_text))
            decoded = "".join([meant + _APART for meant in texts])
        hits = spans(decoded)
        if not hits:
            return
        ends = list(accumulate([len(meant) + len(_APART) for meant in texts]))
        starts = [match.start() for match in compress(regex.finditer(text, place, stop), is_text)]
        done = 0
        for start, end, _ in hits:
            last = bisect_right(ends, end - 1) + 1
            for number in range(max(done, bisect_right(ends, start)), last):
                if starts[number] < limit:
                    yield starts[number]
            done = max(done, last)

    def found_in(text: str, end: str) -> Callable[[str, int, int], Iterator[int]]:
        return partial(places, re.compile(f"({text}){end}"), analyse(text + end).max_width)

    # Each group begins with a letter, so the first digit of all stands behind one.
    with_digit = rf"[0-9](?<=[A-Za-z].)(?:(?<={_ANY}{{5}}.)|(?={_ANY}{{5}}))"
    either, padded = (_text(), "={0,2}+"), (_text("(?![A-Za-z+/]{0,64}+[0-9])"), "={1,2}+")
    any_text = Detector("base64", "".join(either), check, 1, probe=with_digit, places=found_in(*either))
    without_digit = Detector(
        "base64", "".join(padded), check, hint=hints.equals, places=found_in(*padded), instead=any_text
    )
    return any_text, without_digit


def _all_decoded(signs: bytes) -> str:
    """What whole groups mean, with what separates them where it is written so.

    A long integer is the vector, as in `cards`: of each third byte.
    """
    decoded = bytearray(a2b_base64(signs.translate(_SIGNS_ONLY)).translate(_WHITE_BYTES))
    for number in range(3):
        ends = signs[number + 1 :: 4]
        own = int.from_bytes(decoded[number::3], "little") & int.from_bytes(ends.translate(_KEPT), "little")
        own |= int.from_bytes(ends.translate(_PUT), "little")
        decoded[number::3] = own.to_bytes(len(ends), "little")
    return decoded.translate(None, _NONE).decode("ascii")


def _decoded(signs: str) -> str:
    """What is written so; nothing where that is no text."""
    data = signs.rstrip("=").encode().translate(_URL_SAFE)
    try:
        text = a2b_base64(data + b"=" * (-len(data) % 4)).decode("ascii").translate(_WHITE)
    except (Error, UnicodeDecodeError):  # as of a word that happens to look like it
        return ""
    return text if text.isprintable() else ""
