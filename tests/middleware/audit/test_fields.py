"""What a record tells of a call is what the log tells of it, whichever way it was made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import Overloaded
from llmpipe.middleware.audit.fields import begin_body, end_body, identity_of
from llmpipe.middleware.log.fields import ended_fields, request_fields
from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.outcome import Outcome
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import (
    Completion,
    Cost,
    EmbeddingRequest,
    Message,
    Request,
    RerankRequest,
    Tool,
    Usage,
)

KEY = "sk-canary0123456789abcdef"
SAID_BY_THE_RECORD = ("event", "call_id", "tenant", "user")

names = st.sampled_from(["", "acme", "jane.doe@example.com", f"has {KEY}", "x" * 150, "y" * 3000, "\ud800"])
numbers = st.none() | st.sampled_from([0, 1, 0.5, 1.0])
tags = st.dictionaries(st.sampled_from(["app", "correlation_id", f"t {KEY}", "z" * 300]), names, max_size=4)
requests = st.one_of(
    st.builds(
        Request,
        model=st.sampled_from(["", "m", "other"]),
        messages=st.sampled_from([(), "hi", [Message("user", "a"), Message("assistant", "b")]]),
        tools=st.sampled_from([(), (Tool("f", "does it"),)]),
        temperature=numbers,
        top_p=numbers,
        max_tokens=numbers,
        seed=numbers,
        frequency_penalty=numbers,
        presence_penalty=numbers,
        stream=st.booleans(),
    ),
    st.builds(EmbeddingRequest, model=st.just("e"), inputs=st.just(("a", "b")), dimensions=numbers),
    st.builds(RerankRequest, query=st.just("q"), documents=st.just(("a",)), top_n=numbers),
)
usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 9),
    output_tokens=st.integers(0, 9),
    cached_input_tokens=st.integers(0, 1),
    cache_write_tokens=st.integers(0, 1),
    reasoning_tokens=st.integers(0, 1),
    source=st.sampled_from(["provider", "estimated"]),
)
charges = st.none() | st.builds(Cost, input_nano=st.integers(0, 10**9), estimated=st.booleans())
results = st.builds(
    Completion,
    model=st.sampled_from(["", "m-2026"]),
    provider=st.just("mock"),
    finish_reason=st.sampled_from([None, "stop"]),
    usage=usages,
    request_id=st.sampled_from(["", "req-1"]),
    charge=charges,
)


def less(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in SAID_BY_THE_RECORD}


def a_call(request: Any, tags: dict[str, str]) -> Call:
    provider: Any = MockProvider(name="mock", model="m")
    runtime = Runtime(seed=1)
    return Call(
        request=request,
        runtime=runtime,
        id="c-1",
        started_at=1.25,
        tags=tags,
        provider=provider,
        ledger=Ledger(),
    )


@given(requests, tags, st.sampled_from([0, 5]))
def test_a_begin_says_what_the_log_says_of_a_request(request: Any, tags: dict[str, str], chars: int) -> None:
    call = a_call(request, tags)
    assert begin_body(call, identity_of(call), chars) == less(request_fields(call, chars))


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    made = []
    for number in range(draw(st.integers(0, 2))):
        attempt = Attempt(number + 1, "mock", "m", Request(), 1.5)
        if draw(st.booleans()):
            status = draw(st.sampled_from(["ok", "abandoned"]))
            attempt.settle(Outcome(status, result=draw(results), committed_at=2.0, ended_at=2.5))
            attempt.charge = draw(charges)
        elif draw(st.booleans()):
            attempt.fail(Overloaded("full"), 2.0)
        made.append(attempt)
    return made


@given(
    requests,
    tags,
    attempts(),
    results,
    st.sampled_from(["ok", "error", "cancelled", "abandoned"]),
    st.floats(1.25, 1e6),
    st.sampled_from([0, 5]),
    st.booleans(),
)
def test_an_end_says_what_the_log_says_of_it(
    request: Any,
    tags: dict[str, str],
    attempts: list[Attempt],
    result: Completion,
    status: Any,
    ended_at: float,
    chars: int,
    begun: bool,
) -> None:
    call = a_call(request, tags)
    call.ledger.attempts += attempts
    error = Overloaded("full") if status == "error" else None
    identity = identity_of(call) if begun else None
    outcome = Outcome(status, error, result, committed_at=ended_at, ended_at=ended_at)
    wanted = less(ended_fields(call, outcome, error, chars))
    said = end_body(call, identity, outcome, error, chars)
    for seconds in ("first_content", "duration"):
        assert said.pop(seconds) == pytest.approx(wanted.pop(seconds), abs=1e-6)
    assert said == wanted


@pytest.mark.parametrize("model", ["m", "m-2026"])
@pytest.mark.parametrize("provider", ["mock", "other"])
@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("attempted", [False, True])
async def test_an_end_names_who_has_answered_and_what_happened(
    model: str, provider: str, noted: bool, attempted: bool
) -> None:
    call = a_call(Request(messages="hi"), {"app": "shop"})
    outcome = Outcome(result=Completion(model=model, provider=provider), committed_at=2.0, ended_at=3.0)
    if attempted:
        call.ledger.attempts.append(Attempt(1, provider, "m", call.request, 1.5))
        call.ledger.attempts[0].settle(outcome)
    if noted:
        call.note("cache.hit")
    said = end_body(call, identity_of(call), outcome, None, 0)
    assert said == less(ended_fields(call, outcome, None))
    assert (said["provider"], said["model"]) == (provider, model)
    assert ("notes" in said) == noted


async def test_a_call_that_had_no_reply_is_told_as_in_the_log() -> None:
    call, error = a_call(Request(messages="hi"), {}), Overloaded("full")
    call.ledger.attempts.append(Attempt(1, "mock", "m", call.request, 1.5))
    call.ledger.attempts[0].fail(error, 2.0)
    said = end_body(call, identity_of(call), None, error, 0)
    assert said == less(ended_fields(call, None, error, 0))
    assert said["error"]["class"] == "Overloaded"
