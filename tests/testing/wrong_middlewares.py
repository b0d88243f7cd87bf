"""Middlewares with one mistake each, and the law of `conform` that each of them breaks.

Every mistake here has been made in some library: they are what the suite must never let through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from copy import copy
from typing import Any

from anyio import CancelScope
from attrs import Factory, define, evolve, field, frozen

from llmpipe.errors import LLMError
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Completion, Finish, Message, Request, TextDelta

WRONG: dict[str, tuple[str, Callable[[], Any], Callable[[], float] | None]] = {}
"""Name of the mistake: the law it breaks, what makes the middleware, and what must balance."""

in_use: list[object] = []


def breaks(law: str, balance: Callable[[], float] | None = None) -> Callable[[type], type]:
    def enter(kind: type) -> type:
        WRONG[kind.__name__] = (law, kind, balance)
        return kind

    return enter


def wrong(kind: type) -> type:
    kind.name = "wrong"  # type: ignore[attr-defined]  # what every middleware has
    kind.priority = 500  # type: ignore[attr-defined]  # what every middleware has
    return kind


# ------------------------------------------------------------ permits


@breaks("balance", lambda: len(in_use))
@wrong
class LeaksItsPermitWhenCancelled:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        in_use.append(call)
        try:
            reply = await call_next(call)
        except Exception:
            in_use.pop()
            raise
        in_use.pop()
        return reply


@breaks("balance", lambda: len(in_use))
@wrong
class LeaksItsPermitWhenAbandoned:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        in_use.append(call)
        try:
            outcome = yield await call_next(call)
        except BaseException:
            in_use.pop()
            raise
        if outcome.status != "abandoned":
            in_use.pop()


@breaks("balance", lambda: len(in_use))
@wrong
class GivesItsPermitBackTwice:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        in_use.append(call)
        in_use.append(call)
        try:
            outcome = yield await call_next(call)
            in_use.pop()
            if outcome.error is not None:
                del in_use[-2:]
        finally:
            del in_use[-1:]


@breaks("next-call")
@wrong
@frozen
class KeepsItsOnlyPermitAfterAnError:
    slots: asyncio.Semaphore = Factory(lambda: asyncio.Semaphore(1))

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        await self.slots.acquire()
        reply = await call_next(call)
        self.slots.release()
        return reply


# ------------------------------------------------------------ commit, retry, streams


@breaks("no-second-try")
@wrong
class RetriesAfterCommit:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        if not call.stream:
            return reply
        await reply.aclose()

        async def events() -> Any:
            for left in (1, 0):
                try:
                    async with await call_next(call) as again:
                        async for event in again:
                            yield event
                    return
                except LLMError:
                    if not left:
                        raise

        return Reply.stream(events())


@breaks("commit")
@wrong
class HandsOnBeforeThereIsContent:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        if not call.stream:
            return await call_next(call)

        async def events() -> Any:
            async with await call_next(call) as reply:
                async for event in reply:
                    yield event

        return Reply.stream(events())


@breaks("streams")
@wrong
class ReadsTheWholeStream:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        await reply.full()
        return reply


@breaks("streams")
@wrong
class HoldsAllTextBack:
    class Holding:
        def __init__(self) -> None:
            self.held: list[Any] = []

        def feed(self, event: Any) -> list[Any]:
            self.held.append(event)
            if type(event) is not Finish:
                return []
            held, self.held = self.held, []
            return held

        def flush(self) -> list[Any]:
            return self.held

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).pipe(self.Holding())


@breaks("chunking")
@wrong
class ReplacesWordsChunkByChunk:
    class Replacing:
        def feed(self, event: Any) -> list[Any]:
            return [TextDelta(event.text.replace("jane", "****"))] if type(event) is TextDelta else [event]

        def flush(self) -> list[Any]:
            return []

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).pipe(self.Replacing())


@breaks("same-reply")
@wrong
class MarksOnlyFullReplies:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        return reply if call.stream else reply.amend(lambda done: evolve(done, warnings=("checked",)))


@breaks("same-reply")
@wrong
class ForgetsTheUsageOfWhatItStored:
    def __init__(self) -> None:
        self.stored: dict[Any, str] = {}

    async def __call__(self, call: Call, call_next: Handler) -> Any:
        if not isinstance(call.request, Request):
            yield await call_next(call)
            return
        key = repr(call.request.messages)
        if key in self.stored:
            text = self.stored[key]
            yield Reply.of(Completion(message=Message("assistant", text), finish_reason="stop"))
            return
        outcome = yield await call_next(call)
        if outcome.ok:
            self.stored[key] = outcome.completion.text


# ------------------------------------------------------------ cancellation


@breaks("cancellation")
@wrong
class AnswersWhenCancelled:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            return Reply.of(Completion(message=Message("assistant", "sorry"), finish_reason="stop"))


@breaks("cancellation")
@wrong
class MakesAnErrorOfACancellation:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except asyncio.CancelledError as error:
            raise LLMError("the call was interrupted") from error


@breaks("neighbours")
@wrong
@define
class LetsFollowersFallWithTheirLeader:
    flights: dict[Any, asyncio.Future[Any]] = field(factory=dict)

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        key = repr(call.request)
        if key in self.flights:
            return Reply.of(await asyncio.shield(self.flights[key]))
        flight = self.flights[key] = asyncio.get_running_loop().create_future()
        try:
            done = await (await call_next(call)).full()
        except BaseException as error:
            flight.set_exception(LLMError("the leader failed")) if isinstance(
                error, Exception
            ) else flight.cancel()
            if not flight.cancelled():
                flight.exception()
            raise
        else:
            flight.set_result(done)
            return Reply.of(done)
        finally:
            del self.flights[key]

    traits = frozenset({"buffers"})


# ------------------------------------------------------------ scopes and tasks


@breaks("any-task")
@wrong
class HoldsATimeoutAcrossTheYield:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        async with asyncio.timeout(3600):
            yield await call_next(call)


@breaks("any-task")
@wrong
class HoldsACancelScopeAcrossTheYield:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        with CancelScope():
            yield await call_next(call)


@breaks("any-task")
@wrong
class HoldsATaskGroupAcrossTheYield:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self.tick())
            yield await call_next(call)
            ticker.cancel()

    async def tick(self) -> None:
        await asyncio.sleep(86400)
        raise LLMError("a day has passed")


_current: ContextVar[str] = ContextVar("current", default="")


@breaks("any-task")
@wrong
class ResetsAContextVariableAfterTheYield:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        token = _current.set(call.id)
        yield await call_next(call)
        _current.reset(token)


@breaks("nothing-left")
@wrong
class LeavesATaskBehind:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        self.task = asyncio.create_task(asyncio.sleep(3600), name="reporting")
        return await call_next(call)


@breaks("nothing-left")
@wrong
class LeavesATimerBehind:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        asyncio.get_running_loop().call_later(3600, print)
        return reply


@breaks("replies")
@wrong
class NeverClosesTheReplyOfItsBackgroundTask:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        async def warm() -> None:
            await asyncio.sleep(30)
            self.kept = await call_next(call)

        reply = await call_next(call)
        call.runtime.spawn(warm(), "warming")
        return reply


@breaks("replies")
@wrong
class NeverClosesTheSourceItWraps:
    def __init__(self) -> None:
        self.kept: list[Reply] = []

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        async def events() -> Any:
            reply = await call_next(call)
            self.kept.append(reply)
            async for event in reply:
                yield event

        return Reply.stream(events()) if call.stream else await call_next(call)


# ------------------------------------------------------------ frames, errors, requests


@breaks("once")
@wrong
class YieldsTwice:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        reply = await call_next(call)
        yield reply
        yield reply


@breaks("quiet")
@wrong
class RaisesTheOutcomesErrorAgain:
    async def __call__(self, call: Call, call_next: Handler) -> Any:
        outcome = yield await call_next(call)
        if outcome.error is not None:
            raise outcome.error


@breaks("quiet")
@wrong
class FailsInTheBackground:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        async def report() -> None:
            raise OSError("the collector is down")

        call.runtime.spawn(report(), "reporting")
        return await call_next(call)


@breaks("errors")
@wrong
class ReplacesTheErrorByItsOwn:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except Exception as error:
            raise RuntimeError(f"the call failed: {error}") from error


@breaks("errors")
@wrong
class AnswersInsteadOfFailing:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except Exception as error:  # noqa: BLE001  this is the mistake
            message = Message("assistant", f"Error: {error}")
            return Reply.of(Completion(message=message, finish_reason="stop"))


@breaks("errors")
@wrong
class AnswersInsteadOfRefusing:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except LLMError as error:
            message = Message("assistant", f"Error: {error}")
            return Reply.of(Completion(message=message, finish_reason="stop"))


@breaks("ends")
@wrong
class WaitsForWhatNeverComes:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except LLMError:
            await asyncio.Event().wait()
            raise


@breaks("request")
@wrong
class SetsAFieldOfTheRequest:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        if isinstance(call.request, Request):
            object.__setattr__(call.request, "max_tokens", 100)
        return await call_next(call)


@breaks("request")
@wrong
class FillsTheRequestsDictionary:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        call.request.metadata["seen"] = True  # type: ignore[index]  # a dict, and not ours
        return await call_next(call)


@breaks("errors")
@wrong
class RaisesACopyOfTheError:
    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        try:
            return await call_next(call)
        except Exception as error:  # noqa: BLE001  this is the mistake
            raise copy(error) from None
