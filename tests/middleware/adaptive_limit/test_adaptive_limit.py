"""The adaptive limit in a chain: what counts, who waits, and how it recovers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ConfigError,
    ConnectFailed,
    FirstTokenTimeout,
    InvalidRequest,
    LimitReached,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.adaptive_limit import AdaptiveLimit, AdaptiveStatus
from llmpipe.middleware.shed.load import oldest_wait
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import run
from llmpipe.testing.conform import conform
from llmpipe.types import Request
from tests.middleware.rate_limit.limits import Timed, in_turn, outcome, started


def status(chain: Chain) -> AdaptiveStatus:
    (limit,) = chain.middleware
    assert isinstance(limit, AdaptiveLimit)
    (only,) = limit.status(chain.runtime)
    return only


class Server(Timed):
    """Takes `capacity` calls at a time, of a second each, and refuses others; while `down`, all of them."""

    def __init__(self, capacity: int) -> None:
        super().__init__(1.0)
        self.capacity, self.down, self.refused = capacity, False, 0

    async def __call__(self, call: Call) -> Reply:
        if self.down or self.here >= self.capacity:
            self.refused += 1
            await asyncio.sleep(0.05)
            raise Overloaded("full")
        return await super().__call__(call)


async def test_it_follows_a_server_down_and_back_up_again():
    """C4: back at nine tenths of what it was in a dozen seconds after an outage of any length."""
    server = Server(50)
    chain = Chain(server, AdaptiveLimit(max_wait=1e6))

    async def client() -> None:
        while True:
            if isinstance(await outcome(chain), Exception):
                await asyncio.sleep(0.1)

    clients = [asyncio.create_task(client()) for _ in range(300)]
    await asyncio.sleep(120)
    before = status(chain).limit
    assert 40 <= before <= 58
    busy = len(server.came)
    await asyncio.sleep(20)
    assert len(server.came) - busy >= 0.8 * 50 * 20  # the server is kept busy
    for outage in (5, 300):
        server.down = True
        await asyncio.sleep(outage)
        low = status(chain).limit
        assert low < before * 0.7
        server.down = False
        await asyncio.sleep(12)
        assert 0.9 * 45 <= status(chain).limit <= 60
        assert server.here >= 0.85 * 45
        await asyncio.sleep(60)
    assert low == 1
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    assert (status(chain).in_flight, status(chain).waiting) == (0, 0)


FAULTS = [
    Overloaded("full"),
    RateLimited("slow down"),
    FirstTokenTimeout("nothing"),
    ConnectFailed("no"),
    BadReply("?"),
]
NO_FAULTS = [InvalidRequest("wrong"), AuthenticationFailed("no key"), LimitReached("ours"), ValueError("bug")]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
async def test_overload_and_failures_lower_it_by_a_tenth(error: LLMError):
    chain = Chain(MockProvider([error], default="ok"), AdaptiveLimit())
    call = chain.new_call(Request("m", "hi"))
    with suppress(LLMError):
        await (await chain(call)).full()
    assert status(chain).limit == 18
    (note,) = call.ledger.notes
    assert (note.kind, note.detail["limit"]) == ("adaptive_limit.lowered", 18)


@pytest.mark.parametrize("error", NO_FAULTS, ids=lambda error: type(error).__name__)
async def test_what_says_nothing_about_load_changes_nothing(error: Exception):
    chain = Chain(MockProvider([error], default="ok"), AdaptiveLimit())
    with suppress(LLMError, ValueError):
        await chain.complete("hi")
    assert (status(chain).limit, status(chain).in_flight) == (20, 0)


async def test_a_stream_that_breaks_lowers_it_and_a_cancelled_one_does_not():
    chain = Chain(
        MockProvider([["a", Wait(3), StreamBroken("cut")], ["a", Wait(30), "b"]], default="ok"),
        AdaptiveLimit(),
    )
    with pytest.raises(StreamBroken):
        await chain.complete("hi")
    assert status(chain).limit == 18
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(5)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert (status(chain).limit, status(chain).in_flight) == (18, 0)


async def test_success_raises_it_only_while_half_of_it_is_used():
    chain = Chain(Timed(1.0), AdaptiveLimit())
    for _ in range(50):
        await chain.complete("hi")
    assert status(chain).limit == 20
    await asyncio.gather(*(chain.complete("hi") for _ in range(20)))
    assert status(chain).limit == 27  # those that ended while half of what it was by then were there


async def test_no_more_are_in_flight_than_the_limit_and_the_next_goes_when_one_ends():
    provider = Timed(1.0)
    chain = Chain(provider, AdaptiveLimit(start=3, maximum=3))
    await asyncio.gather(*(chain.complete("hi") for _ in range(9)))
    assert provider.most == 3
    assert provider.times == pytest.approx([0] * 3 + [1] * 3 + [2] * 3)


async def test_tenants_take_turns_and_the_queue_is_bounded_and_seen():
    provider = Timed(1.0)
    chain = Chain(provider, AdaptiveLimit(start=1, maximum=1, max_queue=4))
    noisy = await started(*(outcome(chain, "noisy", tenant="noisy") for _ in range(5)))
    quiet = await started(outcome(chain, "quiet", tenant="quiet"))
    assert isinstance(await noisy[4], LimitReached)
    await asyncio.sleep(0.5)
    assert (status(chain).waiting, status(chain).oldest_wait) == (4, 0.5)
    assert oldest_wait(chain.runtime) == 0.5
    await asyncio.gather(*noisy, *quiet)
    assert provider.texts == ["noisy", "noisy", "quiet", "noisy", "noisy"]


async def test_who_may_not_wait_is_refused():
    chain = Chain(Timed(1.0), AdaptiveLimit(start=1, maximum=1))
    first = await started(outcome(chain))
    refused = await outcome(chain, options={AdaptiveLimit: {"mode": "reject"}})
    assert isinstance(refused, LimitReached)
    assert (refused.sent, refused.retry_after) == (False, None)
    late = await outcome(chain, timeout=0.3)
    assert isinstance(late, LimitReached)
    await first[0]


async def test_a_rebuilt_chain_keeps_what_was_learned_within_the_new_bounds():
    provider = MockProvider([Overloaded("full")] * 2, default="ok")
    chain = Chain(provider, AdaptiveLimit())
    for _ in range(2):
        await outcome(chain)
        await asyncio.sleep(2)
    assert status(chain).limit == 16
    wider = Chain(provider, AdaptiveLimit(window=5.0), runtime=chain.runtime)
    await wider.complete("hi")
    assert status(wider).limit == 16
    tight = Chain(provider, AdaptiveLimit(start=4, maximum=5), runtime=chain.runtime)
    await tight.complete("hi")
    assert status(tight).limit == 5


traffic = st.lists(
    st.tuples(
        st.floats(0, 20),
        st.sampled_from(["ok", "slow", "full", "wrong"]),
        st.one_of(st.none(), st.floats(0.1, 10)),
        st.sampled_from("ab"),
    ),
    max_size=40,
)


class Scripted(MockProvider):
    async def __call__(self, call: Call) -> Reply:
        prompt: Any = call.request
        fate = prompt.messages[0].text
        await asyncio.sleep(8.0 if fate == "slow" else 0.7)
        if fate == "full":
            raise Overloaded("full")
        if fate == "wrong":
            raise InvalidRequest("wrong")
        return await super().__call__(call)


@settings(max_examples=60)
@given(traffic, st.integers(0, 99))
def test_whatever_becomes_of_the_calls_the_limit_holds_and_all_is_given_back(script, seed):
    """C1, C2: nobody is admitted above the limit, and every place comes back once."""
    limit = AdaptiveLimit(start=3, minimum=2, maximum=5, window=0.5)
    chain = Chain(Scripted(default="ok"), limit)

    async def visit(at: float, fate: str, cancelled: float | None, tenant: str) -> None:
        await asyncio.sleep(at)
        task = asyncio.ensure_future(chain.complete(fate, tenant=tenant))
        if cancelled is not None:
            asyncio.get_running_loop().call_later(cancelled, task.cancel)
        with suppress(LLMError, asyncio.CancelledError):
            await task

    async def main() -> None:
        watch = asyncio.create_task(watching())
        await asyncio.gather(*(visit(*call) for call in script))
        watch.cancel()
        for key in limit.status(chain.runtime):
            assert (key.in_flight, key.waiting) == (0, 0)

    async def watching() -> None:
        before = 5
        while True:
            for key in limit.status(chain.runtime):
                assert 2 <= key.limit <= 5
                # A lower limit does not end calls; they end, and none comes while there are too many.
                assert key.in_flight <= max(key.limit, before)
                before = max(key.limit, key.in_flight)
                assert not key.waiting or key.in_flight >= key.limit
            await asyncio.sleep(0.05)

    run(main(), seed=seed)


async def test_it_gives_back_what_it_took():
    limit = AdaptiveLimit(start=1, maximum=2, max_wait=1000.0)
    await conform(
        limit, balance=lambda runtime: sum(key.in_flight + key.waiting for key in limit.status(runtime))
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"start": 0}, "start"),
        ({"minimum": 30}, "minimum"),
        ({"maximum": 10}, "maximum"),
        ({"backoff": 1.0}, "backoff"),
        ({"backoff": 0.0}, "backoff"),
        ({"window": -1}, "window"),
        ({"max_queue": -1}, "max_queue"),
        ({"max_queue_per_tenant": -1}, "max_queue_per_tenant"),
        ({"aging": 0}, "aging"),
        ({"mode": "hope"}, "mode"),
        ({"per": "planet"}, "per"),
        ({"start": "many"}, "start"),
    ],
)
def test_wrong_settings_are_refused_at_construction(wrong, says):
    with pytest.raises(ConfigError, match=says):
        AdaptiveLimit(**wrong)


def test_it_is_built_from_a_table_of_plain_settings_and_tells_the_longest_wait():
    made = build("adaptive_limit", {"start": 5, "per": ["provider"], "max_wait": 30})
    assert made == AdaptiveLimit(start=5, per=("provider",), max_wait=30.0)
    assert AdaptiveLimit(max_wait=30.0).worst_seconds(10.0) == 40.0
    assert AdaptiveLimit(mode="reject").worst_seconds(10.0) == 10.0


async def test_calls_are_served_in_the_order_in_which_they_came():
    provider = Timed(1.0)
    chain = Chain(provider, AdaptiveLimit(start=1, maximum=1))
    await in_turn(*(chain.complete(str(n)) for n in range(6)))
    assert provider.texts == [str(n) for n in range(6)]
