"""The way to one Redis from one event loop: a bounded pool, a deadline, and a breaker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from random import Random
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from llmpipe.errors import StoreUnavailable
from llmpipe.runtime import Alarm
from llmpipe_redis.faults import Fault, fault
from llmpipe_redis.lua import Script
from llmpipe_redis.sentinels import Sentinels
from llmpipe_redis.settings import Settings
from llmpipe_redis.wire import Wire, dial

__all__ = ("Link",)

_log = logging.getLogger("llmpipe.state.redis")
_FIRST = 0.05
_LONGEST = 1.5
"""Seconds for which a store that failed is left alone: at first, and at most. Doubles between them."""


class Link:
    """Commands to one Redis, each answered or refused within the store's timeout.

    After a failure that would meet others too it refuses at once, and lets one command through now
    and then to see whether the store is back. A connection whose command was cancelled, or not
    answered in time, is cut: the answer would be read by whoever had it next. So are all others then: after a
    failover they lead to a server that was the master once, and does not always know yet that it is no more.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._timeout = settings.timeout
        self._sentinels = Sentinels(settings) if settings.sentinels else None
        self._room = asyncio.Semaphore(settings.connections)
        self._idle: list[Wire] = []  # the one used last is at the end, and is used next
        self._closed = False
        self._outage = 0  # how many there have been; rises with each failed probe
        self._interval = 0.0  # seconds; 0 while all is well
        self._refuse_until = 0.0
        self._random = Random()  # noqa: S311  spreads probes

    async def run(self, script: Script, base: bytes, args: Iterable[bytes]) -> Any:
        """The answer of `script`, of which all keys begin with `base`.

        By its SHA, and by its text where the server has forgotten it: loading it first could be
        forgotten as well before it is run.
        """
        rest = (b"1", base, *args)
        return await self.ask((b"EVALSHA", script.sha, *rest), (b"EVAL", script.text, *rest))

    async def ask(self, command: tuple[bytes, ...], fallback: tuple[bytes, ...] | None = None) -> Any:
        """The answer to `command`, or to `fallback` where that is a script that Redis lacks.

        Raises: StoreUnavailable, StoreDamaged.
        """
        now = asyncio.get_running_loop().time()
        outage = self._outage
        if self._interval:
            self._admit(now)
        try:
            with Alarm(now + self._timeout, self._late):
                async with self._room:
                    answer = await self._exchange(command, fallback)
        except StoreUnavailable as error:
            self._failed(Fault(error, trips=True), outage)
            raise
        except (RedisError, ValueError) as error:  # a ValueError: a line without end, a length that is none
            found = fault(error, self._settings.place)
            self._failed(found, outage)
            raise found.error from error
        if self._interval:
            self._recovered()
        return answer

    async def _exchange(self, command: tuple[bytes, ...], fallback: tuple[bytes, ...] | None) -> Any:
        outage = self._outage
        wire = await self._wire()
        try:
            try:
                answer = await wire.ask(command)
            except NoScriptError:
                if fallback is None:
                    raise
                answer = await wire.ask(fallback)
        except ResponseError as error:  # an answer, read to its end
            if fault(error, self._settings.place).trips:
                wire.cut()
            else:
                self._keep(wire, outage)
            raise
        except BaseException:  # a cancellation above all: its answer is still to come
            wire.cut()
            raise
        self._keep(wire, outage)
        return answer

    def _keep(self, wire: Wire, outage: int) -> None:
        """For the next, unless the store has failed since it was taken: then it may lead to the wrong one."""
        if self._closed or outage != self._outage:
            wire.cut()
        else:
            self._idle.append(wire)

    async def _wire(self) -> Wire:
        while self._idle:
            wire = self._idle.pop()
            if wire.usable:
                return wire
            wire.cut()
        if self._sentinels is not None:
            return await self._sentinels.connect()
        wire = dial(self._settings)
        try:
            await wire.open()
        except BaseException:  # cancelled, or refused: what there is of it goes
            wire.cut()
            raise
        return wire

    def _late(self) -> StoreUnavailable:
        return StoreUnavailable(f"Redis at {self._settings.place} did not answer in {self._timeout:g} s")

    def _admit(self, now: float) -> None:
        """Let one through when it is time; the others are refused until it has come back."""
        if now < self._refuse_until:
            raise StoreUnavailable(
                f"Redis at {self._settings.place} failed, and is left alone for a moment",
                retry_after=self._refuse_until - now,
            )
        self._refuse_until = now + self._timeout + self._interval

    def _failed(self, found: Fault, outage: int) -> None:
        if not found.trips:
            if self._interval:
                self._recovered()  # it answers
            return
        if outage != self._outage:
            return  # it was under way when another one failed, and says nothing new
        if not self._interval:
            _log.warning("%s; it is left alone, and tried again every now and then", found.error)
        self._outage += 1
        while self._idle:
            self._idle.pop().cut()
        self._interval = min(_LONGEST, self._interval * 2 or _FIRST)
        wait = self._interval * self._random.uniform(0.75, 1.0)
        self._refuse_until = asyncio.get_running_loop().time() + wait
        found.error.retry_after = wait

    def _recovered(self) -> None:
        _log.warning("Redis at %s answers again", self._settings.place)
        self._interval = 0.0

    async def aclose(self) -> None:
        """Wait for what is under way, at most the store's timeout, and close all connections."""
        self.drop()
        taken = 0
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(self._settings.connections):
                    await self._room.acquire()
                    taken += 1
        except TimeoutError:
            _log.warning("Redis at %s was closed amid commands that it did not answer", self._settings.place)
        finally:
            for _ in range(taken):  # one who asks several times may be in the middle, and goes on
                self._room.release()
        await asyncio.sleep(0)  # sockets that were aborted are closed in the loop's next turn

    def drop(self) -> None:
        """Close the connections that nobody uses; the others close when their command is over."""
        self._closed = True
        while self._idle:
            self._idle.pop().cut()
