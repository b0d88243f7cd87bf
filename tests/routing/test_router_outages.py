"""Routers in trouble: outages, the way back, checks, and when all are down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from llmpipe.config import presets
from llmpipe.errors import CircuitOpen, InvalidRequest, LLMError, Overloaded, RateLimited, ServiceUnavailable
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.board import Board
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.checks import Checks
from llmpipe.routing.lineup import line_up
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.routing.rules import HealthRules
from llmpipe.routing.strategies import STRATEGIES
from llmpipe.runtime import Runtime
from llmpipe.testing import no_leaks
from llmpipe.types import ModelInfo, Request

STRATEGY_NAMES = sorted(STRATEGIES)


def now() -> float:
    return asyncio.get_running_loop().time()


def target(name: str, default="ok", cls=MockProvider) -> MockProvider:
    return cls(default=default, name=name, model=f"{name}-1")


def slow(line, seconds: float):
    """`line`, after so long."""
    return [Wait(seconds), line]


def router(it: Chain) -> Router:
    """The router at the core of a chain."""
    assert isinstance(it.provider, Router)
    return it.provider


def routed(*targets, around=(), seed: int = 1, **settings) -> Chain:
    settings.setdefault("checks", None)
    return Chain(Router(*targets, **settings), *around, runtime=Runtime(seed=seed))


async def load(
    it: Chain, *, seconds: float, rate: float, at: Callable[[float], None] | None = None
) -> Counter:
    """How calls at `rate` a second for so long ended: by provider, or by the type of the error."""
    ends: Counter[str] = Counter()

    async def one(n: int) -> None:
        await asyncio.sleep(n / rate)
        if at is not None:
            at(n / rate)
        try:
            ends[(await it.complete(f"question {n}")).provider] += 1
        except LLMError as error:
            ends[error.type] += 1

    await asyncio.gather(*[one(n) for n in range(int(seconds * rate))])
    return ends


def status(it: Chain) -> dict:
    return {one.name: one for one in router(it).status()}


# -- one of three


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@pytest.mark.parametrize("took", [0.0, 0.2, 25.0])
async def test_an_outage_of_one_of_three_costs_no_failed_call(strategy: str, took: float):
    dead, b, c = (
        target("dead", slow(Overloaded("x"), took)),
        target("b", slow("ok", 0.3)),
        target("c", slow("ok", 0.3)),
    )
    ends = await load(routed(dead, b, c, strategy=strategy), seconds=60, rate=20)
    assert ends["b"] + ends["c"] == 1200
    assert len(dead.requests) < 1200 / 3 if took > 1 else len(dead.requests) < 60


async def test_a_black_hole_of_three_costs_no_failed_call_under_load_either():
    hole, b, c = (
        target("hole", slow("never", 1e6)),
        target("b", slow("ok", 0.5)),
        target("c", slow("ok", 0.5)),
    )
    ends = await load(routed(hole, b, c), seconds=50, rate=40)
    assert ends["b"] + ends["c"] == 2000


async def test_an_outage_that_passes_ends_with_even_shares_again():
    a, b, c = target("a"), target("b"), target("c")
    it = routed(a, b, c)

    def at(second: float) -> None:
        a.default = Overloaded("x") if 10 <= second < 40 else "ok"

    ends = await load(it, seconds=240, rate=10, at=at)
    assert sum(ends[name] for name in "abc") == 2400
    again = await load(it, seconds=30, rate=10)
    assert all(90 <= again[name] <= 110 for name in "abc")


async def test_the_way_back_is_a_ramp():
    a, b, c = target("a", Overloaded("x")), target("b"), target("c")
    it = routed(a, b, c, health=HealthRules(ramp=40, rest=5))
    await load(it, seconds=2, rate=20)
    assert status(it)["a"].state == "down"
    a.default = "ok"
    await asyncio.sleep(6)
    parts = [(await load(it, seconds=10, rate=60))["a"] for _ in range(5)]
    assert parts == sorted(parts)
    assert 0 < parts[0] < 30  # of 600, a third of which would be its own
    assert parts[1] < 50
    assert 60 < parts[3] < 150
    assert 190 < parts[4] <= 210
    kinds = [change.kind for change in router(it).changes() if change.target == "a"]
    assert kinds == ["down", "returning", "readmitted"]


async def test_a_failure_on_the_way_back_starts_it_again_and_costs_no_failed_call():
    a, b = target("a", Overloaded("x")), target("b")
    it = routed(a, b)
    ends = await load(it, seconds=120, rate=10)
    assert ends == {"b": 1200}
    falls = [
        change.seconds for change in router(it).changes() if change.kind == "down" and change.target == "a"
    ]
    assert 3 <= len(falls) <= 8
    assert falls[1] > falls[0]
    assert len(a.requests) <= 3 + len(falls)


async def test_a_target_that_fails_some_calls_gets_few_and_costs_none():
    lines = iter([Overloaded("x") if n % 4 == 0 else "ok" for n in range(10_000)])
    flaky, b = target("flaky", lambda request: next(lines)), target("b")
    it = routed(flaky, b)
    ends = await load(it, seconds=60, rate=20)
    assert ends["b"] + ends["flaky"] == 1200
    assert status(it)["flaky"].state == "degraded"
    assert 50 < ends["flaky"] < 300


# -- all of them


@pytest.mark.parametrize("took", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("rate", [10, 30])
@pytest.mark.parametrize("layers", ["bare", "production"])
async def test_a_total_outage_is_amplified_by_a_fifth_at_the_most(took: float, rate: int, layers: str):
    targets = [target(name, slow(ServiceUnavailable("x"), took)) for name in "abc"]
    around = () if layers == "bare" else presets.production()
    ends = await load(routed(*targets, around=around), seconds=60, rate=rate)
    assert sum(ends.values()) == 60 * rate
    assert ends["ok"] == 0
    assert sum(len(one.requests) for one in targets) <= 1.2 * 60 * rate


async def test_a_total_outage_is_amplified_by_a_fifth_at_the_most_without_circuits_and_states():
    """The budget alone holds it."""
    targets = [target(name, Overloaded("x")) for name in "abc"]
    it = routed(*targets, layers=(), health=HealthRules(down_after=10**9, degraded_above=0.99))
    it = Chain(
        Router(*targets, checks=None, layers=[], health=HealthRules(down_after=10**9)),
        runtime=Runtime(seed=1),
    )
    await load(it, seconds=60, rate=10)
    sent = sum(len(one.requests) for one in targets)
    assert 600 < sent <= 720


async def test_after_a_total_outage_calls_are_answered_soon():
    targets = [target(name, Overloaded("x")) for name in "abc"]
    it = routed(*targets)
    await load(it, seconds=30, rate=10)
    for one in targets:
        one.default = "ok"
    began = now()
    while (await load(it, seconds=1, rate=1))["CIRCUIT_OPEN"]:
        await asyncio.sleep(1)
    assert now() - began < 45  # the third rest, in 30 s of outage, is 20 s
    ends = await load(it, seconds=10, rate=10)
    assert ends["a"] + ends["b"] + ends["c"] == 100


async def test_when_all_are_down_a_call_is_refused_at_once_with_the_true_wait():
    targets = [target(name, Overloaded("x")) for name in "ab"]
    it = routed(*targets)
    await load(it, seconds=2, rate=10)
    sent = sum(len(one.requests) for one in targets)
    with pytest.raises(CircuitOpen) as caught:
        await it.complete("hi")
    error = caught.value
    assert sum(len(one.requests) for one in targets) == sent
    assert "all 2 targets are down" in error.message
    assert [one["target"] for one in error.metadata["router"]] == ["a", "b"]
    assert error.retry_after is not None
    assert error.retry_after == pytest.approx(min(one.retry_after for one in router(it).status()))
    await asyncio.sleep(error.retry_after + 0.01)
    with pytest.raises(LLMError):
        await it.complete("hi")
    assert sum(len(one.requests) for one in targets) > sent  # the wait was true: now it is tried


async def test_try_best_asks_the_one_that_is_soonest_back_although_its_circuit_is_open():
    a, b = target("a", Overloaded("x", retry_after=60)), target("b", Overloaded("x"))
    it = routed(a, b, when_all_down="try_best", health=HealthRules(rest=10))
    await load(it, seconds=3, rate=10)
    b.default = "better"
    sent = len(a.requests)
    call = it.new_call(Request("", "hi"))
    assert (await (await it(call)).full()).text == "better"
    assert len(a.requests) == sent
    assert call.ledger.notes[0].kind == "router.picked"
    assert status(it)["b"].state == "returning"


async def test_those_that_are_only_degraded_are_still_tried_the_best_first():
    lines = {"bad": 3, "worse": 2}

    def failing(every: int):
        count = iter(range(10**6))
        return lambda request: Overloaded("x") if next(count) % every == 0 else "ok"

    targets = [target(name, failing(every)) for name, every in lines.items()]
    it = routed(*targets, layers=(), health=HealthRules(down_after=1000), attempts=10)
    await load(it, seconds=30, rate=10)
    ends = await load(it, seconds=30, rate=10)
    assert {one.state for one in router(it).status()} == {"degraded"}
    assert ends["CIRCUIT_OPEN"] == 0
    assert ends["bad"] > ends["worse"]


async def test_a_single_target_that_is_down_says_so():
    it = routed(target("a", Overloaded("x")))
    await load(it, seconds=1, rate=5)
    with pytest.raises(CircuitOpen, match="the only target is down"):
        await it.complete("hi")


async def test_one_that_rests_is_asked_before_all_are_said_to_be_down():
    dead, limited = target("dead", Overloaded("x")), target("limited", RateLimited("slow", retry_after=100))
    it = routed(dead, limited)
    await load(it, seconds=2, rate=10)
    limited.default = "ok"
    assert (await it.complete("hi")).provider == "limited"


# -- circuits


async def test_an_open_circuit_is_down_and_is_not_asked():
    a, b = target("a", Overloaded("x")), target("b")
    it = routed(a, b, health=HealthRules(down_after=1000, degraded_above=0.99))
    await load(it, seconds=2, rate=20)
    assert status(it)["a"].state == "down"
    assert status(it)["a"].reason == "its circuit is open"
    sent = len(a.requests)
    await load(it, seconds=1, rate=20)
    assert len(a.requests) == sent


async def test_the_circuit_of_a_model_that_callers_name_does_not_stop_others():
    a = MockProvider(
        name="a", model="", default=lambda request: Overloaded("x") if request.model == "bad" else "ok"
    )
    b = MockProvider(name="b", model="", default="ok")
    it = routed(a, b, health=HealthRules(down_after=10**6, degraded_above=0.99))
    for _ in range(20):
        await it.complete("hi", model="bad")
    assert set(Breaker().board(it.runtime).troubled) == {("a", "mock", "bad")}
    answered = {(await it.complete("hi", model="good")).provider for _ in range(4)}
    assert answered == {"a", "b"}
    assert {(await it.complete("hi", model="bad")).provider for _ in range(4)} == {"b"}


async def test_a_target_whose_circuit_was_opened_by_hand_comes_back_when_it_is_closed():
    a, b = target("a"), target("b")
    it = routed(a, b)
    await it.complete("hi")
    board = Breaker().board(it.runtime)
    board.isolate(("a", "mock", "a-1"), now())
    assert (await load(it, seconds=5, rate=10))["b"] == 50
    board.reset(now())
    await load(it, seconds=60, rate=10)
    again = await load(it, seconds=10, rate=10)
    assert again == {"a": 50, "b": 50}


# -- checks


class Checked(MockProvider):
    """Keeps when it was asked for its models, and answers that with `answer`."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[float] = []
        self.answer: Callable[[], Awaitable[object]] | LLMError | None = None

    async def get_models(self) -> tuple[ModelInfo, ...]:
        self.asked.append(now())
        if isinstance(self.answer, LLMError):
            raise self.answer
        if self.answer is not None:
            await self.answer()
        return (ModelInfo(self.model, context_tokens=4096),)


def checked(name: str, default="ok") -> Checked:
    return Checked(default=default, name=name, model=f"{name}-1")


async def test_idle_targets_are_checked_once_in_each_interval_and_no_more():
    a, b = checked("a"), checked("b")
    it = routed(a, b, checks=Checks(interval=30))
    await it.complete("hi")
    await asyncio.sleep(3000)
    for one in (a, b):
        assert 89 <= len(one.asked) <= 100
        assert all(later - sooner >= 30 for sooner, later in zip(one.asked, one.asked[1:], strict=False))
    assert {round(at % 30, 3) for at in a.asked} != {round(a.asked[0] % 30, 3)}  # jittered
    assert a.requests + b.requests == a.requests  # nothing is paid for
    await it.aclose()


async def test_a_target_that_answers_calls_is_not_checked():
    busy, idle = checked("busy"), checked("idle")
    it = routed(busy, Route(idle, priority=1), strategy="priority", checks=Checks(interval=30))
    await load(it, seconds=300, rate=1)
    assert busy.asked == []
    assert len(idle.asked) >= 8
    await it.aclose()


async def test_checks_find_an_idle_target_down_and_find_it_well_again():
    main, spare = checked("main"), checked("spare")
    it = routed(main, Route(spare, priority=1), strategy="priority", checks=Checks(interval=30))
    await it.complete("hi")
    spare.answer = Overloaded("x")
    await asyncio.sleep(150)
    assert status(it)["spare"].state == "down"
    await asyncio.sleep(600)
    assert status(it)["spare"].state == "down"
    spare.answer = None
    await asyncio.sleep(70)
    assert status(it)["spare"].state in ("returning", "healthy")
    await it.aclose()


async def test_a_check_that_hangs_is_ended_and_is_a_failure():
    a = checked("a")
    a.answer = lambda: asyncio.sleep(1e6)
    it = routed(a, checks=Checks(interval=30, timeout=5))
    await it.complete("hi")
    await asyncio.sleep(200)
    assert status(it)["a"].state == "down"
    assert status(it)["a"].last_error == "check took 5 s"
    assert len(a.asked) >= 4
    await it.aclose()


async def test_a_refused_key_is_no_failure_of_a_check():
    a = checked("a")
    a.answer = RateLimited("slow")
    it = routed(a, checks=Checks(interval=30))
    await it.complete("hi")
    await asyncio.sleep(300)
    assert status(it)["a"].state == "healthy"
    await it.aclose()


async def test_a_check_of_ones_own_says_no_by_returning_false_or_raising():
    told = iter([False, True, RuntimeError("x"), False, False, False])
    seen = []

    async def look(provider) -> object:
        seen.append(provider)
        answer = next(told, False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    a = target("a")
    it = routed(Chain(a), checks=Checks(check=look))
    await it.complete("hi")
    await asyncio.sleep(240)
    assert set(map(id, seen)) == {id(a)}
    assert status(it)["a"].state == "down"
    await it.aclose()


async def test_a_completion_is_only_sent_where_that_is_asked_for():
    a = checked("a")
    it = routed(a, checks=Checks(check="completion"))
    await it.complete("hi")
    await asyncio.sleep(100)
    sent = a.requests[1:]
    assert len(sent) in (2, 3)
    assert all(request.max_tokens == 1 for request in sent)
    assert a.asked == []
    assert status(it)["a"].calls == 1 + len(sent)
    await it.aclose()


async def test_the_list_of_models_tells_how_large_the_context_is():
    a = checked("a")
    it = routed(a, checks=Checks())
    await it.complete("hi")
    await asyncio.sleep(100)
    assert router(it)._enter(it.runtime).lanes[0].context == 4096
    await it.aclose()


async def test_checks_end_with_the_chain_and_begin_again_with_the_next_call():
    a = checked("a")
    it = routed(a, checks=Checks(interval=30))
    async with no_leaks():
        await it.complete("hi")
        await asyncio.sleep(100)
        await it.aclose()
    asked = len(a.asked)
    await asyncio.sleep(500)
    assert len(a.asked) == asked
    async with no_leaks():
        await it.complete("hi")
        await asyncio.sleep(100)
        assert len(a.asked) > asked
        await it.aclose()


async def test_closing_the_chain_while_a_check_is_under_way_ends_it():
    a = checked("a")
    a.answer = lambda: asyncio.sleep(3)
    it = routed(a, checks=Checks(interval=30))
    async with no_leaks():
        await it.complete("hi")
        while not a.asked:
            await asyncio.sleep(0.5)
        await it.aclose()


async def test_checks_of_a_target_with_nothing_to_ask_are_left_out():
    class Bare:
        name, endpoint, model = "bare", "x", "m"

        async def __call__(self, call):
            return await MockProvider(default="ok")(call)

        async def aclose(self) -> None:
            pass

    it = routed(Bare(), checks=Checks())
    async with no_leaks():
        assert (await it.complete("hi")).text == "ok"
        assert router(it)._enter(it.runtime).checker is None
        await it.aclose()


async def test_checks_begin_again_where_a_loop_that_ended_has_ended_them():
    it = routed(checked("a"), checks=Checks(interval=30))
    await it.complete("hi")
    first = router(it)._enter(it.runtime).checker
    assert first is not None
    first.cancel()
    await asyncio.sleep(1)
    await it.complete("hi")
    second = router(it)._enter(it.runtime).checker
    assert second is not None
    assert not second.done()
    await it.aclose()


# -- who stands for choice


async def test_those_that_stand_behind_are_in_order_of_their_score():
    it = routed(target("worse"), target("better"))
    lanes = router(it)._enter(it.runtime).lanes
    for lane, every in zip(lanes, (2, 5), strict=True):
        for n in range(40):
            if n % every == 0:
                lane.health.failed(0, 0, "TIMEOUT")
            else:
                lane.health.streak = 0
                lane.health.answered(0, 0)
    it.runtime.random.random = lambda: 0.99  # type: ignore[method-assign]  # nobody draws a share
    lineup = line_up(it.new_call(Request("", "hi")), lanes, Board(), 0)
    assert (lineup.ready, [lane.name for lane in lineup.later]) == ([], ["better", "worse"])


async def test_a_wrong_request_shows_that_the_target_works():
    lines = iter([Overloaded("x"), Overloaded("x"), InvalidRequest("no"), Overloaded("x"), Overloaded("x")])
    it = routed(target("a", lambda request: next(lines)))
    ends = [next(iter(await load(it, seconds=1, rate=1))) for _ in range(5)]
    assert ends.count("CIRCUIT_OPEN") == 0
    assert status(it)["a"].streak == 2


async def test_a_target_that_is_gone_troubles_nobody():
    runtime = Runtime(seed=1)
    b = target("b")
    first = Chain(Router(target("a", Overloaded("x")), b, checks=None), runtime=runtime)
    await load(first, seconds=1, rate=8)
    second = Router(b, checks=None)
    await Chain(second, runtime=runtime).complete("hi")
    assert not second._enter(runtime).disturbed
