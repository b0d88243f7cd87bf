"""Plain functions as middlewares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Middleware

__all__ = ("layer",)


@overload
def layer(wrong: object, /) -> NoReturn: ...
@overload
def layer(*, priority: int, name: str | None = None) -> Callable[[Callable[..., Any]], Middleware]: ...
def layer(
    *wrong: object, priority: int | None = None, name: str | None = None
) -> Callable[[Callable[..., Any]], Middleware]:
    """Make a function ``(call, call_next)`` a middleware, of its own name unless `name` is given.

    Raises: TypeError where it stands bare, without its priority.
    """
    if wrong or priority is None:
        raise TypeError(
            "a layer needs its place in the chain: @layer(priority=...), see llmpipe.pipeline.bands"
        )

    def mark(function: Any) -> Middleware:
        function.name = name or function.__name__
        function.priority = priority
        return cast("Middleware", function)

    return mark
