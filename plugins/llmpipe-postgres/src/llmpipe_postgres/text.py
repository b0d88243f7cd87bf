"""Texts that PostgreSQL has no form for, as texts that it has, and back; in the same order, by code points.

U+0001 stands for what is below it, and U+D7FF, which is no character yet, for what is above it up to U+E000:
behind either comes one that tells which it was. Where they stand for themselves they are told as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ("escape", "fields", "unescape")

_STRANGE = re.compile("[\0\1\ud7ff-\udfff]")
_ESCAPED = re.compile("[\1\ud7ff](.)", re.DOTALL)
_HALF = 0x0100 - 0xD800
"""From half of a surrogate pair to the character that tells which it was."""


def _told(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 1:
        return "\1\1" if code == 0 else "\1\2"
    return "\ud7ff" + (chr(code + _HALF) if code > 0xD7FF else "\2")


def _meant(found: re.Match[str]) -> str:
    code = ord(found[1])
    if found[0][0] == "\1":
        return "\0" if code == 1 else "\1"
    return chr(code - _HALF) if code > 2 else "\ud7ff"


def escape(text: str) -> str:
    """`text` without NUL and without halves of surrogate pairs, which PostgreSQL keeps in no text."""
    if text.isprintable():  # nearly all are; a letter that is not, is not always strange
        return text
    return _STRANGE.sub(_told, text)


def unescape(text: str) -> str:
    """The text that `escape` made this one of."""
    if text.isprintable():
        return text
    return _ESCAPED.sub(_meant, text)


def fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table by its columns, with its texts unescaped."""
    return {name: unescape(value) if type(value) is str else value for name, value in row.items()}
