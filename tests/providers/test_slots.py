"""Permits under virtual time: none is lost, none is made up, and the order is the order of coming."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import LimitReached
from llmpipe.providers.slots import Slots
from llmpipe.testing.loop import run


async def take(slots: Slots, seconds: float = 10.0) -> None:
    if slots.taken < slots.limit:
        slots.taken += 1
    else:
        await slots.wait(seconds)


async def test_who_waits_too_long_is_told_so():
    slots = Slots(1)
    await take(slots)
    began = asyncio.get_running_loop().time()
    with pytest.raises(LimitReached, match="all 1 connections were in use for 3 s") as caught:
        await take(slots, 3)
    assert asyncio.get_running_loop().time() - began == pytest.approx(3)
    assert (caught.value.sent, caught.value.health, caught.value.status) == (False, "ignore", 503)
    assert caught.value.__context__ is None
    assert slots.taken == 1
    slots.release()
    assert slots.taken == 0


async def test_those_who_gave_up_leave_nothing_behind():
    slots = Slots(1)
    await take(slots)
    tasks = [asyncio.create_task(take(slots, 1)) for _ in range(100)]
    assert all(isinstance(r, LimitReached) for r in await asyncio.gather(*tasks, return_exceptions=True))
    assert len(slots._waiting) == 0


async def test_a_turn_that_comes_as_its_taker_is_cancelled_goes_to_the_next():
    slots = Slots(1)
    await take(slots)
    first, second = asyncio.create_task(take(slots)), asyncio.create_task(take(slots))
    await asyncio.sleep(0)
    slots.release()  # the turn of the first
    first.cancel()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.exception() is None
    assert slots.taken == 1
    slots.release()
    assert slots.taken == 0


@given(
    limit=st.integers(1, 3),
    callers=st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 4), st.sampled_from(["keep", "cancel", "impatient"])),
        max_size=25,
    ),
    seed=st.integers(0, 999),
)
def test_never_more_than_the_limit_hold_one_and_all_come_back(limit, callers, seed):
    async def main() -> None:
        slots = Slots(limit)
        holding = most = 0

        async def caller(delay: int, hold: int, how: str) -> None:
            nonlocal holding, most
            await asyncio.sleep(delay)
            await take(slots, 1.5 if how == "impatient" else 1000)
            holding += 1
            most = max(most, holding)
            try:
                await asyncio.sleep(hold)
            finally:
                holding -= 1
                slots.release()

        tasks = [asyncio.create_task(caller(*one)) for one in callers]
        for task, (delay, _, how) in zip(tasks, callers, strict=True):
            if how == "cancel":
                asyncio.get_running_loop().call_later(delay + 1, task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(r is None or isinstance(r, (LimitReached, asyncio.CancelledError)) for r in results)
        assert most <= limit
        assert slots.taken == 0
        assert len(slots._waiting) == 0

    run(main(), seed=seed)
