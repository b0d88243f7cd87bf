"""What a chain and its calls are told, checked where it is told: typical slips, each with what is right."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from math import isnan
from typing import Any

from attrs import fields, fields_dict, has

from llmpipe.errors import ConfigError

__all__ = (
    "CALL_FIELDS",
    "called",
    "check_fields",
    "check_middleware",
    "check_settings",
    "kind_of",
    "nearest",
    "refuse_class",
    "refuse_single",
    "seconds",
)

CALL_FIELDS: dict[str, Any] = {
    "tenant": str,
    "user": str,
    "priority": int,
    "tags": Mapping,
    "options": Mapping,
    "without": Iterable,
}
"""The keywords of a call, besides `timeout`, and what each must be."""


def check_fields(request: object, told: Mapping[str, Any]) -> None:
    """Raises: ConfigError for a keyword that neither a request nor a call has, or of the wrong type."""
    if unknown := [key for key in told if key not in CALL_FIELDS]:
        kind: Any = type(request)
        hint = nearest(unknown[0], [*CALL_FIELDS, "timeout", *(a.name for a in fields(kind))])
        raise ConfigError(
            f"unknown keyword {', '.join(map(repr, unknown))}; a call takes "
            f"{', '.join(CALL_FIELDS)}, timeout, and the fields of {kind.__name__}{hint}"
        )
    for key, value in told.items():
        if not isinstance(value, CALL_FIELDS[key]):
            raise ConfigError(f"{key} is {called(value)}; expected {CALL_FIELDS[key].__name__}")


def check_settings(kind: Any, changes: Any) -> None:
    """Raises: ConfigError for settings changed for one call that the middleware `kind` does not have."""
    if not isinstance(changes, Mapping):
        raise ConfigError(
            f"options of {kind.__name__} are {called(changes)}; expected {{{kind.__name__}: {{...}}}}"
        )
    if not has(kind):
        return  # it reads what it is told by itself
    known = [key for key, attribute in fields_dict(kind).items() if attribute.init]
    for key in changes:
        if key not in known:
            hint = nearest(str(key), known) or f"; it has {', '.join(known)}"
            raise ConfigError(f"options: {kind.__name__} has no setting {key!r}{hint}")


def check_middleware(item: Any) -> None:
    """Raises: ConfigError for what cannot be a middleware, saying what it is and where it belongs."""
    if not callable(item):
        if isinstance(item, Iterable) and not isinstance(item, str | bytes):
            raise ConfigError(
                f"{called(item)} is no middleware; unpack it: Chain(provider, *presets.production())"
            )
        raise ConfigError(f"{item!r} is no middleware: it cannot be called with (call, call_next)")
    name, priority = getattr(item, "name", None), getattr(item, "priority", None)
    if priority is None and hasattr(item, "endpoint") and hasattr(item, "model"):
        raise ConfigError(
            f"{called(item)} is something to send calls to, and no middleware; the chain's own target "
            f"stands first, Chain(provider, ...), and others in a middleware that chooses: Fallback(other)"
        )
    if not isinstance(name, str) or not name:
        if inspect.isroutine(item) and not _takes_two(item):
            made = f"{item.__module__.rpartition('.')[2]}.{item.__qualname__}()"
            raise ConfigError(
                f"the function {item.__qualname__} is no middleware, as it does not take (call, call_next); "
                f"if it makes middlewares, call it, and unpack what it gives: *{made}"
            )
        raise ConfigError(
            f"middleware {kind_of(item)} has no name; give it `name` and `priority`, "
            f"or decorate a function with @layer(priority=...)"
        )
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise ConfigError(f"middleware {name!r} has no integer priority; see llmpipe.pipeline.bands")


def _takes_two(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a built-in that does not tell
        return True
    return True


def refuse_class(item: object) -> None:
    """Raises: ConfigError for a class where one of it is meant."""
    if isinstance(item, type):
        raise ConfigError(f"middleware {item.__name__} is a class; make one of it: {item.__name__}(...)")


def refuse_single(value: object, right: str) -> None:
    """Raises: ConfigError for a value that is nothing to go through."""
    if not isinstance(value, Iterable):
        raise ConfigError(f"{right}, not {called(value)}")


def seconds(told: Any) -> float:
    """`told` as a timeout. Raises: ConfigError for what is no number."""
    # A timer at NaN would never be due, nor any of the loop's that stand behind it.
    if not isinstance(told, int | float) or isnan(told):
        raise ConfigError(f"timeout is {told!r}; it must be a number of seconds")
    return told


def nearest(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing where no name is near."""
    close = get_close_matches(wrong, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def kind_of(item: object) -> str:
    """The name of a function, or of the class of anything else."""
    return getattr(item, "__qualname__", type(item).__qualname__)


def called(value: object) -> str:
    """What `value` is, in words that show nothing of what is in it."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
