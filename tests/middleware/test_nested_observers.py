"""A chain inside a chain that is called again for one call: each attempt and note is counted once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llmpipe.errors import BadReply, LLMError, Overloaded
from llmpipe.middleware.alerts import Alert, Alerts, CostRate, ErrorRate, NoteSeen
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.trace import Trace
from llmpipe.middleware.trace.otel_metrics import OTelMetrics
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.ensemble import Ensemble
from llmpipe.runtime import Runtime
from llmpipe.types import Usage

sdk = pytest.importorskip("opentelemetry.sdk.trace")
trace_export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
sdk_metrics = pytest.importorskip("opentelemetry.sdk.metrics")
metrics_export = pytest.importorskip("opentelemetry.sdk.metrics.export")

MODEL = "gpt-4o-mini"
USD = 10 * 0.15e-6 + 5 * 0.6e-6


@layer(name="strict", priority=450)
async def strict(call: Any, call_next: Any) -> Any:
    """Notes each reply, and takes only one that is good."""
    reply = await call_next(call)
    call.note("test.looked", text=(await reply.full()).text)
    if reply.completion.text != "good":
        raise BadReply("not good", retryable=True)
    return reply


class Bench:
    """An inner chain that is watched, and what is told of it."""

    def __init__(self) -> None:
        self.runtime = Runtime(seed=1)
        self.metrics = Metrics()
        self.alerts: list[Alert] = []
        self.spans = memory.InMemorySpanExporter()
        tracers = sdk.TracerProvider()
        tracers.add_span_processor(trace_export.SimpleSpanProcessor(self.spans))
        self.reader = metrics_export.InMemoryMetricReader()
        self.observers = (
            self.metrics,
            Cost(),
            Trace(tracer_provider=tracers),
            OTelMetrics(meter_provider=sdk_metrics.MeterProvider(metric_readers=[self.reader]), own=None),
            Alerts(
                rules=(
                    ErrorRate(minimum=1, per="all"),
                    CostRate(above=1e-9, per="all"),
                    NoteSeen(kind="test.looked"),
                ),
                sinks=(self.alerts.append,),
            ),
        )

    def chain(self, *script: Any, name: str = "p") -> Chain:
        provider = MockProvider(script, name=name, model=MODEL, usage=Usage(10, 5))
        return Chain(provider, *self.observers, strict, runtime=self.runtime)

    def total(self, name: str, **labels: str) -> float:
        registry = self.metrics.registry(self.runtime)
        return sum(f.total(**labels) for f in registry.families() if f.name == name)

    def meters(self) -> dict[str, tuple[int, int, float]]:
        desk = self.runtime.states("alerts")["alerts"]
        return {meter.rule.name: (meter.calls, meter.bad, meter.sum) for meter in desk._meters.values()}

    def otel_tokens(self) -> int:
        data = self.reader.get_metrics_data()
        return sum(
            point.sum
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "gen_ai.client.token.usage"
            for point in metric.data.data_points
        )

    def assert_nothing_is_remembered(self) -> None:
        gc.collect()
        for kind in ("metrics", "alerts", "otel_metrics"):
            desk = self.runtime.states(kind)[kind]
            assert desk.active == set()
            assert desk.counted.begun == {}
            assert not desk.counted._noted
            assert not desk.counted._branched
        assert self.runtime.states("trace")["trace"] == set()


@pytest.mark.parametrize("stream", [False, True])
async def test_each_try_of_a_retry_outside_is_counted_once(stream: bool):
    bench = Bench()
    outer = Chain(bench.chain("bad", "bad", "good"), Retry(attempts=3), runtime=bench.runtime)
    await (read(outer) if stream else outer.complete("hi"))
    assert bench.total("attempts.total") == 3
    assert bench.total("tokens.total") == 45
    assert bench.total("cost.total") == pytest.approx(3 * USD)
    assert bench.total("cost.requests") == 3
    assert bench.total("events.total", kind="test.looked") == 3
    assert bench.total("requests.total") == 3  # so often was the inner chain called
    assert bench.meters() == {"error_rate": (3, 0, 0.0), "cost": (3, 0, pytest.approx(3 * USD * 1e9))}
    assert bench.otel_tokens() == 45
    spans = bench.spans.get_finished_spans()
    assert sorted(span.name for span in spans if "attempt" in span.name) == [
        f"attempt {n}" for n in (1, 2, 3)
    ]
    events = [event.name for span in spans for event in span.events]
    assert events.count("test.looked") == 3


async def test_a_fallback_outside_counts_the_failure_of_the_first_once():
    bench = Bench()
    first, second = bench.chain(Overloaded("busy"), name="first"), bench.chain("good", name="second")
    await Chain(first, Fallback(second), runtime=bench.runtime).complete("hi")
    assert bench.total("attempts.total", provider="first") == 1
    assert bench.total("attempts.total", provider="second") == 1
    assert bench.total("fallbacks.total") == 1
    assert bench.meters()["error_rate"] == (2, 1, 0.0)


async def test_one_that_is_refused_before_its_second_attempt_counts_none():
    bench = Bench()

    @layer(name="once", priority=440)
    async def once(call: Any, call_next: Any) -> Any:
        if call.ledger.attempts:
            raise Overloaded("not again", sent=False)
        return await call_next(call)

    outer = Chain(bench.chain("bad").use(once), Retry(attempts=2), runtime=bench.runtime)
    with pytest.raises(LLMError):
        await outer.complete("hi")
    assert bench.total("attempts.total") == 1
    assert bench.total("requests.total", status="error") == 2


async def test_nothing_is_remembered_of_calls_that_are_over():
    bench = Bench()
    outer = Chain(bench.chain("bad", "good"), Retry(attempts=2), runtime=bench.runtime)
    await outer.complete("hi")
    bench.assert_nothing_is_remembered()


async def read(chain: Chain) -> None:
    async with chain.stream("hi") as reply:
        await reply.full()


class Scene:
    """A watched chain round an ensemble, whose members are watched too, or plain."""

    def __init__(self, *, watched: bool) -> None:
        self.bench, self.watched = Bench(), watched

    def member(self, *script: Any, name: str) -> Chain:
        chain = self.bench.chain(*script, name=name)
        return chain if self.watched else chain.without(*(observer.name for observer in self.bench.observers))

    def outer(self, target: Any) -> Chain:
        return Chain(target, *self.bench.observers, runtime=self.bench.runtime)

    def figures(self) -> dict[str, Any]:
        """All that the observers have counted."""
        bench = self.bench
        metrics = {
            name: values
            for name, told in bench.metrics.snapshot(bench.runtime).items()
            if not name.startswith("alerts.")  # what is delivered is, a little later
            if (values := sorted((*v["labels"].values(), v["value"]) for v in told["values"] if "value" in v))
        }
        spans = bench.spans.get_finished_spans()
        calls = [span for span in spans if span.parent is None or span.name.startswith("attempt")]
        said = [(span.name, [event.name for event in span.events]) for span in calls]
        desk = bench.runtime.states("alerts")["alerts"]
        total = Cost.totals(bench.runtime).all
        return {
            "metrics": metrics,
            "alerts": bench.meters(),
            "fired": sorted((case.rule.name, case.key) for case in desk.cases),
            "otel": bench.otel_tokens(),
            "spans": sorted(said),
            "money": (total.attempts, total.nano, total.input_tokens, total.output_tokens, total.unknown),
        }


async def all_win(scene: Scene) -> None:
    members = [scene.member("good", "good", name=name) for name in "abc"]
    await scene.outer(Ensemble(*members)).complete("hi")


async def a_stream_of_the_judge(scene: Scene) -> None:
    members = [scene.member("good", name=name) for name in "ab"]
    await read(scene.outer(Ensemble(*members, judge=scene.member("good", name="judge"))))


async def one_fails_and_one_is_spared(scene: Scene) -> None:
    slow = scene.member(["go", Wait(60), "od"], name="slow")
    failing = scene.member(Overloaded("busy"), name="failing")
    ensemble = Ensemble(failing, scene.member([Wait(1), "good"], name="good"), slow, enough=1, combine="vote")
    await scene.outer(ensemble).complete("hi")


async def all_fail(scene: Scene) -> None:
    members = [scene.member(Overloaded("busy"), name=name) for name in "ab"]
    with pytest.raises(LLMError):
        await scene.outer(Ensemble(*members)).complete("hi")


async def the_caller_leaves(scene: Scene) -> None:
    members = [scene.member(["go", Wait(60), "od"], name=name) for name in "ab"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await scene.outer(Ensemble(*members)).complete("hi")


async def ensembles_within(scene: Scene) -> None:
    inner = Ensemble(*[scene.member("good", "good", name=name) for name in "abc"])
    between = Chain(inner, *(scene.bench.observers if scene.watched else ()), runtime=scene.bench.runtime)
    await scene.outer(Ensemble(between, scene.member("good", name="d"), combine="vote")).complete("hi")


async def members_that_try_again(scene: Scene) -> None:
    tries = [
        Chain(scene.member("bad", "bad", "good", name=n), Retry(attempts=3), runtime=scene.bench.runtime)
        for n in "ab"
    ]
    await scene.outer(Ensemble(*tries, combine="vote")).complete("hi")


@pytest.mark.parametrize(
    ("run", "attempts"),
    [
        (all_win, {"ok": 4}),
        (a_stream_of_the_judge, {"ok": 3}),
        (one_fails_and_one_is_spared, {"ok": 1, "error": 1, "cancelled": 1}),
        (all_fail, {"error": 2}),
        (the_caller_leaves, {"cancelled": 2}),
        (ensembles_within, {"ok": 5}),
        (members_that_try_again, {"ok": 6}),
    ],
)
async def test_watched_members_of_an_ensemble_are_counted_once_by_who_watches_the_whole(
    run: Any, attempts: dict[str, int]
):
    watched, plain = Scene(watched=True), Scene(watched=False)
    await run(watched)
    await run(plain)
    for status in ("ok", "error", "cancelled"):
        assert watched.bench.total("attempts.total", status=status) == attempts.get(status, 0)
    assert watched.bench.total("requests.total") == 1
    assert watched.figures() == plain.figures()
    watched.bench.assert_nothing_is_remembered()


async def test_watched_members_of_an_ensemble_that_nobody_watches_are_counted():
    bench = Bench()
    members = [bench.chain("good", "good", name=name) for name in "abc"]
    await Chain(Ensemble(*members), runtime=bench.runtime).complete("hi")
    assert bench.total("attempts.total") == bench.total("requests.total") == 4
    assert bench.total("cost.total") == pytest.approx(4 * USD)
    assert bench.meters() == {"error_rate": (4, 0, 0.0), "cost": (4, 0, pytest.approx(4 * USD * 1e9))}
    assert bench.otel_tokens() == 60
    names = [span.name for span in bench.spans.get_finished_spans()]
    assert sum(name.startswith("attempt") for name in names) == 4
    bench.assert_nothing_is_remembered()


async def test_a_watched_chain_round_an_ensemble_counts_for_its_members_in_one_that_nobody_watches():
    bench = Bench()
    inner = Ensemble(*[bench.chain("good", name=name) for name in "ab"], combine="vote")
    between = Chain(inner, *bench.observers, runtime=bench.runtime)
    outer = Chain(Ensemble(between, bench.chain("good", name="c"), combine="vote"), runtime=bench.runtime)
    await outer.complete("hi")
    assert bench.total("attempts.total") == 3
    assert bench.total("requests.total") == 2
    bench.assert_nothing_is_remembered()


async def test_members_are_counted_by_observers_that_the_chain_round_them_lacks():
    runtime, own, whole = Runtime(), Metrics(name="own"), Metrics()
    provider = MockProvider(["good"], name="a", model=MODEL)
    member = Chain(provider, own, runtime=runtime)
    await Chain(Ensemble(member), whole, runtime=runtime).complete("hi")
    for metrics in (own, whole):
        assert (
            total_of(metrics, runtime, "attempts.total") == total_of(metrics, runtime, "requests.total") == 1
        )


async def test_members_that_another_runtime_watches_are_counted_there():
    here, there, metrics = Runtime(), Runtime(), Metrics()

    @layer(name="elsewhere", priority=0)
    async def elsewhere(call: Any, call_next: Any) -> Any:
        return await call_next(call.evolve(runtime=there))

    member = Chain(MockProvider(["good"], name="a", model=MODEL), elsewhere, metrics)
    await Chain(Ensemble(member), metrics, runtime=here).complete("hi")
    for runtime in (here, there):
        assert total_of(metrics, runtime, "attempts.total") == 1
        assert total_of(metrics, runtime, "requests.total") == 1


@pytest.mark.parametrize("depth", [1, 2])
async def test_notes_of_members_that_counted_them_are_not_counted_again_by_a_fallback(depth: int):
    bench = Bench()
    ensemble = Ensemble(*[bench.chain("bad", name=name) for name in "ab"])
    for _ in range(1, depth):
        ensemble = Ensemble(ensemble)
    await Chain(ensemble, Fallback(bench.chain("good", name="c")), runtime=bench.runtime).complete("hi")
    assert bench.total("attempts.total") == 3
    assert bench.total("events.total", kind="test.looked") == 3
    bench.assert_nothing_is_remembered()


def total_of(metrics: Metrics, runtime: Runtime, name: str) -> float:
    return sum(family.total() for family in metrics.registry(runtime).families() if family.name == name)
