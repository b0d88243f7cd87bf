"""A queue in this process: as the durable ones, except that it ends with the process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import islice
from math import inf

from attrs import define, field

from llmpipe.state.checks import at_most, check_item, check_times
from llmpipe.state.contracts.queue import (
    Item,
    ItemStatus,
    Leased,
    QueueConflict,
    QueueCounts,
    QueueFull,
    QueueState,
)
from llmpipe.state.memory.clock import Clock, loop_time
from llmpipe.state.memory.timers import Timers

__all__ = ("MemoryQueue",)


@define(eq=False)
class _Entry:
    item: Item
    number: int
    came_at: float
    due_at: float
    expires_at: float
    state: QueueState = "pending"
    attempts: int = 0
    token: int = 0
    leased_until: float = -inf
    ended_at: float = 0.0
    result: bytes | None = None
    reason: str = ""
    ready: bool = False  # whether it stands among the ready
    lined: bool = False  # whether it stands in the line of its order


@define
class _Line:
    """The items of one order that are not over, and which of them is leased."""

    waiting: list[tuple[int, _Entry]] = field(factory=list)  # a heap; what is over goes when it is first
    leased: _Entry | None = None


class MemoryQueue:
    """Items in the order they came; of those that may be leased, a heap. A step costs O(log n).

    An item is ready when it is pending, its delay is over, and it is first in the line of its order. It is
    looked at again when one of these comes true, and once more when it is leased.
    """

    def __init__(self, max_items: int, max_bytes: int, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._count: Counter[QueueState] = Counter()
        self._ready: list[tuple[int, int, _Entry]] = []  # a heap of (-priority, number, entry)
        self._lines: dict[str, _Line] = {}  # by order
        self._timers = Timers()
        self._came = self._tokens = self._bytes = 0
        self.resize(max_items, max_bytes)

    def resize(self, max_items: int, max_bytes: int) -> None:
        """Take new bounds. What is there stays."""
        self._max_items, self._max_bytes = max_items, max_bytes

    async def put(self, item: Item) -> bool:
        """See `Queue.put`."""
        check_item(item)
        now = self._swept()
        found = self._entries.get(item.id)
        if found is not None:
            if found.item.payload != item.payload:
                raise QueueConflict(f"item {item.id!r} is there with another payload")
            return False
        if len(self._entries) >= self._max_items or self._bytes + len(item.payload) > self._max_bytes:
            raise QueueFull(
                f"the queue holds {len(self._entries)} items, {self._bytes} bytes: no room for more"
            )
        self._came += 1
        expires_at = inf if item.expires_in is None else now + item.expires_in
        entry = _Entry(item, self._came, now, now + item.delay, expires_at)
        self._entries[item.id] = entry
        self._count["pending"] += 1
        self._bytes += len(item.payload)
        self._line_up(entry)
        self._wait(entry, now)
        return True

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """See `Queue.lease`."""
        check_times(seconds=seconds)
        now = self._swept()
        found: list[Leased] = []
        while self._ready and len(found) < count:
            entry = heappop(self._ready)[2]
            entry.ready = False
            if not self._free(entry, now):
                continue  # it is looked at again when that changes
            self._tokens += 1
            entry.token, entry.leased_until = self._tokens, now + seconds
            entry.attempts += 1
            self._timers.arm(entry.item.id, entry.leased_until)
            self._move(entry, "leased", now)
            found.append(
                Leased(
                    id=entry.item.id, payload=entry.item.payload, token=entry.token, attempt=entry.attempts
                )
            )
        return found

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """See `Queue.renew`."""
        check_times(seconds=seconds)
        now = self._swept()
        entry = self._held(item, token)
        if entry is not None:
            entry.leased_until = now + seconds
            self._timers.arm(item, entry.leased_until)
        return entry is not None

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """See `Queue.done`."""
        now = self._swept()
        entry = self._held(item, token)
        if entry is not None:
            entry.result = result
            self._bytes += len(result)
            self._end(entry, "done", now, now)
        return entry is not None

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """See `Queue.fail`."""
        check_times(delay=delay)
        now = self._swept()
        entry = self._held(item, token)
        if entry is None:
            return False
        entry.reason, entry.leased_until = reason, now
        if final:
            self._end(entry, "dead", now, now)
        else:
            self._again(entry, now + delay, now)
        return True

    async def status(self, item: str) -> ItemStatus | None:
        """See `Queue.status`."""
        self._swept()
        entry = self._entries.get(item)
        if entry is None:
            return None
        return ItemStatus(
            state=entry.state, attempts=entry.attempts, result=entry.result, reason=entry.reason
        )

    async def counts(self) -> QueueCounts:
        """See `Queue.counts`."""
        now = self._swept()
        count = self._count
        return QueueCounts(
            count["pending"],
            count["leased"],
            count["done"],
            count["dead"],
            count["expired"],
            self._bytes,
            next((now - entry.came_at for entry in self._all("pending")), 0.0),
        )

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """See `Queue.dead`."""
        self._swept()
        return [(entry.item.id, entry.reason) for entry in islice(self._all("dead"), at_most(limit))]

    async def revive(self, item: str) -> bool:
        """See `Queue.revive`."""
        now = self._swept()
        entry = self._entries.get(item)
        if entry is None or entry.state not in ("dead", "expired"):
            return False
        entry.attempts, entry.due_at, entry.expires_at, entry.reason = 0, now, inf, ""
        self._line_up(entry)
        self._move(entry, "pending", now)
        self._wait(entry, now)
        return True

    async def forget(self, older_than: float) -> int:
        """See `Queue.forget`."""
        check_times(older_than=older_than)
        now = self._swept()
        over = [
            entry
            for entry in self._entries.values()
            if entry.state in ("done", "dead", "expired") and now - entry.ended_at >= older_than
        ]
        for entry in over:
            del self._entries[entry.item.id]
            self._count[entry.state] -= 1
            self._bytes -= len(entry.item.payload) + len(entry.result or b"")
        return len(over)

    # ---------------------------------------------------------------- how an item moves

    def _swept(self) -> float:
        """End leases, delays and expiries that are over; the time."""
        now = self._clock()
        for name in self._timers.due(now):
            entry = self._entries[name]
            if entry.state == "pending":
                self._wait(entry, now)
            elif entry.leased_until > now:  # it was renewed
                self._timers.arm(name, entry.leased_until)
            else:
                entry.reason = entry.reason or "its lease ended"
                self._again(entry, entry.leased_until, now)
        return now

    def _again(self, entry: _Entry, due_at: float, now: float) -> None:
        """Its lease is over: it is pending again, or dead if it has no attempts left."""
        if entry.attempts >= entry.item.attempts:
            self._end(entry, "dead", entry.leased_until, now)
        else:
            entry.due_at = due_at
            self._move(entry, "pending", now)
            self._wait(entry, now)

    def _wait(self, entry: _Entry, now: float) -> None:
        """It is pending: expire it, make it ready, or look again when either is due."""
        if entry.expires_at <= now:
            self._end(entry, "expired", max(entry.expires_at, entry.leased_until), now)
            return
        self._timers.arm(entry.item.id, entry.expires_at)
        if entry.due_at > now:
            self._timers.arm(entry.item.id, entry.due_at)
        else:
            self._offer(entry, now)

    def _offer(self, entry: _Entry, now: float) -> None:
        if self._free(entry, now) and not entry.ready:
            entry.ready = True
            heappush(self._ready, (-entry.item.priority, entry.number, entry))

    def _free(self, entry: _Entry, now: float) -> bool:
        """Whether it may be leased."""
        if entry.state != "pending" or entry.due_at > now:
            return False
        line = self._lines.get(entry.item.order)
        return line is None or (line.leased is None and line.waiting[0][1] is entry)

    def _end(self, entry: _Entry, state: QueueState, at: float, now: float) -> None:
        """It is over since `at`."""
        entry.ended_at = at
        self._timers.disarm(entry.item.id)
        self._move(entry, state, now)

    def _move(self, entry: _Entry, state: QueueState, now: float) -> None:
        """It is in another state; the next in its line may be free by that."""
        self._count[entry.state] -= 1
        self._count[state] += 1
        entry.state = state
        line = self._lines.get(entry.item.order)
        if line is None:
            return
        if state == "leased":
            line.leased = entry
        elif line.leased is entry:
            line.leased = None
        waiting = line.waiting
        while waiting and waiting[0][1].state not in ("pending", "leased"):
            heappop(waiting)[1].lined = False
        if waiting:
            self._offer(waiting[0][1], now)
        else:
            del self._lines[entry.item.order]

    def _line_up(self, entry: _Entry) -> None:
        if entry.item.order and not entry.lined:
            entry.lined = True
            line = self._lines.setdefault(entry.item.order, _Line())
            heappush(line.waiting, (entry.number, entry))

    def _all(self, state: QueueState) -> Iterator[_Entry]:
        """The entries of a state, in the order they came."""
        if not self._count[state]:
            return iter(())
        return (entry for entry in self._entries.values() if entry.state == state)

    def _held(self, item: str, token: int) -> _Entry | None:
        entry = self._entries.get(item)
        return entry if entry is not None and entry.state == "leased" and entry.token == token else None
