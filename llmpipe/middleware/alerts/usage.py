"""Rules about resources: what the latest sample says, and for how long it has said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmpipe.middleware.alerts.rules import Reading, ResourceUse
from llmpipe.middleware.lag import Lag
from llmpipe.middleware.metrics.resources import Resources, Sample
from llmpipe.runtime import Runtime

__all__ = ("Uses",)


class Uses:
    """The resource rules of one desk, and since when each has been over."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._rules: Sequence[ResourceUse] = ()
        self._since: dict[str, float] = {}

    def start(
        self, runtime: Runtime, sampler: Callable[[], Sample] | None, rules: Sequence[ResourceUse]
    ) -> None:
        """Measure for these rules from now on."""
        self._runtime, self._rules = runtime, rules
        if any(rule.resource == "loop_lag" for rule in rules):
            Lag.of(runtime)
        if any(rule.resource != "loop_lag" for rule in rules):
            Resources.start(runtime, sampler=sampler)

    def look(self, now: float, fire: Callable[..., None]) -> None:
        """Fire what has been over for long enough."""
        if self._runtime is None:
            return
        for rule in self._rules:
            value = self._reading(self._runtime, rule.resource)
            if value is None or value <= rule.above:
                self._since.pop(rule.name, None)
                continue
            since = self._since.setdefault(rule.name, now)
            if now - since >= rule.lasting:
                summary = f"{rule.resource} is {value:g}, over {rule.above:g} for {now - since:g} s"
                details: dict[str, Any] = {"resource": rule.resource}
                fire(rule, "all", summary, now, value=value, details=details, again=now > since)

    def over(self, rule: ResourceUse) -> bool:
        """Whether it was over when `look` looked."""
        return rule.name in self._since

    def now(self, rule: ResourceUse) -> Reading:
        """How it is."""
        value = None if self._runtime is None else self._reading(self._runtime, rule.resource)
        told = "not measured" if value is None else f"{value:g}"
        return Reading(f"{rule.resource} is {told}", value, {"resource": rule.resource})

    def rest(self) -> None:
        """Stop looking."""
        self._runtime = None
        self._since.clear()

    @staticmethod
    def _reading(runtime: Runtime, resource: str) -> float | None:
        if resource == "loop_lag":
            return Lag.of(runtime).seconds
        sample = runtime.state("resources", "", Resources).latest
        return None if sample is None else getattr(sample, resource)
