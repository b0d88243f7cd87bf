"""Values that can be handed to many owners, because none of them can change them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from sys import getsizeof
from typing import Any, NoReturn, TypeVar, cast

from attrs import fields, has

__all__ = ("FrozenDict", "FrozenList", "freeze")

V = TypeVar("V")
_ATOMS = frozenset((str, int, float, bool, bytes, type(None)))


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError("this reply is shared, by a cache or by callers who asked the same; copy what you change")


class FrozenDict(dict[Any, Any]):
    """A dict that cannot be changed. JSON encoders and ``==`` take it for a plain one."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return {key: _thawed(value, memo) for key, value in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenDict, (dict(self),))


class FrozenList(list[Any]):
    """A list that cannot be changed. JSON encoders and ``==`` take it for a plain one."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [_thawed(value, memo) for value in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenList, (list(self),))


def _thawed(value: Any, memo: dict[int, Any]) -> Any:
    return deepcopy(value, memo)


def freeze(value: V) -> tuple[V, int]:
    """A copy of `value` that nobody can change, sharing its strings; and its size in bytes.

    Takes what replies are made of: attrs values, mappings, sequences, plain values. Equal to the
    original, and the size is what CPython takes for it.
    """
    copy, size = _freeze(value)
    return cast("V", copy), size


def _freeze(value: Any) -> tuple[Any, int]:
    kind = type(value)
    if kind in _ATOMS:
        return value, getsizeof(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        return _sequence(value)
    if has(kind) and "__slots__" in kind.__dict__:
        return _attrs(value, kind)
    # Something with a buffer, such as an array of floats: copied, for its owner may go on writing.
    return deepcopy(value), getsizeof(value)


def _mapping(value: Mapping[Any, Any]) -> tuple[FrozenDict, int]:
    if not value:
        return _EMPTY, 0
    items, size = {}, 0
    for key, item in value.items():
        items[key], more = _freeze(item)
        size += more + getsizeof(key)
    copy = FrozenDict(items)
    return copy, size + getsizeof(copy)


def _sequence(value: list[Any] | tuple[Any, ...]) -> tuple[Any, int]:
    shape: type[Any] = tuple if isinstance(value, tuple) else FrozenList
    if set(map(type, value)) == {float}:  # an embedding: thousands of them
        copy = shape(value)
        return copy, getsizeof(copy) + 24 * len(value)
    pairs = [_freeze(item) for item in value]
    copy = shape([item for item, _ in pairs])
    return copy, getsizeof(copy) + sum([more for _, more in pairs])


def _attrs(value: Any, kind: type) -> tuple[Any, int]:
    copy: Any = object.__new__(kind)
    size = getsizeof(value)
    for name, put in _setters(kind):
        item = getattr(value, name)
        if type(item) in _ATOMS:
            size += getsizeof(item)
        else:
            item, more = _freeze(item)
            size += more
        put(copy, item)
    return copy, size


@lru_cache(maxsize=64)
def _setters(kind: type) -> list[tuple[str, Any]]:
    """For each field its name and what sets it on a value that is frozen to everybody else."""
    return [(field.name, getattr(kind, field.name).__set__) for field in fields(kind)]


_EMPTY = FrozenDict()
