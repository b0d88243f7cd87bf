"""The loop in which a model calls tools until it answers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import ConfigError, DeadlineExceeded, LLMError, Overloaded, StreamBroken
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import no_leaks
from llmpipe.tools import (
    Function,
    LoopResult,
    Step,
    StepEnd,
    StepsExceeded,
    ToolEnd,
    ToolLoop,
    ToolStart,
    run_tools,
    tool,
)
from llmpipe.types import (
    Completion,
    Finish,
    Message,
    NamedTool,
    Reasoning,
    Request,
    Start,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    Usage,
)


def now() -> float:
    return asyncio.get_running_loop().time()


def asks(
    *calls: ToolCall, text: str = "", reason: str = "tool_calls", usage: Usage | None = None
) -> Completion:
    parts = ([Text(text)] if text else []) + [*calls]
    return Completion(message=Message("assistant", parts), finish_reason=reason, usage=usage)


def call(name: str = "echo", arguments: str = '{"text": "hi"}', at: int = 1) -> ToolCall:
    return ToolCall(f"call-{at}", name, arguments)


@tool
async def echo(text: str) -> str:
    """Say it again."""
    return text


def setting(
    *script: Any, tools: Any = (echo,), layers: Any = (), **settings: Any
) -> tuple[MockProvider, ToolLoop]:
    model = MockProvider(script)
    return model, ToolLoop(Chain(model, *layers), tools, **settings)


def results(done: LoopResult) -> list[tuple[str, bool]]:
    return [(run.result.text, run.result.is_error) for run in done.runs]


# -- the way of a conversation


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_is_asked_until_it_answers(stream: bool):
    model, loop = setting(asks(call(), text="Let me see."), "done")
    done = await run_of(loop, "hello", stream=stream)
    assert (done.text, done.stopped, done.pending) == ("done", "answer", ())
    assert results(done) == [("hi", False)]
    first, second = model.requests
    assert [one.name for one in first.tools] == ["echo"]
    assert first.stream is stream
    assert [message.role for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[2].parts[0] == ToolResult("call-1", "hi", name="echo")
    assert [message.role for message in done.messages] == ["user", "assistant", "tool", "assistant"]
    assert [(step.number, len(step.runs)) for step in done.steps] == [(1, 1), (2, 0)]


async def run_of(loop: ToolLoop, prompt: Any, *, stream: bool, **options: Any) -> LoopResult:
    if not stream:
        return await loop.run(prompt, **options)
    async with loop.stream(prompt, **options) as run:
        async for _ in run:
            pass
        return run.result


async def test_what_the_model_said_goes_back_exactly_as_it_came():
    said = Message(
        "assistant",
        (
            Reasoning("hm", signature="sig", origin="anthropic.messages"),
            Text("Let me see.", {"cache_control": {"type": "ephemeral"}}),
            ToolCall("call-1", "echo", '{ "text" :"hi" }', {"index": 3}),
        ),
        extra={"x": 1},
        dialect="anthropic.messages",
    )
    model, loop = setting(Completion(message=said, finish_reason="tool_calls"), "done")
    done = await loop.run("hello")
    assert model.requests[1].messages[1] is said
    assert done.messages[1] is said


async def test_the_messages_of_a_result_go_on_where_it_ended():
    model, loop = setting(asks(call()), "done", asks(call(at=2)), "and more")
    first = await loop.run("hello")
    second = await loop.run([*first.messages, Message("user", "go on")])
    assert second.text == "and more"
    assert len(model.requests[2].messages) == 5


async def test_a_run_takes_what_a_call_takes():
    seen = []

    from llmpipe.pipeline.function import layer

    @layer(priority=1)
    async def look(call: Any, call_next: Any) -> Any:
        seen.append((call.tenant, call.request.max_tokens, call.request.temperature))
        return await call_next(call)

    model = MockProvider([asks(call()), "done"])
    done = await run_tools(
        Chain(model, look),
        Request(messages="hello", temperature=0),
        tools=[echo],
        max_steps=3,
        tenant="acme",
        max_tokens=7,
    )
    assert done.text == "done"
    assert seen == [("acme", 7, 0), ("acme", 7, 0)]


async def test_plain_functions_are_tools():
    def double(n: int) -> int:
        return 2 * n

    model = MockProvider([asks(call("double", '{"n": 21}')), "42"])
    done = await run_tools(Chain(model), "21 twice?", tools=[double])
    assert results(done) == [("42", False)]


async def test_a_tool_choice_that_forces_holds_for_the_first_step_only():
    for choice, told in (
        ("required", ["required", None]),
        (NamedTool("echo"), [NamedTool("echo"), None]),
        ("auto", ["auto", "auto"]),
        (None, [None, None]),
    ):
        model, loop = setting(asks(call()), "done", tool_choice=choice)
        await loop.run("hello")
        assert [request.tool_choice for request in model.requests] == told
    model, loop = setting(asks(call()), "done")
    await loop.run("hello", tool_choice="required")
    assert [request.tool_choice for request in model.requests] == ["required", None]


# -- limits of steps


async def test_a_model_that_asks_for_ever_is_stopped_with_all_there_is():
    model, loop = setting(*[asks(call(at=at)) for at in range(5)], max_steps=3)
    with pytest.raises(StepsExceeded) as stopped:
        await loop.run("hello")
    error = stopped.value
    assert len(model.requests) == 3
    assert isinstance(error.partial, LoopResult)
    assert (len(error.partial.steps), error.partial.stopped) == (3, "max_steps")
    assert error.partial.pending == (call(at=2),)
    assert len(error.partial.runs) == 2  # nobody would see what the last ones give
    assert (error.retryable, error.provider) == (False, "mock")


async def test_on_max_steps_stop_gives_what_there_is():
    _, loop = setting(asks(call()), max_steps=1, on_max_steps="stop")
    done = await loop.run("hello")
    assert (done.stopped, done.pending, done.runs) == ("max_steps", (call(),), ())


async def test_on_max_steps_answer_makes_the_last_step_an_answer():
    model, loop = setting(asks(call()), asks(call(at=2)), "so be it", max_steps=3, on_max_steps="answer")
    done = await loop.run("hello")
    assert (done.text, done.stopped) == ("so be it", "answer")
    assert [request.tool_choice for request in model.requests] == [None, None, "none"]
    assert model.requests[2].tools  # a conversation that has tool calls in it needs its tools


async def test_a_model_that_asks_for_tools_though_it_may_not_is_stopped():
    _, loop = setting(asks(call()), asks(call(at=2)), max_steps=2, on_max_steps="answer")
    with pytest.raises(StepsExceeded):
        await loop.run("hello")


@pytest.mark.parametrize("reason", ["length", "content_filter", "refusal", "error"])
async def test_tool_calls_that_were_cut_do_not_run(reason: str):
    _, loop = setting(asks(call(), reason=reason))
    done = await loop.run("hello")
    assert (done.stopped, done.runs, done.pending) == ("cut", (), (call(),))


async def test_a_tool_that_nobody_here_answers_for_ends_the_loop_with_its_call_pending():
    theirs = Tool("open_door")
    mine, other = call(), call("open_door", "{}", at=2)
    model, loop = setting(asks(mine, other), "the door is open", tools=[echo, theirs])
    done = await loop.run("hello")
    assert (done.stopped, done.pending, results(done)) == ("pending", (other,), [("hi", False)])
    more = await loop.run([*done.messages, Message("tool", ToolResult(other.id, "open"))])
    assert more.text == "the door is open"
    assert [len(request.tools) for request in model.requests] == [2, 2]


async def test_tools_of_the_request_are_kept_beside_those_of_the_loop():
    model, loop = setting(asks(call("theirs", "{}")))
    done = await loop.run(Request(messages="hello", tools=[Tool("theirs")]))
    assert (done.stopped, [one.name for one in model.requests[0].tools]) == ("pending", ["theirs", "echo"])
    with pytest.raises(ConfigError, match="both have a tool called echo"):
        await loop.run(Request(messages="hello", tools=[Tool("echo")]))


# -- what goes wrong with a tool


@tool
def failing(why: str) -> None:
    raise ValueError(f"{why}: key sk-proj-abcdefgh12345 is no good")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (call("ecco"), "there is no tool 'ecco'; there are: echo, failing; did you mean 'echo'?"),
        (call(arguments='{"text": 3}'), "text: must be a string, and is an integer"),
        (call(arguments='{"text": "hi'), "arguments of tool call 'echo' are not JSON"),
        (call(arguments="[1]"), "arguments of tool call 'echo' are a JSON list, not an object"),
        (call("failing", '{"why": "no"}'), "ValueError: no: key [REDACTED] is no good"),
    ],
)
async def test_the_model_is_told_what_went_wrong(asked: ToolCall, told: str):
    model, loop = setting(asks(asked), "I see", tools=[echo, failing])
    done = await loop.run("hello")
    ((text, is_error),) = results(done)
    assert text.startswith(told)
    assert is_error
    assert "Traceback" not in text
    assert isinstance(done.runs[0].error, Exception)
    assert model.requests[1].messages[-1].parts[0].is_error


async def test_an_exception_for_the_program_ends_the_loop_and_the_other_tools():
    ended = []

    @tool
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(now())

    _, loop = setting(asks(call("slow", "{}", 1), call("failing", '{"why": "x"}', 2)), tools=[slow, failing],
                      raises=(ValueError,))  # fmt: skip
    with pytest.raises(ValueError, match="is no good"):
        await loop.run("hello")
    assert ended == [now()]


async def test_a_tool_that_returns_what_has_no_json_is_told_of():
    @tool
    def thing() -> Any:
        return object()

    _, loop = setting(asks(call("thing", "{}")), "hm", tools=[thing])
    done = await loop.run("hello")
    assert results(done) == [
        ("TypeError: what the tool returned, a object, is no JSON: a object has no JSON", True)
    ]


async def test_a_tool_may_give_a_result_of_its_own():
    @tool
    def refuse() -> ToolResult:
        return ToolResult("whatever", "not today", is_error=True)

    _, loop = setting(asks(call("refuse", "{}")), "pity", tools=[refuse])
    done = await loop.run("hello")
    assert done.runs[0].result == ToolResult("call-1", "not today", is_error=True, name="refuse")


async def test_a_tool_that_cancels_itself_is_told_of():
    @tool
    async def quitter() -> None:
        raise asyncio.CancelledError

    _, loop = setting(asks(call("quitter", "{}")), "hm", tools=[quitter])
    assert results(await loop.run("hello")) == [("RuntimeError: the tool cancelled itself", True)]


# -- time


async def test_tools_of_a_step_run_side_by_side_and_their_results_stand_in_order():
    @tool
    async def wait(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    calls = [call("wait", f'{{"seconds": {seconds}}}', at) for at, seconds in enumerate((3, 1, 2))]
    _, loop = setting(asks(*calls), "done", tools=[wait])
    began = now()
    done = await loop.run("hello")
    assert now() - began == pytest.approx(3)
    assert [text for text, _ in results(done)] == ["3.0", "1.0", "2.0"]
    assert [run.seconds for run in done.runs] == pytest.approx([3, 1, 2])


async def test_no_more_tools_run_at_a_time_than_are_allowed():
    running, most = 0, 0

    @tool
    async def busy() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    _, loop = setting(asks(*[call("busy", "{}", at) for at in range(7)]), "done", tools=[busy], concurrency=3)
    began = now()
    await loop.run("hello")
    assert most == 3
    assert now() - began == pytest.approx(3)


async def test_a_tool_that_takes_too_long_is_given_up_and_the_model_told():
    ended = []

    @tool
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(now())

    quick = Function(slow.tool, slow.function, timeout=2)
    for one, seconds in ((slow, 5), (quick, 2)):
        _, loop = setting(asks(call("slow", "{}")), "pity", tools=[one], tool_timeout=5)
        began = now()
        done = await loop.run("hello")
        assert results(done) == [
            (f"TimeoutError: the tool took longer than {seconds} s, and was given up", True)
        ]
        assert ended.pop() - began == pytest.approx(seconds)


async def test_a_timeout_of_the_tools_own_is_not_taken_for_the_limit():
    @tool
    async def own() -> None:
        raise TimeoutError("the door is stuck")

    _, loop = setting(asks(call("own", "{}")), "pity", tools=[own])
    assert results(await loop.run("hello")) == [("TimeoutError: the door is stuck", True)]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_timeout_is_for_the_whole_loop_tools_included(stream: bool):
    @tool
    async def slow() -> str:
        await asyncio.sleep(4)
        return "done"

    def forever() -> MockProvider:
        return MockProvider(default=[Wait(1), ToolDelta(0, "c", "slow", "{}")])

    loop = ToolLoop(Chain(forever()), [slow], max_steps=100)
    began = now()
    with pytest.raises(DeadlineExceeded) as late:
        await run_of(loop, "hello", stream=stream, timeout=12)
    assert now() - began == pytest.approx(12)
    partial = late.value.partial
    assert [len(step.runs) for step in partial.steps] == [1, 1, 0]
    assert (partial.stopped, len(partial.pending)) == ("unfinished", 1)  # asked for, and not run


async def test_a_loop_that_is_out_of_time_asks_no_more():
    model, loop = setting(asks(call()), "never", on_step=lambda step: asyncio.sleep(3))
    with pytest.raises(DeadlineExceeded):
        await loop.run("hello", timeout=2)
    assert len(model.requests) == 1


async def test_cancelling_the_loop_cancels_its_tools_and_leaves_nothing():
    ended = []

    @tool
    async def slow(n: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(n)

    async with no_leaks():
        _, loop = setting(asks(*[call("slow", f'{{"n": {at}}}', at) for at in range(3)]), tools=[slow])
        task = asyncio.create_task(loop.run("hello"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [0, 1, 2]
        assert now() == pytest.approx(1, abs=0.01)


async def test_plain_functions_run_in_threads_and_do_not_hold_up_the_loop():
    here, seen = threading.get_ident(), []
    both = threading.Barrier(2, timeout=20)  # passed only if two run at once

    @tool
    def where(n: int) -> int:
        both.wait()
        seen.append(threading.get_ident())
        return n

    _, loop = setting(asks(call("where", '{"n": 1}', 1), call("where", '{"n": 2}', 2)), "done", tools=[where])
    done = await loop.run("hello")
    assert [text for text, _ in results(done)] == ["1", "2"]
    assert here not in seen


async def test_a_plain_function_that_gives_something_to_await_is_awaited():
    async def later() -> str:
        return "later"

    made = Function(Tool("later"), lambda: later())
    _, loop = setting(asks(call("later", "{}")), "done", tools=[made])
    assert results(await loop.run("hello")) == [("later", False)]


# -- what it costs


PRICES = {"mock-1": {"input": 1, "output": 2}}


async def test_usage_and_cost_are_of_all_steps():
    model = MockProvider([asks(call(), usage=Usage(100, 10)), "done"], usage=Usage(200, 20))
    done = await run_tools(Chain(model, Cost(prices=PRICES)), "hello", tools=[echo])
    assert done.usage == Usage(300, 30)
    assert done.charge is not None
    assert done.charge.total_nano == 300 * 1000 + 30 * 2000
    assert str(done.cost) == "0.000360000"


async def test_a_cost_that_is_not_known_of_one_step_is_not_known_of_all():
    _, loop = setting(asks(call()), "done")
    done = await loop.run("hello")
    assert (done.charge, done.cost) == (None, None)
    one, two = done.steps
    half = evolve(done, steps=(one, evolve(two, completion=evolve(two.completion, usage=None))))
    assert half.usage is None
    assert half.steps[0].completion.usage is not None


# -- failures of the chain


async def test_a_failure_of_the_chain_passes_and_the_steps_that_are_done_are_known():
    steps: list[Step] = []
    _, loop = setting(asks(call()), Overloaded("down"), on_step=steps.append)
    with pytest.raises(Overloaded):
        await loop.run("hello")
    assert [results_of.result.text for step in steps for results_of in step.runs] == ["hi"]


async def test_on_step_is_called_with_each_step_and_awaited():
    seen: list[int] = []

    async def look(step: Step) -> None:
        await asyncio.sleep(1)
        seen.append(step.number)

    _, loop = setting(asks(call()), "done", on_step=look)
    await loop.run("hello")
    assert seen == [1, 2]


# -- streams


async def test_a_stream_gives_the_events_of_all_steps_and_tells_of_tools():
    _, loop = setting(asks(call(), text="Let me see."), "done")
    async with loop.stream("hello") as run:
        events = [event async for event in run]
        done = run.result
    kinds = [type(event) for event in events]
    assert [kind for kind in kinds if kind in (Start, Finish, ToolStart, ToolEnd, StepEnd)] == [
        Start, Finish, ToolStart, ToolEnd, StepEnd, Start, Finish, StepEnd,
    ]  # fmt: skip
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Let me see.done"
    (ended,) = [event for event in events if isinstance(event, ToolEnd)]
    assert (ended.run.call, ended.run.result.text) == (call(), "hi")
    assert done.text == "done"


async def test_a_streamed_loop_comes_to_what_a_full_one_does():
    def script() -> list[Any]:
        return [asks(call(), call(at=2), text="Let me see."), "done"]

    _, one = setting(*script())
    _, other = setting(*script())
    full, streamed = await one.run("hello"), await run_of(other, "hello", stream=True)
    assert full.messages == streamed.messages
    assert (full.usage, full.stopped) == (streamed.usage, streamed.stopped)
    assert [step.runs for step in full.steps] == [
        tuple(evolve(run, seconds=ours.seconds) for run, ours in zip(step.runs, mine.runs, strict=True))
        for step, mine in zip(streamed.steps, full.steps, strict=True)
    ]


async def test_only_the_texts_can_be_read():
    _, loop = setting(asks(call(), text="Let me see. "), "done")
    async with loop.stream("hello") as run:
        assert "".join([text async for text in run.texts()]) == "Let me see. done"


async def test_nothing_runs_ahead_of_who_reads():
    ran = []

    @tool
    async def note() -> None:
        ran.append(now())

    model, loop = setting(asks(call("note", "{}")), ["a", "b"], tools=[note])
    async with loop.stream("hello") as run:
        async for event in run:
            if isinstance(event, ToolStart):
                await asyncio.sleep(50)
                assert ran == []
            if isinstance(event, StepEnd) and event.step.number == 1:
                await asyncio.sleep(50)
                assert len(model.requests) == 1
    assert ran == [50]


@pytest.mark.parametrize("leave_at", [TextDelta, ToolStart, ToolEnd, StepEnd])
async def test_leaving_a_stream_early_closes_it_and_starts_nothing_more(leave_at: type):
    ran = []

    @tool
    async def note() -> None:
        ran.append(1)

    async with no_leaks():
        model, loop = setting(asks(call("note", "{}"), text="Let me see what there is."), tools=[note])
        async with loop.stream("hello") as run:
            async for event in run:
                if isinstance(event, leave_at):
                    break
        assert model.open == 0
        assert len(model.requests) == 1
        assert ran == ([] if leave_at in (TextDelta, ToolStart) else [1])


async def test_cancelling_who_reads_a_stream_cancels_its_tools():
    ended = []

    @tool
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(now())

    async with no_leaks():
        _, loop = setting(asks(call("slow", "{}")), tools=[slow])
        task = asyncio.create_task(run_of(loop, "hello", stream=True))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [pytest.approx(1)]


async def test_a_stream_that_fails_at_once_fails_where_it_is_entered_and_later_where_it_is_read():
    _, loop = setting(Overloaded("down"))
    with pytest.raises(Overloaded):
        async with loop.stream("hello"):
            pytest.fail("it was entered")
    _, loop = setting(asks(call()), ["half", StreamBroken("cut")])
    async with loop.stream("hello") as run:
        with pytest.raises(StreamBroken):
            async for _ in run:
                pass
        assert [step.number for step in run.result.steps] == [1]


async def test_a_stream_is_to_be_entered_first():
    _, loop = setting("done")
    with pytest.raises(TypeError, match="entered first"):
        async for _ in loop.stream("hello"):
            pass


# -- what is refused


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"tools": [echo, echo]}, "two tools are called echo"),
        ({"tools": echo.tool}, "tools are a Tool"),
        ({"tools": "echo"}, "tools are a str"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"concurrency": True}, "concurrency is True"),
        ({"tool_timeout": 0}, "tool_timeout is 0"),
        ({"max_result_chars": 0}, "max_result_chars is 0"),
        ({"on_max_steps": "panic"}, "on_max_steps is 'panic'; it takes error, answer, stop"),
        ({"on_max_steps": "answer", "max_steps": 1}, "needs max_steps of 2 or more"),
        ({"tool_choice": "any"}, "tool_choice is 'any'"),
        ({"tool_choice": NamedTool("nobody")}, "tool_choice names 'nobody'"),
    ],
)
def test_wrong_settings_are_refused_where_the_loop_is_made(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        ToolLoop(Chain(MockProvider()), **{"tools": [echo], **settings})


async def test_what_neither_a_loop_nor_a_call_takes_is_refused():
    with pytest.raises(ConfigError, match="a tool loop asks a chain, not a MockProvider"):
        ToolLoop(MockProvider(), [echo])
    with pytest.raises(ConfigError, match="unknown keyword 'max_step'"):
        await run_tools(Chain(MockProvider(default="hi")), "hello", tools=[echo], max_step=3)
    with pytest.raises(ConfigError, match="timeout is 'soon'"):
        await run_tools(Chain(MockProvider(default="hi")), "hello", tools=[echo], timeout="soon")


def test_the_error_is_one_of_ours():
    assert issubclass(StepsExceeded, LLMError)
    assert StepsExceeded("x").type == "MAX_STEPS"
