# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What all limits keep to: rates in GCRA form and slots as leases."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.state import Ask, Level, Limits
from llmpipe.testing.state.harness import NAMES, Harness, fill
from llmpipe.testing.state.limits_script import LimitsScript

__all__ = ("LimitsSuite",)

HOUR = 3600.0


def rate(amount: float = 1.0, *, key: str = "rate", limit: float = 4.0, burst: float = 4.0) -> Ask:
    """Of `limit` units in 4 hours: one in an hour, so that seconds that a store takes do not count."""
    return Ask(key, amount, limit, 4 * HOUR, burst)


def slot(amount: float = 1.0, *, key: str = "slot", limit: float = 2.0) -> Ask:
    return Ask(key, amount, limit)


def near(level: Level, remaining: float, reset: float = -1.0) -> bool:
    close = abs(level.remaining - remaining) < 0.05
    return close and (reset < 0 or abs(level.reset - reset) < 60.0)


async def remaining(limits: Limits, ask: Ask) -> float:
    (level,) = await limits.levels([ask])
    return level.remaining


class LimitsSuite:
    """The limits: what is granted, when there is room again, corrections, and leases of slots."""

    pytestmark = pytest.mark.asyncio

    # ------------------------------------------------------------ rates

    async def test_a_bucket_that_nobody_has_touched_is_full(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        assert await limits.levels([rate(99.0), slot(99.0)]) == (Level(4.0, 0.0), Level(2.0, 0.0))
        assert await limits.levels([]) == ()

    async def test_a_burst_is_granted_and_then_what_flows_back(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        for number in range(4):
            taken = await limits.take(f"t{number}", [rate()], 60.0)
            assert taken.refused is None
            assert taken.retry_after == 0.0
            assert near(taken.levels[0], 3.0 - number, (number + 1) * HOUR)
        refused = await limits.take("t4", [rate()], 60.0)
        assert refused.refused == 0
        assert refused.retry_after == pytest.approx(HOUR, abs=60.0)
        assert near(refused.levels[0], 0.0, 4 * HOUR)
        await harness.pass_time(HOUR - 120.0)
        assert (await limits.take("t5", [rate()], 60.0)).refused == 0
        await harness.pass_time(120.0)
        assert (await limits.take("t6", [rate()], 60.0)).refused is None
        assert (await limits.take("t7", [rate()], 60.0)).refused == 0

    async def test_the_wait_that_is_told_is_enough_and_no_longer_than_needed(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        asks = [rate(3.0), rate(2.0, key="other", burst=2.0), slot(0.0)]
        assert (await limits.take("a", asks, 60.0)).refused is None
        refused = await limits.take("b", asks, 60.0)
        assert refused.retry_after == pytest.approx(2 * HOUR, abs=60.0)
        assert refused.retry_after is not None
        await harness.pass_time(refused.retry_after - 120.0)
        assert (await limits.take("b", asks, 60.0)).refused is not None
        await harness.pass_time(120.0)
        assert (await limits.take("b", asks, 60.0)).refused is None

    async def test_a_refusal_takes_nothing_from_any_of_the_limits(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        assert (await limits.take("a", [rate(3.0, key="low")], 60.0)).refused is None
        asks = [rate(1.0, key="high"), rate(2.0, key="low"), slot()]
        for _ in range(5):
            taken = await limits.take("b", asks, 60.0)
            assert taken.refused == 1
            assert near(taken.levels[0], 4.0, 0.0)
            assert near(taken.levels[1], 1.0)
            assert taken.levels[2] == Level(2.0, 0.0)
        assert (await limits.take("c", [rate(1.0, key="low"), slot(2.0)], 60.0)).refused is None

    async def test_an_ask_above_the_burst_is_granted_when_the_bucket_is_full_and_leaves_a_debt(
        self, harness: Harness
    ) -> None:
        limits = (await harness.open()).limits("l")
        taken = await limits.take("a", [rate(10.0)], 60.0)
        assert taken.refused is None
        assert near(taken.levels[0], -6.0, 10 * HOUR)
        refused = await limits.take("b", [rate()], 60.0)
        assert refused.retry_after == pytest.approx(7 * HOUR, abs=60.0)
        nothing = await limits.take("c", [rate(0.0)], 60.0)
        assert nothing.retry_after == pytest.approx(6 * HOUR, abs=60.0)
        await harness.pass_time(7 * HOUR + 60.0)
        assert (await limits.take("d", [rate()], 60.0)).refused is None
        large = await limits.take("e", [rate(5.0)], 60.0)
        assert large.retry_after == pytest.approx(4 * HOUR, abs=120.0)

    async def test_nothing_flows_in_above_the_burst(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(4.0)], 60.0)
        await harness.pass_time(1000 * HOUR)
        assert await limits.levels([rate()]) == (Level(4.0, 0.0),)
        assert (await limits.take("b", [rate(4.0)], 60.0)).refused is None
        assert (await limits.take("c", [rate(0.5)], 60.0)).refused == 0

    async def test_asking_for_a_level_takes_nothing(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(1.0), slot()], 600.0)
        for _ in range(3):
            levels = await limits.levels([slot(50.0), rate(50.0)])
            assert levels[0] == Level(1.0, 0.0)
            assert near(levels[1], 3.0, HOUR)

    async def test_parts_of_units_count(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        assert (await limits.take("a", [rate(3.75)], 60.0)).refused is None
        assert (await limits.take("b", [rate(0.5)], 60.0)).refused == 0
        assert (await limits.take("c", [rate(0.25)], 60.0)).refused is None

    async def test_each_key_is_a_limit_of_its_own(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        asks = [rate(float(number % 4), key=name) for number, name in enumerate(NAMES)]
        slots = [slot(float(number % 3), key="s" + name) for number, name in enumerate(NAMES)]
        assert (await limits.take("a", [*asks, *slots], 600.0)).refused is None
        levels = await limits.levels([*asks, *slots])
        assert all(near(level, 4.0 - ask.amount) for level, ask in zip(levels, asks, strict=False))
        rest = levels[len(asks) :]
        assert [level.remaining for level in rest] == [2.0 - ask.amount for ask in slots]

    # ------------------------------------------------------------ tickets

    async def test_the_same_ticket_takes_once_and_begins_its_lease_anew(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        for _ in range(3):
            taken = await limits.take("a", [rate(), slot()], 60.0)
            assert taken.refused is None
            assert near(taken.levels[0], 3.0)
            assert taken.levels[1] == Level(1.0, 0.0)
            await harness.pass_time(40.0)
        assert await remaining(limits, slot()) == 1.0
        await harness.pass_time(40.0)
        assert await remaining(limits, slot()) == 2.0

    async def test_a_refused_ticket_may_be_granted_later(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [slot(2.0)], 600.0)
        assert (await limits.take("b", [slot()], 600.0)).refused == 0
        assert await limits.settle("b", {}) is False
        assert await limits.settle("a", {}) is True
        assert (await limits.take("b", [slot()], 600.0)).refused is None
        assert await remaining(limits, slot()) == 1.0

    async def test_settling_gives_back_what_was_not_used(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(4.0), rate(2.0, key="left")], 60.0)
        assert await limits.settle("a", {"rate": 1.0}) is True
        levels = await limits.levels([rate(), rate(key="left")])
        assert near(levels[0], 3.0, HOUR)
        assert near(levels[1], 2.0, 2 * HOUR)

    async def test_settling_takes_what_was_used_beyond(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(1.0)], 60.0)
        assert await limits.settle("a", {"rate": 7.0}) is True
        assert near((await limits.levels([rate()]))[0], -3.0, 7 * HOUR)

    async def test_what_was_used_beyond_counts_from_now_where_the_bucket_had_filled(
        self, harness: Harness
    ) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(1.0)], 100 * HOUR)
        await harness.pass_time(50 * HOUR)
        assert await limits.settle("a", {"rate": 3.0}) is True
        assert near((await limits.levels([rate()]))[0], 2.0, 2 * HOUR)

    async def test_a_refund_never_makes_a_bucket_fuller_than_full(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(4.0)], 100 * HOUR)
        await harness.pass_time(3 * HOUR)
        assert await limits.settle("a", {"rate": 0.0}) is True
        assert await limits.levels([rate()]) == (Level(4.0, 0.0),)
        assert (await limits.take("b", [rate(4.0)], 60.0)).refused is None
        assert (await limits.take("c", [rate(1.0)], 60.0)).refused == 0

    async def test_settling_twice_is_settling_once(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(2.0), slot()], 60.0)
        assert await limits.settle("a", {"rate": 1.0}) is True
        assert await limits.settle("a", {"rate": 0.0}) is False
        assert await limits.settle("never", {"rate": 9.0}) is False
        assert near((await limits.levels([rate()]))[0], 3.0)
        assert await remaining(limits, slot()) == 2.0

    async def test_a_key_that_the_ticket_has_not_taken_is_not_corrected(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(1.0)], 60.0)
        assert await limits.settle("a", {"other": 3.0, "rate": 1.0}) is True
        assert (await limits.levels([rate(key="other")]))[0] == Level(4.0, 0.0)

    # ------------------------------------------------------------ slots

    async def test_slots_are_held_until_they_are_settled(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        assert (await limits.take("a", [slot()], 600.0)).levels == (Level(1.0, 0.0),)
        assert (await limits.take("b", [slot()], 600.0)).levels == (Level(0.0, 0.0),)
        full = await limits.take("c", [slot()], 600.0)
        assert (full.refused, full.retry_after, full.levels) == (0, None, (Level(0.0, 0.0),))
        await limits.settle("a", {})
        assert (await limits.take("c", [slot()], 600.0)).refused is None

    async def test_nobody_knows_when_there_is_room_while_slots_are_full(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [slot(2.0), rate(4.0)], 600.0)
        taken = await limits.take("b", [rate(), slot()], 600.0)
        assert taken.refused in (0, 1)
        assert taken.retry_after is None

    async def test_a_lease_that_ends_frees_its_slots_and_leaves_what_was_taken_of_rates(
        self, harness: Harness
    ) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [slot(2.0), rate(4.0)], 60.0)
        await limits.take("z", [slot(0.0)], 600.0)
        await harness.pass_time(70.0)
        assert await remaining(limits, slot()) == 2.0
        assert (await limits.take("b", [slot()], 60.0)).refused is None
        assert await limits.settle("a", {"rate": 0.0}) is False
        assert near((await limits.levels([rate()]))[0], 0.02)
        assert await remaining(limits, slot()) == 1.0

    async def test_hundreds_of_leases_that_end_at_once_make_room_at_once(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await fill(700, lambda number: limits.take(f"t{number}", [slot(limit=700.0)], 60.0))
        assert (await limits.take("more", [slot(limit=700.0)], 60.0)).refused == 0
        await harness.pass_time(70.0)
        assert await remaining(limits, slot(limit=700.0)) == 700.0
        assert (await limits.take("more", [slot(700.0, limit=700.0)], 60.0)).refused is None

    @pytest.mark.parametrize(
        "ask",
        [
            slot(-1.0), slot(float("nan")), slot(limit=float("nan")), rate(float("inf")), rate(limit=0.0),
            rate(limit=-1.0), rate(burst=float("nan")), Ask("rate", 1.0, 4.0, float("nan"), 4.0),
            Ask("rate", 1.0, 4.0, -60.0, 4.0),
        ],
        ids=repr,
    )  # fmt: skip
    async def test_what_is_no_limit_is_refused_and_takes_nothing(self, harness: Harness, ask: Ask) -> None:
        limits = (await harness.open()).limits("l")
        with pytest.raises(ValueError, match=ask.key):
            await limits.take("a", [slot(key="other"), ask], 600.0)
        assert await remaining(limits, slot(key="other")) == 2.0
        await limits.take("a", [slot(), rate()], 600.0)
        with pytest.raises(ValueError, match="rate"):
            await limits.settle("a", {"rate": float("nan")})
        assert await limits.settle("a", {"rate": 0.0}) is True

    # ------------------------------------------------------------ reset

    async def test_a_reset_fills_buckets_and_frees_slots_of_these_keys_only(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [rate(4.0), slot(2.0), rate(4.0, key="kept"), slot(2.0, key="held")], 600.0)
        await limits.reset(["rate", "slot", "unknown"])
        levels = await limits.levels([rate(), slot(), rate(key="kept"), slot(key="held")])
        assert [level.remaining for level in levels[:2]] == [4.0, 2.0]
        assert near(levels[2], 0.0)
        assert levels[3].remaining == 0.0

    async def test_slots_that_a_reset_has_freed_are_not_freed_again(self, harness: Harness) -> None:
        limits = (await harness.open()).limits("l")
        await limits.take("a", [slot(2.0)], 600.0)
        await limits.reset(["slot"])
        await limits.take("b", [slot(2.0)], 600.0)
        await limits.settle("a", {})
        assert await remaining(limits, slot()) == 0.0
        await limits.settle("b", {})
        assert await remaining(limits, slot()) == 2.0

    # ------------------------------------------------------------ side by side, and beside a model

    async def test_another_process_sees_the_same(self, harness: Harness) -> None:
        one = (await harness.open()).limits("l")
        other = (await harness.reopen()).limits("l")
        await one.take("a", [rate(3.0), slot(2.0)], 600.0)
        assert near((await other.levels([rate()]))[0], 1.0)
        assert (await other.take("b", [slot()], 600.0)).refused == 0
        assert await other.settle("a", {"rate": 0.0}) is True
        assert await one.levels([rate(), slot()]) == (Level(4.0, 0.0), Level(2.0, 0.0))

    async def test_a_thousand_side_by_side_on_room_for_ten_are_ten(self, harness: Harness) -> None:
        sides = [(await harness.open()).limits("l"), (await harness.reopen()).limits("l")]
        bucket, most = Ask("rate", 1.0, 10.0, 1e6, 10.0), Ask("slot", 1.0, 10.0)
        running = highest = 0

        async def ask(number: int) -> bool:
            nonlocal running, highest
            asks = [bucket, Ask("all", 1.0, 1e6)] if number < 1000 else [most]
            granted = (await sides[number % 2].take(f"t{number}", asks, 600.0)).refused is None
            if granted and number >= 1000:
                running += 1
                highest = max(highest, running)
                await asyncio.sleep(0)
                running -= 1
                await sides[number % 2].settle(f"t{number}", {})
            return granted

        granted = await fill(1000, ask)
        assert sum(granted) == 10
        assert await remaining(sides[0], Ask("all", 1.0, 1e6)) == 1e6 - 10
        await fill(200, lambda number: ask(1000 + number))
        assert 1 <= highest <= 10
        assert await remaining(sides[0], most) == 10.0

    async def test_one_ticket_taken_by_many_at_once_takes_once(self, harness: Harness) -> None:
        sides = [(await harness.open()).limits("l"), (await harness.reopen()).limits("l")]
        asks = [rate(1.0), slot()]
        taken = await fill(50, lambda number: sides[number % 2].take("t", asks, 600.0))
        assert all(each.refused is None for each in taken)
        assert near((await sides[0].levels([rate()]))[0], 3.0)
        settled = await fill(50, lambda number: sides[number % 2].settle("t", {"rate": 0.0}))
        assert sum(settled) == 1
        assert await sides[0].levels(asks) == (Level(4.0, 0.0), Level(2.0, 0.0))

    @pytest.mark.parametrize("seed", range(12))
    async def test_a_random_life_goes_as_in_the_model(self, harness: Harness, seed: int) -> None:
        await LimitsScript(harness, seed).run(150)
