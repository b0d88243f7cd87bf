"""RL5 on every store: the clock on the wall of whoever asks jumps, and clients differ by minutes (F72).

The machine of the limits, all of whose laws go on to hold. Only the store's own clock counts.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.state.stores import Store, kept_in
from tests.state.test_limits_laws import Rates

HOUR, YEAR = 3600.0, 365 * 86_400.0
APART = 300.0
"""Seconds by which one of the two clients is ahead of the other."""


class Wall:
    """What `time.time` says in this process: `off` seconds too much."""

    off = 0.0

    def __init__(self) -> None:
        self._time, self._time_ns = time.time, time.time_ns

    def time(self) -> float:
        return self._time() + self.off

    def time_ns(self) -> int:
        return self._time_ns() + int(self.off * 1e9)


WALL = Wall()


class Jumping(Rates):
    """As `Rates`, in which the clock on the wall is another one at every step."""

    @rule(seconds=st.sampled_from([HOUR, -HOUR, YEAR, -YEAR, -2.0, 0.5]))
    def the_clock_on_the_wall_jumps(self, seconds: float) -> None:
        WALL.off += seconds

    @rule(side=st.sampled_from([-1, 1]))
    def the_other_client_has_another_clock(self, side: int) -> None:
        WALL.off += side * APART


@kept_in("memory", "sqlite", "redis", "postgresql")
def test_limits_keep_their_laws_while_the_clock_on_the_wall_jumps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", WALL.time)
    monkeypatch.setattr(time, "time_ns", WALL.time_ns)
    store.check(Jumping, 0.3)
