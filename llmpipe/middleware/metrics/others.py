"""What other parts of a chain count themselves, read when metrics are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.middleware.metrics.instruments import Registry
from llmpipe.middleware.metrics.resources import Resources
from llmpipe.runtime import Runtime

if TYPE_CHECKING:
    from llmpipe.middleware.rate_limit import KeyStatus

__all__ = ("ROUTER_STATES", "collect", "on_loop", "queues")

_KEY = ("provider", "endpoint", "model")
ROUTER_STATES = {"healthy": 0, "degraded": 1, "returning": 2, "down": 3}
"""The values of the gauge ``router.state``."""
_RESOURCES = {
    "cpu": "Share of the machine's processors that is busy.",
    "memory": "Share of the machine's memory in use.",
    "process_cpu": "Processors that this process uses.",
    "rss_bytes": "Memory of this process in RAM.",
    "descriptors": "Files and sockets that this process has open.",
    "threads": "Threads of this process.",
}


def collect(registry: Registry, runtime: Runtime) -> None:
    """Take over the figures of breakers, retries, limits, routers, alerts, logs and resources."""
    _circuits(registry, runtime)
    _retries(registry, runtime)
    _routers(registry, runtime)
    _alerts(registry, runtime)
    _resources(registry, runtime)
    if failures := runtime.states("log"):
        family = registry.counter("log.failures", "Records that could not be made or handed over.")
        family.of().value = sum(one.count for one in failures.values())
    if on_loop():  # these have times in them, which are the loop's
        _queues(registry, runtime)
        _lag(registry, runtime)


def on_loop() -> bool:
    """Whether a loop runs here: metrics may be read by another thread too."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def queues(runtime: Runtime) -> Iterator[tuple[str, tuple[KeyStatus, ...]]]:
    """The keys of each rate limit, by its name. On a loop."""
    names = list(runtime.states("rate_limit"))
    if names:
        from llmpipe.middleware.rate_limit import RateLimit  # noqa: PLC0415  loaded, where there is its state

        for name in names:
            yield name, RateLimit(name=name, concurrency=1).status(runtime)


def _circuits(registry: Registry, runtime: Runtime) -> None:
    boards = runtime.states("breaker").values()
    if not boards:
        return
    state = registry.gauge("circuit.state", "State of a circuit: 0 closed, 1 half-open, 2 open.", _KEY)
    state.clear()  # one that its board has dropped is not open for ever
    for board in boards:
        for circuit in list(board):
            key = _words(circuit.key)
            state.of(*key).value = circuit.state
            for name in ("total", "successful", "failed", "rejected"):
                about = f"Calls at a circuit: {name}."
                family = registry.counter(f"circuit.requests.{name}", about, _KEY)
                family.of(*key).value = getattr(circuit, name)


def _retries(registry: Registry, runtime: Runtime) -> None:
    for quotas in runtime.states("retry").values():
        for key, quota in list(quotas.items()):
            for name in ("attempts", "successful", "failed"):
                family = registry.counter(f"retry.{name}", f"Retries: {name}.", _KEY)
                family.of(*_words(key)).value = getattr(quota, name)
            about = "Seconds waited before retries."
            delay = registry.counter("retry.delay", about, _KEY, exposed="retry_delay_seconds_total")
            delay.of(*_words(key)).value = quota.delay


def _routers(registry: Registry, runtime: Runtime) -> None:
    wards = runtime.states("router")
    if not wards:
        return
    about = "State of a router's target: 0 healthy, 1 degraded, 2 returning, 3 down."
    state = registry.gauge("router.state", about, ("router", "target"))
    flight = registry.gauge("router.in_flight", "Calls at a router's target.", ("router", "target"))
    state.clear()
    flight.clear()
    for router, ward in wards.items():
        for target, health in list(ward.healths.items()):
            state.of(router, target).value = ROUTER_STATES[health.state]
            flight.of(router, target).value = health.in_flight


def _queues(registry: Registry, runtime: Runtime) -> None:
    for name, keys in queues(runtime):
        figures: Mapping[str, tuple[str, str, float]] = {
            "depth": ("Calls that wait under a limit.", "", sum(key.waiting for key in keys)),
            "oldest": (
                "Seconds that the first of them has waited.",
                "_seconds",
                max((key.oldest_wait for key in keys), default=0.0),
            ),
            "in_flight": ("Calls that a limit has admitted.", "", sum(key.in_flight for key in keys)),
        }
        for what, (about, unit, value) in figures.items():
            family = registry.gauge(
                f"rate_limit.queue.{what}", about, ("limit",), exposed=f"rate_limit_queue_{what}{unit}"
            )
            family.of(name).value = value


def _lag(registry: Registry, runtime: Runtime) -> None:
    for lag in runtime.states("lag").values():
        now = registry.gauge("loop.lag", "Seconds the loop is late of late.", exposed="loop_lag_seconds")
        now.of().value = lag.seconds
        worst = registry.gauge(
            "loop.lag_worst", "Seconds it was late at most, in a minute.", exposed="loop_lag_worst_seconds"
        )
        worst.of().value = lag.worst


def _alerts(registry: Registry, runtime: Runtime) -> None:
    desks = runtime.states("alerts").values()
    if not desks:
        return
    firing = registry.gauge("alerts.firing", "What is wrong now.", ("rule", "severity"))
    firing.clear()
    for desk in desks:
        for case in desk.cases:
            if case.active:
                firing.of(case.rule.name, case.rule.severity).value += 1
        for post in desk.posts.values():
            status = post.status
            for name in ("sent", "dropped", "failed", "retries"):
                family = registry.counter(f"alerts.{name}", f"Alerts to a sink: {name}.", ("sink",))
                family.of(status.name).value = getattr(status, name)


def _resources(registry: Registry, runtime: Runtime) -> None:
    found: Resources | None = runtime.states("resources").get("")
    if found is not None and found.latest is not None:
        for name, about in _RESOURCES.items():
            registry.gauge(f"resources.{name}", about).of().value = getattr(found.latest, name)


def _words(key: Any) -> tuple[str, ...]:
    """The key of a circuit or quota as label values; one that is no target key stands as the model."""
    if isinstance(key, tuple) and len(key) == len(_KEY):
        return tuple(map(str, key))
    return ("", "", str(key))
