"""A queue in Redis."""

from __future__ import annotations

from typing import Any, cast

from llmpipe.state import Item, ItemStatus, Leased, QueueConflict, QueueCounts, QueueFull, QueueState
from llmpipe.state.checks import at_most, check_item, check_times
from llmpipe_redis.access import Access
from llmpipe_redis.text import exact, packed, unpacked

__all__ = ("RedisQueue",)


class RedisQueue:
    """A queue of which each step is one script. See `llmpipe.state.Queue`.

    It is as durable as the Redis: with ``appendonly yes`` and ``appendfsync always`` what was accepted
    survives any crash, with ``everysec`` all but the last second.
    """

    def __init__(self, access: Access, base: str) -> None:
        self._access = access
        self._base = base.encode()
        self._max_items = self._max_bytes = 0

    def resize(self, max_items: int, max_bytes: int) -> None:
        """Take new bounds. What is there stays."""
        self._max_items, self._max_bytes = max_items, max_bytes

    async def put(self, item: Item) -> bool:
        """See `Queue.put`."""
        check_item(item)
        answer = await self._run(
            "put",
            packed(item.id),
            item.payload,
            packed(item.order),
            exact(-item.priority, "a priority"),
            b"" if item.expires_in is None else b"%r" % float(item.expires_in),
            b"%r" % float(item.delay),
            b"%d" % item.attempts,
            b"%d" % self._max_items,
            b"%d" % self._max_bytes,
        )
        if answer == b"conflict":
            raise QueueConflict(f"item {item.id!r} is there with another payload")
        if answer not in {b"new", b"same"}:
            items, count = answer.split()
            raise QueueFull(f"the queue holds {int(items)} items, {int(count)} bytes: no room for more")
        return bool(answer == b"new")

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """See `Queue.lease`."""
        check_times(seconds=seconds)
        if count < 1:
            return []
        found = await self._run("lease", packed(owner), b"%d" % at_most(count), b"%r" % float(seconds))
        return [
            Leased(id=unpacked(found[at]), payload=found[at + 1], token=found[at + 2], attempt=found[at + 3])
            for at in range(0, len(found), 4)
        ]

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """See `Queue.renew`."""
        check_times(seconds=seconds)
        return bool(await self._run("renew", packed(item), b"%d" % token, b"%r" % float(seconds)))

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """See `Queue.done`."""
        return bool(await self._run("done", packed(item), b"%d" % token, result))

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """See `Queue.fail`."""
        check_times(delay=delay)
        args = (packed(item), b"%d" % token, packed(reason), b"%r" % float(delay), b"%d" % final)
        return bool(await self._run("fail", *args))

    async def status(self, item: str) -> ItemStatus | None:
        """See `Queue.status`."""
        state, attempts, result, reason = await self._run("status", packed(item))
        if state is None:
            return None
        return ItemStatus(
            state=cast("QueueState", state.decode()),
            attempts=int(attempts),
            result=result,
            reason=unpacked(reason),
        )

    async def counts(self) -> QueueCounts:
        """See `Queue.counts`."""
        pending, leased, done, dead, expired, size, oldest = (await self._run("counts")).split()
        return QueueCounts(
            int(pending), int(leased), int(done), int(dead), int(expired), int(size), float(oldest)
        )

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """See `Queue.dead`."""
        if limit < 1:
            return []
        found = await self._run("dead", b"%d" % at_most(limit))
        texts = [unpacked(text) for text in found]
        return list(zip(texts[::2], texts[1::2], strict=True))

    async def revive(self, item: str) -> bool:
        """See `Queue.revive`."""
        return bool(await self._run("revive", packed(item)))

    async def forget(self, older_than: float) -> int:
        """See `Queue.forget`."""
        check_times(older_than=older_than)
        total = 0
        while count := await self._run("forget_items", b"%r" % float(older_than)):
            total += count
        return total

    async def _run(self, name: str, *args: bytes) -> Any:
        return await self._access.run_whole(name, self._base, args)
