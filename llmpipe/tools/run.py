"""Runs the tools that a model asked for, side by side, and makes of whatever happens a result for the model.

The model is told of an unknown tool, of wrong arguments, of a time limit and of what a tool raised: type and
text, credentials masked, never a traceback. It may do better the next time, and it is the one who can.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
from attrs import frozen

from llmpipe.errors import InvalidRequest
from llmpipe.pipeline.checks import nearest
from llmpipe.secret import scrub
from llmpipe.tools.arguments import WrongArguments
from llmpipe.tools.content import content_of
from llmpipe.tools.function import Function
from llmpipe.tools.result import ToolRun
from llmpipe.types import ToolCall, ToolResult

__all__ = ("Runner",)

_MAX_ERROR_CHARS = 2000


@frozen(kw_only=True)
class Runner:
    """Runs calls of `functions`, at most `concurrency` at a time, each for `timeout` seconds at most.

    `raises` are the exceptions that are for the program and not for the model.
    """

    functions: Mapping[str, Function]
    concurrency: int
    timeout: float | None
    max_result_chars: int
    raises: tuple[type[Exception], ...]

    async def __call__(self, calls: Sequence[ToolCall]) -> tuple[ToolRun, ...]:
        """What came of `calls`, in their order.

        Nothing of it runs on when this returns or raises, but the threads of plain functions that were out
        of time or cancelled: these cannot be stopped, and end by themselves.

        Raises: what `raises` lists.
        """
        runs: dict[int, ToolRun] = {}
        fatal: list[Exception] = []
        permits = asyncio.Semaphore(self.concurrency)

        async def one(place: int, call: ToolCall) -> None:
            async with permits:
                try:
                    runs[place] = await self._run(call)
                except self.raises as error:
                    fatal.append(error)
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for place, call in enumerate(calls):
                group.start_soon(one, place, call)
        if fatal:
            raise fatal[0]
        # One that cancelled itself has left no run, and the task group takes that for a quiet end.
        return tuple(runs.get(place) or _cancelled(call) for place, call in enumerate(calls))

    async def _run(self, call: ToolCall) -> ToolRun:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            answer = await self._answer(call)
            if isinstance(answer, ToolResult):
                result = ToolResult(call.id, answer.content, answer.is_error, call.name, answer.extra)
            else:
                result = ToolResult(call.id, content_of(answer, self.max_result_chars), name=call.name)
        except self.raises:
            raise
        except Exception as error:  # noqa: BLE001  whatever a tool raises is for the model, and kept in the run
            return ToolRun(call, _failed(call, error), now() - began, error)
        return ToolRun(call, result, now() - began)

    async def _answer(self, call: ToolCall) -> Any:
        function = self.functions.get(call.name)
        if function is None:
            known = ", ".join(self.functions) or "none"
            hint = nearest(call.name, self.functions)
            raise WrongArguments(f"there is no tool {call.name[:100]!r}; there are: {known}{hint}")
        values = function.arguments(call.args)
        seconds = self.timeout if function.timeout is None else function.timeout
        try:
            async with asyncio.timeout(seconds) as limit:
                return await _called(function, values)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"the tool took longer than {seconds:g} s, and was given up") from None
            raise


async def _called(function: Function, values: Mapping[str, Any]) -> Any:
    if function.is_async:
        return await function(**values)
    work = functools.partial(function, **values)
    answer = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    return await answer if inspect.isawaitable(answer) else answer


def _failed(call: ToolCall, error: Exception) -> ToolResult:
    """What the model is told of `error`; of its own mistakes without the name of our exception."""
    text = scrub(str(error), max_chars=_MAX_ERROR_CHARS)
    if not isinstance(error, WrongArguments | InvalidRequest):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ToolResult(call.id, text, is_error=True, name=call.name)


def _cancelled(call: ToolCall) -> ToolRun:
    error = RuntimeError("the tool cancelled itself")
    return ToolRun(call, _failed(call, error), 0.0, error)
