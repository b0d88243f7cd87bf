"""Statements on a database, each within its time: over pooled connections, behind a fuse, with retries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import random
from typing import Any

import asyncpg
from attrs import define

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.runtime import Alarm
from llmpipe.secret import scrub
from llmpipe.state.fuse import Fuse
from llmpipe_postgres.failures import ERRORS, Verdict, judge
from llmpipe_postgres.migrate import is_current, migrate
from llmpipe_postgres.pool import Pool
from llmpipe_postgres.settings import Settings

__all__ = ("Link",)

_ATTEMPTS = 6  # where transactions stand in each other's way
_MIGRATION = 60.0  # seconds that bringing the tables up to date may take, beside the calls


class _Down(Exception):
    """The store is out of reach; the fuse is to blow."""


@define(eq=False)
class _Side:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    pool: Pool
    fuse: Fuse
    ready: bool = False
    opening: asyncio.Task[None] | None = None


class Link:
    """A way to one database from any event loop, for whoever knows what to say.

    `fetch` ends within the timeout of the settings, also when the server has stopped, and at once when it
    is cancelled: a connection that waits for an answer nobody wants any more is ended.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sides: dict[asyncio.AbstractEventLoop, _Side] = {}

    async def fetch(self, sql: str, *args: Any, repeat: bool = True, tell: bool = False) -> Sequence[Any]:
        """The rows that `sql` gives.

        Args: repeat says that it may be said again when the connection was lost and nobody knows
        whether it was done; with `tell` its last argument, added here, is whether it is said again.
        Raises: StoreUnavailable, StoreDamaged; ValueError for a value that the database cannot keep.
        """
        side = self._side()
        fuse, time = side.fuse, side.loop.time
        self._refuse(fuse.wait(time()))
        asking = [False]
        try:
            with Alarm(time() + self.settings.timeout, lambda: self._late(side, asking[0])):
                if not side.ready:
                    await self._open(side)
                rows = await self._attempts(side, asking, sql, args, repeat=repeat, tell=tell)
        except _Down as down:
            fuse.failed(time())
            raise self._unavailable(str(down)) from None
        except (StoreDamaged, ValueError):
            fuse.worked()
            raise
        except BaseException:  # cancelled, or too long a queue here: nobody knows how the server is
            fuse.unknown()
            raise
        fuse.worked()
        return rows

    async def value(self, sql: str, *args: Any, repeat: bool = True, tell: bool = False) -> Any:
        """The first value of the one row that `sql` gives."""
        return (await self.fetch(sql, *args, repeat=repeat, tell=tell))[0][0]

    async def check(self) -> None:
        """Connect, and bring the tables up to date.

        Raises: StoreUnavailable, StoreDamaged.
        """
        await self.fetch("SELECT 1")

    def check_fuse(self) -> None:
        """See that the store is not known to be out of reach, for one who would ask a little later.

        Raises: StoreUnavailable.
        """
        side = self._side()
        self._refuse(side.fuse.blown(side.loop.time()))

    def late_in_line(self, sent: bool) -> StoreUnavailable:
        """The error for one whose time was over while others were served, or while it was itself."""
        within = f"{self.settings.timeout:g} s"
        what = f"did not answer within {within}" if sent else f"others were before it for all its {within}"
        return self._unavailable(what)

    async def aclose(self) -> None:
        """Close what this event loop opened; what is under way ends as it would have."""
        side = self._sides.pop(asyncio.get_running_loop(), None)
        if side is None:
            return
        if side.opening is not None and not side.opening.done():
            side.opening.cancel()
            await asyncio.wait([side.opening])
        side.pool.close()
        await asyncio.sleep(0)  # the transports say goodbye in the next step of the loop

    # ------------------------------------------------------------ one statement

    async def _attempts(
        self, side: _Side, asking: list[bool], sql: str, args: tuple[Any, ...], *, repeat: bool, tell: bool
    ) -> Sequence[Any]:
        pool, lost = side.pool, False
        for attempt in range(1, _ATTEMPTS + 1):
            asking[0] = False
            try:
                connection = await pool.take()
            except ERRORS as error:
                raise self._meant(judge(error), error) from None
            asking[0] = True
            try:
                rows = await self._ask(connection, sql, (*args, lost) if tell else args)
            except ERRORS as error:
                verdict = judge(error)
                if verdict in ("lost", "down") or self.settings.pgbouncer:
                    pool.discard(connection)
                else:
                    pool.give(connection)
                if verdict == "again" and attempt < _ATTEMPTS:
                    await asyncio.sleep(random() * 0.002 * 2**attempt)  # noqa: S311  apart, that is all
                    continue
                if verdict == "lost" and repeat and not lost:
                    lost = True
                    pool.drop_idle()  # where one has gone, the others have or lead nowhere
                    continue
                if verdict == "down":
                    pool.drop_idle()
                raise self._meant(verdict, error) from None
            except BaseException:  # cancelled: an answer is on its way to nobody
                pool.discard(connection)
                raise
            pool.give(connection)
            return rows
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, connection: Any, sql: str, args: tuple[Any, ...]) -> Sequence[Any]:
        rows: Sequence[Any]
        if not self.settings.pgbouncer:
            rows = await connection.fetch(sql, *args)
            return rows
        # Preparing and running are two messages: only inside a transaction both reach the same server.
        await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        rows = await connection.fetch(sql, *args)
        await connection.execute("COMMIT")
        return rows

    def _late(self, side: _Side, asking: bool) -> Exception:
        within = f"{self.settings.timeout:g} s"
        if asking or side.pool.connecting or not side.ready:
            return _Down(f"did not answer within {within}")
        return self._unavailable(
            f"no connection was free within {within}: all {self.settings.pool} are in use"
        )

    # ------------------------------------------------------------ connections

    def _side(self) -> _Side:
        loop = asyncio.get_running_loop()
        side = self._sides.get(loop)
        if side is None:
            for old in [known for known in self._sides if known.is_closed()]:
                del self._sides[old]
            pool = Pool(self._connect, self.settings.pool, asyncpg.TooManyConnectionsError)
            side = self._sides[loop] = _Side(loop, pool, Fuse())
        return side

    async def _connect(self) -> Any:
        settings = {"application_name": "llmpipe"}
        if not self.settings.pgbouncer:  # which refuses what it does not know
            # Who has waited for another's lock has to see what that one did.
            settings["default_transaction_isolation"] = "read committed"
            # So that the server too gives up a statement whose caller has.
            settings["statement_timeout"] = str(int(self.settings.timeout * 1000))
            settings["jit"] = "off"
        # Later than the one it is made for gives up: `_late` is to see that it was being made.
        async with asyncio.timeout(1.25 * self.settings.timeout):
            return await asyncpg.connect(
                self.settings.url,
                server_settings=settings,
                statement_cache_size=0 if self.settings.pgbouncer else 100,
            )

    async def _open(self, side: _Side) -> None:
        """Once for all who wait for it; it goes on when they go."""
        if side.opening is None or side.opening.done():
            side.opening = side.loop.create_task(self._prepare(side), name="llmpipe-postgres opens")
            side.opening.add_done_callback(_seen)
        opening = side.opening
        await asyncio.wait([opening])
        if opening.cancelled():  # by `aclose`: who waits for it is not
            raise self._unavailable("was closed while it was opened")
        opening.result()

    async def _prepare(self, side: _Side) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout) as limit:
                connection = await side.pool.take()
                try:
                    if not await is_current(connection, self.settings):
                        limit.reschedule(side.loop.time() + _MIGRATION)
                        await migrate(connection, self.settings)
                except BaseException:  # in the middle of something
                    side.pool.discard(connection)
                    raise
                side.pool.give(connection)
        except ERRORS as error:
            raise self._meant(judge(error), error) from None
        side.ready = True

    # ------------------------------------------------------------ words

    def _meant(self, verdict: Verdict, error: BaseException) -> Exception:
        said = (str(error) or type(error).__name__).partition("\n")[0]
        if self.settings.password:
            said = said.replace(self.settings.password, "[REDACTED]")
        said = scrub(said, max_chars=300)
        state = getattr(error, "sqlstate", None)
        code = f" ({state})" if state else ""
        if verdict == "value":
            return ValueError(f"the database cannot keep this: {said}{code}")
        if verdict == "damaged":
            return StoreDamaged(f"{self.settings.place}, schema {self.settings.schema}: {said}{code}")
        if verdict == "again":
            return self._unavailable(
                f"transactions stood in each other's way {_ATTEMPTS} times: {said}{code}"
            )
        return _Down(f"{said}{code}")

    def _refuse(self, seconds: float) -> None:
        if seconds:
            raise self._unavailable(f"was out of reach just now; it is tried again in {seconds:.1f} s")

    def _unavailable(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self.settings.place}: {what}")


def _seen(task: asyncio.Task[None]) -> None:
    """Whoever waited has the error; and if nobody did, the next to come meets it again."""
    if not task.cancelled():
        task.exception()
