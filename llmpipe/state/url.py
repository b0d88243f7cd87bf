"""Settings in the URL of a backend: what stands behind its ``?``, read strictly.

For whoever brings a backend. No error shows a value, nor a name that is not known: where somebody forgot to
write a ``?`` in a password as ``%3F``, they are pieces of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import overload
from urllib.parse import parse_qsl

from llmpipe.errors import ConfigError
from llmpipe.pipeline.checks import nearest

__all__ = ("flag", "number", "one_of", "options")

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})(e[+-]?[0-9]{1,2})?")


def options(query: str, known: Collection[str], *, of: str) -> dict[str, str]:
    """The settings in `query` by name, unescaped: ``timeout=2&pool=10``.

    Args: `known` names those there are; `of` says for people what it is that has them: ``"a bucket"``.
    Raises: ConfigError for one that is not known, or is there twice.
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise ConfigError(
                f"the URL of {of} has a setting that is not known{nearest(name, sorted(known))}; "
                f"it takes {', '.join(sorted(known))}"
            )
        if name in found:
            raise ConfigError(f"the URL of {of} sets {name!r} twice")
        found[name] = value
    return found


@overload
def number(name: str, text: str, least: int, most: int, *, of: str) -> int: ...
@overload
def number(name: str, text: str, least: float, most: float, *, of: str) -> float: ...
def number(name: str, text: str, least: float, most: float, *, of: str) -> float:
    """The number in `text`, from `least` to `most`; a whole one where `least` is an int.

    Plain digits, with a point or an exponent where it need not be whole: not Python's ``1_000`` or ``inf``.
    Raises: ConfigError.
    """
    whole = isinstance(least, int)
    if (_WHOLE if whole else _DECIMAL).fullmatch(text):
        value = int(text) if whole else float(text)
        if least <= value <= most:
            return value
    kind = "whole number" if whole else "number"
    raise ConfigError(f"{name} of {of} is a {kind} from {least:g} to {most:g}")


def flag(name: str, text: str, *, of: str) -> bool:
    """Whether `text` is ``true`` or ``1``, and not ``false`` or ``0``. Raises: ConfigError for all else."""
    if text not in ("0", "1", "false", "true"):
        raise ConfigError(f"{name} of {of} is true or false")
    return text in ("1", "true")


def one_of(name: str, text: str, known: Collection[str], *, of: str) -> str:
    """`text`, which is one of `known`. Raises: ConfigError."""
    if text not in known:
        raise ConfigError(f"{name} of {of} is one of {', '.join(known)}")
    return text
