# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every queue keeps to: nothing accepted is lost, and nobody who lost a lease is heard."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from llmpipe.state import ItemStatus, QueueConflict, QueueCounts, QueueFull
from llmpipe.testing.state.harness import NAMES, Harness, fill
from llmpipe.testing.state.queue_leases import QueueLeaseTests, item, lease, numbers, one, state
from llmpipe.testing.state.queue_script import QueueScript

__all__ = ("QueueSuite",)


class QueueSuite(QueueLeaseTests):
    """The queue: acceptance, order, leases, failures, expiry and bounds."""

    pytestmark = pytest.mark.asyncio

    # ------------------------------------------------------------ to accept

    async def test_a_new_queue_is_empty(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        assert await queue.counts() == QueueCounts()
        assert await lease(queue) == []
        assert await queue.status("i") is None
        assert await queue.dead() == []
        assert await queue.forget(0.0) == 0
        assert await queue.revive("i") is False

    async def test_an_item_is_leased_with_its_payload_and_done_with_its_result(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        payload, result = bytes(range(256)), b"\x00\xff done"
        assert await queue.put(item("i", payload)) is True
        again = (await harness.reopen()).queue("q")
        assert await again.status("i") == ItemStatus(state="pending", attempts=0)
        leased = await one(again)
        assert (leased.id, leased.payload, leased.attempt) == ("i", payload, 1)
        assert await again.status("i") == ItemStatus(state="leased", attempts=1)
        assert await lease(again) == []
        assert await again.done("i", leased.token, result) is True
        assert await queue.status("i") == ItemStatus(state="done", attempts=1, result=result)
        assert await lease(queue) == []

    async def test_the_same_item_twice_is_accepted_once_whatever_became_of_it(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        assert await queue.put(item("i")) is True
        assert await queue.put(item("i", priority=9)) is False
        leased = await one(queue)
        assert await queue.put(item("i")) is False
        await queue.done("i", leased.token, b"r")
        assert await queue.put(item("i")) is False
        assert await state(queue) == "done"
        assert numbers(await queue.counts()) == (0, 0, 1, 0, 0)

    async def test_another_payload_under_an_id_is_refused_and_changes_nothing(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", b"first"))
        with pytest.raises(QueueConflict):
            await queue.put(item("i", b"other"))
        assert (await one(queue)).payload == b"first"
        with pytest.raises(QueueConflict):
            await queue.put(item("i", b""))

    async def test_ids_are_told_apart_by_every_letter(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        names = [*NAMES, "I", "i", "i ", "e\u0301"]  # the last looks as é does
        for name in names:
            assert await queue.put(item(name, name.encode())) is True
        assert {each.id: each.payload.decode() for each in await lease(queue, 99)} == {n: n for n in names}

    # ------------------------------------------------------------ bounds

    async def test_a_full_queue_refuses_and_keeps_what_it_has(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q", max_items=3)
        for number in range(3):
            await queue.put(item(f"i{number}"))
        with pytest.raises(QueueFull):
            await queue.put(item("more"))
        assert await queue.put(item("i0")) is False  # it is there: that needs no room
        assert await state(queue, "more") == "none"
        assert numbers(await queue.counts()) == (3, 0, 0, 0, 0)
        leased = await one(queue)
        await queue.done(leased.id, leased.token)
        with pytest.raises(QueueFull):
            await queue.put(item("more"))  # what is done is still kept
        assert await queue.forget(0.0) == 1
        assert await queue.put(item("more")) is True

    async def test_a_queue_is_full_by_bytes_of_payloads_and_results(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q", max_bytes=100)
        with pytest.raises(QueueFull):
            await queue.put(item("large", b"x" * 101))
        await queue.put(item("i", b"x" * 60))
        await queue.put(item("j", b"x" * 40))
        assert (await queue.counts()).bytes == 100
        with pytest.raises(QueueFull):
            await queue.put(item("k", b"x"))
        leased = await one(queue)
        assert await queue.done(leased.id, leased.token, b"y" * 50) is True
        assert (await queue.counts()).bytes == 150
        assert await queue.forget(0.0) == 1
        assert (await queue.counts()).bytes == 40
        assert await queue.put(item("k", b"x" * 60)) is True

    # ------------------------------------------------------------ order

    async def test_higher_priority_goes_first_and_then_who_came_first(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        for number, priority in enumerate([0, 5, -3, 5, 0, 10**6, -3]):
            await queue.put(item(f"i{number}", priority=priority))
        names = [each.id for each in await lease(queue, 3)]
        names += [each.id for each in await lease(queue, 99)]
        assert names == ["i5", "i1", "i3", "i0", "i4", "i2", "i6"]

    async def test_items_of_one_order_go_one_after_another(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        for number, order in enumerate(["a", "a", "b", "a", "", "b"]):
            await queue.put(item(f"i{number}", order=order, priority=number))
        first = await lease(queue, 99)
        assert [each.id for each in first] == ["i4", "i2", "i0"]
        assert await lease(queue, 99) == []
        assert await queue.done("i0", first[2].token) is True
        (second,) = await lease(queue, 99)
        assert second.id == "i1"
        await queue.fail("i1", second.token, "again")
        (third,) = await lease(queue, 99)
        assert third.id == "i1"
        await queue.fail("i1", third.token, "no", final=True)
        assert [each.id for each in await lease(queue, 99)] == ["i3"]

    async def test_an_item_that_waits_holds_back_those_behind_it_in_its_order(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("late", order="a", delay=1000.0))
        await queue.put(item("behind", order="a"))
        await queue.put(item("free"))
        assert [each.id for each in await lease(queue, 99, 9999.0)] == ["free"]
        await harness.pass_time(1010.0)
        assert [each.id for each in await lease(queue, 99)] == ["late"]

    async def test_an_order_goes_on_behind_what_expired_or_died(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("old", order="a", expires_in=100.0, delay=50.0))
        await queue.put(item("poison", order="a", attempts=1))
        await queue.put(item("good", order="a"))
        assert await lease(queue, 99) == []
        await harness.pass_time(200.0)
        assert [each.id for each in await lease(queue, 99, 100.0)] == ["poison"]
        await harness.pass_time(150.0)
        assert [each.id for each in await lease(queue, 99)] == ["good"]
        assert [await state(queue, name) for name in ("old", "poison")] == ["expired", "dead"]

    async def test_no_two_of_one_order_are_leased_at_once_though_one_was_revived(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        for name in ("first", "second", "third"):
            await queue.put(item(name, order="a"))
        first = await one(queue)
        await queue.fail("first", first.token, "no", final=True)
        second = await one(queue)
        assert await queue.revive("first") is True
        assert await lease(queue, 9) == []
        await queue.done("second", second.token)
        assert [each.id for each in await lease(queue, 9)] == ["first"]

    async def test_an_item_is_not_leased_before_its_delay_is_over(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", delay=1000.0))
        await harness.pass_time(900.0)
        assert await lease(queue) == []
        assert await state(queue) == "pending"
        await harness.pass_time(110.0)
        assert (await one(queue)).id == "i"

    async def test_no_more_are_leased_than_asked(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        for number in range(5):
            await queue.put(item(f"i{number}"))
        assert [len(await lease(queue, count)) for count in (0, 2, 1, 9, 9)] == [0, 2, 1, 2, 0]

    # ------------------------------------------------------------ side by side, and beside a model

    async def test_no_item_is_leased_twice_by_workers_side_by_side(self, harness: Harness) -> None:
        sides = [(await harness.open()).queue("q"), (await harness.reopen()).queue("q")]
        accepted = await fill(200, lambda n: sides[n % 2].put(item(f"i{n % 100}", order=f"o{n % 7}")))
        assert sum(accepted) == 100
        begun: list[str] = []
        open_orders: Counter[str] = Counter()

        async def work(number: int) -> None:
            queue = sides[number % 2]
            for _ in range(1000):
                leased = await queue.lease(f"w{number}", count=1 + number % 3, seconds=600.0)
                for each in leased:
                    begun.append(each.id)
                    order = f"o{int(each.id[1:]) % 7}"
                    open_orders[order] += 1
                    assert open_orders[order] == 1
                    await asyncio.sleep(0)
                    open_orders[order] -= 1
                    assert await queue.done(each.id, each.token) is True
                if not leased and (await queue.counts()).done == 100:
                    return

        await fill(10, work)
        assert len(begun) == len(set(begun)) == 100
        for order in range(7):  # one at a time, in the order in which they came
            of_order = [int(name[1:]) for name in begun if int(name[1:]) % 7 == order]
            assert len(of_order) == len(range(order, 100, 7))
        assert numbers(await sides[0].counts()) == (0, 0, 100, 0, 0)

    async def test_one_item_put_by_many_at_once_is_accepted_once(self, harness: Harness) -> None:
        sides = [(await harness.open()).queue("q"), (await harness.reopen()).queue("q")]
        accepted = await fill(50, lambda n: sides[n % 2].put(item("i")))
        assert sum(accepted) == 1
        assert len(await lease(sides[0], 50)) == 1

    async def test_a_bound_holds_against_many_at_once(self, harness: Harness) -> None:
        sides = [
            (await harness.open()).queue("q", max_items=10),
            (await harness.reopen()).queue("q", max_items=10),
        ]

        async def put(number: int) -> bool:
            try:
                return await sides[number % 2].put(item(f"i{number}"))
            except QueueFull:
                return False

        assert sum(await fill(100, put)) == 10
        assert numbers(await sides[0].counts()) == (10, 0, 0, 0, 0)

    @pytest.mark.parametrize("seed", range(12))
    async def test_a_random_life_goes_as_in_the_model(self, harness: Harness, seed: int) -> None:
        await QueueScript(harness, seed).run(120)
