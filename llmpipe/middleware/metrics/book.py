"""The metrics of one runtime: what `Metrics` writes to."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from llmpipe.errors import LLMError
from llmpipe.middleware.metrics.counted import Counted
from llmpipe.middleware.metrics.error_types import error_type_of
from llmpipe.middleware.metrics.instruments import OTHER, Counter, Family, Histogram, Registry
from llmpipe.middleware.metrics.others import collect
from llmpipe.middleware.metrics.ring import RESOLUTION, Ring, Sums
from llmpipe.pipeline.call import Attempt, Call, Ledger, Note
from llmpipe.pipeline.outcome import Outcome, Result
from llmpipe.runtime import Runtime

__all__ = ("Book",)

_TARGET = ("provider", "model")
_MAX_REASONS = 32  # of one target that are found with one look-up


class _Target:
    """The instruments that a call which simply succeeds writes to, found with one look-up."""

    __slots__ = (
        "attempt_duration",
        "attempts",
        "cost",
        "costed",
        "duration",
        "first_content",
        "input",
        "model",
        "output",
        "provider",
        "reasons",
        "requests",
    )

    def __init__(self, book: Book, provider: str, model: str) -> None:
        self.provider = provider
        self.model = model
        self.requests = book.requests.of(provider, model, "ok")
        self.duration = book.duration.of(provider, model, "ok")
        self.first_content = book.first_content.of(provider, model)
        self.attempts = book.attempts.of(provider, model, "ok", "")
        self.attempt_duration = book.attempt_duration.of(provider, model)
        self.input = book.tokens.of(provider, model, "input")
        self.output = book.tokens.of(provider, model, "output")
        self.cost = book.cost.of(provider, model)
        self.costed = book.costed.of(provider, model)
        self.reasons: dict[str | None, Counter] = {}


class Book:
    """The metrics of one runtime."""

    def __init__(self, bounds: Sequence[float], max_targets: int, *, users: bool) -> None:
        self.active: set[Ledger] = set()
        self.counted = Counted()
        self.bounds = tuple(bounds)
        self.ring = Ring()
        self.due = -inf
        self.registry = registry = Registry(limit=20 * max_targets)
        self._max_targets = max_targets
        self._targets: dict[tuple[str, str], _Target] = {}
        counter, histogram = registry.counter, registry.histogram
        self.requests = counter("requests.total", "Calls, by how they ended.", (*_TARGET, "status"))
        self.in_flight = registry.gauge("requests.in_flight", "Calls under way.").of()
        self.duration = histogram(
            "request.duration",
            "Seconds of a call, retries and the reading of its stream included.",
            (*_TARGET, "status"),
            bounds=bounds,
            exposed="request_duration_seconds",
        )
        self.first_content = histogram(
            "request.first_content",
            "Seconds to the first content of a stream.",
            _TARGET,
            bounds=bounds,
            exposed="request_first_content_seconds",
        )
        self.attempts = counter(
            "attempts.total", "Requests sent to providers, by how they ended.", (*_TARGET, "status", "error")
        )
        self.attempt_duration = histogram(
            "attempt.duration",
            "Seconds of an attempt that was answered.",
            _TARGET,
            bounds=bounds,
            exposed="attempt_duration_seconds",
        )
        self.tokens = counter("tokens.total", "Tokens of all attempts.", (*_TARGET, "kind"))
        self.finishes = counter("finish_reasons.total", "Why models stopped.", (*_TARGET, "reason"))
        self.errors = counter(
            "errors.total", "Calls that failed, by error.", (*_TARGET, "type", "retryable", "error_type")
        )
        self.cost = counter("cost.total", "USD of all attempts.", _TARGET, exposed="cost_usd_total")
        self.by_model = counter(
            "cost.by_model", "USD by model.", ("model",), exposed="cost_by_model_usd_total"
        )
        self.costed = counter("cost.requests", "Attempts with a known price.", _TARGET)
        self.saved = counter("cost.saved", "USD that hits saved.", exposed="cost_saved_usd_total").of()
        self.hits = counter("cache.hits", "Calls answered from a cache.", ("kind",))
        self.waits: Histogram = histogram(
            "rate_limit.wait",
            "Seconds that calls waited under a limit.",
            bounds=bounds,
            exposed="rate_limit_wait_seconds",
        ).of()
        self.coalesced = counter("coalesced.total", "Calls that rode along with another.").of()
        self.fallbacks = counter("fallbacks.total", "Switches to another target.").of()
        self._simple = {"coalesce.joined": self.coalesced, "fallback.switched": self.fallbacks}
        self.redactions = counter("redactions.total", "What was found in requests and replies.", ("kind",))
        self.events = counter("events.total", "What happened on the way, by kind.", ("kind",))
        self.by_user: Family[Counter] | None = None
        if users:
            self.by_user = counter(
                "cost.by_user", "USD by user.", ("tenant", "user"), exposed="cost_by_user_usd_total"
            )

    # ------------------------------------------------------------ calls

    def failed(self, call: Call, error: BaseException) -> None:
        """Count a call that ended without a reply."""
        self.active.discard(call.ledger)
        status = "error" if isinstance(error, Exception) else "cancelled"
        now = call.runtime.now()
        if now >= self.due:
            self.turn(now)
        attempts = self.counted.attempts(call.ledger)
        target = self._attempts(attempts, call)[0] if attempts else self._target(*call.target_key[::2])
        self._ended(call, target, status, now)
        if status == "error":
            self._error(target, error)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Count a call that had a reply."""
        ledger = call.ledger
        self.active.discard(ledger)  # first: an amendment that cannot take half a reply may raise below
        ended_at = outcome.ended_at
        if ended_at >= self.due:
            self.turn(ended_at)
        attempts = self.counted.attempts(ledger) if self.counted.begun else ledger.attempts
        if attempts:
            target, result = self._attempts(attempts, call)  # the same end, and its events are folded already
        else:
            result = outcome.completion
            target = self._target(result.provider, result.model)
        if call.request.stream:
            target.first_content.observe(outcome.committed_at - call.started_at)
        if outcome.status != "ok":
            self._ended(call, target, outcome.status, ended_at)
            if outcome.error is not None and outcome.status == "error":
                self._error(target, outcome.error)
            return
        target.requests.value += 1
        target.duration.observe(ended_at - call.started_at)
        reason = (outcome.completion if result is None else result).finish_reason
        try:
            target.reasons[reason].value += 1
        except KeyError:
            counter = self.finishes.of(target.provider, target.model, reason or "")
            counter.value += 1
            if len(target.reasons) < _MAX_REASONS:  # a provider may say what it likes
                target.reasons[reason] = counter
        if ledger.notes:
            self._notes(self.counted.notes(ledger))

    def _ended(self, call: Call, target: _Target, status: str, now: float) -> None:
        self.requests.of(target.provider, target.model, status).value += 1
        self.duration.of(target.provider, target.model, status).observe(now - call.started_at)
        self._notes(self.counted.notes(call.ledger))

    def _error(self, target: _Target, error: BaseException) -> None:
        retryable = "true" if isinstance(error, LLMError) and error.retryable else "false"
        kind, word = _type_of(error), error_type_of(error)
        self.errors.of(target.provider, target.model, kind, retryable, word).value += 1

    # ------------------------------------------------------------ attempts

    def _attempts(self, attempts: Sequence[Attempt], call: Call) -> tuple[_Target, Result | None]:
        """Count all attempts of a call, of which there must be one.

        The target of the last one, and what it was answered, if it was.
        """
        for attempt in attempts:
            outcome, result = attempt.outcome, None
            if outcome is None:
                target = self._target(attempt.provider, attempt.asked_model)
                self._count_attempt(target, attempt)
            else:
                result = outcome.completion
                target = self._answered(attempt, outcome, result)
            charge = attempt.charge
            if charge is not None:
                usd = (charge.input_nano + charge.output_nano) * 1e-9
                target.cost.value += usd
                target.costed.value += 1
                if self.by_user is not None:
                    self.by_user.of(call.tenant, call.user).value += usd
        return target, result

    def _answered(self, attempt: Attempt, outcome: Outcome, result: Result) -> _Target:
        """Count an attempt that had a reply; its target."""
        model = result.model or attempt.asked_model
        try:
            target = self._targets[attempt.provider, model]
        except KeyError:
            target = self._target(attempt.provider, model)
        if attempt.status == "ok":
            target.attempts.value += 1
            target.attempt_duration.observe(outcome.ended_at - attempt.started_at)
        else:
            self._count_attempt(target, attempt)
        usage = outcome.usage
        target.input.value += usage.input_tokens
        target.output.value += usage.output_tokens
        if usage.cached_input_tokens or usage.cache_write_tokens or usage.reasoning_tokens:
            for kind in ("cached_input", "cache_write", "reasoning"):
                name = f"{kind}_tokens"
                self.tokens.of(target.provider, target.model, kind).value += getattr(usage, name)
        return target

    def _count_attempt(self, target: _Target, attempt: Attempt) -> None:
        kind = "" if attempt.error is None else _type_of(attempt.error)
        self.attempts.of(target.provider, target.model, attempt.status, kind).value += 1

    def _target(self, provider: str, model: str) -> _Target:
        found = self._targets.get((provider, model))
        if found is None:
            if len(self._targets) >= self._max_targets:
                provider = model = OTHER
                found = self._targets.get((provider, model))
            if found is None:
                found = self._targets[provider, model] = _Target(self, provider, model)
        return found

    # ------------------------------------------------------------ notes, and the figures of others

    def _notes(self, notes: Sequence[Note]) -> None:
        for note in notes:
            kind, detail = note.kind, note.detail
            self.events.of(kind).value += 1
            if kind in self._simple:
                self._simple[kind].value += 1
            elif kind in ("cache.hit", "cache.stale"):
                self.hits.of("fresh" if kind == "cache.hit" else "stale").value += 1
                self.saved.value += (detail.get("saved") or 0) * 1e-9
            elif kind in ("redact.request", "redact.reply"):
                for what, count in detail["found"].items():
                    self.redactions.of(what).value += count
            elif kind == "rate_limit.wait":
                self.waits.observe(detail["seconds"])

    def collect(self, runtime: Runtime) -> None:
        """Take over what others count themselves, and sum what is summed by one label only."""
        self.in_flight.value = len(self.active)
        sums: dict[str, float] = {}
        for labels, child in self.cost.children():
            sums[labels["model"]] = sums.get(labels["model"], 0.0) + child.value
        for model, usd in sums.items():
            self.by_model.of(model).value = usd
        collect(self.registry, runtime)

    # ------------------------------------------------------------ what was

    def turn(self, now: float) -> None:
        """Write down the sums: nothing was counted since the last five seconds ended."""
        ring = self.ring
        if ring.began is None:
            ring.began = now
            ring.add(now, {})
        else:
            ring.add(min(now, self.due), self.sums())
        self.due = now + RESOLUTION

    def sums(self) -> dict[str, Sums]:
        """The sums now, by provider; of all, under the empty name."""
        found: dict[str, dict[str, Any]] = {"": {}}

        def add(provider: str, name: str, value: float) -> None:
            for key in ("", provider) if provider else ("",):
                sums = found.setdefault(key, {})
                sums[name] = sums.get(name, 0) + value

        for labels, child in self.requests.children():
            status = labels["status"]
            add(labels["provider"], "failed" if status == "error" else status, child.value)
        for labels, child in self.tokens.children():
            if labels["kind"] in ("input", "output"):
                add(labels["provider"], f"{labels['kind']}_tokens", child.value)
        for labels, child in self.cost.children():
            add(labels["provider"], "cost_usd", child.value)
        durations: dict[str, list[int]] = {"": [0] * (len(self.bounds) + 1)}
        for labels, histogram in self.duration.children():
            if labels["status"] == "ok":
                for key in {"", labels["provider"]}:
                    counts = durations.setdefault(key, [0] * (len(self.bounds) + 1))
                    for place, count in enumerate(histogram.counts):
                        counts[place] += count
        empty = (0,) * (len(self.bounds) + 1)
        return {key: Sums(**sums, durations=tuple(durations.get(key, empty))) for key, sums in found.items()}


def _type_of(error: BaseException) -> str:
    return error.type if isinstance(error, LLMError) else type(error).__name__
