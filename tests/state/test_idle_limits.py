"""RL7 on every store that outlives a process: what nobody uses any more leaves no row and no key behind.

The clocks of SQLite and PostgreSQL are moved. Redis lets keys expire by a clock that nobody moves, so the end
of each key is moved instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from llmpipe.state import Ask
from tests.state.stores import OnStore, Shared, Store, kept_in

SECONDS = 8.0  # for a unit to flow in
BURST = 4.0
SLOTS = 3.0
SWEPT = 4.0
"""Seconds after which each store has looked for what is over: SQLite does once in 60 of its own."""
LEASES = (1, 8, 40)
LONGEST = 600.0  # seconds, by when all buckets are full and all leases over, whatever was taken

rates = st.integers(0, 11).map("rate{}".format)
slots = st.integers(0, 5).map("slot{}".format)
tickets = st.integers(0, 7).map("t{}".format)

Row = tuple[str, str]  # rate, slot, ticket or another word for what it is; and of whom


class Rows:
    """What is kept of the limits called `name`."""

    def __init__(self, store: Store, name: str) -> None:
        assert isinstance(store, Shared)
        self.store, self.name = store, name

    def found(self) -> set[Row]:
        """All of it."""
        raise NotImplementedError

    def moved(self, late: float) -> None:
        """The store's time was moved, and is now `late` seconds of its own."""


class SqliteRows(Rows):
    def found(self) -> set[Row]:
        engine = self.store.states[0]._engine  # type: ignore[attr-defined]  # SQLite's

        def look(db: Any) -> set[Row]:
            said: set[Row] = set()
            for kind, table, column in (
                ("rate", "buckets", "key"),
                ("slot", "slots", "key"),
                ("ticket", "tickets", "ticket"),
            ):
                rows = db.execute(f"SELECT {column} FROM {table} WHERE space = ?", (self.name,)).fetchall()
                said |= {(kind, row[0]) for row in rows}
            return said

        found: set[Row] = self.store.run(engine.run(look, "read"))
        return found


class PostgresRows(Rows):
    def found(self) -> set[Row]:
        link = self.store.states[0]._link  # type: ignore[attr-defined]  # PostgreSQL's
        schema = link.settings.schema
        rows = self.store.run(
            link.fetch(
                f"SELECT 'rate', key FROM {schema}.buckets WHERE name = $1 "
                f"UNION ALL SELECT 'slot', key FROM {schema}.slots WHERE name = $1 "
                f"UNION ALL SELECT 'ticket', ticket FROM {schema}.tickets WHERE name = $1",
                self.name,
            )
        )
        return {(kind, key) for kind, key in rows}


class RedisRows(Rows):
    def __init__(self, store: Store, name: str) -> None:
        super().__init__(store, name)
        self.base: bytes = self.store.states[0].settings.base("limits", name).encode()  # type: ignore[attr-defined]  # Redis'
        self.at = 0.0

    def ask(self, *command: bytes) -> Any:
        async def ask() -> Any:
            return await self.store.states[0].link().ask(command)  # type: ignore[attr-defined]  # Redis'

        return self.store.run(ask())

    def lives(self) -> dict[bytes, int]:
        """The keys, and milliseconds until each is gone."""
        keys: list[bytes] = self.ask(b"KEYS", b"\\" + self.base + b"*")
        found = {key: int(self.ask(b"PTTL", key)) for key in keys}
        assert -1 not in found.values(), f"one has no expiry (F94): {found}"
        return found

    def found(self) -> set[Row]:
        said: set[Row] = set()
        for key in self.lives():
            kind, _, rest = key.removeprefix(self.base).decode().partition(":")
            if kind == "slots":
                said |= {("slot", each.decode()) for each in self.ask(b"HKEYS", key)}
            elif kind == "leases":
                said |= {("lease", each.decode()) for each in self.ask(b"ZRANGE", key, b"0", b"-1")}
            else:
                said.add((kind, rest))
        return said

    def moved(self, late: float) -> None:
        for key, life in self.lives().items():
            self.ask(b"PEXPIRE", key, b"%d" % (life - (late - self.at) * 1000))  # at once, if that is below 0
        self.at = late


ROWS: dict[str, type[Rows]] = {"sqlite": SqliteRows, "redis": RedisRows, "postgresql": PostgresRows}


class Idle(OnStore):
    """A model that knows for each key and ticket until when somebody may have to know of it."""

    @initialize()
    def begin(self) -> None:
        self.limits = self.place.thing("limits")
        self.rows = ROWS[self.store.name](self.store, self.limits._asked[1])
        self.full: dict[str, float] = {}  # when each bucket is full again, at the latest
        self.held: dict[str, tuple[float, dict[str, int]]] = {}
        self.crowds = 0

    def ask(self, key: str, amount: float) -> Ask:
        if key.startswith("slot"):
            return Ask(key, amount, SLOTS)
        return Ask(key, amount, BURST, BURST * self.scaled(SECONDS), BURST)

    def take(self, ticket: str, asked: dict[str, int], lease: float) -> None:
        known = ticket in self.held and self.held[ticket][0] > self.now
        asks = [self.ask(*each) for each in asked.items()]
        if self.do(self.limits.take(ticket, asks, self.scaled(lease))).refused is not None:
            return
        self.held[ticket] = (self.now + lease, self.held[ticket][1] if known else asked)
        for key, amount in asked.items():
            if not known and key.startswith("rate"):
                self.full[key] = max(self.full.get(key, 0.0), self.now + self.place.late()) + amount * SECONDS

    @rule(
        ticket=tickets,
        asked=st.dictionaries(rates | slots, st.integers(0, 5), min_size=1, max_size=4),
        lease=st.sampled_from(LEASES),
    )
    def somebody_asks(self, ticket: str, asked: dict[str, int], lease: int) -> None:
        self.take(ticket, asked, lease)

    @rule(count=st.integers(3, 12), lease=st.sampled_from(LEASES))
    def a_crowd_comes_that_nobody_sees_again(self, count: int, lease: int) -> None:
        self.crowds += 1
        for number in range(count):
            name = f"{self.crowds}.{number}"
            self.take(f"crowd{name}", {f"rate{name}": 1, f"slot{name}": 1}, lease)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 7), used=st.dictionaries(rates, st.integers(0, 6), max_size=3))
    def settle(self, which: int, used: dict[str, int]) -> None:
        ticket = sorted(self.held)[which % len(self.held)]
        _, taken = self.held.pop(ticket)
        self.do(self.limits.settle(ticket, used))
        for key in used.keys() & taken.keys() & self.full.keys():
            more = max(0, used[key] - taken[key])
            if more:
                self.full[key] = max(self.full[key], self.now + self.place.late()) + more * SECONDS

    @rule(keys=st.lists(rates | slots, max_size=3))
    def reset(self, keys: list[str]) -> None:
        self.do(self.limits.reset(keys))
        for key in keys:
            self.full.pop(key, None)

    @rule(keys=st.lists(rates | slots, max_size=3, unique=True))
    def somebody_looks(self, keys: list[str]) -> None:
        before = self.rows.found()
        self.do(self.limits.levels([self.ask(key, 1.0) for key in keys]))
        assert self.rows.found() <= before

    def pass_time(self, seconds: float) -> None:
        self.let_pass(seconds)
        self.rows.moved(self.scaled(self.now))

    @rule(seconds=st.sampled_from([0, 1, 8, 32]))
    def what_is_idle_goes_while_others_come(self, seconds: int) -> None:
        """RL7: but for the one who has just come, there is only what the model says is in use."""
        self.pass_time(seconds + SWEPT)
        self.do(self.limits.take("other", [self.ask("other", 1.0)], self.scaled(1)))
        self.do(self.limits.settle("other", {"other": 0.0}))
        if self.store.name == "postgresql":
            self.do(self.limits.sweep())  # which it does by itself at every 256th ask
        since = self.now - SWEPT
        alive = {name: taken for name, (ends, taken) in self.held.items() if ends > since}
        used: set[Row] = {("rate", key) for key, full in self.full.items() if full > since}
        used |= {("ticket", name) for name in alive} | {("lease", name) for name in alive}
        used |= {("slot", key) for taken in alive.values() for key in taken if key.startswith("slot")}
        assert unused(self.rows.found()) <= used

    @rule()
    def everybody_goes(self) -> None:
        self.pass_time(LONGEST)
        self.what_is_idle_goes_while_others_come(0)
        assert unused(self.rows.found()) == set()
        self.full.clear()
        self.held.clear()


def unused(found: Iterable[Row]) -> set[Row]:
    """Without what `other` has just used, and what is remembered of resets."""
    return {row for row in found if row[1] != "other" and row[0] != "reset"}


@kept_in("sqlite", "redis", "postgresql")
def test_what_is_idle_leaves_nothing_behind(store: Store) -> None:
    store.check(Idle, 0.6)
