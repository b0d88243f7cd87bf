"""The pump: batches, places, and what happens when a read is interrupted in the same turn as it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import IdleTimeout, ReplyClosed, StreamBroken
from llmpipe.pipeline.pump import Iterated, Pump, through
from llmpipe.testing.loop import run
from llmpipe.types import Completion, Cost, Finish, Message, Start, TextDelta, Usage, fold
from tests.pipeline.kit import STOP, Boom, Feed


class Both:
    """A stage that doubles text and tells at the end how many events it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def feed(self, event):
        self.seen += 1
        return [event, event] if type(event) is TextDelta else [event]

    def flush(self):
        return [TextDelta(f"({self.seen})")]


async def everything(pump: Pump) -> list[Any]:
    events: list[Any] = []
    while await pump.advance():
        events.extend(pump.ready)
        pump.ready.clear()
    events.extend(pump.ready)
    return events


async def test_a_batch_is_one_pass_and_events_keep_their_order():
    pump = Pump(Feed((TextDelta("b"), TextDelta("c")), STOP), (Start("s"), TextDelta("a")))
    assert await pump.advance()
    assert [*pump.ready] == [Start("s"), TextDelta("a")]
    assert await pump.advance()
    assert [*pump.ready] == [Start("s"), TextDelta("a"), TextDelta("b"), TextDelta("c")]
    assert not pump.exhausted
    await everything(pump)
    assert pump.exhausted


class Looks:
    """A stage that changes nothing, and is shown what came together; it may have seen enough."""

    def __init__(self, most: int = 100) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.most = most

    def see(self, events):
        self.seen.append(tuple(events))
        if sum(map(len, self.seen)) > self.most:
            raise Boom("enough")

    def feed(self, event):
        raise AssertionError("not in a stream")

    def flush(self):
        return ()


async def test_a_stage_that_only_looks_is_shown_batches_and_what_passed_it_is_folded_once(monkeypatch):
    folds = []
    monkeypatch.setattr("llmpipe.pipeline.pump.fold", lambda events: folds.append(1) or fold(events))
    looks = Looks()
    pump = Pump(Feed((TextDelta("b"), TextDelta("c")), STOP), (Start("s"), TextDelta("a")))
    below = pump.mark()
    pump.add(looks)
    above = pump.mark()
    pump.add(Both())
    doubled = pump.mark()
    await everything(pump)
    assert [*map(len, looks.seen)] == [2, 2, 1]
    assert pump.completion(below) is pump.completion(above)
    assert pump.completion(above).text == "abc"
    assert pump.completion(doubled).text == "aabbcc(5)"
    assert len(folds) == 2


async def test_what_a_stage_that_looks_has_refused_passed_below_it_and_not_above():
    pump = Pump(Feed((TextDelta("b"), TextDelta("c")), STOP), (Start("s"), TextDelta("a")))
    below = pump.mark()
    pump.add(Looks(most=3))
    above = pump.mark()
    with pytest.raises(Boom):
        await everything(pump)
    assert pump.completion(below).text == "abc"
    assert pump.completion(above).text == "a"


async def test_what_a_stage_that_looks_gets_from_the_flush_of_one_below_is_shown_too():
    looks = Looks()
    pump = Pump(Feed(STOP), (TextDelta("a"),))
    pump.add(Both())
    pump.add(looks)
    await everything(pump)
    assert looks.seen[-1] == (TextDelta("(2)"),)


async def test_what_a_stage_flushes_goes_through_the_stages_above_it():
    pump = Pump(Feed("b", STOP), (TextDelta("a"),))
    pump.add(Both())
    pump.add(Both())
    events = await everything(pump)
    # below: a a b b Finish, then "(3)"; above: each of its six events doubled but Finish, then "(6)"
    text = "".join(event.text for event in events if type(event) is TextDelta)
    assert text == "aaaabbbb(3)(3)(6)"


async def test_each_place_knows_what_passed_it():
    pump = Pump(Feed(STOP), (TextDelta("a"),))
    below = pump.mark()
    assert pump.mark() is below
    pump.add(Both())
    between = pump.mark()
    pump.amends.append(lambda done: Completion(message=Message("assistant", done.text + "!")))
    above = pump.mark()
    await everything(pump)
    assert [pump.completion(place).text for place in (below, between, above)] == ["a", "aa(2)", "aa(2)!"]


async def test_what_came_first_is_counted_at_the_bottom_before_it_is_read():
    pump = Pump(Feed(STOP), (TextDelta("a"),))
    pump.add(Both())
    assert pump.completion((0, 0)).text == "a"
    assert not pump.delivered()


async def test_what_passed_is_folded_once_for_all_who_ask_and_again_when_more_has_passed():
    pump = Pump(Feed(TextDelta("b"), STOP), (TextDelta("a"),))
    place = pump.mark()
    early = pump.completion(place)
    assert early.text == "a"
    assert pump.completion(place) is early
    await everything(pump)
    whole = pump.completion(place)
    assert whole.text == "ab"
    assert pump.completion(place) is whole


async def test_a_stream_without_a_finish_is_broken_and_its_source_exhausted():
    pump = Pump(Feed("b"), (TextDelta("a"),))
    with pytest.raises(StreamBroken, match="without a finish"):
        await everything(pump)
    assert pump.exhausted


@pytest.mark.parametrize("late", [False, True])
async def test_an_interruption_ends_the_read_with_its_error_and_leaves_the_task_as_it_was(late: bool):
    pump = Pump(Feed(10.0, "b", STOP), (TextDelta("a"),))
    await pump.advance()
    error = IdleTimeout("too slow")
    loop = asyncio.get_running_loop()
    if late:  # in the very turn in which the read would have ended, after the timer that ends it
        reader = asyncio.create_task(pump.advance())
        await asyncio.sleep(0)
        loop.call_at(10.0, pump.interrupt, error)
    else:
        reader = asyncio.create_task(pump.advance())
        loop.call_at(5.0, pump.interrupt, error)
    with pytest.raises(IdleTimeout) as caught:
        await reader
    assert caught.value is error
    assert reader.cancelling() == 0


async def test_an_interruption_and_a_cancellation_together_are_a_cancellation():
    for first in ("interrupt", "cancel"):
        pump = Pump(Feed(10.0, "b", STOP), ())
        await pump.advance()
        reader = asyncio.create_task(pump.advance())
        await asyncio.sleep(1)
        if first == "cancel":
            reader.cancel()
        pump.interrupt(ReplyClosed("closed"))
        if first == "interrupt":
            reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert reader.cancelled()


async def test_an_interruption_while_nobody_reads_does_nothing():
    pump = Pump(Feed("b", STOP), ())
    await pump.advance()
    pump.interrupt(ReplyClosed("closed"))
    assert await pump.advance()
    assert [*pump.ready] == [TextDelta("b")]


async def test_the_cancellation_of_a_task_that_is_being_cancelled_already_is_not_eaten():
    """The reader was cancelled before, caught it, and reads on: the count it came with must stay."""

    async def read() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            pump = Pump(Feed(10.0, "b", STOP), ())
            await pump.advance()
            asyncio.get_running_loop().call_later(1, pump.interrupt, ReplyClosed("closed"))
            with pytest.raises(ReplyClosed):
                await pump.advance()
            assert task.cancelling() == 1
            raise

    reader = asyncio.create_task(read())
    await asyncio.sleep(1)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_draining_gives_up_after_a_second_and_gives_nothing_to_the_consumer():
    pump = Pump(Feed(STOP, 0.5, Start(), 100.0), (TextDelta("a"),))
    await pump.advance()
    await pump.advance()
    pump.ready.clear()
    assert pump.delivered()
    await pump.drain()
    assert asyncio.get_running_loop().time() == 1.0
    assert not pump.exhausted
    assert not pump.ready


async def test_an_iterator_without_aclose_is_a_source():
    class Bare:
        def __init__(self) -> None:
            self.events: list[Any] = [TextDelta("a"), STOP]

        def __aiter__(self):
            return self

        async def __anext__(self):
            if not self.events:
                raise StopAsyncIteration
            return self.events.pop(0)

    source = Iterated(Bare())
    assert await source.read() == (TextDelta("a"),)
    assert await source.read() == (STOP,)
    assert await source.read() == ()
    await source.aclose()


def test_a_whole_completion_goes_through_a_stage_as_its_events_do():
    done = Completion(
        id="i",
        message=Message("assistant", "ab"),
        finish_reason="stop",
        usage=Usage(1, 2),
        charge=Cost(3, 4),
        warnings=("w",),
    )
    through_stage = through(Both(), done)
    assert through_stage.text == "abab(4)"
    assert (through_stage.id, through_stage.usage) == ("i", Usage(1, 2))
    assert (through_stage.charge, through_stage.warnings) == (Cost(3, 4), ("w",))


@given(
    batches=st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=4), max_size=6),
    first=st.lists(st.text(max_size=3), max_size=3),
    stages=st.integers(0, 3),
)
def test_however_events_are_batched_what_comes_out_is_the_same(
    batches: list[list[str]], first: list[str], stages: int
):
    class Swap:
        def feed(self, event):
            return [TextDelta(event.text[::-1])] if type(event) is TextDelta else [event]

        def flush(self):
            return []

    pieces = [*first, *(text for batch in batches for text in batch)]
    expected = "".join(text[::-1] if stages % 2 else text for text in pieces)

    async def main() -> None:
        feed = Feed(*[tuple(map(TextDelta, batch)) for batch in batches], STOP)
        pump = Pump(feed, tuple(map(TextDelta, first)))
        for _ in range(stages):
            pump.add(Swap())
        events = await everything(pump)
        assert fold(events).text == expected
        assert pump.completion(pump.mark()).text == expected
        assert [type(event) for event in events].count(Finish) == 1

    run(main())
