"""Takes alerts to one sink: in order, with retries, never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from typing import Any

from attrs import frozen

from llmpipe.middleware.alerts.alert import SEVERITIES, Alert
from llmpipe.middleware.alerts.sinks.base import Sink, Undelivered
from llmpipe.runtime import Runtime
from llmpipe.secret import scrub

__all__ = ("Post", "SinkStatus")

log = logging.getLogger("llmpipe")

_ATTEMPTS = 6  # with the delays between them some minute, after which an alert is no news
_BASE, _CAP = 1.0, 30.0  # seconds: delays are drawn from 0.5 to 1 times min(cap, base * 2 ** n)
_TIMEOUT = 10.0  # seconds for one attempt


@frozen
class SinkStatus:
    """What became of the alerts for one sink.

    Attributes:
        name: of the sink.
        queued: how many wait, the one under way included.
        sent: how many it took.
        dropped: how many were thrown away because too many waited; the oldest go first.
        failed: how many it did not take, whatever was tried.
        retries: how many more attempts were made.
    """

    name: str
    queued: int
    sent: int
    dropped: int
    failed: int
    retries: int


class Post:
    """The queue in front of a sink, and who carries from it: a task of the runtime's, while there is work."""

    def __init__(self, sink: Sink, runtime: Runtime, max_queue: int) -> None:
        self.sink = sink
        self.sent = self.dropped = self.failed = self.retries = 0
        self.max_queue = max_queue
        self._rank = SEVERITIES.index(sink.at_least)
        self._runtime = runtime
        self._queue: deque[Alert] = deque()
        self._current: Alert | None = None
        self._job: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None

    def put(self, alert: Alert) -> None:
        """Queue `alert`, if the sink wants it."""
        if alert.rank < self._rank:
            return
        while len(self._queue) >= self.max_queue:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(alert)
        worker = self._worker
        if worker is None or worker.done() or worker.get_loop() is not asyncio.get_running_loop():
            # Not in the context of the call that happens to be the first: it outlives that.
            begin = partial(self._runtime.spawn, self._work(), f"alerts to {self.sink.name}")
            self._worker = Context().run(begin)

    @property
    def status(self) -> SinkStatus:
        """The figures."""
        queued = len(self._queue) + (self._current is not None)
        return SinkStatus(self.sink.name, queued, self.sent, self.dropped, self.failed, self.retries)

    async def _work(self) -> None:
        while (alert := self._next()) is not None:
            await self._deliver(alert)

    def _next(self) -> Alert | None:
        if self._current is None and self._queue:
            self._current = self._queue.popleft()
        return self._current

    async def _deliver(self, alert: Alert) -> None:
        for attempt in range(_ATTEMPTS):
            # Asked in a task of its own: a worker that is cancelled leaves it to `flush` to wait for.
            self._job = asyncio.get_running_loop().create_task(self._ask(alert))
            problem = await self._answer(asyncio.shield(self._job))
            if problem is None:
                return
            if not problem.retryable or attempt == _ATTEMPTS - 1:
                self._give_up(problem)
                return
            self.retries += 1
            delay = min(_CAP, _BASE * 2**attempt) * self._runtime.random.uniform(0.5, 1.0)
            await asyncio.sleep(max(delay, problem.retry_after or 0.0))

    async def _ask(self, alert: Alert) -> None:
        async with asyncio.timeout(_TIMEOUT):
            await self.sink.send(alert)

    async def _answer(self, asked: Coroutine[Any, Any, None] | asyncio.Future[None]) -> Undelivered | None:
        """What came of it: None if the sink took the alert."""
        try:
            await asked
        except Undelivered as error:
            return error
        except TimeoutError:
            return Undelivered(f"it took longer than {_TIMEOUT:g} s")
        except Exception as error:  # noqa: BLE001  a sink is anybody's code, and an alert's way must go on
            return Undelivered(f"it raised {type(error).__name__}: {scrub(str(error), max_chars=200)}")
        self._current = None
        self.sent += 1
        return None

    def _give_up(self, problem: Undelivered) -> None:
        alert, self._current = self._current, None
        self.failed += 1
        name = "" if alert is None else alert.id
        log.error("alert %s was not delivered to %s: %s", name, self.sink.name, problem)

    async def flush(self) -> None:
        """Deliver what is left, trying each once; to be bounded in time by who asks."""
        job = self._job
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
        if job is not None and self._current is not None:
            if not job.done() and job.get_loop() is asyncio.get_running_loop():
                await self._answer(job)
            self._job = None
        while (alert := self._next()) is not None:
            problem = await self._answer(self._ask(alert))
            if problem is not None:
                self._give_up(problem)

    def abandon(self) -> None:
        """Let go of what is left: nobody waits any more."""
        if self._job is not None and not self._job.done():
            self._job.cancel()
        lost = len(self._queue) + (self._current is not None)
        self._queue.clear()
        self._current = None
        self.failed += lost
        if lost:
            log.error("%d alerts were not delivered to %s: out of time", lost, self.sink.name)
