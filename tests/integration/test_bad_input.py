"""What callers, settings and providers get wrong, through the whole production chain.

Each gets one typed error that says what was wrong, where, and what would be right; and a connection whose
framing is in doubt carries no second request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from llmpipe.config import presets
from llmpipe.config.load import load_chain
from llmpipe.errors import (
    BadReply,
    ConfigError,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    Overloaded,
    StreamBroken,
)
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline import registry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Completion, Request, ToolCall
from tests.providers.kit import (
    BODY,
    EVENTS,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    chunked,
    response,
    serving,
    sse,
)

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HELLO = Request(messages="hi")


# ------------------------------------------------------------ callers and settings


def production(**replace: Any) -> Chain:
    return Chain(MockProvider(default="fine"), *presets.production(**replace))


def chain_file(folder: Any, text: str) -> Chain:
    path = folder / "chain.toml"
    path.write_text(text)
    return load_chain(path)


WRONG_CALLS: dict[str, tuple[Callable[[Chain], Any], type[LLMError | ConfigError], str]] = {
    "an unknown keyword": (lambda c: c.complete("hi", temprature=0), ConfigError, "'temprature'.*takes"),
    "a temperature of 9": (lambda c: c.complete("hi", temperature=9.0), InvalidRequest, "temperature.*9"),
    "no tokens": (lambda c: c.complete("hi", max_tokens=0), InvalidRequest, "max_tokens.*0"),
    "no messages": (lambda c: c.complete([]), InvalidRequest, "messages"),
    "an unknown layer to skip": (lambda c: c.complete("hi", without=["retri"]), ConfigError, "'retri'"),
    "nothing to embed": (lambda c: c.embed([]), InvalidRequest, "at least one input"),
}


@pytest.mark.parametrize("wrong", WRONG_CALLS)
async def test_a_wrong_argument_is_one_error_and_nothing_is_sent(wrong: str):
    ask, kind, says = WRONG_CALLS[wrong]
    chain = production()
    core: Any = chain.provider
    with pytest.raises(kind, match=says):
        await ask(chain)
    assert core.requests == []
    assert (await chain.complete("hi")).text == "fine"


def test_an_unknown_middleware_is_told_with_the_nearest_and_the_known(tmp_path):
    for ask in (
        lambda: registry.get("retyr"),
        lambda: registry.build("retyr", {}),
        lambda: chain_file(tmp_path, '[provider]\nuse = "mock"\n[[middleware]]\nuse = "retyr"\n'),
        lambda: presets.production(retyr=Retry()),
    ):
        with pytest.raises(ConfigError, match=r"'retyr'[^?]*(?:known|takes)?.*did you mean 'retry'\?"):
            ask()


def test_two_middlewares_of_one_name_are_told_with_what_to_do(tmp_path):
    twice = '[provider]\nuse = "mock"\n[[middleware]]\nuse = "retry"\n[[middleware]]\nuse = "retry"\n'
    for ask in (
        lambda: Chain(MockProvider(), Retry(), Retry()),
        lambda: production().use(Retry()),
        lambda: chain_file(tmp_path, twice),
    ):
        with pytest.raises(ConfigError, match=r"'retry'.*another name"):
            ask()


def test_a_wrong_setting_is_told_with_its_place_and_what_would_be_right(tmp_path):
    text = '[provider]\nuse = "mock"\n[[middleware]]\nuse = "retry"\nattempts = "four"\nbse = 1\n'
    with pytest.raises(ConfigError, match=r"chain\.toml.*middleware\[0\].*'bse'.*'base'"):
        chain_file(tmp_path, text)
    with pytest.raises(ConfigError, match=r"chain\.toml.*middleware\[0\].*expected int, not str.*attempts"):
        chain_file(tmp_path, text.replace("bse = 1\n", ""))


def test_arguments_of_a_tool_that_are_no_json_are_one_error():
    for arguments in ("{not json", DEEP.decode(), '"text"', ""):
        call = ToolCall("c1", "weather", arguments)
        if arguments:
            with pytest.raises(LLMError, match="weather"):
                _ = call.args


# ------------------------------------------------------------ providers

Fake = tuple[bytes, bool, type[LLMError], str, bool]
"""Bytes of the first answer, whether a stream is asked for, the error, what it says, and whether the
connection is used again."""


def events(*last: bytes) -> bytes:
    return STREAM_HEAD + b"".join(map(chunked, (*EVENTS[:2], *last)))


BUSY = orjson.dumps({"error": {"message": "busy", "type": "overloaded_error"}})
LONG = orjson.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}})
HUGE = b"".join(chunked(b"x" * 2**20) for _ in range(64))

ANSWERS: dict[str, Fake] = {
    "no JSON": (response(b"<html>oops</html>"), False, BadReply, "not JSON.*begins '<html>oops", True),
    "half of the JSON": (response(BODY[:-9]), False, BadReply, "not JSON.*at character", True),
    "an array": (response(b"[]"), False, BadReply, "list, not an object", True),
    "100,000 levels": (response(DEEP), False, BadReply, "not JSON.*nest|recursion|depth", True),
    "a page": (response(b"<html>", kind="text/html"), False, BadReply, "expected JSON.*text/html", True),
    "a 200 with an error": (response(BUSY), False, Overloaded, "busy", True),
    "a 200 with another": (response(LONG), False, ContextTooLong, "too long", True),
    "a body cut short": (response(BODY)[:-9], False, StreamBroken, "ended in the middle", False),
    "two replies": (response(BODY[:-9]) + response(BODY), False, BadReply, "not JSON", False),
    "a line of 64 MiB": (events() + chunked(b"data: ") + HUGE, True, BadReply, "larger than the", False),
    "an event that is no JSON": (events(b"data: {oops\n\n"), True, BadReply, "not JSON.*'{oops", False),
    "an event of 100,000 levels": (events(b"data: " + DEEP + b"\n\n"), True, BadReply, "not JSON", False),
    "an error event": (events(b"data: " + BUSY + b"\n\n") + LAST_CHUNK, True, Overloaded, "busy", False),
    "no end of its own": (events() + LAST_CHUNK, True, StreamBroken, "before its end", False),
    "no end at all": (events(), True, StreamBroken, "ended in the middle", False),
    "no finish": (
        events(sse({"id": "c1", "choices": []})) + LAST_CHUNK, True, StreamBroken, "before its end", False,
    ),
}  # fmt: skip


@pytest.mark.real_time  # 64 MiB take their time
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_bad_answer_is_one_typed_error_and_a_doubtful_connection_is_not_used_again(answer: str):
    data, stream, kind, says, again = ANSWERS[answer]
    hang_up = kind is StreamBroken and not again

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        if number > 1:
            await peer.send(response())
            return
        await peer.send(data)
        if hang_up:
            return
        await peer.request()  # comes only where the connection is used again
        await peer.send(response())

    async with serving(script) as server:
        core: Any = provider("openai", api_key="sk-test", base_url=server.url, model="gpt-4o-mini")
        layers = presets.production(retry=Retry(attempts=1), cache=None)
        async with Chain(core, *layers) as chain:
            with pytest.raises(LLMError) as caught:
                await ask(chain, stream)
            assert core.connections_in_use == 0
            assert (await chain.complete("and now?")).text == "Hello there."
            assert server.connections == (1 if again else 2)
    error = caught.value
    assert type(error) is kind, error
    assert re.search(says, error.message), error.message
    assert len(error.message) < 1000
    assert (error.provider, error.model, error.attempt) == ("openai", "gpt-4o-mini", 1)
    assert error.phase in ("headers", "body", "stream")
    assert error.sent
    if stream:
        assert isinstance(error.partial, Completion)
        assert error.partial.text in ("", "Hel")


async def ask(chain: Chain, stream: bool) -> None:
    if not stream:
        await chain.complete(HELLO)
        return
    async with chain.stream(HELLO) as reply:
        await reply.full()
