"""Tell people when something is wrong, once, and when it is right again.

Wrong keys, used-up quotas and open circuits are told at once; shares of failures, latency and money are
watched over sliding windows; notes of other middlewares, such as ``budget.alert``, and the machine's
resources by rules of their own. It reads attempts, errors and notes when a call is over. It writes no
notes, fails no call and waits for no sink.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import ClassVar

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Alert, Severity
from llmpipe.middleware.alerts.desk import Desk
from llmpipe.middleware.alerts.post import SinkStatus
from llmpipe.middleware.alerts.reading import DEFAULT_RULES, rules_of, sinks_of
from llmpipe.middleware.alerts.rules import CircuitOpened, ErrorSeen, NoteSeen, ResourceUse, Rule
from llmpipe.middleware.alerts.sinks import (
    Callback,
    Email,
    LogSink,
    PagerDuty,
    Sink,
    Slack,
    Undelivered,
    Webhook,
)
from llmpipe.middleware.alerts.windowed import CostRate, ErrorRate, Latency
from llmpipe.middleware.metrics.counted import lies_within
from llmpipe.middleware.metrics.resources import Sample, check_psutil
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime

__all__ = (
    "Alert",
    "Alerts",
    "AlertsStatus",
    "Callback",
    "CircuitOpened",
    "CostRate",
    "DEFAULT_RULES",
    "Email",
    "ErrorRate",
    "ErrorSeen",
    "Latency",
    "LogSink",
    "NoteSeen",
    "PagerDuty",
    "ResourceUse",
    "Rule",
    "Severity",
    "Sink",
    "SinkStatus",
    "Slack",
    "Undelivered",
    "Webhook",
)


@frozen
class AlertsStatus:
    """What is wrong now, the providers whose error rate is over its threshold, and how sinks are doing."""

    firing: tuple[Alert, ...]
    degraded: frozenset[str]
    sinks: tuple[SinkStatus, ...]


@frozen(kw_only=True)
class Alerts:
    """Watches calls by rules, and tells sinks.

    Attributes:
        rules: what is watched; in a file, tables whose ``when`` says which rule. They take the place of
            `DEFAULT_RULES`: to add to these, ``rules=(*DEFAULT_RULES, …)``.
        sinks: where alerts go; a function will do; in a file, tables whose ``kind`` says which sink.
        repeat: seconds in which the same rule does not tell the same thing again.
        max_queue: alerts that wait for one sink; beyond, the oldest are dropped, and counted.
        sampler: measures the resources, in place of psutil.

    Raises: ConfigError for a bad rule or sink, and for a rule of a resource without psutil.
    """

    rules: tuple[Rule, ...] = field(default=DEFAULT_RULES, converter=rules_of)
    sinks: tuple[Sink, ...] = field(default=("log",), converter=sinks_of)
    repeat: float = 300.0
    max_queue: int = 100
    sampler: Callable[[], Sample] | None = None
    name: str = "alerts"
    priority: int = bands.OBSERVE + 10

    why: ClassVar[str] = "sees every call and all of its attempts, however it went"
    traits: ClassVar[frozenset[str]] = frozenset({"observes"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "alerts:")
        if self.repeat <= 0 or self.max_queue < 1:
            raise ConfigError("alerts: repeat is seconds above 0, and max_queue counts from 1")
        uses = [rule for rule in self.rules if isinstance(rule, ResourceUse)]
        if self.sampler is None and any(rule.resource != "loop_lag" for rule in uses):
            check_psutil()

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """Look at the call when it is over."""
        desk = call.runtime.state("alerts", self.name, Desk)
        if desk.adopted is not self:
            desk.adopt(self, call.runtime)
        # In a chain inside a chain, the outer alerts see all of it.
        active, ledger = desk.active, call.ledger
        counts = ledger not in active and (ledger.within is None or not lies_within(ledger, active))
        if counts:
            active.add(ledger)
            if ledger.attempts:
                desk.counted.begin(ledger)
        try:
            reply = await call_next(call)
        except BaseException as error:  # looked at, whatever it is; it goes on
            if counts:
                desk.failed(call, error)
            raise
        outcome = yield reply
        if counts:
            desk.ended(call, outcome)

    def status(self, runtime: Runtime) -> AlertsStatus:
        """What is wrong now on `runtime`, and how the sinks are doing."""
        desk = self._desk(runtime)
        wall = runtime.wall()
        firing = tuple(desk.cases.alert(case, wall) for case in desk.cases if case.active)
        return AlertsStatus(firing, self.degraded(runtime), tuple(p.status for p in desk.posts.values()))

    def degraded(self, runtime: Runtime) -> frozenset[str]:
        """The providers of which more attempts fail than an `ErrorRate` rule allows."""
        return frozenset(
            case.key
            for case in self._desk(runtime).cases
            if case.active and isinstance(case.rule, ErrorRate) and case.rule.per == "provider"
        )

    def _desk(self, runtime: Runtime) -> Desk:
        return runtime.state("alerts", self.name, Desk)
