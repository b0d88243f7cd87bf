"""Retry and breaker round any function, plain and async, alone and from threads."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from random import Random
from threading import Barrier, Event

import pytest

from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ConfigError,
    InvalidRequest,
    LLMError,
    RateLimited,
)
from llmpipe.middleware.breaker import CircuitBreaker
from llmpipe.middleware.breaker.rules import CircuitRules
from llmpipe.middleware.retry import Retry, RetryExecutor

pytestmark = pytest.mark.virtual_time


class Clock:
    """Seconds that pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Flaky:
    """Fails as told, then returns what it was given."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return args, kwargs

    async def later(self, *args, **kwargs):
        await asyncio.sleep(0)
        return self(*args, **kwargs)


def executor(clock: Clock | None = None, **settings) -> RetryExecutor:
    clock = clock or Clock()
    settings = {"on": ConnectionError, "sleep": clock.sleep, "clock": clock, "random": Random(1), **settings}
    return RetryExecutor(settings.pop("retry", Retry()), **settings)


async def run(it, way: str, function: Flaky, *args, **kwargs):
    """`function` through `it`, in the plain or the async way."""
    if way == "plain":
        return (it.execute if isinstance(it, RetryExecutor) else it.call)(function, *args, **kwargs)
    method = it.execute_async if isinstance(it, RetryExecutor) else it.call_async
    return await method(function.later, *args, **kwargs)


both = pytest.mark.parametrize("way", ["plain", "async"])


# -- retry


@both
async def test_a_function_is_tried_until_it_succeeds_and_gets_its_arguments(way: str):
    function = Flaky(ConnectionError("1"), ConnectionResetError("2"))
    it = executor()
    assert await run(it, way, function, 1, key=2) == ((1,), {"key": 2})
    assert function.calls == 3
    stats = it.stats
    assert (stats.attempts, stats.successful, stats.failed) == (2, 1, 1)
    assert 0 < stats.delay <= 1.5


@both
async def test_the_last_error_is_raised_when_the_attempts_are_used_up(way: str):
    errors = [ConnectionError(str(n)) for n in range(4)]
    with pytest.raises(ConnectionError) as caught:
        await run(executor(), way, Flaky(*errors, ConnectionError("too many")))
    assert caught.value is errors[3]


@both
async def test_what_on_does_not_name_goes_on_at_once(way: str):
    function = Flaky(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        await run(executor(), way, function)
    assert function.calls == 1


@both
async def test_on_may_be_several_types_or_a_predicate(way: str):
    it = executor(on=(ValueError, ConnectionError))
    assert await run(it, way, Flaky(ValueError("x"), ConnectionError("y"))) == ((), {})
    it = executor(on=lambda error: "again" in str(error))
    assert await run(it, way, Flaky(ValueError("again"))) == ((), {})
    with pytest.raises(ValueError, match="no"):
        await run(it, way, Flaky(ValueError("no")))


@both
async def test_an_error_of_ours_must_also_say_that_it_can_help(way: str):
    it = executor(on=LLMError)
    assert await run(it, way, Flaky(RateLimited("slow down"))) == ((), {})
    function = Flaky(AuthenticationFailed("wrong key"))
    with pytest.raises(AuthenticationFailed):
        await run(it, way, function)
    assert function.calls == 1


async def test_a_hint_is_waited_for():
    clock = Clock()
    executor(clock, on=LLMError).execute(Flaky(RateLimited("slow down", retry_after=30)))
    assert 30 <= clock.slept[0] <= 33.1


@both
async def test_a_policy_may_name_exception_classes(way: str):
    it = executor(on=Exception, retry=Retry(policy={"TimeoutError": 2, "KeyError": False}))
    function = Flaky(TimeoutError("1"), TimeoutError("2"))
    with pytest.raises(TimeoutError, match="2"):
        await run(it, way, function)
    function = Flaky(KeyError("1"))
    with pytest.raises(KeyError):
        await run(it, way, function)
    assert function.calls == 1


@both
async def test_no_wait_is_begun_that_would_cross_the_time_limit(way: str):
    it = executor(timeout=3.0, retry=Retry(attempts=9, base=2.0, jitter=0.0, min_attempt=0.5))
    function = Flaky(*[ConnectionError("down")] * 9)
    with pytest.raises(ConnectionError):
        await run(it, way, function)
    assert function.calls == 2  # after 2 s there are 1 s left, and the next wait would be 4 s


@both
async def test_an_empty_quota_fails_with_the_functions_own_error(way: str):
    it = executor(retry=Retry(budget=28))
    function = Flaky(*[ConnectionError("down")] * 9)
    with pytest.raises(ConnectionError):
        await run(it, way, function)
    assert function.calls == 3
    with pytest.raises(ConnectionError):
        await run(it, way, function)
    assert function.calls == 4


@both
async def test_successes_fill_the_quota_again(way: str):
    it = executor()
    await run(it, way, Flaky(ConnectionError("1"), ConnectionError("2")))
    assert it.stats.spent == 14
    for _ in range(20):
        await run(it, way, Flaky())
    assert it.stats.spent == 0


async def test_who_is_cancelled_while_waiting_has_paid_nothing():
    it = executor(retry=Retry(base=5.0, jitter=0.0))
    task = asyncio.create_task(run(it, "async", Flaky(ConnectionError("down"))))
    await asyncio.sleep(1)
    assert it.stats.spent == 14
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (it.stats.spent, it.stats.attempts) == (0, 0)


def test_who_is_interrupted_while_waiting_has_paid_nothing():
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    it = executor(sleep=interrupted)
    with pytest.raises(KeyboardInterrupt):
        it.execute(Flaky(ConnectionError()))
    assert (it.stats.spent, it.stats.attempts) == (0, 0)


@pytest.mark.parametrize(
    ("way", "interrupt"),
    [
        ("plain", KeyboardInterrupt),
        ("plain", SystemExit),
        ("plain", asyncio.CancelledError),
        ("async", asyncio.CancelledError),
    ],
)
async def test_an_interrupt_is_never_retried(way: str, interrupt: type[BaseException]):
    function = Flaky(interrupt())
    with pytest.raises(interrupt):
        await run(executor(on=Exception), way, function)
    assert function.calls == 1


@pytest.mark.parametrize("on", [BaseException, KeyboardInterrupt, "ConnectionError", (ValueError, 5)])
def test_what_may_be_retried_must_be_said_in_exceptions(on):
    with pytest.raises(ConfigError, match="on takes subclasses of Exception"):
        RetryExecutor(on=on)
    with pytest.raises(TypeError):
        RetryExecutor()  # type: ignore[call-arg]  # there is no default, which is the point


async def test_an_async_function_in_the_plain_form_is_refused_before_it_is_called():
    function = Flaky()
    with pytest.raises(TypeError, match="execute_async"):
        executor().execute(function.later)  # type: ignore[unused-coroutine]  # it never runs
    with pytest.raises(TypeError, match="call_async"):
        CircuitBreaker("it").call(function.later)  # type: ignore[unused-coroutine]  # it never runs
    assert function.calls == 0


def test_threads_that_share_an_executor_lose_no_count():
    it = executor(retry=Retry(budget=0, base=1e-6, cap=1e-6), sleep=lambda seconds: None)
    start = Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(200):
            it.execute(Flaky(ConnectionError("1")))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    assert (it.stats.attempts, it.stats.successful, it.stats.failed) == (1600, 1600, 0)


# -- breaker


def guard(clock: Clock | None = None, **settings) -> CircuitBreaker:
    return CircuitBreaker("payments", clock=clock or Clock(), random=Random(1), **settings)


async def trip(it: CircuitBreaker, way: str, times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            await run(it, way, Flaky(ConnectionError("down")))


@both
async def test_a_breaker_returns_what_the_function_returns(way: str):
    it = guard()
    assert await run(it, way, Flaky(), 1, key=2) == ((1,), {"key": 2})
    assert (it.state, it.stats().successful) == ("closed", 1)


@both
async def test_a_breaker_opens_refuses_probes_and_closes(way: str):
    clock = Clock()
    it = guard(clock, failure_threshold=5, success_threshold=2, timeout=60.0)
    await trip(it, way, 4)
    assert it.state == "closed"
    await trip(it, way, 1)
    assert it.state == "open"
    function = Flaky()
    with pytest.raises(CircuitOpen) as caught:
        await run(it, way, function)
    assert function.calls == 0
    assert caught.value.retry_after is not None
    assert 54 <= caught.value.retry_after <= 66
    assert "payments: the circuit is open (5 failures in a row)" in str(caught.value)
    assert (it.stats().rejected, it.stats().gauge) == (1, 2)

    clock.now += caught.value.retry_after
    await run(it, way, function)
    assert it.state == "half_open"
    await run(it, way, function)
    assert it.state == "closed"


@both
async def test_a_failed_probe_opens_it_for_twice_as_long_up_to_eight_times(way: str):
    clock = Clock()
    it = guard(clock, timeout=10.0)
    await trip(it, way)
    times = []
    for _ in range(6):
        times.append(it.stats().retry_after)
        clock.now += times[-1]
        await trip(it, way, 1)
    for seconds, usual in zip(times, [10, 20, 40, 80, 80, 80], strict=True):
        assert 0.9 * usual <= seconds <= 1.1 * usual


@both
async def test_a_success_in_between_begins_the_count_anew(way: str):
    it = guard(failure_threshold=3)
    for _ in range(10):
        await trip(it, way, 2)
        await run(it, way, Flaky())
    assert it.state == "closed"


@both
async def test_only_what_on_names_counts(way: str):
    it = guard(failure_threshold=1, on=ConnectionError)
    with pytest.raises(ValueError, match="not its fault"):
        await run(it, way, Flaky(ValueError("not its fault")))
    assert (it.state, it.stats().ignored) == ("closed", 1)
    await trip(it, way, 1)
    assert it.state == "open"
    it = guard(failure_threshold=1, on=lambda error: "down" in str(error))
    with pytest.raises(ValueError, match="wrong"):
        await run(it, way, Flaky(ValueError("wrong")))
    assert it.state == "closed"
    await trip(it, way, 1)
    assert it.state == "open"


@both
async def test_errors_of_ours_count_as_they_say(way: str):
    it = guard(failure_threshold=1)
    with pytest.raises(RateLimited):
        await run(it, way, Flaky(RateLimited("slow down")))
    with pytest.raises(InvalidRequest):
        await run(it, way, Flaky(InvalidRequest("wrong")))
    stats = it.stats()
    assert (stats.state, stats.ignored, stats.successful) == ("closed", 1, 1)


async def test_a_cancelled_probe_gives_its_permit_back():
    it = CircuitBreaker("it", failure_threshold=1, timeout=1.0, clock=asyncio.get_running_loop().time)
    await trip(it, "async", 1)
    await asyncio.sleep(2)

    async def hang():
        await asyncio.sleep(100)

    probe = asyncio.create_task(it.call_async(hang))
    await asyncio.sleep(0.1)
    with pytest.raises(CircuitOpen):
        await run(it, "async", Flaky())
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert it.state == "half_open"
    await run(it, "async", Flaky())
    await run(it, "async", Flaky())
    assert it.state == "closed"


def test_an_interrupt_counts_as_nothing():
    it = guard(failure_threshold=1)
    with pytest.raises(KeyboardInterrupt):
        it.call(Flaky(KeyboardInterrupt()))
    assert (it.state, it.stats().ignored) == ("closed", 1)


@both
async def test_a_predicate_that_fails_itself_takes_no_probe_with_it(way: str):
    def broken(error: Exception) -> bool:
        if isinstance(error, KeyError):
            raise LookupError("a bug in the predicate")
        return True

    clock = Clock()
    it = CircuitBreaker("it", failure_threshold=1, timeout=10.0, on=broken, clock=clock, random=Random(1))
    with pytest.raises(ConnectionError):
        await run(it, way, Flaky(ConnectionError()))
    clock.now += 12
    with pytest.raises(LookupError):
        await run(it, way, Flaky(KeyError()))
    assert it.state == "half_open"
    assert it.stats().ignored == 1
    await run(it, way, Flaky())  # the probe of the next is there


def test_it_can_be_held_open_and_reset():
    it = guard()
    it.isolate("maintenance")
    with pytest.raises(CircuitOpen, match="maintenance"):
        it.call(Flaky())
    it.reset()
    assert it.call(Flaky()) == ((), {})
    assert repr(it) == "CircuitBreaker('payments', closed)"


def test_all_rules_can_be_given():
    it = guard(rules=CircuitRules(consecutive=None, min_calls=4, ratio=0.5, base=1.0))
    for n in range(4):
        if n % 2:
            it.call(Flaky())
        else:
            with pytest.raises(ConnectionError):
                it.call(Flaky(ConnectionError("down")))
    assert it.state == "open"


def test_a_threshold_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="failure_threshold"):
        CircuitBreaker("it", failure_threshold=0)


def test_threads_get_one_probe_between_them():
    clock = Clock()
    it = guard(clock, failure_threshold=1, timeout=1.0)
    with pytest.raises(ConnectionError):
        it.call(Flaky(ConnectionError("down")))
    clock.now += 2
    start, release = Barrier(16), Event()

    def probe():
        start.wait()
        return it.call(release.wait)

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(probe) for _ in range(16)]
        wait(futures, timeout=0.2)  # whoever is refused is done by then, whoever got in waits
        release.set()
        errors = [future.exception() for future in futures]
    assert sum(error is None for error in errors) == 1
    assert sum(isinstance(error, CircuitOpen) for error in errors) == 15


@pytest.fixture
def restless():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-7)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_that_share_a_breaker_lose_no_count():
    it = guard(rules=CircuitRules(consecutive=100_000, ratio=None))
    start = Barrier(8)

    def work() -> None:
        start.wait()
        for n in range(300):
            if n % 3:
                it.call(Flaky())
            else:
                with pytest.raises(ConnectionError):
                    it.call(Flaky(ConnectionError("down")))

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    stats = it.stats()
    assert (stats.total, stats.successful, stats.failed) == (2400, 1600, 800)


# -- both together


@both
async def test_a_breaker_inside_a_retry_stops_it(way: str):
    clock = Clock()
    breaker = guard(clock, failure_threshold=2)
    retry = executor(clock, on=Exception, retry=Retry(attempts=10))
    function = Flaky(*[ConnectionError("down")] * 10)
    with pytest.raises(CircuitOpen):
        if way == "plain":
            retry.execute(breaker.call, function)
        else:
            await retry.execute_async(breaker.call_async, function.later)
    assert function.calls == 2
