"""The breaker in a chain."""

from __future__ import annotations

import asyncio
import inspect
from random import Random

import pytest

from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ConfigError,
    ConnectFailed,
    ContentFiltered,
    DeadlineExceeded,
    InvalidRequest,
    LimitReached,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ReplyClosed,
    StreamBroken,
    Timeout,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.breaker.rules import CLOSED, HALF_OPEN, OPEN, CircuitRules
from llmpipe.pipeline import bands
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import conform
from llmpipe.types import Request

KEY = ("mock", "mock", "mock-1")


def now() -> float:
    return asyncio.get_running_loop().time()


class Setup:
    """A chain with a breaker round a script."""

    def __init__(self, *script, default="ok", runtime: Runtime | None = None, **settings) -> None:
        self.provider = MockProvider(script, default=default)
        self.breaker = Breaker(**settings)
        self.chain = Chain(self.provider, self.breaker, runtime=runtime or Runtime(seed=1))
        self.board = self.breaker.board(self.chain.runtime)

    @property
    def circuit(self):
        return self.board.circuits[KEY]

    async def ask(self, **options):
        """What one call comes to, a text or an error, and the kinds of its notes."""
        call = self.chain.new_call(Request("", "hi"), **options)
        try:
            reply = await self.chain(call)
            said = (await reply.full()).text
        except LLMError as error:
            said = error
        return said, [note.kind for note in call.ledger.notes]

    async def trip(self) -> None:
        for _ in range(5):
            if not self.board.troubled:
                await self.ask()
        assert self.board.troubled


def down(times: int = 5):
    return [Overloaded("down")] * times


async def test_a_call_that_succeeds_is_counted_and_leaves_no_note():
    it = Setup()
    assert await it.ask() == ("ok", [])
    stats = it.circuit.stats(now())
    assert (stats.total, stats.successful, stats.calls, stats.gauge) == (1, 1, 1, 0)


async def test_a_failing_target_is_left_alone_and_then_tried_again():
    it = Setup(*down())
    kinds = [(await it.ask())[1] for _ in range(5)]
    assert kinds == [[], [], [], [], ["breaker.opened"]]
    refused, notes = await it.ask()
    assert isinstance(refused, CircuitOpen)
    assert notes == ["breaker.refused"]
    assert len(it.provider.requests) == 5  # the sixth was not sent
    assert refused.retry_after is not None
    assert 4.5 <= refused.retry_after <= 5.5
    assert (refused.provider, refused.model, refused.phase) == ("mock", "mock-1", "admit")

    await asyncio.sleep(refused.retry_after)
    assert await it.ask() == ("ok", ["breaker.half_open"])
    assert await it.ask() == ("ok", ["breaker.closed"])
    assert it.circuit.state == CLOSED
    assert [change.kind for change in it.board.history] == ["opened", "half_open", "closed"]


async def test_what_is_told_of_a_change_says_which_circuit_why_and_for_how_long():
    it = Setup(*down())
    for _ in range(4):
        await it.ask()
    call = it.chain.new_call(Request("", "hi"))
    with pytest.raises(Overloaded):
        await it.chain(call)
    (note,) = call.ledger.notes
    assert note.detail["key"] == KEY
    assert note.detail["reason"] == "5 failures in a row"
    assert 4.5 <= note.detail["seconds"] <= 5.5


@pytest.mark.parametrize(
    "error", [Overloaded("x"), Timeout("x"), ConnectFailed("x"), LLMError("x", health="failure")]
)
async def test_failures_of_the_provider_count(error: LLMError):
    it = Setup(default=error)
    for _ in range(5):
        await it.ask()
    assert it.circuit.state == OPEN


@pytest.mark.parametrize(
    "error",
    [
        RateLimited("429"),
        QuotaExceeded("402"),
        AuthenticationFailed("401"),
        LimitReached("ours"),
        CircuitOpen("another breaker's"),
        DeadlineExceeded("out of time"),
        ReplyClosed("closed"),
    ],
)
async def test_throttling_keys_and_our_own_refusals_count_as_nothing(error: LLMError):
    it = Setup(default=error)
    for _ in range(20):
        await it.ask()
    stats = it.circuit.stats(now())
    assert (stats.state, stats.calls, stats.ignored) == ("closed", 0, 20)


@pytest.mark.parametrize("error", [InvalidRequest("400"), ContentFiltered("no")])
async def test_a_wrong_request_shows_that_the_provider_works(error: LLMError):
    it = Setup(*down(4), error, *down(4), default=error, ratio=None)
    for _ in range(20):
        await it.ask()
    assert it.circuit.state == CLOSED
    assert it.circuit.failed == 8


async def test_an_error_nobody_classified_counts_as_nothing_and_passes_unchanged():
    it = Setup(default=ZeroDivisionError("a bug"))
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            await it.ask()
    assert (it.circuit.state, it.circuit.ignored) == (CLOSED, 20)


async def test_a_server_that_asks_for_time_gets_it():
    it = Setup(default=Overloaded("down", retry_after=60))
    await it.trip()
    assert 60 <= it.board.peek(KEY, now()) <= 66


async def test_each_target_has_a_circuit_of_its_own():
    it = Setup(*down())
    for _ in range(5):
        await it.ask()
    done = await it.chain.complete("hi", model="other-model")
    assert done.text == "ok"
    assert set(it.board.circuits) == {KEY, ("mock", "mock", "other-model")}


async def test_embeddings_are_protected_too():
    it = Setup(*down(), default="ok")
    for _ in range(5):
        with pytest.raises(Overloaded):
            await it.chain.embed("hi")
    with pytest.raises(CircuitOpen):
        await it.chain.embed("hi")


# -- probes


async def half_open(*script, **settings) -> Setup:
    """A setup whose circuit admits its probe now."""
    it = Setup(*down(), *script, **settings)
    await it.trip()
    await asyncio.sleep(it.board.peek(KEY, now()))
    assert it.board.peek(KEY, now()) == 0
    return it


async def test_while_a_probe_is_out_everybody_else_is_refused():
    it = await half_open([Wait(3), "slow"])
    probe = asyncio.create_task(it.ask())
    await asyncio.sleep(1)
    others = await asyncio.gather(*(it.ask() for _ in range(20)))
    assert all(isinstance(said, CircuitOpen) for said, _ in others)
    assert it.board.peek(KEY, now()) > 0
    assert (await probe)[0] == "slow"
    assert len(it.provider.requests) == 6


async def test_a_probe_succeeds_when_its_stream_begins():
    it = await half_open(["begin", Wait(100), "end"], default=["x"])
    async with it.chain.stream("hi") as reply:
        await reply.__anext__()
        # The stream is still open, and the next probe may already go.
        assert (await it.ask())[0] == "x"
        assert it.circuit.state == CLOSED


async def test_a_probe_whose_stream_breaks_after_it_began_reopens_the_circuit():
    it = await half_open(["begin", StreamBroken("cut")], default=["x"])
    call = it.chain.new_call(Request("", "hi", stream=True))
    reply = await it.chain(call)
    with pytest.raises(StreamBroken):
        await reply.full()
    assert it.circuit.state == OPEN
    assert [note.kind for note in call.ledger.notes] == ["breaker.half_open", "breaker.opened"]
    assert it.circuit.reason == "a probe failed: NETWORK_ERROR"


async def test_a_stream_that_breaks_counts_as_a_failure_in_a_closed_circuit_too():
    it = Setup(default=["begin", StreamBroken("cut")], consecutive=None)
    for _ in range(5):
        async with it.chain.stream("hi") as reply:
            with pytest.raises(StreamBroken):
                await reply.full()
    assert (it.circuit.state, it.circuit.successful, it.circuit.failed) == (OPEN, 5, 5)


async def test_a_probe_that_is_cancelled_gives_its_permit_back_and_counts_as_nothing():
    it = await half_open([Wait(50), "late"])
    probe = asyncio.create_task(it.ask())
    await asyncio.sleep(1)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert (it.circuit.state, it.circuit.ignored) == (HALF_OPEN, 1)
    assert (await it.ask())[0] == "ok"


@pytest.mark.parametrize("how", ["cancelled", "abandoned"])
async def test_who_leaves_a_stream_after_it_began_takes_nothing_with_it(how: str):
    it = await half_open(["begin", Wait(50), "end"])

    async def read():
        async with it.chain.stream("hi") as reply:
            await reply.__anext__()
            if how == "cancelled":
                await reply.full()

    task = asyncio.create_task(read())
    await asyncio.sleep(1)
    if how == "cancelled":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await task
    assert (it.circuit.state, it.circuit.successful, it.circuit.failed) == (HALF_OPEN, 1, 5)
    assert (await it.ask())[0] == "ok"
    assert it.circuit.state == CLOSED


async def test_a_probe_cut_off_from_outside_at_every_await_leaves_no_permit_behind():
    """Cancelled at its first, second, … suspension until it runs through."""
    for suspensions in range(1, 20):
        it = await half_open([Wait(1), "a", Wait(1), "b"])

        async def read(it=it):
            async with it.chain.stream("hi") as reply:
                return [text async for text in reply.texts()]

        task = asyncio.create_task(read())
        for _ in range(suspensions):
            await asyncio.sleep(0.5)
            if task.done():
                break
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await it.ask())[0] == "ok"
    else:
        pytest.fail("never ran through")
    assert suspensions > 2


async def test_a_probe_that_ends_in_a_rate_limit_leaves_the_circuit_as_it_is():
    it = await half_open(RateLimited("slow down"))
    assert isinstance((await it.ask())[0], RateLimited)
    assert it.circuit.state == HALF_OPEN
    assert (await it.ask())[0] == "ok"


async def test_a_late_failure_from_before_the_opening_does_not_disturb_the_recovery():
    it = Setup([Wait(5.8), Overloaded("late")], *down())
    late = asyncio.create_task(it.ask())
    await asyncio.sleep(0.01)
    await it.trip()
    await asyncio.sleep(5.6)
    assert (await it.ask())[0] == "ok"
    assert it.circuit.state == HALF_OPEN
    assert isinstance((await late)[0], Overloaded)
    assert it.circuit.state == HALF_OPEN
    assert (await it.ask())[0] == "ok"
    assert it.circuit.state == CLOSED


class Probing:
    """A breaker that is half-open whenever a call comes, with room for several probes."""

    name, priority = "probing", 0

    def rings(self):
        breaker = Breaker(consecutive=1, base=1e-9, cap=1e-9, probes=9, close_after=9)

        @layer(priority=bands.HEALTH - 1, name="trips")
        async def trips(call, call_next):
            board, now = breaker.board(call.runtime), call.runtime.now()
            circuit = board.make(call.target_key, breaker, call.runtime.random, now)
            if circuit.state == CLOSED:
                circuit.admit(now).failure(now)
            await asyncio.sleep(0.001)  # the open time
            return await call_next(call)

        return (trips, breaker)


async def test_a_half_open_breaker_keeps_the_laws_of_the_pipeline_and_loses_no_permit():
    """Full and streamed, failing in every way, cancelled at every place where that can happen."""

    def probes_out(runtime: Runtime) -> float:
        return sum(circuit._out for circuit in Breaker().board(runtime))

    report = await conform(Probing, balance=probes_out)
    assert report.cancellations > 100


# -- slow calls, modes, hands


async def test_a_call_that_begins_too_slowly_counts_as_a_failure_where_that_is_asked_for():
    it = Setup(default=[Wait(3), "slow"], slow=2.0, consecutive=3)
    for _ in range(3):
        assert (await it.ask())[0] == "slow"
    assert (it.circuit.state, it.circuit.reason) == (OPEN, "3 failures in a row")


async def test_a_long_stream_is_not_a_slow_call():
    it = Setup(default=["begin", Wait(30), "end"], slow=2.0, consecutive=3)
    for _ in range(5):
        async with it.chain.stream("hi") as reply:
            await reply.full()
    assert it.circuit.state == CLOSED


async def test_a_dry_run_changes_state_and_notes_and_refuses_nobody():
    it = Setup(*down(9), mode="metrics_only")
    said = [await it.ask() for _ in range(8)]
    assert all(isinstance(error, Overloaded) for error, _ in said)
    assert [notes for _, notes in said[4:]] == [["breaker.opened"]] + [["breaker.refused"]] * 3
    assert it.circuit.stats(now()).rejected == 3
    assert it.board.peek(KEY, now()) == 0  # nobody is to be kept away
    await asyncio.sleep(6)
    assert (await it.ask())[1] == ["breaker.half_open", "breaker.opened"]


async def test_a_disabled_breaker_does_nothing():
    it = Setup(default=Overloaded("down"), mode="disabled")
    for _ in range(20):
        assert (await it.ask())[1] == []
    assert not it.board.circuits


async def test_one_call_can_pass_an_open_circuit():
    it = Setup(*down())
    await it.trip()
    seen = it.circuit.stats(now())
    assert (await it.ask(options={Breaker: {"mode": "disabled"}}))[0] == "ok"
    assert it.circuit.stats(now()) == seen
    assert (await it.ask(without={"breaker"}))[0] == "ok"
    assert isinstance((await it.ask())[0], CircuitOpen)


async def test_a_call_that_disables_the_breaker_is_not_counted_while_the_circuit_is_closed_either():
    it = Setup()
    await it.ask()
    await it.ask(options={Breaker: {"mode": "disabled"}})
    assert it.circuit.total == 1


async def test_options_of_a_call_do_not_change_the_rules_for_the_others():
    it = Setup(*down(4))
    await it.ask(options={Breaker: {"consecutive": 1}})
    assert it.circuit.state == CLOSED
    assert it.circuit.rules is it.breaker


async def test_a_circuit_can_be_held_open_and_let_go_by_hand():
    it = Setup()
    it.board.isolate(KEY, now())
    refused, _ = await it.ask()
    assert isinstance(refused, CircuitOpen)
    assert refused.retry_after is None
    it.board.reset(now(), KEY)
    assert (await it.ask())[0] == "ok"


async def test_a_chain_made_anew_keeps_its_circuits_under_the_new_rules():
    runtime = Runtime(seed=1)
    old = Setup(*down(4), runtime=runtime)
    for _ in range(4):
        await old.ask()
    new = Setup(Overloaded("down"), runtime=runtime, base=30.0)
    await new.ask()
    assert new.circuit is old.circuit
    assert (new.circuit.state, new.circuit.rules) == (OPEN, new.breaker)
    assert new.board.peek(KEY, now()) >= 27


async def test_two_breakers_of_other_names_share_nothing():
    runtime = Runtime(seed=1)
    inner, outer = Breaker(name="inner", priority=910), Breaker(name="outer", consecutive=1)
    chain = Chain(MockProvider(default=Overloaded("down")), inner, outer, runtime=runtime)
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    with pytest.raises(CircuitOpen):
        await chain.complete("hi")
    assert inner.board(runtime).circuits[KEY].failed == 1


async def test_a_refusal_gives_back_what_was_taken_further_out():
    taken = 0

    @layer(priority=800, name="limit")
    async def limit(call, call_next):
        nonlocal taken
        taken += 1
        try:
            return await call_next(call)
        finally:
            taken -= 1

    it = Setup(*down())
    it.chain.use(limit)
    await it.trip()
    assert isinstance((await it.ask())[0], CircuitOpen)
    assert taken == 0


def test_the_breaker_is_told_on_the_spot():
    """A frame that awaits after its yield costs a task of its own."""
    assert inspect.iscoroutinefunction(Breaker.__call__)  # `Reply.when_over` tells it, and awaits nothing


@pytest.mark.parametrize("wrong", [{"mode": "off"}, {"slow": 0}, {"ratio": 2}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="breaker"):
        Breaker(**wrong)


# -- the board


def test_a_board_forgets_idle_circuits_and_the_longest_unused_but_none_held_open():
    board, rules, random = Board(max_circuits=10, idle=100.0), CircuitRules(), Random(1)
    board.isolate("held", 0.0)
    for n in range(9):
        board.make(n, rules, random, float(n))
    board.make("new", rules, random, 50.0)  # no room: a tenth goes
    assert set(board.circuits) == {"held", *range(1, 9), "new"}
    board.make("later", rules, random, 140.0)  # those idle for longer than 100 s go
    assert set(board.circuits) == {"held", "new", "later"}


def test_a_board_under_many_keys_stays_bounded_and_keeps_open_circuits_longest():
    board, rules, random = Board(max_circuits=100), CircuitRules(consecutive=1), Random(1)
    permit = board.make("dead", rules, random, 0.0).admit(0.0)
    assert permit is not None
    permit.failure(0.0)
    for n in range(5000):
        board.make(n, rules, random, 1.0 + n / 1000)
        assert len(board.circuits) <= 100
    assert "dead" in board.circuits
    assert set(board.troubled) == {"dead"}


def test_a_permit_of_a_circuit_that_was_dropped_does_no_harm():
    board, rules, random = Board(max_circuits=1), CircuitRules(consecutive=1), Random(1)
    permit = board.make("a", rules, random, 0.0).admit(0.0)
    board.make("b", rules, random, 1.0)
    assert permit is not None
    permit.failure(2.0)
    assert board.peek("a", 2.0) == 0
    assert not board.troubled


def test_everything_on_a_board_can_be_closed_at_once():
    board = Board()
    board.isolate("a", 0.0)
    board.isolate("b", 0.0)
    board.reset(1.0)
    assert [stats.state for stats in board.stats(1.0)] == ["closed", "closed"]
    assert not board.troubled
    assert [circuit.key for circuit in board] == ["a", "b"]
    board.reset(1.0, "unknown")
    assert len(board.circuits) == 2


@pytest.mark.parametrize("wrong", [{"max_circuits": 0}, {"idle": 0}, {"history": 0}])
def test_a_board_without_room_is_refused(wrong):
    with pytest.raises(ConfigError, match="board"):
        Board(**wrong)
