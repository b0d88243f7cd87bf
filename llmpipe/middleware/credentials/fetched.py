"""The key that a function gives, such as one that looks it up in a vault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from math import inf
from typing import TypeAlias
from weakref import WeakKeyDictionary

from llmpipe.errors import AuthenticationFailed, ConfigError, StoreUnavailable
from llmpipe.middleware.credentials.keys import Key, Keys
from llmpipe.secret import Secret

__all__ = ("FetchedKeys", "KeySource")

KeySource: TypeAlias = Callable[[], str | Secret | Awaitable[str | Secret]]
"""Gives the key to use now. Attributes of it, where it has them: ``fresh``, seconds for which that may be
used; ``overdue_days``, by how much the key is older than it should get, or None."""

_log = logging.getLogger("llmpipe.credentials")
_FRESH = 60.0  # seconds
_AGAIN = (
    1.0  # seconds; a key that is refused, or a store that is out of reach, is not asked for at every call
)


class FetchedKeys(Keys):
    """The one key that `source` gives, asked for when it is first needed, and when it is old or refused.

    One caller asks; those who come meanwhile use the key that is there, unless it was refused. While the
    store behind it is out of reach the last known key is used, and that is logged once. A key that is there
    no more is used no more. Call `fetch` before `pick`.

    Raises: ConfigError for a source that cannot be called.
    """

    __slots__ = ("_again_at", "_at", "_doubted", "_down", "_fresh", "_locks", "_overdue", "_source")

    def __init__(self, source: KeySource) -> None:
        if not callable(source):
            raise ConfigError(f"a source of keys is a function, not a {type(source).__name__}")
        self._begin()
        self._source = source
        fresh = getattr(source, "fresh", _FRESH)
        if not isinstance(fresh, int | float) or not fresh > 0:
            raise ConfigError(f"a key is fresh for seconds above 0, not {fresh!r}")
        self._fresh = float(fresh)
        self._at = self._again_at = -inf
        self._doubted = self._down = False
        self._overdue: float | None = None
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def fetch(self) -> None:
        """Have the key in `all`.

        Raises: AuthenticationFailed where the source has none; StoreUnavailable, where none is known yet;
        and whatever else the source does.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        doubted = self._doubted and now >= self._again_at
        if 0 <= now - self._at < self._fresh and not doubted and self._all:
            return
        lock = self._locks.get(loop) or self._locks.setdefault(loop, asyncio.Lock())
        if lock.locked() and self._all and not self._doubted:
            return
        before = self._at
        async with lock:
            if self._at == before:  # else somebody has just asked
                await self._ask(loop)

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        doubted = self._doubted
        try:
            told = self._source()
            secret = Secret(await told if isawaitable(told) else told)
        except StoreUnavailable as error:
            if not self._all:
                raise
            if not self._down:
                _log.warning("the last known key is used, for it cannot be looked up: %s", error.message)
            self._down, self._doubted = True, False
            self._at, self._again_at = loop.time() - max(0.0, self._fresh - _AGAIN), loop.time() + _AGAIN
            return
        except ConfigError as error:
            self._all = ()
            raise AuthenticationFailed(str(error), sent=False, code="no_key") from None
        known = [key.secret for key in self._all] == [secret]
        if not known:
            self.replace(secret)
        self._down = self._doubted = False
        self._at = loop.time()
        self._again_at = loop.time() + _AGAIN if known and doubted else -inf
        self._overdue = getattr(self._source, "overdue_days", None)

    def doubt(self, key: Key) -> None:
        """The provider refuses `key`: ask for it anew before the next use, if it is still the one in use."""
        if key in self.all:
            self._doubted = True

    def overdue(self) -> float | None:
        """Days by which the key is older than it should get, told once after each time it was looked up."""
        days, self._overdue = self._overdue, None
        return days

    async def aclose(self) -> None:
        """Close the source, if that is something to be closed."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    def __repr__(self) -> str:
        return "<a key that is looked up>"
