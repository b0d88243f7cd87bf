"""A circuit: the pure state machine of a breaker, without clock, loop or I/O.

::

    closed ──(too many failures)──> open ──(time is up, somebody comes)──> half-open
       ^                              ^                                        │
       │                              └──(a probe failed, or none came back)───┤
       └──────────────(`close_after` probes succeeded)─────────────────────────┘

Whoever comes asks `admit` for a `Permit`, and says on it how it went. A permit carries the epoch in
which it was given; each change of state begins a new one. What is said on a permit of an older epoch
is counted and changes nothing, so a call that began before the circuit opened can neither close it
nor use up its probes. Every permit is worth one answer: `success`, `failure` or `release`.

Times are seconds of whatever monotonic clock the caller uses throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import inf, sqrt
from random import Random
from typing import Literal

from llmpipe.errors import CircuitOpen
from llmpipe.middleware.breaker.rules import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    STATES,
    Change,
    CircuitRules,
    CircuitStats,
)
from llmpipe.middleware.breaker.window import Window

__all__ = ("Circuit", "Permit")

_BUSY_SECONDS = 1.0  # what to tell who comes while a probe is out: when it ends, nobody knows
_SIGMAS = 3.0  # what chance alone exceeds once in some 700 windows that have nothing in common
_MOST = 0.95  # nothing is so usual that a target where all calls fail is not opened
_BASELINE_WEIGHT = 0.1  # of the newest window in what is usual: the last twenty or so matter


_HELD, _COMMITTED, _OVER = 0, 1, 2


class Permit:
    """Leave to make one call. Say once how it went; saying more changes nothing.

    After `success`, `failure` may still follow: the reply had begun and then broke.
    """

    __slots__ = ("_stage", "circuit", "epoch")

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.epoch = circuit.epoch
        self._stage = _HELD

    def success(self, now: float) -> Change | None:
        """The provider has answered. Returns the change this makes, if any."""
        if self._stage:
            return None
        self._stage = _COMMITTED
        circuit = self.circuit
        circuit.successful += 1
        circuit.used_at = now
        if self.epoch != circuit.epoch:
            return None
        if circuit.state:
            return circuit._probe_succeeded(now)
        circuit.streak = 0
        window = circuit.window
        window.add(now, False)
        return circuit._judge(now) if window.failures or circuit.baseline else None

    def failure(self, now: float, why: str = "", hint: float | None = None) -> Change | None:
        """The provider has failed, and asked to be left alone for `hint` seconds.

        Returns the change this makes, if any.
        """
        held, self._stage = self._stage, _OVER
        if held == _OVER:
            return None
        circuit = self.circuit
        circuit.failed += 1
        circuit.used_at = now
        if self.epoch != circuit.epoch:
            return None
        if circuit.state:
            return circuit._probe_failed(now, why, hint)
        circuit.streak += 1
        circuit.window.add(now, True)
        return circuit._judge(now, hint)

    def release(self) -> None:
        """The call says nothing about the provider: cancelled, or not its fault."""
        if self._stage:
            return
        self._stage = _OVER
        circuit = self.circuit
        circuit.ignored += 1
        if self.epoch == circuit.epoch and circuit.state:
            circuit._out -= 1


class Circuit:
    """The health of one target. `epoch` counts its changes of state."""

    __slots__ = (
        "_learned_at",
        "_on_change",
        "_out",
        "_passed",
        "_probed_at",
        "_random",
        "_reopens",
        "_until",
        "baseline",
        "epoch",
        "failed",
        "ignored",
        "key",
        "reason",
        "rejected",
        "rules",
        "since",
        "state",
        "streak",
        "successful",
        "total",
        "used_at",
        "window",
    )

    def __init__(
        self,
        key: Hashable,
        rules: CircuitRules,
        random: Random,
        on_change: Callable[[Circuit, Change], None] | None = None,
    ) -> None:
        self.key = key
        self.rules = rules
        self.window = Window(rules.window)
        self.state = CLOSED
        self.epoch = 0
        self.streak = 0
        self.baseline = 0.0
        self.reason = ""
        self.since = self.used_at = self._learned_at = 0.0
        self.total = self.successful = self.failed = self.ignored = self.rejected = 0
        self._random = random
        self._on_change = on_change
        self._until = self._probed_at = 0.0
        self._reopens = 0
        self._out = self._passed = 0

    def adopt(self, rules: CircuitRules) -> None:
        """Go on under other rules; what was counted stays."""
        if rules.window != self.rules.window:
            self.window.resize(rules.window)
        self.rules = rules

    # ------------------------------------------------------------ coming in

    def admit(self, now: float) -> Permit | None:
        """Leave for one call, or None. Claims a probe in the same step as it half-opens."""
        self.total += 1
        if not self.state:
            return Permit(self)
        self.used_at = now
        if self.state == OPEN:
            if now < self._until:
                self.rejected += 1
                return None
            self._change(HALF_OPEN, now, "half_open", "its time is up")
        if self._free() <= 0:
            if self._overdue(now):
                self._reopens += 1
                self._open(now, f"no probe came back in {self.rules.max_half_open:g} s")
            self.rejected += 1
            return None
        self._out += 1
        self._probed_at = now
        return Permit(self)

    def peek(self, now: float) -> float:
        """Seconds until it admits a call, 0 when it does now. Changes nothing, takes no permit.

        Also 0 where a probe has not come back in time: it takes a visit to find that out, and whoever
        only goes where 0 is told would never make one.
        """
        if self.state == OPEN:
            return max(0.0, self._until - now)
        busy = self.state == HALF_OPEN and self._free() <= 0 and not self._overdue(now)
        return _BUSY_SECONDS if busy else 0.0

    @property
    def reopens(self) -> int:
        """How often it was opened again without closing."""
        return self._reopens

    @property
    def isolated(self) -> bool:
        """Whether it is held open by hand."""
        return self.state == OPEN and self._until == inf

    def refusal(self, now: float) -> CircuitOpen:
        """The error for who was not admitted."""
        wait = self.peek(now)
        key: tuple[Hashable, ...] = self.key if isinstance(self.key, tuple) else (self.key,)
        provider, model = str(key[0]), str(key[2]) if len(key) == 3 else None
        if self.state == HALF_OPEN:
            what = "the circuit is half-open and a probe is out"
        elif wait == inf:
            what = f"the circuit is held open ({self.reason})"
        else:
            what = f"the circuit is open ({self.reason}); it is tried again in {wait:.3g} s"
        return CircuitOpen(
            what, provider=provider, model=model, retry_after=None if wait == inf else wait, phase="admit"
        )

    def _free(self) -> int:
        """Probes that may still go out; never more than are needed to close."""
        return min(self.rules.probes, self.rules.close_after - self._passed) - self._out

    def _overdue(self, now: float) -> bool:
        """Whether the latest probe should have come back by now."""
        return now - self._probed_at >= self.rules.max_half_open

    # ------------------------------------------------------------ what permits report

    def _judge(self, now: float, hint: float | None = None) -> Change | None:
        """Open if what was counted says so."""
        rules, window = self.rules, self.window
        limit = rules.ratio or inf
        if rules.adaptive:
            if now - self._learned_at >= rules.window and window.calls >= rules.min_calls:
                # Once a window, so that an outage trips before it is taken for what is usual.
                self._learned_at = now
                self.baseline += _BASELINE_WEIGHT * (window.failures / window.calls - self.baseline)
            usual = self.baseline
            chance = _SIGMAS * sqrt(usual * (1.0 - usual) / window.calls)
            limit = min(_MOST, usual + max(limit / 2, chance))
        if rules.consecutive and self.streak >= rules.consecutive:
            return self._open(now, f"{self.streak} failures in a row", hint)
        if window.calls >= rules.min_calls and window.failures / window.calls >= limit:
            return self._open(now, f"{window.failures} of {window.calls} calls failed", hint)
        return None

    def _probe_succeeded(self, now: float) -> Change | None:
        self._out -= 1
        self._passed += 1
        if self._passed < self.rules.close_after:
            return None
        return self._close(now, f"{self._passed} probes succeeded")

    def _probe_failed(self, now: float, why: str, hint: float | None) -> Change:
        self._reopens += 1
        return self._open(now, f"a probe failed{': ' if why else ''}{why}", hint)

    # ------------------------------------------------------------ changing

    def isolate(self, now: float, reason: str = "isolated by hand") -> Change:
        """Refuse every call until `reset`."""
        self._until = inf
        return self._change(OPEN, now, "opened", reason, inf)

    def reset(self, now: float, reason: str = "closed by hand") -> Change:
        """Close, and forget what was counted."""
        return self._close(now, reason)

    def heard(self, now: float, seconds: float, reopens: int = 0) -> Change | None:
        """Somebody else's is open, for so many `seconds` more: this one is too, but for `cap` at most.

        One that is half-open is left to its own probes. Returns the change this makes, if any.
        """
        if self.state == HALF_OPEN:
            return None
        seconds = min(seconds, self.rules.cap * 1.1)
        self._reopens = max(self._reopens, min(reopens, 64))  # beyond, it stays open no longer
        if self.state == OPEN:
            self._until = max(self._until, now + seconds)
            return None
        self._until = now + seconds
        return self._change(OPEN, now, "opened", "it was opened elsewhere", seconds)

    def _open(self, now: float, reason: str, hint: float | None = None) -> Change:
        rules = self.rules
        grown = rules.base * 2.0 ** min(self._reopens, 64)
        asked = hint if hint is not None and hint > grown else 0.0
        # A server that said when to come back is never asked sooner; without its word, ±10 %.
        low, high = (1.0, 1.1) if asked else (0.9, 1.1)
        seconds = min(rules.cap, max(grown, asked)) * (low + (high - low) * self._random.random())
        self._until = now + seconds
        return self._change(OPEN, now, "opened", reason, seconds)

    def _close(self, now: float, reason: str) -> Change:
        self._reopens = 0
        return self._change(CLOSED, now, "closed", reason)

    def _change(
        self,
        state: int,
        now: float,
        kind: Literal["opened", "half_open", "closed"],
        reason: str,
        seconds: float = 0.0,
    ) -> Change:
        self.state = state
        self.epoch += 1
        self.since = self.used_at = self._learned_at = now
        self.reason = reason
        self.streak = self._out = self._passed = 0
        self.window.clear()
        change = Change(now, self.key, kind, reason, seconds)
        if self._on_change is not None:
            self._on_change(self, change)
        return change

    def stats(self, now: float) -> CircuitStats:
        """What there is to know at `now`."""
        return CircuitStats(
            self.key,
            STATES[self.state],
            self.state,
            self.window.calls,
            self.window.failures,
            self.streak,
            self.total,
            self.successful,
            self.failed,
            self.ignored,
            self.rejected,
            self.peek(now),
            self.since,
            self.reason,
        )
