"""Text as Redis keeps it: bytes that give the same text again, whatever it is."""

from __future__ import annotations

__all__ = ("MAX_EXACT", "exact", "packed", "unpacked")

MAX_EXACT = 2**53
"""Numbers in a script are doubles: whole ones are exact up to here. In nano-USD, 9 million USD."""


def packed(text: str) -> bytes:
    """The bytes of `text`; of a lone surrogate too, which a caller's JSON may hold."""
    return text.encode("utf-8", "surrogatepass")


def unpacked(data: bytes) -> str:
    """The text of what `packed` gave."""
    return data.decode("utf-8", "surrogatepass")


def exact(number: int, what: str) -> bytes:
    """The digits of `number`.

    Raises: ValueError for one that Redis could not reckon with exactly.
    """
    if not -MAX_EXACT <= number <= MAX_EXACT:
        raise ValueError(f"{what} is {number}, and beyond 2**53 Redis does not reckon exactly")
    return b"%d" % number
