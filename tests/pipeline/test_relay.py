"""One reply read by another: whatever ends one of them ends the other, in the same way."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import DeadlineExceeded, IdleTimeout, ReplyClosed, StreamBroken
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.relay import Relay, batch, relayed
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Completion, Finish, Message, Request, TextDelta, Usage, UsageUpdate
from tests.pipeline.kit import STOP, Boom, Ends, Feed, Remembering, chain, streaming, texts

USED = UsageUpdate(Usage(7, 3))


class Upper:
    """A stage: capitals."""

    def feed(self, event):
        return [TextDelta(event.text.upper(), event.index)] if type(event) is TextDelta else [event]

    def flush(self):
        return []


@layer(priority=500, name="relaying")
async def relaying(call: Call, call_next: Handler) -> Reply:
    """Reads the first batch ahead, and hands on a reply of its own."""
    reply = await call_next(call)
    return relayed(Relay(reply), await batch(reply))


@layer(priority=300, name="upper")
async def upper(call: Call, call_next: Handler) -> Reply:
    return (await call_next(call)).pipe(Upper())


class Scene:
    """A chain with a relay in its middle, and what both sides of it are told."""

    def __init__(self, feed: Feed, *more: Any) -> None:
        self.feed = feed
        self.ends = Ends()
        outer, inner = self.ends.yielder("outer", 400), self.ends.yielder("inner", 600)
        self.runtime = Remembering()
        self.chain: Chain = chain(
            streaming(feed, (TextDelta("a"),)), outer, relaying, inner, *more, runtime=self.runtime
        )
        self.call = self.chain.new_call(Request(messages="x", stream=True))

    async def open(self) -> Reply:
        return await self.chain(self.call)

    def told(self, status: str) -> None:
        """Both sides, and the attempt, were told this once; nothing went wrong beside."""
        assert self.ends.names == ["inner", "outer"]
        assert self.ends.statuses == [status, status]
        (attempt,) = self.call.ledger.attempts
        assert attempt.status == status
        assert not self.runtime.reports


async def test_all_events_come_through_and_both_ends_are_ok():
    scene = Scene(Feed("b", USED, STOP), upper)
    reply = await scene.open()
    assert [event async for event in reply] == [TextDelta("A"), TextDelta("B"), USED, STOP]
    scene.told("ok")
    for _, outcome in scene.ends:
        assert outcome.usage == Usage(7, 3)
    assert [outcome.completion.text for _, outcome in scene.ends] == ["ab", "ab"]
    assert reply.completion.text == "AB"


async def test_a_break_is_one_error_for_both_and_its_partial_has_passed_the_stages():
    error = StreamBroken("cut")
    scene = Scene(Feed("b", error), upper)
    with pytest.raises(StreamBroken) as caught:
        await (await scene.open()).full()
    assert caught.value is error
    assert error.partial.text == "AB"  # in the small letters of the first reply a mask would be missing
    assert (error.attempt, error.provider) == (1, "mock")
    assert all(outcome.error is error for _, outcome in scene.ends)
    scene.told("error")


async def test_an_error_of_a_stage_above_closes_the_reply_behind():
    class Refusing(Upper):
        def feed(self, event):
            if event == TextDelta("b"):
                raise Boom
            return [event]

    @layer(priority=450, name="refusing")
    async def refusing(call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).pipe(Refusing())

    scene = Scene(Feed("b", STOP), refusing)
    with pytest.raises(Boom):
        await (await scene.open()).full()
    assert scene.feed.closed == 1
    assert dict(zip(scene.ends.names, scene.ends.statuses, strict=True)) == {
        "inner": "error",
        "outer": "error",
    }


async def test_abandoned_both_are():
    scene = Scene(Feed("b", 5.0, STOP))
    async with await scene.open() as reply:
        await anext(reply)
    scene.told("abandoned")
    assert scene.feed.closed == 1


async def test_unread_both_are_abandoned():
    scene = Scene(Feed("b", 5.0, STOP))
    await (await scene.open()).aclose()
    scene.told("abandoned")
    assert scene.feed.closed == 1


async def test_cancelled_in_a_read_both_are():
    scene = Scene(Feed("b", 50.0, STOP))
    reader = asyncio.create_task((await scene.open()).full())
    await asyncio.sleep(5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    scene.told("cancelled")
    assert scene.feed.closed == 1


async def test_cancelled_between_two_reads_both_are():
    scene = Scene(Feed("b", STOP))

    async def read() -> None:
        async with await scene.open():
            await asyncio.sleep(50)

    reader = asyncio.create_task(read())
    await asyncio.sleep(5)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    scene.told("cancelled")


async def test_closed_by_another_task_both_are_abandoned_and_the_reader_is_told():
    scene = Scene(Feed("b", 50.0, STOP))
    reply = await scene.open()
    reader = asyncio.create_task(reply.full())
    await asyncio.sleep(5)
    await reply.aclose()
    with pytest.raises(ReplyClosed) as caught:
        await reader
    assert caught.value.partial.text == "ab"
    assert reader.cancelling() == 0
    scene.told("abandoned")


async def test_out_of_time_both_are_told_so():
    scene = Scene(Feed("b", 50.0, STOP))
    reply = (await scene.open()).limit(deadline=asyncio.get_running_loop().time() + 9)
    with pytest.raises(DeadlineExceeded) as caught:
        await reply.full()
    assert asyncio.get_running_loop().time() == 9
    assert [outcome.error for _, outcome in scene.ends] == [caught.value] * 2
    scene.told("error")


async def test_a_limit_that_was_set_on_the_reply_behind_holds():
    @layer(priority=700, name="limiting")
    async def limiting(call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).limit(idle=3.0)

    scene = Scene(Feed("b", 50.0, STOP), limiting)
    with pytest.raises(IdleTimeout):
        await (await scene.open()).full()
    assert asyncio.get_running_loop().time() == 3
    scene.told("error")


@pytest.mark.parametrize("usage", [(USED,), (100.0,)], ids=["told", "not told"])
async def test_a_consumer_that_stops_at_the_finish_leaves_two_successes(usage: tuple[Any, ...]):
    scene = Scene(Feed("b", STOP, *usage))
    async with await scene.open() as reply:
        async for event in reply:
            if type(event) is Finish:
                break
    scene.told("ok")
    assert asyncio.get_running_loop().time() == (0 if usage == (USED,) else 1)
    for _, outcome in scene.ends:
        assert outcome.usage.source == ("provider" if usage == (USED,) else "estimated")


async def test_what_is_amended_within_stays_amended():
    @layer(priority=700, name="warning")
    async def warning(call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).amend(lambda done: evolve(done, warnings=("mind the gap",)))

    scene = Scene(Feed("b", STOP), warning, upper)
    done = await (await scene.open()).full()
    assert isinstance(done, Completion)
    assert (done.text, done.warnings) == ("AB", ("mind the gap",))


async def test_a_dropped_reply_closes_the_one_behind_it():
    scene = Scene(Feed("b", 5.0, STOP))
    reply = await scene.open()
    with pytest.warns(ResourceWarning, match="never closed"):
        del reply
        gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)
    scene.told("abandoned")
    assert scene.feed.closed == 1


async def test_a_middleware_further_out_that_fails_closes_both():
    @layer(priority=100, name="failing")
    async def failing(call: Call, call_next: Handler) -> Reply:
        await call_next(call)
        raise Boom

    scene = Scene(Feed("b", 5.0, STOP), failing)
    with pytest.raises(Boom):
        await scene.open()
    scene.told("abandoned")
    assert scene.feed.closed == 1


async def test_who_stands_outside_is_told_when_it_was_handed_on():
    @layer(priority=500, name="late")
    async def late(call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        first = await batch(reply)
        await asyncio.sleep(4)
        return relayed(Relay(reply), first)

    ends = Ends()
    c = chain(
        streaming(Feed(STOP), (TextDelta("a"),)), ends.yielder("outer", 400), late, ends.yielder("inner", 600)
    )
    call = c.new_call(Request(messages="x", stream=True))
    assert await texts(await c(call)) == "a"
    inner, outer = (outcome for _, outcome in ends)
    assert (inner.committed_at, outer.committed_at) == (0, 4)
    assert call.ledger.attempts[0].committed_at == 0


async def test_a_full_reply_is_read_in_one_batch():
    done = Completion("c", message=Message("assistant", "hello"), finish_reason="stop", usage=Usage(3, 2))
    reply = Reply.of(done)
    events = await batch(reply)
    assert [type(event).__name__ for event in events] == ["Start", "TextDelta", "Finish", "UsageUpdate"]
    assert await batch(reply) == ()
    assert reply.over


async def test_a_broken_reply_stays_broken_to_a_relay():
    c = chain(MockProvider([["a", StreamBroken("cut")]]))
    reply = await c(c.new_call(Request(messages="x", stream=True)))
    for _ in range(2):
        with pytest.raises(StreamBroken):
            while await batch(reply):
                pass


@pytest.mark.parametrize("relays", [False, True])
async def test_closed_by_two_tasks_after_its_content_it_tells_the_usage_to_both(relays: bool):
    ends, runtime = Ends(), Remembering()
    layers = (relaying,) if relays else ()
    feed = Feed("b", STOP, 0.5, (USED,))
    core = chain(streaming(feed, (TextDelta("a"),)), ends.yielder(waits=0.1), *layers, runtime=runtime)
    reply = await core(core.new_call(Request(messages="x", stream=True)))
    async for event in reply:
        if type(event) is Finish:
            break
    told: list[list[str]] = []

    async def close() -> None:
        await reply.aclose()
        told.append([*ends.statuses])

    await asyncio.gather(close(), close(), close())
    assert told == [["ok"]] * 3  # nobody returns before the clean-up is done
    assert ends[0][1].usage == USED.usage
    assert feed.steps == []
    assert runtime.reports == []


@pytest.mark.parametrize("relays", [False, True])
async def test_read_on_while_another_task_closes_it_after_its_content_it_ends_well(relays: bool):
    ends = Ends()
    layers = (relaying,) if relays else ()
    feed = Feed("b", STOP, 0.5, (USED,))
    core = chain(streaming(feed, (TextDelta("a"),)), ends.yielder(waits=0.1), *layers)
    reply = await core(core.new_call(Request(messages="x", stream=True)))
    async for event in reply:
        if type(event) is Finish:
            break
    closing = asyncio.create_task(reply.aclose())
    await asyncio.sleep(0.1)
    assert [event async for event in reply if not isinstance(event, UsageUpdate)] == []
    assert ends.statuses == ["ok"]  # the reader too waits for the clean-up
    assert ends[0][1].usage == USED.usage
    await closing


@pytest.mark.parametrize("relays", [False, True])
async def test_where_whoever_closes_it_is_dropped_another_can_close_it(relays: bool):
    ends = Ends()
    layers = (relaying,) if relays else ()
    feed = Feed("b", STOP, 0.5, (USED,))
    core = chain(streaming(feed, (TextDelta("a"),)), ends.yielder(), *layers)
    reply = await core(core.new_call(Request(messages="x", stream=True)))
    async for event in reply:
        if type(event) is Finish:
            break
    dropped = reply.aclose()
    dropped.send(None)
    dropped.close()
    assert ends == []
    async with asyncio.timeout(5):
        await reply.aclose()
    assert ends.statuses == ["ok"]
