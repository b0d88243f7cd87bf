"""Budgets in a file: balances, holds as leases, and the journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

from attrs import define

from llmpipe.state.checks import at_most, check_balances, check_spends, check_times
from llmpipe.state.contracts.ledger import Balance, Draw, Shortage, Spend
from llmpipe.state.draws import Share, shares_of
from llmpipe.state.spends import FIELDS, spend_of, values_of
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session
from llmpipe.state.sqlite.seals import real, seal, whole
from llmpipe.state.sqlite.text import from_json, to_json

__all__ = ("SqliteLedger",)

_Key = tuple[str, int]
_WEEK = 7 * 86_400.0  # that a balance is kept beyond its period
_LOOK = 3600.0  # seconds between two looks for balances to forget
_MOST = 2**63 - 1
_FORGET = 1000  # lines in one step, so that nobody waits for long

_AT, _SECONDS, _ESTIMATED = (FIELDS.index(name) for name in ("at", "seconds", "estimated"))
_INSERT = (
    "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)


@define
class _Sum:
    """A balance, kept for `keep` seconds after `touched`; infinite where its period has no end."""

    spent: int = 0
    held: int = 0
    keep: float = inf
    touched: float = 0.0


@define
class _Hold:
    """``open`` until `at`, ``expired`` or ``settled`` since; of each balance it has (nano, likely)."""

    state: str
    at: float
    parts: dict[_Key, tuple[int, int]]


class SqliteLedger:
    """See `Ledger`. All arithmetic is done here, inside the transaction."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name
        self._looked = 0.0

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """See `Ledger.reserve`."""
        shares = shares_of(draws)
        check_times(lease=lease)
        return await self._engine.run(partial(self._reserve, hold=hold, shares=shares, lease=lease))

    def _reserve(self, db: Session, hold: str, shares: Sequence[Share], lease: float) -> Shortage | None:
        self._sweep(db)
        found = self._hold(db, hold) or _Hold("open", 0.0, {})
        if found.state == "settled":
            raise ValueError(f"hold {hold!r} is settled, and cannot be held again")
        expired = found.state == "expired"
        parts, keys = found.parts, {share[0] for share in shares}
        sums = {key: self._sum(db, key) for key in (keys | parts.keys() if expired else keys)}
        for index, (key, wanted, limit, _, _) in enumerate(shares):
            if limit is None:
                continue
            sum_, (nano, likely) = sums[key], parts.get(key, (0, 0))
            if key in parts and wanted <= nano and not expired:
                continue  # it has that already
            spent, held = (sum_.spent - likely, sum_.held) if expired else (sum_.spent, sum_.held - nano)
            if spent + held + max(wanted, nano) > limit:
                return Shortage(index, spent, held)
        if expired:
            _charge_likely(sums, found, -1)
            for key in parts.keys() - keys:  # nobody asked whether that still fits
                sums[key].held -= parts.pop(key)[0]
        for key, wanted, _, wants_likely, ends in shares:
            sum_, (nano, likely) = sums[key], parts.get(key, (0, 0))
            sum_.held += max(0, wanted - nano)
            parts[key] = (max(nano, wanted), max(likely, wants_likely))
            _touch(sum_, key, ends, db.now)
        found.state, found.at = "open", db.now + lease
        if not lease > 0:  # it is over at once, for those who ask at this very moment too
            db.swept.discard(("ledger", self._space))
        self._put_sums(db, sums)
        self._put_hold(db, hold, found)
        return None

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """See `Ledger.settle`."""
        shares = shares_of(charges, once=False)
        check_spends(rows)
        lines = [_line(self._space, row) for row in rows]
        return await self._engine.run(partial(self._settle, hold=hold, charges=shares, lines=lines))

    def _settle(
        self, db: Session, hold: str, charges: Sequence[Share], lines: Sequence[Sequence[Any]]
    ) -> bool:
        self._sweep(db)
        self._forget_sums(db)
        found = self._hold(db, hold) or _Hold("open", 0.0, {})
        if found.state == "settled":
            return False
        keys = {*found.parts, *[charge[0] for charge in charges]}
        sums = {key: self._sum(db, key) for key in keys}
        if found.state == "expired":
            _charge_likely(sums, found, -1)
        for key, (nano, _) in found.parts.items():
            sums[key].held -= nano
        for key, nano, _, _, ends in charges:
            sums[key].spent += nano
            _touch(sums[key], key, ends, db.now)
        self._put_sums(db, sums)
        self._put_hold(db, hold, _Hold("settled", db.now, {}))
        db.executemany(_INSERT, lines)
        return True

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """See `Ledger.balances`."""
        check_balances(keys)
        return await self._engine.run(partial(self._balances, keys=list(keys)), "read")

    def _balances(self, db: Session, keys: Iterable[_Key]) -> list[Balance]:
        self._sweep(db)
        return [Balance(found.spent, found.held) for found in [self._sum(db, key) for key in keys]]

    async def holds(self) -> list[str]:
        """See `Ledger.holds`."""
        return await self._engine.run(self._holds, "read")

    def _holds(self, db: Session) -> list[str]:
        self._sweep(db)
        found = db.execute("SELECT hold FROM holds WHERE space = ? AND state = 'open'", (self._space,))
        return sorted(hold for (hold,) in found)

    async def sweep(self) -> int:
        """See `Ledger.sweep`."""
        return await self._engine.run(self._sweep, "read")

    def _sweep(self, db: Session) -> int:
        """Expire what has to; how many there were."""
        if ("ledger", self._space) in db.swept:
            return 0
        due = db.execute(
            "SELECT hold FROM holds WHERE space = ? AND state = 'open' AND at <= ?", (self._space, db.now)
        ).fetchall()
        if due:
            db.must_write()
            self._expire(db, [hold for (hold,) in due])
        db.swept.add(("ledger", self._space))
        return len(due)

    def _expire(self, db: Session, due: Sequence[str]) -> None:
        sums: dict[_Key, _Sum] = {}
        for hold in due:
            found = self._hold(db, hold)
            assert found is not None, "it was there a statement ago"
            for key in found.parts.keys() - sums.keys():
                sums[key] = self._sum(db, key)
            _charge_likely(sums, found, 1)
            found.state, found.at = "expired", db.now
            self._put_hold(db, hold, found)
        self._put_sums(db, sums)

    async def spends(
        self,
        *,
        since: float = 0.0,
        until: float = float("inf"),
        tenant: str | None = None,
        limit: int = 1000,
        after: Spend | None = None,
    ) -> list[Spend]:
        """See `Ledger.spends`."""
        check_times(since=since, until=until)
        at, name = (after.at, after.id) if after is not None else (-inf, "")
        whose = (self._space,) if tenant is None else (self._space, tenant)
        asked = (*whose, real(since), real(until), real(at), name, at_most(limit))
        return await self._engine.run(partial(_spends, asked=asked, everybody=tenant is None), "read")

    async def forget(self, before: float) -> int:
        """See `Ledger.forget`. In steps, between which others are served."""
        check_times(before=before)
        gone = 0
        while step := await self._engine.run(partial(self._forget, before=before)):
            gone += step
        await self._engine.run(partial(self._forget_holds, before=before))
        return gone

    def _forget(self, db: Session, before: float) -> int:
        return db.execute(
            "DELETE FROM journal WHERE (space, at, id) IN "
            "(SELECT space, at, id FROM journal WHERE space = ? AND at < ? ORDER BY at LIMIT ?)",
            (self._space, real(before), _FORGET),
        ).rowcount

    def _forget_holds(self, db: Session, before: float) -> None:
        self._sweep(db)
        db.execute(
            "DELETE FROM holds WHERE space = ? AND state <> 'open' AND at < ?", (self._space, real(before))
        )

    def _forget_sums(self, db: Session) -> None:
        """Forget balances whose period is long over, now and then: it looks at all of them."""
        if not self._looked <= db.now < self._looked + _LOOK:
            self._looked = db.now
            db.execute(
                "DELETE FROM sums WHERE space = ? AND held = 0 AND touched + keep < ?", (self._space, db.now)
            )

    # -- rows

    def _sum(self, db: Session, key: _Key) -> _Sum:
        row = db.execute(
            "SELECT * FROM sums WHERE space = ? AND account = ? AND period = ?", (self._space, *key)
        ).fetchone()
        if row is None:
            return _Sum()
        if not whole(row):
            raise db.damaged(f"the balance of {key[0]!r} was changed")
        return _Sum(*row[3:7])

    def _put_sums(self, db: Session, sums: dict[_Key, _Sum]) -> None:
        rows = []
        for key, one in sums.items():
            row = (self._space, *key, one.spent, one.held, one.keep, one.touched)
            if not -_MOST <= one.spent <= _MOST or one.held > _MOST:
                raise ValueError("a balance would be beyond 64 bits of nano-USD")
            rows.append((*row, seal(*row)))
        db.executemany("REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _hold(self, db: Session, hold: str) -> _Hold | None:
        row = db.execute("SELECT * FROM holds WHERE space = ? AND hold = ?", (self._space, hold)).fetchone()
        if row is None:
            return None
        if not whole(row):
            raise db.damaged(f"the hold {hold!r} was changed")
        parts = {(account, period): (nano, likely) for account, period, nano, likely in from_json(row[4])}
        return _Hold(row[2], row[3], parts)

    def _put_hold(self, db: Session, hold: str, found: _Hold) -> None:
        parts = to_json([[*key, *part] for key, part in found.parts.items()])
        row = (self._space, hold, found.state, real(found.at), parts)
        db.execute("REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", (*row, seal(*row)))


def _touch(sum_: _Sum, key: _Key, ends: float | None, now: float) -> None:
    if not sum_.touched:
        sum_.keep = inf if ends is None else real(max(0.0, ends - key[1]) + _WEEK)
    sum_.touched = now


def _charge_likely(sums: dict[_Key, _Sum], hold: _Hold, sign: int) -> None:
    """Turn what is held into a charge of what is likely; with a `sign` of -1, take that back.

    A balance that was forgotten since has nothing to take back from.
    """
    for key, (nano, likely) in hold.parts.items():
        sum_ = sums[key]
        sum_.held -= sign * nano
        sum_.spent += sign * likely if sum_.touched else 0


def _line(space: str, row: Spend) -> tuple[Any, ...]:
    values = [*values_of(row)]
    values[_AT], values[_SECONDS] = real(row.at), real(row.seconds)
    values[_ESTIMATED] = int(row.estimated)
    return (space, *values, seal(space, *values))


_SPENDS = (
    "SELECT * FROM journal WHERE space = ? AND at >= ? AND at < ? AND (at, id) > (?, ?) "
    "ORDER BY at, id LIMIT ?"
)
_SPENDS_OF = (
    "SELECT * FROM journal WHERE space = ? AND tenant = ? AND at >= ? AND at < ? AND (at, id) > (?, ?) "
    "ORDER BY at, id LIMIT ?"
)


def _spends(db: Session, *, asked: tuple[Any, ...], everybody: bool) -> list[Spend]:
    found: list[Spend] = []
    for row in db.execute(_SPENDS if everybody else _SPENDS_OF, asked):
        if not whole(row):
            raise db.damaged(f"line {row[1]!r} of the journal was changed")
        values = [*row[1:-1]]
        values[_ESTIMATED] = bool(values[_ESTIMATED])
        found.append(spend_of(values))
    return found
