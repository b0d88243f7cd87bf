"""Settings that are lists of names."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ("names",)


def names(value: str | Iterable[str]) -> tuple[str, ...]:
    """The names in `value`; a string is one name, not its letters."""
    return (value,) if isinstance(value, str) else tuple(value)
