"""Hooks: plain functions at the four moments of a call."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from llmpipe.errors import BadReply, ConfigError, InvalidRequest, Overloaded, StreamBroken
from llmpipe.middleware.hooks import Hooks
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Completion, Message, Request, TextDelta, ToolDelta


def said(text: str) -> Completion:
    return Completion(message=Message("assistant", text), finish_reason="stop")


async def read(chain: Chain, prompt: str = "hi") -> str:
    async with chain.stream(prompt) as reply:
        return "".join([text async for text in reply.texts()])


def recording(name: str, priority: int, seen: list[str]) -> Hooks:
    return Hooks(
        on_request=lambda call: seen.append(f"{name} request"),
        on_response=lambda done, call: seen.append(f"{name} response"),
        on_error=lambda error, call: seen.append(f"{name} {type(error).__name__}"),
        name=name,
        priority=priority,
    )


def three(seen: list[str], provider: MockProvider) -> Chain:
    return Chain(provider, recording("b", 320, seen), recording("c", 330, seen), recording("a", 310, seen))


FORTH = ["a request", "b request", "c request"]
BACK = ["c response", "b response", "a response"]


async def test_requests_go_in_ascending_priority_and_full_responses_come_back_in_descending():
    seen: list[str] = []
    await three(seen, MockProvider(["ok"])).complete("hi")
    assert seen == FORTH + BACK


async def test_responses_of_a_stream_come_in_descending_priority_when_it_is_over():
    seen: list[str] = []
    async with three(seen, MockProvider([["one", "two"]])).stream("hi") as reply:
        async for _ in reply:
            assert seen == FORTH
    assert seen == FORTH + BACK


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_commit_is_seen_by_every_hook_outside_it_innermost_first(stream: bool):
    seen: list[str] = []
    chain = three(seen, MockProvider([Overloaded("busy")]))
    with pytest.raises(Overloaded):
        await (read(chain) if stream else chain.complete("hi"))
    assert seen == [*FORTH, "c Overloaded", "b Overloaded", "a Overloaded"]


async def test_a_stream_that_breaks_after_commit_is_seen_by_every_hook_and_is_no_response():
    seen: list[str] = []
    chain = three(seen, MockProvider([["one", StreamBroken("cut")]]))
    with pytest.raises(StreamBroken):
        await read(chain)
    assert seen == [*FORTH, "c StreamBroken", "b StreamBroken", "a StreamBroken"]


async def test_what_on_request_raises_is_seen_only_by_the_hooks_outside_it():
    seen: list[str] = []

    def refuse(call):
        raise InvalidRequest("no", sent=False)

    provider = MockProvider()
    chain = Chain(
        provider,
        recording("a", 310, seen),
        recording("b", 320, seen),
        Hooks(
            on_request=refuse, on_error=lambda error, call: seen.append("own"), name="refuse", priority=325
        ),
        recording("c", 330, seen),
    )
    with pytest.raises(InvalidRequest):
        await chain.complete("hi")
    assert seen == ["a request", "b request", "b InvalidRequest", "a InvalidRequest"]
    assert provider.requests == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_on_request_may_give_back_a_request_or_a_call(asynchronous: bool):
    def shorter(call):
        return evolve(call.request, max_tokens=5)

    def tagged(call):
        return call.evolve(tags={"team": "blue"})

    async def shorter_async(call):
        await asyncio.sleep(1)
        return shorter(call)

    tags = []
    provider = MockProvider(["ok"])
    await Chain(
        provider,
        Hooks(on_request=shorter_async if asynchronous else shorter, name="one"),
        Hooks(on_request=tagged, name="two"),
        Hooks(on_request=lambda call: tags.append(call.tags), name="three"),
    ).complete("hi")
    assert provider.requests[0].max_tokens == 5
    assert tags == [{"team": "blue"}]


@pytest.mark.parametrize("stream", [False, True])
async def test_on_chunk_changes_drops_and_adds_events_of_full_and_streamed_replies_alike(stream: bool):
    def shout(event):
        if type(event) is TextDelta:
            if event.text == "drop":
                return ()
            if event.text == "twice":
                return [event, event]
            if event.text == "shout":
                return TextDelta("SHOUT", event.index)
        return None

    line = ["keep ", "drop", "twice", "shout"]
    chain = Chain(MockProvider([line]), Hooks(on_chunk=shout))
    if stream:
        assert await read(chain) == "keep twicetwiceSHOUT"
    else:  # one part of a full reply is one event
        parts = Completion(message=Message("assistant", "shout"), finish_reason="stop")
        chain = Chain(MockProvider([parts]), Hooks(on_chunk=shout))
        assert (await chain.complete("hi")).text == "SHOUT"


async def test_on_chunk_sees_tool_calls_too():
    kinds: list[type] = []
    chain = Chain(
        MockProvider([[ToolDelta(0, "id", "f", "{}")]]),
        Hooks(on_chunk=lambda event: kinds.append(type(event))),
    )
    await chain.complete("hi")
    assert ToolDelta in kinds


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_completion_that_on_response_gives_back_replaces_a_full_reply(asynchronous: bool):
    async def slowly(done, call):
        await asyncio.sleep(1)
        return said(done.text + "!")

    def at_once(done, call):
        return said(done.text + "!")

    outer: list[str] = []
    chain = Chain(
        MockProvider(["ok"]),
        Hooks(on_response=slowly if asynchronous else at_once),
        Hooks(on_response=lambda done, call: outer.append(done.text), name="outer", priority=100),
    )
    assert (await chain.complete("hi")).text == "ok!"
    assert outer == ["ok!"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_of_a_stream_it_replaces_what_full_and_outer_layers_get_and_no_event(asynchronous: bool):
    async def slowly(done, call):
        await asyncio.sleep(1)
        return said(done.text + "!")

    def at_once(done, call):
        return said(done.text + "!")

    outer: list[str] = []
    chain = Chain(
        MockProvider(default=["o", "k"]),
        Hooks(on_response=slowly if asynchronous else at_once),
        Hooks(on_response=lambda done, call: outer.append(done.text), name="outer", priority=100),
    )
    assert await read(chain) == "ok"
    async with chain.stream("hi") as reply:
        assert isinstance(done := await reply.full(), Completion)
        assert done.text == "ok!"
    assert outer == ["ok!", "ok!"]


async def test_on_response_runs_exactly_once_however_often_the_completion_is_asked_for():
    runs: list[str] = []
    chain = Chain(MockProvider([["a", "b"]]), Hooks(on_response=lambda done, call: runs.append(done.text)))
    async with chain.stream("hi") as reply:
        await reply.full()
        await reply.full()
        assert isinstance(reply.completion, Completion)
    assert runs == ["ab"]


@pytest.mark.parametrize("how", ["abandoned", "cancelled"])
async def test_a_call_that_was_cancelled_or_abandoned_is_neither_response_nor_error(how: str):
    seen: list[str] = []
    chain = three(seen, MockProvider([["one", Wait(5), "two"]]))
    if how == "abandoned":
        async with chain.stream("hi") as reply:
            await reply.__anext__()
    else:
        task = asyncio.create_task(read(chain))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen == FORTH


async def test_cancellation_before_commit_reaches_no_hook():
    seen: list[str] = []
    chain = three(seen, MockProvider([[Wait(5), "late"]]))
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == FORTH


async def test_an_async_on_error_is_awaited_before_and_after_commit():
    seen: list[str] = []

    async def on_error(error, call):
        await asyncio.sleep(1)
        seen.append(type(error).__name__)

    chain = Chain(MockProvider([Overloaded("busy"), ["a", StreamBroken("cut")]]), Hooks(on_error=on_error))
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    with pytest.raises(StreamBroken):
        await read(chain)
    assert seen == ["Overloaded", "StreamBroken"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_on_chunk_fails_the_call_and_its_own_on_error_sees_it(stream: bool):
    seen: list[str] = []

    def broken(event):
        raise BadReply("not what I wanted")

    chain = Chain(
        MockProvider(["ok"]),
        Hooks(on_chunk=broken, on_error=lambda error, call: seen.append(type(error).__name__)),
    )
    with pytest.raises(BadReply):
        await (read(chain) if stream else chain.complete("hi"))
    assert seen == ["BadReply"]


async def test_a_failing_on_response_fails_a_full_call_and_is_reported_for_a_stream(caplog):
    def broken(done, call):
        raise RuntimeError("bug in the hook")

    chain = Chain(MockProvider(default=["a", "b"]), Hooks(on_response=broken))
    with pytest.raises(RuntimeError, match="bug in the hook"):
        await Chain(MockProvider(["ok"]), Hooks(on_response=broken)).complete("hi")
    assert await read(chain) == "ab"
    assert "bug in the hook" in caplog.text


async def test_a_plain_function_that_gives_back_an_awaitable_at_the_end_is_told_to_be_async(caplog):
    async def later(done, call):
        """Never runs: nobody can wait for it there."""

    chain = Chain(MockProvider([["a"]]), Hooks(on_response=lambda done, call: later(done, call)))
    assert await read(chain) == "a"
    assert "write it with `async def`" in caplog.text


async def test_what_is_no_request_and_no_completion_is_told_by_the_name_of_the_hook():
    with pytest.raises(TypeError, match="on_request gives a Request, a Call or None back, not a str"):
        await Chain(MockProvider(default="ok"), Hooks(on_request=lambda call: "hi")).complete("hi")
    provider = MockProvider(default="ok")
    with pytest.raises(TypeError, match="on_response gives a Completion or None back, not a str"):
        await Chain(provider, Hooks(on_response=lambda done, call: "hi")).complete("hi")
    assert provider.open == 0


async def test_embeddings_pass_all_hooks_but_on_chunk():
    seen: list[str] = []
    chain = Chain(
        MockProvider(["vectors"]),
        Hooks(
            on_request=lambda call: seen.append("request"),
            on_chunk=lambda event: seen.append("chunk"),
            on_response=lambda done, call: seen.append(type(done).__name__),
        ),
    )
    assert (await chain.embed("hi")).vectors
    assert seen == ["request", "Embeddings"]


async def test_options_of_a_call_change_the_hooks_for_it():
    seen: list[str] = []

    async def noted(done, call):
        seen.append("changed")

    hooks = Hooks(on_response=lambda done, call: seen.append("usual"))
    chain = Chain(MockProvider(default="ok"), hooks)
    await chain.complete("hi")
    await chain.complete("hi", options={Hooks: {"on_response": noted}})
    assert seen == ["usual", "changed"]


async def test_an_object_with_the_methods_is_made_into_hooks():
    class Audit:
        name = "audit"
        priority = 150

        def __init__(self):
            self.seen: list[str] = []

        def on_request(self, call):
            self.seen.append("request")

        async def on_response(self, done, call):
            self.seen.append(done.text)

    audit = Audit()
    hooks = Hooks.of(audit)
    assert (hooks.name, hooks.priority) == ("audit", 150)
    await Chain(MockProvider(["ok"]), hooks).complete("hi")
    assert audit.seen == ["request", "ok"]
    with pytest.raises(ConfigError, match="none of on_request"):
        Hooks.of(object())


def test_a_hook_that_is_no_function_and_an_async_on_chunk_are_refused():
    async def chunk(event):
        return event

    with pytest.raises(ConfigError, match="on_error is a function, not a str"):
        Hooks(on_error="log")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ConfigError, match="on_chunk runs for every chunk"):
        Hooks(on_chunk=chunk)  # type: ignore[arg-type]  # the point of the test


async def test_no_hook_leaves_a_reply_as_it_is():
    chain = Chain(MockProvider(["ok"]), Hooks())
    reply = await chain(chain.new_call(Request("m", "hi")))
    assert isinstance(reply, Reply)
    assert (await reply.full()).text == "ok"  # type: ignore[union-attr]  # a chat reply
