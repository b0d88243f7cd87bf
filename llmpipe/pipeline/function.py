"""Plain functions as middlewares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Middleware

__all__ = ("layer",)


def layer(*, priority: int, name: str | None = None) -> Callable[[Callable[..., Any]], Middleware]:
    """Make a function ``(call, call_next)`` a middleware, of its own name unless `name` is given."""

    def mark(function: Any) -> Middleware:
        function.name = name or function.__name__
        function.priority = priority
        return cast("Middleware", function)

    return mark
