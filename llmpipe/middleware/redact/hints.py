"""Cheap questions before dear ones: whether a text can have something of a kind in it at all.

Most texts have nothing to hide, and every text of every call is asked. To look for one character
takes 15 ns in 500, for a short word 200 ns, for a class of characters 1,200 ns (measured), so the
questions go in that order. A hint may say yes too often and never no too often.
"""

from __future__ import annotations

import re

__all__ = (
    "DULL",
    "LONG",
    "NUMERIC",
    "at",
    "bearer",
    "bracketed_at",
    "colons",
    "dense_digits",
    "digits",
    "digits_of",
    "equals",
    "is_dense",
    "jwt",
    "named",
    "numeric",
    "private_key",
    "signs",
    "spelled",
    "telling",
    "token",
)

_NO_DIGITS = bytes(code for code in range(256) if not 48 <= code <= 57)
DULL = frozenset(chr(code) for code in range(128) if chr(code).isalpha() or chr(code) in " \t\n\r.,;!?'\"")
"""Letters, white space, and what ends or quotes a sentence: most of what is written, and next to
nothing that is looked for can be written with it alone."""
_DULL = "".join(sorted(DULL)).encode()


LONG = 2_048
"""Characters from which on it pays to ask how frequent something is."""
_RARE = 16  # times as long as these are many: a search for what they begin takes 2 ms in 100,000 characters
_RARER = 24  # the same in texts so long that what there is to be done once for each no longer counts
_VERY_LONG = 30_000


def is_dense(count: int, length: int) -> bool:
    """Whether to look at each of `count` places of a text takes long, which has so many characters."""
    return count * (_RARER if length >= _VERY_LONG else _RARE) > length >= LONG


def signs(text: str) -> bytes:
    """The characters of `text` that are ASCII and not `DULL`."""
    return text.encode("ascii", "replace").translate(None, _DULL)


def digits(text: str | bytes) -> int:
    """How many ASCII digits there are in `text`."""
    data = text if isinstance(text, bytes) else text.encode("ascii", "replace")
    return len(data.translate(None, _NO_DIGITS))


def digits_of(signs: bytes) -> str:
    """The digits among `signs`."""
    return signs.translate(None, _NO_DIGITS).decode()


def numeric(text: str) -> bool:
    """A character of `NUMERIC`."""
    return (
        "0" in text or "1" in text or "2" in text or "3" in text or "4" in text or "5" in text
        or "6" in text or "7" in text or "8" in text or "9" in text or "+" in text or "(" in text
    )  # fmt: skip


NUMERIC = frozenset("0123456789+(")
"""What a number begins with."""


def at(text: str) -> bool:
    """An @, or what stands for it in a URL and in HTML."""
    return "@" in text or ("%" in text and "%40" in text) or ("&" in text and "&#64;" in text)


_BRACKETED_AT = re.compile(r"[\[({<][ \t]{0,2}+(?>[Aa][Tt]|@)[ \t]{0,2}+[\])}>]")


def bracketed_at(text: str) -> bool:
    """An (at)."""
    return (
        "(" in text or "[" in text or "{" in text or "<" in text
    ) and (
        (len(text) >= LONG and is_dense(sum(map(text.count, "([{<")), len(text)))
        or _BRACKETED_AT.search(text) is not None
    )  # fmt: skip


def colons(text: str) -> bool:
    """The colons of an IPv6 address."""
    return ":" in text and (text.count(":") > 5 or "::" in text)


_DENSE = re.compile(r"[0-9](?:[ .\-/()]{0,3}+[0-9]){6}")


def dense_digits(text: str) -> bool:
    """Seven digits close together."""
    return is_dense(digits(text), len(text)) or _DENSE.search(text) is not None


_HYPHENED = re.compile(r"-[A-Za-z0-9_\-]{8}")
_UNDERSCORED = re.compile(r"_[A-Za-z0-9+/=_]{10}")


def token(text: str) -> bool:
    """The middle of a token that has a sign in it, or the beginning of one that has none."""
    return (
        ("-" in text and (is_dense(text.count("-"), len(text)) or _HYPHENED.search(text) is not None))
        or ("_" in text and (is_dense(text.count("_"), len(text)) or _UNDERSCORED.search(text) is not None))
        or ("A" in text and ("AIza" in text or "AKIA" in text or "ASIA" in text))
        or ("G" in text and "SG." in text)
        or ("9" in text and "ya29." in text)
    )


def spelled(text: str) -> bool:
    """What `token`, `jwt` or `bearer` may say yes to."""
    return (
        "-" in text
        or "_" in text
        or "earer" in text
        or ("J" in text and "eyJ" in text)
        or ("A" in text and ("AIza" in text or "AKIA" in text or "ASIA" in text))
        or ("G" in text and "SG." in text)
        or ("9" in text and "ya29." in text)
    )


def jwt(text: str) -> bool:
    """The beginning of all JSON in base64."""
    return "J" in text and "eyJ" in text


def private_key(text: str) -> bool:
    """A line of PEM."""
    return "-" in text and "-----BEGIN" in text


def bearer(text: str) -> bool:
    """The word."""
    return "earer" in text


def equals(text: str) -> bool:
    """The sign."""
    return "=" in text


_NAMES = ("key", "token", "secret", "passw", "pwd", "passphrase", "authorization", "credential")


def named(text: str) -> bool:
    """The name of a secret, and what stands between a name and its value."""
    if "=" not in text and ":" not in text:
        return False
    lower = text.lower()
    return any([name in lower for name in _NAMES])  # noqa: C419  a list takes half the time


_TELLING = re.compile(
    "key|token|secret|passw|pwd|passphrase|authorization|credential|ssn|social|phone|tel|mobile|cell|fax",
    re.IGNORECASE,
)


def telling(key: str) -> bool:
    """Whether what a value is called can make a finding of it."""
    return len(key) < 100 and _TELLING.search(key) is not None
