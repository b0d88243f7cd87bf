"""Budgets in PostgreSQL: steps that come at once are one function in the database, one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from secrets import randbits
from typing import Any

import orjson
from attrs import asdict, fields, frozen

from llmpipe.runtime import Alarm
from llmpipe.state import Balance, Draw, Shortage, Spend
from llmpipe.state.checks import at_most, check_balances, check_draws, check_spends, check_times
from llmpipe_postgres.gather import Gather, Turn
from llmpipe_postgres.link import Link
from llmpipe_postgres.text import escape, unescape
from llmpipe_postgres.text import fields as texts

__all__ = ("PostgresLedger",)

_DONE, _SETTLED, _SWEEP_FIRST = -1, -2, -3
_FEW = 16  # draws, up to which a step that is alone is less work for the function that knows only one
_AT_ONCE = 500  # holds that one sweep expires, and lines that one step forgets
_COLUMNS = ", ".join(f'"{each.name}"' for each in fields(Spend))


@frozen(slots=False)
class _Step:
    """To reserve, if it has a lease; or to settle, then it has a mark."""

    hold: str
    draws: Sequence[Draw]
    lease: float | None = None
    mark: int | None = None
    rows: str | None = None


class PostgresLedger:
    """A ledger whose steps are on disk when they return, and each atomic over all its draws.

    Steps that come while others are under way go together in one transaction: so those on a budget that
    every call draws on, which is one row, share the flushes of the server's disk. Rows are locked in the
    order of their keys, so none waits for another in a circle.
    """

    def __init__(self, link: Link, ahead: Callable[[], float], name: str) -> None:
        self._link, self._ahead, self._name = link, ahead, escape(name)
        self._in = link.settings.schema + "."
        self._reserve = f"SELECT * FROM {self._in}reserve($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)"  # noqa: S608  a checked name
        self._settle = f"SELECT CASE WHEN {self._in}settle($1,$2,$3,$4,$5,$6,$7,$8,$9) THEN -1 ELSE -2 END"
        self._steps = (
            f"SELECT * FROM {self._in}ledger_steps($1,$2,$3,$4,$5,$6,$7::text[]::json[],"  # noqa: S608  a checked name
            "$8,$9,$10,$11,$12,$13,$14)"
        )
        self._gather = Gather(
            self._send, check=link.check_fuse, late=link.late_in_line, timeout=link.settings.timeout
        )

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """See `Ledger.reserve`."""
        check_draws(draws)
        check_times(lease=lease)
        step = _Step(escape(hold), tuple(draws), lease=lease)
        verdict, spent, held = await self._gather.do(step, step.hold, len(step.draws))
        if verdict == _SETTLED:
            raise ValueError(f"hold {hold!r} is settled, and cannot be held again")
        return None if verdict == _DONE else Shortage(verdict, spent, held)

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """See `Ledger.settle`. Whose answer is lost asks again, and learns that it was he who did it."""
        check_draws(charges, once=False)
        check_spends(rows)
        journal = _journal(self._name, rows) if rows else None
        step = _Step(escape(hold), tuple(charges), mark=randbits(63), rows=journal)
        verdict = (await self._gather.do(step, step.hold, len(step.draws) + len(rows)))[0]
        return bool(verdict == _DONE)

    async def _send(self, turns: Sequence[Turn]) -> None:
        """Do all of `turns`: those that settle first, so that the others find what they free."""
        link, now = self._link, asyncio.get_running_loop().time
        until = now() + link.settings.timeout
        late = await self._ask(sorted(turns, key=_reserves), force=False)
        if late:
            with Alarm(until, lambda: link.late_in_line(True)):
                await self._expire()
                # What is left another sweeper has in hand; till it is done, all of it counts as held.
                await self._ask(late, force=True)

    async def _ask(self, turns: Sequence[Turn], *, force: bool) -> list[Turn]:
        """Those of `turns` that can be done only when holds have been expired; the others have answers."""
        steps: list[_Step] = [turn.step for turn in turns]
        draws = [draw for step in steps for draw in step.draws]
        rows = [step.rows for step in steps]
        accounts, periods = [escape(draw.account) for draw in draws], [draw.period for draw in draws]
        nanos, ends = [draw.nano for draw in draws], [draw.ends for draw in draws]
        limits, likelies = [draw.limit for draw in draws], [draw.likely for draw in draws]
        if len(steps) > 1 or len(draws) > _FEW:
            numbers = [number for number, step in enumerate(steps, 1) for _ in step.draws]
            verdicts = await self._link.fetch(
                self._steps, self._name, self._ahead(), force, [step.hold for step in steps],
                [step.lease for step in steps], [step.mark for step in steps], rows if any(rows) else None,
                numbers, accounts, periods, nanos, limits, likelies, ends,
            )  # fmt: skip
        elif steps[0].mark is None:
            verdicts = await self._link.fetch(
                self._reserve, self._name, steps[0].hold, steps[0].lease, self._ahead(), force,
                accounts, periods, nanos, limits, likelies, ends,
            )  # fmt: skip
        else:
            verdicts = await self._link.fetch(
                self._settle, self._name, steps[0].hold, self._ahead(), steps[0].mark,
                accounts, periods, nanos, ends, rows[0],
            )  # fmt: skip
        late = []
        for turn, found in zip(turns, verdicts, strict=True):
            if found[0] == _SWEEP_FIRST:
                late.append(turn)
            elif not turn.answer.done():  # else it has gone
                turn.answer.set_result(found)
        return late

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """See `Ledger.balances`."""
        check_balances(keys)
        rows = await self._link.fetch(
            f"SELECT coalesce(b.spent, 0), coalesce(b.held, 0) "  # noqa: S608  a checked name
            f"FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS w (account, period, place) "
            f"LEFT JOIN {self._in}balances b "
            f"ON b.ledger = $1 AND b.account = w.account AND b.period = w.period ORDER BY w.place",
            self._name,
            [escape(account) for account, _ in keys],
            [period for _, period in keys],
        )
        return [Balance(spent, held) for spent, held in rows]

    async def holds(self) -> list[str]:
        """See `Ledger.holds`."""
        rows = await self._link.fetch(
            f"SELECT hold FROM {self._in}holds WHERE ledger = $1 AND state = 0 "  # noqa: S608  a checked name
            "AND until > extract(epoch FROM clock_timestamp())::float8 + $2::float8",
            self._name,
            self._ahead(),
        )
        return sorted(unescape(row[0]) for row in rows)

    async def sweep(self) -> int:
        """See `Ledger.sweep`. Drops balances too, a week after their period is over."""
        expired = await self._expire()
        await self._link.value(
            f"SELECT {self._in}drop_balances($1,$2,$3)", self._name, self._ahead(), _AT_ONCE
        )
        return expired

    async def _expire(self) -> int:
        """Expire what has to, so many in each step that none takes long; how many there were."""
        expired = 0
        while True:
            count: int = await self._link.value(
                f"SELECT {self._in}sweep($1,$2,$3)", self._name, self._ahead(), _AT_ONCE
            )
            expired += count
            if count < _AT_ONCE:
                return expired

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
        wanted = "ledger = $1 AND at >= $2 AND at < $3"
        args: list[Any] = [self._name, since, until, at_most(limit)]
        if tenant is not None:
            args.append(escape(tenant))
            wanted += f" AND tenant = ${len(args)}"
        if after is not None:
            args += [after.at, escape(after.id)]
            wanted += f" AND (at, id) > (${len(args) - 1}, ${len(args)})"
        rows = await self._link.fetch(
            f"SELECT {_COLUMNS} FROM {self._in}journal WHERE {wanted} ORDER BY at, id LIMIT $4",  # noqa: S608  names of ours
            *args,
        )
        return [Spend(**texts(row)) for row in rows]

    async def forget(self, before: float) -> int:
        """See `Ledger.forget`."""
        check_times(before=before)
        lines = await self._drop("journal", "id", "at < $2", before)
        await self._drop("holds", "hold", "state > 0 AND until < $2", before)
        return lines

    async def _drop(self, table: str, key: str, wanted: str, before: float) -> int:
        gone = 0
        while True:
            count: int = await self._link.value(
                f"WITH old AS (SELECT {key} FROM {self._in}{table} WHERE ledger = $1 AND {wanted} LIMIT $3 "  # noqa: S608  names of ours
                f"FOR UPDATE SKIP LOCKED), dropped AS (DELETE FROM {self._in}{table} t USING old "
                f"WHERE t.ledger = $1 AND t.{key} = old.{key} RETURNING 1) SELECT count(*) FROM dropped",
                self._name,
                before,
                _AT_ONCE,
            )
            gone += count
            if count < _AT_ONCE:
                return gone


def _reserves(turn: Turn) -> bool:
    return turn.step.mark is None


def _id(row: Spend) -> str:
    return row.id


def _journal(ledger: str, rows: Sequence[Spend]) -> str:
    """The rows of the table, as JSON: whole numbers stay exact, and so do the shortest forms of floats.

    In the order of their ids, so that no two who add the same ones wait for one another in a circle.
    """
    told = []
    for row in sorted(rows, key=_id):
        line = asdict(row, recurse=False)
        for name, value in line.items():
            if type(value) is str:
                line[name] = escape(value)
        line["ledger"] = ledger
        told.append(line)
    return orjson.dumps(told).decode()
