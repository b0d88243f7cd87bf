"""The dashboard's figures, exact, under virtual time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import InvalidRequest, LLMError, Overloaded
from llmpipe.middleware.alerts import Alerts
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.metrics.resources import Resources, Sample
from llmpipe.middleware.metrics.ring import Ring, Sums
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.router import Router
from llmpipe.runtime import Runtime
from llmpipe.types import Usage

METRICS = Metrics()
PRICES = {"m": {"input": 5e5, "output": 5e5}, "big": {"input": 1e6, "output": 1e6}}  # half a USD a token, one


def mock(*script: Any, default: Any = "ok", name: str = "p", model: str = "m") -> MockProvider:
    return MockProvider(script, default=default, name=name, model=model, usage=Usage(10, 5))


async def call(chain: Chain, times: int = 1, **options: Any) -> None:
    for _ in range(times):
        try:
            await chain.complete("hi", **options)
        except LLMError:  # counted, which is what the tests look at
            continue


async def test_the_figures_of_an_hour():
    slow = [Wait(2), "slow"]
    chain = Chain(mock(*["ok"] * 4, slow, InvalidRequest("no")), METRICS, Cost(prices=PRICES))
    await call(chain, 4, tenant="a")  # at 0 s
    await asyncio.sleep(1800)
    await call(chain, 2, tenant="b")  # at 1800 to 1802 s
    await asyncio.sleep(200)
    await call(chain, 3, model="big")  # at 2002 s
    await asyncio.sleep(30)
    told = METRICS.dashboard(chain.runtime)  # at 2032 s
    assert told == json.loads(json.dumps(told))
    assert told["uptime"] == 2032
    assert told["totals"] == {
        "requests": 9,
        "ok": 8,
        "failed": 1,
        "cancelled": 0,
        "abandoned": 0,
        "in_flight": 0,
        "attempts": 9,
        "input_tokens": 80,
        "output_tokens": 40,
        "total_tokens": 120,
        "cost_usd": pytest.approx(5 * 7.5 + 3 * 15),
        "saved_usd": 0,
        "fallbacks": 0,
        "coalesced": 0,
    }
    assert told["latency"]["count"] == 8
    assert told["latency"]["mean"] == pytest.approx(2 / 8)
    minute, five, hour = (told["windows"][name] for name in ("1m", "5m", "1h"))
    assert (minute["seconds"], minute["requests"], minute["failed"]) == (60, 3, 0)
    assert minute["requests_per_second"] == pytest.approx(3 / 60)
    assert minute["tokens_per_second"] == pytest.approx(45 / 60)
    assert minute["cost_usd_per_hour"] == pytest.approx(45 * 60)
    assert (five["seconds"], five["requests"], five["failed"]) == (300, 5, 1)
    assert five["error_rate"] == pytest.approx(1 / 5)
    assert five["latency"]["p99"] > 1 > five["latency"]["p50"]
    assert (hour["seconds"], hour["requests"], hour["cost_usd"]) == (2032, 9, pytest.approx(82.5))
    assert minute["providers"]["p"] == {
        key: value for key, value in minute.items() if key in minute["providers"]["p"]
    }
    provider = told["providers"]["p"]
    assert provider["error_rate"] == pytest.approx(1 / 9)
    assert (provider["models"]["m"]["requests"], provider["models"]["big"]["requests"]) == (6, 3)
    assert provider["models"]["big"]["cost_usd"] == pytest.approx(45)
    assert told["errors"] == {"by_type": {"INVALID_REQUEST": 1}, "by_word": {"caller_invalid_request": 1}}
    assert told["cost"] == {
        "usd": pytest.approx(82.5),
        "by_model": {"m": pytest.approx(37.5), "big": pytest.approx(45)},
        "by_tenant": {"a": 30.0, "b": 7.5, "": 45.0},
        "unknown": 0,
    }


async def test_what_is_out_of_a_window_is_not_in_it():
    chain = Chain(mock(), METRICS)
    await call(chain, 5)
    for seconds, expected in ((30, [5, 5, 5]), (40, [0, 5, 5]), (240, [0, 0, 5]), (3400, [0, 0, 0])):
        await asyncio.sleep(seconds)
        windows = METRICS.dashboard(chain.runtime)["windows"]
        assert [windows[name]["requests"] for name in ("1m", "5m", "1h")] == expected


async def test_steady_traffic_has_a_steady_rate_in_every_window():
    chain = Chain(mock(), METRICS)
    for _ in range(4000):
        await call(chain)
        await asyncio.sleep(1)
    windows = METRICS.dashboard(chain.runtime)["windows"]
    for name, seconds, over in (("1m", 60, 5), ("5m", 300, 5), ("1h", 3600, 60)):
        assert seconds <= windows[name]["requests"] <= seconds + over
    book = chain.runtime.states("metrics")["metrics"]
    assert len(book.ring._fine) <= 64
    assert len(book.ring._coarse) <= 64


async def test_nothing_has_happened_yet():
    chain = Chain(mock(), METRICS)
    told = METRICS.dashboard(chain.runtime)
    assert told["totals"]["requests"] == 0
    assert told["windows"]["1h"]["requests_per_second"] == 0
    assert told["windows"]["1m"]["latency"] == {"p50": None, "p95": None, "p99": None}
    assert told["latency"] == {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None}
    assert (told["resources"], told["loop"], told["circuits"]) == (None, None, [])
    json.dumps(told)


async def test_the_states_of_all_others_are_in_it():
    limit = RateLimit(concurrency=1)
    chain = Chain(
        mock(*[Overloaded("x")] * 3, default=[Wait(15), "ok"]),
        METRICS,
        Metrics(name="second", lag=True),
        Alerts(sinks=(lambda alert: None,)),
        Cache(),
        limit,
        Breaker(consecutive=3),
    )
    await call(chain, 4)
    Resources.start(chain.runtime, sampler=lambda: Sample(cpu=0.5, rss_bytes=7))
    chain.runtime.states("breaker")["breaker"].reset(asyncio.get_running_loop().time())
    tasks = [asyncio.create_task(chain.complete(f"say {n}")) for n in range(3)]
    await asyncio.sleep(10)
    told = METRICS.dashboard(chain.runtime)
    assert told["queues"] == {"rate_limit": {"waiting": 2, "oldest_wait": 10.0, "in_flight": 1, "keys": 1}}
    assert told["totals"]["in_flight"] == 3
    assert [(one["state"], one["rejected"]) for one in told["circuits"]] == [("closed", 1)] or [
        one["state"] for one in told["circuits"]
    ] == ["closed"]
    assert [one["rule"] for one in told["alerts"]["firing"]] == ["circuit_open"]
    assert told["alerts"]["sinks"][0]["sent"] == 1
    assert told["resources"]["cpu"] == 0.5
    await asyncio.gather(*tasks)
    await call(chain)
    await call(chain)
    second = Metrics(name="second", lag=True).dashboard(chain.runtime)
    assert second["cache"]["cache"] == {
        "hits": 1, "stale": 0, "misses": 8, "stored": 4, "hit_rate": pytest.approx(1 / 9)
    }  # fmt: skip
    assert second["loop"] == {"lag": 0.0, "worst": 0.0}
    json.dumps(second)
    await chain.aclose()


async def test_a_routers_targets_are_in_it():
    router = Router(mock(name="a"), mock(name="b"), name="r")
    chain = Chain(router, METRICS)
    await call(chain)
    told = METRICS.dashboard(chain.runtime)
    states = [target["state"] for target in told["routers"]["r"].values()]
    assert states
    assert set(states) == {"healthy"}
    text = METRICS.prometheus(chain.runtime)
    assert 'llmpipe_router_state{router="r",target="' in text
    await chain.aclose()


def test_sums_before_a_time_are_the_latest_of_that_time_or_earlier():
    ring = Ring()
    for at in range(0, 20_000, 7):
        ring.add(float(at), {"": Sums(ok=at)})
        for back in (0, 60, 300):
            found = ring.before(at - back).get("")
            if found is not None:
                assert at - back - 7 < found.ok <= at - back
        found = ring.before(at - 3600).get("")
        if at > 3600:
            assert at - 3600 - 70 < found.ok <= at - 3600
        else:
            assert found is None or found.ok == 0


@given(st.lists(st.floats(0.1, 900.0), min_size=1, max_size=120), st.floats(0.0, 3600.0))
def test_of_any_traffic_a_window_is_known_to_a_minute(gaps: list[float], back: float):
    ring, marks, at = Ring(), [], 0.0
    for count, gap in enumerate(gaps, 1):
        at += gap
        marks.append((at, count))
        ring.add(at, {"": Sums(ok=count)})
    when = at - back
    exact = max((count for mark, count in marks if mark <= when), default=0)
    earlier = max(
        (count for mark, count in marks if mark <= when - (5.0 if back <= 300 else 60.0)), default=0
    )
    found = ring.before(when).get("")
    assert earlier <= (0 if found is None else found.ok) <= exact


async def test_what_is_read_does_not_change_what_is_counted():
    chain = Chain(mock(), METRICS)
    await call(chain, 3)
    first = METRICS.dashboard(chain.runtime)
    assert METRICS.dashboard(chain.runtime) == {**first, "at": pytest.approx(first["at"], abs=60)}


def test_metrics_are_read_in_another_thread():
    runtime = Runtime()

    async def main() -> None:
        chain = Chain(mock(), METRICS, RateLimit(concurrency=1), runtime=runtime)
        await call(chain)

    asyncio.run(main())
    assert "llmpipe_requests_total" in METRICS.prometheus(runtime)  # no loop runs here
