"""Every commit policy, and going on, against everything that can go wrong with a reply: virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import (
    BadReply,
    IdleTimeout,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.router import Router
from llmpipe.runtime import Runtime
from llmpipe.types import (
    Event,
    Finish,
    Ping,
    RefusalDelta,
    Request,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
)

WHOLE = "The rain falls on the hills."


class Able(MockProvider):
    """Goes on from the beginning of an answer, exactly."""

    capabilities = Capabilities(prefill=True)


def rest(request: Any) -> Any:
    last = request.messages[-1]
    said = last.text if last.role == "assistant" else ""
    assert WHOLE.startswith(said)
    return WHOLE[len(said) :]


PINGS = [step for _ in range(400) for step in (Wait(1.0), Ping())]
CALL = ToolDelta(0, "c1", "f", '{"a": ')
FAULTS: dict[str, Callable[[], Any]] = {
    "dies": lambda: ["The rain ", StreamBroken("cut")],
    "dies at once": lambda: [StreamBroken("cut")],
    "stalls": lambda: ["The rain ", Wait(10_000), "falls on the hills."],
    "is silent": lambda: [Wait(10_000), WHOLE],
    "bad line": lambda: ["The rain ", BadReply("no JSON")],
    "twenty seconds": lambda: [Wait(20), WHOLE],
    "error event": lambda: ["The rain ", Overloaded("x", phase="stream")],
    "usage after the finish": lambda: [WHOLE, Finish("stop"), Wait(1), UsageUpdate(Usage(3, 9))],
    "pings for ever": lambda: ["The rain ", *PINGS],
    "pings and no token": lambda: PINGS,
    "a tool call in the middle": lambda: ["The rain ", CALL, StreamBroken("cut")],
    "nothing at all": lambda: [Finish("stop")],
    "refusal": lambda: [RefusalDelta("I would rather not."), Finish("refusal")],
    "half a refusal": lambda: [RefusalDelta("I would "), StreamBroken("cut")],
    "finish and then it dies": lambda: [WHOLE, Finish("stop"), StreamBroken("cut")],
    "slowed down in the middle": lambda: ["The rain ", RateLimited("too many tokens", phase="stream")],
}  # fmt: skip
RIGHT = {"twenty seconds", "usage after the finish", "nothing at all", "refusal", "finish and then it dies"}
"""Faults that are none: what they give is what the model said."""
NO_REST = {"a tool call in the middle", "half a refusal"}
"""Those that nobody can go on with."""
POLICIES: dict[str, tuple[Any, ...]] = {
    "none": (),
    "first_token": (Commit(),),
    "events": (Commit(events=2),),
    "seconds": (Commit(seconds=2.0),),
    "chars": (Commit(chars=12),),
    "bytes": (Commit(policy="whole", max_bytes=150),),
    "whole": (Commit(policy="whole"),),
    "continue": (Continue(),),
    "continue and events": (Continue(), Commit(events=2)),
    "continue and whole": (Continue(), Commit(policy="whole")),
}


def says(events: list[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, TextDelta | RefusalDelta)])


@pytest.mark.parametrize("shape", ["fallback", "router"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", FAULTS)
async def test_it_is_the_whole_answer_or_one_typed_error_with_what_was_given(
    fault: str, policy: str, stream: bool, shape: str
):
    ill = Able(default=FAULTS[fault](), name="openai", model="gpt-4o-mini")
    well = Able(default=rest, name="anthropic", model="claude-haiku-4-5")
    made = presets.production(
        cache=None, retry=None, timeout=Timeout(first=60, idle=30, stall=90, total=1000)
    )
    if shape == "fallback":
        going_on = {"continue": Continue(well)} if "continue" in policy else {}
        layers = [
            going_on.get("continue", one) if isinstance(one, Continue) else one for one in POLICIES[policy]
        ]
        chain = Chain(ill, *made, *layers, Fallback(well))
    else:
        core = Router(ill, well, checks=None, strategy=lambda lanes, call: lanes[0])
        layers = [Continue(well) if isinstance(one, Continue) else one for one in POLICIES[policy]]
        chain = Chain(core, *made, *layers, Retry(base=0.01), runtime=Runtime(seed=1))
    call = chain.new_call(Request(messages="hi", stream=stream))
    events: list[Event] = []
    error: Any = None
    done: Any = None
    try:
        async with await chain(call) as reply:
            async for event in reply:
                events.append(event)
            done = reply.completion
    except LLMError as broken:
        error = broken
    assert ill.open == well.open == 0
    assert all(attempt.status != "open" and attempt.charge is not None for attempt in call.ledger.attempts)
    finishes = sum(isinstance(event, Finish) for event in events)
    if error is not None:
        assert finishes == 0 or fault == "finish and then it dies"
        given = error.partial.text + (error.partial.message.refusal or "") if error.partial else ""
        assert given == says(events)
        assert WHOLE.startswith(error.partial.text if error.partial else "")
        assert stream or fault in RIGHT
    else:
        assert finishes == 1
        assert done.text + (done.message.refusal or "") == says(events)
        assert done.finish_reason in ("stop", "refusal")
        if fault in ("nothing at all", "refusal"):
            assert says(events) in ("", "I would rather not.")
        else:
            assert says(events) == WHOLE
    if policy == "whole" or (policy.startswith("continue") and fault not in NO_REST):
        assert error is None or fault == "finish and then it dies"
    if fault in RIGHT and fault != "finish and then it dies":
        assert error is None


# -- going on, and those who keep or share replies


async def test_a_continued_reply_is_stored_whole_and_says_what_it_is():
    ill, well = Able([["The rain ", StreamBroken("cut")]], name="ill"), Able(default=rest, name="well")
    it = Chain(ill, Continue(well), Cache())
    async with it.stream("hi") as reply:
        first: Any = await reply.full()
    again = await it.complete("hi")
    assert first.text == again.text == WHOLE
    assert again.extra["continued"][0]["to"].startswith("well")
    assert again.warnings == first.warnings


async def test_a_reply_that_could_not_go_on_is_not_stored():
    ill = Able([["The rain ", StreamBroken("cut")], "fine"], name="ill")
    well = Able(default=Overloaded("x"), name="well")
    it = Chain(ill, Continue(well), Cache())
    with pytest.raises(StreamBroken):
        async with it.stream("hi") as reply:
            await reply.full()
    assert (await it.complete("hi")).text == "fine"


async def test_callers_who_share_a_continued_reply_all_get_it_whole():
    ill = Able([["The ", Wait(1), "rain ", Wait(1), StreamBroken("cut")]], name="ill")
    well = Able(default=rest, name="well")
    it = Chain(ill, Continue(well), Coalesce())
    request = Request(messages="hi", temperature=0, stream=True)

    async def one(wait: float) -> str:
        await asyncio.sleep(wait)
        async with it.stream(request) as reply:
            done: Any = await reply.full()
        return str(done.text)

    assert await asyncio.gather(*[one(0.3 * number) for number in range(6)]) == [WHOLE] * 6
    assert len(ill.requests) == 1


async def test_a_target_that_refuses_to_go_on_is_told_in_the_error_and_the_next_is_asked():
    refuses = Able(default=InvalidRequest("prefill is not supported", status=400), name="refuses")
    for others, said in (((), "The rain "), ((Able(default=rest, name="well"),), WHOLE)):
        ill = Able([["The rain ", StreamBroken("cut")]], name="ill")
        it = Chain(ill, Continue(refuses, *others), *presets.production(cache=None))
        call = it.new_call(Request(messages="hi", stream=True))
        async with await it(call) as reply:
            if others:
                done: Any = await reply.full()
            else:
                with pytest.raises(StreamBroken) as caught:
                    await reply.full()
                done = caught.value.partial
                assert caught.value.metadata["continue"][0]["type"] == InvalidRequest("x").type
        assert done.text == said
        assert [attempt.provider for attempt in call.ledger.attempts][:2] == ["ill", "refuses"]


async def test_in_a_router_only_those_that_can_go_on_are_asked_to():
    ill = MockProvider(default=["The rain ", StreamBroken("cut")], name="ill")
    cannot = MockProvider(default="Anew: the rain.", name="cannot")
    can = Able(default=rest, name="can")
    core = Router(ill, cannot, can, checks=None, strategy=lambda lanes, call: lanes[0], layers=())
    it = Chain(core, Continue(attempts=3))
    for _ in range(3):
        async with it.stream("hi") as reply:
            done: Any = await reply.full()
        assert done.text == WHOLE
    assert cannot.requests == []


@pytest.mark.parametrize("policy", ["continue", "continue and events", "whole", "events"])
async def test_cancelled_at_every_await_all_that_was_opened_is_closed(policy: str):
    """The task is cancelled at its k-th turn, for every k until it gets through."""
    for turns in range(1, 400):
        ill = Able(
            default=["The ", Wait(0), "rain ", Wait(0), StreamBroken("cut")],
            name="openai",
            model="gpt-4o-mini",
        )
        well = Able(
            default=lambda r: [Wait(0), rest(r)[:4], Wait(0), rest(r)[4:]],
            name="anthropic",
            model="claude-haiku-4-5",
        )
        layers = [Continue(well) if isinstance(one, Continue) else one for one in POLICIES[policy]]
        it = Chain(ill, *presets.production(cache=None, retry=Retry(base=0.001)), *layers, Fallback(well))
        call = it.new_call(Request(messages="hi", stream=True))

        async def read(it: Chain = it, call: Any = call) -> Any:
            async with await it(call) as reply:
                async for _ in reply:
                    pass
                return reply.completion

        task = asyncio.ensure_future(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        except StreamBroken:
            assert policy == "events"
        assert ill.open == well.open == 0
        assert all(attempt.status != "open" for attempt in call.ledger.attempts)
        assert all(attempt.charge is not None for attempt in call.ledger.attempts)
        if not task.cancelled():
            break
    assert not task.cancelled()
    assert turns > 3


@pytest.mark.parametrize("policy", ["continue", "whole", "events"])
async def test_closed_at_every_turn_of_a_switch_over_nothing_stays_open(policy: str):
    for turns in range(60):
        ill = Able(default=["The ", Wait(0), "rain ", Wait(0), StreamBroken("cut")], name="ill")
        well = Able(default=lambda r: [Wait(0), rest(r)[:4], Wait(0), rest(r)[4:]], name="well")
        layers = [Continue(well) if isinstance(one, Continue) else one for one in POLICIES[policy]]
        it = Chain(ill, *presets.production(cache=None), *layers, Fallback(well))
        call = it.new_call(Request(messages="hi", stream=True))
        reply = await it(call)
        reader = asyncio.ensure_future(reply.full())
        for _ in range(turns):
            await asyncio.sleep(0)
        await reply.aclose()
        await asyncio.wait([reader])
        assert reader.exception() is None or isinstance(reader.exception(), LLMError)
        assert ill.open == well.open == 0
        assert all(attempt.status != "open" for attempt in call.ledger.attempts)


async def test_every_attempt_of_a_continued_reply_is_in_the_ledger_and_priced():
    ill = Able([["The ", StreamBroken("cut")]], name="openai", model="gpt-4o-mini")
    mid = Able([["rain ", IdleTimeout("silent")]], name="anthropic", model="claude-haiku-4-5")
    well = Able(default=rest, name="groq", model="llama-3.3-70b-versatile")
    it = Chain(ill, Continue(mid, well, attempts=2), *presets.production(cache=None))
    call = it.new_call(Request(messages="hi", stream=True))
    async with await it(call) as reply:
        done: Any = await reply.full()
    assert done.text == WHOLE
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "error", "ok"]
    assert done.charge is not None
    assert done.charge.total_nano == sum(a.charge.total_nano for a in call.ledger.attempts if a.charge)
    told = [a.usage for a in call.ledger.attempts if a.usage]
    assert (done.usage.input_tokens, done.usage.output_tokens) == (
        sum(usage.input_tokens for usage in told), sum(usage.output_tokens for usage in told),
    )  # fmt: skip
