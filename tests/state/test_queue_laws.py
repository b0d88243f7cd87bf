"""The laws of the queue (Q1 to Q7), against a list that is searched from its beginning at every step.

Every store that keeps queues is held to them, through two clients of it, one of which may go at any time.
"""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.state import Item, ItemStatus, QueueConflict, QueueCounts, QueueFull
from llmpipe.state.memory.queue import MemoryQueue
from llmpipe.testing.state import ManualClock
from tests.state.stores import EPSILON, OnStore, Store, kept_in

OVER = ("done", "dead", "expired")
MAX_ITEMS, MAX_BYTES = 8, 60
names = st.integers(0, 9).map("i{}".format)
pauses = st.sampled_from([0, 0, 3, 10])


class Row:
    """One item of the model: what became of it, by the time alone."""

    def __init__(self, item: Item, at: float, expires: int | None, delay: int) -> None:
        self.item, self.came, self.due = item, at, at + delay
        self.expires = inf if expires is None else at + expires
        self.state, self.attempts, self.token, self.until, self.ended = "pending", 0, 0, -inf, inf
        self.result, self.reason = None, ""


class Work(OnStore):
    @initialize()
    def begin(self) -> None:
        self.queue = self.place.thing("queue", max_items=MAX_ITEMS, max_bytes=MAX_BYTES)
        self.rows: list[Row] = []
        self.tokens: list[tuple[str, int]] = []  # all that were ever given
        self.accepted = self.forgotten = 0
        self.finished: dict[str, bytes] = {}

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.item.id == name), None)

    def look(self) -> None:
        """Move on what time has moved."""
        at = self.now
        for row in self.rows:
            if row.state == "leased" and row.until <= at:
                row.state, row.due, row.reason = "pending", row.until, row.reason or "its lease ended"
                if row.attempts >= row.item.attempts:
                    row.state, row.ended = "dead", row.until
            if row.state == "pending" and row.expires <= at:
                row.state, row.ended = "expired", max(row.expires, row.until)

    @rule(
        name=names, size=st.integers(0, 12), order=st.sampled_from(["", "a", "a", "b"]),
        priority=st.integers(-1, 1), expires=st.sampled_from([None, None, 7, 25]), delay=pauses,
        attempts=st.integers(1, 3),
    )  # fmt: skip
    def put(self, name, size, order, priority, expires, delay, attempts) -> None:
        item = Item(
            id=name, payload=b"x" * size, order=order, priority=priority,
            expires_in=None if expires is None else self.scaled(expires), delay=self.scaled(delay),
            attempts=attempts,
        )  # fmt: skip
        found, size = self.row(name), size + sum(map(self.size, self.rows))
        if found is not None and found.item.payload != item.payload:
            with pytest.raises(QueueConflict):
                self.do(self.queue.put(item))
        elif found is not None:  # F121
            assert self.do(self.queue.put(item)) is False
        elif len(self.rows) >= MAX_ITEMS or size > MAX_BYTES:  # Q7
            with pytest.raises(QueueFull):
                self.do(self.queue.put(item))
        else:
            assert self.do(self.queue.put(item)) is True
            self.rows.append(Row(item, self.now, expires, delay))
            self.accepted += 1

    @staticmethod
    def size(row: Row) -> int:
        return len(row.item.payload) + len(row.result or b"")

    def free(self, row: Row) -> bool:
        if row.state != "pending" or row.due > self.now:
            return False
        mates = [other for other in self.rows if row.item.order and other.item.order == row.item.order]
        earlier = mates[: mates.index(row)] if row in mates else []
        return all(other.state in OVER for other in earlier) and all(
            other.state != "leased" for other in mates
        )  # Q5

    @rule(count=st.integers(0, 4), seconds=st.sampled_from([1, 5, 10, 20]))
    def lease(self, count: int, seconds: int) -> None:
        self.look()
        wanted = []
        for row in sorted(self.rows, key=lambda row: -row.item.priority):  # stable: then who came first
            if len(wanted) < count and self.free(row):
                row.state, row.attempts, row.until = "leased", row.attempts + 1, self.now + seconds
                wanted.append(row)
        found = self.do(self.queue.lease("w", count=count, seconds=self.scaled(seconds)))
        assert [(one.id, one.attempt) for one in found] == [(row.item.id, row.attempts) for row in wanted]
        for one, row in zip(found, wanted, strict=True):
            assert one.payload == row.item.payload
            assert all(one.token > token for _, token in self.tokens)  # Q3
            row.token = one.token
            self.tokens.append((one.id, one.token))

    @precondition(lambda self: self.place.again)
    @rule(workers=st.integers(2, 4), seconds=st.integers(1, 20))
    def several_lease_at_once(self, workers: int, seconds: int) -> None:
        """Q3, Q5: each item goes to one of them, if it was free before, and none of one order to two."""
        self.look()
        free = {row.item.id: row for row in self.rows if self.free(row)}
        work = [
            self.queue.lease(f"w{number}", count=2, seconds=self.scaled(seconds)) for number in range(workers)
        ]
        found = [one for leased in self.at_once(work) for one in leased]
        assert len({one.id for one in found}) == len(found)
        newest = max((token for _, token in self.tokens), default=-1)
        for one in sorted(found, key=lambda one: one.token):
            row = free[one.id]
            assert one.token > newest
            newest = row.token = one.token
            self.tokens.append((one.id, one.token))
            row.state, row.attempts, row.until = "leased", row.attempts + 1, self.now + seconds
            assert (one.payload, one.attempt) == (row.item.payload, row.attempts)
        assert found or not free

    @rule(pick=st.integers(0, 30), what=st.sampled_from(["done", "fail", "fail", "renew"]), delay=pauses,
          final=st.booleans(), seconds=st.integers(1, 20))  # fmt: skip
    def speak(self, pick: int, what: str, delay: int, final: bool, seconds: int) -> None:
        """Whoever was given a lease, now or long ago, says what came of it."""
        if not self.tokens:
            return
        name, token = self.tokens[-1 - pick % len(self.tokens)]
        self.look()
        row = self.row(name)
        held = row is not None and row.state == "leased" and row.token == token  # F123
        if what == "done":
            assert self.do(self.queue.done(name, token, b"ok")) is held
        elif what == "fail":
            assert (
                self.do(self.queue.fail(name, token, f"why {token}", delay=self.scaled(delay), final=final))
                is held
            )
        else:
            assert self.do(self.queue.renew(name, token, self.scaled(seconds))) is held
        if held:
            self.heard(row, what, delay, final, seconds)

    def heard(self, row: Any, what: str, delay: int, final: bool, seconds: int) -> None:
        if what == "done":
            row.state, row.result, row.ended = "done", b"ok", self.now
            self.finished[row.item.id] = b"ok"
        elif what == "renew":
            row.until = self.now + seconds
        else:
            over = final or row.attempts >= row.item.attempts  # F124
            row.state, row.reason, row.until = (
                "dead" if over else "pending",
                f"why {row.token}",
                self.now,
            )
            row.due, row.ended = self.now + delay, self.now

    @rule(seconds=st.sampled_from([1, 2, 5, 10, 30]))
    def pass_time(self, seconds: int) -> None:
        self.let_pass(seconds)

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        """Q1: what was accepted is there for whoever comes."""
        self.place.replace(number)

    @rule(name=names)
    def revive(self, name: str) -> None:
        self.look()
        row = self.row(name)
        revived = row is not None and row.state in ("dead", "expired")
        assert self.do(self.queue.revive(name)) is revived
        if row is not None and revived:
            row.state, row.attempts, row.due, row.expires, row.reason = "pending", 0, self.now, inf, ""

    @rule(older=st.sampled_from([0, 5, 20]))
    def forget(self, older: int) -> None:
        self.look()
        kept = [row for row in self.rows if row.state not in OVER or self.now - row.ended < older]
        assert self.do(self.queue.forget(self.scaled(older))) == len(self.rows) - len(kept)
        self.forgotten += len(self.rows) - len(kept)
        for row in self.rows:
            if row not in kept:
                self.finished.pop(row.item.id, None)
        self.rows = kept

    @invariant()
    def every_item_is_where_the_model_has_it(self) -> None:
        """Q1, Q4, F127: state by state, word for word."""
        self.look()
        for row in self.rows:
            status = ItemStatus(state=row.state, attempts=row.attempts, result=row.result, reason=row.reason)
            assert self.do(self.queue.status(row.item.id)) == status
        for name, result in self.finished.items():
            found = self.do(self.queue.status(name))
            assert found is not None
            assert (found.state, found.result) == ("done", result)
        dead = [(row.item.id, row.reason) for row in self.rows if row.state == "dead"]
        assert self.do(self.queue.dead()) == dead

    @invariant()
    def nothing_accepted_is_ever_missing_from_the_counts(self) -> None:
        """Q6."""
        self.look()
        states = [row.state for row in self.rows]
        oldest = max((self.now - row.came for row in self.rows if row.state == "pending"), default=0.0)
        found = self.do(self.queue.counts())
        numbers = {state: states.count(state) for state in ("pending", "leased", *OVER)}
        assert evolve(found, oldest=0.0) == QueueCounts(**numbers, bytes=sum(map(self.size, self.rows)))
        assert oldest - EPSILON <= found.oldest / self.place.scale <= oldest + self.place.late()
        kept = found.pending + found.leased + found.done + found.dead + found.expired
        assert kept + self.forgotten == self.accepted

    @invariant()
    def no_two_of_one_order_are_in_hands_at_once(self) -> None:
        """Q3, Q5."""
        self.look()
        orders = [row.item.order for row in self.rows if row.state == "leased" and row.item.order]
        assert len(orders) == len(set(orders))


@kept_in("memory", "sqlite", "redis", "postgresql")
def test_queues_keep_their_laws(store: Store) -> None:
    store.check(Work)


async def test_a_step_on_a_long_queue_looks_at_few_items(monkeypatch):
    clock = ManualClock()
    queue = MemoryQueue(10**6, 1 << 30, clock)
    for number in range(20_000):
        order = f"o{number % 50}" if number % 2 else ""
        await queue.put(Item(id=f"i{number}", payload=b"x", order=order, delay=float(number % 3)))
    looked = 0
    free = queue._free

    def counted(entry, now):
        nonlocal looked
        looked += 1
        return free(entry, now)

    monkeypatch.setattr(queue, "_free", counted)  # steps, which no clock could count
    clock.now += 10.0
    await queue.counts()
    looked = 0
    for _ in range(500):
        (leased,) = await queue.lease("w")
        await queue.done(leased.id, leased.token)
    assert looked <= 3 * 500


async def test_a_queue_that_is_emptied_holds_nothing_back():
    clock = ManualClock()
    queue = MemoryQueue(10**6, 1 << 30, clock)
    for number in range(3000):
        await queue.put(Item(id=f"i{number}", payload=b"x", order=f"o{number % 700}", expires_in=9e9))
        for leased in await queue.lease("w", count=2, seconds=9e9):
            await queue.done(leased.id, leased.token)
    while found := await queue.lease("w", count=100):
        for leased in found:
            await queue.done(leased.id, leased.token)
    assert await queue.forget(0.0) == 3000
    assert await queue.counts() == QueueCounts()
    assert not queue._lines
    assert not queue._ready
    assert len(queue._timers) <= 65
