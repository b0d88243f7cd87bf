"""The pool and the fuse, without a server."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.state.fuse import Fuse
from llmpipe_postgres.pool import Pool


class Full(Exception):
    pass


class Fake:
    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        self.closed = True


class Maker:
    def __init__(self) -> None:
        self.made: list[Fake] = []
        self.most = 1000

    async def __call__(self) -> Fake:
        await asyncio.sleep(0.01)
        if sum(not fake.closed for fake in self.made) >= self.most:
            raise Full
        self.made.append(Fake())
        return self.made[-1]


@pytest.fixture
def make() -> Maker:
    return Maker()


async def test_no_more_are_made_than_allowed_and_none_is_lent_twice(make):
    pool, lent = Pool(make, 3, Full), []

    async def use() -> None:
        connection = await pool.take()
        assert connection not in lent
        lent.append(connection)
        await asyncio.sleep(0.1)
        lent.remove(connection)
        pool.give(connection)

    await asyncio.gather(*[use() for _ in range(50)])
    assert len(make.made) == 3


async def test_whoever_came_first_is_served_first(make):
    pool, served = Pool(make, 1, Full), []

    async def use(number: int) -> None:
        connection = await pool.take()
        served.append(number)
        await asyncio.sleep(0.1)
        pool.give(connection)

    await asyncio.gather(*[use(number) for number in range(10)])
    assert served == list(range(10))


async def test_one_that_is_discarded_is_ended_and_another_made_for_who_waits(make):
    pool = Pool(make, 1, Full)
    first = await pool.take()
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0)
    pool.discard(first)
    second = await waiting
    assert first.closed
    assert not second.closed


async def test_one_that_was_closed_by_the_server_is_not_lent_again(make):
    pool = Pool(make, 1, Full)
    first = await pool.take()
    pool.give(first)
    first.closed = True
    assert await pool.take() is not first


@pytest.mark.parametrize("late", [False, True])
async def test_whoever_is_cancelled_while_waiting_leaves_nothing_behind(make, late):
    """Also when the connection has just been passed to it: it goes to the next, and is not lost."""
    pool = Pool(make, 1, Full)
    held = await pool.take()
    gone, patient = asyncio.ensure_future(pool.take()), asyncio.ensure_future(pool.take())
    await asyncio.sleep(0.1)
    if late:
        pool.give(held)
        gone.cancel()
    else:
        gone.cancel()
        await asyncio.sleep(0)
        pool.give(held)
    assert await patient is held
    assert gone.cancelled()


async def test_whoever_is_cancelled_in_the_moment_when_another_is_served_is_passed_over(make):
    pool = Pool(make, 1, Full)
    held = await pool.take()
    gone, patient = asyncio.ensure_future(pool.take()), asyncio.ensure_future(pool.take())
    await asyncio.sleep(0.1)
    gone.cancel()
    pool.give(held)
    assert await patient is held
    assert gone.cancelled()


async def test_whoever_is_cancelled_while_connecting_gives_its_place_back(make):
    pool = Pool(make, 1, Full)
    gone = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0.001)
    patient = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0.001)
    gone.cancel()
    assert not (await patient).closed


async def test_where_the_server_has_no_more_one_makes_do_with_what_there_is(make):
    make.most = 2
    pool, done = Pool(make, 10, Full), []

    async def use(number: int) -> None:
        connection = await pool.take()
        await asyncio.sleep(0.1)
        done.append(number)
        pool.give(connection)

    await asyncio.gather(*[use(number) for number in range(20)])
    assert sorted(done) == list(range(20))


async def test_where_the_server_has_none_at_all_that_is_said(make):
    make.most = 0
    with pytest.raises(Full):
        await Pool(make, 10, Full).take()


async def test_closing_ends_the_idle_at_once_and_the_others_when_they_come_back(make):
    pool = Pool(make, 2, Full)
    one, other = await pool.take(), await pool.take()
    pool.give(one)
    pool.close()
    assert (one.closed, other.closed) == (True, False)
    pool.give(other)
    assert other.closed


async def test_closing_serves_those_who_wait_by_what_there_is_and_makes_no_more(make):
    pool = Pool(make, 1, Full)
    lent = await pool.take()
    waiting = [asyncio.ensure_future(pool.take()) for _ in range(2)]
    await asyncio.sleep(0)
    pool.close()
    for each in waiting:
        pool.give(lent)
        assert await each is lent
    pool.give(lent)
    assert lent.closed
    assert len(make.made) == 1


async def test_closing_amid_connecting_serves_who_waits_for_it_and_then_ends_it(make):
    pool = Pool(make, 1, Full)
    waiting = asyncio.ensure_future(pool.take())
    await asyncio.sleep(0.001)
    pool.close()
    connection = await waiting
    assert not connection.closed
    pool.give(connection)
    assert connection.closed
    waiting = asyncio.ensure_future(pool.take())  # from now on one is made for each, and ended
    await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.sleep(0.1)
    assert all(fake.closed for fake in make.made)


def test_a_fuse_blows_at_the_first_failure_and_lets_one_in_each_time():
    fuse = Fuse()
    assert fuse.wait(0.0) == 0.0
    fuse.failed(0.0)
    assert fuse.wait(0.1) == fuse.blown(0.1) == pytest.approx(0.15)
    assert fuse.blown(0.25) == 0.0  # who only asks does not try
    assert fuse.wait(0.25) == 0.0  # the one that tries
    assert fuse.blown(0.25) > 0.0
    assert fuse.wait(0.25) > 0.0  # and nobody beside it
    fuse.failed(0.3)
    assert fuse.wait(0.5) == pytest.approx(0.3)  # twice as long
    assert fuse.wait(0.8) == 0.0
    fuse.worked()
    assert fuse.wait(0.8) == fuse.wait(0.8) == 0.0


def test_its_pause_has_an_end_and_failures_of_one_moment_count_once():
    fuse, now = Fuse(), 0.0
    for _ in range(10):
        fuse.failed(now)
        fuse.failed(now)  # of one who set out before it blew
        now += fuse.wait(now)
        assert fuse.wait(now) == 0.0
    fuse.failed(now)
    assert fuse.wait(now) == Fuse.LAST


def test_one_who_leaves_before_it_knows_lets_the_next_try():
    fuse = Fuse()
    fuse.failed(0.0)
    assert fuse.wait(1.0) == 0.0
    fuse.unknown()
    assert fuse.wait(1.0) == 0.0
