"""Arguments of a tool call that come in pieces: ``partialArgs``, each with the path where it belongs.

Vertex AI sends them where ``streamFunctionCallArguments`` asks for them. A path is an RFC 9535 one of
names and indexes only, such as ``$.rooms[0].name`` or ``$['a b']``; a string goes on while its piece
says ``willContinue``.
Source: ``PartialArg`` of Vertex AI's API reference.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

__all__ = ("PartialArguments",)

_STEP = re.compile(r"""\.([^.\[\]]+)|\[([0-9]{1,6})\]|\['([^']*)'\]|\["([^"]*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue")
_MAX_INDEX = 100_000


class PartialArguments:
    """The arguments so far of the call whose events have this index."""

    __slots__ = ("args", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.args: dict[str, Any] = {}

    def add(self, pieces: list[Any]) -> None:
        """Put pieces where they belong; one without a path or a value that is understood is left out."""
        for piece in pieces:
            path = _steps(piece.get("jsonPath")) if isinstance(piece, dict) else ()
            if path:
                self._put(path, piece)

    def _put(self, path: tuple[str | int, ...], piece: dict[str, Any]) -> None:
        place: Any = self.args
        for step, following in pairwise(path):
            place = _child(place, step, [] if isinstance(following, int) else {})
            if place is None:
                return
        step = path[-1]
        name = next((name for name in _VALUES if piece.get(name) is not None), None)
        if name is None:
            if "nullValue" in piece:
                _set(place, step, None)
            return
        value, old = piece[name], _get(place, step)
        _set(place, step, old + value if isinstance(old, str) and isinstance(value, str) else value)


def _steps(path: object) -> tuple[str | int, ...]:
    if not isinstance(path, str) or not path.startswith("$"):
        return ()
    steps: list[str | int] = []
    position = 1
    while position < len(path):
        found = _STEP.match(path, position)
        if found is None:
            return ()
        dotted, index, single, double = found.groups()
        steps.append(int(index) if index is not None else dotted or single or double or "")
        position = found.end()
    return tuple(steps)


def _child(place: Any, step: str | int, empty: Any) -> Any:
    """What is at `step`, made where nothing is; None where something else is."""
    found = _get(place, step)
    if found is None:
        _set(place, step, empty)
        found = _get(place, step)
    return found if isinstance(found, (dict, list)) else None


def _get(place: Any, step: str | int) -> Any:
    if isinstance(place, dict):
        return place.get(str(step))
    return place[step] if isinstance(step, int) and step < len(place) else None


def _set(place: Any, step: str | int, value: Any) -> None:
    if isinstance(place, dict):
        place[str(step)] = value
    elif isinstance(step, int) and step < _MAX_INDEX:
        place.extend([None] * (step + 1 - len(place)))
        place[step] = value
