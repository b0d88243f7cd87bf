"""Whether something is a JSON Schema of an object: its shape, not what it means.

For the schemas that people write by hand, of tools and of answers. A provider refuses a broken one
too, with words of its own and after it was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

__all__ = ("schema_problems",)

TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_MAX_DEPTH = 64
_MAX_PROBLEMS = 100
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMAS_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("additionalProperties", "contains", "if", "then", "else", "not", "propertyNames")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRINGS = ("description", "title", "pattern", "format", "$ref", "$schema", "$id")


_SAY_OBJECT = frozenset(("$ref", "allOf", "anyOf", "oneOf", "properties"))  # or may, without a type


def schema_problems(
    schema: object, path: str = "parameters", *, of_object: bool = True
) -> list[tuple[str, str]]:
    """What is wrong with `schema` as a JSON Schema: pairs of path and problem.

    With `of_object` it must be of an object, as a tool's parameters are. Names that JSON Schema does not
    have are let pass, as it says. A hundred problems are named at the most. Source: JSON Schema 2020-12,
    and draft 7 for what it had before.
    """
    if not isinstance(schema, Mapping):
        what = "a JSON Schema of an object" if of_object else "a JSON Schema"
        return [(path, f"is a {type(schema).__name__}; expected {what}")]
    found: list[tuple[str, str]] = []
    if of_object and schema.get("type", "object") != "object":
        found.append((f"{path}.type", f"is {_shown(schema['type'])}; arguments are an object"))
    elif of_object and schema and "type" not in schema and _SAY_OBJECT.isdisjoint(map(str, schema)):
        found.append((path, "has no type; expected {'type': 'object', 'properties': {...}}"))
    for problem in _problems(schema, path, 0):
        found.append(problem)
        if len(found) >= _MAX_PROBLEMS:
            break
    return found


class _Wrong(str):
    """What is wrong with a place that should hold schemas."""

    __slots__ = ()


def _problems(schema: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(schema, _Wrong):
        yield path, schema
        return
    if isinstance(schema, bool):  # True lets everything pass, False nothing
        return
    if not isinstance(schema, Mapping):
        yield path, f"is a {type(schema).__name__}; expected a schema"
        return
    if depth > _MAX_DEPTH:
        yield path, f"is nested more than {_MAX_DEPTH} deep"
        return
    if wrong := [key for key in schema if not isinstance(key, str)]:
        yield path, f"has a key that is no string: {_shown(wrong[0])}"
    yield from _of_type(schema, path)
    yield from _values(schema, path)
    yield from _required(schema, path)
    for name, place in _inner(schema, path):
        yield from _problems(name, place, depth + 1)


def _of_type(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    told = schema.get("type")
    if told is None and "type" not in schema:
        return
    types: Sequence[Any] = told if _is_list(told) else (told,)
    if not types:
        yield f"{path}.type", "is an empty list"
    for one in types:
        if not isinstance(one, str) or one not in TYPES:
            yield f"{path}.type", f"is {_shown(one)}; it takes {', '.join(sorted(TYPES))}"


def _values(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name in _COUNTS:
        if name in schema and (not _is_number(schema[name]) or schema[name] < 0 or schema[name] % 1):
            yield f"{path}.{name}", f"is {_shown(schema[name])}; expected a whole number, 0 or more"
    for name in _NUMBERS:
        if name in schema and not _is_number(schema[name]):
            yield f"{path}.{name}", f"is {_shown(schema[name])}; expected a number"
    for name in _STRINGS:
        if name in schema and not isinstance(schema[name], str):
            yield f"{path}.{name}", f"is a {type(schema[name]).__name__}; expected a string"
    if "enum" in schema and not (_is_list(schema["enum"]) and schema["enum"]):
        yield f"{path}.enum", "must be a list with something in it"


def _required(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    if "required" not in schema:
        return
    required, properties = schema["required"], schema.get("properties")
    if not _is_list(required) or not all(isinstance(name, str) for name in required):
        yield f"{path}.required", "must be a list of names of properties"
    elif isinstance(properties, Mapping) and schema.get("additionalProperties") is False:
        for name in required:
            if name not in properties:
                yield f"{path}.required", f"names {_shown(name)}, which is not among the properties"


def _inner(schema: Mapping[str, Any], path: str) -> Iterator[tuple[object, str]]:
    """The schemas within `schema`, and where; what is to hold some and does not is given for one itself."""
    for name in _SCHEMAS_BY_NAME:
        if name in schema:
            held = schema[name]
            if isinstance(held, Mapping):
                yield from ((inner, f"{path}.{name}.{_short(key)}") for key, inner in held.items())
            else:
                yield _Wrong(f"is a {type(held).__name__}; expected schemas by name"), f"{path}.{name}"
    for name in _SCHEMAS_LISTED:
        if name in schema:
            held = schema[name]
            if _is_list(held) and held:
                yield from ((inner, f"{path}.{name}[{at}]") for at, inner in enumerate(held))
            else:
                yield _Wrong("must be a list with a schema in it"), f"{path}.{name}"
    for name in _SCHEMAS:
        if name in schema:
            yield schema[name], f"{path}.{name}"
    items = schema.get("items", True)
    if _is_list(items):  # draft 7: one schema for each place
        yield from ((inner, f"{path}.items[{at}]") for at, inner in enumerate(items))
    else:
        yield items, f"{path}.items"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _short(key: object) -> str:
    text = str(key)
    return text if len(text) <= 40 else text[:39] + "…"


def _shown(value: object) -> str:
    return (
        _short(repr(value))
        if value is None or isinstance(value, str | int | float)
        else f"a {type(value).__name__}"
    )
