"""How a target is doing: the pure judgement of a router, without clock, loop or I/O.

::

    healthy <──> degraded        by the share of failures in a sliding window
       │             │
       └──> down <───┘           too many failures in a row, failed checks, or an open circuit
             │  ^
      (rest) │  │ (fails again: longer rest, longer ramp)
             v  │
         returning ──> healthy   its share of the calls grows in steps

What counts as a failure is what the error says of itself (`error.health`); wrong requests, rate limits
and cancelled calls count as nothing. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from math import exp, inf
from random import Random

from llmpipe.errors import LLMError
from llmpipe.middleware.breaker.window import Window
from llmpipe.routing.rules import Change, HealthRules, State

__all__ = ("Health", "Sliding", "Troubled", "resting")

_STEPS = (0.05, 0.1, 0.25, 0.5)
"""The share of its calls that a target gets in each part of its ramp."""
_HISTORY = 200
_SHORTEST_REST = 1.0  # seconds for which who asked us to slow down is left alone, whatever it said
_LONGEST_REST = 3600.0  # seconds; a server's hint may be nonsense, and an hour later it can be asked again


def resting(error: LLMError, cooldown: float) -> float:
    """Seconds for which a target that failed with `error` should come last; 0 it should not.

    It said so, or it will go on failing: a key that is not taken is not taken a moment later either.
    """
    hint = error.retry_after
    if not cooldown:
        return 0.0
    if error.rescue == "credential":
        return min(cooldown if hint is None or hint < 0 else hint, _LONGEST_REST)
    return min(max(hint or 0.0, _SHORTEST_REST), _LONGEST_REST) if error.throttled else 0.0


class Sliding(Window):
    """A window that can be read without adding to it."""

    __slots__ = ()

    def at(self, now: float) -> tuple[int, int]:
        """Calls and failures of the window that ends `now`."""
        if now >= self._ends and self._ends:
            self._advance(now)
        return self.calls, self.failures

    def spoil(self, now: float) -> None:
        """A call that was counted has failed after all."""
        if now >= self._ends:
            self._advance(now)
        self.failures += 1


class Troubled:
    """The targets of a runtime that are not quite well, and the latest changes of all."""

    __slots__ = ("history", "names")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.history: deque[Change] = deque(maxlen=_HISTORY)


class Health:
    """The health of one target. Answers and failures go in, state, share, score and latency come out.

    Attributes:
        in_flight: calls that have been sent to it and are not over.
        calls: how many it was given; `failures`, how many of them it failed.
        streak: how many failed since one was answered.
        breaks: how many replies broke since one came to its end.
        answered_at: when it last answered.
    """

    __slots__ = (
        "_falls",
        "_latency",
        "_latency_at",
        "_ramp_calls",
        "_ramp_failures",
        "_ramp_seconds",
        "_random",
        "_rested_at",
        "_rests_since",
        "_streak_of_checks",
        "_troubled",
        "_until",
        "answered_at",
        "breaks",
        "by_circuit",
        "calls",
        "checked_at",
        "context_tokens",
        "failures",
        "in_flight",
        "last_error",
        "name",
        "reason",
        "rests_because",
        "rests_until",
        "rules",
        "since",
        "state",
        "streak",
        "window",
    )

    def __init__(
        self, name: str, rules: HealthRules, random: Random, troubled: Troubled | None = None
    ) -> None:
        self.name = name
        self.rules = rules
        self.state: State = "healthy"
        self.window = Sliding(rules.window)
        self.in_flight = self.calls = self.failures = self.streak = self.breaks = 0
        self.answered_at = self.checked_at = -inf
        self.since = self.rests_until = 0.0
        self.last_error = self.reason = self.rests_because = ""
        self.by_circuit = False
        self.context_tokens: int | None = None
        self._random = random
        self._troubled = Troubled() if troubled is None else troubled
        self._latency: float | None = None
        self._latency_at = self._until = self._rested_at = self._rests_since = self._ramp_seconds = 0.0
        self._streak_of_checks = False
        self._falls = self._ramp_calls = self._ramp_failures = 0

    def adopt(self, rules: HealthRules) -> None:
        """Go on under other rules; what was counted stays."""
        if rules.window != self.rules.window:
            self.window.resize(rules.window)
        self.rules = rules

    # ------------------------------------------------------------ what is told

    def answered(self, now: float, begun: float) -> Change | None:
        """A call that was sent at `begun` has been answered; its reply begins. The change this makes."""
        self.answered_at = now
        self.streak = 0
        taken, known = now - begun, self.latency(now)
        if known is None or taken > known:
            self._latency = taken  # a peak counts at once, and fades: a target is avoided before it fails
        else:
            keep = exp((self._latency_at - now) / self.rules.latency_window)
            assert self._latency is not None
            self._latency = self._latency * keep + taken * (1.0 - keep)
        self._latency_at = now
        if self.rests_until and begun >= self._rests_since:
            self.rests_until, self.rests_because = 0.0, ""  # it was asked for want of another, and answered
        self.window.add(now, False)
        return None if self.state == "healthy" else self._better(now, begun)

    def failed(
        self, now: float, begun: float, why: str, hint: float | None = None, *, counted: bool = False
    ) -> Change | None:
        """A call that was sent at `begun` has failed; `counted`, after it had begun to be answered.

        `hint`: seconds for which it asked to be left alone. Gives the change this makes.
        """
        self.failures += 1
        self.last_error = why
        self._streak_of_checks = False
        if counted:
            self.window.spoil(now)
        else:
            self.window.add(now, True)
        self._troubled.names.add(self.name)
        if self.state == "down" or (self.state == "returning" and begun < self.since):
            return None  # it was sent before that: nothing new
        if counted:
            self.breaks += 1
        else:
            self.streak += 1
        if self.state == "returning":
            self._ramp_calls += not counted
            self._ramp_failures += 1
            if self._ramp_failures > self.rules.degraded_above * self._ramp_calls:
                return self._fall(now, f"failed on its way back: {why}", hint)
        elif self.streak >= self.rules.down_after:
            return self._fall(now, f"{self.streak} failures in a row, the last of them {why}", hint)
        elif self.breaks >= self.rules.down_after and self._breaking(now):
            return self._fall(now, f"{self.breaks} replies in a row broke, the last of them {why}", hint)
        elif self.state == "healthy" and self._failing(now):
            calls, failures = self.window.at(now)
            return self._become("degraded", now, f"{failures} of {calls} calls failed")
        return None

    def heed(self, now: float, error: LLMError, cooldown: float) -> None:
        """Leave it alone where it said so with `error`, or does not take our key: see `resting`."""
        if (seconds := resting(error, cooldown)) > 0:
            self.pause(now, seconds, error.type)

    def pause(self, now: float, seconds: float, why: str) -> None:
        """It is to be left alone for so long. Says nothing of health."""
        self._rests_since, self.rests_until, self.rests_because = now, now + seconds, why
        self._troubled.names.add(self.name)

    def circuit_open(self, now: float, seconds: float) -> Change | None:
        """Its circuit does not let anybody through for `seconds`; 0: it does again."""
        if not seconds:
            if self.by_circuit:
                self.by_circuit, self._until = False, min(self._until, max(now, self._rested_at))
            return None
        self.by_circuit = True
        if self.state == "down":
            self._until = max(self._rested_at, now + seconds)
            return None
        change = self._fall(now, "its circuit is open", None)
        self._until, self._rested_at = now + seconds, now  # as long as the circuit says, and no longer
        return change._replace(seconds=seconds)

    def check_failed(self, now: float, why: str, again: float) -> Change | None:
        """A check has failed, and the next one is due in `again` seconds: down, it stays so till then."""
        if self.state != "down":
            change = self.failed(now, now, why)
            self._streak_of_checks = True
            return change
        self.last_error = why
        self._until = max(self._until, now + again)
        return None

    def check_passed(self, now: float) -> None:
        """A check has succeeded: no proof that calls do, but reason enough to try once it has rested."""
        if self.state == "down" and not self.by_circuit:
            self._until = min(self._until, self._rested_at)
        elif self._streak_of_checks:
            self.streak = 0

    # ------------------------------------------------------------ what time does

    def look(self, now: float) -> Change | None:
        """Go on to the state that is due, for who is about to choose. Gives the change this makes."""
        if self.state == "down":
            if now < self._until:
                return None
            rules = self.rules
            self._ramp_seconds = min(rules.max_ramp, rules.ramp * 2.0 ** min(self._falls - 1, 64))
            self._ramp_calls = self._ramp_failures = self.streak = self.breaks = 0
            self.window.clear()
            return self._become("returning", now, "it has rested", self._ramp_seconds)
        if self.state == "returning" and now - self.since >= self._ramp_seconds:
            self._falls = 0
            return self._become("healthy", now, "it has its whole share again", kind="readmitted")
        if self.state == "degraded" and not self._failing(now):
            return self._become("healthy", now, "few of its calls fail", kind="recovered")
        if self.state == "healthy" and not (self.streak or self.breaks) and self.rests_until <= now:
            self._troubled.names.discard(self.name)
        return None

    def share(self, now: float) -> float:
        """The part of its calls that it should get: 0 down, 1 healthy."""
        if self.state == "healthy":
            return 1.0
        if self.state == "degraded":
            return self.rules.degraded_share
        if self.state == "down":
            return 0.0
        done = (now - self.since) / self._ramp_seconds if self._ramp_seconds else 1.0
        return _STEPS[int(done * len(_STEPS))] if done < 1 else 1.0

    # ------------------------------------------------------------ what is known

    def wait(self, now: float) -> float:
        """Seconds until it is asked again; 0 when it is now."""
        return max(0.0, (self._until if self.state == "down" else self.rests_until) - now)

    def latency(self, now: float) -> float | None:
        """Seconds to the first content (of a full reply: to its end), None before the first.

        A moving average that jumps to every peak and fades, so that a target which was slow is tried
        again. Source: Finagle's ``PeakEwma`` load balancer.
        """
        if self._latency is None:
            return None
        return self._latency * exp((self._latency_at - now) / self.rules.latency_window)

    def error_rate(self, now: float) -> float:
        """The share of failures in the window; 0 while it holds too few to say."""
        calls, failures = self.window.at(now)
        return min(1.0, failures / calls) if calls >= self.rules.min_samples else 0.0

    @property
    def failed_in_a_row(self) -> int:
        """Failures since the last success of the same kind, which is an answer or its end."""
        return max(self.streak, self.breaks)

    def score(self, now: float) -> float:
        """0 (down) to 1: by share of failures, failures in a row, and latency."""
        if self.state == "down":
            return 0.0
        streak = 1.0 - min(self.failed_in_a_row, self.rules.down_after) / (self.rules.down_after + 1)
        quick = 1.0 / (1.0 + (self.latency(now) or 0.0) / self.rules.slow)
        return (1.0 - self.error_rate(now)) * streak * quick * max(0.5, self.share(now))

    # ------------------------------------------------------------ changing

    def _failing(self, now: float) -> bool:
        return self.error_rate(now) > self.rules.degraded_above

    def _breaking(self, now: float) -> bool:
        """Whether replies break often, and not only more often than long ones come to their end."""
        calls, failures = self.window.at(now)
        return failures > self.rules.degraded_above * calls

    def _better(self, now: float, begun: float) -> Change | None:
        if self.state == "returning" and begun >= self.since:
            self._ramp_calls += 1
        elif self.state == "down" and begun >= self.since:  # it was tried for want of another
            self._until = now
        return self.look(now)

    def _fall(self, now: float, reason: str, hint: float | None) -> Change:
        rules = self.rules
        rest = min(rules.max_rest, rules.rest * 2.0 ** min(self._falls, 64))
        rest *= 0.9 + 0.2 * self._random.random()  # so that many processes do not come back in step
        rest = max(rest, min(hint or 0.0, rules.max_rest))
        self._falls += 1
        self._until = self._rested_at = now + rest
        return self._become("down", now, reason, rest)

    def _become(
        self, state: State, now: float, reason: str, seconds: float = 0.0, *, kind: str = ""
    ) -> Change:
        self.state, self.since = state, now
        self.reason = "" if state == "healthy" else reason
        if state == "healthy":
            self.streak = self.breaks = 0
        self._troubled.names.add(self.name)  # until somebody looks and finds it well
        change = Change(now, self.name, kind or state, reason, seconds)
        self._troubled.history.append(change)
        return change
