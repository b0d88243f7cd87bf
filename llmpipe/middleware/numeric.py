"""Settings that are numbers."""

from __future__ import annotations

from numbers import Real
from typing import Any

from attrs import fields

from llmpipe.errors import ConfigError

__all__ = ("check_numbers",)

_NUMBERS = ("int", "float", "int | None", "float | None")


def check_numbers(item: Any, where: str) -> None:
    """Refuse a setting of `item`, an attrs instance, that should be a number and is none.

    Called before its settings are compared with their bounds; a comparison with text raises a bare TypeError.
    Raises: ConfigError, which begins with `where`.
    """
    for attribute in fields(type(item)):
        told: Any = attribute.type  # the text of the annotation, or what cattrs has resolved it to
        kind = told.__name__ if isinstance(told, type) else str(told)
        if kind not in _NUMBERS:
            continue
        value, optional = getattr(item, attribute.name), kind.endswith("None")
        if isinstance(value, Real) or (value is None and optional):
            continue
        usual = attribute.default
        right = f"a number, such as {usual:g}" if isinstance(usual, int | float) else "a number"
        right += ", or None" if optional else ""
        raise ConfigError(f"{where} {attribute.name} must be {right}, not {value!r}")
