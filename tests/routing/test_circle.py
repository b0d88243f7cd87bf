"""What is asked twice on one way, and what only looks like it."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.routing.circle import once_on_the_way


def test_who_is_asked_for_the_same_again_on_the_way_is_told():
    one, other = object(), object()
    with once_on_the_way(one, "a") as first:
        assert first
        for who, what, once in ((one, "a", False), (one, "b", True), (other, "a", True)):
            with once_on_the_way(who, what) as again:
                assert again is once
    with once_on_the_way(one, "a") as later:
        assert later


def test_a_way_that_failed_is_over():
    one = object()
    for _ in range(2):
        with pytest.raises(KeyError), once_on_the_way(one, 1) as once:
            assert once
            raise KeyError


async def test_tasks_go_ways_of_their_own_and_those_begun_on_one_go_on_with_it():
    one = object()

    async def ask() -> bool:
        with once_on_the_way(one, "a") as once:
            await asyncio.sleep(1)
            return once

    assert all(await asyncio.gather(ask(), ask()))
    with once_on_the_way(one, "a"):
        assert await asyncio.create_task(ask()) is False
