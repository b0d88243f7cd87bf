"""How late the loop is: measured while somebody looks, and at rest otherwise."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.lag import Lag
from llmpipe.runtime import Runtime
from llmpipe.testing import VirtualTimeLoop, no_leaks, run


def blocks(seconds: float) -> None:
    """A step that takes so long: the loop can run nothing else meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._set_time(loop.time() + seconds)


def running(lag: Lag) -> bool:
    return lag._timer is not None


async def test_an_idle_loop_is_not_late():
    lag = Lag.of(Runtime())
    await asyncio.sleep(30)
    assert lag.seconds == pytest.approx(0.0, abs=1e-9)
    assert lag.worst == pytest.approx(0.0, abs=1e-9)


async def test_a_step_that_blocks_shows_at_once_and_fades():
    lag = Lag.of(Runtime())
    await asyncio.sleep(1.05)
    blocks(2.0)
    await asyncio.sleep(0.01)
    assert lag.worst == pytest.approx(1.95, abs=0.001)
    assert lag.seconds > 1.5
    await asyncio.sleep(5)
    assert lag.seconds < 0.02
    assert lag.worst == pytest.approx(1.95, abs=0.001)
    await asyncio.sleep(56)
    assert lag.worst == pytest.approx(0.0, abs=1e-6)


async def test_a_loop_that_is_always_late_by_as_much_is_late_by_that_on_average():
    lag = Lag.of(Runtime())
    for _ in range(200):
        await asyncio.sleep(0)
        blocks(0.15)  # each sample is due after a tenth, so comes up to 0.2 s late
    assert 0.03 < lag.seconds < 0.25


async def test_it_stops_when_nobody_has_looked_for_a_minute_and_begins_anew():
    async with no_leaks():
        runtime = Runtime()
        lag = Lag.of(runtime)
        blocks(1.0)
        await asyncio.sleep(59)
        assert lag.worst == pytest.approx(0.9, abs=0.001)  # looked at, which is another minute
        await asyncio.sleep(59)
        assert running(lag)
        await asyncio.sleep(3)
        assert not running(lag)
        assert (lag.seconds, lag.worst) == (0.0, 0.0)
        lag.start(runtime)
        assert Lag.of(runtime) is lag
        blocks(1.0)
        await asyncio.sleep(0.2)
        assert lag.worst == pytest.approx(0.9, abs=0.001)
        await runtime.aclose()


async def test_a_call_now_and_then_keeps_it_running():
    runtime = Runtime()
    lag = Lag.of(runtime)
    for _ in range(5):
        await asyncio.sleep(45)
        lag.start(runtime)
        assert running(lag)
    await runtime.aclose()


def test_a_runtime_that_goes_on_in_another_loop_measures_that_one():
    runtime = Runtime()

    async def stall(seconds: float) -> float:
        lag = Lag.of(runtime)
        await asyncio.sleep(0.05)
        blocks(seconds)
        await asyncio.sleep(0.01)
        return lag.worst

    assert run(stall(5.0)) == pytest.approx(4.95, abs=0.01)
    assert run(stall(1.0)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.real_time
async def test_a_real_stall_is_seen():
    lag = Lag.of(runtime := Runtime())
    await asyncio.sleep(0)
    time.sleep(0.3)
    await asyncio.sleep(0)
    for _ in range(100):  # the timer comes with one of the next turns of the loop
        if lag.worst:
            break
        await asyncio.sleep(0.01)
    assert lag.worst > 0.15
    await runtime.aclose()


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 5)), min_size=1, max_size=80))
def test_the_worst_is_that_of_the_last_minute_and_the_average_lies_between(samples):
    lag, now, seen = Lag(), 0.0, []
    for elapsed, late in samples:
        now += elapsed
        lag.observe(late, elapsed, now)
        seen.append((now, late))
        assert lag.worst == max(late for at, late in seen if now - at < 60.0)
        assert 0.0 <= lag.seconds <= max(late for _, late in seen)
        assert len(lag._peaks) <= 601
