"""Schemas: Google's own kind, a subset of OpenAPI 3.0, to JSON Schema and back.

Google's ``Schema`` has types in upper case, ``nullable`` for null, no references, no
``additionalProperties``, and enums of strings only. Both APIs take JSON Schema too today, so it is
made of one only where a server wants it.
Source: https://ai.google.dev/api/caching#Schema; https://ai.google.dev/gemini-api/docs/structured-output
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.gemini_generate.fields import camel
from llmpipe.dialects.losses import Losses

__all__ = ("from_google", "to_google")

_TYPES = ("", "string", "number", "integer", "boolean", "array", "object", "null")
_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")
_MAX_DEPTH = 64
# What Google's schema has under the name that JSON Schema has for it.
_SAME = frozenset(
    (
        *_COUNTS,
        "default",
        "description",
        "example",
        "format",
        "maximum",
        "minimum",
        "pattern",
        "propertyOrdering",
        "required",
        "title",
    )
)


def from_google(schema: object, depth: int = 0) -> Any:
    """The JSON Schema that means the same as Google's `schema`; JSON Schema itself stays as it is.

    Types go to lower case (also where they are numbers), ``nullable`` becomes a type, 64-bit counts
    that are strings become numbers.
    """
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        name = camel(key)
        if name == "type":
            value = _type(value)
        elif name == "properties" and isinstance(value, Mapping):
            value = {one: from_google(inner, depth + 1) for one, inner in value.items()}
        elif name in ("items", "additionalProperties"):
            value = from_google(value, depth + 1)
        elif name in ("anyOf", "prefixItems") and isinstance(value, list):
            value = [from_google(inner, depth + 1) for inner in value]
        elif name in _COUNTS and isinstance(value, str) and value.isdecimal():
            value = int(value[:18])
        elif name in ("defs", "ref"):  # $defs and $ref in snake case have no underscore; kept as they are
            name = key
        result[name] = value
    if result.get("nullable") is True and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
        del result["nullable"]
        if isinstance(result.get("enum"), list) and None not in result["enum"]:
            result["enum"] = [*result["enum"], None]
    return result


def to_google(schema: Mapping[str, Any], path: str, losses: Losses) -> dict[str, Any]:
    """Google's schema for a JSON Schema. References are put in where they stand, one in itself once.

    Args: path names the schema to `losses`, which are told what it cannot say.
    """
    return _Reduction(schema, path, losses).reduce(schema, ())


def _type(value: object) -> object:
    if type(value) is int:
        return _TYPES[value] if 0 < value < len(_TYPES) else value
    if isinstance(value, list):
        return [_type(one) for one in value]
    return value.lower() if isinstance(value, str) else value


class _Reduction:
    """One schema on its way; `root` is where its references point."""

    def __init__(self, root: Mapping[str, Any], path: str, losses: Losses) -> None:
        self.root = root
        self.path = path
        self.losses = losses

    def reduce(self, schema: object, seen: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(schema, Mapping) or len(seen) > _MAX_DEPTH:
            return {}  # true: anything
        seen = (*seen, "")
        reference = schema.get("$ref")
        if isinstance(reference, str):
            if reference in seen:
                self._lost("$ref", "a schema inside itself")
                return {"type": "OBJECT"}
            more = {name: value for name, value in schema.items() if name != "$ref"}
            return self.reduce({**self._find(reference), **more}, (*seen, reference))
        whole = dict(schema)
        for one in schema.get("allOf") or ():
            found = self._find(one["$ref"]) if isinstance(one, Mapping) and "$ref" in one else one
            whole = _both(whole, found) if isinstance(found, Mapping) else whole
        result: dict[str, Any] = {name: whole[name] for name in _SAME if whole.get(name) is not None}
        self._choice(whole, result, seen)
        self._kind(whole, result)
        self._values(whole, result)
        if isinstance(whole.get("properties"), Mapping):
            properties = whole["properties"].items()
            result["properties"] = {name: self.reduce(inner, seen) for name, inner in properties}
        if "items" in whole or result.get("type") == "ARRAY":
            result["items"] = self.reduce(whole.get("items"), seen)
        for name in whole.keys() - _UNDERSTOOD:
            self._lost(name, "Google's schema has no such keyword")
        return result

    def _choice(self, whole: Mapping[str, Any], result: dict[str, Any], seen: tuple[str, ...]) -> None:
        """``anyOf``; the alternative null is ``nullable``, and a lone other one is the schema itself."""
        given = whole.get("anyOf") or whole.get("oneOf")
        if not isinstance(given, list):
            return
        others = [one for one in given if not (isinstance(one, Mapping) and one.get("type") == "null")]
        if len(others) < len(given):
            result["nullable"] = True
        choices = [self.reduce(one, seen) for one in others]
        if len(choices) == 1:
            result.update({**choices[0], **result})
        elif choices:
            result["anyOf"] = choices

    def _kind(self, whole: Mapping[str, Any], result: dict[str, Any]) -> None:
        kinds = whole.get("type")
        if kinds is None and "properties" in whole:
            kinds = "object"
        names = [str(kind).upper() for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind]
        if len(names) > 1 and "NULL" in names:
            names.remove("NULL")
            result["nullable"] = True
        if len(names) == 1:
            result["type"] = names[0]
        elif names:
            result["anyOf"] = [{"type": name} for name in names]
        if whole.get("nullable") is True:
            result["nullable"] = True

    def _values(self, whole: Mapping[str, Any], result: dict[str, Any]) -> None:
        values = [whole["const"]] if "const" in whole else whole.get("enum")
        if not isinstance(values, list):
            return
        if None in values:
            result["nullable"] = True
            values = [value for value in values if value is not None]
        if values and all(isinstance(value, str) for value in values):
            result["enum"] = values
            result.setdefault("type", "STRING")
        elif values:
            self._lost("enum", "Google's schema has enums of strings only")

    def _find(self, reference: str) -> Mapping[str, Any]:
        found: object = self.root
        for step in reference.removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            found = found if not step else found.get(step) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            self._lost("$ref", "it points nowhere")
            return {}
        return found

    def _lost(self, name: str, why: str) -> None:
        self.losses.dropped(f"{self.path}.{name}", why)


_UNDERSTOOD = _SAME | {
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "allOf",
    "anyOf",
    "const",
    "definitions",
    "enum",
    "items",
    "nullable",
    "oneOf",
    "properties",
    "type",
}


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that asks for what both ask for, as far as objects go."""
    result = {**other, **one}
    if isinstance(one.get("properties"), Mapping) and isinstance(other.get("properties"), Mapping):
        result["properties"] = {**other["properties"], **one["properties"]}
    if isinstance(one.get("required"), list) and isinstance(other.get("required"), list):
        result["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return result
