# ruff: noqa: D102, D103  a test's name is its sentence, and a helper's its meaning
"""What becomes of leased items, and of those that fail: part of the queue's suite."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.state import Item, ItemStatus, Leased, Queue, QueueCounts
from llmpipe.testing.state.harness import Harness, fill

__all__ = ("QueueLeaseTests", "item", "lease", "numbers", "one", "reason", "state")


def item(name: str, payload: bytes = b"work", **rest: Any) -> Item:
    return Item(id=name, payload=payload, **rest)


async def lease(queue: Queue, count: int = 1, seconds: float = 600.0) -> list[Leased]:
    return await queue.lease("worker", count=count, seconds=seconds)


async def one(queue: Queue, seconds: float = 600.0) -> Leased:
    (leased,) = await lease(queue, 1, seconds)
    return leased


async def state(queue: Queue, name: str = "i") -> str:
    found = await queue.status(name)
    return "none" if found is None else found.state


def numbers(counts: QueueCounts) -> tuple[int, int, int, int, int]:
    return (counts.pending, counts.leased, counts.done, counts.dead, counts.expired)


async def reason(queue: Queue, name: str = "i") -> str:
    found = await queue.status(name)
    return "" if found is None else found.reason


class QueueLeaseTests:
    """Leases that end, failures, death, expiry and forgetting."""

    async def test_a_lease_that_ends_makes_the_item_pending_and_its_holder_is_not_heard(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i"))
        zombie = await one(queue, 100.0)
        await harness.pass_time(110.0)
        assert await state(queue) == "pending"
        assert await queue.done("i", zombie.token, b"late") is False
        assert await queue.renew("i", zombie.token, 100.0) is False
        fresh = await one(queue)
        assert fresh.token > zombie.token
        assert (fresh.attempt, fresh.payload) == (2, b"work")
        assert await queue.done("i", zombie.token, b"late") is False
        assert await queue.fail("i", zombie.token, "late") is False
        assert await queue.renew("i", zombie.token, 100.0) is False
        assert await queue.status("i") == ItemStatus(state="leased", attempts=2, reason=(await reason(queue)))
        assert await queue.done("i", fresh.token, b"right") is True
        found = await queue.status("i")
        assert found is not None
        assert (found.state, found.result) == ("done", b"right")

    async def test_a_renewed_lease_runs_from_then_on(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i"))
        leased = await one(queue, 100.0)
        for _ in range(3):
            await harness.pass_time(70.0)
            assert await queue.renew("i", leased.token, 100.0) is True
        assert await queue.renew("i", leased.token + 1, 100.0) is False
        assert await queue.renew("unknown", leased.token, 100.0) is False
        assert await queue.renew("i", leased.token, 1000.0) is True
        await harness.pass_time(900.0)
        assert await queue.done("i", leased.token) is True

    async def test_done_is_final(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i"))
        leased = await one(queue, 100.0)
        assert await queue.done("i", leased.token, b"r") is True
        assert await queue.done("i", leased.token, b"s") is False
        assert await queue.fail("i", leased.token, "no") is False
        assert await queue.renew("i", leased.token, 1.0) is False
        assert await queue.revive("i") is False
        await harness.pass_time(10_000.0)
        found = await queue.status("i")
        assert found is not None
        assert (found.state, found.result, found.attempts) == ("done", b"r", 1)

    async def test_an_item_may_be_done_after_its_expiry_while_its_lease_runs(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", expires_in=100.0))
        leased = await one(queue, 1000.0)
        await harness.pass_time(500.0)
        assert await state(queue) == "leased"
        assert await queue.done("i", leased.token) is True

    # ------------------------------------------------------------ failures

    async def test_a_failed_item_comes_again_after_its_delay(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i"))
        leased = await one(queue)
        assert await queue.fail("i", leased.token, "busy", delay=1000.0) is True
        assert await queue.status("i") == ItemStatus(state="pending", attempts=1, reason="busy")
        assert await queue.fail("i", leased.token, "twice") is False
        assert await lease(queue) == []
        await harness.pass_time(1010.0)
        assert (await one(queue)).attempt == 2

    async def test_an_item_out_of_attempts_is_dead_with_its_reason_and_the_queue_goes_on(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("poison", attempts=3, priority=1))
        await queue.put(item("good"))
        for number in (1, 2, 3):
            assert await state(queue, "poison") == "pending"
            leased = await one(queue)
            assert (leased.id, leased.attempt) == ("poison", number)
            assert await queue.fail("poison", leased.token, f"failed {number}") is True
        assert await queue.status("poison") == ItemStatus(state="dead", attempts=3, reason="failed 3")
        assert await queue.dead() == [("poison", "failed 3")]
        assert (await one(queue)).id == "good"

    async def test_a_final_failure_is_death_at_once(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i"))
        leased = await one(queue)
        assert await queue.fail("i", leased.token, "never", final=True, delay=9.0) is True
        assert await queue.status("i") == ItemStatus(state="dead", attempts=1, reason="never")

    async def test_an_item_whose_last_lease_ends_is_dead_and_says_why(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", attempts=2))
        for _ in range(2):
            await one(queue, 100.0)
            await harness.pass_time(110.0)
        assert await lease(queue) == []
        assert await state(queue) == "dead"
        assert await reason(queue) != ""
        assert [name for name, _ in await queue.dead()] == ["i"]

    async def test_the_dead_are_listed_in_the_order_they_came(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        for number in range(4):
            await queue.put(item(f"i{number}", priority=number))
        for each in await lease(queue, 4):
            await queue.fail(each.id, each.token, f"of {each.id}", final=True)
        wanted = [(f"i{number}", f"of i{number}") for number in range(4)]
        assert await queue.dead() == wanted
        assert await queue.dead(limit=2) == wanted[:2]

    async def test_an_item_past_its_time_expires_and_is_not_begun(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", expires_in=100.0))
        await queue.put(item("retried", expires_in=100.0))
        await queue.put(item("kept", expires_in=1000.0))
        first = await lease(queue, 2)
        await queue.fail("i", first[0].token, "busy")
        await queue.fail("retried", first[1].token, "busy")
        await harness.pass_time(110.0)
        assert [each.id for each in await lease(queue, 9)] == ["kept"]
        assert [await state(queue, name) for name in ("i", "retried")] == ["expired", "expired"]
        assert numbers(await queue.counts()) == (0, 1, 0, 0, 2)

    async def test_the_dead_and_the_expired_can_be_revived_with_all_their_attempts(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("dead", attempts=1))
        await queue.put(item("old", expires_in=100.0, delay=500.0))
        leased = await one(queue)
        await queue.fail("dead", leased.token, "no")
        await harness.pass_time(200.0)
        assert await queue.revive("dead") is True
        assert await queue.revive("old") is True
        assert await queue.revive("old") is False
        assert await queue.status("dead") == ItemStatus(state="pending", attempts=0)
        found = await lease(queue, 9, 20_000.0)  # at once, and without an expiry
        assert [(each.id, each.attempt) for each in found] == [("dead", 1), ("old", 1)]
        assert found[0].token > leased.token
        await harness.pass_time(10_000.0)
        await queue.fail("old", found[1].token, "busy")
        assert await state(queue, "old") == "pending"
        assert await queue.done("dead", leased.token) is False

    async def test_forgetting_drops_what_has_been_over_for_long_enough_and_nothing_else(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        for name in ("first", "second", "held", "waits"):
            await queue.put(item(name))
        first, second, _held = await lease(queue, 3, 10_000.0)
        await queue.done("first", first.token)
        await harness.pass_time(500.0)
        await queue.fail("second", second.token, "no", final=True)
        await harness.pass_time(500.0)
        assert await queue.forget(2000.0) == 0
        assert await queue.forget(700.0) == 1
        assert await state(queue, "first") == "none"
        assert await queue.forget(0.0) == 1
        assert numbers(await queue.counts()) == (1, 1, 0, 0, 0)
        assert await queue.put(item("first", b"other")) is True

    async def test_counts_say_how_many_how_large_and_how_old(self, harness: Harness) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("i", b"12345"))
        await harness.pass_time(1000.0)
        await queue.put(item("j", b"678", delay=9999.0))
        found = await queue.counts()
        assert numbers(found) == (2, 0, 0, 0, 0)
        assert found.bytes == 8
        assert found.oldest == pytest.approx(1000.0, abs=20.0)
        await one(queue)
        assert (await queue.counts()).oldest == pytest.approx(0.0, abs=20.0)
        other = (await harness.open()).queue("q")
        assert await other.counts() == QueueCounts()

    async def test_queues_are_told_apart_by_name(self, harness: Harness) -> None:
        opened = await harness.open()
        await opened.queue("q").put(item("i"))
        assert await lease(opened.queue("other")) == []
        assert await opened.queue("other").put(item("i", b"else")) is True

    async def test_hundreds_of_leases_that_end_at_once_are_over_for_whoever_asks(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")

        async def put(number: int) -> None:
            late = 50.0 if number % 2 else None
            await queue.put(item(f"i{number}", attempts=1 if number % 3 else 2, expires_in=late))

        await fill(600, put)
        assert len(await lease(queue, 600, 60.0)) == 600
        await harness.pass_time(100.0)
        assert numbers(await queue.counts()) == (100, 0, 0, 400, 100)
        assert len(await lease(queue, 600)) == 100

    async def test_what_is_over_is_so_since_it_was_and_not_since_somebody_looked(
        self, harness: Harness
    ) -> None:
        queue = (await harness.open()).queue("q")
        await queue.put(item("dead", attempts=1))
        await queue.put(item("expired", expires_in=50.0))
        await queue.put(item("late", expires_in=50.0))
        dead, expired = await lease(queue, 2, 40.0)
        assert (dead.id, expired.id) == ("dead", "expired")
        await harness.pass_time(500.0)
        assert await queue.forget(480.0) == 0
        assert await queue.forget(455.0) == 1
        assert await state(queue, "dead") == "none"
        assert await queue.forget(440.0) == 2

    @pytest.mark.parametrize(
        "rest",
        [
            {"attempts": 0},
            {"attempts": -1},
            {"priority": 2**60},
            {"delay": float("nan")},
            {"expires_in": float("nan")},
        ],
    )
    async def test_what_could_never_be_leased_is_refused(
        self, harness: Harness, rest: dict[str, Any]
    ) -> None:
        queue = (await harness.open()).queue("q")
        with pytest.raises(ValueError, match=next(iter(rest)).replace("_", " ")):
            await queue.put(item("i", **rest))
        assert await queue.put(item("i")) is True
        leased = await one(queue)
        for call in (
            queue.lease("w", seconds=float("nan")),
            queue.renew("i", leased.token, float("nan")),
            queue.fail("i", leased.token, "", delay=float("nan")),
            queue.forget(float("nan")),
        ):
            with pytest.raises(ValueError, match="not a number"):
                await call
        assert await queue.done("i", leased.token) is True
