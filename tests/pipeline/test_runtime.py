"""Alarms, shielded clean-up, and the runtime's tasks, ids and state."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import CancelScope, move_on_after

from llmpipe.runtime import Alarm, Runtime, shielded
from llmpipe.testing.loop import VirtualTimeLoop, run
from tests.pipeline.kit import Boom, Remembering, turns


class Late(Exception):
    """What an alarm makes."""


def alarm(seconds: float) -> Alarm:
    return Alarm(now() + seconds, Late)


def now() -> float:
    return asyncio.get_running_loop().time()


def the_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def no_timers() -> bool:
    loop: Any = asyncio.get_running_loop()
    return not [timer for timer in loop._scheduled if not timer.cancelled()]


# ------------------------------------------------------------ alarms


async def test_an_alarm_ends_its_block_when_it_is_due():
    with pytest.raises(Late), alarm(3):
        await asyncio.sleep(10)
    assert now() == 3.0
    assert the_task().cancelling() == 0
    await asyncio.sleep(1)


async def test_an_alarm_leaves_a_block_that_ends_in_time_alone():
    with alarm(3):
        await asyncio.sleep(1)
    with pytest.raises(Boom), alarm(3):
        raise Boom
    assert no_timers()
    await asyncio.sleep(10)
    assert the_task().cancelling() == 0


async def test_an_alarm_that_is_due_already_waits_for_what_is_in_hand():
    with alarm(-1):
        await asyncio.sleep(0)
    with pytest.raises(Late), alarm(-1):
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("armed_first", ["alarm", "answer"])
@pytest.mark.parametrize("seed", [None, *range(5)])
def test_an_answer_in_the_same_instant_wins(armed_first: str, seed: int | None):
    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        if armed_first == "answer":
            loop.call_at(5.0, answer.set_result, "in hand")
        with Alarm(5.0, Late):
            if armed_first == "alarm":
                loop.call_at(5.0, answer.set_result, "in hand")
            return await answer

    assert run(main(), seed=seed) == "in hand"


async def test_a_cancellation_in_the_same_instant_wins_over_the_alarm():
    async def guarded() -> None:
        with alarm(5):
            await asyncio.sleep(10)

    for delay in (5.0, 5.0 - 1e-9):
        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(delay, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled(), delay


async def test_a_cancellation_while_the_alarm_is_under_way_is_not_eaten():
    async def guarded() -> None:
        with alarm(5):
            await asyncio.sleep(10)

    loop = asyncio.get_running_loop()
    for turn in range(6):
        task = asyncio.create_task(guarded())
        await asyncio.sleep(0)

        def cancel(task: asyncio.Task[None] = task, left: int = turn) -> None:
            if left:
                loop.call_soon(cancel, task, left - 1)
            else:
                task.cancel()

        loop.call_later(5, cancel)
        await asyncio.wait([task])
        if turn < 3:
            assert task.cancelled(), turn
        else:  # the alarm was first
            assert task.cancelled() or isinstance(task.exception(), Late)


async def test_the_outer_of_two_alarms_for_the_same_instant_wins():
    class Outer(Exception):
        pass

    with pytest.raises(Outer), Alarm(now() + 3, Outer), alarm(3):
        await asyncio.sleep(10)
    assert the_task().cancelling() == 0


async def test_the_earlier_of_two_alarms_wins():
    with pytest.raises(Late), alarm(3), Alarm(now() + 5, Boom):
        await asyncio.sleep(10)
    with pytest.raises(Boom), alarm(5), Alarm(now() + 3, Boom):
        await asyncio.sleep(10)
    assert the_task().cancelling() == 0
    assert no_timers()


async def test_a_block_that_swallows_the_alarm_goes_on_and_the_task_is_clean():
    with alarm(3):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
    assert now() == 4.0
    assert the_task().cancelling() == 0


async def test_what_the_block_makes_of_the_alarm_passes():
    with pytest.raises(Boom), alarm(3):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise Boom from None
    assert the_task().cancelling() == 0


async def test_an_alarm_works_in_timeouts_groups_and_scopes():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            with alarm(3):
                await asyncio.sleep(10)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(100))
            with alarm(3):
                await asyncio.sleep(10)
    assert [type(error) for error in caught.value.exceptions] == [Late]
    with move_on_after(1) as scope, alarm(3):
        await asyncio.sleep(10)
    assert scope.cancelled_caught
    with pytest.raises(Late), move_on_after(3), alarm(1):
        await asyncio.sleep(10)
    assert the_task().cancelling() == 0


# ------------------------------------------------------------ shielded


async def test_shielded_work_is_done_when_it_returns():
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(1)
        done.append(1)

    await shielded(work(), Remembering(), "work")
    assert done == [1]
    assert no_timers()


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_a_cancellation_is_raised_when_the_work_is_done(cancels: int):
    done: list[float] = []

    async def work() -> None:
        await asyncio.sleep(3)
        done.append(now())

    task = asyncio.create_task(shielded(work(), Remembering(), "work"))
    for _ in range(cancels):
        await asyncio.sleep(0.5)
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done == [3.0]


async def test_the_work_cannot_be_woken_by_a_cancelled_scope():
    done: list[float] = []

    async def work() -> None:
        await asyncio.sleep(3)
        done.append(now())

    with CancelScope() as scope:
        scope.cancel()
        await shielded(work(), Remembering(), "work")
    assert scope.cancelled_caught
    assert done == [3.0]


async def test_work_that_fails_is_reported_and_nothing_raised():
    async def work() -> None:
        await asyncio.sleep(1)
        raise Boom("late")

    runtime = Remembering()
    await shielded(work(), runtime, "work")
    assert [(what, str(error)) for what, error in runtime.reports] == [("work", "late")]


async def test_work_that_is_out_of_time_is_cut_and_reported():
    runtime = Remembering(cleanup_seconds=2.0)
    await shielded(asyncio.sleep(100), runtime, "work")
    assert now() == 2.0
    ((what, error),) = runtime.reports
    assert (what, str(error)) == ("work", "not done after 2 s")


@pytest.mark.parametrize("cancelled", [False, True])
async def test_work_that_ignores_being_cut_is_left_to_the_runtime(cancelled: bool):
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue

    runtime = Remembering(cleanup_seconds=2.0)
    task = asyncio.create_task(shielded(work(), runtime, "work"))
    await asyncio.sleep(1)
    if cancelled:
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() is cancelled
    assert 2.0 < now() < 4.0
    assert len(runtime.reports) == 1
    await runtime.aclose()
    assert "still running: llmpipe:work" in str(runtime.reports[1][1])
    stop.set()
    await turns()
    assert runtime._tasks == set()


# ------------------------------------------------------------ the runtime

FORKS = """
import os
from llmpipe.runtime import Runtime

random, seeded = Runtime(), Runtime(seed=1)
ids = [os.pipe() for _ in range(2)]
for _, to in ids:
    if (pid := os.fork()) == 0:
        os.write(to, f"{random.new_id()} {seeded.new_id()}".encode())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print(random.new_id(), seeded.new_id(), *[os.read(of, 100).decode() for of, _ in ids])
"""


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_that_were_forked_draw_ids_of_their_own_unless_they_are_seeded():
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", FORKS],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    ids = run.stdout.split()
    assert len(set(ids[::2])) == 3
    assert len(set(ids[1::2])) == 1


async def test_a_task_of_the_runtime_outlives_its_call_and_ends_with_the_runtime():
    runtime = Remembering()
    task = runtime.spawn(asyncio.sleep(100), "sleeping")
    assert task.get_name() == "llmpipe:sleeping"
    await asyncio.sleep(1)
    await runtime.aclose()
    assert task.cancelled()
    assert now() == 1.0
    assert runtime.reports == []
    await runtime.aclose()


async def test_a_task_of_the_runtime_that_fails_is_reported():
    async def failing() -> None:
        raise Boom("background")

    runtime = Remembering()
    runtime.spawn(failing(), "failing")
    await turns()
    ((what, error),) = runtime.reports
    assert "llmpipe:failing" in what
    assert str(error) == "background"


async def test_closing_the_runtime_ends_tasks_that_others_start_while_they_end():
    runtime = Remembering()
    started: list[asyncio.Task[None]] = []

    async def restless() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            started.append(runtime.spawn(asyncio.sleep(100), "another"))

    runtime.spawn(restless(), "restless")
    await turns()
    await runtime.aclose()
    assert [task.cancelled() for task in started] == [True]
    assert runtime._tasks == set()


async def test_a_task_of_the_runtime_may_close_it():
    runtime = Remembering()
    other = runtime.spawn(asyncio.sleep(100), "other")
    await runtime.spawn(runtime.aclose(), "closing")
    assert other.cancelled()


class Store:
    """State that holds something, and may fail to let go."""

    def __init__(self, name: str, closed: list[str], error: BaseException | None = None) -> None:
        self.name, self.closed, self.error = name, closed, error

    async def aclose(self) -> None:
        self.closed.append(self.name)
        if self.error is not None:
            raise self.error


async def test_a_store_that_fails_to_close_keeps_no_other_from_closing():
    runtime, closed = Remembering(), list[str]()
    for name, error in (("old", None), ("failing", Boom("no")), ("young", None)):
        runtime.state("store", name, partial(Store, name, closed, error))
    with pytest.raises(Boom, match="no"):
        await runtime.aclose()
    assert closed == ["young", "failing", "old"]


async def test_stores_are_closed_also_where_whoever_closes_the_runtime_is_cancelled():
    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    runtime, closed = Remembering(), list[str]()
    runtime.state("store", "the one", partial(Store, "the one", closed))
    runtime.spawn(slow_to_end(), "slow to end")
    await turns()
    closing = asyncio.create_task(runtime.aclose())
    await turns()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert closed == ["the one"]


def test_closing_leaves_the_tasks_of_a_loop_that_is_gone_to_themselves():
    runtime = Remembering()
    gone = VirtualTimeLoop()
    gone.set_exception_handler(lambda loop, context: None)  # it says that a pending task was destroyed

    async def begin() -> None:
        runtime.spawn(asyncio.sleep(100), "left behind")

    gone.run_until_complete(begin())
    gone.close()

    async def close() -> float:
        mine = runtime.spawn(asyncio.sleep(100), "mine")
        await turns()
        await runtime.aclose()
        assert mine.cancelled()
        return now()

    assert run(close()) == 0.0
    assert runtime._tasks == set()
    assert runtime.reports == []


def test_closing_ends_the_tasks_of_a_loop_in_another_thread_from_that_loop():
    runtime = Remembering()
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            assert asyncio.get_running_loop() is theirs[0]
            ended.set()

    async def elsewhere() -> None:
        theirs.append(asyncio.get_running_loop())
        await asyncio.wait([runtime.spawn(work(), "elsewhere")])

    theirs: list[Any] = []
    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    assert begun.wait(10)
    asyncio.run(runtime.aclose())
    assert ended.wait(10)
    thread.join(10)
    assert runtime.reports == []


def test_reports_go_to_the_log(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.ERROR, logger="llmpipe"):
        Runtime().report("clean-up", Boom("why"))
    assert "clean-up: Boom: why" in caplog.text


def test_a_seed_makes_ids_and_chance_repeatable():
    one, two, other = Runtime(seed=7), Runtime(seed=7), Runtime(seed=8)
    assert [one.new_id("a-"), one.random.random()] == [two.new_id("a-"), two.random.random()]
    assert one.new_id() != other.new_id()
    assert len({one.new_id() for _ in range(1000)}) == 1000


def test_state_is_made_once_for_each_kind_and_name():
    runtime = Runtime()
    made: list[str] = []

    def make(name: str) -> list[str]:
        made.append(name)
        return [name]

    first = runtime.state("breaker", "a", partial(make, "a"))
    assert runtime.state("breaker", "a", partial(make, "never")) is first
    assert runtime.state("bucket", "a", partial(make, "b")) == ["b"]
    assert made == ["a", "b"]
    assert runtime.states("breaker") == {"a": ["a"]}
    assert runtime.states("nothing") == {}


def test_wall_time_is_what_it_is_told():
    assert Runtime(wall=lambda: 5.0).wall() == 5.0


def test_time_is_the_running_loops():
    async def main() -> float:
        await asyncio.sleep(3)
        return Runtime().now()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=100.0)) as runner:
        assert runner.run(main()) == 103.0
