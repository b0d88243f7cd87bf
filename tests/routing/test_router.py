"""Routers: who answers, what goes on to the next, and what is refused."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ConfigError,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StreamBroken,
    Timeout,
    Unsupported,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import settles_at_once
from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.checks import Checks
from llmpipe.routing.health import Health
from llmpipe.routing.lane import Meter
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.routing.rules import HealthRules
from llmpipe.runtime import Runtime
from llmpipe.testing import conform, no_leaks
from llmpipe.types import Image, Message, Request, ResponseFormat, Tool, Usage

CAN_ALL = Capabilities(embeddings=True)


def target(name: str, *script, default=None, model: str | None = None) -> MockProvider:
    return MockProvider(script, default=default, name=name, model=f"{name}-1" if model is None else model)


def router(it: Chain) -> Router:
    """The router at the core of a chain."""
    assert isinstance(it.provider, Router)
    return it.provider


def routed(*targets, around=(), runtime: Runtime | None = None, **settings) -> Chain:
    settings.setdefault("checks", None)
    return Chain(Router(*targets, **settings), *around, runtime=runtime or Runtime(seed=1))


async def ask(it: Chain, request: str | Request = "hi", *, stream: bool = False, **options):
    """What one call comes to, a text or an error, and the call."""
    if isinstance(request, str):
        request = Request("", request, stream=stream)
    call = it.new_call(request, **options)
    try:
        reply = await it(call)
        return (await reply.full()).text, call
    except LLMError as error:
        return error, call


def notes(call, *kinds: str) -> list[tuple]:
    """The router's notes of those kinds, or all of them, with their details."""
    told = [(note.kind.removeprefix("router."), *note.detail.values()) for note in call.ledger.notes]
    return [note for note in told if not kinds or note[0] in kinds]


def state(it: Chain) -> dict[str, str]:
    return {one.name: one.state for one in router(it).status()}


# -- who answers


async def test_all_targets_answer_and_an_undisturbed_call_writes_no_note():
    it = routed(target("a", default="A"), target("b", default="B"))
    said = [await ask(it) for _ in range(4)]
    assert [text for text, _ in said] == ["A", "B", "A", "B"]
    assert all(call.ledger.notes == [] and len(call.ledger.attempts) == 1 for _, call in said)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_target_answers_where_one_fails(stream: bool):
    it = routed(target("a", Overloaded("down")), target("b", "theirs"))
    said, call = await ask(it, stream=stream)
    assert said == "theirs"
    assert notes(call) == [("failed_over", "a", "b", "SERVICE_UNAVAILABLE")]
    assert [attempt.provider for attempt in call.ledger.attempts] == ["a", "b"]


async def test_each_target_answers_with_its_own_model_and_one_without_gets_the_callers():
    own, any_ = target("own", default="x"), target("any", default="x", model="")
    it = routed(own, any_)
    for _ in range(2):
        await it.complete("hi", model="big")
    assert [r.model for r in (own.requests[0], any_.requests[0])] == ["own-1", "big"]


async def test_one_provider_stands_for_several_models_under_several_names():
    one = target("p", Overloaded("down"), default="ok")
    it = routed(Route(one, model="small", name="p-small"), Route(one, model="large", name="p-large"))
    said, call = await ask(it)
    assert (said, [r.model for r in one.requests]) == ("ok", ["small", "large"])
    assert [attempt.provider for attempt in call.ledger.attempts] == ["p-small", "p-large"]


async def test_two_keys_of_one_provider_have_a_circuit_each():
    first, second = target("p", default=Overloaded("down")), target("p", default="ok")
    it = routed(Route(first, name="p-1"), Route(second, name="p-2"), health=HealthRules(down_after=100))
    for _ in range(30):
        assert (await ask(it))[0] == "ok"
    board = it.runtime.state("breaker", "breaker", Board)
    assert {key[0] for key in board.circuits if isinstance(key, tuple)} == {"p-1", "p-2"}
    assert {key[0] for key in board.troubled if isinstance(key, tuple)} == {"p-1"}


async def test_a_chain_is_taken_as_it_is_and_brings_its_own_retries():
    inner = target("inner", Overloaded("1"), "second try")
    it = routed(Chain(inner, Retry(base=0.1)))
    assert (await ask(it))[0] == "second try"


async def test_a_retry_within_does_not_wait_while_another_target_is_ready():
    it = routed(Chain(target("inner", Overloaded("1"), "second try"), Retry()), target("other", "x"))
    assert (await ask(it))[0] == "x"


async def test_a_router_is_a_target_of_another():
    inner = Router(target("a", Overloaded("x")), target("b", Overloaded("x")), name="inner", checks=None)
    it = routed(inner, target("c", "last"))
    said, call = await ask(it)
    assert said == "last"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["a", "b", "c"]
    assert [one.name for one in router(it).status()] == ["inner", "c"]


async def test_layers_of_ones_own_go_round_each_provider():
    seen: list[str] = []

    @layer(priority=800)
    async def mine(call, call_next):
        seen.append(call.target_key[0])
        return await call_next(call)

    own = Route(target("b", "ok"), layers=())
    it = Chain(Router(target("a", Overloaded("x")), own, layers=(mine,), checks=None))
    assert (await ask(it))[0] == "ok"
    assert seen == ["a"]


async def test_a_target_that_takes_requests_and_is_silent_costs_half_a_minute_and_no_call():
    it = routed(target("silent", [Wait(1000), "late"]), target("b", default="ok"))
    began = asyncio.get_running_loop().time()
    said, call = await ask(it)
    assert (said, asyncio.get_running_loop().time() - began) == ("ok", 30)
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "ok"]
    assert router(it).status()[0].failures == 1


async def test_embeddings_and_rankings_are_routed_too():
    it = routed(target("a", Overloaded("down"), default="x"), target("b", default="x"))
    assert (await it.embed(["one", "two"])).provider == "b"
    able = [Route(one.target, capabilities=Capabilities(rerank=True)) for one in router(it).routes]
    assert (await routed(*able).rerank("which?", ["this", "that"])).provider == "a"


# -- what goes on to the next


@pytest.mark.parametrize("error", [Overloaded("x"), Timeout("x"), RateLimited("x"), AuthenticationFailed("x"),
                                   QuotaExceeded("x"), CircuitOpen("x"), Unsupported("x")])  # fmt: skip
async def test_what_another_target_could_answer_goes_on(error: LLMError):
    assert (await ask(routed(target("a", error), target("b", "theirs"))))[0] == "theirs"


async def test_a_wrong_request_is_raised_and_nobody_else_is_asked():
    other = target("b", default="x")
    said, call = await ask(routed(target("a", InvalidRequest("no")), other))
    assert isinstance(said, InvalidRequest)
    assert (other.requests, notes(call), "router" in said.metadata) == ([], [], False)


@pytest.mark.parametrize("on_policy", [False, True])
async def test_a_refusal_by_policy_goes_on_only_if_asked(on_policy: bool):
    said, _ = await ask(routed(target("a", ContentFiltered("no")), target("b", "yes"), on_policy=on_policy))
    assert (said == "yes") is on_policy


async def test_what_does_not_fit_goes_to_targets_with_a_larger_context_only():
    small, tiny, unknown, large = (
        target(name, default="fits") for name in ("small", "tiny", "unknown", "large")
    )
    small.default = ContextTooLong("too long")
    it = routed(
        Route(small, context_tokens=8000), Route(tiny, context_tokens=4000), unknown,
        Route(large, context_tokens=100_000),
    )  # fmt: skip
    unknown.default = ContextTooLong("too long")
    said, call = await ask(it)
    assert said == "fits"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["small", "unknown", "large"]
    assert tiny.requests == []


async def test_the_same_model_at_another_provider_has_no_larger_context():
    a, b = target("a", ContextTooLong("x"), model="same"), target("b", model="same")
    said, _ = await ask(routed(a, b))
    assert isinstance(said, ContextTooLong)
    assert b.requests == []


async def test_on_context_off_raises_what_does_not_fit():
    said, _ = await ask(routed(target("a", ContextTooLong("x")), target("b", "x"), on_context=False))
    assert isinstance(said, ContextTooLong)


async def test_a_stream_that_has_begun_is_not_continued_and_counts_as_a_failure():
    it = routed(target("a", ["a", StreamBroken("cut")]), target("b", default="x"))
    said, _ = await ask(it, stream=True)
    assert isinstance(said, StreamBroken)
    one = router(it).status()[0]
    assert (one.failures, one.streak, one.last_error, one.in_flight) == (1, 1, "NETWORK_ERROR", 0)


async def test_streams_that_keep_breaking_put_a_target_down():
    it = routed(target("a", default=["a", StreamBroken("cut")]), target("b", default="x"))
    for _ in range(6):
        await ask(it, stream=True)
    assert state(it)["a"] == "down"


async def test_an_error_that_is_none_of_ours_passes_and_counts_as_nothing():
    it = routed(target("a", LookupError("bug")), target("b", default="x"))
    with pytest.raises(LookupError):
        await it.complete("hi")
    assert router(it).status()[0].failures == 0


async def test_when_all_fail_the_error_says_what_each_said():
    it = routed(target("a", Overloaded("busy", retry_after=7)), target("b", AuthenticationFailed("no key")))
    said, _ = await ask(it)
    assert isinstance(said, Overloaded)
    assert [(one["target"], one["type"]) for one in said.metadata["router"]] == [
        ("a", "SERVICE_UNAVAILABLE"),
        ("b", "AUTHENTICATION_ERROR"),
    ]


async def test_no_failover_is_begun_beyond_the_attempts_of_a_call():
    targets = [target(f"t{n}", default=Overloaded("x")) for n in range(6)]
    said, call = await ask(routed(*targets, attempts=3))
    assert isinstance(said, Overloaded)
    assert len(call.ledger.attempts) == 3
    assert notes(call, "gave_up") == [("gave_up", "attempts", "SERVICE_UNAVAILABLE")]
    assert [one["type"] for one in said.metadata["router"]].count("NOT_ASKED") == 3


async def test_retries_outside_and_failovers_share_the_attempts_of_a_call():
    targets = [target(f"t{n}", default=Overloaded("x")) for n in range(3)]
    _, call = await ask(routed(*targets, around=(Retry(attempts=3, base=0.1),)))
    assert len(call.ledger.attempts) <= 4


async def test_no_failover_is_begun_that_the_deadline_leaves_no_time_for():
    slow = target("a", [Wait(9.8), Overloaded("x")])
    other = target("b", default="x")
    said, call = await ask(routed(slow, other), timeout=10)
    assert isinstance(said, Overloaded)
    assert (other.requests, notes(call, "gave_up")) == ([], [("gave_up", "deadline", "SERVICE_UNAVAILABLE")])


# -- who rests


async def test_one_that_asked_us_to_wait_comes_last_until_then():
    limited = target("a", RateLimited("slow", retry_after=20), default="A")
    it = routed(limited, target("b", default="B"))
    said = []
    for _ in range(8):
        said.append((await ask(it))[0])
        await asyncio.sleep(5)
    assert said[:4] == ["B"] * 4
    assert "A" in said[4:]
    assert router(it).status()[0].failures == 0


async def test_one_that_does_not_take_our_key_rests_for_the_cooldown_and_is_not_unhealthy():
    it = routed(target("a", AuthenticationFailed("no"), default="A"), target("b", default="B"), cooldown=30)
    await ask(it)
    one = router(it).status()[0]
    assert (one.state, one.retry_after, one.reason, one.failures) == (
        "resting",
        30,
        "AUTHENTICATION_ERROR",
        0,
    )
    _, call = await ask(it)
    assert notes(call) == [("picked", "b", (("a", "AUTHENTICATION_ERROR"),))]


async def test_those_that_rest_are_asked_when_nobody_else_is_left():
    it = routed(target("a", RateLimited("slow", retry_after=60), default="A"))
    await ask(it)
    assert (await ask(it))[0] == "A"
    assert state(it) == {"a": "healthy"}  # it answered, so it need not rest


# -- what a request needs


def can(name: str, default="ok", **lacks) -> Route:
    return Route(target(name, default=default), capabilities=evolve(CAN_ALL, **lacks))


PICTURE = Request("", [Message("user", ["look", Image(url="https://x/y.png")])])


async def test_only_targets_that_can_do_what_is_asked_are_asked():
    it = routed(can("blind", vision=False), can("seeing"))
    said = [(await it.complete(PICTURE)).provider for _ in range(4)]
    assert said == ["seeing"] * 4
    assert {(await it.complete("hi")).provider for _ in range(4)} == {"blind", "seeing"}


async def test_a_request_that_nobody_can_do_is_refused_before_anything_is_sent():
    it = routed(can("blind", vision=False), can("handless", tools=False))
    said, call = await ask(it, evolve(PICTURE, tools=[Tool("f")]))
    assert isinstance(said, Unsupported)
    assert "blind has no images" in said.message
    assert "handless has no tools" in said.message
    assert (call.ledger.attempts, said.sent) == ([], False)


async def test_what_can_be_emulated_is_a_wish():
    as_json = Request("", "hi", response_format=ResponseFormat("json_schema", {"type": "object"}))
    both = routed(can("emulating", json_schema=False), can("native"))
    assert {(await both.complete(as_json)).provider for _ in range(3)} == {"native"}
    assert (await routed(can("emulating", json_schema=False)).complete(as_json)).provider == "emulating"


async def test_a_beginning_goes_to_those_whose_model_goes_on_from_it():
    class Choosy(MockProvider):
        def capabilities_of(self, model: str) -> Capabilities:
            return Capabilities(prefill=model == "old")

    begun = Request("", [Message("user", "hi"), Message("assistant", "Once")])
    new, old = Choosy(default="n", name="new", model="new"), Choosy(default="o", name="old", model="old")
    assert {(await routed(new, old).complete(begun)).provider for _ in range(3)} == {"old"}
    assert (await routed(new).complete(begun)).text == "n"  # a wish
    renamed = routed(Route(old, name="a", model="new"), Route(old, name="b"))
    for _ in range(3):
        _, call = await ask(renamed, begun)
        assert [attempt.provider for attempt in call.ledger.attempts] == ["b"]


async def test_embeddings_go_to_those_that_have_them():
    it = routed(can("chat", embeddings=False), can("vectors"))
    assert {(await it.embed(["x"])).provider for _ in range(3)} == {"vectors"}
    with pytest.raises(Unsupported, match="chat has no embeddings"):
        await routed(can("chat", embeddings=False)).embed(["x"])


async def test_what_nobody_says_of_a_target_is_a_maybe():
    silent = target("silent", default="ok")
    silent.capabilities = None  # type: ignore[assignment]  # a provider that does not say
    assert (await routed(silent).complete(PICTURE)).text == "ok"


@pytest.mark.parametrize(("require", "asked"), [("none", 2), (("tools",), 2), ("vision", 1), ("auto", 1)])
async def test_require_says_what_is_looked_at(require, asked: int):
    it = routed(can("blind", vision=False), can("seeing"), require=require)
    assert len({(await it.complete(PICTURE)).provider for _ in range(4)}) == asked


async def test_a_long_request_goes_to_targets_that_hold_it():
    it = routed(
        Route(target("small", default="s"), context_tokens=500),
        Route(target("large", default="l"), context_tokens=50_000),
    )
    assert {(await it.complete("word " * 1000)).text for _ in range(3)} == {"l"}
    assert {(await it.complete("word")).text for _ in range(4)} == {"s", "l"}
    said, call = await ask(it, "word " * 200_000)
    assert isinstance(said, Unsupported)
    assert "small holds 500; large holds 50000" in said.message
    assert call.ledger.attempts == []


async def test_an_estimate_just_above_the_context_is_no_reason_to_refuse():
    it = routed(Route(target("small", default="s"), context_tokens=1200))
    assert (await it.complete("word " * 1000)).text == "s"  # estimated some 1,400, in truth 1,000


# -- bad input


class Provider(MockProvider):
    nests = False


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Router(), "at least one target"),
        (lambda: Router(target("a"), strategy="least_bussy"), "did you mean 'least_busy'"),
        (lambda: Router(target("a"), target("a")), "two targets are called 'a'"),
        (lambda: Router(Route(target("a"), weight=0)), "weight is a number above 0, not 0"),
        (lambda: Router(Route(target("a"), weight=float("nan"))), "above 0, not nan"),
        (lambda: Router(Route(target("a"), weight="3")), "above 0, not '3'"),
        (lambda: Router(Route(target("a"), weight=float("inf"))), "above 0, not inf"),
        (lambda: Router(Route(target("a"), priority=1.5)), "priority is a whole number"),
        (lambda: Router(Route(target("a"), context_tokens=0)), "context_tokens is a whole number"),
        (lambda: Router(MockProvider), "not to the class MockProvider"),
        (lambda: Router("openai"), "not to a str"),
        (lambda: Router([target("a")]), "not to a list"),
        (lambda: Router(Retry()), "not to a Retry"),
        (lambda: Route(Route(target("a"))), "inside a route"),
        (lambda: Router(target("a"), when_all_down="wait"), "'refuse' or 'try_best'"),
        (lambda: Router(target("a"), attempts=0), "attempts is a number, 1 or more"),
        (lambda: Router(target("a"), failover_share=-1), "failover_share is a number, 0 or more"),
        (lambda: Router(target("a"), require="visoin"), "did you mean 'vision'"),
        (lambda: Router(target("a"), require=3), "require is"),
        (lambda: Router(target("a"), health=3), "takes HealthRules"),
        (lambda: Router(target("a"), checks="models"), "takes Checks"),
        (lambda: Checks(check="modles"), "did you mean 'models'"),
        (lambda: Checks(interval=0), "seconds above 0"),
        (lambda: Checks(check=3), "name or an async function"),
    ],
)
def test_typical_slips_are_told_what_would_be_right(make, told: str):
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        make()


def test_targets_that_lead_back_to_themselves_are_refused():
    inner = Chain(target("a"))
    outer = Chain(inner)
    inner.provider = outer
    with pytest.raises(ConfigError, match="leads back to itself"):
        Router(inner)
    first = Chain(target("b"))
    second = Chain(Router(first, checks=None))
    first.use(Fallback(second))
    with pytest.raises(ConfigError, match="leads back to itself"):
        Router(second)


async def test_a_circle_that_is_closed_later_is_told_by_the_call_that_finds_it():
    inner = Chain(target("a", default=Overloaded("x")))
    router = Router(inner, checks=None)
    inner.use(Fallback(Chain(router)))
    with pytest.raises(ConfigError, match="reached again through its own target"):
        await Chain(router).complete("hi")


# -- nothing is left behind


async def test_in_flight_is_given_back_by_streams_that_are_left():
    it = routed(target("a", default=["one ", Wait(5), "two"]))
    async with no_leaks():
        async with it.stream("hi") as reply:
            await anext(reply)
            assert router(it).status()[0].in_flight == 1
        assert router(it).status()[0].in_flight == 0
        assert router(it).status()[0].failures == 0
        await it.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_every_await_nothing_stays_under_way(stream: bool):
    """Cancelled after each turn of the loop in turn, until a run comes to its end undisturbed."""
    for turns in range(200):
        a = target("a", [Wait(0.001), Overloaded("x")])
        b = target("b", [Wait(0.001), "one ", Wait(0.001), "two"])
        it = routed(a, b)
        task = asyncio.create_task(ask(it, stream=stream))
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        task.cancel()
        done: Any = (await asyncio.gather(task, return_exceptions=True))[0]
        await it.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if turns:
            desk = router(it)._enter(it.runtime)
            assert [one.in_flight for one in router(it).status()] == [0, 0]
            assert (a.open, b.open, desk.budget.under_way) == (0, 0, 0)
            assert router(it).status()[1].failures == 0
        if not isinstance(done, asyncio.CancelledError):
            assert done[0] == "one two"
            assert turns > 20
            return
    raise AssertionError("no run came to its end")


async def test_a_reply_that_is_dropped_gives_back_what_it_took():
    it = routed(target("a", default=["one ", Wait(5), "two"]))
    reply = await it(it.new_call(Request("", "hi", stream=True)))
    await anext(reply)
    with pytest.warns(ResourceWarning, match="never closed"):
        del reply
        gc.collect()
    await asyncio.sleep(1)
    assert router(it).status()[0].in_flight == 0


async def test_the_meter_keeps_the_laws_of_the_pipeline():
    def health_of(runtime: Runtime) -> Health:
        return runtime.state("test", "health", lambda: Health("t", HealthRules(), runtime.random))

    await conform(lambda: Meter(health_of), balance=lambda runtime: health_of(runtime).in_flight)


def test_the_meter_is_resumed_on_the_spot():
    assert settles_at_once(Meter.__call__.__code__)


async def test_failures_that_were_survived_let_go_of_their_frames():
    it = routed(target("a", Overloaded("down")), target("b", "theirs"))
    _, call = await ask(it)
    assert call.ledger.attempts[0].error.__traceback__ is None


# -- explained, and known again


async def test_a_chain_round_a_router_is_explained():
    it = routed(Route(target("a", default="x"), weight=2), Chain(target("b"), Retry(attempts=3)), attempts=4)
    assert "round_robin over a ×2, b" in str(it.explain())
    told = router(it).explain()
    assert (told.attempts, it.explain().attempts) == (4, 4)
    assert "a: weight 2" in str(told)
    assert "retry" in str(told)


def test_a_router_can_do_what_one_of_its_targets_can():
    both = Router(can("blind", vision=False, context_tokens=5), can("seeing", tools=False, context_tokens=9))
    assert both.capabilities == evolve(CAN_ALL, context_tokens=9)


async def test_options_reach_the_chains_within():
    it = routed(Chain(target("a", default=Overloaded("x")), Retry(base=0.1)))
    _, call = await ask(it, options={Retry: {"attempts": 2}})
    assert len(call.ledger.attempts) == 2


async def test_health_outlives_the_router_on_its_runtime():
    runtime = Runtime(seed=1)
    a, b = target("a", default=Overloaded("x")), target("b", default="ok")
    first = routed(a, b, runtime=runtime)
    for _ in range(6):
        await ask(first)
    second = routed(a, b, runtime=runtime, strategy="least_busy")
    await ask(second)
    assert state(second) == {"a": "down", "b": "healthy"}


async def test_status_before_the_first_call_needs_a_runtime():
    router = Router(target("a"), checks=None)
    with pytest.raises(ConfigError, match="pass the runtime"):
        router.status()
    assert [one.state for one in router.status(Runtime())] == ["healthy"]
    assert router.changes() == ()
    assert Breaker().name == "breaker"


async def test_a_provider_under_another_name_is_priced_by_its_own():
    def mock() -> MockProvider:
        return MockProvider(default="ok", name="openai", model="gpt-4o-mini", usage=Usage(1000, 100))

    own = await Chain(mock(), Cost()).complete("hi")
    renamed = await Chain(Router(Route(mock(), name="europe")), Cost()).complete("hi")
    assert renamed.cost == own.cost
    assert own.cost
