"""Builds the onion: each middleware round the next, once, when the chain is made.

The laws, which `tests/pipeline/test_linker.py` holds:

1. A middleware returns its reply, or yields it exactly once. What yielded is resumed exactly once
   with an `Outcome` when the reply is over: finished, failed, cancelled or abandoned. So is told what
   it gave to `Reply.when_over`, which laws 3 and 4 count as a frame.
2. A reply that a middleware opened and did not hand on is closed as soon as the middleware is done,
   however it is done, unless a task of the middleware's own, or the reply that it did hand on,
   has adopted it. One opened later belongs to whoever opened it.
3. Frames are resumed innermost first. What happens in them never replaces the outcome.
4. Resuming is not interrupted by cancellation, and bounded in time.
5. A reply that a middleware has read to its end can be handed on, and read again; one that was
   closed before its end cannot.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from functools import lru_cache, partial
from types import CodeType, MethodType
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from llmpipe.pipeline.ending import How
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Completion

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call

__all__ = ("Handler", "Middleware", "Ring", "link")

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

    def __call__(self, call: Call, call_next: Handler) -> Awaitable[Reply] | AsyncGenerator[Reply, Outcome]:
        """The reply to `call`, for which `call_next` asks the rest of the chain, as often as need be."""
        ...


Ring = Callable[[list[Reply], "Call"], Coroutine[Any, Any, Reply]]
"""A handler that also enters the reply it gives in a list, which belongs to whoever asked for it. So
the one who asks need not wait in between to see what it was given, which would be one coroutine more
on the way of every call through every middleware."""


def link(middleware: Middleware, inner: Ring) -> Ring:
    """The ring of `middleware` round `inner`."""
    name, anything = middleware.name, cast("Any", middleware)
    function = anything if inspect.isfunction(anything) else type(anything).__call__
    if inspect.isasyncgenfunction(function):
        code = getattr(function, "__code__", None)  # a partialmethod has none
        at_once = code is not None and settles_at_once(code)
        return _yielding(name, _bound(middleware), inner, "step" if at_once else "await")
    if inspect.iscoroutinefunction(function):
        return _returning(name, _bound(middleware), inner)
    return _either(name, middleware, inner)


def _bound(middleware: Any) -> Any:
    """Its `__call__` as a method, for which CPython does not go through the type's slot: 5 % of a ring."""
    kind = type(middleware)
    plain = inspect.isfunction(inspect.getattr_static(kind, "__call__", None))
    return MethodType(kind.__call__, middleware) if plain else middleware


def _returning(name: str, middleware: Any, inner: Ring) -> Ring:
    async def run(given: list[Reply], call: Call) -> Reply:
        opened: list[Reply] = []
        try:
            reply = await middleware(call, partial(inner, opened))
        except GeneratorExit:  # we are being dropped and cannot wait: dropped replies close themselves
            raise
        except BaseException as error:  # goes on when what was opened is closed
            if opened:
                await _close(opened, None, error)
            raise
        if len(opened) != 1 or opened[0] is not reply or reply.over:
            reply = await _hand_on(name, opened, reply)
        given.append(reply)
        return reply

    return run


def _yielding(name: str, middleware: Any, inner: Ring, how: How) -> Ring:
    get_hooks, set_hooks = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks

    async def run(given: list[Reply], call: Call) -> Reply:
        opened: list[Reply] = []
        frame = middleware(call, partial(inner, opened))
        hooks = get_hooks()
        set_hooks(None, _left_to_its_reply)
        first = frame.__anext__()
        set_hooks(*hooks)
        try:
            reply = await first
        except StopAsyncIteration:
            await _close(opened, None, None)
            raise TypeError(f"middleware {name!r} ended without yielding a reply") from None
        except GeneratorExit:  # we are being dropped and cannot wait: dropped replies close themselves
            raise
        except BaseException as error:  # goes on when what was opened is closed
            if opened:
                await _close(opened, None, error)
            raise
        if len(opened) != 1 or opened[0] is not reply or reply.over:
            reply = await _hand_on(name, opened, reply, (frame, call, how))
        else:
            reply.when_over(frame, call, how)
        opened.clear()  # the frame holds it: dropped, the reply would be in a cycle until it is collected
        given.append(reply)
        return reply

    return run


def _left_to_its_reply(frame: AsyncGenerator[Reply, Outcome]) -> None:
    """Instead of asyncio's finaliser: a dropped reply resumes its frames itself.

    asyncio's would close a frame that is dropped together with its reply behind the reply's back.
    """


def _either(name: str, middleware: Any, inner: Ring) -> Ring:
    """For callables that only their result tells apart, such as a `functools.partial`."""

    async def run(given: list[Reply], call: Call) -> Reply:
        tracked: Handler | None = None

        async def relay(call: Call) -> Reply:
            if tracked is None:  # an eager task asks before `middleware` has given us its result
                await asyncio.sleep(0)
            assert tracked is not None
            return await tracked(call)

        begun = middleware(call, relay)

        def begin(_: Call, call_next: Handler) -> Any:
            nonlocal tracked
            tracked = call_next
            return begun

        if hasattr(begun, "asend"):
            return await _yielding(name, begin, inner, "await")(given, call)
        if not inspect.isawaitable(begun):
            raise TypeError(
                f"middleware {name!r} gave a {type(begun).__name__} at once; make it an `async def`"
            )
        return await _returning(name, begin, inner)(given, call)

    return run


async def _hand_on(name: str, opened: list[Reply], reply: Any, held: Any = None) -> Reply:
    """What `name` hands on, when that is not simply the reply it opened.

    Closes the other replies, refuses what is no reply, renews one that was read to its end.
    `held` are the arguments of `Reply.when_over` for a middleware that yielded.
    """
    if not isinstance(reply, Reply):
        try:
            await _close(opened, None, None)
        finally:
            if held is not None:
                await held[0].aclose()
        raise TypeError(
            f"middleware {name!r} gave a {type(reply).__name__} instead of a Reply; "
            f"it should `return await call_next(call)` or `yield await call_next(call)`"
        )
    refused, handed = reply.closed_early, reply
    if reply.over:
        try:
            handed = Reply.of(reply.completion)
        except Exception as error:  # noqa: BLE001  an amendment's; raised when what was opened is closed
            refused, handed = refused or error, Reply.of(Completion())
    if held is not None:
        handed.when_over(*held)
    try:
        await _close(opened, handed, None)
        if refused is not None:
            raise refused
    except BaseException as error:  # goes on; nobody gets the reply
        await _close([handed], None, error)
        raise
    return handed


async def _close(opened: list[Reply], keep: Reply | None, error: BaseException | None) -> None:
    """Close every reply of `opened` but `keep`, even when cancelled meanwhile."""
    cancelled = error if isinstance(error, asyncio.CancelledError) else None
    late: asyncio.CancelledError | None = None
    for reply in [*opened]:  # not what a background task opens while we wait here: that is its own
        if reply is not keep and not reply.adopted:
            try:
                await reply.aclose("abandoned" if cancelled is None else "cancelled")
            except asyncio.CancelledError as another:
                cancelled = late = another
    if late is not None:
        raise late


@lru_cache(maxsize=512)
def settles_at_once(code: CodeType) -> bool:
    """Whether an async generator awaits nothing after its yield, so that resuming it cannot suspend.

    Such a frame is resumed on the spot. Any other is resumed in a task of its own, which shields it
    from cancellation and costs 5 µs (measured). Read off the byte code, erring towards False: after
    the first yield of a value there must be no SEND (the heart of every await), no second yield and
    no way back.
    """
    instructions = list(dis.get_instructions(code))
    place = next((at for at, here in enumerate(instructions) if _wraps_a_value(here)), None)
    if place is None:
        return False
    for before, here in zip(instructions[place + 1 :], instructions[place + 2 :], strict=False):
        if here.opname == "SEND" or _wraps_a_value(here):
            return False
        # Python 3.12 jumps back from CLEANUP_THROW, which belongs to an await before the yield.
        if here.opname.startswith("JUMP_BACKWARD") and before.opname != "CLEANUP_THROW":
            return False
    return True


def _wraps_a_value(here: dis.Instruction) -> bool:
    """Whether `here` prepares a value for an async generator to yield; an await yields without it."""
    return here.opname == "ASYNC_GEN_WRAP" or (
        here.opname == "CALL_INTRINSIC_1" and "ASYNC_GEN_WRAP" in here.argrepr
    )
