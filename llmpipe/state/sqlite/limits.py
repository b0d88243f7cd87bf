"""Limits in a file: rates as GCRA times, slots as leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from llmpipe.state.checks import check_asks, check_times, check_used
from llmpipe.state.contracts.limits import Ask, Level, Taken
from llmpipe.state.gcra import arrival, level, wait
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session
from llmpipe.state.sqlite.seals import real, seal, whole
from llmpipe.state.sqlite.text import from_json, to_json

__all__ = ("SqliteLimits",)

_SWEEP = 60.0  # seconds between two looks for buckets that are full again

_Taken = dict[str, tuple[float, float]]  # key to units taken and seconds a unit; of a slot those are 0


class SqliteLimits:
    """See `Limits`. Times are seconds since the file was made: see `Clock.base`.

    What is taken survives any process. If the machine loses its power, the last moments' takings may
    be forgotten: it was off for longer than it takes a bucket to fill.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name
        self._swept = 0.0

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        """See `Limits.take`."""
        asks = tuple(asks)
        check_asks(asks)
        check_times(lease=lease)
        return await self._engine.run(partial(self._take, ticket=ticket, asks=asks, lease=lease), "soft")

    def _take(self, db: Session, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        now = self._sweep(db)
        stands = self._stand(db, asks)
        taken = self._ticket(db, ticket)
        if taken is None:
            refused, retry_after = _refusal(asks, stands, now)
            if refused is not None:
                return Taken(_levels(asks, stands, now), refused, retry_after)
            taken = {}
            for ask in asks:
                stand = stands.get(ask.key)
                if ask.period:
                    stands[ask.key] = arrival(ask, now if stand is None else stand, now)
                    self._put_bucket(db, ask.key, stands[ask.key])
                    taken[ask.key] = (ask.amount, ask.period / ask.limit)
                else:
                    stands[ask.key] = (stand or 0.0) + ask.amount
                    self._put_slots(db, ask.key, stands[ask.key])
                    taken[ask.key] = (taken.get(ask.key, (0.0, 0.0))[0] + ask.amount, 0.0)
        if not lease > 0:  # it is over at once, for those who ask at this very moment too
            db.swept.discard(("limits", self._space))
        row = (self._space, ticket, real(now + lease), to_json(taken))
        db.execute("REPLACE INTO tickets VALUES (?, ?, ?, ?, ?)", (*row, seal(*row)))
        return Taken(_levels(asks, stands, now))

    async def settle(self, ticket: str, used: Mapping[str, float]) -> bool:
        """See `Limits.settle`."""
        check_used(used)
        return await self._engine.run(partial(self._settle, ticket=ticket, used=dict(used)), "soft")

    def _settle(self, db: Session, ticket: str, used: Mapping[str, float]) -> bool:
        now = self._sweep(db)
        taken = self._ticket(db, ticket)
        if taken is None:
            return False
        self._end(db, ticket, taken)
        for key, units in used.items():
            amount, seconds = taken.get(key, (0.0, 0.0))
            if seconds and units != amount:
                tat = self._bucket(db, key)
                # A bucket that is full again has no time; what was taken is refilled then.
                tat = max(tat, now) if units > amount else tat
                self._put_bucket(db, key, tat + (units - amount) * seconds)
        return True

    async def levels(self, asks: Sequence[Ask]) -> tuple[Level, ...]:
        """See `Limits.levels`."""
        check_asks(asks)
        return await self._engine.run(partial(self._read_levels, asks=tuple(asks)), "read")

    def _read_levels(self, db: Session, asks: Sequence[Ask]) -> tuple[Level, ...]:
        now = self._sweep(db)
        return _levels(asks, self._stand(db, asks), now)

    async def reset(self, keys: Sequence[str]) -> None:
        """See `Limits.reset`."""
        await self._engine.run(partial(self._reset, keys=tuple(keys)), "soft")

    def _reset(self, db: Session, keys: Sequence[str]) -> None:
        self._sweep(db)
        for key in keys:
            db.execute("DELETE FROM buckets WHERE space = ? AND key = ?", (self._space, key))
            db.execute("DELETE FROM slots WHERE space = ? AND key = ?", (self._space, key))
        for row in db.execute("SELECT * FROM tickets WHERE space = ?", (self._space,)).fetchall():
            taken = from_json(row[3])
            if not taken.keys().isdisjoint(keys):
                left = {key: part for key, part in taken.items() if key not in keys}
                row = (*row[:3], to_json(left))
                db.execute("REPLACE INTO tickets VALUES (?, ?, ?, ?, ?)", (*row, seal(*row)))

    def _sweep(self, db: Session) -> float:
        """Free the slots whose lease has ended, drop buckets that are full; the time."""
        now = db.now - db.base
        if ("limits", self._space) in db.swept:
            return now
        due = db.execute(
            "SELECT ticket FROM tickets WHERE space = ? AND until <= ?", (self._space, now)
        ).fetchall()
        if due:
            db.must_write()
        for (ticket,) in due:
            taken = self._ticket(db, ticket)
            assert taken is not None, "it was there a statement ago"
            self._end(db, ticket, taken)
        if db.writes and not self._swept <= db.now < self._swept + _SWEEP:
            db.execute("DELETE FROM buckets WHERE space = ? AND tat <= ?", (self._space, now))
            self._swept = db.now
        db.swept.add(("limits", self._space))
        return now

    def _end(self, db: Session, ticket: str, taken: _Taken) -> None:
        """Forget the ticket, and free its slots."""
        db.execute("DELETE FROM tickets WHERE space = ? AND ticket = ?", (self._space, ticket))
        for key, (amount, seconds) in taken.items():
            if not seconds:
                self._put_slots(db, key, self._held(db, key) - amount)

    # -- rows

    def _stand(self, db: Session, asks: Sequence[Ask]) -> dict[str, float]:
        """The time of each bucket, and how many of each slot are held."""
        return {ask.key: self._bucket(db, ask.key) if ask.period else self._held(db, ask.key) for ask in asks}

    def _bucket(self, db: Session, key: str) -> float:
        row = db.execute("SELECT * FROM buckets WHERE space = ? AND key = ?", (self._space, key)).fetchone()
        if row is not None and not whole(row):
            raise db.damaged(f"the bucket {key!r} was changed")
        return db.now - db.base if row is None else float(row[2])

    def _put_bucket(self, db: Session, key: str, tat: float) -> None:
        row = (self._space, key, real(tat))
        db.execute("REPLACE INTO buckets VALUES (?, ?, ?, ?)", (*row, seal(*row)))

    def _held(self, db: Session, key: str) -> float:
        row = db.execute("SELECT * FROM slots WHERE space = ? AND key = ?", (self._space, key)).fetchone()
        if row is not None and not whole(row):
            raise db.damaged(f"the slots of {key!r} were changed")
        return 0.0 if row is None else float(row[2])

    def _put_slots(self, db: Session, key: str, held: float) -> None:
        if held > 0:
            row = (self._space, key, real(held))
            db.execute("REPLACE INTO slots VALUES (?, ?, ?, ?)", (*row, seal(*row)))
        else:
            db.execute("DELETE FROM slots WHERE space = ? AND key = ?", (self._space, key))

    def _ticket(self, db: Session, ticket: str) -> _Taken | None:
        row = db.execute(
            "SELECT * FROM tickets WHERE space = ? AND ticket = ?", (self._space, ticket)
        ).fetchone()
        if row is None:
            return None
        if not whole(row):
            raise db.damaged(f"the ticket {ticket!r} was changed")
        return {key: (amount, seconds) for key, (amount, seconds) in from_json(row[3]).items()}


def _refusal(asks: Sequence[Ask], stands: Mapping[str, float], now: float) -> tuple[int | None, float | None]:
    """The first ask without room, and when there will be room for all."""
    refused: int | None = None
    retry_after: float | None = 0.0
    for index, ask in enumerate(asks):
        if ask.period:
            seconds: float | None = wait(ask, stands[ask.key], now)
        else:
            seconds = None if stands[ask.key] + ask.amount > ask.limit else 0.0
        if seconds == 0.0:
            continue
        if refused is None:
            refused = index
        retry_after = None if seconds is None or retry_after is None else max(retry_after, seconds)
    return refused, retry_after


def _levels(asks: Sequence[Ask], stands: Mapping[str, float], now: float) -> tuple[Level, ...]:
    return tuple(
        [
            level(ask, stands[ask.key], now) if ask.period else Level(ask.limit - stands[ask.key], 0.0)
            for ask in asks
        ]
    )
