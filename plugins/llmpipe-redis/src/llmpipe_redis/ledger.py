"""Budgets in Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from llmpipe.errors import StoreDamaged
from llmpipe.state import Balance, Draw, Shortage, Spend
from llmpipe.state.checks import check_balances, check_draws, check_spends, check_times
from llmpipe_redis.access import Access
from llmpipe_redis.text import exact, packed, unpacked

__all__ = ("RedisLedger",)

_WEEK = 7 * 86_400.0
_FOREVER = 100 * 366 * 86_400.0  # seconds; Redis refuses an expiry that is too far off to be a number
_PAGE = 500
_FIELDS = attrs.fields_dict(Spend)
_encode = json.JSONEncoder(separators=(",", ":")).encode  # of orjson's, no text may have a lone surrogate


class RedisLedger:
    """A ledger of which each step is one script. See `llmpipe.state.Ledger`.

    A balance is kept for a week after it was last touched, beside the length of its period. Expired
    holds and settled ones are known for the setting `remember`.
    """

    def __init__(self, access: Access, base: str) -> None:
        self._access = access
        self._base = base.encode()
        self._remember = b"%d" % (access.settings.remember * 1000)

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """See `Ledger.reserve`. Also raises ValueError for more than 2**53 nano-USD."""
        check_draws(draws)
        check_times(lease=lease)
        args = [self._remember, packed(hold), b"%r" % float(lease)]
        for draw in draws:
            limit = b"" if draw.limit is None else exact(draw.limit, "a draw's limit")
            args += (_balance(draw.account, draw.period), exact(draw.nano, "a draw"), limit)
            args += (exact(draw.likely, "a draw's likely charge"), _keep(draw, lease))
        found = await self._access.run_whole("reserve", self._base, args)
        if found is None:
            return None
        if found == b"settled":
            raise ValueError(f"hold {hold!r} is settled, and cannot be held again")
        index, spent, held = found.split()
        return Shortage(int(index), int(spent), int(held))

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """See `Ledger.settle`. Also raises ValueError for more than 2**53 nano-USD."""
        check_draws(charges, once=False)
        check_spends(rows)
        args = [self._remember, packed(hold), b"%d" % self._access.settings.lines, b"%d" % len(charges)]
        for draw in charges:
            args += (_balance(draw.account, draw.period), exact(draw.nano, "a charge"), _keep(draw, 0.0))
        for row in rows:
            args += (packed(row.id), b"%r" % float(row.at), _written(row))
        return bool(await self._run("settle", args))

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """See `Ledger.balances`."""
        check_balances(keys)
        if not keys:
            return []
        found = await self._run("balances", [self._remember, *[_balance(*key) for key in keys]])
        numbers = [int(number) for number in found.split()]
        return [Balance(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]

    async def holds(self) -> list[str]:
        """See `Ledger.holds`."""
        return sorted(unpacked(name) for name in await self._run("holds", []))

    async def sweep(self) -> int:
        """See `Ledger.sweep`."""
        total = 0
        while count := await self._run("sweep", [self._remember]):
            total += count
        return total

    async def spends(
        self,
        *,
        since: float = 0.0,
        until: float = float("inf"),
        tenant: str | None = None,
        limit: int = 1000,
        after: Spend | None = None,
    ) -> list[Spend]:
        """See `Ledger.spends`. Reads all tenants' lines, in pages, to find those of one."""
        check_times(since=since, until=until)
        found: list[Spend] = []
        while len(found) < limit:
            most = _PAGE if tenant is not None else min(_PAGE, limit - len(found))
            last = (b"", b"") if after is None else (b"%r" % float(after.at), packed(after.id))
            args = [b"%r" % float(since), b"%r" % float(until), b"%d" % most, *last]
            page = [self._read(line) for line in await self._run("spends", args)]
            found += [row for row in page if tenant in (None, row.tenant)]
            if len(page) < most:
                break
            after = page[-1]
        return found[:limit]

    async def forget(self, before: float) -> int:
        """See `Ledger.forget`. Settled holds are known for the setting `remember`, whatever `before` says."""
        check_times(before=before)
        total = 0
        while count := await self._run("forget", [b"%r" % float(before)]):
            total += count
        return total

    async def _run(self, name: str, args: Sequence[bytes]) -> Any:
        return await self._access.run(name, self._base, args)

    def _read(self, line: bytes | None) -> Spend:
        try:
            return Spend(**json.loads(line or b""))
        except (TypeError, ValueError):
            place = self._access.settings.place
            raise StoreDamaged(f"Redis at {place} has a line in a journal that cannot be read") from None


def _balance(account: str, period: int) -> bytes:
    return b"%d|%b" % (period, packed(account))


def _keep(draw: Draw, lease: float) -> bytes:
    """Milliseconds for which the balance is kept after it was touched; -1 for good.

    By lengths, not by dates: a clock that jumps must not make a budget forget what is spent.
    """
    if draw.ends is None:
        return b"-1"
    seconds = max(0.0, draw.ends - draw.period) + _WEEK + max(0.0, lease)
    return b"%d" % (min(seconds, _FOREVER) * 1000)


def _written(row: Spend) -> bytes:
    fields = {name: value for name in _FIELDS if (value := getattr(row, name)) != _FIELDS[name].default}
    return _encode(fields).encode()
