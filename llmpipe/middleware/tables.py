"""Settings that are lists of values with settings of their own: as they are, or as a file has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from llmpipe.errors import ConfigError
from llmpipe.pipeline.registry import structured

__all__ = ("tables",)

T = TypeVar("T")


def tables(kind: type[T], told: Any, where: str) -> tuple[T, ...]:
    """The values of `kind` in `told`: one or several, each of them one already or a table of its settings.

    Args: where is the name of the setting, which errors begin with: ``"rules"``.
    Raises: ConfigError that says which of them is wrong, and how.
    """
    if isinstance(told, kind | Mapping):
        told = (told,)
    if not isinstance(told, Iterable) or isinstance(told, str):
        raise ConfigError(f"{where} are a list of {kind.__name__}, not {told!r}")
    return tuple([_one(kind, value, f"{where}[{place}]") for place, value in enumerate(told)])


def _one(kind: type[T], told: Any, where: str) -> T:
    if isinstance(told, kind):
        return told
    if not isinstance(told, Mapping):
        raise ConfigError(f"{where} is a {kind.__name__}, or a table of its settings, not {told!r}")
    try:
        made: T = structured(kind, told)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return made
