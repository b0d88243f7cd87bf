"""A caller's JSON object read field by field, each with its type; what nobody read is left over."""

from __future__ import annotations

from typing import Any

from llmpipe.dialects.anthropic_messages.blocks import invalid

__all__ = ("Fields",)


class Fields:
    """The fields of one JSON object. Every method takes a field out; `rest` is what is left.

    A null counts as absent. Raises: InvalidRequest that names the path, such as
    ``messages.0.content.1.source.type``, where a field is missing or of another type.
    """

    __slots__ = ("path", "rest")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise invalid(path or "body", f"Input should be an object, not {_kind(value)}")
        self.path = path
        self.rest: dict[str, Any] = dict(value)

    def at(self, name: str | int) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else str(name)

    def text(self, name: str) -> str:
        """A string that has to be there."""
        value = self.optional_text(name)
        if value is None:
            raise invalid(self.at(name), "Field required")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None."""
        value = self.rest.pop(name, None)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a valid string", value)
        return value

    def integer(self, name: str) -> int | None:
        """An integer of 0 or more, or None; ``16.0`` is one too, as JSON has no integers."""
        value = self.rest.pop(name, None)
        if type(value) is float and value.is_integer():
            value = int(value)
        if value is not None and (type(value) is not int or value < 0):
            raise self._wrong(name, "a valid integer of 0 or more", value)
        return value

    def number(self, name: str) -> float | None:
        """A number, or None."""
        value = self.rest.pop(name, None)
        if value is not None and type(value) not in (int, float):
            raise self._wrong(name, "a valid number", value)
        return value  # type: ignore[no-any-return]  # JSON has no other type left

    def flag(self, name: str) -> bool | None:
        """True, False or None."""
        value = self.rest.pop(name, None)
        if value is not None and type(value) is not bool:
            raise self._wrong(name, "a valid boolean", value)
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object, or None."""
        value = self.rest.pop(name, None)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return value

    def array(self, name: str) -> list[Any] | None:
        """A JSON array, or None."""
        value = self.rest.pop(name, None)
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, "a valid list", value)
        return value

    def fields(self, name: str) -> Fields:
        """The fields of a nested object that has to be there."""
        if self.rest.get(name) is None:
            raise invalid(self.at(name), "Field required")
        return Fields(self.rest.pop(name), self.at(name))

    def _wrong(self, name: str, wanted: str, value: object) -> Exception:
        return invalid(self.at(name), f"Input should be {wanted}, not {_kind(value)}")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
