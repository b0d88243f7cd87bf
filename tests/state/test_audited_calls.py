"""The laws of the audit as a chain runs it (A1 to A4), on every store that outlives a process.

Processes come, make calls that end in every way there is, end well or die amid them, and come again. A
process that dies is one whose tasks are cancelled and whose line to the store is cut: what it had in its
memory reaches nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import Any

from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.errors import LLMError, Overloaded, StreamBroken
from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.state import Anchor, AuditQuery, AuditRecord, Backend
from llmpipe.state.hash_chain import fault
from llmpipe.state.memory.audit import MemoryAudit
from llmpipe.types import Request
from tests.state.stores import OnStore, Store, kept_in

LEASE = 100  # of the machine's seconds
ENDS = {
    "ok": "ok", "stream": "ok", "refuse": "refused", "fail": "failed", "cut": "failed",
    "abandon": "abandoned", "cancel": "cancelled", "wait": "ok",
}  # fmt: skip
"""What is asked for, and how the trail is to name it."""
LINES: dict[str, Any] = {"fail": Overloaded("full"), "cut": ["a", StreamBroken("cut")], "abandon": ["a", "b"]}


class Line(Backend):
    """A process's line to the store, until it is cut: then it talks to itself."""

    scheme = "line"

    def __init__(self, trail: Any) -> None:
        self.trail = trail

    def audit(self, name: str) -> Any:
        return self

    def __getattr__(self, method: str) -> Any:
        return getattr(self.trail, method)

    async def aclose(self) -> None:
        """The store is the machine's."""


class Upstream(MockProvider):
    """Looks into the store, before it says a word, whether the call has begun there (A3)."""

    def __init__(self, trail: Any) -> None:
        super().__init__()
        self.trail = trail
        self.waiting: dict[str, asyncio.Event] = {}
        self.unseen: list[str] = []

    async def __call__(self, call: Call) -> Reply:
        if len(await self.trail.query(AuditQuery(call=call.id, kind="begin"))) != 1:
            self.unseen.append(call.id)
        fate = call.tags["fate"]
        if fate in ("cancel", "wait"):
            self.waiting[call.id] = asyncio.Event()
            await self.waiting[call.id].wait()
        return await MockProvider([LINES.get(fate, "fine")])(call)


@layer(priority=500)
async def refuse(call, call_next):
    if call.tags["fate"] == "refuse":
        raise LLMError("not here")
    return await call_next(call)


@define
class Process:
    """A chain with its runtime, and its calls under way. One that was still for a lease is suspect: another
    may have ended its calls."""

    line: Line
    provider: Upstream
    chain: Chain
    suspect: bool = False
    open: dict[str, asyncio.Task[None]] = field(factory=dict)


@define
class Told:
    """What is known of one call: its end, and whether it may be missing or be that of a crash instead."""

    fate: str
    over: bool = False
    crashed: bool = False
    doubtful: bool = False


class Audited(OnStore):
    @initialize(named=st.booleans(), batch=st.sampled_from([1, 3, 100]))
    def begin(self, named: bool, batch: int) -> None:
        self.trail = self.place.thing("audit")
        self.named, self.batch = named, batch
        self.calls: dict[str, Told] = {}
        self.processes: dict[str, Process] = {}
        self.numbers = count()

    def process(self, name: str) -> Process:
        """The one of that name; a new one where there is none."""
        if name not in self.processes:
            line, provider = Line(self.trail), Upstream(self.trail)
            runtime = Runtime()
            runtime.state("store", "line://", lambda: line)
            audit = Audit(
                store="line://", writer=name if self.named else "", batch=self.batch,
                flush=3600.0, lease=self.scaled(LEASE),
            )  # fmt: skip
            self.processes[name] = Process(line, provider, Chain(provider, audit, refuse, runtime=runtime))
        return self.processes[name]

    # ------------------------------------------------------------ calls

    @rule(name=st.sampled_from("pq"), fate=st.sampled_from([*ENDS]))
    def somebody_calls(self, name: str, fate: str) -> None:
        self.do(self.call(self.process(name), fate))

    @rule(name=st.sampled_from("pq"), fates=st.lists(st.sampled_from([*ENDS]), min_size=2, max_size=5))
    def several_call_at_once(self, name: str, fates: list[str]) -> None:
        self.do(self.all_of(self.process(name), fates))

    async def all_of(self, process: Process, fates: list[str]) -> None:
        await asyncio.gather(*[self.call(process, fate) for fate in fates])

    async def call(self, process: Process, fate: str) -> None:
        """Make one call, up to its end, or to where it waits for its provider."""
        request = Request(messages="hi", stream=fate in ("stream", "cut", "abandon"))
        call = process.chain.new_call(request, tags={"fate": fate})
        self.calls[call.id] = Told(fate, doubtful=process.suspect)
        task = process.open[call.id] = asyncio.create_task(self.read(process, call, fate))
        while not task.done() and call.id not in process.provider.waiting:
            await asyncio.sleep(0.0005)
        if fate == "cancel":
            task.cancel()
        if fate != "wait":
            await task

    async def read(self, process: Process, call: Call, fate: str) -> None:
        """What the caller does, and sees, which the trail is to agree with."""
        end = "ok"
        try:
            async with await process.chain(call) as reply:
                if fate == "abandon":
                    await anext(aiter(reply))
                    end = "abandoned"
                else:
                    await reply.full()
        except LLMError:
            end = "refused" if fate == "refuse" else "failed"
        except asyncio.CancelledError:
            end = "cancelled"
        told = self.calls[call.id]
        told.over = True
        assert told.crashed or end == ENDS[fate]
        process.open.pop(call.id, None)

    @rule(name=st.sampled_from("pq"))
    def those_who_wait_are_answered(self, name: str) -> None:
        if name in self.processes:
            self.do(self.answer(self.processes[name]))

    async def answer(self, process: Process) -> None:
        for waiting in process.provider.waiting.values():
            waiting.set()
        await asyncio.gather(*process.open.values())

    # ------------------------------------------------------------ processes

    @rule(name=st.sampled_from("pq"))
    def a_process_ends_well(self, name: str) -> None:
        if name in self.processes:
            self.do(self.end(self.processes.pop(name)))

    async def end(self, process: Process) -> None:
        await self.answer(process)
        await process.chain.aclose()
        for scribe in process.chain.runtime.states("audit").values():  # if it has made a call
            assert scribe.stats.waiting == 0

    @rule(name=st.sampled_from("pq"))
    def a_process_dies(self, name: str) -> None:
        """Calls under way have crashed, and so may have those whose ends were not kept yet."""
        if name in self.processes:
            self.do(self.die(self.processes.pop(name)))

    async def die(self, process: Process) -> None:
        process.line.trail = MemoryAudit()
        for call in process.open:
            self.calls[call].crashed = True
        await self.doubt()
        while tasks := {*process.open.values(), *process.chain.runtime._tasks}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def doubt(self) -> None:
        """Whatever has no end in the store may get that of a crash, and what has no begin may get none."""
        ended = {one.call for one in await self.records() if one.kind == "end"}
        for call, told in self.calls.items():
            told.doubtful |= call not in ended

    @rule()
    def all_are_still_for_longer_than_their_leases(self) -> None:
        self.let_pass(LEASE + 1)
        self.do(self.doubt())
        for process in self.processes.values():
            process.suspect = True

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    # ------------------------------------------------------------ laws

    async def records(self) -> list[AuditRecord]:
        """All at one moment: a page at a time would miss what comes in between, and is earlier."""
        found: list[AuditRecord] = await self.trail.query(AuditQuery(), limit=100_000)
        return found

    @invariant()
    def every_chain_verifies_and_no_call_has_two_begins_or_ends(self) -> None:
        """A1, A2 and A4, of what is durable at this moment."""
        records = self.do(self.records())
        for writer in {one.writer for one in records}:
            own = sorted((one for one in records if one.writer == writer), key=lambda one: one.seq)
            assert fault(own, Anchor()) is None
        for kind in ("begin", "end"):
            counted = Counter(one.call for one in records if one.kind == kind)
            assert max(counted.values(), default=1) == 1
            assert counted.keys() <= self.calls.keys()
        begun = {one.call for one in records if one.kind == "begin"}
        for one in records:
            if one.kind == "end":
                assert one.call in begun
                self.check_the_end(one)

    def check_the_end(self, end: AuditRecord) -> None:
        told = self.calls[end.call]
        if end.outcome == "crashed":
            assert told.crashed or told.doubtful
        else:
            assert told.over
            assert end.outcome == ENDS[told.fate]

    @invariant()
    def no_provider_was_asked_before_the_begin_was_durable(self) -> None:
        """A3."""
        assert all(process.provider.unseen == [] for process in self.processes.values())

    def teardown(self) -> None:
        """When all have ended or died, and another has looked, every call has its one end (A2)."""
        if hasattr(self, "trail"):
            for name in [*self.processes]:
                self.a_process_ends_well(name)
            self.let_pass(LEASE + 1)
            for name in "pqr":  # those of a name end what the name has left; the last ends all that is left
                self.do(self.look(self.process(name)))
                self.a_process_ends_well(name)
            self.every_chain_verifies_and_no_call_has_two_begins_or_ends()
            self.do(self.check_all())
        super().teardown()

    async def look(self, process: Process) -> None:
        await self.call(process, "ok")
        while tasks := process.chain.runtime._tasks:
            await asyncio.wait(tasks)

    async def check_all(self) -> None:
        assert await self.trail.unended() == []
        records = await self.records()
        begun = {one.call for one in records if one.kind == "begin"}
        ended = {one.call: one.outcome for one in records if one.kind == "end"}
        assert begun == ended.keys()
        for call, told in self.calls.items():
            if told.crashed and told.fate == "wait":
                assert ended[call] == "crashed"
            elif not told.doubtful:
                assert ended[call] == ENDS[told.fate]  # A4: what their callers saw
            elif told.fate != "refuse":  # A1: all that reached a provider
                assert call in begun


@kept_in("file", "sqlite", "postgresql")
def test_audited_calls_keep_their_laws(store: Store) -> None:
    store.check(Audited, 0.6)
