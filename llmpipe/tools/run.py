"""Runs the tools that a model asked for, side by side, and makes of whatever happens a result for the model.

The model is told of an unknown tool, of wrong arguments, of a time limit and of what a tool raised: type and
text, credentials masked, never a traceback. It may do better the next time, and it is the one who can.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from attrs import define, frozen

from llmpipe.errors import InvalidRequest
from llmpipe.pipeline.checks import nearest
from llmpipe.runtime import shielded
from llmpipe.secret import scrub
from llmpipe.tools.arguments import WrongArguments
from llmpipe.tools.content import content_of, sendable
from llmpipe.tools.function import Function
from llmpipe.tools.result import ToolRun
from llmpipe.types import ToolCall, ToolResult

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Runner",)

_MAX_ERROR_CHARS = 2000
_LONG = 65_536  # characters of arguments, beyond which they are checked in a thread: 1 MB takes a second


@define(eq=False)
class _Work:
    """A call that runs."""

    place: int
    call: ToolCall
    began: float
    seconds: float  # it may take
    until: float
    late: bool = False

    def stopped(self, error: Exception, now: float) -> ToolRun:
        return ToolRun(self.call, _failed(self.call, error), now - self.began, error)


@frozen(kw_only=True)
class Runner:
    """Runs calls of `functions`, at most `concurrency` at a time, each for `timeout` seconds at most.

    `raises` are the exceptions of tools that are for the program and not for the model.
    """

    functions: Mapping[str, Function]
    concurrency: int
    timeout: float | None
    max_result_chars: int
    raises: tuple[type[Exception], ...]

    async def __call__(
        self, calls: Sequence[ToolCall], runs: MutableMapping[int, ToolRun], runtime: Runtime
    ) -> None:
        """Write into `runs` what came of each of `calls`, by its place; when this raises, of those that ran.

        Nothing of it runs on when this returns or raises, but what cannot be stopped: the threads of plain
        functions, and async ones that go on for `Runtime.cleanup_seconds` after they were cancelled.

        Raises: what `raises` lists, and what is no Exception.
        """
        waiting = deque(enumerate(calls))
        at_work: dict[asyncio.Task[ToolRun], _Work] = {}
        now = runtime.now
        try:
            while waiting or at_work:
                while waiting and len(at_work) < self.concurrency:
                    task, work = self._begin(*waiting.popleft(), now())
                    at_work[task] = work
                rest = min(work.until for work in at_work.values()) - now()
                done, _ = await asyncio.wait(
                    at_work,
                    timeout=None if rest == inf else max(0.0, rest),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    work = at_work.pop(task)
                    runs[work.place] = self._came_of(task, work, now())
                for task in [task for task, work in at_work.items() if work.until <= now()]:
                    work = at_work[task]
                    if work.late:  # it does not end when it is cancelled
                        del at_work[task]
                        runtime.adopt(task)
                        runs[work.place] = self._late(work, now())
                    else:
                        task.cancel()
                        work.late, work.until = True, now() + runtime.cleanup_seconds
        finally:
            await _end(at_work, runs, runtime)

    def _begin(self, place: int, call: ToolCall, now: float) -> tuple[asyncio.Task[ToolRun], _Work]:
        function = self.functions.get(call.name)
        seconds = self.timeout if function is None or function.timeout is None else function.timeout
        seconds = inf if seconds is None else seconds
        task = asyncio.create_task(self._perform(call, function), name=f"llmpipe:tool {call.name[:64]}")
        return task, _Work(place, call, now, seconds, now + seconds)

    def _came_of(self, task: asyncio.Task[ToolRun], work: _Work, now: float) -> ToolRun:
        """The run of a task that is done. Raises what is for the program."""
        if task.cancelled():
            return self._late(work, now) if work.late else work.stopped(_quit(), now)
        error = task.exception()
        if error is not None:
            raise error
        run = task.result()
        return self._late(work, now) if work.late and run.error is not None else run

    def _late(self, work: _Work, now: float) -> ToolRun:
        error = TimeoutError(f"the tool took longer than {work.seconds:g} s, and was given up")
        if isinstance(error, self.raises):
            raise error
        return work.stopped(error, now)

    async def _perform(self, call: ToolCall, function: Function | None) -> ToolRun:
        """Run `call`, whatever comes of it. Raises: what `raises` lists, where the tool raised it."""
        now = asyncio.get_running_loop().time
        began, fatal = now(), None
        try:
            if function is None:
                raise WrongArguments(self._unknown(call.name[:100]))
            values = await _arguments(function, call)
            try:
                answer = await _called(function, values)
            except self.raises as error:
                fatal = error
                raise
            result = self._result(call, answer)
        except Exception as error:  # whatever a tool raises is for the model, and kept in the run
            if error is fatal:
                raise
            return ToolRun(call, _failed(call, error), now() - began, error)
        return ToolRun(call, result, now() - began)

    def _unknown(self, name: str) -> str:
        known = ", ".join(self.functions) or "none"
        return f"there is no tool {name!r}; there are: {known}{nearest(name, self.functions)}"

    def _result(self, call: ToolCall, answer: Any) -> ToolResult:
        if not isinstance(answer, ToolResult):
            return ToolResult(call.id, content_of(answer, self.max_result_chars), name=call.name)
        content = content_of(answer.content, self.max_result_chars) if answer.content else ()
        return ToolResult(call.id, content, answer.is_error, call.name, answer.extra)


async def _arguments(function: Function, call: ToolCall) -> dict[str, Any]:
    if len(call.arguments) <= _LONG:
        return function.arguments(call.args)
    return await anyio.to_thread.run_sync(lambda: function.arguments(call.args), limiter=_place())


async def _called(function: Function, values: Mapping[str, Any]) -> Any:
    if function.is_async:
        answer = await function(**values)
    else:
        work = functools.partial(_in_thread, functools.partial(function, **values))
        answer = await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=_place())
    while inspect.isawaitable(answer):
        answer = await answer
    return answer


def _in_thread(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (SystemExit, GeneratorExit) as error:  # of a script with an exit: it ends this thread, and no more
        raise RuntimeError(f"the tool ended with {type(error).__name__}: {error}") from error


def _place() -> anyio.CapacityLimiter:
    """A thread to oneself: those that cannot be stopped would use up the places that all threads share."""
    return anyio.CapacityLimiter(1)


async def _end(
    at_work: Mapping[asyncio.Task[ToolRun], _Work], runs: MutableMapping[int, ToolRun], runtime: Runtime
) -> None:
    """Cancel what runs, and wait until it does not, but not for ever."""
    if not at_work:
        return
    for task in at_work:
        task.cancel()
    try:
        await shielded(_settled(at_work), runtime, "cancelling tools")
    finally:
        for task, work in at_work.items():
            if not task.done():
                runtime.adopt(task)
            elif not task.cancelled() and task.exception() is None:  # the exception: or it is warned of
                runs[work.place] = task.result()


async def _settled(tasks: Mapping[asyncio.Task[ToolRun], _Work]) -> None:
    await asyncio.wait(tasks)


def _failed(call: ToolCall, error: BaseException) -> ToolResult:
    """What the model is told of `error`; of its own mistakes without the name of our exception."""
    kind = type(error).__name__
    try:
        text = scrub(sendable(str(error)), max_chars=_MAX_ERROR_CHARS)
    except Exception:  # noqa: BLE001  an error that cannot say what it is has its name left
        text = ""
    if not isinstance(error, WrongArguments | InvalidRequest):
        text = f"{kind}: {text}" if text else kind
    return ToolResult(call.id, text, is_error=True, name=call.name)


def _quit() -> RuntimeError:
    return RuntimeError("the tool cancelled itself")
