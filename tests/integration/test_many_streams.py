"""A thousand streams at once through the whole production chain: whatever becomes of them, nothing is left.

First over sockets, against two simulated providers that misbehave; then in virtual time, where every
time limit fires to the second. Nothing here depends on how fast the machine is: a slow one has other
callers cancelled, and the same laws.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain as flatten
from random import Random
from time import time
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import (
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMError,
    Overloaded,
    RateLimited,
    ReplyClosed,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Attempt
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.leaks import no_leaks
from llmpipe.testing.simulator import Entry, Fault, Rule, Simulator, plain_answer
from llmpipe.types import Ping, Request
from tests.integration.storm import WAYS, Storm, listening, suspended

STREAMS = 1000
QUESTIONS = 35  # a multiple of the tenants, so that who asks the same is of the same tenant


def connections() -> int:
    """As many as each provider may have open: each has two ends, and both are in this process."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(50, min(400, (most - 200) // 8))


def asked(number: int) -> Request:
    """Three of ten ask what others ask as well, and may share a reply; the rest something of their own."""
    if number % 10 < 3:
        text = f"What is known of question {number % QUESTIONS}?"
        return Request(messages=text, temperature=0, max_tokens=64, stream=True)
    return Request(messages=f"Tell me about topic {number}, please.", max_tokens=64, stream=True)


class Remembering(Simulator):
    """A simulator that knows what each entry of its book was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: dict[int, str] = {}

    def _fault(self, entry: Entry, request: Any) -> Fault:
        self.asked[entry.number] = request.messages[-1].text
        return super()._fault(entry, request)


def misbehaving(
    seed: int, wall: Callable[[], float] = time, slow: float = 0.2
) -> tuple[Remembering, Remembering]:
    """Two providers; `slow` is the share of their streams in which each token takes a while."""
    alpha = Remembering(
        [
            Rule(Fault(status=503), first=200, last=240),  # an outage: the breaker opens
            Rule(Fault(status=503), rate=0.03),
            Rule(Fault(status=429, headers={"retry-after": "0"}), rate=0.02),
            Rule(Fault(first_delay=0.1), rate=0.1),
            Rule(Fault(first_delay=90.0), rate=0.04),  # far beyond the limit for a first token
            Rule(Fault(between_delay=90.0), rate=0.03),  # and for a silence
            Rule(Fault(between_delay=0.02), rate=slow),
            Rule(Fault(cut_after=0), rate=0.03),
            Rule(Fault(cut_after=3), rate=0.04),
            Rule(Fault(reset_after=4), rate=0.03),
            Rule(Fault(cut_at=60), rate=0.02),
            Rule(Fault(error_after=3), rate=0.02),
            Rule(Fault(malformed_after=4), rate=0.02),
            Rule(Fault(unfinished=True), rate=0.03),
        ],
        seed=seed,
        wall=wall,
    )
    beta = Remembering(
        [
            Rule(Fault(status=529), rate=0.05),
            Rule(Fault(status=429, headers={"retry-after": "1"}), first=60, last=61),
            Rule(Fault(first_delay=0.1), rate=0.1),
            Rule(Fault(error_after=0), rate=0.03),
            Rule(Fault(cut_after=4), rate=0.04),
            Rule(Fault(reset_at=400), rate=0.03),
            Rule(Fault(unfinished=True), rate=0.03),
            Rule(Fault(between_delay=0.02), rate=slow),
        ],
        seed=seed + 1,
        wall=wall,
    )
    return alpha, beta


def told_by_the_provider(attempt: Attempt) -> bool:
    """Whether the provider alone decided how the attempt ended, so that both books must agree.

    Who leaves, or gives up waiting, has not read all that was sent; and of a reset nobody knows how
    much had arrived before it.
    """
    error = attempt.error
    if attempt.status in ("cancelled", "abandoned") or isinstance(error, FirstTokenTimeout | IdleTimeout):
        return False
    return not isinstance(error, DeadlineExceeded | ReplyClosed)


def compare_books(storm: Storm, simulator: Remembering, name: str) -> tuple[int, int]:
    """Each question for itself. Returns how many agreed to the nano-dollar, and their nano-dollars."""
    ours: dict[str, list[Attempt]] = defaultdict(list)
    theirs: dict[str, list[Entry]] = defaultdict(list)
    for attempt in storm.attempts():
        if attempt.provider == name:
            ours[attempt.request.messages[-1].text].append(attempt)
    for entry in simulator.book.entries:
        if entry.number in simulator.asked:  # else it left before it had asked
            theirs[simulator.asked[entry.number]].append(entry)
    assert set(theirs) <= set(ours)
    same = money = 0
    for question, attempts in ours.items():
        entries = theirs[question]
        # One that was cancelled may never have arrived; none arrives that was not sent.
        assert len(entries) <= len(attempts)
        if not all(map(told_by_the_provider, attempts)):
            continue
        sent = [a for a in attempts if not (isinstance(a.error, LLMError) and not a.error.sent)]
        assert len(entries) == len(sent), (question, attempts, entries)
        charged = sum(attempt.charge.total_nano for attempt in attempts if attempt.charge is not None)
        billed = sum(entry.billed_nano for entry in entries)
        assert charged == billed, (question, attempts, entries)
        same, money = same + 1, money + billed
    return same, money


def check_what_callers_saw(storm: Storm) -> None:
    """Who got an answer got all of it, and its own; who got a part of it got the beginning."""
    for caller in storm.callers:
        right = plain_answer(Request(messages=caller.question, max_tokens=64)).text
        if caller.end == "ok":
            assert caller.text == right
        else:
            assert right.startswith(caller.text)
        assert caller.end != "open"
        if caller.end == "ReplyClosed":
            assert caller.way == "closed by another"
        if caller.end == "cancelled":
            assert caller.way == "cancelled"


@pytest.mark.real_time  # sockets of two servers, and a thousand callers who come and go as they like
@pytest.mark.parametrize("seed", [1])
async def test_a_thousand_streams_over_sockets_leave_nothing(seed: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR, "llmpipe")
    before = suspended()
    with listening() as said:
        async with no_leaks():
            storm, in_use, providers = await over_sockets(seed)
    assert suspended() <= before
    assert in_use == [0, 0]
    # Each reply that was dropped is told of once, and that is all there is to tell.
    assert {str(warning.message)[:27] for warning in said} <= {"a reply was never closed: u"}
    assert [warning.category for warning in said] == [ResourceWarning] * storm.dropped
    assert storm.dropped > 0
    assert storm.told == []
    assert [record for record in caplog.records if record.name == "llmpipe"] == []  # what clean-up tells
    storm.check_that_every_attempt_is_over_and_paid()
    check_what_callers_saw(storm)
    assert {way for caller in storm.callers for way in [caller.way]} == set(WAYS)
    assert {"ok", "left", "cancelled"} <= set(storm.ends)
    agreed = [compare_books(storm, simulator, name) for name, simulator in providers.items()]
    assert all(same > 0 and money > 0 for same, money in agreed), agreed


async def over_sockets(seed: int) -> tuple[Storm, list[int], dict[str, Remembering]]:
    """The storm, and what is asked while the servers still stand."""
    alpha, beta = misbehaving(seed)
    options: Any = {"api_key": "sk-test", "transport": {"max_connections": connections()}}
    async with alpha, beta:
        first = provider("openai", base_url=f"{alpha.url}/v1", model="gpt-4o-mini", name="alpha", **options)
        second = provider(
            "anthropic", base_url=f"{beta.url}/v1", model="claude-haiku-4-5", name="beta", **options
        )
        layers = presets.production(
            # Long enough for what is only slow, even where the machine has much else to do.
            timeout=Timeout(first=4.0, idle=4.0, total=30.0),
            retry=Retry(base=0.02, cap=0.2),
            breaker=Breaker(base=0.3, cap=0.5),
            coalesce=Coalesce(),
            # More than there are connections, so that some wait here and some for a connection.
            rate_limit=RateLimit(concurrency=connections() + 50, per="target"),
            fallback=Fallback(second),
        )
        async with Chain(first, *layers, runtime=Runtime(seed=seed)) as chain:
            storm = Storm(chain)
            storm.gather(STREAMS, Random(seed), asked, within=1.0, patience=2.0)
            await storm.break_loose()
            await storm.calm()
            storm.check_that_everything_is_given_back()
            in_use = [core.connections_in_use for core in (first, second)]  # type: ignore[attr-defined]  # both are HTTP
        for simulator in (alpha, beta):
            for _ in range(300):  # they notice who has gone
                if "open" not in simulator.book.ends:
                    break
                await asyncio.sleep(0.01)
            assert "open" not in simulator.book.ends
        return storm, in_use, {"alpha": alpha, "beta": beta}


# ------------------------------------------------------------ every time limit, to the second

FIRST, IDLE, STALL, TOTAL = 30.0, 20.0, 45.0, 150.0
TRICKLE = [piece for word in ["one", "two", "three", "four"] for piece in (word + " ", Wait(2.0))]
PLANS: dict[str, Any] = {
    "fine": ["A ", "fine ", "answer."],
    "slow": [Wait(FIRST - 5), *TRICKLE],
    "never begins": [Wait(1000.0), "too late"],
    "pings and never begins": [*flatten.from_iterable([[Ping(), Wait(5.0)]] * 60), "too late"],
    "falls silent": ["A ", Wait(5.0), "word", Wait(1000.0)],
    "only pings": ["A ", *flatten.from_iterable([[Ping(), Wait(5.0)]] * 60), "too late"],
    "never ends": [*flatten.from_iterable([["word ", Wait(10.0)]] * 60)],
    "is cut": ["A ", Wait(1.0), StreamBroken("cut")],
    "is busy": Overloaded("busy"),
    "wants a pause": RateLimited("slow down", retry_after=3),
}
WEIGHTS = (24, 8, 6, 2, 4, 4, 4, 4, 2, 1)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_thousand_streams_in_virtual_time_keep_every_limit_to_the_second(
    seed: int | None, caplog: pytest.LogCaptureFixture
):
    from llmpipe.testing import run

    caplog.set_level(logging.ERROR, "llmpipe")
    with listening() as said:
        storm = run(in_virtual_time(seed), seed=seed)
    assert [str(warning.message)[:27] for warning in said] == ["a reply was never closed: u"] * storm.dropped
    assert storm.told == []
    assert [record for record in caplog.records if record.name == "llmpipe"] == []  # what clean-up tells
    storm.check_that_every_attempt_is_over_and_paid()
    assert storm.ends["ok"] > 200, storm.ends
    fired = check_the_clock(storm)
    assert min(fired[limit] for limit in (FirstTokenTimeout, IdleTimeout, DeadlineExceeded)) > 10, fired


def check_the_clock(storm: Storm) -> Counter[type]:
    """No limit fires early, none late, and none is passed by. Returns how often each fired."""
    fired: Counter[type] = Counter()
    for caller in storm.callers:
        if caller.call is None:
            continue  # cancelled before it came
        attempts, taken = caller.call.ledger.attempts, caller.ended_at - caller.call.started_at
        assert taken <= TOTAL + 1e-6
        if isinstance(caller.error, DeadlineExceeded):
            fired[DeadlineExceeded] += 1
            assert taken == about(TOTAL)
        for attempt in attempts:
            taken = (attempt.ended_at or 0.0) - attempt.started_at
            plan = plan_of(attempt.request.messages[-1].text, attempt.provider)
            if attempt.committed_at is None:
                assert taken <= FIRST + 1e-6
                if taken == about(FIRST):  # the one who waited for it was told; the attempt was cut
                    assert plan in ("never begins", "pings and never begins")
                    fired[FirstTokenTimeout] += 1
            else:
                assert attempt.committed_at - attempt.started_at <= FIRST
            if isinstance(attempt.error, IdleTimeout):
                fired[IdleTimeout] += 1
                assert plan in ("falls silent", "only pings")
                expected = 5.0 + IDLE if plan == "falls silent" else STALL
                assert (attempt.ended_at or 0.0) - (attempt.committed_at or 0.0) == about(expected)
    return fired


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=1e-6)


def plan_of(question: str, target: str) -> str:
    """How `target` answers `question`: the same each time, and apart from how another answers it."""
    return Random(f"{question} {target}").choices([*PLANS], WEIGHTS)[0]


async def in_virtual_time(seed: int | None) -> Storm:
    def target(name: str, model: str) -> MockProvider:
        return MockProvider(
            default=lambda request: PLANS[plan_of(request.messages[-1].text, name)], name=name, model=model
        )

    first, second = target("first", "gpt-4o-mini"), target("second", "claude-haiku-4-5")
    layers = presets.production(
        timeout=Timeout(first=FIRST, idle=IDLE, stall=STALL, total=TOTAL),
        # A breaker that lets pass what a third of all plans does, so that many get to see it.
        breaker=Breaker(ratio=0.95, consecutive=30),
        coalesce=Coalesce(),
        rate_limit=RateLimit(
            concurrency=300, requests_per_minute=3000, burst=600, per="target", max_wait=100.0
        ),
        fallback=Fallback(second),
    )
    async with no_leaks(files=False), Chain(first, *layers, runtime=Runtime(seed=3)) as chain:
        storm = Storm(chain)
        storm.gather(STREAMS, Random(7), asked, within=60.0, patience=200.0)
        await storm.break_loose()
        await storm.calm()
        storm.check_that_everything_is_given_back()
        assert (first.open, second.open) == (0, 0)
    return storm
