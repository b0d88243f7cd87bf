"""Tests of the middleware `SlowCalls`. Run them with pytest."""

from examples.tutorial.slow_calls_settings import SlowCalls
from llmpipe import Chain, RateLimited, Retry, Timeout, Wait, provider
from llmpipe.testing import ScriptedProvider, conform
from llmpipe.testing.simulator import Fault, Rule, Simulator


# region script
async def test_a_slow_call_is_noted_with_its_seconds() -> None:
    model = ScriptedProvider([[Wait(3), "Fine."]])
    streaming = Chain(model, SlowCalls(seconds=2)).stream("How are you?")
    async with streaming as reply:
        await reply.full()
    assert [(note.kind, note.detail) for note in streaming.call.ledger.notes] == [
        ("slow_calls.found", {"seconds": 3})
    ]


async def test_a_reader_who_leaves_early_was_not_slow() -> None:
    model = ScriptedProvider([["Once upon ", Wait(600), "a time."]])
    streaming = Chain(model, SlowCalls(seconds=2)).stream("Tell me a story")
    async with streaming as reply:
        assert await anext(reply.texts()) == "Once upon "
    assert not streaming.call.ledger.notes
    assert model.open == 0


# endregion script


# region time
async def test_what_a_retry_waits_counts() -> None:
    model = ScriptedProvider([RateLimited("come back in a minute", retry_after=60), "Fine."])
    chain = Chain(model, SlowCalls(seconds=59), Retry())
    await chain.complete("How are you?", tenant="acme")
    assert chain.runtime.states("slow_calls")["slow_calls"]["acme"] == 1


# endregion time


# region conform
async def test_it_keeps_the_laws_of_the_pipeline() -> None:
    report = await conform(SlowCalls)
    assert report.cancellations > 100


# endregion conform


# region simulator
async def test_it_works_round_a_real_connection() -> None:
    async with Simulator([Rule(Fault(silent=True), last=1)]) as simulator:
        core = provider("openai", api_key="sk-test", base_url=f"{simulator.url}/v1", model="gpt-4o-mini")
        async with Chain(core, SlowCalls(seconds=20), Retry(), Timeout(first=20)) as chain:
            done = await chain.complete("Is anybody there?")
            assert done.text
            assert chain.runtime.states("slow_calls")["slow_calls"][""] == 1
    assert simulator.book.ends == {"aborted": 1, "ok": 1}


# endregion simulator
