"""Values of `extra`, headers and other mappings as JSON, exactly, and back.

A value that JSON has no form for (a tuple, bytes, infinity, a long integer, a mapping with a key
that is not text) stands in the JSON as an object of two: ``$`` says what it is, ``v`` how it is told.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from math import isfinite
from typing import Any

from llmpipe.types.frozen import FrozenDict, FrozenList

__all__ = ("Unfit", "as_list", "as_text", "items", "read_value", "write_value")

_INT64 = 2**63
_MAX_DIGITS = 1000  # of an integer: reading a longer one takes time that grows with the square


class Unfit(ValueError):
    """A value that has no place where it stands."""


def write_value(value: Any) -> Any:
    """`value` as what JSON can say exactly.

    Raises: Unfit for a foreign class or an integer of a thousand digits; RecursionError.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else _tagged("int", _long(value))
    if kind is float:
        return value if isfinite(value) else _tagged("float", repr(value))
    if isinstance(value, Mapping):
        if all(type(key) is str for key in value) and "$" not in value:
            return {key: write_value(item) for key, item in value.items()}
        return _tagged("dict", [[write_value(k), write_value(v)] for k, v in value.items()])
    if isinstance(value, list):
        return [write_value(item) for item in value]
    if kind is tuple:
        return _tagged("tuple", [write_value(item) for item in value])
    if kind is bytes:
        return _tagged("bytes", b64encode(value).decode())
    if isinstance(value, str):  # a member of an enumeration, for one: equal to its text
        return str.__str__(value)
    raise Unfit(f"{kind.__name__} has no JSON")


def read_value(told: Any) -> Any:
    """The value that `write_value` told so, which nobody can change.

    Raises: Unfit for what it never wrote; RecursionError.
    """
    kind = type(told)
    if kind is list:
        return FrozenList([read_value(item) for item in told])
    if kind is not dict:
        return told
    if "$" not in told:
        return FrozenDict({key: read_value(item) for key, item in told.items()})
    if len(told) != len(("$", "v")) or "v" not in told:
        raise Unfit("not a tagged value")
    tag, value = told["$"], told["v"]
    if tag == "tuple":
        return tuple(read_value(item) for item in as_list(value))
    if tag == "dict":
        try:
            return FrozenDict(
                {read_value(k): read_value(v) for k, v in (items(pair, 2) for pair in as_list(value))}
            )
        except TypeError:
            raise Unfit("a key that cannot be one") from None
    return _read_atom(tag, as_text(value))


def _read_atom(tag: Any, value: str) -> Any:
    try:
        if tag == "bytes":
            return b64decode(value, validate=True)
        if tag == "float" and value in ("inf", "-inf", "nan"):
            return float(value)
        if tag == "int" and len(value) <= _MAX_DIGITS:
            return int(value)
    except ValueError:
        raise Unfit(f"not {tag}") from None
    raise Unfit("not a tagged value")


def _tagged(tag: str, value: Any) -> dict[str, Any]:
    return {"$": tag, "v": value}


def _long(value: int) -> str:
    if value.bit_length() > 3 * _MAX_DIGITS:
        raise Unfit("an integer of a thousand digits")
    return str(value)


def as_text(value: Any) -> Any:
    """`value`, which is text.

    Raises: Unfit if it is not.
    """
    if not isinstance(value, str):
        raise Unfit(f"{type(value).__name__} where text stands")
    return value


def as_list(told: Any) -> list[Any]:
    """`told`, which is a JSON array.

    Raises: Unfit if it is not.
    """
    if type(told) is not list:
        raise Unfit(f"{type(told).__name__} where a list stands")
    return told


def items(told: Any, count: int) -> list[Any]:
    """The items of a JSON array of `count`.

    Raises: Unfit if it is not one.
    """
    if len(as_list(told)) != count:
        raise Unfit(f"{len(told)} items where {count} stand")
    return as_list(told)
