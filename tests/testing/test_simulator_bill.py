"""The headline promise: what our books say was spent is what the provider's invoice says, to the nano-dollar.

The simulator counts by itself, from what it took in and put out, and knows nothing of the chain.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import pytest

from llmpipe.errors import LLMError
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import (
    Completion,
    Finish,
    Message,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    TextDelta,
    Tool,
    ToolCall,
)

pytestmark = pytest.mark.real_time

MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}

FAULTS = [
    *[
        Fault(status=status)
        for status in (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
    ],
    Fault(status=302, headers={"location": "http://127.0.0.1:1/"}),
    Fault(status=429, headers={"retry-after": "0"}),
    Fault(status=500, body=b"<html>oops"),
    *[Fault(cut_after=count) for count in (0, 1, 2, 3, 5)],
    *[Fault(reset_after=count) for count in (0, 1, 2, 4)],
    *[Fault(cut_at=byte) for byte in (0, 1, 30, 200, 500, 800)],
    *[Fault(reset_at=byte) for byte in (0, 1, 400)],
    *[Fault(malformed_after=count) for count in (0, 1, 2, 4)],
    *[Fault(error_after=count) for count in (0, 1, 2, 4)],
    Fault(unfinished=True),
    Fault(error_body=True),
]

WEATHER = Tool(
    "weather", "The weather of a place.", {"type": "object", "properties": {"place": {"type": "string"}}}
)
CLOCK = Tool("clock", "The time at a place.", {"type": "object", "properties": {"zone": {"type": "string"}}})
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

REQUESTS = [
    Request(messages="Say hello"),
    Request(messages=[Message("system", "Be brief."), Message("user", "Grüße, 世界 🌍?")]),
    Request(
        messages="A longer question, with numbers 1234567890 in it. " * 8, max_tokens=100, temperature=0.5
    ),
    Request(messages="What is the weather like?", tools=(WEATHER, CLOCK)),
    Request(messages="Ask both of them.", tools=(WEATHER, CLOCK), max_tokens=200),
    Request(messages="Who is it?", response_format=ResponseFormat("json_schema", PERSON, "person")),
    Request(messages="Think first.", reasoning=ReasoningOptions(effort="low"), max_tokens=4000),
]


async def spend(chain: Chain, request: Request, stream: bool) -> None:
    """One call, whatever becomes of it."""
    try:
        if stream:
            async with chain.stream(request) as reply:
                async for _ in reply:
                    pass
        else:
            await chain.complete(request)
    except LLMError:
        pass


def books(chain: Chain) -> int:
    return Cost.totals(chain.runtime).all.nano


async def settled(simulator: Simulator) -> None:
    """The simulator has noticed that its clients have gone."""
    for _ in range(200):
        if "open" not in simulator.book.ends:
            break
        await asyncio.sleep(0.01)


def timeouts() -> Timeout:
    return Timeout(first=0.8, idle=0.8)


@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
@pytest.mark.parametrize("kind", MODELS)
async def test_our_books_are_the_invoice_whatever_goes_wrong(kind, stream):
    """Every fault with every kind of request, each call compared by itself."""
    async with Simulator(chunk_chars=5) as simulator:
        core = provider(kind, api_key="sk-test", base_url=f"{simulator.url}/v1", model=MODELS[kind])
        wrong = []
        for fault in [Fault(), *FAULTS]:
            for request in REQUESTS:
                simulator.rules = (Rule(fault),)
                chain = Chain(core, Cost())
                await spend(chain, request, stream)
                entry = simulator.book.entries[-1]
                if entry.billed_nano != books(chain):
                    wrong.append((fault, entry.end, entry.usage, entry.billed_nano, books(chain)))
        assert not wrong, "\n".join(map(str, wrong))
        assert len(simulator.book.entries) == len(REQUESTS) * (1 + len(FAULTS))
        assert simulator.book.billed_nano > 1_000_000
        await core.aclose()


@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
@pytest.mark.parametrize("kind", MODELS)
async def test_our_books_are_the_invoice_when_nobody_answers_in_time(kind, stream):
    """All at once, as each of them takes the whole timeout."""
    delays = [Fault(silent=True), Fault(headers_delay=9), Fault(first_delay=9), Fault(between_delay=9)]
    rules = [Rule(fault, when=partial(_begins, f"{n}: ")) for n, fault in enumerate(delays)]
    async with Simulator(rules, chunk_chars=5) as simulator:
        core = provider(kind, api_key="sk-test", base_url=f"{simulator.url}/v1", model=MODELS[kind])
        async with Chain(core, Cost(), timeouts()) as chain:
            prompts = [f"{n}: {'how long? ' * (1 + count)}" for n in range(len(delays)) for count in range(5)]
            await asyncio.gather(*(spend(chain, Request(messages=prompt), stream) for prompt in prompts))
            await settled(simulator)
            expected = {"aborted": 20} if stream else {"aborted": 15, "ok": 5}
            assert simulator.book.ends == expected
            assert books(chain) == simulator.book.billed_nano > 0


def _begins(prefix: str, request: Request) -> bool:
    return request.messages[-1].text.startswith(prefix)


def short(request: Request) -> Completion:
    """A thought, a text and a call, in few bytes."""
    parts = [Reasoning("Hm."), Text("Grüße!"), ToolCall("call_1", "clock", '{"zone":"UTC"}')]
    return Completion(message=Message("assistant", parts), finish_reason="tool_calls")


@pytest.mark.parametrize("kind", MODELS)
async def test_a_stream_cut_at_any_byte_costs_what_had_come_of_it(kind):
    """The bill of every possible cut of one stream, at every other byte."""
    async with Simulator(chunk_chars=8, answer=short) as simulator:
        core = provider(kind, api_key="sk-test", base_url=f"{simulator.url}/v1", model=MODELS[kind])
        wrong, cut, ended = [], 0, ""
        while ended != "ok":
            simulator.rules = (Rule(Fault(cut_at=cut)),)
            chain = Chain(core, Cost())
            await spend(chain, REQUESTS[0], stream=True)
            entry = simulator.book.entries[-1]
            if entry.billed_nano != books(chain):
                wrong.append((cut, entry.usage, entry.billed_nano, books(chain)))
            ended = entry.end
            cut += 2
        assert not wrong, "\n".join(map(str, wrong))
        assert 400 < cut < 4000
        await core.aclose()


async def test_a_few_hundred_calls_through_retries_and_a_fallback_add_up():
    rng = Random(11)
    faults = [
        Rule(Fault(status=429, headers={"retry-after": "0"}), rate=0.1),
        Rule(Fault(status=503), rate=0.1),
        Rule(Fault(status=500), rate=0.05),
        Rule(Fault(cut_after=4), rate=0.06),
        Rule(Fault(reset_after=3), rate=0.06),
        Rule(Fault(cut_at=150), rate=0.05),
        Rule(Fault(error_after=3), rate=0.05),
        Rule(Fault(error_after=1), rate=0.05),
        Rule(Fault(malformed_after=2), rate=0.04),
        Rule(Fault(error_body=True), rate=0.05),
        Rule(Fault(silent=True), rate=0.02),
        Rule(Fault(unfinished=True), rate=0.04),
    ]
    async with Simulator(faults, seed=1) as first, Simulator(faults, seed=2) as second:
        gpt: Any = provider("openai", api_key="sk-a", base_url=f"{first.url}/v1", model=MODELS["openai"])
        claude: Any = provider(
            "anthropic", api_key="sk-b", base_url=f"{second.url}/v1", model=MODELS["anthropic"]
        )
        chain = Chain(gpt, Cost(), Retry(attempts=3, base=0.001, cap=0.002), timeouts(), Fallback(claude))
        gate = asyncio.Semaphore(8)

        async def one() -> None:
            async with gate:
                await spend(chain, rng.choice(REQUESTS), rng.random() < 0.5)

        async with chain:
            await asyncio.gather(*(one() for _ in range(300)))
            await settled(first)
            await settled(second)
            totals = Cost.totals(chain.runtime)
            both = first.book.billed_nano + second.book.billed_nano
            assert totals.all.nano == both, (totals.by_provider, first.book.billed, second.book.billed)
            assert totals.by_provider["openai"].nano == first.book.billed_nano
            assert totals.by_provider["anthropic"].nano == second.book.billed_nano
            assert totals.all.usd == first.book.billed + second.book.billed
            assert len(first.book.entries) + len(second.book.entries) == totals.all.attempts > 350
            assert totals.all.unknown == 0
        assert gpt.connections_in_use == claude.connections_in_use == 0


async def test_embeddings_add_up():
    async with Simulator([Rule(Fault(status=503), last=3), Rule(Fault(cut_at=9), last=5)]) as simulator:
        core = provider(
            "openai", api_key="sk-test", base_url=f"{simulator.url}/v1", model="text-embedding-3-small"
        )
        async with Chain(core, Cost()) as chain:
            for _ in range(8):
                with suppress(LLMError):
                    await chain.embed(["one", "two and three"])
            assert books(chain) == simulator.book.billed_nano > 0
        assert simulator.book.ends == {"refused": 3, "broken": 2, "ok": 3}


@pytest.mark.parametrize("kind", MODELS)
async def test_a_reader_who_leaves_pays_for_what_was_sent(kind):
    """In step: the simulator waits between events, so what was sent is what was read."""
    async with Simulator([Rule(Fault(between_delay=0.03))], chunk_chars=7) as simulator:
        core = provider(kind, api_key="sk-test", base_url=f"{simulator.url}/v1", model=MODELS[kind])
        async with Chain(core, Cost()) as chain:
            for pieces in (1, 3):
                seen = 0
                async with chain.stream("A question that takes a while to answer") as reply:
                    async for event in reply:
                        seen += isinstance(event, TextDelta)
                        assert not isinstance(event, Finish)
                        if seen == pieces:
                            break
            await settled(simulator)
            assert simulator.book.ends == {"aborted": 2}
            assert books(chain) == simulator.book.billed_nano > 0
