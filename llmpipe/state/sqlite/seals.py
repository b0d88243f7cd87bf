"""A checksum in each row that is looked up by its key, or that money and work depend on.

SQLite finds what is wrong with its pages, and nothing of a bit that was flipped inside a value: a balance
would just be another one. CRC-32 over all columns finds that. It is no protection from who can compute
one: the audit trail has hashes for that, the vault has ciphers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

__all__ = ("real", "seal", "whole")

_PLAIN = frozenset((int, float, str, type(None)))


def real(value: float) -> float:
    """`value` as a column of reals gives it back: a float, and no negative zero."""
    return float(value) + 0.0


def seal(*values: Any) -> int:
    """The checksum of a row's values, as SQLite gives them back."""
    if not _PLAIN.issuperset(map(type, values)):
        values = tuple([_plain(one) for one in values])
    return crc32(repr(values).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return crc32(value)
    if isinstance(value, str):  # a member of an enumeration, for one
        return str.__str__(value)
    return int(value) if isinstance(value, int) else value


def whole(row: Sequence[Any]) -> bool:
    """Whether a row is as it was written; its seal is the last value."""
    told: int = row[-1]
    return seal(*row[:-1]) == told
