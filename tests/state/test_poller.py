"""Polling a store while somebody uses it."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.errors import ConfigError
from llmpipe.runtime import Runtime
from llmpipe.state.poller import Poller


class Watched:
    """A poller whose looks are written down, with the time of each."""

    def __init__(self, takes: float = 0.0, **settings) -> None:
        self.runtime = Runtime(seed=1)
        self.uses, self.stops, self.takes = 0, 0, takes
        self.looks: list[tuple[float, bool]] = []
        self.poller = Poller(self.look, lambda: self.uses, name="test", stopped=self.stopped, **settings)

    async def look(self, timed: bool) -> None:
        self.looks.append((asyncio.get_running_loop().time(), timed))
        await asyncio.sleep(self.takes)

    def stopped(self) -> None:
        self.stops += 1


async def test_it_looks_at_once_and_every_second_and_stops_when_nobody_uses_it():
    it = Watched(every=1.0, idle=10.0)
    begun = asyncio.get_running_loop().time()
    it.poller.start(it.runtime)
    await asyncio.sleep(4.5)
    it.uses += 1
    await asyncio.sleep(60)
    assert [round(at - begun, 6) for at, _ in it.looks] == [float(n) for n in range(15)]  # 5 + 10
    assert not it.poller.running
    assert it.stops == 1
    it.poller.nudge()  # nobody is there to hear it
    it.poller.start(it.runtime)
    await asyncio.sleep(0)
    assert len(it.looks) == 16


async def test_a_nudge_looks_at_once_and_moves_no_timer():
    it = Watched()
    begun = asyncio.get_running_loop().time()
    it.poller.start(it.runtime)
    it.poller.start(it.runtime)
    await asyncio.sleep(0.4)
    it.poller.nudge()
    it.poller.nudge()
    await asyncio.sleep(0.7)
    assert [(round(at - begun, 6), timed) for at, timed in it.looks] == [
        (0.0, True),
        (0.4, False),
        (1.0, True),
    ]
    await it.runtime.aclose()
    assert it.stops == 1


async def test_slow_looks_do_not_pile_up():
    it = Watched(takes=3.0)
    it.poller.start(it.runtime)
    await asyncio.sleep(1)
    it.poller.nudge()
    await asyncio.sleep(9)
    assert [timed for _, timed in it.looks] == [True] * 4
    await it.runtime.aclose()


async def test_a_look_that_fails_ends_it_and_it_can_begin_anew(caplog):
    it = Watched()

    async def broken(timed: bool) -> None:
        raise ZeroDivisionError("a bug")

    it.poller._look = broken
    it.poller.start(it.runtime)
    await asyncio.sleep(1)
    assert not it.poller.running
    assert it.stops == 1
    assert "a bug" in caplog.text
    it.poller._look = it.look
    it.poller.start(it.runtime)
    await asyncio.sleep(0.5)
    assert len(it.looks) == 1
    await it.runtime.aclose()


def test_it_begins_anew_on_another_loop():
    it = Watched()

    async def main() -> None:
        it.poller.start(it.runtime)
        await asyncio.sleep(0)

    asyncio.run(main())
    asyncio.run(main())
    assert len(it.looks) == 2
    assert it.stops == 2


@pytest.mark.parametrize("wrong", [{"every": 0.0}, {"every": 2.0, "idle": 1.0}, {"every": float("nan")}])
def test_wrong_times_are_refused(wrong):
    with pytest.raises(ConfigError):
        Watched(**wrong)
