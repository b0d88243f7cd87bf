"""Reading a caller's JSON field by field, so that a wrong one is named by its path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmpipe.errors import InvalidRequest

__all__ = ("Fields", "invalid")


def invalid(path: str, problem: str, *, code: str = "invalid_value") -> InvalidRequest:
    """The error that says what is wrong with the field at `path`; nothing was sent to anybody."""
    return InvalidRequest(
        f"{path}: {problem}",
        code=code,
        phase="validate",
        sent=False,
        health="ignore",
        metadata={"param": path},
    )


class Fields:
    """One JSON object of a caller, from which fields are taken one by one; `rest` is what was not.

    Every getter removes the field, gives None where it is absent or null, and raises
    InvalidRequest naming the path, such as ``messages[2].content[0].image_url.url``, where it has
    another type. `need` makes an absent field an error.
    """

    __slots__ = ("path", "rest")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise invalid(path or "body", f"an object was expected, not {_kind(value)}", code="invalid_type")
        self.rest: dict[str, Any] = dict(value)
        self.path = path

    def at(self, name: str) -> str:
        """The path of a field of this object."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str) -> Any:
        """The field, whatever its type."""
        return self.rest.pop(name, None)

    def text(self, name: str) -> str | None:
        """The field, a string."""
        value = self.take(name)
        if value is not None and type(value) is not str:
            raise self._wrong(name, "a string", value)
        return value

    def flag(self, name: str) -> bool | None:
        """The field, true or false."""
        value = self.take(name)
        if value is not None and type(value) is not bool:
            raise self._wrong(name, "true or false", value)
        return value

    def whole(self, name: str, low: int | None = None, high: int | None = None) -> int | None:
        """The field, an integer in [low, high]; ``16.0`` is one too, as JSON has no integers."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self._wrong(name, "an integer", value)
        self._bounds(name, value, low, high)
        return value

    def number(self, name: str, low: float | None = None, high: float | None = None) -> float | None:
        """The field, a finite number in [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(name, "a finite number", value)
        self._bounds(name, value, low, high)
        return value  # type: ignore[no-any-return]  # checked above, through a type() that mypy does not follow

    def table(self, name: str) -> dict[str, Any] | None:
        """The field, an object."""
        value = self.take(name)
        if value is not None and type(value) is not dict:
            raise self._wrong(name, "an object", value)
        return value

    def items(self, name: str) -> list[Any] | None:
        """The field, a list."""
        value = self.take(name)
        if value is not None and type(value) is not list:
            raise self._wrong(name, "a list", value)
        return value

    def need(self, name: str) -> Fields:
        """This object, once it is sure that the field is there."""
        if self.rest.get(name) is None:
            raise invalid(self.at(name), "is required", code="missing_required_parameter")
        return self

    def unknown(self) -> dict[str, Any]:
        """What nobody took, without nulls."""
        return {name: value for name, value in self.rest.items() if value is not None}

    def _wrong(self, name: str, expected: str, value: object) -> InvalidRequest:
        return invalid(self.at(name), f"{expected} was expected, not {_kind(value)}", code="invalid_type")

    def _bounds(self, name: str, value: float, low: float | None, high: float | None) -> None:
        if low is not None and value < low:
            raise invalid(self.at(name), f"must be at least {low}, not {value}")
        if high is not None and value > high:
            raise invalid(self.at(name), f"must be at most {high}, not {value}")


_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), f"a {type(value).__name__}")
