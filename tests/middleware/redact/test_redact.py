"""The middleware: what is sent, what comes back, and what is written down."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import BadReply, ConfigError, LLMError, StreamBroken
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.redact import KINDS, Redact, Scanner
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.lint import lint
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.testing.conform import conform
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Embeddings,
    Finish,
    Message,
    Request,
    ResponseFormat,
    Start,
    Text,
    TextDelta,
    ToolCall,
    Usage,
)

PROMPT = "Write to john.doe@example.com or call +1 415 555 2671."


class Echo:
    """A provider that keeps what it is sent and says it back, whole or letter by letter."""

    name, endpoint, model = "echo", "echo://", "echo-1"

    def __init__(self, say: str = "{}") -> None:
        self.requests: list[Any] = []
        self.say = say

    async def __call__(self, call) -> Reply:
        request = call.request
        self.requests.append(request)
        if isinstance(request, EmbeddingRequest):
            return Reply.of(Embeddings(([0.0],), usage=Usage(1)))
        text = self.say.replace("{}", request.messages[-1].text)
        if not request.stream:
            call_ = ToolCall("1", "mail", '{"to": "' + request.messages[-1].text + '"}')
            return Reply.of(
                Completion("1", "m", Message("assistant", [Text(text), call_]), "stop", Usage(1, 2))
            )

        async def events():
            yield Start("1", "m")
            for char in text:
                yield TextDelta(char)
            yield Finish("stop")

        return Reply.stream(events())


async def ask(chain: Chain, prompt: str = PROMPT, *, stream: bool = False, **options: Any) -> str:
    if not stream:
        return (await chain.complete(prompt, **options)).text
    async with chain.stream(prompt, **options) as reply:
        return "".join([text async for text in reply.texts()])


@pytest.mark.parametrize("stream", [False, True])
async def test_reversible_hides_from_the_provider_and_gives_back(stream):
    echo = Echo()
    assert await ask(Chain(echo, Redact()), stream=stream) == PROMPT
    sent = echo.requests[0].messages[0].text
    assert sent.startswith("Write to [EMAIL_")
    assert "john" not in sent
    assert "415" not in sent


async def test_reversible_gives_back_in_tool_arguments():
    done = await Chain(Echo(), Redact()).complete(PROMPT)
    assert done.tool_calls[0].args == {"to": PROMPT}


async def test_placeholders_are_new_in_each_request():
    echo = Echo()
    chain = Chain(echo, Redact())
    await ask(chain)
    await ask(chain)
    assert echo.requests[0] != echo.requests[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_wire_masks_for_good(stream):
    echo = Echo()
    answer = await ask(Chain(echo, Redact(mode="wire")), stream=stream)
    assert answer == "Write to [EMAIL] or call [PHONE]."
    assert echo.requests[0].messages[0].text == answer


@pytest.mark.parametrize("stream", [False, True])
async def test_log_sends_all_and_counts(stream):
    echo = Echo()
    assert await ask(Chain(echo, Redact(mode="log")), stream=stream) == PROMPT
    assert echo.requests[0].messages[0].text == PROMPT


@pytest.mark.parametrize("mode", ["log", "wire", "reversible"])
async def test_what_was_found_is_noted_by_kind_and_not_by_value(mode):
    chain = Chain(Echo("say {} and ann@example.org"), Redact(mode=mode, output=True))
    call = chain.new_call(Request(messages=PROMPT, metadata={"user": "x@y.org"}))
    await (await chain(call)).full()
    asked, said = call.ledger.notes
    assert asked.kind == "redact.request"
    assert asked.detail == {"mode": mode, "found": {"email": 2, "phone": 1}}
    assert said.kind == "redact.reply"
    assert said.detail["found"]["email"] >= 1
    assert "john" not in repr(call.ledger.notes)
    assert "ann" not in repr(call.ledger.notes)


async def test_a_clean_call_is_noted_nowhere_and_its_request_is_the_same_object():
    echo = Echo()
    chain = Chain(echo, Redact(output=True))
    call = chain.new_call(Request(messages="Why is the sky blue?"))
    await (await chain(call)).full()
    assert call.ledger.notes == []
    assert echo.requests[0] is call.request


@pytest.mark.parametrize("stream", [False, True])
async def test_output_masks_what_the_model_says_of_itself_and_gives_back_what_was_asked(stream):
    chain = Chain(Echo("{} Or write to ann@example.org!"), Redact(output=True))
    assert await ask(chain, stream=stream) == PROMPT + " Or write to [EMAIL]!"


PEM = f"-----BEGIN PRIVATE KEY-----\nMIIE{'vQ1b' * 20}\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", [ResponseFormat("json"), ResponseFormat("json_schema", {"type": "object"})])
async def test_in_a_reply_that_is_json_a_value_comes_back_escaped(stream, form):
    echo = Echo('{"key": "{}", "n": 1}')
    text = await ask(Chain(echo, Redact()), PEM, stream=stream, response_format=form)
    assert "BEGIN" not in echo.requests[0].messages[0].text
    assert json.loads(text) == {"key": PEM, "n": 1}
    plain = await ask(Chain(Echo("{}"), Redact()), PEM, stream=stream, response_format=ResponseFormat())
    assert plain == PEM


async def test_without_output_the_models_words_are_its_own():
    assert await ask(Chain(Echo("ann@example.org"), Redact())) == "ann@example.org"


async def test_embeddings_are_made_of_masked_texts():
    echo = Echo()
    await Chain(echo, Redact(mode="wire")).embed(["a@b.org", "clean"])
    assert echo.requests[0].inputs == ("[EMAIL]", "clean")


@pytest.mark.parametrize("mode", ["log", "wire", "reversible"])
async def test_a_large_request_is_searched_in_a_thread_and_a_small_one_is_not(mode, monkeypatch):
    threads = []

    class Watched(Scanner):
        def scan(self, text, key="", *, json=False):
            threads.append(threading.current_thread() is threading.main_thread())
            return Scanner.scan(self, text, key, json=json)

    redact = Redact(mode=mode, thread_above=1000, output=True)
    object.__setattr__(redact, "_scanner", Watched())
    chain = Chain(Echo(), redact)
    small, large = "a@b.org " * 10, "a@b.org " * 1000
    answer = await ask(chain, small)
    assert set(threads) == {True}
    threads.clear()
    assert len(await ask(chain, large)) == len(answer) * 100
    assert False in threads


async def test_settings_can_be_changed_for_one_call():
    echo = Echo()
    chain = Chain(echo, Redact())
    await ask(chain, options={Redact: {"mode": "log"}})
    assert echo.requests[0].messages[0].text == PROMPT
    await ask(chain, options={Redact: {"kinds": ("phone",), "mode": "wire"}})
    assert echo.requests[1].messages[0].text == "Write to john.doe@example.com or call [PHONE]."


async def test_patterns_of_ones_own():
    echo = Echo()
    await ask(
        Chain(echo, Redact(kinds=[], patterns=[("badge", r"EMP-\d{5}")], mode="wire")), "I am EMP-12345"
    )
    assert echo.requests[0].messages[0].text == "I am [BADGE]"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mode": "wired"}, "log, wire, reversible"),
        ({"kinds": ["emial"]}, "emial"),
        ({"kinds": "email"}, "list"),
        ({"kinds": []}, "nothing to look for"),
        ({"patterns": [("x", "a+")]}, "repeats without end"),
    ],
)
def test_a_wrong_setting_is_refused_at_construction(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        Redact(**settings)


def test_it_is_built_from_configuration():
    built = build("redact", {"mode": "wire", "kinds": ["email"], "patterns": [["badge", "EMP-[0-9]{4}"]]})
    assert built == Redact(mode="wire", kinds=("email",), patterns=(("badge", "EMP-[0-9]{4}"),))


def test_a_copy_with_changes_looks_for_other_things():
    changed = evolve(Redact(), kinds=["phone"])
    assert changed.kinds == ("phone",)
    assert changed._scanner.mask(PROMPT) == "Write to john.doe@example.com or call [PHONE]."
    assert Redact().kinds == KINDS


def test_the_linter_knows_whether_it_masks():
    class Store:
        name, priority, traits = "store", 100, frozenset({"stores"})

    codes = {
        mode: [f.code for f in lint((Store(), Redact(mode=mode)))] for mode in ("log", "wire", "reversible")
    }  # type: ignore[arg-type]
    assert codes["log"] == []
    assert codes["wire"] == codes["reversible"] != []


@pytest.mark.parametrize("thread_above", [0, 65_536])
async def test_what_had_come_of_a_reply_that_failed_is_masked_and_restored_too(thread_above):
    failed: list[Any] = []

    @layer(priority=700)
    async def judge(call, call_next):
        done = await (await call_next(call)).full()
        failed.append(BadReply("no good", partial=done))
        raise failed[0]

    provider = Echo("{} and ann@example.com")
    chain = Chain(provider, Redact(output=True, thread_above=thread_above), judge)
    with pytest.raises(BadReply) as caught:
        await chain.complete(PROMPT)
    assert caught.value is failed[0]
    assert caught.value.partial.text == f"{PROMPT} and [EMAIL]"
    assert "john.doe" not in repr(provider.requests)


async def test_what_had_come_in_the_errors_behind_one_is_masked_and_not_restored():
    @layer(priority=700)
    async def judge(call, call_next):
        done = await (await call_next(call)).full()
        try:
            raise StreamBroken("cut", partial=done)
        except StreamBroken as cause:
            raise BadReply("no good") from cause

    chain = Chain(Echo("{} and ann@example.com"), Redact(output=True), judge)
    with pytest.raises(BadReply) as caught:
        await chain.complete(PROMPT)
    behind = caught.value.__cause__
    assert isinstance(behind, StreamBroken)
    assert behind.partial.text.endswith("]. and [EMAIL]")
    assert "john.doe" not in behind.partial.text  # of two callers each would see the other's


@pytest.mark.parametrize("others", [1, 3])
async def test_of_a_shared_call_that_fails_nobody_sees_what_was_to_be_masked(others):
    class Cut(Echo):
        async def __call__(self, call) -> Reply:
            async def events():
                yield Start("1", "m")
                yield TextDelta("write to ann@example.com, ")
                await asyncio.sleep(1)
                said = Message("assistant", "ann@example.com")
                raise StreamBroken("cut", partial=Completion("1", "m", said, "stop"))

            return Reply.stream(events())

    chain = Chain(Cut(), Redact(output=True), Coalesce())

    async def one() -> LLMError:
        with pytest.raises(LLMError) as caught:
            async with chain.stream("hi") as reply:
                assert "ann@" not in "".join([text async for text in reply.texts()])
        return caught.value

    for error in await asyncio.gather(*[one() for _ in range(1 + others)]):
        seen: BaseException | None = error
        while seen is not None:
            partial = getattr(seen, "partial", None)
            assert partial is None or "ann@" not in repr(partial)
            seen = seen.__cause__


@pytest.mark.parametrize(
    "settings", [{"mode": "log"}, {"mode": "wire", "output": True}, {"output": True}, {"thread_above": 0}]
)
def test_it_keeps_the_laws_of_the_pipeline(settings):
    asyncio.run(conform(lambda: Redact(**settings)))
