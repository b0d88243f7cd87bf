"""Callers are kept under their limits, all of them at once, and get back what they did not use."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, ConnectFailed, LimitReached, Overloaded, StoreUnavailable
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.limits import Limit, Limits, headers
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline import registry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.state import Ask, Taken
from llmpipe.state.memory import MemoryState
from llmpipe.testing import conform, run
from llmpipe.types import Completion, Request, Usage


def mock(*script: Any, **settings: Any) -> MockProvider:
    return MockProvider([*script], default=[Wait(1), "hello ", "world"], **settings)


async def burst(chain: Chain, count: int, **call: Any) -> tuple[list[Any], list[Any]]:
    """Answers and errors of so many calls at once."""
    found = await asyncio.gather(
        *[chain.complete("hi", **call) for _ in range(count)], return_exceptions=True
    )
    return [one for one in found if not isinstance(one, BaseException)], [
        one for one in found if isinstance(one, BaseException)
    ]


# ---------------------------------------------------------------- what is admitted


async def test_of_a_thousand_calls_as_many_are_admitted_as_the_burst_has():
    provider = mock()
    chain = Chain(provider, Limits(limits=Limit(per="account", requests_per_minute=60, burst=10)))
    answers, errors = await burst(chain, 1000, tenant="acme")
    assert len(answers) == len(provider.requests) == 10
    assert {type(error) for error in errors} == {LimitReached}
    assert all(error.retry_after == pytest.approx(1.0) and not error.sent for error in errors)
    assert errors[0].status == 429


async def test_the_time_a_caller_is_told_is_when_he_is_admitted():
    chain = Chain(MockProvider(default="hi"), Limits(limits=Limit(requests_per_minute=7, burst=1)))
    await chain.complete("hi")
    with pytest.raises(LimitReached) as refused:
        await chain.complete("hi")
    assert refused.value.retry_after is not None
    await asyncio.sleep(refused.value.retry_after - 0.001)
    with pytest.raises(LimitReached):
        await chain.complete("hi")
    await asyncio.sleep(0.001)
    await chain.complete("hi")


async def test_accounts_users_and_models_have_limits_of_their_own_that_hold_together():
    limits = Limits(
        limits=[
            Limit(per="account", requests_per_minute=100, burst=3),
            Limit(per="user", requests_per_minute=100, burst=2),
            Limit(per=("account", "model"), requests_per_minute=100, burst=1),
        ]
    )
    chain = Chain(MockProvider(default="hi"), limits)
    await chain.complete("hi", tenant="a", user="bob", model="one")
    with pytest.raises(LimitReached, match=r"account\+model"):
        await chain.complete("hi", tenant="a", user="bob", model="one")
    await chain.complete("hi", tenant="a", user="bob", model="two")
    with pytest.raises(LimitReached, match="user"):
        await chain.complete("hi", tenant="a", user="bob", model="three")
    await chain.complete("hi", tenant="a", user="eve", model="three")
    with pytest.raises(LimitReached, match="account"):
        await chain.complete("hi", tenant="a", user="ada", model="four")
    await chain.complete("hi", tenant="b", user="bob", model="one")  # another bob


async def test_a_refusal_takes_nothing_from_the_limits_that_had_room():
    limits = Limits(
        limits=[
            Limit(name="all", requests_per_minute=60, burst=50),
            Limit(name="each", per="user", requests_per_minute=60, burst=1),
        ]
    )
    chain = Chain(MockProvider(default="hi"), limits)
    await burst(chain, 40, tenant="a", user="bob")
    everybody = (await limits.status(chain.runtime, account="a", user="bob"))[0]
    assert everybody.remaining == pytest.approx(49)


async def test_slots_are_held_until_the_reply_is_over():
    chain = Chain(mock(), Limits(limits=Limit(per="key", concurrency=1)))
    async with chain.stream("hi", tags={"key": "k1"}) as reply:
        await anext(reply)
        with pytest.raises(LimitReached) as refused:
            await chain.complete("hi", tags={"key": "k1"})
        assert refused.value.retry_after is None  # nobody knows when a call ends
        await chain.complete("hi", tags={"key": "k2"})
    await chain.complete("hi", tags={"key": "k1"})


@pytest.mark.parametrize("ends", ["error", "cancelled", "abandoned"])
async def test_slots_come_back_however_a_call_ends(ends: str):
    script = [Overloaded("no", retry_after=1)] if ends == "error" else []
    limits = Limits(limits=Limit(concurrency=1))
    chain = Chain(mock(*script), limits)
    if ends == "abandoned":
        async with chain.stream("hi") as reply:
            await anext(reply)
    else:
        task = asyncio.ensure_future(chain.complete("hi"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await limits.status(chain.runtime))[0].remaining == 1


async def test_whoever_may_wait_gets_in_when_there_is_room():
    chain = Chain(
        MockProvider(default="hi"),
        Limits(limits=Limit(requests_per_minute=60, burst=1), max_wait=5.5),
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers, errors = await burst(chain, 10)
    assert 1 < len(answers) <= 6
    assert len(answers) + len(errors) == 10
    assert loop.time() - began <= 5.5


async def test_nobody_waits_past_his_deadline():
    chain = Chain(
        MockProvider(default="hi"), Limits(limits=Limit(requests_per_hour=1, burst=1), max_wait=1e6)
    )
    await chain.complete("hi")
    began = asyncio.get_running_loop().time()
    with pytest.raises(LimitReached):
        await chain.complete("hi", timeout=10)
    assert asyncio.get_running_loop().time() == began


# ---------------------------------------------------------------- tokens, attempts, hits


async def test_tokens_are_corrected_to_what_was_used():
    provider = MockProvider(default="hi", usage=Usage(100, 700))
    limits = Limits(limits=Limit(tokens_per_minute=1000), output_tokens=10)
    chain = Chain(provider, limits)
    await chain.complete("hi")
    assert (await limits.status(chain.runtime))[0].remaining == pytest.approx(200)
    await chain.complete("hi")  # its estimate still fitted, and it left debt
    assert (await limits.status(chain.runtime))[0].remaining == pytest.approx(-600)
    with pytest.raises(LimitReached) as refused:
        await chain.complete("hi")
    assert refused.value.retry_after is not None
    assert refused.value.retry_after == pytest.approx(36, abs=5)


async def test_what_was_never_sent_takes_nothing():
    limits = Limits(limits=[Limit(requests_per_hour=10, tokens_per_day=10_000, burst=10)])
    refusing = MockProvider(default=ConnectFailed("no"))
    chain = Chain(refusing, limits, Breaker(consecutive=1))
    with pytest.raises(ConnectFailed):
        await chain.complete("hi")
    for _ in range(5):
        with pytest.raises(Exception, match="circuit"):
            await chain.complete("hi")
    requests, tokens = await limits.status(chain.runtime)
    assert requests.remaining == pytest.approx(9)  # the one that was tried
    assert tokens.remaining == pytest.approx(1000)


async def test_a_hit_takes_nothing():
    limits = Limits(limits=Limit(requests_per_hour=5, burst=5))
    chain = Chain(MockProvider(default="hi"), Cache(), limits)
    for _ in range(20):
        await chain.complete("hi")
    assert (await limits.status(chain.runtime))[0].remaining == pytest.approx(4)


async def test_the_limits_of_a_target_count_attempts_and_those_of_a_caller_count_calls():
    limits = Limits(
        limits=[
            Limit(per="account", requests_per_hour=100, burst=100),
            Limit(per="provider", requests_per_hour=100, burst=100),
        ]
    )
    failing = MockProvider(default=Overloaded("no"), name="first")
    spare = MockProvider(default="hi", name="second")
    chain = Chain(failing, limits, Retry(attempts=3), Fallback(spare))
    await chain.complete("hi")
    tried = len(failing.requests)
    assert tried >= 1
    account, first = await limits.status(chain.runtime, provider="first")
    _, second = await limits.status(chain.runtime, provider="second")
    assert account.remaining == pytest.approx(99, abs=0.5)
    assert first.remaining == pytest.approx(100 - tried, abs=0.5)
    assert second.remaining == pytest.approx(99, abs=0.5)


async def test_a_target_without_room_is_no_end_if_there_is_another():
    limits = Limits(limits=Limit(per="provider", when={"provider": "first"}, requests_per_hour=1, burst=1))
    chain = Chain(
        MockProvider(default="hi", name="first"), limits, Fallback(MockProvider(default="ho", name="second"))
    )
    assert [(await chain.complete("hi")).text for _ in range(3)] == ["hi", "ho", "ho"]


# ---------------------------------------------------------------- what is told


_TOLD = ("limit", "remaining", "reset")


async def test_every_reply_says_how_the_tightest_limits_stand():
    limits = Limits(
        limits=[
            Limit(name="wide", requests_per_minute=600, burst=600, tokens_per_minute=100_000),
            Limit(name="tight", requests_per_minute=60, burst=6),
        ]
    )
    chain = Chain(MockProvider(default="hi"), limits)
    headers = (await chain.complete("hi")).headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "5"
    assert headers["x-ratelimit-reset-requests"] == "1000ms"
    assert headers["x-ratelimit-limit-tokens"] == "100000"
    await burst(chain, 10)
    with pytest.raises(LimitReached) as refused:
        await chain.complete("hi")
    assert refused.value.metadata["headers"]["x-ratelimit-remaining-requests"] == "0"


def reading(done: Completion, unit: str) -> tuple[int, int, str]:
    """Limit, remaining and reset of `unit`, as the headers say them."""
    limit, remaining, reset = (done.headers[f"x-ratelimit-{what}-{unit}"] for what in _TOLD)
    return int(limit), int(remaining), reset


@pytest.mark.parametrize(("burst", "most"), [(None, 12), (3, 3), (120, 120)])
async def test_of_requests_exactly_as_many_are_admitted_as_are_said_to_remain(burst: float | None, most: int):
    limits = Limits(limits=Limit(requests_per_day=120, burst=burst))
    chain = Chain(MockProvider(default="hi"), limits)
    limit, remaining, reset = reading(await chain.complete("hi"), "requests")
    assert (limit, remaining, reset) == (120, most - 1, "720000ms")
    for left in reversed(range(remaining)):
        assert reading(await chain.complete("hi"), "requests")[:2] == (120, left)
    with pytest.raises(LimitReached) as refused:
        await chain.complete("hi")
    assert refused.value.metadata["headers"]["x-ratelimit-limit-requests"] == "120"
    await asyncio.sleep(720 * most)  # which is when it said that all will be there again
    assert reading(await chain.complete("hi"), "requests")[:2] == (120, most - 1)


async def test_a_million_is_a_number_that_callers_can_read():
    chain = Chain(MockProvider(default="hi"), Limits(limits=Limit(tokens_per_minute=3_000_000)))
    assert reading(await chain.complete("hi"), "tokens")[0] == 3_000_000
    with pytest.raises(LimitReached, match="of 3000000 tokens in 60 s"):
        for _ in range(3):
            await chain.complete("x" * 8_000_000)


@pytest.mark.parametrize(("burst", "most"), [(None, 1000), (500, 500), (10_000, 10_000)])
async def test_of_a_days_tokens_those_remain_that_may_be_had_now(burst: float | None, most: int):
    limits = Limits(limits=Limit(tokens_per_day=10_000, token_burst=burst))
    provider = MockProvider(default="hi", usage=Usage(120, 10))
    chain = Chain(provider, limits)
    request = Request(messages="hi", max_tokens=100)
    limit, remaining, _ = reading(await chain.complete(request), "tokens")
    asked = most - remaining  # by one call, before it is known what it will use
    assert limit == 10_000
    assert 130 < asked < 200
    remaining += asked - 130
    while remaining >= asked:
        limit, left, reset = reading(await chain.complete(request), "tokens")
        assert limit == 10_000
        assert int(reset.removesuffix("ms")) == pytest.approx((most - left) * 8640, abs=8640)
        remaining = left + asked - 130  # when that call was over, what it had used was known
    with pytest.raises(LimitReached):
        await chain.complete(request)


async def test_of_several_limits_that_is_told_of_which_the_least_is_left():
    limits = Limits(
        limits=[Limit(tokens_per_minute=1000), Limit(name="day", tokens_per_day=100_000, token_burst=5000)]
    )
    chain = Chain(MockProvider(default="hi", usage=Usage(300, 0)), limits)
    request = Request(messages="hi", max_tokens=100)
    assert reading(await chain.complete(request), "tokens")[0] == 1000
    for _ in range(18):  # the minute's is there again each time, the day's is not
        await asyncio.sleep(60)
        limit, remaining, _ = reading(await chain.complete(request), "tokens")
    assert limit == 100_000
    assert 0 < remaining < 860


async def test_the_status_tells_what_of_each_limit_may_be_had_at_once():
    limits = Limits(limits=Limit(requests_per_day=240, tokens_per_day=1000, token_burst=300, concurrency=7))
    chain = Chain(MockProvider(default="hi"), limits)
    states = await limits.status(chain.runtime)
    assert [(one.unit, one.limit, one.burst, one.remaining) for one in states] == [
        ("requests", 240, 24, 24), ("tokens", 1000, 300, 300), ("slots", 7, 7, 7)
    ]  # fmt: skip


async def test_headers_say_how_it_stood_and_are_worked_out_when_somebody_looks(
    monkeypatch: pytest.MonkeyPatch,
):
    looked: list[Any] = []
    original = headers.ratelimit_headers
    monkeypatch.setattr(headers, "ratelimit_headers", lambda levels: looked.append(1) or original(levels))
    limits = Limits(limits=Limit(requests_per_minute=60, burst=6, concurrency=5))
    chain = Chain(MockProvider(default="hi"), limits)
    first, second = await chain.complete("hi"), await chain.complete("hi")
    await asyncio.sleep(100)
    assert not looked
    assert first.headers["x-ratelimit-remaining-requests"] == "5"
    assert dict(second.headers) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "4",
        "x-ratelimit-reset-requests": "2000ms",
    }
    assert second.headers == dict(second.headers)
    assert len(second.headers) == 3
    assert len(looked) == 2
    for copied in (copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        assert copied == second
        assert type(copied.headers) is dict
    assert repr(second.headers) == repr(dict(second.headers))


async def test_without_headers_a_reply_is_the_one_that_the_provider_gave():
    limits = Limits(limits=Limit(requests_per_minute=60), headers=False)
    assert (await Chain(MockProvider(default="hi"), limits).complete("hi")).headers == {}


async def test_a_reset_gives_all_room_again():
    limits = Limits(limits=Limit(per="account", requests_per_hour=2, burst=2))
    chain = Chain(MockProvider(default="hi"), limits)
    await burst(chain, 5, tenant="a")
    await burst(chain, 5, tenant="b")
    await limits.reset(chain.runtime, tenant="a")
    assert len((await burst(chain, 5, tenant="a"))[0]) == 2
    assert not (await burst(chain, 5, tenant="b"))[0]


async def test_more_callers_than_are_remembered_are_kept_apart_all_the_same():
    """What applies to a caller is remembered, of so many callers; the others are worked out again."""
    limits = Limits(
        limits=[
            Limit(per="user", requests_per_day=2, burst=2),
            Limit(name="gold", per="tag:plan", when={"tag:plan": "gold"}, requests_per_day=1e6, burst=5000),
        ]
    )
    chain = Chain(MockProvider(default="hi"), limits)
    for _ in range(2):
        for number in range(1500):
            await chain.complete("hi", user=f"u{number}", tags={"plan": "gold" if number % 2 else "iron"})
    for number in (0, 1, 700, 1499):
        with pytest.raises(LimitReached, match="user"):
            await chain.complete("hi", user=f"u{number}")
    user, gold = await limits.status(chain.runtime, user="u1", **{"tag:plan": "gold"})
    assert user.remaining == pytest.approx(0)
    assert gold.remaining == pytest.approx(5000 - 1500)
    assert limits.of_calls is not None
    assert len(limits.of_calls._made) <= 1024


NONSENSE = [Usage(-5, -5), Usage(2**60, 2**60), Usage(float("nan"), 1)]  # type: ignore[arg-type]  # as a provider may tell


@pytest.mark.parametrize("usage", NONSENSE)
async def test_a_provider_that_tells_nonsense_keeps_no_slot_and_pays_what_was_expected(usage: Usage):
    limits = Limits(limits=Limit(tokens_per_minute=1000, concurrency=1))
    chain = Chain(MockProvider(default=[Wait(0.001), "hi"], usage=usage), limits)
    call = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0)
    expected = (await limits.status(chain.runtime))[0].remaining
    await call
    tokens, slots = await limits.status(chain.runtime)
    assert slots.remaining == 1
    assert tokens.remaining == pytest.approx(expected, abs=1)
    assert expected < 800


@pytest.mark.parametrize("settings", [{"requests_per_minute": 1e17}, {"tokens_per_day": 1e-12}])
async def test_a_limit_that_no_store_can_reckon_with_admits_nobody(settings: dict[str, Any]):
    chain = Chain(MockProvider(default="hi"), Limits(limits=Limit(**settings)))
    for _ in range(2):
        with pytest.raises(ValueError, match="limit"):
            await chain.complete("hi")


async def test_settings_of_one_call_are_for_that_call():
    chain = Chain(MockProvider(default="hi"), Limits(limits=Limit(requests_per_hour=1, burst=1), max_wait=0))
    await chain.complete("hi")
    with pytest.raises(LimitReached):
        await chain.complete("hi")
    await chain.complete("hi", options={Limits: {"limits": (Limit(name="own", requests_per_hour=1),)}})
    with pytest.raises(LimitReached, match="own"):
        await chain.complete("hi", options={Limits: {"limits": (Limit(name="own", requests_per_hour=1),)}})


# ---------------------------------------------------------------- the store


class Away:
    """A store that is out of reach while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.inner = MemoryState().limits("x")
        self.settled: list[str] = []

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        self._look()
        return await self.inner.take(ticket, asks, lease)

    async def settle(self, ticket: str, used: Any) -> bool:
        self._look()
        self.settled.append(ticket)
        return await self.inner.settle(ticket, used)

    async def levels(self, asks: Sequence[Ask]) -> Any:
        self._look()
        return await self.inner.levels(asks)

    async def reset(self, keys: Sequence[str]) -> None:
        self._look()
        await self.inner.reset(keys)

    def _look(self) -> None:
        if self.away:
            raise StoreUnavailable("out of reach")


class AwayState(MemoryState):
    def __init__(self) -> None:
        super().__init__()
        self.away = Away()

    def limits(self, name: str) -> Any:
        return self.away


def remote(limits: Limits) -> tuple[Chain, Away]:
    """A chain whose limits are in a store that can go away."""
    runtime, state = Runtime(), AwayState()
    runtime.state("store", "away://", lambda: state)
    return Chain(mock(), limits, runtime=runtime), state.away


async def test_while_the_store_is_away_a_node_keeps_to_its_share(caplog: pytest.LogCaptureFixture):
    limits = Limits(limits=Limit(requests_per_hour=40, burst=40), store="away://", nodes=4)
    chain, store = remote(limits)
    assert len((await burst(chain, 30))[0]) == 30
    store.away = True
    assert len((await burst(chain, 30))[0]) == 10  # 40 / 4: all nodes together, 40 at most
    assert "out of reach" in caplog.text
    store.away = False
    assert len((await burst(chain, 30))[0]) == 10  # what the store had left


async def test_while_the_store_is_away_calls_are_refused_if_that_is_wanted():
    chain, store = remote(
        Limits(limits=Limit(requests_per_hour=40), store="away://", on_store_failure="refuse")
    )
    store.away = True
    with pytest.raises(StoreUnavailable):
        await chain.complete("hi")
    assert not chain.provider.requests  # type: ignore[attr-defined]  # the mock's


async def test_while_the_store_is_away_calls_go_on_if_that_is_wanted():
    chain, store = remote(
        Limits(limits=Limit(requests_per_hour=1), store="away://", on_store_failure="allow")
    )
    store.away = True
    assert len((await burst(chain, 30))[0]) == 30


async def test_a_slot_is_given_back_when_the_store_is_there_again():
    limits = Limits(limits=Limit(concurrency=1), store="away://", on_store_failure="refuse")
    chain, store = remote(limits)
    task = asyncio.ensure_future(chain.complete("hi"))
    await asyncio.sleep(0.5)
    store.away = True
    await task
    store.away = False
    await asyncio.sleep(20)
    assert len(store.settled) == 1
    await chain.complete("hi")


async def test_it_keeps_the_laws_over_a_store_that_has_to_be_waited_for():
    class Slow(AwayState):
        def limits(self, name: str) -> Any:
            return SlowLimits()

    class SlowLimits(Away):
        async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
            await asyncio.sleep(0.1)
            return await super().take(ticket, asks, lease)

        async def settle(self, ticket: str, used: Any) -> bool:
            await asyncio.sleep(0.1)
            return await super().settle(ticket, used)

    class Opened(Limits):
        def desk(self, runtime: Runtime) -> Any:
            runtime.state("store", "away://", Slow)
            return super().desk(runtime)

    # A lease of more than the ten days that some of the cases last: each renewal would be a place to cancel.
    report = await conform(lambda: Opened(limits=Limit(concurrency=100), store="away://", lease=1e6))
    assert report.cancellations > 350


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "limits nothing"),
        ({"requests_per_minute": 0}, "requests_per_minute must be above 0"),
        ({"requests_per_minute": -1}, "above 0"),
        ({"requests_per_minute": float("nan")}, "requests_per_minute"),
        ({"per": "usr", "concurrency": 1}, "did you mean 'user'"),
        ({"when": {"modle": "x"}, "concurrency": 1}, "did you mean 'model'"),
        ({"concurrency": 1, "burst": 0}, "burst must be above 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(settings: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        Limit(**settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"nodes": 0}, "nodes must be above 0"),
        ({"max_wait": -1}, "max_wait"),
        ({"on_store_failure": "panic"}, "share, refuse or allow"),
        ({"limits": [Limit(concurrency=1), Limit(concurrency=2)]}, "two limits are called 'global'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        Limits(**settings)


names = st.text(st.sampled_from("ab/=%"), max_size=4)


@given(st.tuples(names, names), st.tuples(names, names))
def test_nobody_names_himself_into_anothers_limit(one: tuple[str, str], other: tuple[str, str]):
    limit = Limit(per=("account", "user"), concurrency=1)
    keys = [limit.asks({"account": who[0], "user": who[1]}, 0)[0][1].key for who in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), min_size=1, max_size=40),
    st.integers(1, 10),
    st.integers(6, 120),
)
def test_in_no_time_is_more_admitted_than_the_burst_and_its_share(
    arrivals: list[tuple[float, int]], size: int, rate: int
):
    async def main() -> None:
        chain = Chain(MockProvider(default="hi"), Limits(limits=Limit(requests_per_minute=rate, burst=size)))
        loop = asyncio.get_running_loop()
        admitted: list[float] = []
        for pause, count in arrivals:
            await asyncio.sleep(pause)
            answers, _ = await burst(chain, count)
            admitted += [loop.time()] * len(answers)
        for start in range(len(admitted)):
            for end in range(start, len(admitted)):
                seconds = admitted[end] - admitted[start]
                assert end - start + 1 <= size + rate * seconds / 60 + 1e-6

    run(main())


def test_limits_come_from_a_file_as_tables():
    made = registry.build("limits", {"limits": [{"per": "account", "requests_per_minute": 5}], "nodes": 2})
    assert made == Limits(limits=Limit(per="account", requests_per_minute=5), nodes=2)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([{"per": "acount", "concurrency": 1}], r"limits\[0\].*did you mean 'account'"),
        ([{"concurrency": 1}, {"concurency": 1}], r"limits\[1\].*concurency"),
        ([3], r"limits\[0\] is a Limit, or a table of its settings, not 3"),
        ("all", "a list of Limit, not 'all'"),
    ],
)
def test_a_table_that_makes_no_sense_is_named(told: Any, says: str):
    with pytest.raises(ConfigError, match=says):
        registry.build("limits", {"limits": told})


async def test_a_call_that_is_dropped_unfinished_gives_its_slot_back_all_the_same():
    limits = Limits(limits=Limit(concurrency=1), store="away://")
    chain, store = remote(limits)

    async def never(_: Any) -> Any:
        await asyncio.sleep(1000)

    step = limits(chain.new_call(Request(messages="hi")), never).__anext__()
    step.send(None)  # begun, and waiting
    with pytest.raises(GeneratorExit):
        step.throw(GeneratorExit)
    await asyncio.sleep(1)
    assert len(store.settled) == 1
    assert (await limits.status(chain.runtime))[0].remaining == 1
