"""Where a JSON value is not what a JSON Schema says, in words that a model can act on.

The vocabulary of schemas for tools: types, enums, const, objects, arrays, bounds, combinations and
references within the schema. What else a schema says (``pattern``, ``format``, conditions) is for the
tool to check, and let pass here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from attrs import field, frozen

__all__ = ("mismatches",)

_MAX_DEPTH = 64
_ENOUGH = 50  # problems by which the parts of a union are compared
_KINDS = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"),
    "exclusiveMaximum": (operator.lt, "less than"),
}
_CALLED = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "boolean": "a boolean",
    "integer": "an integer",
    "number": "a number",
    "null": "null",
}


@frozen
class _Whole:
    """What references are to, and what has been found of unions.

    What a model writes is nested as deep as it likes, and without `found` each union round it would look at
    all of it once for each of its parts: twice as long for every level.
    """

    schema: Any
    found: dict[tuple[str, int, int], list[str]] = field(factory=dict)


def mismatches(
    value: Any, schema: Any, path: str = "", root: _Whole | None = None, depth: int = 0
) -> Iterator[str]:
    """Each way in which `value` is not what `schema` says, as ``path: what is wrong``.

    Args: path is where the value stands, ``""`` for the whole; the others are for itself.
    """
    root = _Whole(schema) if root is None else root
    if depth > _MAX_DEPTH:
        yield _at(path, "is nested too deep")
        return
    if not isinstance(schema, Mapping):
        if schema is False:
            yield _at(path, "must not be given")
        return
    if "$ref" in schema:
        yield from mismatches(value, _referred(schema["$ref"], root.schema), path, root, depth + 1)
    if (wrong := _of_kind(value, schema)) is not None:
        yield _at(path, wrong)
        return  # the rest would say the same in other words
    if isinstance(value, dict):
        yield from _in_object(value, schema, path, root, depth)
    elif isinstance(value, list):
        yield from _in_array(value, schema, path, root, depth)
    else:
        yield from _bounds(value, schema, path)
    for part in _listed(schema, "allOf"):
        yield from mismatches(value, part, path, root, depth + 1)
    for name in ("anyOf", "oneOf"):
        if parts := _listed(schema, name):
            yield from _of_any(value, parts, path, root, depth)


def _of_kind(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with the kind of `value`, or that it is none of those listed."""
    told = schema.get("type")
    types = (told,) if isinstance(told, str) else told if isinstance(told, Sequence) else ()
    if types and not any(_is_a(value, kind) for kind in types):
        expected = " or ".join(_CALLED.get(kind, str(kind)) for kind in types)
        return f"must be {expected}, and is {_KINDS.get(type(value), 'something else')}"
    listed = schema.get("enum")
    if isinstance(listed, Sequence) and not any(_same(value, one) for one in listed):
        return f"must be one of {', '.join(map(repr, listed[:30]))}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"must be {schema['const']!r}"
    return None


def _is_a(value: Any, kind: object) -> bool:
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return _KINDS.get(type(value)) == _CALLED.get(str(kind))


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) is isinstance(other, bool)  # in Python True is 1


def _in_object(
    value: dict[str, Any], schema: Mapping[str, Any], path: str, root: _Whole, depth: int
) -> Iterator[str]:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    for name in _listed(schema, "required"):
        if name not in value:
            yield _at(_join(path, name), "is missing")
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name in properties:
            yield from mismatches(item, properties[name], _join(path, name), root, depth + 1)
        elif others is False and "patternProperties" not in schema:
            known = ", ".join(properties) or "none"
            yield _at(_join(path, name[:60]), f"is not known here; known are: {known}")
        else:
            yield from mismatches(item, others, _join(path, name[:60]), root, depth + 1)


def _in_array(
    value: list[Any], schema: Mapping[str, Any], path: str, root: _Whole, depth: int
) -> Iterator[str]:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if isinstance(least, int) and len(value) < least:
        yield _at(path, f"must have at least {least} items, and has {len(value)}")
    if isinstance(most, int) and len(value) > most:
        yield _at(path, f"must have at most {most} items, and has {len(value)}")
    places = _listed(schema, "prefixItems")
    for at, item in enumerate(value):
        inner = places[at] if at < len(places) else schema.get("items", True)
        yield from mismatches(item, inner, f"{path}[{at}]", root, depth + 1)


def _bounds(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, str):
        least, most = schema.get("minLength"), schema.get("maxLength")
        if isinstance(least, int) and len(value) < least:
            yield _at(path, f"must have at least {least} characters")
        if isinstance(most, int) and len(value) > most:
            yield _at(path, f"must have at most {most} characters")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        for name, (holds, words) in _BOUNDS.items():
            bound = schema.get(name)
            if isinstance(bound, int | float) and not isinstance(bound, bool) and not holds(value, bound):
                yield _at(path, f"must be {words} {bound}")


def _of_any(value: Any, parts: Sequence[Any], path: str, root: _Whole, depth: int) -> Iterator[str]:
    """Nothing where one of `parts` fits; else what is wrong by the part that comes nearest."""
    nearest: list[str] | None = None
    for part in parts:
        key = path, id(value), id(part)  # all of them are alive as long as this; a path alone may stand twice
        wrong = root.found.get(key)
        if wrong is None:
            wrong = root.found[key] = [*islice(mismatches(value, part, path, root, depth + 1), _ENOUGH)]
        if not wrong:
            return
        # A part of another kind fails at once, with one line about the whole: it is not what was meant.
        if nearest is None or (nearest[0].startswith(_at(path, "must be")) and len(wrong) >= len(nearest)):
            nearest = wrong
    kinds = [_CALLED.get(str(part.get("type"))) for part in parts if isinstance(part, Mapping)]
    if nearest and all(kinds) and not any(_is_a(value, part["type"]) for part in parts):
        yield _at(path, f"must be {' or '.join(map(str, dict.fromkeys(kinds)))}")
    else:
        yield from nearest or ()


def _referred(reference: Any, root: Any) -> Any:
    """What ``#/$defs/name`` is in `root`; True, which everything fits, where it is not there."""
    found = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    for name in reference[1:].split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return True
        found = found[name]
    return found


def _listed(schema: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = schema.get(name)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(path: str, problem: str) -> str:
    return f"{path or 'the arguments'}: {problem}"
