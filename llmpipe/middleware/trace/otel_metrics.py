"""Export metrics by OpenTelemetry: its conventions for generative AI, and our own names.

==============================================  =========  ===========================================
name                                            kind       what
==============================================  =========  ===========================================
``gen_ai.client.token.usage``                   histogram  tokens of each attempt whose provider told them
``gen_ai.client.operation.duration``            histogram  seconds of each call, retries included
``gen_ai.client.operation.time_to_first_chunk`` histogram  seconds to the first content, of streams
``llmpipe.…``                                   as it is   counters and gauges of a chain's `Metrics`
==============================================  =========  ===========================================

The conventions are in development and change, so their names stand behind a switch that says which
version: ``conventions="2026-11"``, or None for none. Histograms of `Metrics` are not exported: OpenTelemetry
has no instrument that takes over buckets, and the first three stand for them.

Source: "Semantic conventions for generative AI metrics", open-telemetry/semantic-conventions-genai.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.log.fields import operation_of, shown
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.metrics.counted import Counted, lies_within
from llmpipe.middleware.trace.genai import provider_name, server_of
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call, Ledger
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime

__all__ = ("OTelMetrics",)

CONVENTIONS = ("2026-11",)
"""Versions of the conventions that can be pinned."""

_OTHER = "_other"
_TOKENS = tuple(4**n for n in range(14))
_DURATION = tuple(0.01 * 2**n for n in range(14))
_FIRST_CHUNK = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip


@frozen(kw_only=True)
class OTelMetrics:
    """Records calls with a meter of OpenTelemetry. Needs the extra ``otel``.

    Attributes:
        meter_provider: where they go; OpenTelemetry's global one by default.
        conventions: the pinned version of the conventions for generative AI; None: none of their names.
        own: the name of the `Metrics` whose counters and gauges are exported too, if it is in the chain;
            None: none are.
        providers: our names of providers to those of ``gen_ai.provider.name``.
        max_models: pairs of provider and model that are kept apart; the rest are ``_other``.

    Raises: ConfigError where OpenTelemetry is not installed.
    """

    meter_provider: Any = None
    conventions: Literal["2026-11"] | None = "2026-11"
    own: str | None = "metrics"
    providers: Mapping[str, str] = Factory(dict)
    max_models: int = 200
    name: str = "otel_metrics"
    priority: int = bands.OBSERVE + 5

    _meter: Any = field(init=False, repr=False, eq=False)
    _tools: _Instruments | None = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "sees refusals, hits and retries as the caller does"
    traits: ClassVar[frozenset[str]] = frozenset({"counts", "observes"})

    def __attrs_post_init__(self) -> None:
        if self.conventions is not None and self.conventions not in CONVENTIONS:
            known = ", ".join(CONVENTIONS)
            raise ConfigError(f"otel_metrics: conventions is {known} or None, not {self.conventions!r}")
        if self.max_models < 1:
            raise ConfigError(f"otel_metrics: max_models must be at least 1, not {self.max_models}")
        try:
            api: Any = import_module("opentelemetry.metrics")
        except ImportError:
            raise ConfigError('OpenTelemetry is missing: pip install "llmpipe[otel]"') from None
        meter = api.get_meter("llmpipe", meter_provider=self.meter_provider)
        # frozen: both are part of the construction
        object.__setattr__(self, "_meter", meter)
        object.__setattr__(self, "_tools", None if self.conventions is None else _Instruments(meter))

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """Record the call when it is over."""
        desk = call.runtime.state("otel_metrics", self.name, _Desk)
        # In a chain inside a chain, the outer one records all of it.
        active, ledger = desk.active, call.ledger
        counts = ledger not in active and (ledger.within is None or not lies_within(ledger, active))
        if counts:
            active.add(ledger)
            if ledger.attempts:
                desk.counted.begin(ledger)
        try:
            reply = await call_next(call)
        except BaseException as error:  # recorded, whatever it is; it goes on
            if counts:
                self._record(desk, call, None, error)
            raise
        outcome = yield reply
        if counts:
            self._record(desk, call, outcome, outcome.error)

    def _record(self, desk: _Desk, call: Call, outcome: Outcome | None, error: BaseException | None) -> None:
        desk.active.discard(call.ledger)
        attempts = desk.counted.attempts(call.ledger)
        if self.own is not None:
            self._expose(desk, call.runtime)
        tools = self._tools
        if tools is None:
            return
        provider, endpoint, model = call.target_key
        if attempts:
            provider, model = attempts[-1].provider, attempts[-1].asked_model
        said = {**self._said(desk, call, provider, model), **server_of(endpoint)}
        ended_at = call.runtime.now() if outcome is None else outcome.ended_at
        if outcome is not None and outcome.ok and outcome.completion.model:
            said["gen_ai.response.model"] = desk.bounded(provider, outcome.completion.model, self.max_models)
        if isinstance(error, Exception):
            said["error.type"] = error.type if isinstance(error, LLMError) else type(error).__name__
        tools.duration.record(ended_at - call.started_at, said)
        if call.request.stream and outcome is not None:
            tools.first_chunk.record(outcome.committed_at - call.started_at, said)
        for attempt in attempts:
            usage = attempt.usage
            if usage is None or usage.source != "provider":
                continue  # the conventions: what is not told is not reported
            told = self._said(desk, call, attempt.provider, attempt.asked_model)
            told["gen_ai.response.model"] = desk.bounded(attempt.provider, attempt.model, self.max_models)
            tools.tokens.record(usage.input_tokens, {**told, "gen_ai.token.type": "input"})
            tools.tokens.record(usage.output_tokens, {**told, "gen_ai.token.type": "output"})

    def _said(self, desk: _Desk, call: Call, provider: str, model: str) -> dict[str, Any]:
        return {
            "gen_ai.operation.name": operation_of(call.request),
            "gen_ai.provider.name": provider_name(provider, self.providers),
            "gen_ai.request.model": desk.bounded(provider, model, self.max_models),
        }

    def _expose(self, desk: _Desk, runtime: Runtime) -> None:
        """Make an instrument for each family of `Metrics` that has none yet."""
        book = runtime.states("metrics").get(self.own or "")
        if book is None or desk.known.get(self.name) == len(book.registry):
            return
        registry = Metrics(name=self.own or "").registry(runtime)
        for family in registry.families():
            if family.kind == "histogram" or family.name in desk.exposed:
                continue
            desk.exposed.add(family.name)
            make = (
                self._meter.create_observable_counter
                if family.kind == "counter"
                else self._meter.create_observable_gauge
            )
            read = _reader(
                import_module("opentelemetry.metrics").Observation, runtime, self.own or "", family
            )
            make(f"llmpipe.{family.name}", callbacks=[read], description=family.help)
        desk.known[self.name] = len(registry)


class _Instruments:
    """The histograms of the conventions, with the buckets they advise."""

    def __init__(self, meter: Any) -> None:
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATION,
        )
        self.first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_FIRST_CHUNK,
        )


class _Desk:
    """What is kept on a runtime: calls under way, models seen, families exported."""

    def __init__(self) -> None:
        self.active: set[Ledger] = set()
        self.counted = Counted()
        self.exposed: set[str] = set()
        self.known: dict[str, int] = {}
        self._models: dict[tuple[str, str], str] = {}

    def bounded(self, provider: str, model: str, limit: int) -> str:
        """`model`, or what stands for all that come after `limit` others: names come from callers."""
        known = self._models.get((provider, model))
        if known is not None:
            return known
        if len(self._models) >= limit:
            return _OTHER
        told = self._models[provider, model] = shown(model)
        return told


def _reader(observation: Any, runtime: Runtime, own: str, family: Any) -> Callable[[Any], Iterable[Any]]:
    """A callback that reads `family`, in the exporter's thread."""

    def read(_: Any) -> Iterable[Any]:
        runtime.states("metrics")[own].collect(runtime)
        return [observation(child.value, labels) for labels, child in family.children()]

    return read
