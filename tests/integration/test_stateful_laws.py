"""Breaker, rate limit and retry as a chain runs them, against short models, over long random histories.

The laws, by the numbers under which they are known: what never counts against a provider (B7), the
window, the refusals and their hints (RL1 to RL5), attempts, time and hints of retries (T1, T2, T4).
What is pure (a circuit, a bucket) has machines and models of its own beside its code.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmpipe import errors
from llmpipe.errors import CircuitOpen, ConnectFailed, LimitReached, LLMError, StreamBroken
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import VirtualTimeLoop
from llmpipe.types import Request

STREAM = Request(messages="hi", stream=True)


class OnALoop(RuleBasedStateMachine):
    """A machine that has a loop of its own for all its life."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def now(self) -> float:
        return self.loop.time()

    def teardown(self) -> None:
        assert asyncio.all_tasks(self.loop) == set()
        self.loop.close()


# ------------------------------------------------------------ what counts against a provider

EVERY_ERROR = [
    kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, LLMError)
]


class Health(OnALoop):
    """B7, and what the machine of the circuit cannot see: which outcomes become which answers."""

    @initialize(consecutive=st.integers(1, 4), ratio=st.sampled_from([None, 0.5]))
    def begin(self, consecutive: int, ratio: float | None) -> None:
        self.line: Any = "hi"
        self.breaker = Breaker(consecutive=consecutive, ratio=ratio, min_calls=6, window=1e6, base=5.0)
        self.chain = Chain(MockProvider(default=lambda _: self.line), self.breaker, runtime=Runtime(seed=1))
        self.failed = self.successful = self.ignored = 0
        self.run(self.ask("hi"))

    @property
    def circuit(self) -> Any:
        (found,) = self.breaker.board(self.chain.runtime).circuits.values()
        return found

    async def ask(self, line: Any, *, cancel: bool = False) -> None:
        """One call; what the model expects of it is counted by what the error says of itself."""
        self.line = line
        before, rejected = self.state(), self.circuit.rejected if self.chain.runtime.states("breaker") else 0
        task = asyncio.ensure_future(self.chain.complete("hi"))
        if cancel:
            await asyncio.sleep(0.5)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            counts = "ignore"
        except CircuitOpen as error:
            if self.circuit.rejected > rejected:
                return  # ours: nothing was asked
            counts = error.health
        except LLMError as error:
            counts = error.health
        except ValueError:
            counts = "ignore"
        else:
            counts = "success"
        self.failed += counts == "failure"
        self.successful += counts == "success"
        self.ignored += counts == "ignore"
        if counts == "ignore":
            assert self.state() == before or before == "open"  # which a probe had half-opened

    def state(self) -> str:
        boards = self.chain.runtime.states("breaker")
        return self.circuit.stats(self.now()).state if boards and self.breaker_used() else "closed"

    def breaker_used(self) -> bool:
        return bool(self.breaker.board(self.chain.runtime).circuits)

    @rule(kind=st.sampled_from(EVERY_ERROR))
    def an_error_of_any_class(self, kind: type[LLMError]) -> None:
        self.run(self.ask(kind("said the provider")))

    @rule(health=st.sampled_from(["failure", "success", "ignore"]))
    def an_error_that_says_something_else_of_itself(self, health: str) -> None:
        error = errors.Overloaded("busy")
        error.health = health  # type: ignore[assignment]  # one of the three
        self.run(self.ask(error))

    @rule()
    def an_answer(self) -> None:
        self.run(self.ask("hi"))

    @rule()
    def a_caller_who_leaves(self) -> None:
        self.run(self.ask([Wait(9.0), "late"], cancel=True))

    @rule()
    def an_error_that_nobody_classified(self) -> None:
        self.run(self.ask(ValueError("a bug")))

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def only_failures_of_the_provider_count(self) -> None:
        if hasattr(self, "chain"):
            circuit = self.circuit
            said = (circuit.failed, circuit.successful, circuit.ignored)
            assert said == (self.failed, self.successful, self.ignored)
            assert circuit._out == 0
            assert circuit.state == 0 or self.failed > 0


Health.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_only_what_a_provider_did_wrong_counts_against_it = Health.TestCase


# ------------------------------------------------------------ admission


class Admission(OnALoop):
    """RL1 to RL5 of one key: a level that fills by one a second, a number of places, and a wall clock."""

    @initialize(burst=st.integers(1, 6), room=st.integers(1, 4))
    def begin(self, burst: int, room: int) -> None:
        self.burst, self.room, self.wall = burst, room, 1e9
        limit = RateLimit(requests_per_minute=60, burst=burst, concurrency=room, mode="reject")
        self.fails: LLMError | None = None
        self.limit = limit
        runtime = Runtime(seed=1, wall=lambda: self.wall)
        provider = MockProvider(default=lambda _: self.fails or ["a", "b"])
        self.chain = Chain(provider, limit, runtime=runtime)
        self.level, self.at = float(burst), 0.0
        self.held: list[Reply] = []
        self.admitted: list[float] = []

    def refill(self) -> None:
        """The model's level now. Quarters of a second, so that sums are exact."""
        self.level = min(float(self.burst), self.level + self.now() - self.at)
        self.at = self.now()

    @rule(fate=st.sampled_from(["held", "held", "read", "fails", "was not sent"]))
    def a_call_comes(self, fate: str) -> None:
        self.refill()
        expected = self.level >= 1 and len(self.held) < self.room  # RL2: no false refusal, and no other
        kinds = {"fails": errors.ServiceUnavailable("oops"), "was not sent": ConnectFailed("no connection")}
        self.fails = kinds.get(fate)
        try:
            reply = self.run(self.come())
        except LimitReached as refused:
            assert not expected
            self.check_the_refusal(refused)
            return  # RL4: the level of the model stays as it is
        except (errors.ServiceUnavailable, ConnectFailed) as error:
            assert expected
            if error.sent:
                self.level -= 1
                self.admitted.append(self.now())
            return
        assert expected
        self.level -= 1
        self.admitted.append(self.now())
        self.held.append(reply)
        if fate == "read":
            self.run(self.held.pop().full())

    async def come(self) -> Reply:
        return await self.chain(self.chain.new_call(STREAM))

    def check_the_refusal(self, refused: LimitReached) -> None:
        """RL3: it names the earliest moment that works; none where that depends on those in flight."""
        assert not refused.sent
        hint = refused.retry_after
        if len(self.held) < self.room:
            assert hint == pytest.approx(1 - self.level, abs=1e-3)
        else:
            assert hint is None

    @precondition(lambda self: self.held)
    @rule(place=st.integers(0, 3), how=st.sampled_from(["full", "aclose"]))
    def a_call_ends(self, place: int, how: str) -> None:
        reply = self.held.pop(place % len(self.held))
        self.run(getattr(reply, how)())

    @rule(quarters=st.sampled_from([1, 2, 4, 9, 40]))
    def time_passes(self, quarters: int) -> None:
        self.run(asyncio.sleep(quarters / 4))

    @rule(seconds=st.sampled_from([-1e8, -3600.0, 3600.0, 1e8]))
    def the_wall_clock_jumps(self, seconds: float) -> None:
        self.wall += seconds  # RL5: nothing else happens, and the model knows nothing of it

    @invariant()
    def no_window_holds_more_than_the_limit_and_one_burst(self) -> None:
        for start in getattr(self, "admitted", [])[-20:]:
            for window in (1.0, 5.0, 60.0):
                inside = sum(start <= at < start + window for at in self.admitted)
                assert inside <= window + self.burst  # RL1

    @invariant()
    def the_status_says_what_the_model_says(self) -> None:
        if not self.admitted_any():
            return
        (key,) = self.run(self.status())
        assert (key.in_flight, key.waiting) == (len(self.held), 0)
        self.refill()
        assert key.limits[0].remaining == pytest.approx(self.level, abs=1e-6)

    def admitted_any(self) -> bool:
        return bool(getattr(self, "admitted", ()))

    async def status(self) -> Any:
        return self.limit.status(self.chain.runtime)

    def teardown(self) -> None:
        for reply in getattr(self, "held", []):
            self.run(reply.aclose())
        super().teardown()


Admission.TestCase.settings = settings(max_examples=80, stateful_step_count=50)
test_who_is_admitted_when_is_what_the_model_says = Admission.TestCase


# ------------------------------------------------------------ trying again


CHEAPEST = 5  # what a retry costs at the least: one after a 429


class Retrying(OnALoop):
    """T1, T2 and T4 of calls that follow one another and share one quota."""

    @initialize(attempts=st.integers(1, 5), budget=st.sampled_from([30, 70, 500]))
    def begin(self, attempts: int, budget: int) -> None:
        self.attempts, self.budget = attempts, budget
        self.sent: list[tuple[float, Any]] = []
        self.script: list[Any] = []
        self.retries = self.unpaid = 0
        retry = Retry(attempts=attempts, budget=budget)
        self.chain = Chain(MockProvider(default=self.line), retry, runtime=Runtime(seed=3))

    def line(self, _: Any) -> Any:
        said = self.script.pop(0) if self.script else ["all ", "well"]
        self.sent.append((self.now(), said))
        return said

    @rule(
        failures=st.lists(
            st.sampled_from(["busy", "limited", "hint", "wrong", "cut before", "cut after"]), max_size=6
        ),
        timeout=st.sampled_from([None, 0.6, 3.0, 20.0]),
        leaves=st.sampled_from([None, None, 0.3, 2.0]),
    )
    def a_call(self, failures: list[str], timeout: float | None, leaves: float | None) -> None:
        made = {
            "busy": lambda: errors.Overloaded("busy"),
            "limited": lambda: errors.RateLimited("slow down"),
            "hint": lambda: errors.RateLimited("slow down", retry_after=2.0),
            "wrong": lambda: errors.InvalidRequest("wrong"),
            "cut before": lambda: [StreamBroken("cut")],
            "cut after": lambda: ["a ", StreamBroken("cut")],
        }
        self.script, self.sent = [made[name]() for name in failures], []
        began = self.now()
        error = self.run(self.ask(timeout, leaves))
        self.retries += len(self.sent) - 1
        self.unpaid = 0 if error is None else self.unpaid + len(self.sent) - 1
        assert self.unpaid * CHEAPEST <= self.budget
        assert 1 <= len(self.sent) <= self.attempts  # T1
        assert self.now() - began <= (inf if timeout is None else timeout)
        for number, (at, said) in enumerate(self.sent):
            last = number == len(self.sent) - 1
            begun = isinstance(said, list) and said[0] == "a "
            assert last or not (begun or isinstance(said, errors.InvalidRequest))  # T2
            if not last and isinstance(said, errors.RateLimited) and said.retry_after:
                assert self.sent[number + 1][0] - at >= said.retry_after  # T4
        if error is None:
            assert self.sent[-1][1] == ["all ", "well"]

    @rule(calls=st.integers(2, 5), kind=st.sampled_from(["busy", "limited"]))
    def an_outage(self, calls: int, kind: str) -> None:
        for _ in range(calls):
            self.a_call([kind] * 6, None, None)

    async def ask(self, timeout: float | None, leaves: float | None) -> BaseException | None:
        async def read() -> None:
            async with self.chain.stream("hi", timeout=timeout) as reply:
                await reply.full()

        task = asyncio.ensure_future(read())
        if leaves is not None:
            self.loop.call_later(leaves, task.cancel)
        await asyncio.wait([task])
        return asyncio.CancelledError() if task.cancelled() else task.exception()

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def retries_are_paid_for(self) -> None:
        """T3 for callers one after another: what was not earned by successes comes out of one quota."""
        if not hasattr(self, "chain"):
            return
        for _, quota in Quotas.of(self.chain.runtime).items():
            assert 0 <= quota.spent <= self.budget
            assert quota.successful + quota.failed <= quota.attempts
            assert quota.attempts == self.retries


Retrying.TestCase.settings = settings(max_examples=80, stateful_step_count=30)
test_retries_keep_their_laws_over_any_history = Retrying.TestCase
