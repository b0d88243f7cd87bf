"""Breakers of several processes that tell each other of open circuits."""

from __future__ import annotations

import asyncio
import itertools
import logging
from math import inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import CircuitOpen, ConfigError, LLMError, Overloaded, StoreUnavailable
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.circuit import Circuit
from llmpipe.middleware.breaker.fleet import _key, _word
from llmpipe.middleware.breaker.rules import CLOSED, HALF_OPEN, OPEN, CircuitRules
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.state import Trip
from llmpipe.state.memory import MemoryState
from llmpipe.state.memory.breakers import MemoryBreakers
from llmpipe.testing import run

KEY = ("mock", "mock", "mock-1")
WORD = '["mock","mock","mock-1"]'
STORE = "memory://"


class Store(MemoryState):
    """A store that counts what is asked of it, and can be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.reads = self.writes = 0
        self.kept = MemoryBreakers()

    def breakers(self, name: str) -> Store:
        return self

    def _reached(self) -> None:
        if self.down:
            raise StoreUnavailable("out of reach")

    async def trip(self, key: str, trip: Trip) -> None:
        self.writes += 1
        self._reached()
        await self.kept.trip(key, trip)

    async def close(self, key: str) -> None:
        self.writes += 1
        self._reached()
        await self.kept.close(key)

    async def read(self) -> dict[str, Trip]:
        self.reads += 1
        self._reached()
        return await self.kept.read()


class Process:
    """A chain on a runtime of its own, which shares nothing but the store."""

    def __init__(self, store, seed: int = 1, **settings) -> None:
        settings = {"consecutive": 3, "base": 5.0, "store": STORE, **settings}
        self.runtime = Runtime(seed=seed)
        self.runtime.state("store", STORE, lambda: store)
        self.provider = MockProvider(default="ok")
        self.breaker = Breaker(**settings)
        self.chain = Chain(self.provider, self.breaker, runtime=self.runtime)
        self.board = self.breaker.board(self.runtime)

    async def ask(self):
        try:
            return (await self.chain.complete("hi")).text
        except LLMError as error:
            return type(error)

    def breaks(self, broken: bool = True) -> None:
        self.provider.default = Overloaded("down") if broken else "ok"

    async def trip(self) -> None:
        self.breaks()
        for _ in range(3):
            assert await self.ask() is Overloaded

    @property
    def state(self) -> int:
        return self.board.circuits[KEY].state


@pytest.fixture
def store():
    return Store()


async def close(*processes: Process) -> None:
    for process in processes:
        await process.runtime.aclose()


async def test_a_trip_is_seen_by_the_others_within_a_second(store):
    one, two = Process(store), Process(store, seed=2)
    assert await one.ask() == await two.ask() == "ok"
    await asyncio.sleep(0.3)
    await one.trip()
    assert two.state == CLOSED
    await asyncio.sleep(1.0)
    assert two.state == OPEN
    assert await two.ask() is CircuitOpen
    assert two.board.history[-1].reason == "it was opened elsewhere"
    left = [each.board.peek(KEY, each.runtime.now()) for each in (one, two)]
    assert left[0] == pytest.approx(left[1], abs=1e-6)
    await close(one, two)


async def test_each_probes_for_itself_and_a_success_is_told(store):
    one, two = Process(store), Process(store, seed=2)
    await two.ask()
    await one.trip()
    await asyncio.sleep(7)
    two.breaks(False)
    assert two.state == OPEN
    assert await two.ask() == "ok"
    assert two.state == HALF_OPEN
    assert await one.ask() is Overloaded  # its own probe fails, and others hear of that
    await asyncio.sleep(2)
    assert two.state == HALF_OPEN  # which is left to its own probes
    assert await store.kept.read()
    assert await two.ask() == "ok"
    assert two.state == CLOSED
    await asyncio.sleep(2)
    assert not await store.kept.read()
    assert two.state == CLOSED
    assert one.state == OPEN  # decides for itself
    await close(one, two)


async def test_a_target_that_was_never_asked_here_is_known_as_down(store):
    one, two = Process(store), Process(store, seed=2)
    other = MockProvider(default="other", model="mock-2")
    await Chain(other, two.breaker, runtime=two.runtime).complete("hi")
    await one.trip()
    await asyncio.sleep(1.01)
    assert two.board.peek(KEY, two.runtime.now()) > 3
    assert await two.ask() is CircuitOpen
    assert not two.provider.requests
    await close(one, two)


async def test_the_fleet_waits_longer_after_each_failed_recovery_of_anyone(store):
    one, two = Process(store), Process(store, seed=2)
    await two.ask()
    await one.trip()
    for _ in range(2):
        await asyncio.sleep(one.board.peek(KEY, one.runtime.now()) + 0.1)
        assert await one.ask() is Overloaded
    await asyncio.sleep(1)
    assert two.board.circuits[KEY].reopens == 2
    assert two.board.peek(KEY, two.runtime.now()) == pytest.approx(19, abs=3)
    await close(one, two)


async def test_what_was_heard_is_not_said_again(store):
    one, two, three = (Process(store, seed=seed) for seed in (1, 2, 3))
    await two.ask()
    await three.ask()
    await one.trip()
    await asyncio.sleep(3)
    assert (two.state, three.state) == (OPEN, OPEN)
    assert store.writes == 1
    await close(one, two, three)


async def test_a_circuit_that_was_closed_by_hand_is_closed_for_whoever_comes_new(store):
    one = Process(store)
    await one.trip()
    await asyncio.sleep(1)
    one.breaks(False)
    one.board.reset(one.runtime.now(), KEY)
    await asyncio.sleep(3)
    assert one.state == CLOSED
    assert await one.ask() == "ok"
    assert not await store.kept.read()
    await close(one)


async def test_circuits_held_by_hand_and_those_of_a_dry_run_are_told_to_nobody(store):
    held, dry, other = Process(store), Process(store, mode="metrics_only"), Process(store)
    await held.ask()
    await other.ask()
    await dry.trip()
    held.board.isolate(KEY, held.runtime.now())
    await asyncio.sleep(2)
    assert store.writes == 0
    assert other.state == CLOSED
    await asyncio.sleep(10)
    held.board.reset(held.runtime.now(), KEY)
    await other.trip()
    await asyncio.sleep(1)
    dry.breaks(False)
    dry.board.reset(dry.runtime.now(), KEY)  # does not close it for others
    await asyncio.sleep(2)
    assert await store.kept.read()
    await close(held, dry, other)


async def test_isolation_outlasts_what_others_say(store):
    one, two = Process(store), Process(store)
    await two.ask()
    two.board.isolate(KEY, two.runtime.now())
    await one.trip()
    await asyncio.sleep(2)
    assert two.board.circuits[KEY].isolated
    await close(one, two)


async def test_no_call_waits_for_the_store_and_an_outage_is_logged_once(store, caplog):
    one = Process(store, base=20.0)
    store.down = True
    with caplog.at_level(logging.INFO, "llmpipe.breaker"):
        await one.trip()
        for _ in range(20):
            await asyncio.sleep(0.2)
            assert await one.ask() is CircuitOpen
        assert len(caplog.records) == 1
        assert "out of reach" in caplog.text
        store.down = False  # while it is open still
        await asyncio.sleep(1.1)
        assert WORD in await store.kept.read()
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        store.down = True
        await one.ask()
        await asyncio.sleep(3)
        assert len(caplog.records) == 3
    await close(one)


async def test_a_store_that_hangs_holds_up_nobody(store):
    class Hanging(Store):
        async def read(self):
            await asyncio.sleep(3600)

    one = Process(Hanging())
    begun = one.runtime.now()
    for _ in range(50):
        assert await one.ask() == "ok"
    assert one.runtime.now() == begun
    await close(one)


async def test_the_store_is_asked_once_a_second_while_in_use_and_no_more_when_idle(store):
    one = Process(store)
    for _ in range(300):
        await one.ask()
        await asyncio.sleep(0.1)
    assert 29 <= store.reads <= 31
    await asyncio.sleep(61)
    asked = store.reads
    assert asked <= 92
    await asyncio.sleep(3600)
    assert store.reads == asked
    # The next call wakes it, and the one behind it takes the fast road again.
    await one.ask()
    await asyncio.sleep(0)
    assert store.reads == asked + 1
    assert one.board.circuits[KEY].rules is one.breaker
    await asyncio.sleep(3.01)
    assert store.reads == asked + 4
    await close(one)


async def test_what_opened_while_nobody_listened_is_told_when_it_is_started_again(store):
    one = Process(store)
    await one.ask()
    await one.runtime.aclose()
    await one.trip()
    await asyncio.sleep(0.1)
    assert WORD in await store.kept.read()
    await close(one)


async def test_a_change_while_the_store_is_read_is_not_undone_by_what_was_read(store):
    class Slow(Store):
        async def read(self):
            found = await super().read()
            await asyncio.sleep(0.5)
            return found

    slow = Slow()
    one = Process(slow)
    await one.trip()
    await asyncio.sleep(1.2)  # a read is under way, and knows it as open
    one.breaks(False)
    one.board.reset(one.runtime.now(), KEY)
    await asyncio.sleep(5)
    assert one.state == CLOSED
    assert [change.kind for change in one.board.history] == ["opened", "closed"]
    await close(one)


async def test_nonsense_in_the_store_is_passed_over(store):
    one = Process(store)
    await one.ask()
    store.kept._open = {
        word: (one.runtime.now() + 100, 0)
        for word in ("", "{", "[]", '"mock"', '["a","b"]', '["a","b",1]', "null", f'["{"x" * 5000}","",""]')
    }
    await asyncio.sleep(2)
    assert set(one.board.circuits) == {KEY}
    store.kept._open = {WORD: (one.runtime.now() + 1e9, 10**6)}
    await asyncio.sleep(1)
    assert one.board.peek(KEY, one.runtime.now()) <= 1.1 * one.breaker.cap  # never longer than here
    await close(one)


async def test_another_store_is_a_store_that_must_be_right():
    with pytest.raises(ConfigError, match="URL"):
        Breaker(store="redis")
    chain = Chain(MockProvider(), Breaker(store="sqlite:///x.db"))
    for _ in range(2):  # and not only the first time
        with pytest.raises(ConfigError, match="keeps no breakers"):
            await chain.complete("hi")


async def test_without_a_store_nothing_is_started():
    chain = Chain(MockProvider(default="ok"), Breaker())
    await chain.complete("hi")
    assert chain.runtime.states("breaker.fleet") == {}
    assert not chain.runtime._tasks


async def test_a_chain_built_anew_without_a_store_ends_the_sharing(store):
    one = Process(store)
    await one.ask()
    alone = Chain(one.provider, Breaker(consecutive=3), runtime=one.runtime)
    for _ in range(100):
        await alone.complete("hi")
        await asyncio.sleep(1)
    asked = store.reads
    assert asked < 70
    one.breaks()
    for _ in range(3):
        with pytest.raises(Overloaded):
            await alone.complete("hi")
    await asyncio.sleep(2)
    assert (store.reads, store.writes) == (asked, 0)
    await close(one)


# -- the circuit that hears


@given(
    seconds=st.floats(min_value=0.001, max_value=1e9),
    reopens=st.integers(0, 10**9),
    later=st.floats(min_value=0, max_value=500),
)
def test_a_heard_trip_opens_for_its_time_and_one_probe_law_holds(seconds, reopens, later):
    rules = CircuitRules()
    circuit = Circuit("k", rules, Random(1))
    early = circuit.admit(0.0)
    change = circuit.heard(0.0, seconds, reopens)
    assert (change.kind, circuit.state, circuit.epoch) == ("opened", OPEN, 1)
    early.success(1.0)  # of the epoch before: changes nothing
    assert (circuit.state, circuit.epoch) == (OPEN, 1)
    ends = min(seconds, rules.cap * 1.1)
    assert circuit.peek(0.0) == pytest.approx(ends)
    permit = circuit.admit(later)
    assert (permit is not None) == (later >= ends)
    if permit is not None:
        assert circuit.state == HALF_OPEN
        assert circuit.heard(later, 50.0) is None
        assert circuit.state == HALF_OPEN
        assert circuit.admit(later) is None
        assert permit.failure(later).seconds <= rules.cap * 1.1  # the backoff has its cap
        assert circuit.reopens == min(reopens, 64) + 1


def test_a_heard_trip_lengthens_an_open_circuit_and_never_shortens_it():
    circuit = Circuit("k", CircuitRules(), Random(1))
    circuit.heard(0.0, 50.0)
    assert circuit.heard(1.0, 10.0, 3) is None
    assert (circuit.peek(1.0), circuit.reopens, circuit.epoch) == (49.0, 3, 1)
    circuit.heard(1.0, 60.0)
    assert circuit.peek(1.0) == 60.0


@given(st.tuples(st.text(), st.text(), st.text()))
def test_a_key_comes_back_from_its_word(key):
    word = _word(key)
    assert word is None or _key(word) == key


def test_keys_that_cannot_be_told_are_not():
    assert _word("a name") is None
    assert _word(("a", 1, "c")) is None
    assert _word(("a", "b", "\ud800")) is None
    assert _word(("a", "b", "c" * 4000)) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, inf])
async def test_a_trip_of_no_time_is_passed_over(store, seconds):
    class Odd(Store):
        async def read(self):
            return {WORD: Trip(seconds)}

    one = Process(Odd())
    await one.ask()
    await asyncio.sleep(2)
    assert one.state == CLOSED
    await close(one)


# -- any interleaving


@given(st.data())
def test_states_move_only_as_they_may_whoever_does_what(data):
    """B1, B2 and B4 for three processes on one store, at random."""

    async def main() -> None:
        store = Store()
        fleet = [Process(store, seed=seed, base=2.0, cap=20.0) for seed in range(3)]
        for step in data.draw(
            st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ffffoowd")), max_size=40)
        ):
            one, what = fleet[step[0]], step[1]
            one.breaks(what == "f")
            store.down = what == "d"
            await one.ask()
            if what == "w":
                await asyncio.sleep(1.7)
        for one in fleet:
            kinds = [change.kind for change in one.board.history]
            allowed = {
                "opened": ("half_open", "closed"),
                "half_open": ("opened", "closed"),
                "closed": ("opened",),
            }
            assert not kinds or kinds[0] == "opened"
            assert all(after in allowed[before] for before, after in itertools.pairwise(kinds))
            assert "closed" not in [a for b, a in itertools.pairwise(kinds) if b == "opened"]
        store.down = False
        for one in fleet:
            one.breaks(False)
        for _ in range(30):  # none is stuck
            await asyncio.sleep(2)
            for one in fleet:
                await one.ask()
        assert [one.state for one in fleet] == [CLOSED] * 3
        assert not await store.kept.read()
        await close(*fleet)

    run(main())


async def test_a_change_while_it_is_told_is_told_too():
    class Slow(Store):
        async def trip(self, key, trip):
            await asyncio.sleep(0.5)
            await super().trip(key, trip)

    slow = Slow()
    one = Process(slow)
    await one.trip()
    await asyncio.sleep(0.2)
    one.board.reset(one.runtime.now(), KEY)
    await asyncio.sleep(2)
    assert not await slow.kept.read()
    assert one.state == CLOSED
    await close(one)
