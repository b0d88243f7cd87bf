"""`python -m benchmarks.stores [--quick]`: what budgets, limits, audit and a cache cost on each store.

One table, with a row for each concern on each store: CPU of this process and wall time, in microseconds per
call, one call at a time and 64 at once; and how many times that of the bare chain it is, which takes turns
with it in the same run. Redis and PostgreSQL are started for it, with what they keep synced to the disk;
what their processes take is in no CPU figure, but in the wall time. A store that is not here is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from attrs import frozen

from llmpipe.middleware.audit import Audit
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.testing.servers.postgres import PostgresServer, find_postgres
from llmpipe.testing.servers.redis import RedisServer, find_redis
from llmpipe.types import Completion, Message, Request, Usage

__all__ = ("Cost", "main", "measure", "stores")

MODEL = "gpt-4o-mini"
WIDTHS = (1, 64)
_DONE = Completion("id", MODEL, Message("assistant", "All right."), "stop", Usage(24, 3), "openai")
_RULES = (
    Rule(usd=1000, period="day", per="account"),
    Rule(usd=1000, period="month"),
    Rule(usd=1000, period="day", per="model"),
    Rule(usd=1000, period="day", per="user"),
)
_LIMIT = Limit(per="account", requests_per_minute=1e9, tokens_per_minute=1e12, concurrency=1_000_000)


class _Instant:
    """A provider that answers at once."""

    name, endpoint, model = "openai", "https://api.openai.com/v1", MODEL

    async def __call__(self, call: Call) -> Reply:
        return Reply.of(_DONE)

    async def aclose(self) -> None:
        """Nothing to close."""


@frozen
class Cost:
    """Microseconds of one call, CPU and wall, by width; each the median of some rounds."""

    cpu: dict[int, float]
    wall: dict[int, float]


Parts = Callable[[str], tuple[Any, ...]]

CONCERNS: dict[str, tuple[str, Parts]] = {
    "budget, 1 rule": ("ledger", lambda url: (Budget(rules=_RULES[:1], store=url),)),
    "budget, 4 rules": ("ledger", lambda url: (Budget(rules=_RULES, store=url),)),
    "limits": ("limits", lambda url: (Limits(limits=(_LIMIT,), store=url),)),
    "audit, durable": ("audit", lambda url: (Audit(store=url),)),
    "audit, queued": ("audit", lambda url: (Audit(store=url, mode="queued", max_waiting=1_000_000),)),
    "cache, hit": ("cache", lambda url: (Cache(store=url),)),
}
"""By name: the kind of state that a store must offer, and the middlewares."""


def stores(stack: ExitStack) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Name, URL and kinds of each store there is here; servers end with `stack`."""
    from llmpipe.state import open_state

    home = stack.enter_context(tempfile.TemporaryDirectory())
    yield "memory", "memory://", open_state("memory://").offers
    url = f"sqlite:///{Path(home)}/stores.db"
    yield "SQLite", url, open_state(url).offers
    if find_redis() is not None:
        url = f"{stack.enter_context(RedisServer(appendonly='everysec')).url}?timeout=30"
        yield "Redis", url, open_state(url).offers
    if find_postgres() is not None:
        url = f"{stack.enter_context(PostgresServer()).url}?timeout=60"
        yield "PostgreSQL", url, open_state(url).offers


async def _run(chain: Chain, numbers: Iterator[int], width: int, calls: int) -> tuple[float, float]:
    """CPU and wall microseconds of each of `calls` calls, `width` at a time."""
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            request = Request(
                MODEL, f"{next(numbers) % 50}. Say hello to everybody in the room", max_tokens=200
            )
            await chain.complete(request, tenant="acme", user="bob")

    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*[caller() for _ in range(width)])
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / calls * 1e6, wall / calls * 1e6


async def measure(parts: tuple[Any, ...], calls: int, rounds: int) -> tuple[Cost, Cost]:
    """What a chain with `parts` costs, and the bare one, round by round."""
    subject, floor = Chain(_Instant(), *parts), Chain(_Instant())
    numbers = count()
    found: dict[tuple[bool, int], list[tuple[float, float]]] = {}
    for chain in (subject, floor):
        await _run(chain, numbers, 4, 100)  # opens the store, and fills the cache
    for _ in range(rounds):
        for width in WIDTHS:
            for bare, chain in ((True, floor), (False, subject)):
                found.setdefault((bare, width), []).append(await _run(chain, numbers, width, calls))
    await subject.aclose()
    await floor.aclose()

    def cost(bare: bool) -> Cost:
        return Cost(
            {width: median([cpu for cpu, _ in found[bare, width]]) for width in WIDTHS},
            {width: median([wall for _, wall in found[bare, width]]) for width in WIDTHS},
        )

    return cost(False), cost(True)


def _line(name: str, cost: Cost, floor: Cost | None) -> str:
    cells = []
    for width in WIDTHS:
        cells.append(f"{cost.cpu[width]:>9.1f}")
        cells.append(f"{cost.cpu[width] / floor.cpu[width]:>6.1f}x" if floor else f"{'':>7}")
        cells.append(f"{cost.wall[width]:>9.1f}")
    return f"{name:<30}" + "".join(cells)


async def _table(quick: bool) -> None:
    calls, rounds = (300, 3) if quick else (1000, 7)
    head = "".join([f"{'CPU':>9}{'':>7}{'wall':>9}" for _ in WIDTHS])
    print(f"{'us a call':<30}{'one at a time':>25}{f'{WIDTHS[1]} at once':>25}")
    print(f"{'':<30}{head}")
    with ExitStack() as stack:
        first = True
        for store, url, offers in stores(stack):
            for concern, (kind, parts) in CONCERNS.items():
                if kind not in offers:
                    continue
                cost, floor = await measure(parts(url), calls, rounds)
                if first:
                    print(_line("bare chain", floor, None))
                    first = False
                print(_line(f"{store}: {concern}", cost, floor), flush=True)


def main() -> int:
    """Print the table. Exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stores", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds, for a look")
    asyncio.run(_table(parser.parse_args().quick))
    return 0


if __name__ == "__main__":
    sys.exit(main())
