"""What Cost, Metrics, Log, Trace and Hooks have in common: they are told when a reply is over."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from llmpipe.errors import Overloaded, StreamBroken
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.hooks import Hooks
from llmpipe.middleware.log import Log
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.trace import Trace
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import settles_at_once
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import Completion, Message, fold

OBSERVERS = (Cost, Metrics, Log, Trace, Hooks)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_it_is_told_on_the_spot(kind: Any):
    """With an await after its yield, or two yields, each call would take a task more: 15 µs."""
    told = inspect.iscoroutinefunction(kind.__call__)  # by `Reply.when_over`, which awaits nothing
    assert told or settles_at_once(kind.__call__.__code__)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_undisturbed_call_writes_no_notes(stream: bool):
    chain = Chain(MockProvider(["ok"], model="gpt-4o-mini"), *(kind() for kind in OBSERVERS))
    streaming = chain.stream("hi")
    if stream:
        async with streaming as reply:
            await reply.full()
        assert streaming.call.ledger.notes == []
    else:
        call = chain.new_call(streaming.call.request)
        await (await chain(call)).full()
        assert call.ledger.notes == []


async def test_nothing_stays_behind_of_calls_that_are_over():
    runtime = Runtime()
    script: list[Any] = [
        "ok",
        Overloaded("busy"),
        ["a", StreamBroken("cut")],
        ["a", Wait(9), "b"],
        [Wait(9), "late"],
    ]
    chain = Chain(MockProvider(script), *(kind() for kind in OBSERVERS), runtime=runtime)
    await chain.complete("hi")
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    with pytest.raises(StreamBroken):
        async with chain.stream("hi") as reply:
            await reply.full()
    async with chain.stream("hi") as reply:
        await reply.__anext__()
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runtime.states("metrics")["metrics"].active == set()
    assert runtime.states("trace") == {"trace": set()}


async def test_a_long_stream_is_folded_once_for_all_of_them(monkeypatch: pytest.MonkeyPatch):
    """Folding takes 0.5 µs for each chunk, so an observer asks for what is folded already."""
    folds = 0

    def counted(events: Any) -> Completion:
        nonlocal folds
        folds += 1
        return fold(events)

    monkeypatch.setattr("llmpipe.pipeline.pump.fold", counted)
    chain = Chain(MockProvider([["x"] * 50], model="gpt-4o-mini"), *(kind() for kind in OBSERVERS))
    async with chain.stream([Message("user", "hi")]) as reply:
        async for _ in reply:
            pass
    assert folds == 1
