"""Runs one case of `conform`, on a loop of its own in virtual time, and writes down what happened."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from anyio import CancelScope
from attrs import Factory, define

from llmpipe.errors import LLMError
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler, Middleware
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import Line, MockProvider
from llmpipe.runtime import Runtime
from llmpipe.testing.conform_cases import Case
from llmpipe.testing.conform_steps import place_of, stepwise
from llmpipe.testing.loop import VirtualTimeLoop
from llmpipe.types import AnyRequest, Event, is_content

__all__ = ("Seen", "run_case")

_DAY = 86400.0
_FOREVER = 100 * _DAY


@define
class Seen:
    """What happened in one case. Times are virtual seconds; counts are at the end unless they say when."""

    result: Result | None = None
    error: BaseException | None = None
    cancelled: bool = False
    hung: bool = False
    events: list[Event] = Factory(list)
    steps: int = 0
    strikes: int = 0
    places: list[str] = Factory(list)
    committed_at: float | None = None
    content_at: float | None = None
    handed_early: bool = False
    requests_at_content: int | None = None
    requests_at_end: int = 0
    commits: list[float] = Factory(list)
    raised: list[BaseException] = Factory(list)
    opened: list[Reply] = Factory(list)
    replies: int = 0
    inner: int = 0
    outer: int = 0
    outer_committed: int = 0
    reports: list[tuple[str, str]] = Factory(list)
    complaints: list[str] = Factory(list)
    tasks: list[str] = Factory(list)
    late_tasks: list[str] = Factory(list)
    timers: list[str] = Factory(list)
    open: int = 0
    changed: str = ""
    balance: tuple[float, float] | None = None
    neighbour: BaseException | Result | None = None
    next_error: BaseException | None = None


def run_case(
    case: Case,
    make: Callable[[], Middleware],
    request: AnyRequest,
    lines: tuple[Line, Line],
    *,
    seed: int,
    order: int | None = None,
    balance: Callable[[Runtime], float] | None = None,
) -> Seen:
    """What happens when `case` is played on a new middleware.

    `lines`: what the provider answers in this case, and what it answers when all is well. `order`
    shuffles tasks that are ready together.
    """
    run = _Run(case, make(), request, lines, balance=balance, seed=seed)
    # Not asyncio.Runner: it asks for all tasks of all loops, of which there are thousands here.
    loop = VirtualTimeLoop(seed=order, end=1e9)
    try:
        loop.run_until_complete(run.play())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        run.forget()
    return run.seen


class _Remembering(Runtime):
    """A runtime that writes down what is reported to it."""

    def __init__(self, seed: int, seen: Seen) -> None:
        super().__init__(seed=seed)
        self._seen = seen

    def report(self, what: str, error: BaseException) -> None:
        self._seen.reports.append((what, f"{type(error).__name__}: {error}"))


class _Run:
    def __init__(
        self,
        case: Case,
        item: Middleware,
        request: AnyRequest,
        lines: tuple[Line, Line],
        *,
        balance: Callable[[Runtime], float] | None,
        seed: int,
    ) -> None:
        self.case = case
        self.seen = Seen()
        self.runtime = _Remembering(seed, self.seen)
        self.pristine, self.request = request, copy.deepcopy(request)
        self.lines = lines
        self.fails_once = case.script == "recovering"
        self.plan = [*case.cancels]
        self.tasks: list[asyncio.Task[Any]] = []
        self.call_task: asyncio.Task[None] | None = None
        self.scope: CancelScope | None = None
        self.provider = MockProvider(default=self._line, name="conform", model="conform-1")
        self.chain = Chain(self.provider, self._outer(), item, self._inner(), runtime=self.runtime)
        self._balance = balance

    # ------------------------------------------------------------ the layers round the middleware

    def _outer(self) -> Middleware:
        seen = self.seen

        @layer(priority=-(10**9), name="conform-outer")
        async def outer(call: Call, call_next: Handler) -> Any:
            reply = await call_next(call)
            seen.outer_committed += 1
            outcome: Outcome = yield reply
            seen.outer += 1
            str(outcome.completion)

        return outer

    def _inner(self) -> Middleware:
        seen = self.seen

        @layer(priority=10**9, name="conform-inner")
        async def inner(call: Call, call_next: Handler) -> Any:
            await asyncio.sleep(1.0)
            try:
                reply = await call_next(call)
            except Exception as error:  # goes on; to see whether it arrives as it is
                seen.raised.append(error)
                raise
            seen.opened.append(reply)
            seen.replies += 1
            if self.call_task is not None and not self.call_task.done():
                seen.commits.append(asyncio.get_running_loop().time())
            outcome: Outcome = yield reply
            seen.inner += 1
            if outcome.error is not None:
                seen.raised.append(outcome.error)

        return inner

    # ------------------------------------------------------------ the caller

    async def play(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        loop.set_task_factory(self._count)
        start = self._measure()
        if self.case.way == "again":
            first = loop.create_task(self._reply(self._new_call()))
            self.seen.hung = not await self._over(first)
            first.cancelled() or first.exception()  # judged where it is the case's own call
        self.call_task = loop.create_task(self._scoped())
        others = [loop.create_task(self._beside())] if self.case.way == "company" else []
        self.seen.hung |= not await self._over(self.call_task)
        self.seen.cancelled |= self.call_task.cancelled()  # perhaps before it had begun
        for task in others:
            self.seen.hung |= not await self._over(task)
        self.seen.requests_at_end = len(self.provider.requests)
        await _turns()
        self.seen.tasks = self._tasks(owned=False)
        if self.request != self.pristine:
            self.seen.changed = f"{self.pristine!r} became {self.request!r}"
        if start is not None and not self.runtime._tasks:
            self.seen.balance = (start, self._measure() or 0.0)
        await self._another()
        await self._close(start)

    async def _scoped(self) -> None:
        if self.case.mode != "scope":
            await self._told(self._consume())
            return
        with CancelScope() as self.scope:
            await self._told(self._consume())
        self.seen.cancelled = self.scope.cancelled_caught

    async def _told(self, work: Coroutine[Any, Any, Result | None]) -> None:
        try:
            self.seen.result = await work
        except asyncio.CancelledError:
            self.seen.cancelled = True
            raise
        except Exception as error:  # noqa: BLE001  whatever the call ends with is what is judged
            self.seen.error = error

    async def _beside(self) -> None:
        """The call of another caller, which nobody cancels."""
        try:
            self.seen.neighbour = await self._reply(self._new_call())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  judged
            self.seen.neighbour = error

    async def _reply(self, call: Call) -> Result:
        return await (await self.chain(call)).full()

    def _new_call(self) -> Call:
        timeout = {"hurried": 0.5, "patient": 20 * _DAY}.get(self.case.way)
        return self.chain.new_call(self.request, timeout=timeout)

    async def _open(self) -> Reply:
        reply = await self.chain(self._new_call())
        self.seen.committed_at = asyncio.get_running_loop().time()
        self.seen.handed_early = not self.seen.commits and not reply.over
        return reply

    async def _consume(self) -> Result | None:
        way, task = self.case.way, asyncio.current_task()
        assert task is not None
        if way == "another":
            reply = await asyncio.create_task(self._open())
            return await asyncio.create_task(self._read(reply))
        reply = await self._open()
        async with reply:
            if way == "unread":
                return None
            if way == "abandoned":
                await self._event(reply)
                return None
            if way == "closed":
                return await self._closed(reply)
            if way == "slow":
                await asyncio.sleep(10 * _DAY)
            return await self._read(reply)

    async def _read(self, reply: Reply) -> Result:
        if self.case.shape != "stream":
            return await reply.full()
        async with reply:
            while await self._event(reply):
                pass
        return reply.completion

    async def _closed(self, reply: Reply) -> Result | None:
        """Read in one task and closed by this one, five seconds into the first wait."""
        reader = asyncio.create_task(self._read(reply))
        try:
            await asyncio.sleep(5.0)
            await reply.aclose()
            return await reader
        finally:
            reader.cancel()
            with CancelScope(shield=True):
                await asyncio.wait([reader])
            if not reader.cancelled():
                reader.exception()

    async def _event(self, reply: Reply) -> bool:
        try:
            event = await anext(reply)
        except StopAsyncIteration:
            return False
        if is_content(event) and self.seen.content_at is None:
            self.seen.content_at = asyncio.get_running_loop().time()
            self.seen.requests_at_content = len(self.provider.requests)
        self.seen.events.append(event)
        return True

    # ------------------------------------------------------------ afterwards

    async def _another(self) -> None:
        """A call after the first: it must come to an end, with a reply or an LLMError."""
        self.lines = (self.lines[1], self.lines[1])
        task = asyncio.ensure_future(self._reply(self.chain.new_call(self.request)))
        if not await self._over(task):
            self.seen.next_error = TimeoutError("it never ended")
        elif task.cancelled():
            self.seen.next_error = asyncio.CancelledError()
        elif (error := task.exception()) is not None and not isinstance(error, LLMError):
            self.seen.next_error = error

    async def _close(self, start: float | None) -> None:
        """Close the chain and look for what is left."""
        seen = self.seen
        await self.chain.aclose()
        await _turns()
        seen.late_tasks = [name for name in self._tasks(owned=True) if name not in seen.tasks]
        seen.open = sum(not reply.over for reply in seen.opened)
        if start is not None and (end := self._measure() or 0.0) != start:
            seen.balance = (start, end)
        for task in self._left():
            task.cancel()
        await _turns()
        for reply in seen.opened:
            await reply.aclose()
        loop: Any = asyncio.get_running_loop()
        seen.timers = [_named(timer) for timer in loop._scheduled if not timer.cancelled()]

    def _tasks(self, *, owned: bool) -> list[str]:
        """Tasks still there; those that the runtime owns only if `owned`."""
        mine = set() if owned else self.runtime._tasks
        return sorted(str(task.get_name()) for task in self._left() if task not in mine)

    def _left(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done()]

    def forget(self) -> None:
        """Let go of what holds itself, rather than when the garbage collector comes round."""
        self.tasks.clear()
        self.seen.opened.clear()
        self.provider.default = self.call_task = None
        del self.chain

    def _measure(self) -> float | None:
        if self._balance is None:
            return None
        return self._balance(self.runtime)

    def _line(self, _: AnyRequest) -> Line:
        """The provider's next line: always the case's own, or only once if it is to recover."""
        if self.case.script != "recovering":
            return self.lines[0]
        self.fails_once, now = False, self.fails_once
        return self.lines[0] if now else self.lines[1]

    async def _over(self, task: asyncio.Task[Any]) -> bool:
        await asyncio.wait([task], timeout=_FOREVER)
        if task.done():
            return True
        task.cancel()
        await asyncio.wait([task], timeout=_FOREVER)
        return False

    def _complain(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        self.seen.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    # ------------------------------------------------------------ counting and cancelling

    def _count(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(stepwise(work, self._step), loop=loop, **options)
        task.add_done_callback(lambda _: work.close())  # it may be cancelled before it has begun
        self.tasks.append(task)
        return task

    def _step(self, work: Coroutine[Any, Any, Any], waiting: Any) -> None:
        if self.call_task is None or self.call_task.done():
            return
        self.seen.steps += 1
        if self.plan and self.seen.steps == self.plan[0]:
            self.plan.pop(0)
            self.seen.places.append(place_of(work))
            if self.case.mode == "late" and waiting is not None:
                waiting.add_done_callback(self._strike)
            else:
                self._strike()

    def _strike(self, _: object = None) -> None:
        if self.call_task is None or self.call_task.done():
            return
        self.seen.strikes += 1
        if self.scope is not None:
            self.scope.cancel()
        else:
            self.call_task.cancel()


def _named(timer: Any) -> str:
    callback = timer._callback
    return str(getattr(callback, "__qualname__", callback))


async def _turns() -> None:
    """Let what is ready run; four turns are enough for a task that was told to end."""
    for _ in range(4):
        await asyncio.sleep(0)
