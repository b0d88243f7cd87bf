"""A queue in this process: as the durable ones, except that it ends with the process."""

from __future__ import annotations

import asyncio

from attrs import define

from llmpipe.state.contracts.queue import (
    Item,
    ItemStatus,
    Leased,
    QueueConflict,
    QueueCounts,
    QueueFull,
    QueueState,
)

__all__ = ("MemoryQueue",)


@define
class _Entry:
    item: Item
    number: int
    came_at: float
    due_at: float
    expires_at: float | None
    state: QueueState = "pending"
    attempts: int = 0
    token: int = 0
    leased_until: float = 0.0
    ended_at: float = 0.0
    result: bytes | None = None
    reason: str = ""


class MemoryQueue:
    """Items in a dict, in the order they came."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._entries: dict[str, _Entry] = {}
        self._came = self._tokens = 0
        self.resize(max_items, max_bytes)

    def resize(self, max_items: int, max_bytes: int) -> None:
        """Take new bounds. What is there stays."""
        self._max_items, self._max_bytes = max_items, max_bytes

    async def put(self, item: Item) -> bool:
        """See `Queue.put`."""
        now = self._swept()
        found = self._entries.get(item.id)
        if found is not None:
            if found.item.payload != item.payload:
                raise QueueConflict(f"item {item.id!r} is there with another payload")
            return False
        if len(self._entries) >= self._max_items or self._bytes() + len(item.payload) > self._max_bytes:
            raise QueueFull(
                f"the queue holds {len(self._entries)} items, {self._bytes()} bytes: no room for more"
            )
        self._came += 1
        expires_at = None if item.expires_in is None else now + item.expires_in
        self._entries[item.id] = _Entry(item, self._came, now, now + item.delay, expires_at)
        return True

    def _bytes(self) -> int:
        return sum(len(entry.item.payload) + len(entry.result or b"") for entry in self._entries.values())

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """See `Queue.lease`."""
        now = self._swept()
        found: list[Leased] = []
        for entry in sorted(self._entries.values(), key=lambda one: (-one.item.priority, one.number)):
            if len(found) >= count:
                break
            if entry.state != "pending" or entry.due_at > now or self._behind(entry):
                continue
            self._tokens += 1
            entry.state, entry.token, entry.leased_until = "leased", self._tokens, now + seconds
            entry.attempts += 1
            found.append(
                Leased(
                    id=entry.item.id, payload=entry.item.payload, token=entry.token, attempt=entry.attempts
                )
            )
        return found

    def _behind(self, entry: _Entry) -> bool:
        """Whether an earlier item of the same order is not over."""
        order = entry.item.order
        return bool(order) and any(
            other.item.order == order and other.number < entry.number and other.state in ("pending", "leased")
            for other in self._entries.values()
        )

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """See `Queue.renew`."""
        entry = self._held(item, token)
        if entry is not None:
            entry.leased_until = asyncio.get_running_loop().time() + seconds
        return entry is not None

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """See `Queue.done`."""
        entry = self._held(item, token)
        if entry is not None:
            self._end(entry, "done")
            entry.result = result
        return entry is not None

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """See `Queue.fail`."""
        entry = self._held(item, token)
        if entry is None:
            return False
        entry.reason = reason
        if final or entry.attempts >= entry.item.attempts:
            self._end(entry, "dead")
        else:
            entry.state, entry.due_at = "pending", asyncio.get_running_loop().time() + delay
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
        states = [entry.state for entry in self._entries.values()]
        oldest = max(
            (now - entry.came_at for entry in self._entries.values() if entry.state == "pending"), default=0.0
        )
        return QueueCounts(
            states.count("pending"),
            states.count("leased"),
            states.count("done"),
            states.count("dead"),
            states.count("expired"),
            self._bytes(),
            oldest,
        )

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """See `Queue.dead`."""
        self._swept()
        dead = [entry for entry in self._entries.values() if entry.state == "dead"]
        return [(entry.item.id, entry.reason) for entry in sorted(dead, key=lambda one: one.number)[:limit]]

    async def revive(self, item: str) -> bool:
        """See `Queue.revive`."""
        now = self._swept()
        entry = self._entries.get(item)
        if entry is None or entry.state not in ("dead", "expired"):
            return False
        entry.state, entry.attempts, entry.due_at, entry.expires_at, entry.reason = (
            "pending",
            0,
            now,
            None,
            "",
        )
        return True

    async def forget(self, older_than: float) -> int:
        """See `Queue.forget`."""
        now = self._swept()
        over = [
            name
            for name, entry in self._entries.items()
            if entry.state in ("done", "dead", "expired") and now - entry.ended_at >= older_than
        ]
        for name in over:
            del self._entries[name]
        return len(over)

    def _held(self, item: str, token: int) -> _Entry | None:
        self._swept()
        entry = self._entries.get(item)
        return entry if entry is not None and entry.state == "leased" and entry.token == token else None

    def _end(self, entry: _Entry, state: QueueState) -> None:
        entry.state, entry.ended_at = state, asyncio.get_running_loop().time()

    def _swept(self) -> float:
        """End leases that are over, and what is out of attempts or time; the time."""
        now = asyncio.get_running_loop().time()
        for entry in self._entries.values():
            if entry.state == "leased" and entry.leased_until <= now:
                entry.state, entry.reason = "pending", entry.reason or "its lease ended"
            if entry.state == "pending" and entry.attempts >= entry.item.attempts:
                self._end(entry, "dead")
            elif entry.state == "pending" and entry.expires_at is not None and entry.expires_at <= now:
                self._end(entry, "expired")
        return now
