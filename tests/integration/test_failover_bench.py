"""The faults of the Failover Bench over real sockets: the answer is right, or there is one typed error.

One target of two or three always fails in one way. Whatever way, a caller gets the whole answer, or an
error that says what had come; what looks like an answer and is cut short never.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from attrs import define, field

from llmpipe.config import presets
from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ContentFiltered,
    FirstTokenTimeout,
    LLMError,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.routing.router import Router
from llmpipe.runtime import Runtime
from llmpipe.testing import no_leaks
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Completion, Finish, Message, Request, TextDelta

pytestmark = pytest.mark.real_time

WORDS = "The rain falls on the hills and on the town, and nobody minds it very much at all."
FIRST = 0.6
"""Seconds to the first content that an attempt has."""

EARLY = {
    "S01 429 with a hint": Fault(status=429, headers={"retry-after": "30"}),
    "S01 429 without": Fault(status=429),
    "S02 500": Fault(status=500),
    "S02 503 with a hint": Fault(status=503, headers={"retry-after": "30"}),
    "S03 529": Fault(status=529),
    "S05 connection cut before a byte": Fault(cut_at=0),
    "S05 connection reset before a byte": Fault(reset_at=0),
    "S06 silent": Fault(silent=True),
    "S07 no first token": Fault(first_delay=30.0),
    "S12 half a head later than allowed": Fault(headers_delay=30.0),
    "S14 key refused": Fault(status=401),
    "S14 nothing left to pay with": Fault(status=402),
}
LATE = {
    "S08 cut": Fault(cut_after=5),
    "S08 reset": Fault(reset_after=5),
    "S08 properly ended too soon": Fault(unfinished=True),
    "S09 stall": Fault(between_delay=0.4),
    "S10 malformed line": Fault(malformed_after=5),
    "S11 error event": Fault(error_after=5),
}
WHOLE = {
    "S08 cut": Fault(cut_at=60),
    "S08 reset": Fault(reset_at=60),
    "S10 half of a body": Fault(body=b'{"choices": [', status=200),
    "S11 error inside a 200": Fault(error_body=True),
    "S10 no JSON": Fault(body=b"<html>busy</html>", status=200),
}


def answer(request: Request) -> Completion:
    return Completion(message=Message("assistant", WORDS), finish_reason="stop")


@define
class Bench:
    """Targets, the first of which fails in one way, and a chain that leads to them."""

    chain: Chain
    ill: Simulator
    well: list[Simulator]
    calls: list[Any] = field(factory=list)

    async def ask(self, number: int, *, stream: bool) -> tuple[str, int, Any]:
        """What was given out: text, how many finishes, and the error."""
        request = Request(messages=f"{number}: tell me of the rain.", stream=stream)
        call = self.chain.new_call(request)
        self.calls.append(call)
        text, finishes = "", 0
        try:
            reply = await self.chain(call)
            async with reply:
                async for event in reply:
                    text += event.text if isinstance(event, TextDelta) else ""
                    finishes += isinstance(event, Finish)
        except LLMError as error:
            return text, finishes, error
        return text, finishes, None

    def check_books(self) -> None:
        """Every request that a server saw is an attempt of some call, and no attempt is open."""
        attempts = [attempt for call in self.calls for attempt in call.ledger.attempts]
        assert all(attempt.status != "open" for attempt in attempts)
        assert all(attempt.charge is not None for attempt in attempts)
        entries = len(self.ill.book.entries) + sum(len(one.book.entries) for one in self.well)
        assert entries == sum(attempt.provider != "nobody" for attempt in attempts)
        if isinstance(self.chain.provider, Router):
            assert [one.in_flight for one in self.chain.provider.status()] == [0] * len(
                self.chain.provider.routes
            )


SHAPES = ("fallback", "router", "router, commit within")
COMBINED = (
    *[(shape, policy) for shape in SHAPES[:2] for policy in ("first_token", "whole")],
    (SHAPES[2], "whole"),
)


def layers(policy: str, *, commit: bool) -> tuple[Any, ...]:
    own = (Commit(policy=policy),) if commit else ()  # type: ignore[arg-type]  # one of the two words
    return (*own, Breaker(), Timeout(first=FIRST, idle=0.2, total=None))


def chained(shape: str, policy: str, cores: list[Any], **settings: Any) -> Chain:
    quick = Timeout(first=FIRST if shape == "fallback" else 5.0, idle=0.2, total=20.0)
    made = presets.production(timeout=quick, cache=None, retry=Retry(base=0.01))
    outer: Any = (Commit(policy=policy),)  # type: ignore[arg-type]  # one of the two words
    if shape == "fallback":
        return Chain(cores[0], *made, *outer, Fallback(*cores[1:], **settings), runtime=Runtime(seed=1))
    within = shape == "router, commit within"
    core = Router(*cores, strategy=first, checks=None, layers=layers(policy, commit=within), **settings)
    return Chain(core, *made, *(() if within else outer), runtime=Runtime(seed=1))


def first(lanes: Any, call: Any) -> Any:
    """The one that fails, as long as it stands for choice."""
    return lanes[0]


@asynccontextmanager
async def bench(shape: str, policy: str, fault: Fault | None, **settings: Any) -> AsyncIterator[Bench]:
    async with no_leaks(), AsyncExitStack() as stack:
        ill = await stack.enter_async_context(
            Simulator([] if fault is None else [Rule(fault)], answer=answer, chunk_chars=6)
        )
        well = [await stack.enter_async_context(Simulator(answer=answer, chunk_chars=6)) for _ in range(2)]
        cores: list[Any] = [
            provider("openai", api_key="sk-a", base_url=f"{ill.url}/v1", model="gpt-4o-mini"),
            provider("anthropic", api_key="sk-b", base_url=f"{well[0].url}/v1", model="claude-haiku-4-5"),
        ]
        if shape != "fallback":
            cores.append(
                provider(
                    "groq", api_key="sk-c", base_url=f"{well[1].url}/v1", model="llama-3.3-70b-versatile"
                )
            )
        chain = await stack.enter_async_context(chained(shape, policy, cores, **settings))
        it = Bench(chain, ill, well)
        yield it
        assert [core.connections_in_use for core in cores] == [0] * len(cores)
        it.check_books()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize(("shape", "policy"), COMBINED)
@pytest.mark.parametrize("fault", EARLY)
async def test_a_failure_before_the_first_token_costs_no_call(
    fault: str, shape: str, policy: str, stream: bool
):
    async with bench(shape, policy, EARLY[fault]) as it:
        alone = await it.ask(0, stream=stream)
        together = await asyncio.gather(*[it.ask(number, stream=stream) for number in range(1, 12)])
    assert {alone, *together} == {(WORDS, 1, None)}


@pytest.mark.parametrize(("shape", "policy"), COMBINED)
@pytest.mark.parametrize("fault", LATE)
async def test_a_failure_in_the_middle_is_a_typed_error_or_replaced_unseen(
    fault: str, shape: str, policy: str
):
    async with bench(shape, policy, LATE[fault]) as it:
        seen = [await it.ask(number, stream=True) for number in range(8)]
    for text, finishes, error in seen:
        if error is None:
            assert (text, finishes) == (WORDS, 1)
        else:
            assert policy == "first_token"
            assert WORDS.startswith(text)
            assert text == error.partial.text
            assert finishes == 0
            assert error.partial.finish_reason is None
            assert isinstance(error, LLMError)
    failed = sum(error is not None for _, _, error in seen)
    if policy == "first_token":
        assert 3 <= failed <= 8 if shape == "fallback" else failed == 3  # then the router has seen enough


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fault", WHOLE)
async def test_half_of_a_full_reply_is_no_reply(fault: str, shape: str):
    async with bench(shape, "first_token", WHOLE[fault]) as it:
        seen = [await it.ask(number, stream=False) for number in range(4)]
    assert {*seen} == {(WORDS, 1, None)}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_s04_a_port_where_nobody_listens_costs_no_call(shape: str, stream: bool):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with bench(shape, "first_token", None) as it:
        nobody = provider(
            "openai", name="nobody", api_key="sk-x", base_url=f"http://127.0.0.1:{port}/v1", model="m"
        )
        core: Any = it.chain.provider
        cores = [nobody, *([core] if shape == "fallback" else core.targets)]
        async with chained(shape, "first_token", cores) as chain:
            it.chain = chain
            seen = [await it.ask(number, stream=stream) for number in range(8)]
    assert {*seen} == {(WORDS, 1, None)}


async def test_s01_a_single_target_is_asked_again_when_it_said_and_not_before():
    rules = [Rule(Fault(status=429, headers={"retry-after": "1"}), last=1)]
    async with no_leaks(), Simulator(rules, answer=answer) as server:
        core = provider("openai", api_key="sk-a", base_url=f"{server.url}/v1", model="gpt-4o-mini")
        async with Chain(core, *presets.production(cache=None)) as chain:
            call = chain.new_call(Request(messages="hi"))
            done: Any = await (await chain(call)).full()
        assert done.text == WORDS
        before, after = call.ledger.attempts
        assert after.started_at - (before.ended_at or 0.0) >= 1.0


async def test_s01_a_router_does_not_ask_a_target_again_before_the_time_it_said():
    async with bench("router", "first_token", EARLY["S01 429 with a hint"]) as it:
        for number in range(20):
            assert (await it.ask(number, stream=number % 2 == 0)) == (WORDS, 1, None)
        assert len(it.ill.book.entries) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_s06_nobody_waits_for_a_silent_target_longer_than_the_attempt_may_take(shape: str):
    async with bench(shape, "first_token", Fault(silent=True)) as it:
        assert (await it.ask(0, stream=True)) == (WORDS, 1, None)
        silent, *_ = it.calls[0].ledger.attempts
        assert isinstance(silent.error, FirstTokenTimeout)
        # Three of them, and nobody goes there any more.
        await asyncio.gather(*[it.ask(number, stream=True) for number in range(1, 8)])
        asked = len(it.ill.book.entries)
        await asyncio.gather(*[it.ask(number, stream=True) for number in range(8, 30)])
        assert len(it.ill.book.entries) == asked


@pytest.mark.parametrize("on_policy", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
async def test_s13_a_refusal_by_policy_is_not_routed_around_unless_asked(
    shape: str, on_policy: bool, stream: bool
):
    body = {"error": {"message": "filtered", "type": "invalid_request_error", "code": "content_filter"}}
    refused = Fault(status=400, body=orjson.dumps(body))
    async with bench(shape, "whole", refused, on_policy=on_policy) as it:
        text, finishes, error = await it.ask(0, stream=stream)
    if on_policy:
        assert (text, finishes, error) == (WORDS, 1, None)
    else:
        assert (text, finishes) == ("", 0)
        assert isinstance(error, ContentFiltered)
        assert sum(len(one.book.entries) for one in it.well) == 0
        assert len(it.ill.book.entries) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_s13_an_answer_that_a_filter_ended_is_given_as_it_is(shape: str):
    async with bench(shape, "whole", None) as it:
        it.ill.answer = lambda request: Completion(
            message=Message("assistant", "The rain"), finish_reason="content_filter"
        )
        reply = await it.chain(it.chain.new_call(Request(messages="hi", stream=True)))
        done: Any = await reply.full()
        it.calls.append(reply._call)
    assert (done.text, done.finish_reason) == ("The rain", "content_filter")
    assert sum(len(one.book.entries) for one in it.well) == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "full"])
async def test_s14_a_refused_key_is_one_keys_matter(stream: bool):
    """In a router a provider with two keys uses the other, and its own target stays in use."""
    async with (
        no_leaks(),
        Simulator(answer=answer, keys={"sk-good"}) as server,
        Simulator(answer=answer) as other,
    ):
        core = provider(
            "openai", api_key=["sk-bad", "sk-good"], base_url=f"{server.url}/v1", model="gpt-4o-mini"
        )
        spare = provider("anthropic", api_key="sk-b", base_url=f"{other.url}/v1", model="claude-haiku-4-5")
        async with Chain(
            Router(core, spare, strategy=first, checks=None), *presets.production(cache=None)
        ) as chain:
            it = Bench(chain, server, [other])
            assert {*[await it.ask(number, stream=stream) for number in range(6)]} == {(WORDS, 1, None)}
        assert [entry.status for entry in server.book.entries] == [401, *[200] * 6]
        assert other.book.entries == []


@pytest.mark.parametrize("shape", ["router", "fallback"])
async def test_s15_a_total_outage_is_amplified_by_a_fifth_at_the_most(shape: str):
    async with bench(shape, "first_token", Fault(status=503)) as it:
        for one in it.well:
            one.rules = it.ill.rules
        ends = []
        for number in range(100):
            _, _, error = await it.ask(number, stream=number % 2 == 0)
            ends.append(error)
            await asyncio.sleep(0.01)
        assert all(isinstance(error, LLMError) for error in ends)
        entries = len(it.ill.book.entries) + sum(len(one.book.entries) for one in it.well)
        assert entries <= 120
        assert sum(isinstance(error, CircuitOpen) for error in ends) > 50
        # And when it is over, nobody had to be told.
        for one in (it.ill, *it.well):
            one.rules = ()
        async with asyncio.timeout(30):
            while (await it.ask(1000, stream=True))[2] is not None:
                await asyncio.sleep(0.2)


async def test_s16_what_it_all_cost_is_what_the_servers_count():
    async with bench("router", "whole", Fault(cut_after=5)) as it:
        for number in range(4):
            assert (await it.ask(number, stream=True)) == (WORDS, 1, None)
    ours = [a for call in it.calls for a in call.ledger.attempts if a.status == "ok"]
    theirs = [entry for one in it.well for entry in one.book.entries]
    assert sorted((a.usage.input_tokens, a.usage.output_tokens) for a in ours) == sorted(
        (entry.usage.input_tokens, entry.usage.output_tokens) for entry in theirs if entry.usage
    )
    broken = [a for call in it.calls for a in call.ledger.attempts if a.status == "error"]
    assert len(broken) == len(it.ill.book.entries) == 3
    assert all(isinstance(a.error, StreamBroken) and a.charge.usd > 0 for a in broken)


@pytest.mark.parametrize("kind", [AuthenticationFailed, RateLimited])
async def test_where_all_refuse_it_is_one_error_that_says_what_each_said(kind: type[LLMError]):
    status = 401 if kind is AuthenticationFailed else 429
    async with bench("router", "first_token", Fault(status=status, headers={"retry-after": "300"})) as it:
        for one in it.well:
            one.rules = it.ill.rules
        _, _, error = await it.ask(0, stream=True)
    assert isinstance(error, kind)
    assert [entry["status"] for entry in error.metadata["router"]] == [status] * 3
