"""Trace: spans of calls and attempts, held against the real OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from llmpipe.errors import ConfigError, Overloaded, RateLimited, StreamBroken
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.trace import Trace
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import (
    Image,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
sampling = pytest.importorskip("opentelemetry.sdk.trace.sampling")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

WALL = 1_800_000_000.0
USAGE = Usage(100, 20, cached_input_tokens=60, cache_write_tokens=30, reasoning_tokens=5)


class Bench:
    """A chain under trace, and the spans it has made."""

    def __init__(
        self, *script: Any, middleware: tuple[Any, ...] = (), sampler: Any = None, **settings: Any
    ) -> None:
        self.exporter = memory.InMemorySpanExporter()
        self.provider = sdk.TracerProvider(sampler=sampler)
        self.provider.add_span_processor(export.SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")
        mock = MockProvider(script, name="azure", model="gpt-4o", usage=USAGE)
        mock.endpoint = "https://acme.example.org:8443/v1"
        self.chain = Chain(
            mock,
            Trace(tracer_provider=self.provider, **settings),
            *middleware,
            runtime=Runtime(wall=lambda: WALL),
        )

    @property
    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.exporter.get_finished_spans())


async def read(chain: Chain, prompt: Any = "hi", **options: Any) -> None:
    async with chain.stream(prompt, **options) as reply:
        async for _ in reply:
            pass


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_is_a_span_by_the_conventions(stream: bool):
    bench = Bench(
        [Wait(2), "one", Wait(1), "two"], middleware=(Cost(prices={"gpt-4o": {"input": 1, "output": 1}}),)
    )
    request = Request(
        messages="hi",
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        seed=7,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        stop=("END",),
        response_format=ResponseFormat("json"),
        extra={"top_k": 5},
    )
    options = {"tenant": "acme", "tags": {"team": "blue"}}
    await (read(bench.chain, request, **options) if stream else bench.chain.complete(request, **options))
    span = bench.spans["chat gpt-4o"]
    found = dict(span.attributes)
    assert found.pop("llmpipe.call.id").startswith("call-")
    assert found.pop("gen_ai.response.id") == "mock-1"
    streamed = {"gen_ai.request.stream": True, "gen_ai.response.time_to_first_chunk": 2.0} if stream else {}
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "gpt-4o",
        "server.address": "acme.example.org",
        "server.port": 8443,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.seed": 7,
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.top_k": 5.0,
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "gen_ai.usage.cache_creation.input_tokens": 30,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "llmpipe.cost.usd": pytest.approx(0.00012),
        "llmpipe.tenant": "acme",
        "llmpipe.tag.team": "blue",
        "llmpipe.outcome": "ok",
        "llmpipe.attempts": 1,
        **streamed,
    }
    assert span.kind is trace.SpanKind.CLIENT
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.start_time / 1e9 == pytest.approx(WALL, abs=1)
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(3.0)


async def test_each_attempt_is_a_span_below_the_calls_with_its_own_times_and_error():
    failure = [Wait(1), RateLimited("slow", retry_after=5)]
    bench = Bench(failure, [Wait(2), "one", Wait(3), "two"], middleware=(Retry(),))
    await read(bench.chain)
    call, first, second = (bench.spans[name] for name in ("chat gpt-4o", "attempt 1", "attempt 2"))
    assert first.parent.span_id == second.parent.span_id == call.context.span_id
    assert (first.end_time - first.start_time) / 1e9 == pytest.approx(1)
    assert (second.end_time - second.start_time) / 1e9 == pytest.approx(5)
    assert first.start_time == call.start_time
    assert second.end_time == call.end_time
    assert second.start_time - first.end_time > 5e9
    assert first.status.status_code is trace.StatusCode.ERROR
    assert first.attributes["error.type"] == "RATE_LIMIT"
    assert first.attributes["llmpipe.attempt.status"] == "error"
    assert second.status.status_code is trace.StatusCode.UNSET
    assert second.attributes["llmpipe.attempt.output_tokens"] == 20
    assert not any(key.startswith("gen_ai.usage") for key in second.attributes)
    (content,) = second.events
    assert content.name == "first_content"
    assert (content.timestamp - second.start_time) / 1e9 == pytest.approx(2)
    (event,) = call.events
    assert event.name == "retry.wait"
    assert event.attributes["seconds"] >= 5
    assert event.timestamp == first.end_time
    assert call.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_reply_is_an_error_of_the_span(stream: bool):
    bench = Bench(Overloaded("no capacity, key sk-proj-abcdefgh12345XYZ"))
    with pytest.raises(Overloaded):
        await (read(bench.chain) if stream else bench.chain.complete("hi"))
    span = bench.spans["chat gpt-4o"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "no capacity, key [API_KEY]"
    assert span.attributes["error.type"] == "SERVICE_UNAVAILABLE"
    assert span.attributes["llmpipe.error.retryable"] is True
    assert span.attributes["llmpipe.outcome"] == "error"
    assert "gen_ai.usage.input_tokens" not in span.attributes


async def test_a_stream_that_breaks_is_an_error_with_its_usage():
    bench = Bench(["one", StreamBroken("cut")])
    with pytest.raises(StreamBroken):
        await read(bench.chain)
    span = bench.spans["chat gpt-4o"]
    assert span.attributes["error.type"] == "NETWORK_ERROR"
    assert span.attributes["llmpipe.usage.estimated"] is True
    assert span.status.status_code is trace.StatusCode.ERROR


async def test_an_error_of_another_kind_is_told_by_its_class():
    bench = Bench(KeyError("x"))
    with pytest.raises(KeyError):
        await bench.chain.complete("hi")
    assert bench.spans["chat gpt-4o"].attributes["error.type"] == "KeyError"


async def test_a_span_ends_though_what_the_reply_amounts_to_cannot_be_told():
    @layer(priority=990)
    async def strict(call, call_next):
        def change(done):
            raise ValueError("this takes whole replies only")

        return (await call_next(call)).amend(change)

    bench = Bench(["a", "b"], middleware=(strict,), content=True)
    async with bench.chain.stream("hi") as reply:
        await anext(reply)
    assert bench.names == ["attempt 1", "chat gpt-4o"] or bench.names == ["chat gpt-4o"]
    assert bench.chain.runtime.states("trace") == {"trace": set()}


async def test_tags_of_any_kind_and_length_fail_no_call_and_stay_short():
    bench = Bench("ok")
    tags: Any = {"number": 5, "none": None, "long": "x" * 100_000}
    await bench.chain.complete("hi", tags=tags, tenant="t" * 100_000)
    said = bench.spans["chat gpt-4o"].attributes
    assert (said["llmpipe.tag.number"], said["llmpipe.tag.none"]) == ("5", "None")
    assert len(said["llmpipe.tag.long"]) == len(said["llmpipe.tenant"]) == 1001


async def test_cancelled_and_abandoned_calls_are_no_errors():
    bench = Bench(["one", Wait(9), "two"], [Wait(9), "late"])
    async with bench.chain.stream("hi") as reply:
        await reply.__anext__()
    task = asyncio.create_task(bench.chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    calls = [span for span in bench.exporter.get_finished_spans() if span.name == "chat gpt-4o"]
    assert [span.attributes["llmpipe.outcome"] for span in calls] == ["abandoned", "cancelled"]
    assert all(span.status.status_code is trace.StatusCode.UNSET for span in calls)


async def test_the_span_is_current_inside_the_chain_and_never_while_the_caller_reads():
    seen = []

    @layer(priority=900)
    async def inside(call, call_next):
        seen.append(trace.get_current_span().get_span_context().span_id)
        return await call_next(call)

    bench = Bench(["one", "two"], middleware=(inside,))
    with bench.tracer.start_as_current_span("request") as request:
        async with bench.chain.stream("hi") as reply:
            assert trace.get_current_span() is request
            async for _ in reply:
                assert trace.get_current_span() is request
        assert trace.get_current_span() is request
    span = bench.spans["chat gpt-4o"]
    assert seen == [span.context.span_id]
    assert span.parent.span_id == request.get_span_context().span_id


async def test_a_stream_may_be_read_and_closed_in_another_task(caplog: pytest.LogCaptureFixture):
    bench = Bench(default := ["one", "two"], default)
    reply = await bench.chain(bench.chain.new_call(Request(messages="hi", stream=True)))
    await asyncio.create_task(reply.__anext__())
    await asyncio.create_task(reply.aclose())
    assert bench.spans["chat gpt-4o"].attributes["llmpipe.outcome"] == "abandoned"
    assert "detach" not in caplog.text


async def test_concurrent_calls_keep_their_parents_apart():
    bench = Bench(*[[Wait(1), f"{number}"] for number in range(5)])

    async def one(number: int) -> tuple[int, int]:
        with bench.tracer.start_as_current_span(f"request {number}") as parent:
            await bench.chain.complete("hi", tags={"number": str(number)})
            return number, parent.get_span_context().span_id

    parents = dict(await asyncio.gather(*map(one, range(5))))
    calls = [span for span in bench.exporter.get_finished_spans() if span.name == "chat gpt-4o"]
    assert {int(span.attributes["llmpipe.tag.number"]): span.parent.span_id for span in calls} == parents


async def test_what_is_not_sampled_is_not_exported_and_its_children_neither():
    bench = Bench("ok", sampler=sampling.ALWAYS_OFF)
    await bench.chain.complete("hi")
    assert bench.names == []


async def test_content_is_recorded_only_where_that_is_asked_for_and_masked():
    secret = "sk-proj-" + "a1B2" * 10
    request = Request(
        "m",
        [
            Message("system", "You help."),
            Message("user", [Text(f"my key is {secret}"), Image(url="https://x.org/a.png")]),
            Message("assistant", [Reasoning("hm"), ToolCall("1", "look", '{"a":1}')]),
            Message("tool", [ToolResult("1", "a cat")]),
        ],
    )
    silent = Bench("the answer")
    await silent.chain.complete(request)
    assert not any("messages" in key for key in silent.spans["chat m"].attributes)
    bench = Bench("the answer", content=True)
    await bench.chain.complete(request)
    found = bench.spans["chat m"].attributes
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "You help."}]},
        {"role": "user", "parts": [{"type": "text", "content": "my key is [API_KEY]"}, {"type": "image"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "tool_call", "id": "1", "name": "look", "arguments": '{"a":1}'},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "a cat"}]},
    ]
    assert json.loads(found["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "the answer"}], "finish_reason": "stop"}
    ]


async def test_content_is_clipped():
    bench = Bench("abcdefghij", content=True, max_content_chars=4)
    await bench.chain.complete("hi")
    (message,) = json.loads(bench.spans["chat gpt-4o"].attributes["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": "abcd…"}]


async def test_embeddings_have_their_own_operation():
    bench = Bench("x")
    await bench.chain.embed("hi", model="e-1", dimensions=4)
    found = bench.spans["embeddings e-1"].attributes
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.embeddings.dimension.count"] == 4


async def test_a_chain_inside_a_chain_is_a_span_below_and_its_attempts_are_there_once():
    bench = Bench("ok")
    inner = bench.chain
    outer = Chain(inner, Trace(tracer_provider=bench.provider), runtime=inner.runtime)
    await outer.complete("hi")
    assert bench.names == ["attempt 1", "chat gpt-4o", "chat gpt-4o"]
    attempt = bench.spans["attempt 1"]
    calls = {
        span.context.span_id: span for span in bench.exporter.get_finished_spans() if span is not attempt
    }
    roots = [span for span in calls.values() if span.parent is None]
    assert len(roots) == 1
    assert attempt.parent.span_id == roots[0].context.span_id
    assert [span.parent.span_id for span in calls.values() if span.parent] == [roots[0].context.span_id]


async def test_attempts_may_be_left_out_and_providers_named():
    bench = Bench("ok", attempts=False, providers={"azure": "azure.ai.inference"})
    await bench.chain.complete("hi")
    assert bench.names == ["chat gpt-4o"]
    assert bench.spans["chat gpt-4o"].attributes["gen_ai.provider.name"] == "azure.ai.inference"


@pytest.mark.parametrize(
    ("endpoint", "address", "port"),
    [
        ("https://api.example.org/v1", "api.example.org", 443),
        ("http://localhost:8080", "localhost", 8080),
        ("http://localhost", "localhost", 80),
        ("api.example.org", "api.example.org", 443),
        ("http://[::1]:9/v1", "::1", 9),
        ("http://model-server/v1", "model-server", 80),
        ("model-server:8000", "model-server", 8000),
        ("localhost", "localhost", 443),
        ("mock", None, None),
        ("", None, None),
        ("http://x:notaport", None, None),
    ],
)
async def test_the_server_is_read_off_the_endpoint(endpoint: str, address: str | None, port: int | None):
    bench = Bench("ok")
    bench.chain.provider.endpoint = endpoint  # type: ignore[misc]  # a mock's is a plain attribute
    await bench.chain.complete("hi")
    found = bench.spans["chat gpt-4o"].attributes
    assert (found.get("server.address"), found.get("server.port")) == (address, port)


async def test_without_a_configured_sdk_nothing_happens_and_nothing_breaks():
    chain = Chain(MockProvider(["ok"]), Trace())
    assert (await chain.complete("hi")).text == "ok"


def test_a_missing_opentelemetry_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigError, match=r'pip install "llmpipe\[otel\]"'):
        Trace()


def test_it_is_not_imported_before_a_trace_is_made():
    code = (
        "import sys, llmpipe, llmpipe.middleware.trace\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_settings_are_refused_and_files_build_it():
    with pytest.raises(ConfigError, match="max_content_chars"):
        Trace(max_content_chars=0)
    assert build("trace", {"content": True}) == Trace(content=True)
