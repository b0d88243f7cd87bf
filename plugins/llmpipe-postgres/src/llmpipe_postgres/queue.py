"""A queue in PostgreSQL: what `put` has returned from is on disk."""

from __future__ import annotations

from collections.abc import Callable

from llmpipe.state import Item, ItemStatus, Leased, QueueConflict, QueueCounts, QueueFull
from llmpipe.state.checks import at_most, check_item, check_times
from llmpipe_postgres.link import Link
from llmpipe_postgres.text import escape, unescape

__all__ = ("PostgresQueue",)

_AT_ONCE = 500
_SWEPT = 2000  # leases and expiries that one step ends
_MOST = 2**63
_STATES = ("pending", "leased", "done", "dead", "expired")


class PostgresQueue:
    """Items in a table; who leases skips what others are leasing (FOR UPDATE SKIP LOCKED).

    Bounds are counters in one row, so those who put follow one another, one flush of the disk each;
    those who lease do not wait for one another.
    """

    def __init__(
        self, link: Link, ahead: Callable[[], float], name: str, max_items: int, max_bytes: int
    ) -> None:
        self._link, self._ahead, self._name = link, ahead, escape(name)
        self._in = link.settings.schema + "."
        self._max_items, self._max_bytes = max_items, max_bytes

    async def put(self, item: Item) -> bool:
        """See `Queue.put`."""
        check_item(item)
        ((verdict, items, size),) = await self._link.fetch(
            f"SELECT * FROM {self._in}put_item($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)",  # noqa: S608  a checked name
            self._name, self._ahead(), self._max_items, self._max_bytes, escape(item.id), item.payload,
            escape(item.order), item.priority, item.expires_in, item.delay, item.attempts,
        )  # fmt: skip
        if verdict == "conflict":
            raise QueueConflict(f"item {item.id!r} is there with another payload")
        if verdict == "full":
            raise QueueFull(f"the queue holds {items} items, {size} bytes: no room for more")
        return bool(verdict == "new")

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """See `Queue.lease`. When the answer is lost, so are these leases: their items come when they end."""
        check_times(seconds=seconds)
        rows = await self._link.fetch(
            f"SELECT * FROM {self._in}lease_items($1,$2,$3,$4,$5)",  # noqa: S608  a checked name
            self._name,
            self._ahead(),
            escape(owner),
            at_most(count),
            seconds,
            repeat=False,
        )
        return [
            Leased(id=unescape(name), payload=payload, token=token, attempt=attempt)
            for name, payload, token, attempt in rows
        ]

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """See `Queue.renew`."""
        check_times(seconds=seconds)
        if abs(token) >= _MOST:
            return False
        held: bool = await self._link.value(
            f"SELECT {self._in}renew_item($1,$2,$3,$4,$5)",
            self._name,
            self._ahead(),
            escape(item),
            token,
            seconds,
        )
        return held

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """See `Queue.done`."""
        if abs(token) >= _MOST:
            return False
        held: bool = await self._link.value(
            f"SELECT {self._in}finish_item($1,$2,$3,$4,$5,$6)",
            self._name,
            self._ahead(),
            escape(item),
            token,
            result,
            tell=True,
        )
        return held

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """See `Queue.fail`."""
        check_times(delay=delay)
        if abs(token) >= _MOST:
            return False
        held: bool = await self._link.value(
            f"SELECT {self._in}fail_item($1,$2,$3,$4,$5,$6,$7,$8)",
            self._name,
            self._ahead(),
            escape(item),
            token,
            escape(reason),
            delay,
            final,
            tell=True,
        )
        return held

    async def _swept(self) -> None:
        """End what is over, so many in each step that none takes long."""
        sql = f"SELECT {self._in}end_leases($1,$2,$3)"
        while await self._link.value(sql, self._name, self._ahead(), _SWEPT) >= _SWEPT:
            pass

    async def status(self, item: str) -> ItemStatus | None:
        """See `Queue.status`."""
        await self._swept()
        rows = await self._link.fetch(
            f"SELECT state, attempts, result, reason FROM {self._in}queue_items WHERE queue = $1 AND id = $2",  # noqa: S608  a checked name
            self._name,
            escape(item),
        )
        if not rows:
            return None
        state, attempts, result, reason = rows[0]
        return ItemStatus(state=state, attempts=attempts, result=result, reason=unescape(reason))

    async def counts(self) -> QueueCounts:
        """See `Queue.counts`."""
        await self._swept()
        rows = await self._link.fetch(
            "SELECT state, count(*), "  # noqa: S608  a checked name
            "extract(epoch FROM clock_timestamp())::float8 + $2::float8 - min(came), "
            f"(SELECT bytes FROM {self._in}queue_totals WHERE queue = $1) "
            f"FROM {self._in}queue_items WHERE queue = $1 GROUP BY state",
            self._name,
            self._ahead(),
        )
        found = {state: (count, age) for state, count, age, _ in rows}
        size = rows[0][3] if rows else 0
        oldest = max(0.0, found["pending"][1]) if "pending" in found else 0.0
        pending, leased, done, dead, expired = [found.get(state, (0, 0.0))[0] for state in _STATES]
        return QueueCounts(pending, leased, done, dead, expired, size, oldest)

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """See `Queue.dead`."""
        await self._swept()
        rows = await self._link.fetch(
            f"SELECT id, reason FROM {self._in}queue_items WHERE queue = $1 AND state = 'dead' "  # noqa: S608  a checked name
            "ORDER BY number LIMIT $2",
            self._name,
            at_most(limit),
        )
        return [(unescape(name), unescape(reason)) for name, reason in rows]

    async def revive(self, item: str) -> bool:
        """See `Queue.revive`."""
        await self._swept()
        revived: bool = await self._link.value(
            f"SELECT {self._in}revive_item($1,$2,$3)", self._name, self._ahead(), escape(item)
        )
        return revived

    async def forget(self, older_than: float) -> int:
        """See `Queue.forget`."""
        check_times(older_than=older_than)
        await self._swept()
        gone = 0
        while True:
            count: int = await self._link.value(
                f"SELECT {self._in}forget_items($1,$2,$3,$4)",
                self._name,
                self._ahead(),
                older_than,
                _AT_ONCE,
            )
            gone += count
            if count < _AT_ONCE:
                return gone
