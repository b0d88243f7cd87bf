"""A target that fails in the middle, over real sockets: what the caller sees under each commit policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmpipe.errors import BadReply, FirstTokenTimeout, IdleTimeout, LLMError, Overloaded, StreamBroken
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.testing import no_leaks
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Completion, Event, Finish, Message, Request, TextDelta

pytestmark = pytest.mark.real_time

WORDS = "The rain falls on the hills and on the town, and nobody minds it very much at all."
FAULTS: dict[str, tuple[Fault, type[LLMError]]] = {
    "dies": (Fault(cut_after=4), StreamBroken),
    "is reset": (Fault(reset_after=4), StreamBroken),
    "ends too soon": (Fault(unfinished=True), StreamBroken),
    "sends a bad line": (Fault(malformed_after=4), BadReply),
    "says it is full": (Fault(error_after=4), Overloaded),
    "stalls": (Fault(between_delay=1.0), IdleTimeout),
}
POLICIES = {
    "first_token": Commit(),
    "events": Commit(events=30),
    "seconds": Commit(seconds=20.0),
    "chars": Commit(chars=1000),
    "whole": Commit(policy="whole"),
}
LIMITS = Timeout(first=5.0, idle=0.3, total=20.0)


def answer(request: Request) -> Completion:
    """Always the same words, of which an assistant's beginning is not said again."""
    last = request.messages[-1]
    said = last.text if last.role == "assistant" else ""
    assert WORDS.startswith(said)
    return Completion(message=Message("assistant", WORDS[len(said) :]), finish_reason="stop")


@asynccontextmanager
async def targets(fault: Fault) -> AsyncIterator[tuple[Any, Any, Simulator]]:
    """One that always fails in this way, one that is well, and the simulator of the latter."""
    async with (
        Simulator([Rule(fault)], answer=answer, chunk_chars=6) as ill,
        Simulator(answer=answer, chunk_chars=6) as well,
    ):
        bad: Any = provider("openai", api_key="sk-test", base_url=f"{ill.url}/v1", model="gpt-4o-mini")
        good: Any = provider(
            "anthropic", api_key="sk-test", base_url=f"{well.url}/v1", model="claude-haiku-4-5"
        )
        yield bad, good, well
        assert bad.connections_in_use == good.connections_in_use == 0


async def read(chain: Chain) -> tuple[list[Event], Any]:
    """The events of one stream, and the error it ends in."""
    events: list[Event] = []
    try:
        async with chain.stream("Tell me of the rain.") as reply:
            async for event in reply:
                events.append(event)
    except LLMError as error:
        return events, error
    return events, None


def text(events: list[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, TextDelta)])


def finishes(events: list[Event]) -> int:
    return sum(isinstance(event, Finish) for event in events)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_stream_is_whole_or_one_typed_error_with_what_came(policy: str, fault: str):
    """Held for longer than the fault takes it is replaced; else nothing passes for a success."""
    async with (
        no_leaks(),
        targets(FAULTS[fault][0]) as (bad, good, _),
        Chain(bad, Fallback(good), Retry(attempts=1), POLICIES[policy], LIMITS) as chain,
    ):
        events, error = await read(chain)
    if policy == "first_token":
        assert type(error) is FAULTS[fault][1]
        assert WORDS.startswith(text(events))
        assert error.partial.text == text(events) != ""
        assert error.partial.finish_reason is None
        assert finishes(events) == 0
    else:
        assert error is None
        assert text(events) == WORDS
        assert finishes(events) == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_committed_stream_goes_on_with_a_target_that_can(fault: str):
    async with no_leaks(), targets(FAULTS[fault][0]) as (bad, good, well):
        async with Chain(bad, Continue(good), Retry(attempts=1), LIMITS) as chain:
            events, error = await read(chain)
        assert error is None
        assert text(events) == WORDS
        assert finishes(events) == 1
        assert [entry.end for entry in well.book.entries] == ["ok"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "fault", [Fault(cut_at=40), Fault(reset_at=40), Fault(error_body=True), Fault(body=b"{", status=200)]
)
async def test_a_full_reply_is_whole_whatever_the_policy(policy: str, fault: Fault):
    async with no_leaks(), targets(fault) as (bad, good, _):
        async with Chain(bad, Fallback(good), Retry(attempts=1), POLICIES[policy], LIMITS) as chain:
            assert (await chain.complete("Tell me of the rain.")).text == WORDS
        async with Chain(bad, Retry(attempts=1), POLICIES[policy], LIMITS) as chain:
            with pytest.raises(LLMError) as caught:
                await chain.complete("Tell me of the rain.")
            assert caught.value.partial is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_target_that_begins_late_is_one_for_the_attempts_timer(policy: str, stream: bool):
    fault = Fault(first_delay=20.0)
    hasty = Timeout(first=0.2, idle=10.0, total=20.0)
    async with no_leaks(), targets(fault) as (bad, good, _):
        async with Chain(bad, Fallback(good), Retry(attempts=1), POLICIES[policy], hasty) as chain:
            if stream:
                events, error = await read(chain)
                assert (text(events), error) == (WORDS, None)
            else:
                assert (await chain.complete("Tell me of the rain.")).text == WORDS
        async with Chain(bad, Retry(attempts=1), POLICIES[policy], hasty) as chain:
            with pytest.raises(FirstTokenTimeout):
                async with chain.stream("Tell me of the rain."):
                    pass
