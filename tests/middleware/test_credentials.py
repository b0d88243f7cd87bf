"""Rotation of keys without sockets: what other middlewares and targets have to do with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import (
    AuthenticationFailed,
    ConfigError,
    LimitReached,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.credentials import Credentials, Keys
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.testing import no_leaks

WORDS = "All is well here."


class Account(MockProvider):
    """A provider with several keys; `line(secret)` says what each of them brings."""

    def __init__(
        self, keys: Keys, line: Callable[[str], Any] = lambda secret: WORDS, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.keys = keys
        self.line = line
        self.used: list[str] = []

    def brings(self) -> tuple[Any, ...]:
        return (Credentials(),)

    async def __call__(self, call: Any) -> Any:
        secret = call.credential.secret.reveal()
        self.used.append(secret)
        self.default = self.line(secret)
        return await super().__call__(call)


def now() -> float:
    return asyncio.get_running_loop().time()


def lines(**by_key: Any) -> Callable[[str], Any]:
    return lambda secret: by_key.get(secret, WORDS)


# -- limits for each key


@pytest.mark.parametrize("per", ["target", "provider"])
async def test_a_call_does_not_wait_for_one_keys_limit_while_another_is_free(per: str):
    core = Account(Keys("a", "b", order="first"))
    it = Chain(core, RateLimit(requests_per_minute=1, burst=1, per=per))
    for _ in range(2):
        await it.complete("hi")
    assert core.used == ["a", "b"]
    assert now() < 1


async def test_a_call_waits_for_the_key_that_has_room_first():
    core = Account(Keys("a", "b"))
    it = Chain(core, RateLimit(requests_per_minute=1, burst=1, max_wait=200))
    await it.complete("hi")
    await asyncio.sleep(20)
    await it.complete("hi")
    began = now()
    await it.complete("hi")
    assert core.used == ["a", "b", "a"]
    assert now() - began == pytest.approx(40, abs=1)
    began = now()
    await asyncio.gather(*[it.complete("hi") for _ in range(4)])
    assert Counter(core.used) == {"a": 4, "b": 3} or Counter(core.used) == {"a": 3, "b": 4}
    assert now() - began < 130  # two keys, one call a minute each


async def test_where_no_key_has_room_the_limits_say_so():
    core = Account(Keys("a", "b"))
    it = Chain(core, RateLimit(requests_per_minute=1, burst=1, mode="reject"))
    for _ in range(2):
        await it.complete("hi")
    await asyncio.sleep(10)
    with pytest.raises(LimitReached) as caught:
        await it.complete("hi")
    assert caught.value.retry_after == pytest.approx(50, abs=1)
    assert not caught.value.sent
    assert len(core.used) == 2


async def test_a_limit_of_all_keys_together_is_waited_for_once():
    core = Account(Keys("a", "b"))
    it = Chain(core, RateLimit(requests_per_minute=1, burst=1, per="model"))
    await it.complete("hi")
    began = now()
    await it.complete("hi")
    assert now() - began == pytest.approx(60, abs=1)


async def test_with_another_target_ready_no_limit_is_waited_for():
    core, other = Account(Keys("a", "b"), name="core"), MockProvider(default="other", name="other")
    it = Chain(core, RateLimit(requests_per_minute=1, burst=1), Fallback(other))
    said = [(await it.complete("hi")).text for _ in range(3)]
    assert said == [WORDS, WORDS, "other"]
    assert now() < 1


async def test_concurrency_is_of_each_key_too():
    core = Account(Keys("a", "b"), lambda _: [Wait(10), WORDS])
    it = Chain(core, RateLimit(concurrency=1))
    began = now()
    await asyncio.gather(*[it.complete("hi") for _ in range(4)])
    assert now() - began == pytest.approx(20, abs=1)
    assert Counter(core.used) == {"a": 2, "b": 2}


# -- refused and throttled together


async def test_keys_that_were_all_refused_are_tried_again_by_the_next_call():
    core = Account(Keys("a", "b"), lambda _: AuthenticationFailed("no", status=401))
    it = Chain(core, Retry())
    for _ in range(2):
        began = now()
        with pytest.raises(AuthenticationFailed):
            await it.complete("hi")
        assert now() - began < 1
    core.line = lambda _: WORDS
    assert (await it.complete("hi")).text == WORDS
    assert now() < 1


async def test_a_single_key_that_was_refused_is_used_again_by_the_next_call():
    core = Account(Keys("a"), lambda _: QuotaExceeded("spent", status=402))
    it = Chain(core, Retry())
    with pytest.raises(QuotaExceeded):
        await it.complete("hi")
    core.line = lambda _: WORDS
    assert (await it.complete("hi")).text == WORDS
    assert now() < 1


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_a_key_that_only_rests_is_waited_for_where_the_others_were_refused(order: str):
    answers = iter([RateLimited("slow down", status=429, retry_after=2), WORDS])
    core = Account(
        Keys(*order, order="first"),
        lambda secret: next(answers) if secret == "a" else AuthenticationFailed("no", status=401),
    )
    it = Chain(core, Retry())
    assert (await it.complete("hi")).text == WORDS
    assert sorted(core.used) == ["a", "a", "b"]
    assert 2 <= now() < 3


async def test_a_refused_key_is_not_tried_while_another_only_rests():
    core = Account(
        Keys("a", "b"),
        lines(a=AuthenticationFailed("no", status=401), b=RateLimited("slow", status=429, retry_after=5)),
    )
    it = Chain(core, Retry(attempts=1))
    with pytest.raises(RateLimited):
        await it.complete("hi")
    core.used.clear()
    with pytest.raises(LimitReached) as caught:
        await it.complete("hi")
    assert caught.value.retry_after == pytest.approx(5, abs=0.1)
    assert core.used == []


# -- the others


async def test_when_all_keys_are_throttled_retry_waits_for_the_first_that_is_ready():
    answers = {"a": iter([RateLimited("x", status=429, retry_after=9), "a"]),
               "b": iter([RateLimited("x", status=429, retry_after=3), "b"])}  # fmt: skip
    core = Account(Keys("a", "b"), lambda secret: next(answers[secret]))
    it = Chain(core, Retry())
    assert (await it.complete("hi")).text == "b"
    assert 3 <= now() < 4
    call_count = len(core.used)
    assert call_count == 3


async def test_when_all_keys_are_throttled_another_target_answers_at_once():
    core = Account(Keys("a", "b"), lambda _: RateLimited("x", status=429, retry_after=9), name="core")
    other = MockProvider(default="other", name="other")
    it = Chain(core, Retry(), Fallback(other))
    assert (await it.complete("hi")).text == "other"
    assert now() < 0.1
    assert (await it.complete("hi")).text == "other"
    assert len(core.used) == 2


async def test_throttled_and_refused_keys_open_no_circuit_and_an_outage_does():
    core = Account(Keys("a", "b"), lambda _: RateLimited("x", status=429, retry_after=1))
    it = Chain(core, Breaker(), Retry(attempts=1))
    for _ in range(20):
        with pytest.raises(RateLimited):
            await it.complete("hi")
        await asyncio.sleep(2)
    board = Breaker().board(it.runtime)
    assert not board.troubled
    core.line = lambda _: Overloaded("x")
    for _ in range(5):
        with pytest.raises(Overloaded):
            await it.complete("hi")
    assert board.troubled


@pytest.mark.parametrize("error", [
    AuthenticationFailed("no", status=401),
    RateLimited("x", status=429),
    RateLimited("x", status=200, retry_after=2),
])  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
async def test_another_key_answers_a_stream_too(error: LLMError, stream: bool):
    core = Account(Keys("a", "b", order="first"), lines(a=error))
    it = Chain(core, *presets.production())
    async with no_leaks(), it:
        if stream:
            async with it.stream("hi") as reply:
                assert (await reply.full()).text == WORDS
        else:
            assert (await it.complete("hi")).text == WORDS
    assert core.used == ["a", "b"]
    assert core.open == 0


async def test_an_error_in_the_middle_of_a_held_stream_is_a_matter_of_keys_too():
    broken = ["All is", RateLimited("too many tokens", phase="stream")]
    core = Account(Keys("a", "b", order="first"), lines(a=broken))
    it = Chain(core, Commit(policy="whole"), Retry(attempts=1))
    async with it.stream("hi") as reply:
        assert (await reply.full()).text == WORDS
    assert core.used == ["a", "b"]


# -- in a router


@pytest.mark.parametrize("named", ["", "mine"])
async def test_a_bare_provider_with_several_keys_in_a_router_rotates_them(named: str):
    core = Account(
        Keys("a", "b", order="first"), lines(a=AuthenticationFailed("no", status=401)), name="core"
    )
    it = Chain(Router(Route(core, name=named), checks=None))
    assert (await it.complete("hi")).text == WORDS
    assert core.used == ["a", "b"]


async def test_keys_that_are_used_up_in_one_lane_send_the_call_to_the_next():
    core = Account(Keys("a", "b"), lambda _: RateLimited("x", status=429, retry_after=30), name="core")
    other = MockProvider(default="other", name="other")
    it = Chain(Router(core, other, checks=None), Retry())
    assert [(await it.complete("hi")).text for _ in range(6)] == ["other"] * 6
    assert len(core.used) == 2
    assert now() < 0.1


async def test_in_a_router_no_lane_waits_for_its_limit_while_another_has_room():
    core = Account(Keys("a", "b"), name="core")
    other = MockProvider(default="other", name="other")
    limit = RateLimit(requests_per_minute=1, burst=1)
    it = Chain(Router(core, other, checks=None, layers=(limit,)))
    said = [(await it.complete("hi")).text for _ in range(3)]
    assert sorted(said) == [WORDS, WORDS, "other"]
    assert now() < 1


# -- exchange under load


async def test_keys_are_exchanged_under_load_and_no_call_fails():
    keys = Keys("a0", "b0")
    live = {"a0", "b0"}

    def answer(secret: str) -> Any:
        return [Wait(0.3), WORDS] if secret in live else AuthenticationFailed("gone", status=401)

    core = Account(keys, answer)
    it = Chain(core, *presets.production(cache=None))

    async def caller(number: int) -> None:
        await asyncio.sleep(number * 0.01)
        assert (await it.complete(f"hi {number}")).text == WORDS

    async def exchange() -> None:
        for number in range(1, 20):
            await asyncio.sleep(0.5)
            fresh = {f"a{number}", f"b{number}"}
            live.update(fresh)
            keys.replace(*sorted(fresh))
            await asyncio.sleep(0.01)
            live.intersection_update(fresh)

    async with no_leaks(), it:
        await asyncio.gather(exchange(), *[caller(number) for number in range(1000)])
    assert len(keys) == 2


async def test_all_keys_revoked_and_then_replaced_work_at_once():
    core = Account(
        Keys("a", "b"), lines(a=AuthenticationFailed("x", status=401), b=AuthenticationFailed("x"))
    )
    it = Chain(core, Retry())
    with pytest.raises(AuthenticationFailed):
        await it.complete("hi")
    core.keys.replace("c")
    assert (await it.complete("hi")).text == WORDS


async def test_a_failure_of_the_provider_costs_no_other_key():
    core = Account(Keys("a", "b"), lambda _: ServiceUnavailable("x", status=503, retry_after=1))
    it = Chain(core, Retry(attempts=1))
    with pytest.raises(ServiceUnavailable):
        await it.complete("hi")
    assert core.used == ["a"]


@pytest.mark.parametrize("settings", [{"throttle_rest": -1}, {"refused_rest": -1}])
def test_rests_below_zero_are_refused(settings: Any):
    with pytest.raises(ConfigError):
        Credentials(**settings)
