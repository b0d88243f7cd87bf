"""Builds the onion: each middleware round the next, once, when the chain is made.

The laws, which `tests/pipeline/test_linker.py` holds:

1. A middleware returns its reply, or yields it exactly once. What yielded is resumed exactly once
   with an `Outcome` when the reply is over: finished, failed, cancelled or abandoned.
2. A reply that a middleware opened and did not hand on is closed as soon as the middleware is done,
   however it is done.
3. Frames are resumed innermost first. What happens in them never replaces the outcome.
4. Resuming is not interrupted by cancellation, and bounded in time.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import lru_cache
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call

__all__ = ("Handler", "Middleware", "link")

Handler = Callable[["Call"], Awaitable[Reply]]
"""Anything that answers a call: a provider, a chain, a router, the rest of a chain."""


@runtime_checkable
class Middleware(Protocol):
    """One concern. `name` is unique in a chain; lower `priority` runs further out.

    The call returns the reply (``async def … return await call_next(call)``) or, to know how the
    reply really ended, yields it once (``outcome = yield await call_next(call)``).
    """

    @property
    def name(self) -> str:
        """Unique in a chain; used in configuration, metrics and `without`."""
        ...

    @property
    def priority(self) -> int:
        """Where it sits: lower runs further out. See `llmpipe.pipeline.bands`."""
        ...

    def __call__(
        self, call: Call, call_next: Handler
    ) -> Awaitable[Reply] | AsyncGenerator[Reply, Outcome]: ...


def link(middleware: Middleware, inner: Handler) -> Handler:
    """A handler that runs `middleware` round `inner`."""
    name, anything = middleware.name, cast("Any", middleware)
    function = anything if inspect.isfunction(anything) else type(anything).__call__
    if inspect.isasyncgenfunction(function):
        return _yielding(name, middleware, inner, settles_at_once(function.__code__))
    if inspect.iscoroutinefunction(function):
        return _returning(name, middleware, inner)
    return _either(name, middleware, inner)


def _returning(name: str, middleware: Any, inner: Handler) -> Handler:
    async def run(call: Call) -> Reply:
        opened: list[Reply] = []

        async def call_next(call: Call) -> Reply:
            reply = await inner(call)
            opened.append(reply)
            return reply

        try:
            reply = await middleware(call, call_next)
        except BaseException as error:  # goes on when what was opened is closed
            if opened:
                await _close(opened, None, error)
            raise
        if len(opened) != 1 or opened[0] is not reply:
            await _hand_on(name, opened, reply)
        return reply  # type: ignore[no-any-return]

    return run


def _yielding(name: str, middleware: Any, inner: Handler, at_once: bool) -> Handler:
    async def run(call: Call) -> Reply:
        opened: list[Reply] = []

        async def call_next(call: Call) -> Reply:
            reply = await inner(call)
            opened.append(reply)
            return reply

        frame = middleware(call, call_next)
        try:
            reply = await frame.__anext__()
        except StopAsyncIteration:
            await _close(opened, None, None)
            raise TypeError(f"middleware {name!r} ended without yielding a reply") from None
        except BaseException as error:  # goes on when what was opened is closed
            if opened:
                await _close(opened, None, error)
            raise
        if len(opened) != 1 or opened[0] is not reply:
            await _hand_on(name, opened, reply)
        reply.hold(frame, at_once, call)
        return reply  # type: ignore[no-any-return]

    return run


def _either(name: str, middleware: Any, inner: Handler) -> Handler:
    """For callables that only their result tells apart, such as a `functools.partial`."""

    async def run(call: Call) -> Reply:
        probe = middleware(call, inner)  # neither a coroutine nor a generator runs before it is awaited
        if hasattr(probe, "__anext__"):
            return await _yielding(name, middleware, inner, at_once=False)(call)
        probe.close()
        return await _returning(name, middleware, inner)(call)

    return run


async def _hand_on(name: str, opened: list[Reply], reply: Any) -> None:
    """Close what `name` opened and does not hand on; refuse what is no reply."""
    if not isinstance(reply, Reply):
        await _close(opened, None, None)
        raise TypeError(
            f"middleware {name!r} gave a {type(reply).__name__} instead of a Reply; "
            f"it should `return await call_next(call)` or `yield await call_next(call)`"
        )
    await _close(opened, reply, None)


async def _close(opened: list[Reply], keep: Reply | None, error: BaseException | None) -> None:
    cancelled = isinstance(error, asyncio.CancelledError)
    for reply in opened:
        if reply is not keep:
            await reply.aclose("cancelled" if cancelled else "abandoned")


@lru_cache(maxsize=512)
def settles_at_once(code: CodeType) -> bool:
    """Whether an async generator awaits nothing after its yield, so that resuming it cannot suspend.

    Such a frame is resumed on the spot. Any other is resumed in a task of its own, which shields it
    from cancellation and costs 5 µs (measured). Read off the byte code, erring towards False: after
    the first yield of a value there must be no SEND (the heart of every await) and no way back.
    """
    instructions = list(dis.get_instructions(code))
    for place, (before, here) in enumerate(zip(instructions, instructions[1:], strict=False)):
        wrapped = before.opname == "ASYNC_GEN_WRAP" or (
            before.opname == "CALL_INTRINSIC_1" and "ASYNC_GEN_WRAP" in before.argrepr
        )
        if wrapped and here.opname == "YIELD_VALUE":
            break
    else:
        return False
    for before, here in zip(instructions[place + 1 :], instructions[place + 2 :], strict=False):
        if here.opname == "SEND":
            return False
        # Python 3.12 jumps back from CLEANUP_THROW, which belongs to an await before the yield.
        if here.opname.startswith("JUMP_BACKWARD") and before.opname != "CLEANUP_THROW":
            return False
    return True
