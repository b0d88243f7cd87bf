"""A store that the tests of this folder can block, break and share between processes that are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from llmpipe.errors import StoreUnavailable
from llmpipe.pipeline.chain import Chain
from llmpipe.runtime import Runtime
from llmpipe.state import AuditQuery, AuditRecord, Backend
from llmpipe.state.hash_chain import fault
from llmpipe.state.memory.audit import MemoryAudit

URL = "test://trail"


class HostileAudit(MemoryAudit):
    """The memory trail, each step of which takes `seconds`.

    Attributes:
        away: raise StoreUnavailable instead.
        deaf: do what is asked, then raise it all the same, for the next so many appends.
        gate: wait for it before an append.
        batches: when each append came, and of how many records.
        between: called between the steps, by their names.
        kept: called when an append is done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.deaf = 0
        self.seconds = 0.001
        self.gate: asyncio.Event | None = None
        self.batches: list[tuple[float, int]] = []
        self.between: Callable[[str], Awaitable[None]] | None = None
        self.kept: Callable[[], Awaitable[None]] | None = None
        self.tried = 0
        self.refuse: Callable[[AuditRecord], bool] = lambda record: False

    async def _step(self, name: str) -> None:
        if self.between is not None:
            await self.between(name)
        await asyncio.sleep(self.seconds)
        if self.away:
            raise StoreUnavailable("the test's store is away")

    async def append(self, records: Sequence[AuditRecord]) -> None:
        self.tried += 1
        await self._step("append")
        if self.gate is not None:
            await self.gate.wait()
        if any(map(self.refuse, records)):
            raise ValueError("the test's store cannot keep that")
        await super().append(records)
        if records:
            self.batches.append((asyncio.get_running_loop().time(), len(records)))
        if self.kept is not None:
            await self.kept()
        if self.deaf:
            self.deaf -= 1
            raise StoreUnavailable("the test's store did not answer")

    async def head(self, writer: str) -> Any:
        await self._step("head")
        return await super().head(writer)

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        await self._step("unended")
        return await super().unended(writer)

    async def beat(self, writer: str, lease: float) -> None:
        await self._step("beat")
        await super().beat(writer, lease)

    async def lost(self) -> list[str]:
        await self._step("lost")
        return await super().lost()

    async def prune(self, before: float) -> int:
        await self._step("prune")
        return await super().prune(before)

    def records(self, kind: str | None = None) -> list[AuditRecord]:
        """All records, by writer and number."""
        found = [each for chain in self._chains.values() for each in chain.records]
        return [each for each in found if kind in (None, each.kind)]

    def faults(self) -> list[str]:
        """What breaks the laws A2 and A4: a chain with a gap, a call with two ends or begins."""
        said = [fault(chain.records, chain.anchor) for chain in self._chains.values()]
        wrong = [each for each in said if each is not None]
        for kind in ("begin", "end"):
            calls = [each.call for each in self.records(kind)]
            wrong += [
                f"{calls.count(call)} {kind}s of {call}" for call in set(calls) if calls.count(call) > 1
            ]
        return wrong

    def ends(self) -> list[str]:
        """The outcomes, in order."""
        return [each.outcome for each in self.records("end")]


class HostileState(Backend):
    """The backend ``test://``."""

    scheme = "test"
    offers: ClassVar[frozenset[str]] = frozenset({"audit"})

    def __init__(self, trail: HostileAudit) -> None:
        self.trail = trail

    def audit(self, name: str) -> HostileAudit:
        return self.trail

    async def check(self) -> None:
        """Always well."""

    async def aclose(self) -> None:
        """Nothing to close."""


def process(trail: HostileAudit, seed: int | None = None) -> Runtime:
    """A runtime on which `URL` is that trail: another for each process."""
    made = Runtime(seed=seed)
    made.state("store", URL, lambda: HostileState(trail))
    return made


async def kill(chain: Chain) -> None:
    """End what the chain's runtime does, and let nothing be tidied: as a process does that is killed."""
    runtime = chain.runtime
    for scribe in runtime.states("audit").values():
        for timer in (scribe._timer, scribe._keeper.timer):
            if timer is not None:
                timer.cancel()
    for task in [*runtime._tasks]:
        task.cancel()
    await asyncio.sleep(0)


__all__ = ("AuditQuery", "HostileAudit", "HostileState", "URL", "kill", "process")
