"""A caller's JSON object read field by field, and the names that Google's JSON has for things.

JSON for protocol buffers has lowerCamelCase names and takes snake_case ones too; Google's own SDKs
send both, sometimes in one body. Enums are words, or numbers where somebody asked for those.
Source: https://protobuf.dev/programming-guides/json/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmpipe.dialects import checked

__all__ = (
    "Fields",
    "NAME",
    "bare_model",
    "camel",
    "full_model",
    "generation",
    "is_pro",
    "merged",
)

NAME = "gemini.generate"

_UNDERSCORE = re.compile("_([a-z0-9])")
_GENERATION = re.compile(r"gemini-(?:[a-z]+-)*([0-9]{1,3})(?![0-9])")
_LATEST = 3
"""What Google's names without a number (``gemini-flash-latest``) mean at least."""


def camel(name: str) -> str:
    """``inlineData`` for ``inline_data``; itself for any name without an underscore inside."""
    if "_" not in name:
        return name
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name)


def bare_model(name: str) -> str:
    """``gemini-2.5-pro`` for ``models/gemini-2.5-pro``, and for Vertex AI's longer names."""
    head, found, model = name.rpartition("models/")
    return model if found and (not head or head.endswith("/")) else name


def full_model(name: str) -> str:
    """``models/gemini-2.5-pro`` for ``gemini-2.5-pro``; ``tunedModels/…`` is full already."""
    return name if "/" in name or not name else f"models/{name}"


def generation(model: str) -> int | None:
    """3 for ``gemini-3-pro-preview``; None for a name that does not tell (a tuned model's endpoint)."""
    found = _GENERATION.search(model)
    if found is not None:
        return int(found[1])
    return _LATEST if "gemini" in model and model.endswith("-latest") else None


def is_pro(model: str) -> bool:
    """Whether it is one of the models that cannot do without thinking."""
    return "-pro" in model


def merged(ours: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`ours` with `more` in it, objects field by field."""
    result = dict(ours)
    for name, value in more.items():
        old = result.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[name] = merged(old, value) if both else value  # type: ignore[arg-type]  # `both` narrows
    return result


class Fields(checked.Fields):
    """The same as everywhere, under camelCase names whichever spelling the caller uses."""

    __slots__ = ()

    def __init__(self, value: object, path: str = "") -> None:
        super().__init__(value, path)
        for name in [name for name in self.rest if "_" in name]:
            self.rest.setdefault(camel(name), self.rest.pop(name))
