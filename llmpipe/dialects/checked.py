"""Reading a caller's JSON field by field, so that a wrong one is named by its path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from llmpipe.errors import InvalidRequest
from llmpipe.types import ToolCall

__all__ = ("Fields", "arguments_of", "invalid")


def invalid(path: str, problem: str, *, code: str | None = "invalid_value") -> InvalidRequest:
    """The error that says what is wrong with the field at `path`; nothing was sent to anybody."""
    return InvalidRequest(
        f"{path}: {problem}",
        code=code,
        phase="validate",
        sent=False,
        health="ignore",
        metadata={"param": path},
    )


def arguments_of(call: ToolCall, path: str) -> dict[str, Any]:
    """The arguments of a call of the history, for a wire that has them as an object.

    Raises: InvalidRequest naming the path where they are none; nothing was sent to anybody.
    """
    try:
        return call.args
    except InvalidRequest as error:
        raise invalid(f"{path}.arguments", error.message, code=error.code) from None


class Fields:
    """One JSON object of a caller, from which fields are taken one by one; `rest` is what was not.

    Every getter removes the field, gives None where it is absent or null, and raises
    InvalidRequest naming the path, such as ``messages[2].content[0].image_url.url``, where it has
    another type. `need` makes an absent field an error. A dialect whose own API says it in other
    words has a subclass with these.
    """

    __slots__ = ("path", "rest")

    expected: ClassVar[str] = "{} was expected, not {}"
    required: ClassVar[str] = "is required"
    coded: ClassVar[bool] = True
    """Whether its errors have a code besides their words."""

    def __init__(self, value: object, path: str = "") -> None:
        self.path = path
        if not isinstance(value, dict):
            raise self._wrong(path or "body", "an object", value)
        self.rest: dict[str, Any] = dict(value)

    def at(self, name: str | int) -> str:
        """The path of a field of this object."""
        return f"{self.path}.{name}" if self.path else str(name)

    def take(self, name: str) -> Any:
        """The field, whatever its type."""
        return self.rest.pop(name, None)

    def text(self, name: str) -> str | None:
        """The field, a string."""
        value = self.take(name)
        if value is not None and type(value) is not str:
            raise self._wrong(self.at(name), "a string", value)
        return value

    def need_text(self, name: str) -> str:
        """The field, a string that has to be there."""
        return self.need(name).text(name) or ""

    def flag(self, name: str) -> bool | None:
        """The field, true or false."""
        value = self.take(name)
        if value is not None and type(value) is not bool:
            raise self._wrong(self.at(name), "true or false", value)
        return value

    def whole(self, name: str, low: int | None = None, high: int | None = None) -> int | None:
        """The field, an integer in [low, high]; ``16.0`` is one too, as JSON has no integers."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self._wrong(self.at(name), "an integer", value)
        self._bounds(name, value, low, high)
        return value

    def number(self, name: str, low: float | None = None, high: float | None = None) -> float | None:
        """The field, a finite number in [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int and not (type(value) is float and math.isfinite(value)):
            raise self._wrong(self.at(name), "a finite number", value)
        self._bounds(name, value, low, high)
        return value

    def table(self, name: str) -> dict[str, Any] | None:
        """The field, an object."""
        value = self.take(name)
        if value is not None and type(value) is not dict:
            raise self._wrong(self.at(name), "an object", value)
        return value

    def items(self, name: str) -> list[Any] | None:
        """The field, a list."""
        value = self.take(name)
        if value is not None and type(value) is not list:
            raise self._wrong(self.at(name), "a list", value)
        return value

    def nested(self, name: str) -> Self:
        """The fields of the field, an object that has to be there."""
        return type(self)(self.need(name).take(name), self.at(name))

    def need(self, name: str) -> Self:
        """This object, once it is sure that the field is there."""
        if self.rest.get(name) is None:
            raise self._invalid(self.at(name), self.required, "missing_required_parameter")
        return self

    def unknown(self) -> dict[str, Any]:
        """What nobody took, without nulls."""
        return {name: value for name, value in self.rest.items() if value is not None}

    def _invalid(self, path: str, problem: str, code: str) -> InvalidRequest:
        return invalid(path, problem, code=code if self.coded else None)

    def _wrong(self, path: str, expected: str, value: object) -> InvalidRequest:
        return self._invalid(path, self.expected.format(expected, _kind(value)), "invalid_type")

    def _bounds(self, name: str, value: float, low: float | None, high: float | None) -> None:
        if low is not None and value < low:
            raise self._invalid(self.at(name), f"must be at least {low}, not {value}", "invalid_value")
        if high is not None and value > high:
            raise self._invalid(self.at(name), f"must be at most {high}, not {value}", "invalid_value")


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
