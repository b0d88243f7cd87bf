"""Plain functions at the four moments of a call, for those who need no onion.

==============  =====================================  ==============================================
hook            runs                                   and may give back
==============  =====================================  ==============================================
on_request      before the call goes further in        a `Request` or `Call` to go on with; None: as is
on_chunk        for each event of the reply            an event, or several; None: as is; ``()``: drop it
on_response     once, when the reply is over and ok    a `Completion` in its place; None: as is
on_error        once, when the call has failed         nothing: it looks on
==============  =====================================  ==============================================

Requests pass the middlewares in ascending priority, responses and errors in descending priority.
`on_response` of a stream runs when the stream has ended: its events are with the caller by then, so
a completion it gives back changes what `Reply.full` and the middlewares further out get, and no
event. To change what is streamed use `on_chunk`, which sees the events of a full reply too. A call
that was cancelled or abandoned is neither a response nor an error.

What `on_request`, `on_chunk` and `on_response` raise fails the call; so does what `on_error` raises,
in place of the failure, as long as nothing of the reply was given out. After that there is nothing
left to fail, and it is reported to the log of the runtime. It writes no notes.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.pipeline.reply import Reply
from llmpipe.types import AnyRequest, Completion, Event

__all__ = ("Hooks",)

_HOOKS = ("on_request", "on_chunk", "on_response", "on_error")


@frozen(kw_only=True)
class Hooks:
    """Calls your functions; see the module for when, and what they may give back.

    Attributes:
        on_request: of the `Call`; plain or async.
        on_chunk: of an `Event`; plain, for it runs for every chunk.
        on_response: of the completion and the `Call`; plain or async.
        on_error: of the exception and the `Call`; plain or async.
    """

    on_request: Callable[[Call], Any] | None = None
    on_chunk: Callable[[Event], Event | Iterable[Event] | None] | None = None
    on_response: Callable[[Any, Call], Any] | None = None
    on_error: Callable[[Exception, Call], Any] | None = None
    name: str = "hooks"
    priority: int = bands.GUARD

    why: ClassVar[str] = "your own functions, where their priority puts them"

    def __attrs_post_init__(self) -> None:
        for hook in _HOOKS:
            given: object = getattr(self, hook)
            if given is not None and not callable(given):
                raise ConfigError(f"{self.name}: {hook} is a function, not a {type(given).__name__}")
        if self.on_chunk is not None and _is_async(self.on_chunk):
            raise ConfigError(f"{self.name}: on_chunk runs for every chunk, so it cannot be async")

    @classmethod
    def of(cls, source: Any, **fields: Any) -> Hooks:
        """Hooks from an object with methods called `on_request` and so on, `name` and `priority`.

        Raises: ConfigError if it has none of the four.
        """
        found = {hook: getattr(source, hook) for hook in _HOOKS if getattr(source, hook, None) is not None}
        if not found:
            raise ConfigError(f"{type(source).__name__} has none of {', '.join(_HOOKS)}")
        named = {key: getattr(source, key) for key in ("name", "priority") if hasattr(source, key)}
        return cls(**{**found, **named, **fields})

    def rings(self) -> tuple[Any, ...]:
        """The middleware itself, in the form that awaits at the end only if it must: see `_Awaiting`."""
        if any(hook is not None and _is_async(hook) for hook in (self.on_response, self.on_error)):
            return (_Awaiting(hooks=self, name=self.name, priority=self.priority),)
        return (self,)

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """Run the hooks round the call."""
        hooks = call.opt(self)
        call, reply, late = await hooks._begin(call, call_next)
        outcome = yield reply
        hooks._refuse(late(outcome))

    async def _begin(self, call: Call, call_next: Handler) -> tuple[Call, Reply, _Late]:
        """All that happens before the reply is handed on, and what is left for its end."""
        if self.on_request is not None:
            call = await self._requested(call)
        try:
            reply = await call_next(call)
            if self.on_chunk is not None:
                reply.pipe(_Chunks(self.on_chunk))
        except Exception as error:  # any failure is the hook's to see; it goes on
            if self.on_error is not None:
                await _value(self.on_error(error, call))
            raise
        late = _Late(self, call)
        if self.on_response is not None:
            if reply.streamed:
                reply.amend(late.amend)
            else:
                late.responded = True
                changed = await _value(self.on_response(reply.completion, call))
                if changed is not None:
                    if not isinstance(changed, Result):
                        raise TypeError(
                            f"{self.name}: on_response gives a Completion or None back, "
                            f"not a {type(changed).__name__}"
                        )
                    reply.amend(lambda _: changed)
        return call, reply, late

    async def _requested(self, call: Call) -> Call:
        assert self.on_request is not None
        given = await _value(self.on_request(call))
        if given is None:
            return call
        if isinstance(given, Call):
            return given
        if not isinstance(given, AnyRequest):
            raise TypeError(
                f"{self.name}: on_request gives a Request, a Call or None back, not a {type(given).__name__}"
            )
        return call.evolve(request=given)

    def _refuse(self, pending: Awaitable[Any] | None) -> None:
        """A plain function that gives an awaitable back cannot be waited for at the end."""
        if pending is not None:
            if inspect.iscoroutine(pending):
                pending.close()
            raise TypeError(f"{self.name}: a hook gave an awaitable back; write it with `async def`")


@frozen(kw_only=True)
class _Awaiting:
    """Hooks of which one must be awaited when the reply is over, which takes a task of its own (5 µs)."""

    hooks: Hooks
    name: str
    priority: int

    why: ClassVar[str] = Hooks.why

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        call, reply, late = await call.opt(self.hooks)._begin(call, call_next)
        outcome = yield reply
        pending = late(outcome)
        if pending is not None:
            late.result(await pending)


class _Late:
    """What is left to do for one call when its reply is over."""

    __slots__ = ("_call", "_changed", "_hooks", "responded")

    def __init__(self, hooks: Hooks, call: Call) -> None:
        self._hooks = hooks
        self._call = call
        self._changed: Completion | None = None
        self.responded = False

    def __call__(self, outcome: Outcome) -> Awaitable[Any] | None:
        """Run the hook of this outcome; what is still to be awaited, or None."""
        said: Any = None
        responded, failed, error = self._hooks.on_response, self._hooks.on_error, outcome.error
        if outcome.ok and responded is not None and not self.responded:
            said = responded(outcome.completion, self._call)
        elif outcome.status == "error" and failed is not None and isinstance(error, Exception):
            said = failed(error, self._call)
        if inspect.isawaitable(said):
            return said
        self.result(said)
        return None

    def result(self, said: Any) -> None:
        """Take what `on_response` gave back."""
        if isinstance(said, Completion):
            self._changed = said

    def amend(self, completion: Completion) -> Completion:
        """What the stream amounts to: from its end on, what the hook made of it."""
        return completion if self._changed is None else self._changed


class _Chunks:
    """`on_chunk` as a stage."""

    __slots__ = ("_hook",)

    def __init__(self, hook: Callable[[Event], Event | Iterable[Event] | None]) -> None:
        self._hook = hook

    def feed(self, event: Event) -> Iterable[Event]:
        made = self._hook(event)
        if made is None:
            return (event,)
        return made if isinstance(made, Iterable) else (made,)

    def flush(self) -> Iterable[Event]:
        return ()


async def _value(said: Any) -> Any:
    return await said if inspect.isawaitable(said) else said


def _is_async(hook: Any) -> bool:
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)
