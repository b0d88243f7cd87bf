"""A storm of callers for a chain, and what is looked at when it is over.

Every caller reads one stream and leaves it in one of the ways people leave streams. What each saw is
kept; who dropped a reply without a word is counted, since each of those is told of once.
"""

from __future__ import annotations

import asyncio
import gc
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from attrs import define, field

import llmpipe
from llmpipe.errors import LLMError
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.types import Request, TextDelta

HOME = llmpipe.__path__[0]
WAYS = ("read", "whole", "break", "close", "closed by another", "cancelled", "dropped", "dropped at once")
"""How a caller leaves: ``read``, ``whole`` and ``cancelled`` are the only ones that do not leave early."""


@define
class Caller:
    """One stream as its caller saw it."""

    number: int
    request: Request
    way: str
    pieces: int
    """After how many pieces of text it leaves."""
    patience: float
    """Seconds after which it is cancelled, or its stream closed by another task."""
    question: str
    comes: float = 0.0
    """After how many seconds it comes."""
    call: Call | None = None
    end: str = "open"
    ended_at: float = 0.0
    text: str = ""
    error: LLMError | None = None


@define
class Storm:
    """All callers, and what reached nobody: failures that the loop, the runtime or Python told of.

    `at_once` is how many are served at the same time, so that on a slow machine the storm lasts longer, and
    is not one of time limits alone.
    """

    chain: Chain
    at_once: int = 10**9
    callers: list[Caller] = field(factory=list)
    dropped: int = 0
    told: list[str] = field(factory=list)
    helpers: set[asyncio.Task[Any]] = field(factory=set)

    def gather(
        self, count: int, random: Random, request: Callable[[int], Request], *, within: float, patience: float
    ) -> None:
        """`count` callers, ways and moments drawn from `random`: all come `within` seconds."""
        for number in range(count):
            asked = request(number)
            self.callers.append(
                Caller(
                    number=number,
                    request=asked,
                    way=random.choice(WAYS) if random.random() < 0.6 else "read",
                    pieces=random.randrange(0, 6),
                    patience=random.random() * patience,
                    question=asked.messages[-1].text,
                    comes=random.random() * within,
                )
            )

    async def break_loose(self) -> None:
        """Send all callers at once, and wait until each has gone."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._tell)
        gate = asyncio.Semaphore(self.at_once)
        tasks = [asyncio.create_task(self._one(caller, gate), name="caller") for caller in self.callers]
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
        while self.helpers:
            await asyncio.wait(set(self.helpers))

    def _tell(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.told.append(str(context))

    async def _one(self, caller: Caller, gate: asyncio.Semaphore) -> None:
        await asyncio.sleep(caller.comes)
        async with gate:
            timer, task = None, asyncio.current_task()
            if caller.way == "cancelled" and task is not None:
                timer = asyncio.get_running_loop().call_later(caller.patience, task.cancel)
            try:
                await self._come(caller)
            finally:
                if timer is not None:
                    timer.cancel()

    async def _come(self, caller: Caller) -> None:
        try:
            await self._visit(caller)
        except LLMError as error:
            caller.end, caller.error = type(error).__name__, error
        except asyncio.CancelledError:
            caller.end = "cancelled"
            raise
        finally:
            caller.ended_at = asyncio.get_running_loop().time()

    async def _visit(self, caller: Caller) -> None:
        caller.call = self.chain.new_call(caller.request, tenant=f"tenant-{caller.number % 7}")
        reply = await self.chain(caller.call)
        match caller.way:
            case "dropped at once":
                caller.end = "left"
                self.dropped += not reply.over
            case "dropped":
                await self._read(caller, reply)
                if caller.end == "open":
                    caller.end = "left"
                    self.dropped += not reply.over
            case "close":
                await self._read(caller, reply)
                caller.end = "left" if caller.end == "open" else caller.end
                await reply.aclose()
            case "closed by another":
                # Held here, so that it closes whatever the reader is doing.
                closer = asyncio.create_task(self._close(reply, caller.patience / 4), name="closer")
                self.helpers.add(closer)
                closer.add_done_callback(self.helpers.discard)
                await self._read(caller, reply)
            case "whole":
                async with reply:
                    caller.text = (await reply.full()).text
                    caller.end = "ok"
            case _:
                async with reply:
                    await self._read(caller, reply)
                    caller.end = "left" if caller.end == "open" else caller.end

    async def _close(self, reply: Any, after: float) -> None:
        await asyncio.sleep(after)
        await reply.aclose()

    async def _read(self, caller: Caller, reply: Any) -> None:
        """Read to the end, or as far as the caller goes."""
        all_of_it = caller.way in ("read", "cancelled", "closed by another")
        seen = 0
        if not (all_of_it or caller.pieces):
            return
        async for event in reply:
            if type(event) is TextDelta:
                caller.text += event.text
                seen += 1
            if seen == caller.pieces and not all_of_it:
                return
        caller.end = "ok"

    # ------------------------------------------------------------ afterwards

    @property
    def ends(self) -> Counter[str]:
        """How many callers ended how."""
        return Counter(caller.end for caller in self.callers)

    def attempts(self) -> list[Any]:
        """Every attempt of every call."""
        return [a for caller in self.callers if caller.call for a in caller.call.ledger.attempts]

    async def calm(self, seconds: float = 5.0) -> None:
        """Wait until no task of llmpipe's is left: what was dropped is closed in the background."""
        loop = asyncio.get_running_loop()
        for _ in range(2):  # tasks that are just over let go of what they gave when the loop comes round
            gc.collect()
            for _ in range(10):
                await asyncio.sleep(0)  # in which those that were dropped come to be closed
        end = loop.time() + seconds
        while loop.time() < end and (self.chain.runtime._tasks or tasks_of_ours()):
            await asyncio.sleep(0.01)

    def check_that_everything_is_given_back(self) -> None:
        """Permits, probes, flights and places: as many as were taken, on the runtime of the chain."""
        runtime, now = self.chain.runtime, self.chain.runtime.now()
        assert tasks_of_ours() == []
        assert not runtime._tasks
        for flights in runtime.states("coalesce").values():
            assert flights == {}
        for gates in runtime.states("rate_limit").values():
            for gate in gates.values():
                assert gate.in_flight == 0, f"{gate.key}: {gate.in_flight} in flight"
                assert not gate.queue
                assert gate._timer is None
        for deadlines in runtime.state("timeout", "deadlines", dict).values():
            assert deadlines.pending == {}
            if deadlines._timer is not None:
                deadlines._timer.cancel()  # the one timer of each length stays until it is due
        for circuit in Breaker().board(runtime).circuits.values():
            stats = circuit.stats(now)
            assert circuit._out == 0, stats
            # A stream that succeeded and then broke is counted twice; none is counted never.
            assert stats.total <= stats.rejected + stats.successful + stats.failed + stats.ignored, stats
        owed = {key: quota.spent for key, quota in Quotas.of(runtime).items() if quota.spent}
        assert set(owed) == Quotas.of(runtime).owing
        retry = next(item for item in self.chain.middleware if isinstance(item, Retry))
        assert all(0 < spent <= retry.budget for spent in owed.values())
        retries = Retry.stats(runtime)
        assert retries.successful + retries.failed <= retries.attempts

    def check_that_every_attempt_is_over_and_paid(self) -> None:
        """The books hold what the attempts say, and no attempt is open."""
        runtime = self.chain.runtime
        attempts = self.attempts()
        assert not [attempt for attempt in attempts if attempt.status == "open"]
        assert all(attempt.charge is not None for attempt in attempts)
        totals = Cost.totals(runtime)
        assert totals.all.attempts == len(attempts)
        assert totals.all.nano == sum(attempt.charge.total_nano for attempt in attempts)
        assert totals.all.unknown == 0


def tasks_of_ours() -> list[str]:
    """Names of the tasks that the package has started and that still run."""
    return sorted(name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("llmpipe:"))


def suspended() -> set[int]:
    """Generators and coroutines of the package's that have begun, or wait to, and are not over."""
    gc.collect()
    found = set()
    for thing in gc.get_objects():
        if isinstance(thing, types.AsyncGeneratorType):
            frame, code = thing.ag_frame, thing.ag_code
        elif isinstance(thing, types.CoroutineType):
            frame, code = thing.cr_frame, thing.cr_code
        else:
            continue
        if frame is not None and code.co_filename.startswith(HOME):
            found.add(id(thing))
    return found


@contextmanager
def listening() -> Iterator[list[warnings.WarningMessage]]:
    """Every warning of the block, whatever pytest would make of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield said
        gc.collect()
