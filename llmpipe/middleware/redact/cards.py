"""Payment cards: the numbers of the brands, and their check digit; of one, or all in a text at once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from llmpipe.middleware.redact.checks import Match, Span, after
from llmpipe.middleware.redact.lanes import BLOCK, in_a_row, lanes, table, where, written

__all__ = ("cards", "credit_card", "luhn")

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


# ------------------------------------------------------------ all of a text at once

_LENGTHS = range(12, 20)
_LONGEST = 19 + 18 * 2  # characters of a card, with what may stand between its digits


def _prefixed(begin: bytes) -> int:
    """The lengths of the cards of which some begin so, a bit each, of 12 the lowest."""
    return sum(
        {
            1 << (length - 12)
            for low, high, lengths in _BRANDS.get(begin[:1].decode(), ())
            for length in lengths
            if low[: len(begin)].encode() <= begin[: len(low)] <= high[: len(begin)].encode()
        }
    )


_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_TENFOLD = bytes.maketrans(b"0123456789", bytes(range(0, 100, 10)))
_TWICE = bytes.maketrans(b"0123456789", bytes([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
_IS_DIGIT, _IS_BETWEEN, _IS_POINT = table(b"0123456789"), table(b" .-"), table(b".,")
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_FIRST = bytes([_prefixed(b"%02d" % two) for two in range(100)]) + bytes(156)
_ADDS_UP = {length: table(bytes(range(0, 256, 10)), 1 << (length - 12)) for length in _LENGTHS}


def cards(text: str, place: int, limit: int) -> Iterator[int]:
    """Where in `text` from `place` on and before `limit` the digits of a card begin, as `credit_card` has it.

    Adds up all windows of all lengths at once, on vectors (see `lanes`): lane i belongs to the window
    that begins at digit i. A digit each 20 nanoseconds.
    """
    for begin in range(place, limit, BLOCK):
        first = max(0, begin - 2)  # a digit and a point, for a fraction is none
        data = text[first : min(begin + BLOCK, limit) + _LONGEST + 1].encode("ascii", "replace")
        end = min(begin + BLOCK, limit)
        for here in _cards(data):
            if begin <= first + here < end:
                yield first + here


def _cards(data: bytes) -> Iterator[int]:
    digits = data.translate(None, _NO_DIGITS)
    count = len(digits)
    if count < _LENGTHS[0]:
        return
    starts, ends, joins = _bounds(data, count)
    joined = in_a_row(joins, _LENGTHS[0] - 1)
    starts &= joined
    if not starts:
        return
    first = (lanes(digits.translate(_TENFOLD)) + (lanes(digits.translate(_VALUES)) >> 8)) & _ones(count)
    begins = starts & lanes(written(first, count).translate(_FIRST))
    if not begins:
        return
    passed, sums = 0, _sums(digits)
    for length in _LENGTHS:
        right = written(sums[length], count).translate(_ADDS_UP[length])
        passed |= lanes(right) & joined & (ends >> 8 * (length - 1))
        joined &= joins >> 8 * (length - 1)
    passed &= begins
    if not passed:
        return
    lengths = written(passed, count)
    found = [number for number in where(lengths) if lengths[number] & _lengths_of(digits, number)]
    if found:
        places = list(where(data.translate(_IS_DIGIT)))
        for number in found:
            yield places[number]


def _lengths_of(digits: bytes, number: int) -> int:
    return _prefixed_by(digits[number : number + 4])


_prefixed_by = cache(_prefixed)  # of 10,000 numbers


def _ones(count: int) -> int:
    """All bits of so many bytes."""
    return (1 << 8 * count) - 1


def _bounds(data: bytes, count: int) -> tuple[int, int, int]:
    """For each digit 255 where a card can start, where one can end, and where it can go on: to the next."""
    digit, between = lanes(data.translate(_IS_DIGIT)), lanes(data.translate(_IS_BETWEEN))
    behind = digit << 8
    start = digit & ~behind & ~((lanes(data.translate(_IS_POINT)) & behind) << 8)  # no fraction either
    end = digit & ~(digit >> 8)
    two = (between >> 8) & (digit >> 16)
    join = digit & ((digit >> 8) | two | ((between >> 8) & (two >> 8)))
    each = lanes(b"\1" * len(data))
    # A digit has a flag of its own, so that it stays where all others are deleted.
    flags = (digit & (each << 3)) | (start & each) | (end & (each << 1)) | (join & (each << 2))
    of_digits = written(flags, len(data)).translate(None, b"\0")
    return tuple([lanes(of_digits.translate(flag)) for flag in _FLAGS])  # type: ignore[return-value]  # three


_FLAGS = [table(bytes([flags for flags in range(16) if flags & flag])) for flag in (1, 2, 4)]


def _sums(digits: bytes) -> dict[int, int]:
    """By length, what the windows add up to: their last digit as it is, the one before doubled, and so on."""
    one = lanes(digits.translate(_VALUES))
    two = lanes(digits.translate(_TWICE)) + (one >> 8)
    four = two + (two >> 16)
    eight = four + (four >> 32)
    sums = {12: eight + (four >> 64), 16: eight + (eight >> 64)}
    sums[14] = sums[12] + (two >> 96)
    sums[18] = sums[16] + (two >> 128)
    return sums | {length: one + (sums[length - 1] >> 8) for length in (13, 15, 17, 19)}
