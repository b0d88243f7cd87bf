"""The way to one Redis from every event loop: what all that is kept there goes through."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llmpipe.errors import StoreUnavailable
from llmpipe.runtime import Alarm
from llmpipe_redis.link import Link
from llmpipe_redis.lua import script
from llmpipe_redis.settings import Settings

__all__ = ("Access",)


class Access:
    """Connects on first use, for each event loop by itself.

    Attributes:
        ahead: seconds added to the server's clock in every operation, for tests.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead = 0.0
        # A connection belongs to the loop that opened it, and holds it.
        self._links: dict[asyncio.AbstractEventLoop, Link] = {}

    def link(self) -> Link:
        """The way to Redis from the running event loop."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            for old in [known for known in list(self._links) if known.is_closed()]:
                self._links.pop(old, None)  # another thread may do the same; its connections end with it
            link = self._links[loop] = Link(self.settings)
        return link

    async def run(self, name: str, base: bytes, args: Sequence[bytes]) -> Any:
        """The answer of the script `name`. Its first argument is how far time is ahead, in seconds."""
        return await self.link().run(script(name), base, (b"%r" % self.ahead, *args))

    async def run_whole(self, name: str, base: bytes, args: Sequence[bytes]) -> Any:
        """As `run`, of a script that first ends what is over, in parts, and says ``more`` until it has.

        So no script holds up the others for long, and none answers before all that is over has ended.
        All of it together takes no longer than the store's timeout; what was ended in it stays so.
        """
        began = asyncio.get_running_loop().time()
        answer = await self.run(name, base, args)
        if not _more(answer):
            return answer
        with Alarm(began + self.settings.timeout, self._late):
            while _more(answer):
                answer = await self.run(name, base, args)
        return answer

    def _late(self) -> StoreUnavailable:
        within = f"{self.settings.timeout:g} s"
        return StoreUnavailable(
            f"Redis at {self.settings.place} has more to end first than it could in {within}"
        )

    async def aclose(self) -> None:
        """Close the connections of this event loop when their commands are over, and those of others."""
        own = asyncio.get_running_loop()
        links, self._links = self._links, {}
        for loop, link in list(links.items()):
            if loop is own:
                await link.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(link.drop)


def _more(answer: Any) -> bool:
    return isinstance(answer, bytes) and answer == b"more"
