"""The laws of cache and single flight as a chain runs them, K1 and K3 to K6, over long random histories.

Two worlds live side by side: in one, two tenants ask the same questions; in the other the first of them is
alone. What the first one sees is the same in both, to the moment (K1). Beside that each world is held to
what it was told itself: who asked, what came back whole, and when.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from math import inf
from typing import Any

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmpipe.errors import LLMError, Overloaded, StreamBroken
from llmpipe.middleware.cache import Cache, CacheStats
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import VirtualTimeLoop
from llmpipe.types import Completion, Finish, Message, Request, TextDelta

LONG = bool(os.environ.get("LLMPIPE_LONG"))
TTL = 20.0
FATES = ("well", "well", "well", "whole at once", "cut", "busy", "length", "refused", "large")
Asked = tuple[str, str]
"""Who asks, and what."""


@define
class Visit:
    """One call under way."""

    who: Asked
    task: asyncio.Task[tuple[Any, ...]]


class Upstream(MockProvider):
    """Answers each as its world says."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    async def __call__(self, call: Call) -> Reply:
        return await MockProvider([self.world.line(call)])(call)


class Refusing:
    """A guard further out than the cache."""

    def feed(self, event: Any) -> tuple[Any, ...]:
        if type(event) is TextDelta and "refused" in event.text:
            raise LLMError("not that")
        return (event,)

    def flush(self) -> tuple[()]:
        return ()


@layer(priority=300)
async def guard(call, call_next):
    reply = await call_next(call)
    return reply.pipe(Refusing())


class World:
    """A chain, and what is known of it.

    Attributes: log is what each call of a tenant came to; stored is which texts may be given again, each
    with when it was put; flying counts the requests under way.
    """

    def __init__(self, loop: VirtualTimeLoop, room: int) -> None:
        self.loop = loop
        self.max_bytes = 12_000 * room
        self.cache = Cache(ttl=TTL, max_entries=2 * room, max_bytes=self.max_bytes, max_tenant_share=0.5)
        self.chain = Chain(
            Upstream(self), guard, self.cache, Coalesce(when="always"), self.watch(), runtime=Runtime(seed=1)
        )
        self.fate: dict[Asked, str] = {}
        self.number: Counter[str] = Counter()
        self.flying: Counter[Asked] = Counter()
        self.asked: Counter[Asked] = Counter()
        self.led: Counter[Asked] = Counter()  # calls that were neither hits nor rode along
        self.cut: set[Asked] = set()  # asked again by those who wanted the whole of a stream that broke
        self.most = 0  # requests for one question under way at once
        self.whole: defaultdict[Asked, set[str]] = defaultdict(set)  # what came back well, of each question
        self.stored: defaultdict[Asked, list[tuple[float, str]]] = defaultdict(list)
        self.log: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.visits: list[Visit] = []

    def watch(self) -> Any:
        @layer(priority=990)
        async def watch(call, call_next):
            who = (call.tenant, call.request.messages[0].text)
            self.flying[who] += 1
            self.most = max(self.most, self.flying[who])
            try:
                reply = await call_next(call)
            except BaseException:
                self.flying[who] -= 1
                raise
            outcome = yield reply
            self.flying[who] -= 1
            if outcome.ok and outcome.completion.finish_reason == "stop":
                self.whole[who].add(outcome.completion.text)

        return watch

    def line(self, call: Call) -> Any:
        tenant, question = who = (call.tenant, call.request.messages[0].text)
        self.number[tenant] += 1
        self.asked[who] += 1
        text = f"{tenant} {question} {self.number[tenant]}"
        match self.fate.get(who, "well"):
            case "whole at once":
                return Completion(message=Message("assistant", text), finish_reason="stop")
            case "cut":
                self.cut.add(who)
                return [Wait(1), text, Wait(1), StreamBroken("cut")]
            case "busy":
                return [Wait(1), Overloaded("busy")]
            case "length":
                return [Wait(1), text, Finish("length")]
            case "refused":
                return [text, Wait(1), " refused"]
            case "large":
                return [Wait(1), text + "x" * 100_000]
        return [Wait(2), text, Wait(1), " and", Wait(1), " more"]

    def come(self, who: Asked, stream: bool, leaves: float | None) -> Visit:
        return Visit(who, self.loop.create_task(self.visit(who, stream, leaves)))

    async def visit(self, who: Asked, stream: bool, leaves: float | None) -> tuple[Any, ...]:
        """What the caller sees: when, from where, and what."""
        tenant, question = who
        call = self.chain.new_call(Request(messages=question, stream=stream), tenant=tenant)
        began = self.loop.time()
        text: str | None = None
        try:
            async with asyncio.timeout(leaves), await self.chain(call) as reply:
                text = (await reply.full()).text
            end = "well"
        except (LLMError, TimeoutError) as error:
            end = type(error).__name__
        except asyncio.CancelledError:
            end = "cancelled"
        kinds = {note.kind for note in call.ledger.notes}
        hit, now = "cache.hit" in kinds, self.loop.time()
        if end == "well":
            self.check(who, text, hit, began)
            if not hit and text in self.whole[who]:
                self.stored[who].append((now, text or ""))
        elif end == "LLMError":
            assert not hit  # K3: what a guard refuses is not there to be given again
        joined = "coalesce.joined" in kinds
        self.led[who] += not (hit or joined)
        seen = (began, now, end, text, hit, joined)
        self.log[tenant].append((question, *seen))
        return seen

    def check(self, who: Asked, text: str | None, hit: bool, began: float) -> None:
        fresh = {stored for at, stored in self.stored[who] if began < at + TTL}
        if hit:
            assert text in fresh  # K1, K3, K5: whole, of this tenant and question, and not too old
            assert self.loop.time() == began
        assert text is not None
        assert text.startswith(" ".join(who))

    async def delete(self, who: Asked) -> None:
        await self.cache.delete(self.chain.new_call(Request(messages=who[1]), tenant=who[0]))
        self.stored.pop(who, None)

    async def stats(self) -> CacheStats:
        return self.cache.stats(self.chain.runtime)

    def knows(self, who: Asked) -> bool:
        """Whether the last reply that was kept is still fresh."""
        return self.loop.time() < max((at for at, _ in self.stored[who]), default=-inf) + TTL


class Cached(RuleBasedStateMachine):
    """What is done in the name of the first tenant is done in both worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()

    @initialize(room=st.sampled_from([1, 2, 50]))
    def begin(self, room: int) -> None:
        self.room = room
        self.both, self.alone = World(self.loop, room), World(self.loop, room)

    def worlds(self, tenant: str) -> list[World]:
        return [self.both, self.alone] if tenant == "a" else [self.both]

    @rule(
        tenant=st.sampled_from("ab"), question=st.sampled_from("xyz"), fate=st.sampled_from(FATES),
        callers=st.integers(1, 4), streams=st.booleans(), leaves=st.sampled_from([None] * 3 + [0.5, 2.5]),
        seconds=st.sampled_from([0.0, 1.0, 5.0, 5.0]),
    )  # fmt: skip
    def somebody_asks(
        self, tenant: str, question: str, fate: str, callers: int, streams: bool, leaves: Any, seconds: float
    ) -> None:
        """And whatever is asked for that from now on has this fate, while so many seconds pass.

        The first of several leaves before its time, if anybody does: it leads, where there is a flight.
        """
        who = (tenant, question)
        for world in self.worlds(tenant):
            known, world.fate[who] = world.knows(who), fate
            for number in range(callers):
                visit = world.come(who, streams ^ (number % 2 == 1), None if number else leaves)
                world.visits.append(visit)
            self.loop.run_until_complete(asyncio.sleep(0))
            if known and self.room == 50:
                for visit in world.visits[-callers:]:
                    assert visit.task.result()[4]  # with room for all, what is fresh is given
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @precondition(lambda self: self.both.visits)
    @rule(pick=st.integers(0, 50))
    def somebody_is_cancelled(self, pick: int) -> None:
        """One of those under way: the same in both worlds, if it is there in both."""
        visit = self.both.visits[pick % len(self.both.visits)]
        tenant = visit.who[0]
        place = [one for one in self.both.visits if one.who[0] == tenant].index(visit)
        for world in self.worlds(tenant):
            [one for one in world.visits if one.who[0] == tenant][place].task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))

    @rule(tenant=st.sampled_from("ab"), question=st.sampled_from("xyz"))
    def somebody_deletes(self, tenant: str, question: str) -> None:
        for world in self.worlds(tenant):
            self.loop.run_until_complete(world.delete((tenant, question)))

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 5.0, 15.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def the_first_tenant_sees_the_same_whether_or_not_there_is_another(self) -> None:
        """K1."""
        if hasattr(self, "both"):
            for world in (self.both, self.alone):
                for visit in world.visits:
                    if visit.task.done() and not visit.task.cancelled():
                        visit.task.result()  # what `World.check` had to say
            assert self.both.log["a"] == self.alone.log["a"]
            assert self.both.number["a"] == self.alone.number["a"]
            assert not self.alone.log["b"]

    @invariant()
    def nobody_asks_what_is_being_asked_and_the_memory_is_within_its_bounds(self) -> None:
        """K4 and K6."""
        for world in (self.both, self.alone) if hasattr(self, "both") else ():
            assert world.most <= 1
            stats = self.loop.run_until_complete(world.stats())
            assert (stats.entries or 0) <= 2 * self.room
            assert (stats.bytes or 0) <= world.max_bytes

    def teardown(self) -> None:
        """Nothing is left when all have what they came for."""
        if hasattr(self, "both"):
            self.loop.run_until_complete(asyncio.sleep(1000))
            for world in (self.both, self.alone):
                assert all(visit.task.done() for visit in world.visits)
                assert not +world.flying
                for who, asked in world.asked.items():
                    assert asked <= world.led[who] or who in world.cut  # K4: who joins sends nothing
                assert not any(world.chain.runtime.states("coalesce").values())
            self.the_first_tenant_sees_the_same_whether_or_not_there_is_another()
        assert asyncio.all_tasks(self.loop) == set()
        self.loop.close()


Cached.TestCase.settings = settings(max_examples=3000 if LONG else 80, stateful_step_count=40)
test_cached_calls_keep_their_laws = Cached.TestCase
