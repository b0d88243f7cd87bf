"""Payment cards: the numbers of the brands, and their check digit, for one number or for many at once."""

from __future__ import annotations

import re
from functools import cache
from itertools import compress

from llmpipe.middleware.redact.checks import Match, Span, after

__all__ = ("credit_card", "luhn", "next_card")

_SEPARATORS = str.maketrans("", "", " .-")
_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")


def luhn(digits: bytes) -> bool:
    """Whether the last digit is the check digit of the others. Source: ISO/IEC 7812-1, annex B."""
    return (sum(digits[::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - 48 * len(digits)) % 10 == 0


_16_TO_19 = (19, 18, 17, 16)
_12_TO_19 = (19, 18, 17, 16, 15, 14, 13, 12)
# First digits (from, to) and lengths, by the first digit of all. Source: the ranges the brands publish.
_BRANDS: dict[str, tuple[tuple[str, str, tuple[int, ...]], ...]] = {
    "2": (("2221", "2720", (16,)), ("2200", "2204", _16_TO_19)),  # Mastercard, Mir
    "3": (
        ("34", "34", (15,)),  # American Express
        ("37", "37", (15,)),
        ("3528", "3589", _16_TO_19),  # JCB
        ("300", "305", (19, 16, 14)),  # Diners Club
        ("3095", "3095", (19, 16, 14)),
        ("36", "36", (19, 16, 14)),
        ("38", "39", (19, 16, 14)),
    ),
    "4": (("4", "4", (19, 16, 13)),),  # Visa
    "5": (("51", "55", (16,)), ("50", "50", _12_TO_19), ("56", "58", _12_TO_19)),  # Mastercard, Maestro
    "6": (
        ("62", "62", _16_TO_19),
        ("64", "65", _16_TO_19),
        ("60", "69", _12_TO_19),
    ),  # Discover, Maestro, UnionPay
    "8": (("81", "82", _16_TO_19),),  # RuPay, UnionPay
}


def credit_card(match: Match) -> Span | None:
    """As many of the digits as a brand's cards have, if the check digit is right."""
    digits = match.group().translate(_SEPARATORS)
    for low, high, lengths in _BRANDS[digits[0]]:
        if low <= digits[: len(low)] <= high:
            data = digits.encode()
            for length in lengths:
                if length <= len(digits) and luhn(data[:length]):
                    end = after(match, length)
                    if end == match.end() or not match.string[end].isdigit():
                        return match.start(), end
    return None


# ------------------------------------------------------------ many at once

_LENGTHS = range(12, 20)
_MOST = 128  # digits at once: of more, what is computed anew after each card would add up
_RUN = re.compile(rf"[0-9](?:[ .\-]{{0,2}}+[0-9]){{0,{_MOST - 1}}}+")


def _table(truth: bytes, yes: int = 255) -> bytes:
    """A translation of the bytes of `truth` to `yes`, of all others to 0."""
    return bytes(yes if byte in truth else 0 for byte in range(256))


_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_TWICE = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
_IS_DIGIT, _IS_DOT = _table(b"0123456789"), _table(b".")
_DIGIT, _START, _END = 1, 2, 4
_IS_START = _table(bytes(flags for flags in range(8) if flags & _START))
_IS_END = _table(bytes(flags for flags in range(8) if flags & _END))
_FIRST = bytes(  # the lengths of the cards that begin with a digit, a bit each, of 12 the lowest
    sum({1 << (length - 12) for _, _, lengths in _BRANDS.get(chr(byte), ()) for length in lengths})
    for byte in range(256)
)
_ADDS_UP = {length: _table(bytes(range(0, 256, 10)), 1 << (length - 12)) for length in _LENGTHS}


def next_card(text: str, here: int) -> int:
    """Where in `text`, after the digit at `here`, the next card can begin.

    Before that there is none, by the rules of `credit_card`, or the digits in one run with it end.

    Adds up all windows of all lengths at once. A long integer is the vector here: byte i of it belongs
    to the window that begins at digit i, and no sum reaches 256. A digit each 20 nanoseconds.
    """
    run = _RUN.match(text, here)
    assert run is not None, "a digit is at `here`"
    piece = run.group().encode()
    digits = piece.translate(None, b" .-")
    count = len(digits)
    if len(piece) - count < 4:  # as of most numbers: few groups, and each is soon tried
        return here + 1
    starts, ends = _bounds(piece, count)
    sums = _sums(digits)
    passed = 0
    for length in _LENGTHS:
        right = sums[length].to_bytes(count, "little").translate(_ADDS_UP[length])
        passed |= int.from_bytes(right, "little") & (ends >> 8 * (length - 1))
    passed &= starts & int.from_bytes(digits.translate(_FIRST), "little")
    lengths = passed.to_bytes(count, "little")
    judged = count if count < _MOST else count - _LENGTHS[-1]  # those whose windows end before the run does
    place = judged
    for start in compress(range(1, judged), lengths[1:]):
        if lengths[start] & _lengths_of(digits[start : start + 4].decode()):
            place = start
            break
    if place == count:
        return run.end()
    return here + _place_of(place, piece)


def _place_of(digit: int, piece: bytes) -> int:
    """Where in `piece` the digit with that number is, counted from 0."""
    place = digit
    while short := digit - len(piece[:place].translate(None, b" .-")):
        place += short
    while not 48 <= piece[place] <= 57:
        place += 1
    return place


def _bounds(piece: bytes, count: int) -> tuple[int, int]:
    """For each digit 255 where a card can start, and where one can end: where groups do."""
    digit = int.from_bytes(piece.translate(_IS_DIGIT), "little")
    dot = int.from_bytes(piece.translate(_IS_DOT), "little")
    behind = digit << 8
    start = digit & ~behind & ~((dot & behind) << 8)  # no fraction either
    end = digit & ~(digit >> 8)
    each = int.from_bytes(b"\1" * len(piece), "little")
    flags = (digit & each * _DIGIT) | (start & each * _START) | (end & each * _END)
    of_digits = flags.to_bytes(len(piece), "little").translate(None, b"\0")
    return (
        int.from_bytes(of_digits.translate(_IS_START), "little"),
        int.from_bytes(of_digits.translate(_IS_END), "little"),
    )


def _sums(digits: bytes) -> dict[int, int]:
    """By length, what the windows add up to: their last digit as it is, the one before doubled, and so on."""
    one = int.from_bytes(digits.translate(_VALUES), "little")
    two = int.from_bytes(digits.translate(_TWICE), "little") + (one >> 8)
    four = two + (two >> 16)
    eight = four + (four >> 32)
    sums = {12: eight + (four >> 64), 16: eight + (eight >> 64)}
    sums[14] = sums[12] + (two >> 96)
    sums[18] = sums[16] + (two >> 128)
    return sums | {length: one + (sums[length - 1] >> 8) for length in (13, 15, 17, 19)}


@cache  # of 10,000 numbers
def _lengths_of(begin: str) -> int:
    """The lengths of the cards whose first four digits are `begin`, in bits as in `_FIRST`."""
    lengths = {
        length
        for low, high, lengths in _BRANDS.get(begin[0], ())
        if low <= begin[: len(low)] <= high
        for length in lengths
    }
    return sum([1 << (length - 12) for length in lengths])
