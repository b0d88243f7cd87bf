# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What all stores of open circuits keep to."""

from __future__ import annotations

import pytest

from llmpipe.state import Breakers, Trip
from llmpipe.testing.state.harness import NAMES, Harness, fill

__all__ = ("BreakersSuite",)


async def seconds(breakers: Breakers, key: str = "k") -> float:
    found = (await breakers.read()).get(key)
    return 0.0 if found is None else found.seconds


class BreakersSuite:
    """Open circuits, told to all who share the store."""

    pytestmark = pytest.mark.asyncio

    async def test_no_circuit_is_open_at_first(self, harness: Harness) -> None:
        assert await (await harness.open()).breakers("b").read() == {}

    async def test_a_circuit_is_open_for_its_time(self, harness: Harness) -> None:
        breakers = (await harness.open()).breakers("b")
        await breakers.trip("k", Trip(1000.0, 3))
        found = await breakers.read()
        assert set(found) == {"k"}
        assert found["k"].reopens == 3
        assert found["k"].seconds == pytest.approx(1000.0, abs=20.0)
        await harness.pass_time(900.0)
        assert await seconds(breakers) == pytest.approx(100.0, abs=20.0)
        await harness.pass_time(110.0)
        assert await breakers.read() == {}

    async def test_a_longer_trip_counts_and_a_shorter_one_does_not(self, harness: Harness) -> None:
        breakers = (await harness.open()).breakers("b")
        await breakers.trip("k", Trip(1000.0))
        await breakers.trip("k", Trip(500.0))
        assert await seconds(breakers) == pytest.approx(1000.0, abs=20.0)
        await breakers.trip("k", Trip(2000.0))
        assert await seconds(breakers) == pytest.approx(2000.0, abs=20.0)

    async def test_the_higher_count_of_reopenings_stays_while_it_is_open(self, harness: Harness) -> None:
        breakers = (await harness.open()).breakers("b")
        await breakers.trip("k", Trip(1000.0, 4))
        await breakers.trip("k", Trip(2000.0, 2))
        assert (await breakers.read())["k"].reopens == 4
        await breakers.trip("k", Trip(500.0, 5))
        assert (await breakers.read())["k"].reopens == 5

    async def test_a_trip_that_is_over_leaves_nothing_to_the_next(self, harness: Harness) -> None:
        breakers = (await harness.open()).breakers("b")
        await breakers.trip("k", Trip(100.0, 9))
        await harness.pass_time(200.0)
        await breakers.trip("k", Trip(100.0, 1))
        assert (await breakers.read())["k"].reopens == 1

    async def test_a_closed_circuit_is_gone_and_may_open_again(self, harness: Harness) -> None:
        breakers = (await harness.open()).breakers("b")
        await breakers.trip("k", Trip(1000.0, 4))
        await breakers.close("k")
        await breakers.close("unknown")
        assert await breakers.read() == {}
        await breakers.trip("k", Trip(50.0, 1))
        assert (await breakers.read())["k"].reopens == 1

    async def test_circuits_are_told_apart_by_key_and_by_name(self, harness: Harness) -> None:
        state = await harness.open()
        for number, name in enumerate(NAMES):
            await state.breakers("b").trip(name, Trip(1000.0, number))
        found = await state.breakers("b").read()
        assert {name: trip.reopens for name, trip in found.items()} == dict(
            zip(NAMES, range(9), strict=False)
        )
        assert await state.breakers("other").read() == {}

    async def test_another_process_is_told(self, harness: Harness) -> None:
        one = (await harness.open()).breakers("b")
        other = (await harness.reopen()).breakers("b")
        await one.trip("k", Trip(1000.0, 2))
        assert await seconds(other) == pytest.approx(1000.0, abs=20.0)
        await other.close("k")
        assert await one.read() == {}

    async def test_of_many_trips_at_once_the_longest_counts(self, harness: Harness) -> None:
        sides = [(await harness.open()).breakers("b"), (await harness.reopen()).breakers("b")]
        await fill(100, lambda n: sides[n % 2].trip("k", Trip(1000.0 + 100.0 * (n * 37 % 100), n)))
        found = (await sides[0].read())["k"]
        assert found.seconds == pytest.approx(1000.0 + 9900.0, abs=30.0)
        assert found.reopens == 99
