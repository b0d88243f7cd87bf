"""Containers that cannot be changed, so that a value may have many owners."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NoReturn

__all__ = ("EMPTY", "FrozenDict", "FrozenList")


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


EMPTY = FrozenDict()
"""What `extra` is where the wire had nothing more: one object for all, and cheaper than a dict each."""
