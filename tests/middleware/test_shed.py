"""Under too much load the least important calls are refused first, and let in last."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, Overloaded
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.shed import Shed, ShedStatus
from llmpipe.middleware.shed.load import Load
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import VirtualTimeLoop
from llmpipe.types import Request
from tests.middleware.rate_limit.limits import Timed, outcome, started

LEVELS = ((-1, 0.8), (0, 1.0), (1, 1.25))


def signalled(**settings):
    """A chain whose load is what the test says, and where it says it."""
    told = {"load": 0.0}
    shed = Shed(lag=None, signals={"told": lambda runtime: told["load"]}, **settings)
    return Chain(Timed(), shed), told


def status(chain: Chain) -> ShedStatus:
    (shed,) = chain.middleware
    assert isinstance(shed, Shed)
    return shed.status(chain.runtime)


async def admitted(chain: Chain, told: dict[str, float], load: float) -> list[int]:
    """Which of the priorities are let in at this load."""
    told["load"] = load
    await asyncio.sleep(0.2)
    asked = {priority: await outcome(chain, priority=priority) for priority in (-5, -1, 0, 1, 9)}
    return [priority for priority, got in asked.items() if not isinstance(got, Overloaded)]


async def test_the_least_important_go_first_and_come_back_last():
    chain, told = signalled(calm=0.9)
    everybody = [-5, -1, 0, 1, 9]
    assert await admitted(chain, told, 0.79) == everybody
    assert await admitted(chain, told, 0.8) == [0, 1, 9]
    assert await admitted(chain, told, 1.0) == [1, 9]
    assert await admitted(chain, told, 1.25) == []
    assert await admitted(chain, told, 1.13) == []  # not before it is calm
    assert await admitted(chain, told, 1.12) == [1, 9]
    assert await admitted(chain, told, 0.91) == [1, 9]
    assert await admitted(chain, told, 0.89) == [0, 1, 9]
    assert await admitted(chain, told, 0.73) == [0, 1, 9]
    assert await admitted(chain, told, 0.71) == everybody


@given(st.lists(st.floats(0, 2), max_size=50), st.floats(0.1, 1.0))
def test_whatever_the_load_does_importance_decides_and_the_thresholds_are_kept(loads, calm):
    load = Load()
    load.adopt(LEVELS)
    for level in loads:
        load.level = level
        refused = [priority for priority in (-2, -1, 0, 1, 2) if load.refuses(priority, calm)]
        assert refused == [-2, -1, 0, 1, 2][: len(refused)]  # nobody before one who matters less
        for priority, threshold in LEVELS:
            if level >= threshold:
                assert priority in refused
            if level < threshold * calm:
                assert priority not in refused


async def test_a_refusal_says_what_and_when_and_nothing_about_the_provider():
    chain, told = signalled(retry_after=2.0)
    told["load"] = 1.5
    refused = await outcome(chain)
    assert isinstance(refused, Overloaded)
    assert (refused.status, refused.code, refused.phase) == (503, "shed", "admit")
    assert (refused.sent, refused.billed, refused.health, refused.rescue) == (False, "no", "ignore", "none")
    assert refused.throttled is False
    assert refused.retryable is False
    assert refused.retry_after is not None
    assert 2.0 <= refused.retry_after <= 4.0
    assert refused.metadata == {"signal": "told", "load": 1.5}
    assert chain.provider.came == []


async def test_a_refused_call_has_one_note_and_an_admitted_one_none():
    chain, told = signalled()
    call = chain.new_call(Request("", "hi"))
    await (await chain(call)).full()
    assert call.ledger.notes == []
    told["load"] = 1.5
    await asyncio.sleep(0.2)
    call = chain.new_call(Request("", "hi"))
    with pytest.raises(Overloaded) as refused:
        await chain(call)
    (note,) = call.ledger.notes
    assert note.kind == "shed.refused"
    assert note.detail == {"signal": "told", "load": 1.5, "retry_after": refused.value.retry_after}


async def test_refused_callers_are_told_to_come_back_at_different_times():
    chain, told = signalled()
    told["load"] = 1.5
    again = {(await outcome(chain)).retry_after for _ in range(50)}
    assert len(again) == 50


async def test_as_many_are_in_flight_as_their_priority_may():
    provider = Timed(10.0)
    chain = Chain(provider, Shed(in_flight=4, lag=None))
    calls = await started(*(outcome(chain) for _ in range(6)))
    assert provider.here == 4
    low = await started(*(outcome(chain, priority=-1) for _ in range(2)))
    urgent = await started(*(outcome(chain, priority=1) for _ in range(3)))
    assert provider.here == 5  # one more is urgent, then it is too much for those too
    results = await asyncio.gather(*calls, *low, *urgent)
    assert [isinstance(result, Overloaded) for result in results] == (
        [False] * 4 + [True] * 2 + [True] * 2 + [False] + [True] * 2
    )
    assert status(chain).in_flight == 0


async def test_a_stream_is_in_flight_until_it_is_over():
    chain = Chain(MockProvider(default=["a", Wait(5), "b"]), Shed(in_flight=1, lag=None))
    async with chain.stream("hi") as reply:
        await anext(reply)
        assert isinstance(await outcome(chain), Overloaded)
        assert status(chain).in_flight == 1
    assert status(chain).in_flight == 0
    assert not isinstance(await outcome(chain), Exception)


@pytest.mark.parametrize("after", [0.0, 1.0])
async def test_cancelled_calls_are_not_in_flight(after):
    chain = Chain(Timed(10.0), Shed(in_flight=10, lag=None))
    calls = await started(*(chain.complete("hi") for _ in range(5)))
    await asyncio.sleep(after)
    for call in calls:
        call.cancel()
    for call in calls:
        with suppress(asyncio.CancelledError):
            await call
    assert status(chain).in_flight == 0


async def test_a_loop_that_is_late_refuses_and_one_that_has_recovered_does_not():
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    chain = Chain(Timed(), Shed(lag=0.2))
    assert not isinstance(await outcome(chain), Exception)
    loop._set_time(loop.time() + 1.0)  # a step that takes a second
    await asyncio.sleep(0.01)
    refused = await outcome(chain)
    assert isinstance(refused, Overloaded)
    assert refused.metadata["signal"] == "lag"
    assert not isinstance(await outcome(chain, priority=1), Exception) or refused.metadata["load"] >= 1.25
    await asyncio.sleep(5)
    assert not isinstance(await outcome(chain), Exception)
    await chain.aclose()


async def test_a_queue_that_has_waited_long_refuses_newcomers():
    provider = Timed()
    limit = RateLimit(requests_per_minute=6, burst=1, max_wait=1000)
    chain = Chain(provider, Shed(lag=None, queue_age=15.0), limit)
    calls = await started(*(outcome(chain) for _ in range(4)))
    assert not any(call.done() for call in calls[1:])
    await asyncio.sleep(14)
    calls += await started(outcome(chain))
    assert not calls[-1].done()
    await asyncio.sleep(4)  # the third has waited for 18 s
    refused = await outcome(chain)
    assert isinstance(refused, Overloaded)
    assert refused.metadata["signal"] == "queue_age"
    await asyncio.gather(*calls)
    await asyncio.sleep(1)
    ok = await started(outcome(chain))
    assert not isinstance(await ok[0], Exception)


async def test_its_refusals_are_not_retried_and_open_no_circuit():
    told = {"load": 2.0}
    shed = Shed(lag=None, signals={"told": lambda runtime: told["load"]}, priority=10_000)
    breaker = Breaker(consecutive=1)
    chain = Chain(Timed(), Retry(attempts=3), breaker, shed)
    assert isinstance(await outcome(chain), Overloaded)
    (stats,) = breaker.board(chain.runtime).stats(0.0)
    assert (stats.state, stats.ignored) == ("closed", 1)


async def test_a_signal_that_is_broken_is_reported_once_and_refuses_nobody(caplog):
    def broken(runtime: Runtime) -> float:
        raise OSError("no such file")

    chain = Chain(Timed(), Shed(lag=None, signals={"broken": broken}))
    for _ in range(3):
        assert not isinstance(await outcome(chain), Exception)
        await asyncio.sleep(1)
    assert len(caplog.records) == 1
    assert "'broken'" in caplog.text


async def test_status_tells_each_signal_and_who_is_refused():
    chain, told = signalled(in_flight=10)
    told["load"] = 1.1
    now = status(chain)
    assert (now.load, now.signals) == (1.1, {"in_flight": 0.0, "told": 1.1})
    assert (now.in_flight, now.refused) == (0, (-1, 0))


async def test_a_rebuilt_chain_counts_on_under_its_own_levels():
    provider = Timed(10.0)
    chain = Chain(provider, Shed(in_flight=2, lag=None))
    calls = await started(*(outcome(chain) for _ in range(2)))
    assert isinstance(await outcome(chain), Overloaded)
    wider = Chain(provider, Shed(in_flight=2, lag=None, levels=((0, 2.0),)), runtime=chain.runtime)
    calls += await started(outcome(wider))
    assert provider.here == 3
    assert not any(isinstance(result, Overloaded) for result in await asyncio.gather(*calls))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"lag": 0}, "lag"),
        ({"in_flight": 0}, "in_flight"),
        ({"queue_age": -1}, "queue_age"),
        ({"lag": "soon"}, "lag"),
        ({"lag": None}, "no signal"),
        ({"calm": 0}, "calm"),
        ({"calm": 1.1}, "calm"),
        ({"retry_after": 0}, "retry_after"),
        ({"levels": ()}, "levels"),
        ({"levels": ((0, 0.0),)}, "levels"),
        ({"levels": (0, 1)}, "levels"),
        ({"levels": ((0, 1.0), (0, 2.0))}, "levels"),
        ({"levels": ((0, 1.0), (1, 0.5))}, "levels"),
        ({"signals": {"lag": lambda runtime: 0.0}}, "'lag'"),
    ],
)
def test_wrong_settings_are_refused_at_construction(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Shed(**wrong)


def test_it_is_built_from_a_table_of_plain_settings():
    made = build("shed", {"in_flight": 100, "lag": 0.5, "levels": [[-1, 0.5], [0, 1.0]]})
    assert made == Shed(in_flight=100, lag=0.5, levels=((-1, 0.5), (0, 1.0)))
