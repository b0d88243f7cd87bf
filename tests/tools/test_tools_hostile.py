"""Tools and models at their worst: what a loop makes of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any, List, Optional  # noqa: UP035  people write it
from uuid import UUID

import attrs
import orjson
import pydantic
import pytest

from llmpipe.dialects import get
from llmpipe.errors import ConfigError, DeadlineExceeded, Overloaded, StreamBroken
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.redact import Redact
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import no_leaks
from llmpipe.tools import LoopResult, ToolLoop, ToolStart, run_tools, tool
from llmpipe.tools.arguments import WrongArguments, checked
from llmpipe.tools.content import content_of
from llmpipe.tools.mismatch import mismatches
from llmpipe.types import Completion, Message, Reasoning, Request, Text, Tool, ToolCall, ToolResult, Usage


def now() -> float:
    return asyncio.get_running_loop().time()


def asks(*calls: ToolCall, usage: Usage | None = None) -> Completion:
    return Completion(message=Message("assistant", [*calls]), finish_reason="tool_calls", usage=usage)


def call(name: str = "f", arguments: str = "{}", at: int | str = 1) -> ToolCall:
    return ToolCall(f"call-{at}" if at != "" else "", name, arguments)


async def told(function: Any, arguments: str = "{}", **settings: Any) -> tuple[str, bool]:
    made = function if hasattr(function, "tool") else tool(function, name="f")
    done = await run_tools(
        Chain(MockProvider([asks(call(arguments=arguments)), "ok"])), "hi", tools=[made], **settings
    )
    (run,) = done.runs
    assert done.stopped == "answer"
    return run.result.text, run.result.is_error


# -- tools that misbehave


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(BaseException):
    pass


async def test_an_error_that_cannot_say_what_it_is_is_told_by_its_name():
    async def f() -> None:
        raise Silent

    assert await told(f) == ("Silent", True)


@pytest.mark.parametrize("threaded", [False, True])
async def test_what_is_no_exception_goes_through_as_it_is(threaded: bool):
    """And in no group: who raises it means to be heard."""

    def plain() -> None:
        raise Odd

    async def f() -> None:
        raise Odd

    async with no_leaks():
        with pytest.raises(Odd):
            await told(plain if threaded else f)


@pytest.mark.parametrize("end", [SystemExit, GeneratorExit])
async def test_an_exit_in_a_thread_ends_the_thread_alone(end: type[BaseException]):
    def f() -> None:
        raise end("2")

    assert await told(f) == (f"RuntimeError: the tool ended with {end.__name__}: 2", True)


async def test_a_tool_that_cancels_its_own_task_is_told_of_and_no_other_is_cancelled():
    async def f() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return 1

    async def g() -> int:
        await asyncio.sleep(1)
        return 2

    chain = Chain(MockProvider([asks(call("f"), call("g", at=2)), "ok"]))
    done = await run_tools(chain, "hi", tools=[f, g])
    assert [run.result.text for run in done.runs] == ["RuntimeError: the tool cancelled itself", "2"]


async def test_a_tool_that_does_not_end_when_it_is_cancelled_is_left_behind_and_the_loop_goes_on():
    go_on = True

    async def f() -> None:
        while go_on:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    runtime = Runtime(cleanup_seconds=3)
    chain = Chain(MockProvider([asks(call()), "ok"]), runtime=runtime)
    began = now()
    done = await run_tools(chain, "hi", tools=[f], tool_timeout=10)
    assert done.runs[0].result.text == "TimeoutError: the tool took longer than 10 s, and was given up"
    assert now() - began == pytest.approx(13)
    assert len(runtime._tasks) == 1  # it belongs to somebody
    go_on = False
    await asyncio.sleep(2)
    assert not runtime._tasks


async def test_a_tool_that_does_not_end_cannot_hold_up_a_deadline_or_a_caller_who_cancels():
    go_on = True

    async def f() -> None:
        while go_on:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    def loop() -> ToolLoop:
        runtime = Runtime(cleanup_seconds=3)
        return ToolLoop(Chain(MockProvider([asks(call()), "ok"]), runtime=runtime), [f])

    began = now()
    with pytest.raises(DeadlineExceeded):
        await loop().run("hi", timeout=5)
    assert now() - began == pytest.approx(8, abs=1.1)
    task = asyncio.create_task(loop().run("hi"))
    await asyncio.sleep(1)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.5)
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on = False
    await asyncio.sleep(2)


@pytest.mark.real_time  # virtual time waits for threads
async def test_threads_that_never_end_take_no_place_from_others():
    release = threading.Event()

    def f() -> str:
        release.wait(20)
        return "late"

    def g() -> str:
        return "here"

    calls = [call("f", at=at) for at in range(45)]  # more than the threads that all share
    chain = Chain(MockProvider([asks(*calls), asks(call("g", at="g")), "ok"]))
    try:
        done = await run_tools(chain, "hi", tools=[f, g], tool_timeout=0.01, concurrency=50)
        assert [run.result.text for run in done.runs][-1] == "here"
    finally:
        release.set()


@pytest.mark.real_time  # virtual time waits for threads
async def test_cancelled_while_plain_functions_run_it_ends_at_once_twice_too():
    release, started = threading.Event(), threading.Event()

    def f() -> None:
        started.set()
        release.wait(20)

    chain = Chain(MockProvider([asks(call()), "ok"]))
    task = asyncio.create_task(run_tools(chain, "hi", tools=[f]))
    try:
        while not started.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        release.set()


async def test_what_the_model_did_wrong_is_never_for_the_program():
    async def f(x: int) -> int:
        raise TypeError("mine")

    wrong = [asks(call(arguments='{"x": "3"}')), asks(call("g", at=2)), asks(call(arguments="[", at=3))]
    model = MockProvider([*wrong, asks(call(arguments='{"x": 3}', at=4))])
    loop = ToolLoop(Chain(model), [f], raises=[Exception])
    with pytest.raises(TypeError, match="mine"):
        await loop.run("hi")
    assert len(model.requests) == 4


@pytest.mark.parametrize("raises", [("x",), (asyncio.CancelledError,), (int,), 3])
def test_what_is_raised_is_listed_by_class(raises: Any):
    with pytest.raises(ConfigError, match="raises has"):
        ToolLoop(Chain(MockProvider()), [], raises=raises)


async def test_tools_that_ran_before_the_failure_are_in_the_partial_result():
    async def f() -> str:
        return "done"

    async def g() -> None:
        await asyncio.sleep(100)

    chain = Chain(MockProvider([asks(call(), call("g", at=2), usage=Usage(7, 1))]), Cost())
    with pytest.raises(DeadlineExceeded) as late:
        await run_tools(chain, "hi", tools=[f, g], timeout=5)
    partial = late.value.partial
    assert isinstance(partial, LoopResult)
    assert [run.result.text for run in partial.runs] == ["done"]
    assert partial.pending == (call("g", at=2),)
    assert [message.role for message in partial.messages] == ["user", "assistant", "tool"]
    assert partial.usage == Usage(7, 1)  # of all that the model has said


async def test_a_stream_left_at_the_start_of_a_tool_says_what_is_pending():
    async def f() -> None:
        raise AssertionError("it does not run")

    loop = ToolLoop(Chain(MockProvider([asks(call()), "ok"])), [f])
    async with loop.stream("hi") as run:
        async for event in run:
            if type(event) is ToolStart:
                break
    assert (run.result.stopped, run.result.pending, run.result.runs) == ("unfinished", (call(),), ())


async def test_a_stream_that_breaks_says_that_it_is_unfinished():
    loop = ToolLoop(Chain(MockProvider([["a", StreamBroken("cut")]])), [])
    with pytest.raises(StreamBroken):
        async with loop.stream("hi") as run:
            async for _ in run:
                pass
    assert (run.result.stopped, run.result.steps) == ("unfinished", ())


# -- what tools give


async def test_what_is_awaitable_is_awaited_however_deep():
    async def inner() -> str:
        return "deep"

    async def f() -> Any:
        return inner()

    assert await told(f) == ("deep", False)


@pytest.mark.parametrize(
    "answer", [b"x", object(), iter([1]), {1: object()}, ToolCall("1", "f"), [Reasoning("hm")], lambda: 1]
)
async def test_what_no_model_can_be_told_is_said_to_be_so(answer: Any):
    async def f() -> Any:
        return answer

    text, is_error = await told(f)
    assert is_error
    assert text.startswith("TypeError: what the tool returned, a ")


async def test_text_that_no_json_carries_is_made_such():
    async def f() -> Any:
        return "caf\udce9"

    async def g() -> Any:
        raise FileNotFoundError("caf\udce9")

    for function in (f, g):
        text, _ = await told(function)
        orjson.dumps(text)
        assert "caf?" in text
    assert content_of([Text("\ud800"), "\ud800"], 10) == [Text("?"), Text("?")]


async def test_a_result_of_the_tools_own_is_bounded_like_any_other():
    async def f() -> Any:
        return ToolResult("", "x" * 100, is_error=True)

    assert await told(f, max_result_chars=10) == ("xxxxxxxxxx… [cut: 90 more characters]", True)


async def test_a_tool_that_changes_its_arguments_changes_nobody_elses():
    async def f(xs: list[int]) -> list[int]:
        xs.append(4)
        return xs

    model = MockProvider([asks(call(arguments='{"xs": [1]}')), "ok"])
    done = await run_tools(Chain(model), "hi", tools=[f])
    assert done.runs[0].call.args == {"xs": [1]}
    assert model.requests[1].messages[1].tool_calls[0].arguments == '{"xs": [1]}'


# -- what models write


@pytest.mark.parametrize("ids", [("", ""), ("1", "1"), ("call-0", "call-0")])
async def test_calls_with_the_same_id_or_none_are_told_apart_in_the_whole_conversation(ids: tuple[str, str]):
    async def f(n: int) -> int:
        return n

    def both(first: int) -> Completion:
        calls = [ToolCall(one, "f", f'{{"n": {first + at}}}', {"x": at}) for at, one in enumerate(ids)]
        said = Message("assistant", (Reasoning("hm", signature="s", origin="o"), *calls), dialect="o")
        return Completion(message=said, finish_reason="tool_calls")

    model = MockProvider([both(1), both(3), "ok"])
    done = await run_tools(Chain(model, runtime=Runtime(seed=1)), "hi", tools=[f])
    messages = model.requests[2].messages
    asked = [one for message in messages for one in message.tool_calls]
    answered = [part for message in messages if message.role == "tool" for part in message.parts]
    assert [one.id for one in asked] == [one.id for one in answered]
    assert len({one.id for one in asked} - {""}) == 4
    assert [one.text for one in answered] == ["1", "2", "3", "4"]
    assert [one.extra["x"] for one in asked] == [0, 1, 0, 1]
    assert messages[1].parts[0] == Reasoning("hm", signature="s", origin="o")
    assert messages[1].dialect == "o"
    assert done.steps[0].pending == ()


@pytest.mark.parametrize(
    "arguments",
    ["null", "[]", "1", '{"n":', "{}{}", "[" * 2000, '{"n":' * 2000, '{"n": NaN}', "\ud800", "{n: 1}"],
)
async def test_arguments_that_are_no_object_are_told_of(arguments: str):
    async def f(n: int = 1) -> int:
        return n

    text, is_error = await told(f, arguments)
    assert is_error
    assert text.startswith("arguments of tool call 'f' are ")


async def test_no_arguments_at_all_are_none():
    async def f(n: int = 1) -> int:
        return n

    assert await told(f, "") == ("1", False)


async def test_a_name_of_a_million_letters_is_unknown_at_once():
    chain = Chain(MockProvider([asks(call("f" * 1_000_000)), "ok"]))
    done = await run_tools(chain, "hi", tools=[Tool("other"), tool(now, name="f")])
    assert done.stopped == "answer"
    assert len(done.runs[0].result.text) < 300


def tree(depth: int) -> Any:
    value: Any = {"op": "or"}
    for _ in range(depth):
        value = {"op": "or", "inner": value}
    return value


OP: dict[str, Any] = {"type": "object", "properties": {"inner": {"$ref": "#/$defs/node"}}, "required": ["op"]}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"node": {"$ref": "#/$defs/node"}},
    "$defs": {
        "node": {
            "anyOf": [
                {**OP, "properties": {**OP["properties"], "op": {"const": "and"}}},
                {**OP, "properties": {**OP["properties"], "op": {"const": "or"}}},
            ]
        }
    },
}


def test_unions_within_unions_are_looked_at_once():
    """Twice as long for each level it took: a model that nests 20 deep held everybody up for a minute."""
    looked = 0

    class Counted(dict):  # type: ignore[type-arg]
        def get(self, *args: Any) -> Any:
            nonlocal looked
            looked += 1
            return super().get(*args)

    node = TREE["$defs"]["node"]
    counted = {**TREE, "$defs": {"node": {"anyOf": [Counted(part) for part in node["anyOf"]]}}}
    assert [*mismatches({"node": tree(15)}, counted)] == []
    assert looked < 2000
    value = tree(10)
    value["inner"]["inner"]["op"] = "xor"
    assert any("'and'" in one or "'or'" in one for one in mismatches({"node": value}, TREE))


def test_two_values_whose_paths_read_the_same_are_each_looked_at():
    schema = {"type": "object", "additionalProperties": {"anyOf": [{"type": "object", "required": ["a"]}]}}
    name = "x" * 70
    wrong = [*mismatches({name + "1": {"a": 1}, name + "2": {}}, schema)]
    assert len(wrong) == 1


async def test_long_arguments_are_checked_beside_the_loop():
    seen: list[int] = []

    async def f(n: list[int]) -> int:
        return len(n)

    @attrs.frozen
    class Watched:
        n: int = attrs.field()

        @n.validator
        def _note(self, attribute: Any, value: Any) -> None:
            seen.append(threading.get_ident())

    def g(w: Any, filling: str = "") -> int:
        return 0

    g.__annotations__["w"] = Watched
    assert await told(f, '{"n": [' + ",".join(["1"] * 40_000) + "]}") == ("40000", False)
    await told(g, '{"w": {"n": 1}, "filling": "' + "x" * 70_000 + '"}')
    assert seen
    assert threading.get_ident() not in seen


def test_of_a_million_problems_few_are_found():
    schema = {"type": "object", "properties": {"n": {"type": "array", "items": {"type": "integer"}}}}
    with pytest.raises(WrongArguments, match=r"and many more$"):
        checked({"n": ["a"] * 100_000}, schema)


async def test_a_request_with_two_tools_of_one_name_is_told_so():
    with pytest.raises(ConfigError, match="the request has two tools of one name"):
        await run_tools(Chain(MockProvider()), Request(messages="hi", tools=[Tool("a"), Tool("a")]), tools=[])


async def test_names_that_differ_in_case_are_two_tools():
    async def f() -> str:
        return "small"

    chain = Chain(MockProvider([asks(call("f"), call("F", at=2)), "ok"]))
    done = await run_tools(chain, "hi", tools=[f, tool(lambda: "large", name="F")])
    assert [run.result.text for run in done.runs] == ["small", "large"]


async def test_without_tools_no_choice_among_them_is_sent():
    model = MockProvider(["ok"], default="ok")
    await run_tools(Chain(model), "hi", tools=[], max_steps=2, on_max_steps="answer")
    assert model.requests[0].tool_choice is None


# -- what stands round the loop

PROOFS = {
    "anthropic.messages": Reasoning("hm", signature="PROOF", origin="anthropic.messages"),
    "gemini.generate": Reasoning("", signature="PROOF", origin="gemini.generate"),
    "openai.responses": Reasoning("hm", encrypted="PROOF", origin="openai.responses"),
}


@pytest.mark.parametrize("origin", PROOFS)
async def test_in_mid_loop_another_provider_takes_over_and_is_shown_no_foreign_proof(origin: str):
    async def f() -> int:
        return 1

    said = Message("assistant", [PROOFS[origin], call()], dialect=origin)
    first = Completion(message=said, finish_reason="tool_calls")
    one = MockProvider([first], default=Overloaded("busy"), name="one")
    two = MockProvider([asks(call()), "done"], name="two")
    done = await run_tools(Chain(one, Fallback(two)), "hi", tools=[f])
    assert done.text == "done"
    assert two.requests[-1].messages[1] is said  # kept as it came
    for name in ("anthropic.messages", "gemini.generate", "openai.responses", "openai.chat", "cohere.chat"):
        body = repr(get(name).encode_request(two.requests[-1]))
        assert ("PROOF" in body) is (name == origin)
        assert "hm" not in body or name in (origin, "openai.chat", "openai.responses", "cohere.chat")


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_get_what_redaction_keeps_from_the_model(stream: bool):
    seen: list[str] = []

    async def f(to: str) -> str:
        seen.append(to)
        return f"sent to {to}"

    def ask(request: Any) -> Any:
        hidden = request.messages[0].text.split()[-1]
        return asks(call(arguments=orjson.dumps({"to": hidden}).decode()))

    def answer(request: Any) -> str:
        return str(request.messages[-1].parts[0].text)

    model = MockProvider([ask, answer])
    loop = ToolLoop(Chain(model, Redact(), Coalesce(when="always")), [f])
    if stream:
        async with loop.stream("write to ann@example.com") as run:
            async for _ in run:
                pass
            done = run.result
    else:
        done = await loop.run("write to ann@example.com")
    assert seen == ["ann@example.com"]
    assert done.text == "sent to ann@example.com"
    assert "ann@example.com" not in repr(model.requests)


async def test_a_loop_that_is_run_again_is_answered_from_the_cache_tools_aside():
    async def f() -> int:
        return 1

    model = MockProvider([asks(call()), "done"])
    chain = Chain(model, Cache())
    for _ in range(2):
        done = await run_tools(chain, "hi", tools=[f], temperature=0)
        assert (done.text, len(done.runs)) == ("done", 1)
    assert len(model.requests) == 2


# -- cancelled anywhere


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_every_moment_nothing_is_left(stream: bool):
    async def f() -> str:
        await asyncio.sleep(2)
        return "done"

    async def once(at: float) -> bool:
        model = MockProvider([[Wait(1), *_deltas()], [Wait(1), "a", Wait(1), "b"]])
        loop = ToolLoop(Chain(model), [f])

        async def read() -> None:
            if not stream:
                await loop.run("hi")
                return
            async with loop.stream("hi") as run:
                async for _ in run:
                    pass

        async with no_leaks():
            task = asyncio.create_task(read())
            await asyncio.sleep(at)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
            assert model.open == 0
        return isinstance(ended[0], asyncio.CancelledError)

    cancelled = [await once(at / 2) for at in range(12)]
    assert cancelled[0]
    assert not cancelled[-1]


def _deltas() -> list[Any]:
    from llmpipe.types import Finish, Start, ToolDelta

    return [
        Start("1", "m"),
        ToolDelta(0, "call-1", "f", "{}"),
        ToolDelta(1, "call-2", "f", "{}"),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize("leave_at", range(14))
async def test_a_stream_left_at_any_event_leaves_nothing_and_its_events_stand_in_order(leave_at: int):
    async def f() -> str:
        return "done"

    model = MockProvider([[*_deltas()], "ok then"])
    loop = ToolLoop(Chain(model), [f])
    kinds: list[str] = []
    async with no_leaks():
        async with loop.stream("hi") as run:
            async for event in run:
                kinds.append(type(event).__name__)
                if len(kinds) > leave_at:
                    break
        assert model.open == 0
    order = ["Start", "ToolDelta", "ToolDelta", "Finish", "UsageUpdate", "ToolStart", "ToolStart"]
    order += ["ToolEnd", "ToolEnd", "StepEnd", "Start", "TextDelta", "Finish", "UsageUpdate", "StepEnd"]
    assert kinds == order[: len(kinds)]


# -- hints


class Leg(pydantic.BaseModel):
    to: str


class Trip(pydantic.BaseModel):
    legs: list[Leg]
    nights: int = pydantic.Field(default=1, ge=0)


@attrs.define
class Hidden:
    _name: str
    age: int = attrs.field(default=1, alias="years")


@pytest.mark.parametrize(
    ("hint", "given", "made"),
    [
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (Decimal, 19.99, Decimal("19.99")),
        (Path, "a/b", Path("a/b")),
        (time, "10:30:00", time(10, 30)),
        (Iterable[int], [1, 2], [1, 2]),
        (Collection[Leg], [{"to": "Oslo"}], [Leg(to="Oslo")]),
        (AbstractSet[int], [1, 1, 2], {1, 2}),
        (Iterable, [1], [1]),
        (Mapping, {"a": 1}, {"a": 1}),
        (List, [1], [1]),  # noqa: UP006  people write it
        (tuple, [1, "a"], (1, "a")),
        (set, [1, 2], {1, 2}),
        (Trip, {"legs": [{"to": "Oslo"}]}, Trip(legs=[Leg(to="Oslo")])),
        (list[Trip] | None, [{"legs": []}], [Trip(legs=[])]),
        (Hidden, {"name": "x", "years": 3}, Hidden("x", years=3)),
    ],
)
def test_more_hints_that_people_use_have_a_schema_and_arrive_as_what_they_say(
    hint: Any, given: Any, made: Any
):
    def f(x: Any) -> None: ...

    f.__annotations__["x"] = hint
    function = tool(f)
    assert "$ref" not in orjson.dumps(function.tool.parameters).decode()
    assert function.arguments({"x": given}) == {"x": made}


class Knot(pydantic.BaseModel):
    inner: Knot | None = None


@pytest.mark.parametrize(
    ("hint", "match"),
    [
        (type, "hint type has no JSON Schema"),
        (set[dict[str, int]], "a set cannot hold dict"),
        (frozenset[list[int]], "a set cannot hold list"),
        (set[Hidden], "a set cannot hold Hidden, which has no hash"),
        (Knot, "Knot refers to itself"),
        ("list[", "cannot be read"),
    ],
)
def test_a_hint_that_could_never_be_filled_is_refused_where_the_tool_is_made(hint: Any, match: str):
    def f(x: Any) -> None: ...

    f.__annotations__["x"] = hint
    with pytest.raises(ConfigError, match=match):
        tool(f)


def test_none_as_a_default_is_none_for_the_model_too():
    def f(x: int = None, y: Optional[int] = None, z: Any = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013, UP045

    made = tool(f)
    assert made.arguments({"x": None}) == {"x": None}
    assert made.tool.parameters["properties"]["x"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert made.tool.parameters["properties"]["z"] == {}


def test_what_a_partial_settles_no_model_can_change():
    def delete(path: str, owner: str, force: bool = False) -> None:
        """Delete it."""

    made = tool(functools.partial(functools.partial(delete, owner="me"), force=False))
    assert (made.name, made.tool.description) == ("delete", "Delete it.")
    assert list(made.tool.parameters["properties"]) == ["path"]
    with pytest.raises(WrongArguments, match="owner: is not known here"):
        made.arguments({"path": "x", "owner": "somebody"})


def test_what_a_function_returns_need_not_be_known():
    def f(x: int) -> Elsewhere: ...  # type: ignore[name-defined]  # noqa: F821  that is the test

    assert tool(f).arguments({"x": 1}) == {"x": 1}


def test_a_method_that_is_not_bound_is_refused_with_what_is_right():
    class Shop:
        def buy(self, what: str) -> None: ...

    with pytest.raises(ConfigError, match=r"make a tool of what is bound: tool\(thing.method\)"):
        tool(Shop.buy)


def test_a_generator_is_no_tool():
    def f() -> Any:
        yield 1

    async def g() -> Any:
        yield 1

    for function in (f, g, functools.partial(f)):
        with pytest.raises(ConfigError, match="is a generator"):
            tool(function)
