"""Limits in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmpipe.state import Ask, Level, Taken
from llmpipe.state.checks import check_asks, check_times, check_used
from llmpipe_redis.access import Access
from llmpipe_redis.text import packed

__all__ = ("RedisLimits",)


class RedisLimits:
    """Limits of which each step is one script. See `llmpipe.state.Limits`.

    A bucket that is full again has no key; nor has a ticket whose lease is over.
    """

    def __init__(self, access: Access, base: str) -> None:
        self._access = access
        self._base = base.encode()

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """See `Limits.take`."""
        check_asks(asks)
        check_times(lease=lease)
        args = [packed(ticket), b"%r" % float(lease)]
        found = await self._access.run_whole("take", self._base, args + _written(asks))
        refused, after, *levels = found.split()
        return Taken(
            _levels(levels),
            None if refused == b"-" else int(refused),
            None if after == b"-" else float(after),
        )

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """See `Limits.settle`."""
        check_used(used)
        args = [packed(ticket)]
        for key, units in used.items():
            args += (packed(key), b"%r" % float(units))
        return bool(await self._access.run("give_back", self._base, args))

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """See `Limits.levels`."""
        check_asks(asks)
        return _levels((await self._access.run_whole("levels", self._base, _written(asks))).split())

    async def reset(self, keys: Sequence[str]) -> None:
        """See `Limits.reset`."""
        await self._access.run("reset", self._base, [packed(key) for key in keys])


def _written(asks: Sequence[Ask]) -> list[bytes]:
    args: list[bytes] = []
    for ask in asks:
        args += (packed(ask.key), b"%r" % float(ask.amount), b"%r" % float(ask.limit))
        args += (b"%r" % float(ask.period), b"%r" % float(ask.burst))
    return args


def _levels(numbers: Sequence[bytes]) -> tuple[Level, ...]:
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple([Level(float(remaining), float(reset)) for remaining, reset in pairs])
