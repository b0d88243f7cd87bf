"""The chain: order, names, the front door, attempts, nesting, closing."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, InvalidRequest, LLMError, RateLimited, ReplyClosed, StreamBroken
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.loop import run
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, Message, Request, Usage
from tests.pipeline.kit import Boom, Ends, Remembering, chain, plain, texts, turns


def a_layer(name: str, priority: int, log: list[str] | None = None):
    @plain(priority, name)
    async def layer(call: Call, call_next: Handler):
        if log is not None:
            log.append(name)
        return await call_next(call)

    return layer


# ------------------------------------------------------------ order and names


@given(priorities=st.lists(st.integers(-3, 3), max_size=12))
def test_lower_priorities_run_further_out_and_ties_keep_their_order(priorities: list[int]):
    log: list[str] = []
    layers = [a_layer(f"m{at}", priority, log) for at, priority in enumerate(priorities)]
    c = chain(MockProvider(default="hi"), *layers)
    run(c.complete("x"))
    places = sorted(range(len(priorities)), key=lambda at: (priorities[at], at))
    assert log == [f"m{at}" for at in places] == [layer.name for layer in c.middleware]


async def test_use_puts_a_middleware_where_its_priority_belongs_and_leaves_running_calls_alone():
    log: list[str] = []
    c = chain(MockProvider(default=[Wait(1), "hi"]), a_layer("a", 100, log), a_layer("c", 300, log))
    under_way = asyncio.create_task(c.complete("x"))
    await turns()
    assert c.use(a_layer("b", 200, log)) is c
    await under_way
    assert log == ["a", "c"]
    log.clear()
    await c.complete("x")
    assert log == ["a", "b", "c"]


def test_a_name_can_be_used_once_and_a_refused_middleware_changes_nothing():
    c = chain(MockProvider(), a_layer("a", 100))
    with pytest.raises(ConfigError, match="two middlewares are called 'a'"):
        c.use(a_layer("a", 200))
    assert [layer.name for layer in c.middleware] == ["a"]


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (7, "cannot be called"),
        (Retry, r"Retry is a class; make one of it: Retry\(\.\.\.\)"),
        (lambda call, call_next: None, "has no name"),
        (type("P", (), {"name": "p", "__call__": print, "priority": "high"})(), "no integer priority"),
        (type("P", (), {"name": "p", "__call__": print, "priority": True})(), "no integer priority"),
        (type("P", (), {"name": "", "__call__": print, "priority": 1})(), "has no name"),
    ],
)
def test_what_is_no_middleware_is_refused_when_the_chain_is_made(item: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        chain(MockProvider(), item)


def test_what_is_no_provider_is_refused_when_the_chain_is_made():
    for wrong in ("gpt", None, MockProvider, a_layer("m", 1)):
        with pytest.raises(ConfigError, match="needs a provider"):
            Chain(wrong)


async def test_a_middleware_may_stand_for_several_rings():
    log: list[str] = []

    class Two:
        name, priority = "two", 0

        def rings(self):
            return (a_layer("two.outer", 100, log), a_layer("two.inner", 300, log))

    c = chain(MockProvider(default="hi"), a_layer("between", 200, log), Two())
    await c.complete("x")
    assert log == ["two.outer", "between", "two.inner"]
    c.use(a_layer("more", 250, log))
    assert [layer.name for layer in c.middleware] == ["two.outer", "between", "more", "two.inner"]


async def test_without_makes_a_chain_that_lacks_a_middleware_and_shares_the_runtime():
    log: list[str] = []
    c = chain(MockProvider(default="hi"), a_layer("a", 1, log), a_layer("b", 2, log))
    less = c.without("a")
    assert less.runtime is c.runtime
    await less.complete("x")
    assert log == ["b"]
    await c.complete("x")
    assert log == ["b", "a", "b"]
    with pytest.raises(ConfigError, match="no middleware 'z'; it has: a, b"):
        c.without("z")


async def test_a_single_call_can_skip_a_middleware():
    log: list[str] = []
    c = chain(MockProvider(default="hi"), a_layer("a", 1, log), a_layer("b", 2, log))
    await c.complete("x", without=["a"])
    assert log == ["b"]
    await c.complete("x", without={"a", "b"})
    assert log == ["b"]
    with pytest.raises(ConfigError, match=r"without names \['z'\]"):
        await c.complete("x", without=["z"])


async def test_a_single_call_can_change_settings():
    seen: list[int] = []

    @frozen(kw_only=True)
    class Layer:
        attempts: int = 3
        name: str = "layer"
        priority: int = 1

        async def __call__(self, call: Call, call_next: Handler) -> Reply:
            seen.append(call.opt(self).attempts)
            return await call_next(call)

    c = chain(MockProvider(default="hi"), Layer())
    await c.complete("x", options={Layer: {"attempts": 1}})
    await c.complete("x")
    assert seen == [1, 3]


# ------------------------------------------------------------ the front door


@pytest.mark.parametrize(
    "prompt",
    [
        "hi",
        Message("user", "hi"),
        [Message("user", "hi")],
        {"role": "user", "content": "hi"},
        [{"role": "user", "content": "hi"}],
        ["hi"],
        Request(messages="hi"),
    ],
)
async def test_a_prompt_may_be_many_things(prompt: Any):
    provider = MockProvider(default="ho")
    c = chain(provider)
    assert (await c.complete(prompt, max_tokens=7)).text == "ho"
    async with c.stream(prompt, max_tokens=7) as reply:
        assert await texts(reply) == "ho"
    full, stream = provider.requests
    assert full.messages == stream.messages == (Message("user", "hi"),)
    assert (full.max_tokens, full.stream, stream.stream) == (7, False, True)


async def test_a_request_that_is_right_already_is_passed_on_as_it_is():
    provider = MockProvider(default="ho")
    request = Request("m", "hi", stream=False)
    await chain(provider).complete(request)
    assert provider.requests[0] is request


async def test_what_a_call_is_told_reaches_the_middlewares():
    seen: list[Call] = []

    @plain(1, "look")
    async def look(call: Call, call_next: Handler):
        seen.append(call)
        return await call_next(call)

    c = chain(MockProvider(default="hi"), look)
    await asyncio.sleep(5)
    await c.complete("x", tenant="t", user="u", priority=3, tags={"a": "b"}, timeout=10)
    await c.complete("x")
    told, untold = seen
    assert (told.tenant, told.user, told.priority, told.tags) == ("t", "u", 3, {"a": "b"})
    assert (told.started_at, told.deadline) == (5.0, 15.0)
    assert (untold.tenant, untold.priority, untold.deadline) == ("", 0, None)
    assert told.id.startswith("call-")
    assert told.id != untold.id
    assert told.provider is c.provider


async def test_an_unknown_keyword_is_refused_with_those_there_are():
    c = chain(MockProvider(default="hi"))
    with pytest.raises(ConfigError, match="unknown keyword 'max_token'; a call takes tenant"):
        await c.complete("x", max_token=3)
    with pytest.raises(ConfigError, match="unknown keyword 'max_token'"):
        c.stream("x", max_token=3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"priority": "high"}, "priority is a str; expected int"),
        ({"tenant": None}, "tenant is a NoneType; expected str"),
        ({"tags": "x"}, "tags is a str; expected Mapping"),
        ({"options": {"retry": {"attempts": 1}}}, r"keyed by the middleware's class.*'retry'"),
        ({"without": 5}, "without is a int; expected Iterable"),
        ({"without": ["nope"]}, "'nope'.*does not have"),
    ],
)
async def test_what_a_call_is_told_wrongly_is_refused_with_what_would_be_right(options: Any, match: str):
    provider = MockProvider(default="hi")
    with pytest.raises(ConfigError, match=match):
        await chain(provider).complete("x", **options)
    assert provider.requests == []


async def test_a_single_name_to_skip_is_a_name_and_not_its_letters():
    log: list[str] = []
    await chain(MockProvider("hi"), a_layer("abc", 1, log)).complete("x", without="abc")
    assert log == []


@pytest.mark.parametrize("wrong", [None, 5, EmbeddingRequest(inputs=("x",))])
async def test_what_is_no_prompt_is_refused_with_what_would_be_one(wrong: Any):
    c = chain(MockProvider(default="hi"))
    with pytest.raises(ConfigError, match=f"a prompt is .* not a {type(wrong).__name__}"):
        await c.complete(wrong)
    if not isinstance(wrong, EmbeddingRequest):
        with pytest.raises(ConfigError, match=f"embed takes .* not a {type(wrong).__name__}"):
            await c.embed(wrong)


async def test_embed_takes_a_string_a_list_or_a_request():
    provider = MockProvider(default=Embeddings(((1.0,),)))
    c = chain(provider, Ends().yielder())
    for inputs in ("a", ["a"], EmbeddingRequest(inputs=["a"])):
        assert (await c.embed(inputs, dimensions=4, tenant="t")).vectors == ((1.0,),)
    assert {request.dimensions for request in provider.requests} == {4}
    assert {request.inputs for request in provider.requests} == {("a",)}
    with pytest.raises(InvalidRequest, match="at least one input"):
        await c.embed([])


# ------------------------------------------------------------ attempts


async def test_each_request_to_a_provider_is_an_attempt():
    @plain(500, "again")
    async def again(call: Call, call_next: Handler):
        for _ in range(2):
            try:
                return await call_next(call)
            except RateLimited:
                await asyncio.sleep(1)
        return await call_next(call)

    first, second = RateLimited("slow"), RateLimited("slower")
    c = chain(MockProvider([first, second, ["a", Wait(2), "b"]], model="m1"), again)
    call = c.new_call(Request(messages="x", stream=True))
    await (await c(call)).full()
    attempts = call.ledger.attempts
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert [attempt.status for attempt in attempts] == ["error", "error", "ok"]
    assert [attempt.error for attempt in attempts] == [first, second, None]
    assert [(a.started_at, a.committed_at, a.ended_at) for a in attempts] == [
        (0.0, None, 0.0),
        (1.0, None, 1.0),
        (2.0, 2.0, 4.0),
    ]
    assert [attempt.asked_model for attempt in attempts] == ["m1"] * 3
    assert attempts[0].usage is None
    assert attempts[2].usage is not None
    assert attempts[2].usage.output_tokens == 2


async def test_an_error_knows_which_attempt_it_ended():
    c = chain(
        MockProvider([RateLimited("slow"), ["a", StreamBroken("cut")], InvalidRequest("bad")], name="p")
    )
    call = c.new_call(Request("m", "x", stream=True))
    caught: list[LLMError] = []
    for _ in range(3):
        with pytest.raises(LLMError) as error:
            await (await c(call)).full()
        caught.append(error.value)
    assert [error.attempt for error in caught] == [1, 2, 3]
    assert [(error.provider, error.model) for error in caught] == [("p", "m")] * 3


async def test_an_abandoned_and_a_cancelled_attempt_are_told_apart():
    c = chain(MockProvider(default=["a", Wait(10), "b"]))
    call = c.new_call(Request(messages="x", stream=True))
    await (await c(call)).aclose()
    task = asyncio.create_task((await c(call)).full())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    waiting = asyncio.create_task(c(call.evolve(target=MockProvider([[Wait(9), "a"]]))))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert [attempt.status for attempt in call.ledger.attempts] == ["abandoned", "cancelled", "cancelled"]


@pytest.mark.parametrize("given", [None, "text", Completion()])
async def test_a_provider_that_gives_no_reply_fails_its_attempt(given: Any):
    class Wrong(MockProvider):
        async def __call__(self, call: Call) -> Reply:
            return given

    c = chain(Wrong())
    call = c.new_call(Request(messages="x"))
    with pytest.raises(TypeError, match="instead of a new Reply"):
        await c(call)
    assert [attempt.status for attempt in call.ledger.attempts] == ["error"]


async def test_a_provider_may_give_a_reply_of_a_kind_of_its_own():
    class Special(Reply):
        """A reply with something more."""

    class Own(MockProvider):
        async def __call__(self, call: Call) -> Reply:
            return Special.of(Completion(message=Message("assistant", "hi"), finish_reason="stop"))

    assert (await chain(Own()).complete("x")).text == "hi"


async def test_a_provider_that_gives_the_same_reply_twice_is_told_so():
    once = Reply.of(Completion(message=Message("assistant", "hi"), finish_reason="stop"))

    class Twice(MockProvider):
        async def __call__(self, call: Call) -> Reply:
            return once

    c = chain(Twice())
    assert (await c.complete("x")).text == "hi"
    with pytest.raises(TypeError, match="a reply that is over"):
        await c.complete("x")


# ------------------------------------------------------------ targets and nested chains


async def test_a_target_chosen_by_routing_is_used_instead_of_the_chains_own():
    own, other = MockProvider(name="own"), MockProvider("from another", name="other")

    @plain(500, "route")
    async def route(call: Call, call_next: Handler):
        return await call_next(call.evolve(target=other))

    c = chain(own, route)
    call = c.new_call(Request(messages="x"))
    done = await (await c(call)).full()
    assert isinstance(done, Completion)
    assert done.text == "from another"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["other"]
    assert own.requests == []


@pytest.mark.parametrize("stream", [False, True])
async def test_nested_chains_share_one_ledger_and_resume_all_frames_innermost_first(stream: bool):
    ends, log = Ends(), []
    provider = MockProvider([RateLimited("slow"), "hello"], name="core", model="m1")

    @plain(500, "again")
    async def again(call: Call, call_next: Handler):
        try:
            return await call_next(call)
        except RateLimited:
            return await call_next(call)

    @plain(1, "look")
    async def look(call: Call, call_next: Handler):
        log.append(call.target_key)
        return await call_next(call)

    inner = chain(provider, ends.yielder("inner.a", 1), look, ends.yielder("inner.b", 2, waits=0.0))
    outer = Chain(inner, ends.yielder("outer", 1), again, ends.yielder("middle", 600))
    assert (outer.name, outer.model, outer.endpoint) == ("core", "m1", "mock")
    call = outer.new_call(Request(messages="x", stream=stream))
    done = await (await outer(call)).full()
    assert isinstance(done, Completion)
    assert done.text == "hello"
    assert [attempt.number for attempt in call.ledger.attempts] == [1, 2]
    assert ends.names == ["inner.b", "inner.a", "middle", "outer"]
    assert log == [("core", "mock", "m1")] * 2


async def test_a_chain_can_be_the_target_of_another_chains_routing():
    ends = Ends()
    spare = chain(MockProvider("from the spare", name="spare"), ends.yielder("spare layer"))

    @plain(500, "route")
    async def route(call: Call, call_next: Handler):
        return await call_next(call.evolve(target=spare))

    seen: list[Any] = []

    @plain(900, "look")
    async def look(call: Call, call_next: Handler):
        seen.append(call.target_key[0])
        return await call_next(call)

    c = chain(MockProvider(name="own"), route, look)
    assert (await c.complete("x")).text == "from the spare"
    assert seen == ["spare"]
    assert ends.names == ["spare layer"]


# ------------------------------------------------------------ closing


async def test_closing_ends_background_work_and_closes_every_part_once_even_if_one_fails():
    closed: list[str] = []

    class Part:
        priority = 1

        def __init__(self, name: str, error: Exception | None = None) -> None:
            self.name, self.error = name, error

        async def __call__(self, call: Call, call_next: Handler) -> Reply:
            return await call_next(call)

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.error:
                raise self.error

    class Provider(MockProvider):
        async def aclose(self) -> None:
            closed.append("provider")

    runtime = Runtime()
    c = Chain(Provider(), Part("a"), Part("b", Boom("b")), Part("c"), runtime=runtime)
    task = runtime.spawn(asyncio.sleep(1000), "background")
    with pytest.raises(Boom):
        await c.aclose()
    assert task.cancelled()
    assert sorted(closed) == ["a", "b", "c", "provider"]


async def test_a_chain_is_a_context_manager():
    async with chain(MockProvider("hi")) as c:
        task = c.runtime.spawn(asyncio.sleep(1000), "background")
        assert (await c.complete("x")).text == "hi"
    assert task.cancelled()


async def test_the_call_of_a_stream_can_be_looked_at():
    c = chain(MockProvider("hi"))
    streaming = c.stream("x", tenant="t")
    async with streaming as reply:
        await texts(reply)
    assert streaming.call.tenant == "t"
    assert [attempt.status for attempt in streaming.call.ledger.attempts] == ["ok"]


# ------------------------------------------------------------ many at once


async def test_a_thousand_concurrent_streams_cancelled_at_random_leave_nothing():
    """Every way to end, in any order: all frames resumed once, innermost first, nothing left open."""
    random = Random(20)
    loop: Any = asyncio.get_running_loop()
    runtime = Remembering()
    resumed: dict[str, list[str]] = {}
    statuses: dict[str, set[str]] = {}

    def yielder(name: str, priority: int, slow: bool):
        @plain(priority, name)
        async def at_once(call: Call, call_next: Handler):
            outcome = yield await call_next(call)
            resumed[call.id].append(name)
            statuses[call.id].add(outcome.status)

        @plain(priority, name)
        async def later(call: Call, call_next: Handler):
            try:
                outcome = yield await call_next(call)
            finally:
                await asyncio.sleep(0.01)
            resumed[call.id].append(name)
            statuses[call.id].add(outcome.status)

        return later if slow else at_once

    names = [f"y{at}" for at in range(6)]
    layers = [yielder(name, at, slow=at % 3 == 2) for at, name in enumerate(names)]

    def line(_: Any) -> Any:
        steps: list[Any] = [Wait(random.random()) if random.random() < 0.5 else "word " for _ in range(8)]
        if random.random() < 0.2:
            steps.append(StreamBroken("cut"))
        return ["first ", *steps]

    provider = MockProvider(default=line)
    c = chain(provider, *layers, runtime=runtime)
    replies: dict[str, Reply] = {}

    async def consume(call: Call) -> None:
        resumed[call.id], statuses[call.id] = [], set()
        reply = replies[call.id] = await c(call)
        async with reply:
            stop = random.choice([0, 1, 3, 100])
            async for _ in reply:
                stop -= 1
                if not stop:
                    break
                if random.random() < 0.1:
                    await asyncio.sleep(random.random())

    calls = [c.new_call(Request(messages="x", stream=True)) for _ in range(1000)]
    tasks = [asyncio.create_task(consume(call)) for call in calls]
    for call, task in zip(calls, tasks, strict=True):
        chance = random.random()
        if chance < 0.4:
            loop.call_later(random.random() * 4, task.cancel)
        elif chance < 0.5:
            loop.call_later(random.random() * 4, lambda call=call: closing.append(close(call)))

    closing: list[asyncio.Task[None]] = []

    def close(call: Call) -> asyncio.Task[None]:
        return asyncio.create_task(replies[call.id].aclose())

    results = await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*closing)
    allowed = (type(None), StreamBroken, ReplyClosed, asyncio.CancelledError)
    assert {type(result) for result in results} == set(allowed)
    assert [*resumed.values()] == [names[::-1]] * 1000
    assert all(len(found) == 1 for found in statuses.values())
    assert {status for found in statuses.values() for status in found} == {
        "ok",
        "error",
        "cancelled",
        "abandoned",
    }
    assert provider.open == 0
    assert runtime.reports == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
    usage = Usage()
    for call in calls:
        (attempt,) = call.ledger.attempts
        assert attempt.status == next(iter(statuses[call.id]))
        assert attempt.usage is not None
        usage += attempt.usage
    assert usage.output_tokens > 1000


# ------------------------------------------------------------ chains within chains, looked at


def test_the_worst_case_of_a_chain_at_the_core_counts():
    inner = chain(MockProvider(), Retry(attempts=4))
    assert chain(inner).explain().attempts == 4
    outer = chain(inner, a_layer("a", 1)).explain()
    assert outer.attempts == outer.layers[0].attempts == 4
    assert "at worst: 4 attempts" in str(outer)
    assert chain(MockProvider()).explain().attempts == 1


def test_a_fallback_that_leads_back_into_its_own_chain_is_found():
    c = chain(MockProvider())
    round_about = chain(chain(MockProvider()), Fallback(c))
    c.use(Fallback(MockProvider(), round_about))
    (finding,) = c.lint()
    assert (finding.code, finding.layers) == ("falls-back-on-itself", ("fallback",))
    assert finding.message in str(c.explain())
    assert [found.code for found in round_about.lint()] == ["falls-back-on-itself"]
    assert chain(MockProvider(), Fallback(chain(MockProvider()))).lint() == []
