"""Plain functions as middlewares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ("layer",)

F = TypeVar("F", bound=Callable[..., Any])


def layer(*, priority: int, name: str | None = None) -> Callable[[F], F]:
    """Make a function ``(call, call_next)`` a middleware, of its own name unless `name` is given."""

    def mark(function: F) -> F:
        function.name = name or function.__name__  # type: ignore[attr-defined]  # functions take attributes
        function.priority = priority  # type: ignore[attr-defined]  # functions take attributes
        return function

    return mark


middleware = layer
