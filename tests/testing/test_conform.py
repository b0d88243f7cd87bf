"""`conform` lets right middlewares pass, and catches each wrong one by the law it breaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from llmpipe.errors import ConfigError, ServiceUnavailable
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import CASES, LAWS, ConformError, conform
from llmpipe.types import EmbeddingRequest, Finish, Request, RerankRequest, TextDelta
from tests.testing.wrong_middlewares import WRONG, in_use

# ------------------------------------------------------------ right ones


@layer(priority=500)
async def returning(call: Call, call_next: Handler):
    return await call_next(call)


@layer(priority=500)
async def yielding(call: Call, call_next: Handler):
    yield await call_next(call)


@frozen
class Limited:
    """One permit, held to the reply's real end; state in the runtime."""

    name: str = "limited"
    priority: int = 500

    async def __call__(self, call: Call, call_next: Handler):
        slots = call.runtime.state("limited", "slots", lambda: asyncio.Semaphore(1))
        async with slots:
            yield await call_next(call)


@frozen
class Again:
    """Tries three times, before commit."""

    name: str = "again"
    priority: int = 500

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        for _ in range(2):
            try:
                return await call_next(call)
            except ServiceUnavailable:
                await asyncio.sleep(1)
        return await call_next(call)


@frozen
class Hide:
    """Replaces a word, whatever the chunks are: holds back what could be its beginning."""

    name: str = "hide"
    priority: int = 500

    class Stage:
        word, mask = "jane", "****"

        def __init__(self) -> None:
            self.held = ""

        def feed(self, event: Any) -> list[Any]:
            if type(event) is Finish:
                return [TextDelta(self.held), event]
            if type(event) is not TextDelta:
                return [event]
            text = (self.held + event.text).replace(self.word, self.mask)
            keep = next(n for n in range(len(self.word) - 1, -1, -1) if text.endswith(self.word[:n]))
            self.held = text[len(text) - keep :]
            return [TextDelta(text[: len(text) - keep])]

        def flush(self) -> list[Any]:
            return []

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).pipe(self.Stage())


@frozen
class Race:
    """Two attempts at once; the first to commit wins, and the linker closes the other."""

    name: str = "race"
    priority: int = 500

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        runners = [asyncio.ensure_future(call_next(call)) for _ in range(2)]
        try:
            done, _ = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for runner in runners:
                runner.cancel()
            await asyncio.wait(runners)
            for runner in runners:
                if not runner.cancelled():
                    runner.exception()


@frozen
class Whole:
    """Reads the reply whole, and says so."""

    traits = frozenset({"buffers"})
    name: str = "whole"
    priority: int = 500

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        reply = await call_next(call)
        await reply.full()
        return reply


def permits(runtime: Runtime) -> float:
    slots: Any = runtime.state("limited", "slots", lambda: asyncio.Semaphore(1))
    return slots._value


@pytest.mark.parametrize("right", [returning, yielding, Again, Hide, Race, Whole, Whole()])
async def test_a_right_middleware_passes(right: Any):
    report = await conform(right)
    assert report.calls > 500
    assert report.cancellations > 350


async def test_a_limiter_that_gives_its_permit_back_passes():
    await conform(Limited, balance=permits)


@pytest.mark.parametrize("case", CASES)
async def test_conform_can_be_run_case_by_case(case: str):
    report = await conform(Limited, balance=permits, only=case)
    assert report.calls >= 2


# ------------------------------------------------------------ wrong ones


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_middleware_is_caught_by_the_law_it_breaks(name: str):
    law, make, balance = WRONG[name]
    in_use.clear()
    with pytest.raises(ConformError) as caught:
        await conform(make, balance=balance)
    assert law in caught.value.laws, str(caught.value)
    assert law in str(caught.value)
    assert LAWS[law] in str(caught.value)


def test_every_law_is_broken_by_something():
    assert {law for law, _, _ in WRONG.values()} == set(LAWS)


@pytest.mark.parametrize("name", ["LeaksItsPermitWhenCancelled", "AnswersWhenCancelled", "YieldsTwice"])
async def test_what_an_error_tells_to_run_shows_the_same_again(name: str):
    law, make, balance = WRONG[name]
    in_use.clear()
    with pytest.raises(ConformError) as caught:
        await conform(make, balance=balance, seed=3)
    shown = next(found for found in caught.value.violations if found.law == law)
    assert f'seed=3, only="{shown.case}"' in str(caught.value)
    in_use.clear()
    with pytest.raises(ConformError) as again:
        await conform(make, balance=balance, seed=3, only=shown.case)
    assert law in again.value.laws


async def test_the_same_seed_finds_the_same():
    def found(error: ConformError) -> list[tuple[str, str]]:
        return [(violation.law, violation.case) for violation in error.violations]

    caught: list[ConformError] = []
    for _ in range(2):
        with pytest.raises(ConformError) as error:
            await conform(WRONG["LetsFollowersFallWithTheirLeader"][1], seed=5)
        caught.append(error.value)
    assert found(caught[0]) == found(caught[1])
    assert str(caught[0]) == str(caught[1])


# ------------------------------------------------------------ the door


async def test_the_requests_are_the_callers():
    seen: list[Any] = []

    @layer(priority=500)
    async def look(call: Call, call_next: Handler):
        seen.append(call.request)
        return await call_next(call)

    await conform(look, requests=[Request("mine", "hello")], only="full/ok/read")
    assert {(request.model, request.stream) for request in seen} == {("mine", False)}
    seen.clear()
    await conform(look, requests=[EmbeddingRequest("mine", ["a"])])
    assert {type(request) for request in seen} == {EmbeddingRequest}


async def test_a_case_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="no case begins with 'nothing'"):
        await conform(returning, only="nothing")
    with pytest.raises(ValueError, match="no case 'full/ok/nothing@3'"):
        await conform(returning, only="full/ok/nothing@3")


async def test_a_middleware_that_takes_every_request_for_a_chat_is_caught():
    @layer(priority=500)
    async def last_words(call: Call, call_next: Handler):
        if not isinstance(call.request, EmbeddingRequest):
            assert call.request.messages[-1].text  # a RerankRequest has none
        return await call_next(call)

    with pytest.raises(ConformError, match="has no attribute 'messages'") as caught:
        await conform(last_words)
    assert caught.value.laws[0] == "errors"
    assert {found.case.partition("/")[0] for found in caught.value.violations} == {"rerank"}
    chat: Any = Request("m", "hello")
    await conform(last_words, requests=[chat], only="full/ok/read")
    with pytest.raises(ConformError):
        await conform(last_words, requests=[RerankRequest("m", "q", ("a", "b"))], only="rerank/ok/read")


async def test_places_are_shown_as_seen_from_here_and_elsewhere_by_module(monkeypatch, tmp_path):
    @layer(priority=500)
    async def answers_when_cancelled(call: Call, call_next: Handler):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        return await call_next(call)

    with pytest.raises(ConformError) as caught:
        await conform(answers_when_cancelled, only="full/ok/read")
    told = str(caught.value)
    assert str(Path(__file__).parents[2]) not in told
    here = Path(__file__).relative_to(Path.cwd())
    assert re.search(rf"cancelled at {here}:\d+ \(.*answers_when_cancelled\)", told)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConformError) as caught:
        await conform(answers_when_cancelled, only="full/ok/read")
    assert f"cancelled at {__name__}:" in str(caught.value)


@pytest.mark.real_time
async def test_conform_runs_under_a_loop_in_real_time_too():
    await conform(returning, only="stream/ok")


async def test_several_middlewares_in_one_are_held_to_the_laws_together():
    class Two:
        name, priority = "two", 500

        def rings(self) -> tuple[Any, ...]:
            return (Limited("outer", 400), Limited("inner", 600))

    with pytest.raises(ConformError) as caught:  # the inner waits for the permit that the outer holds
        await conform(Two, only="full/ok")
    assert "ends" in caught.value.laws


def test_laws_have_one_sentence_each():
    assert all(sentence and sentence[0].islower() for sentence in LAWS.values())
    kinds: list[Callable[..., Any]] = [make for _, make, _ in WRONG.values()]
    assert len(set(kinds)) == len(kinds)
