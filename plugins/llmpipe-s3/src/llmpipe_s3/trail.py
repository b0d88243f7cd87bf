"""One trail in a bucket: what is known of it, and how that is brought up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from llmpipe.errors import StoreUnavailable
from llmpipe.state import AuditRecord
from llmpipe_s3.batches import read_anchor, read_batch
from llmpipe_s3.index import Chain, Index
from llmpipe_s3.keys import Keys, folder
from llmpipe_s3.store import Store

__all__ = ("Batch", "Trail", "side_by_side")

T = TypeVar("T")

_AT_ONCE = 16
"""Objects that are read side by side, and held."""
_LOOKS = 5
"""How often an anchor is looked for that is listed and not there, for a newer one has taken its place."""

Batch = tuple[str, int]
"""A batch by the folder of its writer, and the number of its first record."""


class Trail:
    """What this process knows of one trail. Objects do not change, so each is read once for that."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        base = f"{store.settings.prefix}/{folder(name)}/".lstrip("/")
        self.keys = Keys(base)
        self.index = Index()

    async def refresh(self, writer: str | None = None) -> None:
        """Read what has come since, of one writer (its folder) or of all.

        Batches first, anchors then: an anchor is there before what it replaces goes, so what is gone from
        among the batches is explained by an anchor that is read after them.
        """
        await self.refresh_batches(writer)
        await self.refresh_anchors(writer)

    async def refresh_batches(
        self, writer: str | None, visit: Callable[[Batch, Sequence[AuditRecord]], None] | None = None
    ) -> None:
        """Read the batches that have come since; `visit` sees each."""
        fresh = [batch async for batch in self._new_batches(writer)]
        async for batch, records in self.read(fresh):
            self.index.enter(*batch, records)
            if visit is not None:
                visit(batch, records)

    async def refresh_anchors(self, writer: str | None = None) -> None:
        """Read where the chains begin now."""
        moved = await self._moved(writer)
        for _ in range(_LOOKS):
            gone = [name for name, seq in moved.items() if not await self._begun(name, seq)]
            if not gone:
                return
            moved = {}
            for name in gone:
                moved |= await self._moved(name)
        place = self.store.settings.place
        raise StoreUnavailable(f"{place} lists anchors of the trail {self.name!r} that are not there")

    async def _moved(self, writer: str | None) -> dict[str, int]:
        """The newest anchors that are not known yet, by the folder of their writer."""
        newest: dict[str, int] = {}
        async for key in self._listed(self.keys.anchors(writer)):
            if found := self.keys.read(key):
                newest[found[0]] = max(found[1], newest.get(found[0], 0))
        chains = self.index.chains
        return {
            name: seq for name, seq in newest.items() if name not in chains or chains[name].anchor.seq < seq
        }

    async def _begun(self, name: str, seq: int) -> bool:
        """Read the anchor there; whether it is."""
        key = self.keys.anchor(name, seq)
        held = await self.store.get(key)
        if held is not None:
            self.index.begin_at(name, read_anchor(key, held.data))
        return held is not None

    async def folders(self) -> list[str]:
        """The folders of all writers that have batches."""
        prefix = self.keys.batches()
        return [each.removeprefix(prefix).rstrip("/") for each in await self.store.folders(prefix)]

    async def signs(self) -> AsyncIterator[str]:
        """The folders of writers that have given a sign of life, be it an old one."""
        async for key in self._listed(self.keys.alive()):
            if name := self.keys.sign(key):
                yield name

    async def read(self, batches: Iterable[Batch]) -> AsyncIterator[tuple[Batch, list[AuditRecord]]]:
        """The records of those batches that are there, in order; a few at once are held."""
        left = list(reversed([*batches]))
        while left:
            some = [left.pop() for _ in range(min(_AT_ONCE, len(left)))]
            read = await side_by_side([partial(self.batch, *each) for each in some])
            for batch, records in zip(some, read, strict=True):
                if records is not None:
                    yield batch, records

    async def batch(self, writer: str, first: int) -> list[AuditRecord] | None:
        """The records of one batch by their numbers; None if it is not there (any more)."""
        key = self.keys.batch(writer, first)
        held = await self.store.get(key)
        if held is None:
            return None
        chain = self.index.chains.get(writer)
        return read_batch(key, held.data, chain.writer if chain else None)

    async def _new_batches(self, writer: str | None) -> AsyncIterator[Batch]:
        """Those that are not known. What is known is passed over in leaps, from one writer to the next."""
        prefix, after, more = self.keys.batches(writer), "", True
        while more:
            page = await self.store.page(prefix, after)
            more = page.more
            for key in page.keys:
                found = self.keys.read(key)
                chain = self.index.chains.get(found[0]) if found else None
                if found and (chain is None or not chain.knows(found[1])):
                    yield found
            if page.keys:
                after = max(page.keys[-1], self._known_up_to(page.keys[-1]))

    def _known_up_to(self, key: str) -> str:
        """The last key that is known of the writer that `key` is of."""
        found = self.keys.read(key)
        chain: Chain | None = self.index.chains.get(found[0]) if found else None
        if found is None or chain is None or not chain.firsts:
            return ""
        return self.keys.batch(found[0], chain.firsts[-1])

    async def _listed(self, prefix: str) -> AsyncIterator[str]:
        after, more = "", True
        while more:
            page = await self.store.page(prefix, after)
            for key in page.keys:
                yield key
            more, after = page.more, page.keys[-1] if page.keys else ""


async def side_by_side(reads: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What they give, a few at once; when one fails the others are over before that is told."""
    given: list[T] = []
    for begin in range(0, len(reads), _AT_ONCE):
        tasks = [asyncio.ensure_future(read()) for read in reads[begin : begin + _AT_ONCE]]
        try:
            given += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    return given
