from __future__ import annotations

import asyncio
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.testing.loop import Deadlock, VirtualTimeLoop, run

# Each test makes loops of its own, so none of these needs the suite's.
DAY = 86400.0


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_ten_minute_sleep_takes_no_time():
    async def main() -> float:
        await asyncio.sleep(600)
        return now()

    assert run(main()) == 600.0  # a loop that slept would be seen without an assertion


def test_a_jump_never_waits_for_real():
    waits: list[float | None] = []

    class Watched(VirtualTimeLoop):
        def _select(self, timeout, poll):
            return super()._select(timeout, lambda seconds: waits.append(seconds) or poll(seconds))

    async def main() -> None:
        for seconds in (600, DAY, 1e-9):
            await asyncio.sleep(seconds)

    with asyncio.Runner(loop_factory=Watched) as runner:
        runner.run(main())
    assert set(waits) == {0}


def test_time_stands_still_while_anything_is_ready():
    async def main() -> None:
        asyncio.get_running_loop().call_later(1e-6, asyncio.current_task().cancel)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert now() == 0.0

    run(main())


def test_a_clock_may_start_anywhere_and_be_large():
    async def main() -> float:
        await asyncio.sleep(0.5)
        async with asyncio.timeout(1e-3):
            await asyncio.sleep(1e-6)
        return now()

    # At 2e9 s a nanosecond is less than the distance of two floats, and timers still fire.
    assert run(main(), start=2e9) == pytest.approx(2e9 + 0.5 + 1e-6, abs=1e-6)


@given(st.lists(st.floats(min_value=0, max_value=DAY), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_timers_fire_in_order_and_exactly_at_their_time(delays: list[float]):
    fired: list[tuple[float, int]] = []

    def fire(i: int) -> None:
        fired.append((now(), i))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for i, delay in enumerate(delays):
            loop.call_at(delay, fire, i)
        await asyncio.sleep(DAY)

    run(main())
    due = [(delay, i) for i, delay in enumerate(delays) if delay < DAY]
    assert [entry for entry in fired if entry[0] < DAY] == sorted(due)


@pytest.mark.parametrize("count", [2, 7, 100])
def test_timers_of_one_instant_fire_in_the_order_they_were_set(count: int):
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        timers = [loop.call_at(5.0, fired.append, i) for i in range(count)]
        timers[count // 2].cancel()
        await asyncio.sleep(5)
        return fired

    assert run(main()) == [i for i in range(count) if i != count // 2]


def test_a_timeout_and_a_sleep_of_the_same_length_both_end_at_that_instant():
    async def main() -> list[float]:
        async def guarded() -> float:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await asyncio.Event().wait()
            return now()

        async def slept() -> float:
            await asyncio.sleep(3)
            return now()

        return list(await asyncio.gather(guarded(), slept()))

    assert run(main()) == [3.0, 3.0]


def test_a_cancelled_timer_does_not_move_time():
    async def main() -> float:
        asyncio.get_running_loop().call_later(50, lambda: None).cancel()
        await asyncio.sleep(1)
        return now()

    assert run(main()) == 1.0


# -- threads


def _executor_jobs():
    yield "to_thread", lambda job: asyncio.to_thread(job)
    yield "anyio", anyio.to_thread.run_sync
    pool = ThreadPoolExecutor(1)
    yield "own pool", lambda job: asyncio.get_running_loop().run_in_executor(pool, job)


@pytest.mark.parametrize(("name", "start"), list(_executor_jobs()))
def test_time_stands_still_while_a_thread_works(name: str, start):
    async def main() -> str:
        release = threading.Event()
        threading.Timer(0.05, release.set).start()

        def job() -> str:
            assert release.wait(20)
            return name

        async with asyncio.timeout(0.001):
            done = await start(job)
        assert now() == 0.0
        await asyncio.sleep(5)  # and moves again afterwards
        assert now() == 5.0
        return done

    assert run(main()) == name


def test_a_job_whose_future_was_cancelled_no_longer_holds_time():
    release = threading.Event()

    async def main() -> float:
        task = asyncio.ensure_future(asyncio.to_thread(release.wait, 20))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(5)
        release.set()
        return now()

    assert run(main()) == 5.0


def test_a_thread_the_loop_does_not_know_is_waited_for_when_nothing_else_can_happen():
    async def main() -> float:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(heard.set)).start()
        await heard.wait()
        return now()

    assert run(main()) == 0.0


def test_hold_makes_time_wait_for_a_thread_of_ones_own():
    async def main() -> float:
        loop, heard = asyncio.get_running_loop(), asyncio.Event()
        assert isinstance(loop, VirtualTimeLoop)
        threading.Timer(0.1, lambda: loop.call_soon_threadsafe(heard.set)).start()
        with loop.hold():
            async with asyncio.timeout(0.001):
                await heard.wait()
        return now()

    assert run(main(), io_wait=0) == 0.0


def test_the_executor_ends_within_no_virtual_time():
    ended: list[float] = []

    class Loop(VirtualTimeLoop):
        async def shutdown_default_executor(self, *args, **kwargs) -> None:
            await super().shutdown_default_executor(*args, **kwargs)
            ended.append(self.time())

    with asyncio.Runner(loop_factory=Loop) as runner:
        release = threading.Event()

        async def main() -> None:
            asyncio.get_running_loop().run_in_executor(None, release.wait, 20)
            threading.Timer(0.05, release.set).start()

        runner.run(main())
    assert ended == [0.0]


# -- sockets


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_real_sockets_work_and_cost_no_virtual_time():
    async def main() -> float:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            for i in range(50):
                async with asyncio.timeout(0.001):
                    writer.write(b"%d" % i)
                    assert await reader.read(100) == b"%d" % i
            spent = now()
            await asyncio.sleep(60)  # jumps although sockets are open
            assert now() == spent + 60
            writer.close()
            await writer.wait_closed()
        return spent

    assert run(main()) == 0.0


def test_a_slow_peer_outside_the_loop_is_waited_for_when_no_timer_is_set():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main() -> bytes:
        threading.Timer(0.1, theirs.send, (b"late",)).start()
        return await asyncio.get_running_loop().sock_recv(ours, 10)

    with ours, theirs:
        assert run(main()) == b"late"


def test_a_peer_that_answers_within_io_wait_comes_before_the_timer():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main() -> bytes:
        threading.Timer(0.05, theirs.send, (b"soon",)).start()
        async with asyncio.timeout(0.001):
            return await asyncio.get_running_loop().sock_recv(ours, 10)

    with ours, theirs:
        assert run(main(), io_wait=20) == b"soon"


# -- the end of the line


def test_a_deadlock_raises_and_names_what_each_task_waits_for():
    async def holds_the_bag() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(holds_the_bag(), name="bag")
            group.create_task(holds_the_bag(), name="other bag")

    with pytest.raises(Deadlock) as caught:
        run(main())
    text = str(caught.value)
    assert "nothing is ready" in text
    assert {task.get_name() for task in caught.value.tasks} >= {"bag", "other bag"}
    line = holds_the_bag.__code__.co_firstlineno + 1
    here = Path(__file__).relative_to(Path.cwd())
    assert f"bag ({holds_the_bag.__qualname__}) at {here}:{line}, in {holds_the_bag.__qualname__}" in text


def test_tasks_are_cancelled_after_a_deadlock_so_their_cleanup_runs():
    log: list[str] = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    with pytest.raises(Deadlock):
        run(main())
    assert log == ["cleaned up"]


def test_sleeping_forever_is_a_deadlock_and_no_timer():
    with pytest.raises(Deadlock):
        run(anyio.sleep_forever())


def test_a_lost_wakeup_beside_a_periodic_timer_ends_with_virtual_time():
    async def tick() -> None:
        while True:
            await asyncio.sleep(30)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.Event().wait()
        ticking.cancel()

    with pytest.raises(Deadlock, match=r"virtual time would pass its end, 3600 s"):
        run(main(), end=3600)


@pytest.mark.parametrize("cause", ["socket", "job", "thread"])
def test_real_silence_beyond_its_limit_is_a_deadlock(cause: str):
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if cause == "socket":
            async with await asyncio.start_server(_echo, "127.0.0.1", 0):
                await asyncio.Event().wait()
        elif cause == "job":
            loop.call_later(20, release.set)  # the job waits for virtual time, which waits for the job
            await asyncio.to_thread(release.wait, 20)
        else:
            threading.Thread(target=release.wait, args=(20,)).start()
            await asyncio.Event().wait()

    threading.Timer(0.4, release.set).start()
    with pytest.raises(Deadlock, match=r"0\.05 real seconds of silence"):
        run(main(), silence_limit=0.05)


# -- order under a seed


async def _race(tasks: int = 6, rounds: int = 4) -> list[tuple[int, int]]:
    order: list[tuple[int, int]] = []

    async def runner(number: int) -> None:
        for lap in range(rounds):
            await asyncio.sleep(lap % 2)  # ready together, and timers of one instant
            order.append((number, lap))

    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(runner(number))
    return order


def test_without_a_seed_the_order_is_that_of_asyncio():
    assert run(_race()) == [(number, lap) for lap in range(4) for number in range(6)]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_order(seed: int):
    assert run(_race(), seed=seed) == run(_race(), seed=seed)


def test_different_seeds_give_different_orders():
    orders = {tuple(run(_race(), seed=seed)) for seed in range(10)}
    assert len(orders) == 10


def test_the_same_seed_gives_the_same_order_in_another_process():
    code = (
        f"import runpy; t = runpy.run_path({__file__!r})\nprint(t['run'](t['_cancelled_group'](), seed=11))"
    )

    async def main() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=anyio.Path(__file__).parents[2]
        )
        out, _ = await process.communicate()
        return out.decode().strip()

    assert asyncio.run(main()) == str(run(_cancelled_group(), seed=11))


async def _cancelled_group(tasks: int = 20) -> list[int]:
    """The order in which a task group's tasks are cancelled: it keeps them in a set."""
    order: list[int] = []

    async def waits(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append(number)

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(waits(number))
            await asyncio.sleep(1)
            raise LookupError
    return order


def test_a_seed_finds_a_race_that_plain_order_hides():
    async def main() -> int:
        balance = 0

        async def deposit() -> None:
            nonlocal balance
            await asyncio.sleep(1)
            read = balance
            await asyncio.sleep(0)
            balance = read + 1

        async def audit() -> int:
            await asyncio.sleep(1)
            await asyncio.sleep(0)
            return balance

        return (await asyncio.gather(deposit(), audit()))[1]

    assert run(main()) == 1
    assert {run(main(), seed=seed) for seed in range(20)} == {0, 1}


def test_transports_work_under_every_seed():
    async def main() -> bytes:
        async with await asyncio.start_server(_echo, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"x" * 50)
            data = await reader.readexactly(50)
            writer.close()
            await writer.wait_closed()
        return data

    for seed in range(20):
        assert run(main(), seed=seed) == b"x" * 50


def test_a_timer_set_from_a_foreign_thread_is_refused_in_debug_mode():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with pytest.raises(RuntimeError, match="Non-thread-safe"):
            await asyncio.to_thread(loop.call_later, 1, print)

    run(main())


def test_a_timer_at_nan_is_refused_for_it_would_stop_those_behind_it():
    async def main() -> None:
        with pytest.raises(ValueError, match="NaN"):
            asyncio.get_running_loop().call_later(float("nan"), print)

    run(main())


def test_a_deadlock_names_the_line_within_an_async_generator():
    async def never() -> Any:
        await asyncio.Event().wait()
        yield 1

    async def main() -> None:
        async for _ in never():
            pass

    with pytest.raises(Deadlock) as caught:
        run(main())
    assert f"at {Path(__file__).relative_to(Path.cwd())}:" in str(caught.value)
    assert ".never" in str(caught.value)
