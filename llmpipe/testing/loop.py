"""An event loop whose clock jumps: a test of a ten-minute cooldown takes a millisecond.

`VirtualTimeLoop` is asyncio's selector loop with another idea of time. While anything is ready,
time stands still; when nothing is, time jumps to the next timer instead of sleeping until it.
Tests, simulations and production therefore run the same code.

What happens when nothing is ready, in this order:

1. Sockets are polled. If one has news, it is served, and time stands still.
2. A job given to a thread is outstanding: wait for it, for real; time stands still. Jobs are those
   of `run_in_executor`, `asyncio.to_thread`, anyio's worker threads, and blocks under `hold`.
3. A timer is set. If something outside could still speak (an open socket, a thread that this
   loop does not know), it gets `io_wait` real seconds to do so. Then time jumps to the timer.
4. No timer is set, and something outside could still speak: wait for it, for real.
5. Nothing can ever happen again: `Deadlock`, naming what each task waits for.

So peers in the same process need no thought: the kernel hands loopback data over at once. A
server in another process needs an `io_wait` above its slowest reply. A real wait that stays
silent for `silence_limit` real seconds, and virtual time that runs past `end`, are `Deadlock`
too, so a test fails with a reason where it would have hung.

Timers set for the same instant fire in the order in which they were set. With a `seed`, they
and all tasks that are ready together run in an order drawn from it: the same seed gives the same
order again, another seed another order that asyncio permits. Code that is right is right
under every seed.

The way in, wrapping the selector's `select`, is that of the package looptime (0.9), which steps
through real time while it waits for threads and sockets; this loop never does, so its clock reads
the same in every run.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from random import Random
from typing import Any, TypeVar, TypeVarTuple

__all__ = ("Deadlock", "VirtualTimeLoop", "run")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Events = list[tuple[selectors.SelectorKey, int]]
Poll = Callable[[float | None], Events]


class Deadlock(RuntimeError):
    """The loop can never finish what it runs. `tasks` are those that still wait."""

    def __init__(self, why: str, tasks: set[asyncio.Task[Any]]) -> None:
        self.tasks = tasks
        lines = sorted(f"\n  {_waiting(task)}" for task in tasks)
        super().__init__(why + "; these tasks wait:" + "".join(lines) if lines else why + "; no task is left")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop with a virtual clock; the module's docstring has its rules.

    Args:
        seed: draw the order of ready tasks and simultaneous timers from it; None keeps asyncio's.
        start: what `time` returns at first, in seconds.
        end: virtual seconds after which the loop gives up; 100 days, so that a lost wake-up
            beside a periodic timer fails rather than hangs.
        io_wait: real seconds that open sockets and unknown threads get before each jump.
        silence_limit: real seconds without news after which a real wait is given up.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _selector: selectors.BaseSelector
    _clock_resolution: float
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]

    def __init__(
        self,
        *,
        seed: int | None = None,
        start: float = 0.0,
        end: float = 100 * 86400.0,
        io_wait: float = 0.01,
        silence_limit: float = 30.0,
    ) -> None:
        self.seed = seed
        self._end = start + end
        self._random = None if seed is None else Random(seed)  # noqa: S311  order, nothing secret
        self._order = itertools.count()  # of timers and, for a seed, of tasks
        self._births: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._io_wait = io_wait
        self._silence_limit = silence_limit
        self._held = 0
        self._known_threads = weakref.WeakSet(threading.enumerate())
        super().__init__(_Selector(self._select))
        self._set_time(start)

    def time(self) -> float:
        """Virtual seconds since `start`."""
        return self._now

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let time stand still within the block: real work goes on that the loop cannot see.

        For a thread of one's own that answers through `call_soon_threadsafe`. A sleep inside the
        block never ends.
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, and timers of the same instant keep their order.

        Raises: ValueError for a timer at NaN, which asyncio takes, and then never fires those behind it.
        """
        self._check_closed()
        if math.isnan(when):
            raise ValueError("a timer at NaN would never be due")
        if self.get_debug():
            self._check_thread()
        timer = _Timer(when, callback, args, self, context)
        timer.order = next(self._order) if self._random is None else self._random.random()
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As asyncio's, and time stands still until the job is done or its future cancelled."""
        before = set(threading.enumerate())
        future = super().run_in_executor(executor, func, *args)
        self._known_threads.update(set(threading.enumerate()) - before)
        self._held += 1
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._held -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """As asyncio's, and its time limit does not pass while the threads end."""
        with self.hold():
            await super().shutdown_default_executor(*args, **kwargs)

    def _select(self, timeout: float | None, poll: Poll) -> Events:
        """What `selectors.select` returns, having moved the clock if that is what is due."""
        if self._random is not None:
            self._shuffle(self._random)
        if timeout == 0:
            return poll(0)
        # Asked before the poll: a thread that speaks and ends in between has then been heard.
        job, outside = self._elsewhere()
        if events := poll(0):
            return events
        if job:
            return self._wait(poll, "a thread's job is outstanding")
        # asyncio has just dropped cancelled timers from the head of the heap. A timer at infinity
        # (anyio.sleep_forever) is none.
        due = self._scheduled[0].when() if self._scheduled else math.inf
        if due == math.inf:
            if not outside:
                raise self._deadlock("nothing is ready, and no timer, socket or thread can change that")
            return self._wait(poll, f"{outside} could speak, and no timer is set")
        if outside and (events := poll(self._io_wait)):
            return events
        if due > self._end:
            raise self._deadlock(f"virtual time would pass its end, {self._end:g} s")
        self._set_time(due)
        return []

    def _set_time(self, now: float) -> None:
        self._now = now
        # asyncio fires what is due before now + resolution. One ulp makes that exactly the timers of
        # this instant, and keeps it true for clocks so large that adding 1 ns would change nothing.
        self._clock_resolution = math.ulp(now)

    def _wait(self, poll: Poll, why: str) -> Events:
        events = poll(self._silence_limit)
        if not events:
            raise self._deadlock(f"{self._silence_limit:g} real seconds of silence, while {why}")
        return events

    def _deadlock(self, why: str) -> Deadlock:
        return Deadlock(why, asyncio.all_tasks(self))

    def _elsewhere(self) -> tuple[bool, str]:
        """Whether a thread has a job of this loop, and what else could speak to it: "" if nothing.

        anyio's worker threads do not come from an executor. They are known by their attributes
        rather than by a private import: `loop`, `idle_workers`, `stopping` (anyio 4).
        """
        job = self._held > 0
        outside = "a socket" if len(self._selector.get_map()) > 1 else ""  # one is our wake-up pipe
        worker: Any
        for worker in threading.enumerate():
            if (idle := getattr(worker, "idle_workers", None)) is not None:
                job = job or (worker.loop is self and not worker.stopping and worker not in idle)
            elif worker not in self._known_threads:
                outside = outside or "a thread"
        return job, outside

    def _shuffle(self, random: Random) -> None:
        """Put the steps of ready tasks in an order drawn from `random`.

        Other callbacks keep their places: transports rely on theirs (`connection_made` first).
        """
        ready = self._ready
        if len(ready) < 2:
            return
        steps = {i: task for i, handle in enumerate(ready) if (task := _task_of(handle)) is not None}
        for task in steps.values():
            self._births.setdefault(task, next(self._order))
        # Sorted first: tasks that a set woke (a task group's) come in the order of their addresses.
        order = sorted(steps, key=lambda i: self._births[steps[i]])
        random.shuffle(order)
        for place, handle in zip(steps, [ready[i] for i in order], strict=True):
            ready[place] = handle


class _Selector(selectors.DefaultSelector):
    """The platform's selector, asking the loop how long to wait, and whether at all."""

    def __init__(self, decide: Callable[[float | None, Poll], Events]) -> None:
        super().__init__()
        self._decide = decide

    def select(self, timeout: float | None = None) -> Events:
        return self._decide(timeout, super().select)


class _Timer(asyncio.TimerHandle):
    """A timer that knows its place among those of the same instant."""

    __slots__ = ("order",)
    order: float
    _scheduled: bool

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        if isinstance(other, _Timer):
            return (self.when(), self.order) < (other.when(), other.order)
        return NotImplemented


def _task_of(handle: asyncio.Handle) -> asyncio.Task[Any] | None:
    """The task whose next step the handle runs; asyncio's debug output asks in the same way."""
    callback = handle._callback  # type: ignore[attr-defined]  # private, and there since Python 3.4
    owner = getattr(callback, "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _waiting(task: asyncio.Task[Any]) -> str:
    """The task's name, its coroutine, and the innermost line of one's own that it waits at."""
    from llmpipe.testing.places import awaited_by, file_of  # noqa: PLC0415  the plugin loads little

    awaited: Any = task.get_coro()
    name, place = getattr(awaited, "__qualname__", repr(awaited)), ""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None and not (
            place and frame.f_globals["__name__"].startswith(("asyncio.", "anyio."))
        ):
            place = f" at {file_of(frame)}:{frame.f_lineno}, in {frame.f_code.co_qualname}"
        awaited = awaited_by(awaited)
    return f"{task.get_name()} ({name}){place}"


def run(main: Coroutine[Any, Any, T], *, seed: int | None = None, **options: Any) -> T:
    """What `main` returns, run to its end on a fresh `VirtualTimeLoop`, as `asyncio.run` does.

    `options` are the other arguments of the loop. Raises: Deadlock, and whatever `main` raises.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(seed=seed, **options)) as runner:
        return runner.run(main)
