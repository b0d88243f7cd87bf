"""What is asked before each attempt of a call, wherever the attempt is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import BudgetExceeded, Overloaded
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.routing.ensemble import Ensemble
from llmpipe.routing.router import Router
from llmpipe.runtime import Runtime, at_once


class Guarded:
    """Puts a guard on every call, which writes down the target of each attempt."""

    name, priority = "guarded", 500

    def __init__(self, refuse: str = "") -> None:
        self.asked: list[str] = []
        self.refuse = refuse

    async def __call__(self, call: Call, call_next: Any) -> Any:
        return await call_next(call.evolve(guards=(*call.guards, self.guard)))

    async def guard(self, call: Call) -> Call:
        await asyncio.sleep(0)
        target = call.target or call.provider
        assert target is not None
        if target.name == self.refuse:
            raise BudgetExceeded("not that one")
        self.asked.append(target.name)
        return call


def failing(name: str) -> MockProvider:
    return MockProvider(default=Overloaded("no"), name=name)


def answering(name: str) -> MockProvider:
    return MockProvider(default="yes", name=name)


async def test_it_is_asked_before_each_retry():
    guarded, provider = Guarded(), failing("one")
    with pytest.raises(Overloaded):
        await Chain(provider, guarded, Retry(attempts=3)).complete("hi")
    assert guarded.asked == ["one"] * len(provider.requests) == ["one"] * 3


async def test_it_is_asked_with_the_target_that_a_fallback_chose():
    guarded = Guarded()
    await Chain(failing("one"), guarded, Retry(attempts=1), Fallback(answering("two"))).complete("hi")
    assert guarded.asked == ["one", "two"]


async def test_it_is_asked_inside_routers_and_chains_within_the_chain():
    guarded, spare = Guarded(), Chain(answering("two"), Retry())
    router = Router(failing("one"), spare, strategy="priority")
    assert (await Chain(router, guarded).complete("hi")).text == "yes"
    assert guarded.asked[-1] == "two"
    assert guarded.asked.count("one") >= 1


async def test_it_is_asked_for_every_member_of_an_ensemble():
    guarded = Guarded()
    members = [answering(name) for name in ("one", "two", "three")]
    await Chain(Ensemble(*members, combine="vote"), guarded).complete("hi")
    assert {"one", "two", "three"} <= set(guarded.asked)


async def test_a_refusal_makes_no_attempt_and_another_target_may_have_one():
    one, two = answering("one"), answering("two")
    chain = Chain(one, Guarded(refuse="one"), Retry(), Fallback(two))
    assert (await chain.complete("hi")).provider == "two"
    assert not one.requests


async def test_a_refusal_reaches_the_caller_and_is_no_attempt():
    one, seen = answering("one"), []

    class Looking:
        name, priority = "looking", 100

        async def __call__(self, call: Call, call_next: Any) -> AsyncGenerator[Any, Any]:
            try:
                reply = await call_next(call)
            except BudgetExceeded:
                seen.extend(call.ledger.attempts)
                raise
            yield reply

    with pytest.raises(BudgetExceeded):
        await Chain(one, Looking(), Guarded(refuse="one")).complete("hi")
    assert not seen
    assert not one.requests


async def test_what_a_guard_changes_is_what_is_sent():
    class Cheaper(Guarded):
        async def guard(self, call: Call) -> Call:
            return call.evolve(request=evolve(call.request, model="small"))

    provider = answering("one")
    await Chain(provider, Cheaper()).complete("hi", model="large")
    assert provider.requests[0].model == "small"


async def test_guards_are_asked_in_order_and_the_first_refusal_ends_it():
    first, second = Guarded(refuse="one"), Guarded()
    second.name = "second"
    second.priority = 600
    with pytest.raises(BudgetExceeded):
        await Chain(answering("one"), first, second).complete("hi")
    assert not second.asked


@pytest.mark.parametrize("inside", [False, True])
async def test_an_attempt_waits_for_barriers_when_all_guards_have_let_it_pass(inside: bool):
    order: list[str] = []

    async def barrier(call: Call) -> None:
        await asyncio.sleep(1)
        order.append(f"barrier of {call.request.model}")

    class Barred(Guarded):
        async def __call__(self, call: Call, call_next: Any) -> Any:
            return await call_next(call.evolve(barriers=(*call.barriers, barrier)))

    class Cheaper(Guarded):
        async def guard(self, call: Call) -> Call:
            order.append("guard")
            return call.evolve(request=evolve(call.request, model="small"))

    outer, inner = Barred(), Cheaper()
    outer.name, outer.priority = "barred", 400
    provider = answering("one")
    chain = Chain(Router(Chain(provider), strategy="priority") if inside else provider, outer, inner)
    await chain.complete("hi", model="large")
    assert order == ["guard", "barrier of small"]
    assert len(provider.requests) == 1


async def test_a_barrier_that_refuses_makes_no_attempt_and_another_target_may_have_one():
    async def barrier(call: Call) -> None:
        assert call.target is not None or call.provider is not None
        if (call.target or call.provider).name == "one":  # type: ignore[union-attr]  # just asserted
            raise Overloaded("not that one", sent=False)

    class Barred(Guarded):
        async def __call__(self, call: Call, call_next: Any) -> Any:
            return await call_next(call.evolve(barriers=(*call.barriers, barrier)))

    one, two = answering("one"), answering("two")
    done = await Chain(one, Barred(), Retry(), Fallback(two)).complete("hi")
    assert done.provider == "two"
    assert not one.requests


def test_what_never_waits_is_done_at_once():
    async def add(one: int, other: int) -> int:
        return one + other

    assert at_once(add(1, 2)) == 3


async def test_what_waits_is_not_done_at_once():
    async def wait() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited"):
        at_once(wait())


async def test_a_runtime_closes_what_it_opened_the_youngest_first():
    closed: list[str] = []

    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)

    runtime = Runtime()
    for name in ("store", "desk"):
        runtime.state("thing", name, partial(Thing, name))
    await runtime.aclose()
    assert closed == ["desk", "store"]
