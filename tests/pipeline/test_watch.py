"""The timers of a stream: idle, stall and deadline, judged only while the consumer waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import DeadlineExceeded, IdleTimeout, LLMError
from llmpipe.pipeline.reply import Reply
from llmpipe.testing.loop import run
from llmpipe.types import Ping, TextDelta
from tests.pipeline.kit import STOP, Feed, texts


def a_stream(*steps: Any, **limits: float | None) -> Reply:
    return Reply.stream(Feed(*steps)).limit(**limits)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_silence_longer_than_idle_ends_the_stream_when_it_is_due():
    with pytest.raises(IdleTimeout, match="silent for 5 s"):
        await texts(a_stream("a", 3.0, "b", 100.0, "c", STOP, idle=5))
    assert now() == 8.0


async def test_pings_are_a_sign_of_life_for_idle_and_not_for_stall():
    pings = [3.0, Ping()] * 5
    assert await texts(a_stream("a", *pings, "b", STOP, idle=5)) == "ab"
    assert now() == 15.0
    with pytest.raises(IdleTimeout, match="no content for 10 s"):
        await texts(a_stream("a", *pings, "b", STOP, idle=5, stall=10))
    assert now() == 25.0


async def test_content_resets_the_stall():
    steps = [9.0, "a", 9.0, "b", 9.0, "c", STOP]
    assert await texts(a_stream(*steps, stall=10)) == "abc"


async def test_a_slow_consumer_is_not_blamed_on_the_provider():
    reply = a_stream("a", 3.0, "b", 3.0, Ping(), 3.0, "c", STOP, idle=4, stall=7)
    text = ""
    async for event in reply:
        text += event.text if type(event) is TextDelta else ""
        await asyncio.sleep(1000)
    assert text == "abc"


async def test_the_consumers_time_does_not_count_towards_a_stall():
    reply = a_stream("a", 3.0, Ping(), 3.0, Ping(), 3.0, "b", STOP, stall=8)
    with pytest.raises(IdleTimeout):
        async for _ in reply:
            await asyncio.sleep(100)
    # three events read, each followed by 100 s; then the third wait, cut after 2 of its 3 s
    assert now() == 3 * 100 + 3 + 3 + 2


async def test_the_deadline_ends_the_stream_even_when_content_flows():
    with pytest.raises(DeadlineExceeded):
        await texts(a_stream(*["a", 1.0] * 20, STOP, deadline=5.5, idle=3))
    assert now() == 5.5


async def test_a_deadline_that_passed_while_the_consumer_was_busy_ends_the_next_wait():
    reply = a_stream("a", 1.0, "b", STOP, deadline=5.0)
    await anext(reply)
    await asyncio.sleep(10)
    with pytest.raises(DeadlineExceeded):
        await anext(reply)
    assert now() == 10.0


async def test_the_tighter_limit_wins():
    reply = a_stream("a", 100.0, STOP, idle=50).limit(idle=5).limit(idle=20).limit(idle=None)
    with pytest.raises(IdleTimeout, match="5 s"):
        await texts(reply)
    assert now() == 5.0


async def test_a_limit_set_while_the_stream_is_read_holds_at_once():
    reply = a_stream("a", 100.0, STOP, idle=50)
    reader = asyncio.create_task(texts(reply))
    await asyncio.sleep(10)
    reply.limit(idle=20)
    with pytest.raises(IdleTimeout, match="20 s"):
        await reader
    assert now() == 20.0
    loop: Any = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


async def test_a_stream_that_was_just_in_time_once_is_still_watched():
    reply = a_stream("a", 5.0, "b", 100.0, "c", STOP, idle=5)
    with pytest.raises(IdleTimeout):
        await texts(reply)
    assert now() == 10.0
    reply = a_stream("a", 5.0, "b", 100.0, "c", STOP, idle=5)
    with pytest.raises(IdleTimeout):
        async for _ in reply:
            await asyncio.sleep(1)  # so the timer is judged while nobody reads
    assert now() == 10.0 + 1 + 5 + 1 + 5


async def test_the_first_limit_set_while_a_stream_is_read_holds_for_that_read_too():
    reply = Reply.stream(Feed("a", 5.0, "b", 100.0, "c", STOP))
    reader = asyncio.create_task(reply.full())
    await asyncio.sleep(6)
    reply.limit(idle=10)
    with pytest.raises(IdleTimeout):
        await reader
    assert now() == 16.0


@pytest.mark.parametrize("armed_first", ["timer", "answer"])
async def test_bytes_that_arrive_in_the_same_turn_as_the_timer_win(armed_first: str):
    class Gated:
        """A source whose answer is a timer set before, or after, the watch sets its own."""

        def __init__(self) -> None:
            self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.steps = [(TextDelta("a"),), (STOP,), ()]
            if armed_first == "answer":
                self.arm()

        def arm(self) -> None:
            asyncio.get_running_loop().call_at(5.0, self.answer.set_result, None)

        async def read(self):
            if not self.answer.done():
                if armed_first == "timer":
                    self.arm()
                await self.answer
            return self.steps.pop(0)

        async def aclose(self) -> None:
            raise AssertionError("not closed: it was read to its end")

    assert await texts(Reply.stream(Gated()).limit(idle=5)) == "a"
    assert now() == 5.0


async def test_nothing_is_left_in_the_loop_when_the_stream_is_over():
    loop: Any = asyncio.get_running_loop()
    assert await texts(a_stream("a", 1.0, "b", STOP, idle=50, stall=60, deadline=70)) == "ab"
    reply = a_stream("a", 1.0, "b", STOP, idle=50, stall=60, deadline=70)
    await anext(reply)
    await reply.aclose()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


class Model:
    """What the limits mean, read off the whole script at once."""

    def __init__(self, idle: float, stall: float, deadline: float) -> None:
        self.idle, self.stall, self.deadline = idle, stall, deadline

    def judge(self, steps: list[tuple[float, bool, float]]) -> tuple[str, float]:
        """`steps`: seconds until an event, whether it is content, seconds the consumer then takes."""
        clock = progress = 0.0
        for wait, content, busy in steps:
            limit = min(clock + self.idle, clock + self.stall - progress, max(self.deadline, clock))
            if clock + wait > limit:
                return ("deadline" if limit >= self.deadline else "idle"), limit
            clock += wait
            progress = 0.0 if content else progress + wait
            clock += busy
        return "done", clock


# Sums of quarters are exact, and no two instants coincide where the order would matter: waits are
# even multiples of a quarter, limits odd.
_WAIT = st.integers(0, 8).map(lambda n: n / 2)
_LIMIT = st.integers(0, 12).map(lambda n: n / 2 + 0.25)


@given(
    steps=st.lists(st.tuples(_WAIT, st.booleans(), _WAIT), max_size=8),
    idle=_LIMIT,
    stall=_LIMIT,
    deadline=st.integers(0, 40).map(lambda n: n + 0.125),
)
def test_the_watch_agrees_with_its_model(
    steps: list[tuple[float, bool, float]], idle: float, stall: float, deadline: float
):
    script: list[Any] = []
    for wait, content, _ in steps:
        script += [wait, "x" if content else Ping()]

    async def main() -> tuple[str, float]:
        reply = Reply.stream(Feed(*script, STOP)).limit(idle=idle, stall=stall, deadline=deadline)
        pauses = [busy for _, _, busy in steps]
        try:
            async for _ in reply:
                if pauses:
                    await asyncio.sleep(pauses.pop(0))
        except LLMError as error:
            return ("deadline" if isinstance(error, DeadlineExceeded) else "idle"), now()
        return "done", now()

    verdict, when = run(main())
    expected, due = Model(idle, stall, deadline).judge(steps)
    assert (verdict, when) == (expected, due)
