"""From the JSON that a model wrote to the values that a function takes.

What the schema says is checked first and strictly: a model that writes ``"3"`` for a number is told so
and does better; taken as it is, ``"no"`` would be a true bool. cattrs then makes what JSON has no type
for: classes, enums, dates, sets.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NotRequired, Required, Union, get_args, get_origin, is_typeddict
from uuid import UUID

from llmpipe.tools.mismatch import mismatches
from llmpipe.tools.schema import NOTHING, Member, is_pydantic, resolved, schema_of

__all__ = ("WrongArguments", "checked", "structured")

_NAMED = 10  # problems that the model is told of at once
_COUNTED = 1000


class WrongArguments(ValueError):
    """The model's arguments are not what the tool takes. Its text is what the model is told."""


def checked(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raises: WrongArguments that says of everything wrong where it is and what would be right."""
    problems = [*islice(mismatches(given, schema), _COUNTED)]
    if problems:
        count = "many" if len(problems) == _COUNTED else str(len(problems) - _NAMED)
        more = f"; and {count} more" if len(problems) > _NAMED else ""
        raise WrongArguments("; ".join(problems[:_NAMED]) + more)


def structured(given: Mapping[str, Any], members: Mapping[str, Member]) -> dict[str, Any]:
    """The arguments `given`, which fit the schema, as what the hints say.

    Raises: WrongArguments where a date is none, or a class refuses what it is made of.
    """
    from cattrs import transform_error

    values, problems = {}, []
    for name, value in given.items():
        try:
            values[name] = _converter().structure(value, members[name].hint)
        except Exception as error:  # noqa: BLE001  a class's own checks may raise anything: the model is told
            problems += transform_error(error, path=name, format_exception=_told)
    if problems:
        raise WrongArguments("; ".join(map(_turned, problems[:_NAMED])))
    return values


@cache
def _converter() -> Any:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True, use_alias=True)
    for kind in (datetime, date, time):
        converter.register_structure_hook(kind, _moment)
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(str(value)))
    for made in (Path, PurePath, UUID):
        converter.register_structure_hook(made, lambda value, kind: kind(value))
    converter.register_structure_hook_func(is_pydantic, lambda value, kind: kind.model_validate(value))
    converter.register_structure_hook_func(
        lambda hint: _origin(hint) in (Iterable, Collection),
        lambda value, hint: [converter.structure(item, get_args(hint)[0]) for item in value],
    )
    converter.register_structure_hook_func(
        lambda hint: _origin(hint) is AbstractSet,
        lambda value, hint: {converter.structure(item, get_args(hint)[0]) for item in value},
    )
    converter.register_structure_hook_func(
        _is_union, lambda value, hint: converter.structure(value, _meant(value, hint))
    )
    converter.register_structure_hook_func(
        is_typeddict,  # with postponed annotations cattrs does not see what is NotRequired
        lambda value, kind: {
            key: converter.structure(item, hint)
            for key, hint in resolved(kind, kind.__name__).items()
            if (item := value.get(key, NOTHING)) is not NOTHING
        },
    )
    converter.register_structure_hook_func(
        _is_marked, lambda value, hint: converter.structure(value, get_args(hint)[0])
    )
    as_it_is = (dict, list, None, type(None), Mapping, Sequence, Collection, Iterable)
    converter.register_structure_hook_func(lambda hint: _bare(hint) in as_it_is, lambda value, _: value)
    return converter


def _origin(hint: Any) -> Any:
    return get_origin(hint)


def _bare(hint: Any) -> Any:
    """`List` as list."""
    return hint if get_args(hint) else get_origin(hint) or hint


def _is_union(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin is Union or origin is types.UnionType


def _is_marked(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin in (NotRequired, Required)


def _meant(value: Any, union: Any) -> Any:
    """The first of a union that `value` fits; it fits one, for that has been checked."""
    return next(one for one in get_args(union) if not any(mismatches(value, schema_of(one, "union"))))


def _moment(value: str, kind: Any) -> Any:
    return kind.fromisoformat(value)


def _turned(problem: str) -> str:
    """What cattrs says as ``problem @ path``, the path first as everywhere here."""
    text, _, path = problem.rpartition(" @ ")
    return f"{path}: {text}"


def _told(error: BaseException, _: type | None) -> str:
    return str(error) or type(error).__name__
