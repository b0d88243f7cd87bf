"""What is measured. Each scenario is a coroutine that gives figures; their targets are DESIGN's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import cycle, repeat
from typing import Any

import aiohttp
import orjson

from benchmarks.measure import Figure, Work, compare, cost
from benchmarks.upstream import CHUNKS
from llmpipe import (
    Audit,
    Budget,
    Cache,
    Call,
    Chain,
    Completion,
    Handler,
    Limits,
    Message,
    Outcome,
    Reply,
    Request,
    TextDelta,
    Usage,
    layer,
    presets,
    provider,
)
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.limits import Limit

__all__ = ("SCENARIOS",)

_PROMPT = "Summarise the minutes of the meeting in three sentences, and name who does what until when. " * 4
_REQUEST = Request("gpt-4o-mini", _PROMPT, max_tokens=1000)
_IN_TURN = cycle([Request("gpt-4o-mini", f"{n}. {_PROMPT}", max_tokens=1000) for n in range(200)])
"""Requests that differ, so that a cache of one entry looks, misses and stores every time."""
_BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 1000}


class _Instant:
    """A provider that answers at once, always the same: what is left is what the chain costs."""

    name, endpoint, model = "openai", "api.openai.com", "gpt-4o-mini"
    _done = Completion(
        "chatcmpl-bench", "gpt-4o-mini", Message("assistant", "All right."), "stop", Usage(60, 3), "openai"
    )

    async def __call__(self, call: Call) -> Reply:
        return Reply.of(self._done)

    async def aclose(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def _bare() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer sk-bench"}) as session:
        yield session


def _spread(one: Callable[[], Awaitable[None]], concurrency: int) -> Work:
    """`one`, so many times, in `concurrency` tasks."""

    async def work(times: int) -> None:
        async def worker(count: int) -> None:
            for _ in range(count):
                await one()

        share = max(1, times // concurrency)
        await asyncio.gather(*(worker(share) for _ in range(concurrency)))

    return work


def _uncached(base_url: str, **more: Any) -> Chain:
    """The standard chain round a real loopback call; the cache looks, and never finds."""
    core = provider("openai", api_key="sk-bench", base_url=base_url, model="gpt-4o-mini")
    return Chain(core, *presets.production(cache=Cache(max_entries=1), **more))


def _governed(url: str) -> dict[str, Any]:
    """A budget of two rules, limits of three kinds and a durable audit trail, kept in the store at `url`."""
    rules = (Rule(usd=1e6, period="month"), Rule(usd=1e6, period="day", per="account"))
    limit = Limit(per="account", requests_per_minute=1e9, tokens_per_minute=1e12, concurrency=1_000_000)
    return {
        "budget": Budget(rules=rules, store=url),
        "limits": Limits(limits=(limit,), store=url),
        "audit": Audit(store=url),
    }


async def full_call(base_url: str, rounds: int) -> list[Figure]:
    """The full chain round a real HTTP call, against bare aiohttp and orjson."""
    async with _uncached(base_url) as chain:
        return await _against_bare("full call through the chain", chain, base_url, rounds)


async def governed_call(base_url: str, rounds: int) -> list[Figure]:
    """Calls and streamed chunks with budget, limits and audit on, their state in memory and in SQLite."""
    figures = []
    with tempfile.TemporaryDirectory() as home:
        for store, url in (("memory", "memory://"), ("SQLite", f"sqlite:///{home}/state.db")):
            async with _uncached(base_url, **_governed(url)) as chain:
                name = f"with budget, limits, audit in {store}"
                figures += await _against_bare(name, chain, base_url, rounds)
                figures.append(await _burst(name, chain, base_url, rounds))
    return figures


async def _against_bare(name: str, chain: Chain, base_url: str, rounds: int) -> list[Figure]:
    """CPU of a call through `chain`, as a multiple of one by aiohttp and orjson alone."""
    figures = []
    url = base_url + "/chat/completions"
    async with _bare() as session:

        async def ours() -> None:
            await chain.complete(next(_IN_TURN))

        async def bare() -> None:
            async with session.post(
                url, data=orjson.dumps(_BODY), headers={"Content-Type": "application/json"}
            ) as response:
                orjson.loads(await response.read())

        for concurrency, target in ((1, 1.25), (64, 1.35)):
            figures.append(
                await compare(
                    f"{name}, {concurrency} at once",
                    _spread(ours, concurrency),
                    _spread(bare, concurrency),
                    times=512,
                    rounds=rounds,
                    target=target,
                )
            )
    return figures


async def streamed_chunk(base_url: str, rounds: int) -> list[Figure]:
    """A burst of chunks through the full chain, against aiohttp, split and orjson."""
    async with _uncached(base_url) as chain:
        return [await _burst("streamed chunk through the chain", chain, base_url, rounds)]


async def _burst(name: str, chain: Chain, base_url: str, rounds: int) -> Figure:
    """CPU of a chunk of a burst through `chain`, as a multiple of one that is split and parsed by hand."""
    url = base_url + "/chat/completions"
    body = orjson.dumps({**_BODY, "stream": True, "stream_options": {"include_usage": True}})
    async with _bare() as session:

        async def ours() -> None:
            seen = 0
            async with chain.stream(next(_IN_TURN)) as reply:
                async for event in reply:
                    seen += type(event) is TextDelta
            assert seen == CHUNKS

        async def bare() -> None:
            seen, left = 0, b""
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                async for data in response.content.iter_any():
                    *lines, left = (left + data).split(b"\n\n")
                    for line in lines:
                        if line != b"data: [DONE]":
                            choices = orjson.loads(line[6:])["choices"]
                            seen += bool(choices and choices[0]["delta"].get("content"))
            assert seen == CHUNKS

        return await compare(
            f"{name}, burst of {CHUNKS}",
            _spread(ours, 1),
            _spread(bare, 1),
            times=40,
            rounds=rounds,
            target=2.0,
        )


async def in_process(base_url: str, rounds: int) -> list[Figure]:
    """What the onion itself costs, without I/O."""

    def returning(number: int) -> Any:
        @layer(priority=number, name=f"pass{number}")
        async def middleware(call: Call, call_next: Handler) -> Reply:
            return await call_next(call)

        return middleware

    def yielding(number: int) -> Any:
        @layer(priority=number, name=f"pass{number}")
        async def middleware(call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
            yield await call_next(call)

        return middleware

    instant = _Instant()
    empty = Chain(instant)
    figures = []

    def through(chain: Chain) -> Work:
        async def work(times: int) -> None:
            call = chain.new_call(_REQUEST)
            for _ in range(times):
                await (await chain(call)).full()
                call.ledger.attempts.clear()

        return work

    async def layers(name: str, chain: Chain, target: float) -> Figure:
        """Ten layers, less the provider and the empty chain round it, measured in the same rounds."""
        with_layers = await cost(name, through(chain), times=2000, rounds=rounds, target=target)
        without = await cost("", through(empty), times=2000, rounds=rounds, target=None)
        net = with_layers.value - without.value
        return Figure(name, net, "us", target, net, net, f"{with_layers.value:.1f} us with provider and call")

    for form, make, target in (("returning", returning, 6.0), ("yielding", yielding, 13.0)):
        chain = Chain(instant, *(make(n) for n in range(10)))
        figures.append(await layers(f"ten pass-through middlewares, {form}", chain, target))

    def calls(chain: Chain, requests: Iterator[Request]) -> Work:
        async def work(times: int) -> None:
            for _ in range(times):
                await chain.complete(next(requests))

        return work

    standard = Chain(instant, *presets.production(cache=Cache(max_entries=1)))
    figures.append(
        await cost(
            "nine standard middlewares, instant provider",
            calls(standard, _IN_TURN),
            times=1000,
            rounds=rounds,
            target=25.0,
        )
    )
    cached = Chain(instant, *presets.production())
    await cached.complete(_REQUEST)
    figures.append(
        await cost(
            "cache hit through the chain",
            calls(cached, repeat(_REQUEST)),
            times=1000,
            rounds=rounds,
            target=20.0,
        )
    )
    return figures


async def footprint(base_url: str, rounds: int) -> list[Figure]:
    """Import time, and memory after a thousand calls, each in fresh processes."""
    figures = [_import_time(rounds)]
    bare = _memory(_BARE_CALLS, base_url)
    for name, parts in (("", ""), (", budget, limits and audit on", _GOVERNED)):
        ours = _memory(_OUR_CALLS.replace("PARTS", parts), base_url)
        told = f"{ours:.0f} MiB against {bare:.0f} MiB"
        ratio = ours / bare
        figures.append(Figure(f"memory after 1,000 calls{name}", ratio, "x", 1.25, ratio, ratio, told))
    return figures


def _import_time(rounds: int) -> Figure:
    code = "import time; t = time.process_time(); import llmpipe; print((time.process_time() - t) * 1e3)"
    values = sorted(float(_python(code)) for _ in range(rounds))
    middle = values[len(values) // 2]
    return Figure("import llmpipe", middle, "ms", 100.0, values[0], values[-1])


_BARE_CALLS = """
import asyncio, sys, aiohttp, orjson, resource
async def main():
    async with aiohttp.ClientSession() as session:
        for _ in range(1000):
            async with session.post(sys.argv[1] + "/chat/completions", data=b'{"model":"m"}') as response:
                orjson.loads(await response.read())
asyncio.run(main())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_OUR_CALLS = """
import asyncio, sys, resource
from llmpipe import Chain, presets, provider
async def main():
    core = provider("openai", api_key="sk-bench", base_url=sys.argv[1], model="gpt-4o-mini")
    async with Chain(core, *presets.production(PARTS)) as chain:
        for n in range(1000):
            await chain.complete(f"question {n}")
asyncio.run(main())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
_GOVERNED = "**__import__('benchmarks.scenarios').scenarios._governed('memory://')"


def _memory(code: str, base_url: str) -> float:
    """Peak MiB of a fresh interpreter that runs `code`."""
    return float(_python(code, base_url))


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


SCENARIOS = {
    "full-call": full_call,
    "governed-call": governed_call,
    "streamed-chunk": streamed_chunk,
    "in-process": in_process,
    "footprint": footprint,
}
