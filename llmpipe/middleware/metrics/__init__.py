"""Count what happened: calls, attempts, tokens, money, errors, waits, hits. In memory, for Prometheus too.

==============================  =========  =======================================  ====================
name                            kind       labels                                   in Prometheus
==============================  =========  =======================================  ====================
``requests.total``              counter    provider, model, status                  as it is
``requests.in_flight``          gauge
``request.duration``            histogram  provider, model, status                  ``…_seconds``
``request.first_content``       histogram  provider, model; of streams              ``…_seconds``
``attempts.total``              counter    provider, model, status, error
``attempt.duration``            histogram  provider, model                          ``…_seconds``
``tokens.total``                counter    provider, model, kind: input, output,
                                           cached_input, cache_write, reasoning
``finish_reasons.total``        counter    provider, model, reason
``errors.total``                counter    provider, model, type, retryable,
                                           error_type (closed; see `error_types`)
``cost.total``                  counter    provider, model (USD)                    ``cost_usd_total``
``cost.by_model``               counter    model (USD)                              ``cost_by_model_usd…``
``cost.requests``               counter    provider, model: attempts with a price
``cost.by_user``                counter    tenant, user (USD); only with `users`    ``cost_by_user_usd_total``
``cost.saved``                  counter    (USD that hits saved)                    ``cost_saved_usd_total``
``cache.hits``                  counter    kind: fresh, stale
``coalesced.total``             counter    (calls that rode along with another)
``fallbacks.total``             counter    (switches to another target)
``redactions.total``            counter    kind: email, phone, api_key, …
``rate_limit.wait``             histogram                                           ``…_seconds``
``events.total``                counter    kind: of every note
``circuit.state``               gauge      provider, endpoint, model: 0 closed,
                                           1 half-open, 2 open
``circuit.requests.*``          counter    the same; ``total``, ``successful``,
                                           ``failed``, ``rejected``
``retry.*``                     counter    the same; ``attempts``, ``successful``,
                                           ``failed``, ``delay``                    delay: ``…_seconds_total``
``router.state``                gauge      router, target: 0 healthy, 1 degraded,
                                           2 returning, 3 down
``router.in_flight``            gauge      router, target
``rate_limit.queue.depth``      gauge      limit: who waits
``rate_limit.queue.oldest``     gauge      limit: for how long the first has        ``…_seconds``
``rate_limit.queue.in_flight``  gauge      limit: who is admitted
``alerts.firing``               gauge      rule, severity
``alerts.*``                    counter    sink; ``sent``, ``dropped``,
                                           ``failed``, ``retries``
``log.failures``                counter    (records that got lost)
``loop.lag``, ``.lag_worst``    gauge      (how late the loop is)                   ``…_seconds``
``resources.*``                 gauge      ``cpu``, ``memory``, ``process_cpu``,
                                           ``rss_bytes``, ``descriptors``,
                                           ``threads``; with `resources`
==============================  =========  =======================================  ====================

A call is counted under the target that answered it, or was asked last. What others count
themselves (from ``circuit.state`` on) is read when the metrics are. Models and
providers beyond `max_targets` are counted as ``_other``. It writes no notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import Factory, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.lag import Lag
from llmpipe.middleware.metrics.book import Book
from llmpipe.middleware.metrics.counted import lies_within
from llmpipe.middleware.metrics.dashboard import dashboard
from llmpipe.middleware.metrics.instruments import SECONDS, Registry, check_bounds, check_names
from llmpipe.middleware.metrics.others import on_loop
from llmpipe.middleware.metrics.resources import Resources, check_psutil
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime

__all__ = ("Metrics",)


@frozen(kw_only=True)
class Metrics:
    """Counts every call and how it really ended, refusals, hits and cancelled streams included.

    Attributes:
        prefix: of the names in the text for Prometheus.
        labels: put on every line of it.
        bounds: upper bounds of the buckets of all durations, seconds, ascending.
        max_targets: pairs of provider and model that are kept apart.
        users: count the cost by tenant and user too. Their ids are then in the metrics.
        resources: seconds between samples of the machine and the process, which the extra
            ``resources`` (psutil) measures; None: not measured.
        lag: measure how late the event loop is; some 5 µs ten times a second.
    """

    prefix: str = "llmpipe"
    labels: Mapping[str, str] = Factory(dict)
    bounds: tuple[float, ...] = SECONDS
    max_targets: int = 200
    users: bool = False
    resources: float | None = None
    lag: bool = False
    name: str = "metrics"
    priority: int = bands.OBSERVE

    why: ClassVar[str] = "sees refusals, hits and retries as the caller does"
    traits: ClassVar[frozenset[str]] = frozenset({"counts", "observes"})

    def __attrs_post_init__(self) -> None:
        check_names(self.prefix, self.labels)
        if self.max_targets < 1:
            raise ConfigError(f"metrics: max_targets must be at least 1, not {self.max_targets}")
        check_bounds(self.bounds)
        if self.resources is not None:
            if self.resources <= 0:
                raise ConfigError(f"metrics: resources is seconds above 0, or None, not {self.resources}")
            check_psutil()

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """Count the call when it is over."""
        book = call.runtime.state("metrics", self.name, self._book)
        # In a chain inside a chain, the outer metrics see all of it.
        active, ledger = book.active, call.ledger
        counts = ledger not in active and (ledger.within is None or not lies_within(ledger, active))
        if counts:
            active.add(ledger)
            if ledger.attempts:
                book.counted.begin(ledger)
        try:
            reply = await call_next(call)
        except BaseException as error:  # counted, whatever it is; it goes on
            if counts:
                book.failed(call, error)
            raise
        return reply.when_over(book.ended, call) if counts else reply

    def registry(self, runtime: Runtime) -> Registry:
        """The instruments of `runtime`, with the breakers' and retries' figures as they are now."""
        book = runtime.state("metrics", self.name, self._book)
        if on_loop():
            self._measure(runtime)
        book.collect(runtime)
        return book.registry

    def dashboard(self, runtime: Runtime) -> dict[str, Any]:
        """What a dashboard shows, as plain JSON: totals, rates, percentiles, money, states. On the loop.

        See `llmpipe.middleware.metrics.dashboard` for its shape.
        """
        self._measure(runtime)
        return dashboard(runtime.state("metrics", self.name, self._book), runtime)

    def _measure(self, runtime: Runtime) -> None:
        if self.resources is not None:
            Resources.start(runtime, interval=self.resources)
        if self.lag:
            Lag.of(runtime)

    def snapshot(self, runtime: Runtime) -> dict[str, dict[str, Any]]:
        """All metrics as plain JSON: for each name its kind, help and values with labels."""
        return self.registry(runtime).snapshot()

    def prometheus(self, runtime: Runtime) -> str:
        """All metrics as text for Prometheus; its content type is ``text/plain; version=0.0.4``."""
        return self.registry(runtime).prometheus(self.prefix, self.labels)

    def _book(self) -> Book:
        return Book(self.bounds, self.max_targets, users=self.users)
