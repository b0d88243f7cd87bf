"""Texts that PostgreSQL has no form for, as texts that it has, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ("escape", "fields", "unescape")

# U+FDD0 is a noncharacter: Unicode keeps it free for uses inside a program, such as this one.
_MARK = "\ufdd0"
_STRANGE = re.compile("[\0\ud800-\udfff\ufdd0]")
_ESCAPED = re.compile("\ufdd0([0-9a-f]{4})")


def escape(text: str) -> str:
    """`text` without NUL and without halves of surrogate pairs, which PostgreSQL keeps in no text."""
    if text.isascii() and "\0" not in text:
        return text
    return _STRANGE.sub(lambda found: f"{_MARK}{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` made this one of."""
    if _MARK not in text:
        return text
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table by its columns, with its texts unescaped."""
    return {name: unescape(value) if type(value) is str else value for name, value in row.items()}
