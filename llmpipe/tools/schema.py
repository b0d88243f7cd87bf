"""JSON Schema from type hints.

==========================================  ===============================================
hint                                        schema
==========================================  ===============================================
``str``, ``int``, ``float``, ``bool``       string, integer, number, boolean
``None``, ``Any``                           null; anything
``list[T]``, ``Sequence[T]``, ``set[T]``    array (of different items)
``tuple[T, ...]``, ``tuple[T, T]``          array (of so many items)
``dict[str, T]``, ``Mapping[str, T]``       object with any names
``Literal["a", 1]``, an ``Enum``            enum of the values
``T | None``, unions                        anyOf
``datetime``, ``date``, ``time``            string with a format (ISO 8601)
``UUID``; ``Path``; ``Decimal``             string with a format; string; number
TypedDict, dataclass, attrs class           object with these names and no others
pydantic model                              what it says of itself
``Annotated[T, "words"]``                   that of T, with a description
==========================================  ===============================================
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, is_typeddict
from uuid import UUID

import attrs
import orjson

from llmpipe.errors import ConfigError
from llmpipe.tools.docstring import described

__all__ = ("Member", "NOTHING", "is_pydantic", "members_of", "object_schema", "resolved", "schema_of")

NOTHING: Any = object()
"""The default of what has none."""

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    Any: {},
    Decimal: {"type": "number"},
    Path: {"type": "string"},
    PurePath: {"type": "string"},
    UUID: {"type": "string", "format": "uuid"},
    time: {"type": "string", "format": "time"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
}
_LISTS = frozenset((list, Sequence, Collection, Iterable))
_SETS = frozenset((set, frozenset, AbstractSet))
_MAPPINGS = frozenset((dict, Mapping))
_UNHASHABLE = frozenset((list, dict, set))
_TYPES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


@attrs.frozen
class Member:
    """One name of an object: an argument of a function, or a field of a class."""

    name: str
    hint: Any
    default: Any = NOTHING
    description: str = ""
    required: bool = True


def object_schema(members: Iterable[Member], where: str = "", within: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The JSON Schema of an object with these members and no others.

    Raises: ConfigError that names the member and the hint that has no schema.
    """
    properties: dict[str, Any] = {}
    required = []
    for member in members:
        place = f"{where}.{member.name}" if where else member.name
        schema = schema_of(member.hint, place, within)
        if member.description and "description" not in schema:
            schema = {**schema, "description": member.description}
        if member.required:
            required.append(member.name)
        elif (default := _as_json(member.default)) is not None:
            schema = {**schema, "default": default}
        properties[member.name] = schema
    made: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        made["required"] = required
    return {**made, "additionalProperties": False}


def schema_of(hint: Any, where: str, within: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The JSON Schema of what `hint` says; see the module.

    Args: where names the parameter in errors; within are the classes around it.
    Raises: ConfigError for a hint that has none, such as a class of no known kind.
    """
    if (plain := _plain(hint)) is not None:
        return dict(plain)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        words = next((word for word in args[1:] if isinstance(word, str)), "")
        schema = schema_of(args[0], where, within)
        return {**schema, "description": words} if words else schema
    if origin in (Required, NotRequired):
        return schema_of(args[0], where, within)
    if origin is Literal:
        return _enum(args, hint, where)
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, where, within) for one in args]}
    if (collected := _collection(hint, origin or hint, args, where, within)) is not None:
        return collected
    if isinstance(hint, typing.NewType):
        return schema_of(hint.__supertype__, where, within)
    if (alias := getattr(hint, "__value__", None)) is not None:  # `type X = ...` of Python 3.12
        return schema_of(alias, where, within)
    if isinstance(hint, type):
        return _of_class(hint, where, within)
    raise _unsupported(hint, where)


def _collection(
    hint: Any, kind: Any, args: tuple[Any, ...], where: str, within: tuple[Any, ...]
) -> dict[str, Any] | None:
    """The schema of a list, set, tuple or mapping; None for what is none of these."""
    try:
        hash(kind)
    except TypeError:
        return None
    if kind is tuple and args:
        return _tuple(args, hint, where, within)
    if kind in _LISTS or kind in _SETS or (kind is tuple and hint is not tuple[()]):
        item = args[0] if args else Any
        schema = {"type": "array", "items": schema_of(item, where, within)}
        if kind not in _SETS:
            return schema
        if get_origin(item) in _UNHASHABLE or item in _UNHASHABLE or getattr(item, "__hash__", 0) is None:
            raise ConfigError(f"{where}: a set cannot hold {_name(item)}, which has no hash; use a list")
        return {**schema, "uniqueItems": True}
    if kind in _MAPPINGS and not args:
        return {"type": "object"}
    if kind in _MAPPINGS and len(args) == 2 and args[0] is str:
        return {"type": "object", "additionalProperties": schema_of(args[1], where, within)}
    return None


def _plain(hint: Any) -> Mapping[str, Any] | None:
    try:
        return _PLAIN.get(hint)
    except TypeError:  # Annotated with something that has no hash
        return None


def _of_class(kind: type, where: str, within: tuple[Any, ...]) -> dict[str, Any]:
    if issubclass(kind, enum.Enum):
        return _enum([one.value for one in kind], kind, where)
    if kind in within:
        raise ConfigError(f"{where}: {kind.__name__} refers to itself, which has no plain schema")
    if is_pydantic(kind):
        return _of_pydantic(kind, where)
    members = members_of(kind)
    if members is None:
        raise _unsupported(kind, where)
    schema = object_schema(members, where, (*within, kind))
    text = "" if _is_made_up(kind) else described(kind)[0]
    return {**schema, "description": text} if text else schema


def is_pydantic(kind: Any) -> bool:
    """Whether `kind` is a model that knows its schema, and how to be made of JSON."""
    return isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate")


def _of_pydantic(kind: Any, where: str) -> dict[str, Any]:
    whole: dict[str, Any] = kind.model_json_schema()
    known = whole.pop("$defs", {})

    def plain(schema: Any, within: tuple[str, ...]) -> Any:
        if isinstance(schema, list):
            return [plain(item, within) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if (reference := schema.get("$ref")) is None:
            return {key: plain(value, within) for key, value in schema.items()}
        name = str(reference).rpartition("/")[2]
        if name in within or name not in known:
            raise ConfigError(f"{where}: {name} refers to itself, which has no plain schema")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**plain(known[name], (*within, name)), **plain(beside, within)}

    made: dict[str, Any] = plain(whole, (kind.__name__,))
    return made


def members_of(kind: type) -> list[Member] | None:
    """The fields of a TypedDict, a dataclass or an attrs class; None for any other."""
    says = {} if _is_made_up(kind) else described(kind)[1]
    hints = resolved(kind, kind.__name__) if _has_fields(kind) else {}
    if is_typeddict(kind):
        needed: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return [
            Member(name, hint, description=says.get(name, ""), required=_needed(hint, name in needed))
            for name, hint in hints.items()
        ]
    if dataclasses.is_dataclass(kind):
        return [
            Member(
                field.name,
                hints[field.name],
                field.default,
                says.get(field.name, ""),
                field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            )
            for field in dataclasses.fields(kind)
            if field.init
        ]
    if attrs.has(kind):
        return [
            Member(
                field.alias or field.name,
                hints.get(field.name, Any),
                field.default,
                says.get(field.name, ""),
                field.default is attrs.NOTHING,
            )
            for field in attrs.fields(kind)
            if field.init
        ]
    return None


def resolved(documented: Callable[..., Any] | type, name: str) -> dict[str, Any]:
    """The type hints of the arguments of a function, or of a class.

    Raises: ConfigError where a name in them is not known.
    """
    try:
        if isinstance(documented, type):
            return typing.get_type_hints(documented, include_extras=True)
        # What it returns is nobody's business here, and may be a name that only a type checker knows.
        told = {key: hint for key, hint in _annotations(documented).items() if key != "return"}
        scope = getattr(inspect.unwrap(documented), "__globals__", {})
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=told), scope, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"{name}: the type hints cannot be read: {error}; with `from __future__ import annotations` "
            f"they may only name what its module has"
        ) from None
    except (TypeError, SyntaxError) as error:
        raise ConfigError(f"{name}: the type hints cannot be read: {error}") from None


def _annotations(function: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(function, "__annotations__", {})
    return found


def _has_fields(kind: type) -> bool:
    return is_typeddict(kind) or dataclasses.is_dataclass(kind) or attrs.has(kind)


def _needed(hint: Any, told: bool) -> bool:
    # With postponed annotations __required_keys__ does not know of Required and NotRequired.
    origin = get_origin(hint)
    return origin is Required or (told and origin is not NotRequired)


def _is_made_up(kind: type) -> bool:
    """Whether the docstring is the one that `dataclass` writes, or dict's."""
    text = kind.__dict__.get("__doc__") or ""
    return not isinstance(text, str) or not text or text.startswith(f"{kind.__name__}(")


def _enum(values: Sequence[Any], hint: Any, where: str) -> dict[str, Any]:
    values = [one.value if isinstance(one, enum.Enum) else one for one in values]
    if not values or any(type(value) not in _TYPES for value in values):
        raise _unsupported(hint, where)
    names = sorted({_TYPES[type(value)] for value in values})
    return {"type": names[0], "enum": values} if len(names) == 1 else {"enum": values}


def _tuple(args: tuple[Any, ...], hint: Any, where: str, within: tuple[Any, ...]) -> dict[str, Any]:
    if len(args) == 2 and args[1] is Ellipsis:
        return {"type": "array", "items": schema_of(args[0], where, within)}
    if any(one != args[0] for one in args):
        raise _unsupported(hint, where)
    schema = schema_of(args[0], where, within)
    return {"type": "array", "items": schema, "minItems": len(args), "maxItems": len(args)}


def _as_json(default: Any) -> Any:
    """`default` as the schema can show it; None where it has none, or it is no JSON."""
    if default is NOTHING or default is None:
        return None
    try:
        return orjson.loads(orjson.dumps(default))
    except TypeError:
        return None


def _unsupported(hint: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: the type hint {_name(hint)} has no JSON Schema; it takes str, int, float, bool, None, "
        f"Any, list, tuple, set, dict[str, ...], Literal, Enum, unions, datetime, date, time, UUID, Path, "
        f"Decimal, TypedDict, dataclasses, attrs classes and pydantic models"
    )


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
