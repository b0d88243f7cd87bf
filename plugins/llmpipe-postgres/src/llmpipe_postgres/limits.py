"""Limits in PostgreSQL: buckets and slots, taken in one function and one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import randrange

from llmpipe.state import Ask, Level, Taken
from llmpipe.state.checks import check_asks, check_times, check_used
from llmpipe.state.gcra import level, wait
from llmpipe_postgres.link import Link
from llmpipe_postgres.text import escape

__all__ = ("PostgresLimits",)

_SWEEP_EACH = 256  # asks, of this process: each may leave a row, and a sweep drops four times as many
_AT_ONCE = 1000


class PostgresLimits:
    """Rates and slots that a fleet shares, by the server's clock.

    Commits do not wait for the disk: a crash of the server may set it back by what was taken in its last
    0.6 seconds (three times `wal_writer_delay`), never a stop or a restart.
    """

    def __init__(self, link: Link, ahead: Callable[[], float], name: str) -> None:
        self._link, self._ahead, self._name = link, ahead, escape(name)
        schema = link.settings.schema
        self._take = f"SELECT * FROM {schema}.take($1,$2,$3,$4,$5,$6,$7,$8,$9)"  # noqa: S608  a checked name
        self._settle = f"SELECT {schema}.settle_ticket($1,$2,$3,$4,$5)"
        self._read = f"SELECT * FROM {schema}.levels($1,$2,$3,$4)"  # noqa: S608  a checked name
        self._reset = f"SELECT {schema}.reset_limits($1,$2)"
        self._sweep = f"SELECT {schema}.sweep_limits($1,$2,$3)"
        # Processes that ask for less than that in all their life sweep too, now and then one of them.
        self._unswept = randrange(_SWEEP_EACH)  # noqa: S311  no secret

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """See `Limits.take`."""
        check_asks(asks)
        check_times(lease=lease)
        self._unswept += len(asks)
        if self._unswept >= _SWEEP_EACH:
            self._unswept = 0
            await self.sweep()
        ((refused, now, tats, helds),) = await self._link.fetch(
            self._take,
            self._name,
            escape(ticket),
            lease,
            self._ahead(),
            [escape(ask.key) for ask in asks],
            [ask.amount for ask in asks],
            [ask.limit for ask in asks],
            [ask.period for ask in asks],
            [ask.burst for ask in asks],
        )
        levels = _levels(asks, now, tats, helds)
        if refused is None:
            return Taken(levels)
        return Taken(levels, refused, _retry_after(asks, now, tats, helds))

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """See `Limits.settle`."""
        check_used(used)
        settled: bool = await self._link.value(
            self._settle,
            self._name,
            escape(ticket),
            self._ahead(),
            [escape(key) for key in used],
            list(used.values()),
        )
        return settled

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """See `Limits.levels`."""
        check_asks(asks)
        ((now, tats, helds),) = await self._link.fetch(
            self._read,
            self._name,
            self._ahead(),
            [escape(ask.key) for ask in asks],
            [ask.period for ask in asks],
        )
        return _levels(asks, now, tats, helds)

    async def reset(self, keys: Sequence[str]) -> None:
        """See `Limits.reset`."""
        await self._link.fetch(self._reset, self._name, [escape(key) for key in keys])

    async def sweep(self) -> int:
        """Drop buckets that are full and leases that have ended, at most a thousand of each; how many."""
        gone: int = await self._link.value(self._sweep, self._name, self._ahead(), _AT_ONCE)
        return gone


def _levels(
    asks: Sequence[Ask], now: float, tats: Sequence[float] | None, helds: Sequence[float] | None
) -> tuple[Level, ...]:
    return tuple(
        [
            level(ask, tat, now) if ask.period else Level(ask.limit - held, 0.0)
            for ask, tat, held in zip(asks, tats or (), helds or (), strict=True)
        ]
    )


def _retry_after(
    asks: Sequence[Ask], now: float, tats: Sequence[float], helds: Sequence[float]
) -> float | None:
    """When there will be room for all, by the arithmetic that refused."""
    longest = 0.0
    for ask, tat, held in zip(asks, tats, helds, strict=True):
        if ask.period:
            longest = max(longest, wait(ask, tat, now))
        elif held + ask.amount > ask.limit:
            return None
    return longest
