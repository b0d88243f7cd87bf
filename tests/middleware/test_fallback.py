"""Fallback to other targets."""

from __future__ import annotations

import asyncio
import math

import pytest
from attrs import evolve

from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    ConfigError,
    ContentFiltered,
    ContextTooLong,
    DeadlineExceeded,
    InvalidRequest,
    LimitReached,
    LLMError,
    ModelNotFound,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StreamBroken,
    Timeout,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import Request


def now() -> float:
    return asyncio.get_running_loop().time()


def target(name: str, *script, default=None) -> MockProvider:
    return MockProvider(script, default=default, name=name, model=f"{name}-1")


def chain(*targets: MockProvider | Chain, layers=(), runtime: Runtime | None = None, **settings) -> Chain:
    own, *others = targets
    return Chain(own, Fallback(*others, **settings), *layers, runtime=runtime or Runtime(seed=1))


async def ask(it: Chain, *, stream: bool = False, **options):
    """What one call comes to, a text or an error, and the call."""
    call = it.new_call(Request("", "hi", stream=stream), **options)
    try:
        reply = await it(call)
        return (await reply.full()).text, call
    except LLMError as error:
        return error, call


def notes(call) -> list[tuple]:
    return [(note.kind.removeprefix("fallback."), *note.detail.values()) for note in call.ledger.notes]


# -- who answers


async def test_while_its_own_target_answers_the_others_are_not_asked():
    own, other = target("own", "mine"), target("other")
    said, call = await ask(chain(own, other))
    assert (said, notes(call), other.requests) == ("mine", [], [])


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_target_answers_where_one_fails(stream: bool):
    own, other = target("own", Overloaded("down")), target("other", "theirs")
    said, call = await ask(chain(own, other), stream=stream)
    assert said == "theirs"
    assert notes(call) == [("switched", "own/own-1", "other/other-1", "SERVICE_UNAVAILABLE")]
    assert [attempt.provider for attempt in call.ledger.attempts] == ["own", "other"]


async def test_the_targets_are_asked_in_order_until_one_answers():
    targets = [target("a", Overloaded("1")), target("b", Timeout("2")), target("c", "yes"), target("d")]
    said, call = await ask(chain(*targets))
    assert said == "yes"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["a", "b", "c"]


async def test_each_alternative_answers_with_its_own_model_and_the_first_with_the_callers():
    own, other = target("own", Overloaded("down")), target("other", "theirs")
    await chain(own, other).complete("hi", model="big")
    assert [request.model for request in own.requests + other.requests] == ["big", "other-1"]


async def test_an_alternative_without_a_model_gets_the_callers():
    own = target("own", Overloaded("down"))
    other = MockProvider(["theirs"], name="other", model="")
    await chain(own, other).complete("hi", model="big")
    assert other.requests[0].model == "big"


async def test_embeddings_fall_back_too():
    own, other = target("own", Overloaded("down")), target("other", "vectors")
    done = await chain(own, other).embed(["a", "b"])
    assert (len(done.vectors), done.model) == (2, "other-1")


async def test_a_stream_that_has_begun_is_not_continued_by_another_target():
    own, other = target("own", ["a", StreamBroken("cut")]), target("other", "theirs")
    said, _ = await ask(chain(own, other), stream=True)
    assert isinstance(said, StreamBroken)
    assert other.requests == []


async def test_a_stream_that_fails_before_its_first_content_is():
    own, other = target("own", [Wait(1), StreamBroken("cut")]), target("other", ["th", "eirs"])
    said, _ = await ask(chain(own, other), stream=True)
    assert said == "theirs"


async def test_a_target_chosen_further_out_comes_first():
    own, chosen, other = target("own"), target("chosen", Overloaded("down")), target("other", "theirs")
    it = chain(own, other)
    call = it.new_call(Request("", "hi")).evolve(target=chosen)
    assert (await (await it(call)).full()).text == "theirs"
    assert (len(chosen.requests), own.requests) == (1, [])


async def test_an_alternative_that_is_the_chosen_target_is_not_asked_again():
    own, other = target("own"), target("other", default=Overloaded("down"))
    it = chain(own, other)
    with pytest.raises(Overloaded):
        await it(it.new_call(Request("", "hi")).evolve(target=other))
    assert len(other.requests) == 1


async def test_alternatives_run_through_the_inner_chain():
    seen: list[str] = []

    @layer(priority=900, name="inner")
    async def inner(call, call_next):
        seen.append(call.target_key[0])
        return await call_next(call)

    await ask(chain(target("own", Overloaded("down")), target("other", "ok"), layers=[inner]))
    assert seen == ["own", "other"]


async def test_a_chain_as_alternative_is_asked_directly_and_brings_its_own():
    seen: list[tuple[str, str]] = []

    def spy(name: str):
        @layer(priority=900, name=name)
        async def spying(call, call_next):
            seen.append((name, call.target_key[2]))
            return await call_next(call)

        return spying

    other = Chain(target("other", Overloaded("busy"), "theirs"), Retry(), spy("theirs"))
    said, call = await ask(chain(target("own", Overloaded("down")), other, layers=[spy("ours")]))
    assert said == "theirs"
    assert seen == [("ours", "own-1"), ("theirs", "other-1"), ("theirs", "other-1")]
    assert [attempt.provider for attempt in call.ledger.attempts] == ["own", "other", "other"]


async def test_a_chain_of_chains_as_alternative_is_asked_to_its_core():
    core = target("core", "deep")
    said, _ = await ask(chain(target("own", Overloaded("down")), Chain(Chain(core))))
    assert said == "deep"


async def test_spare_is_said_while_another_target_stands_ready_and_not_for_the_last():
    spare: list[bool] = []

    @layer(priority=700, name="watch")
    async def watch(call, call_next):
        spare.append(call.spare)
        return await call_next(call)

    down = Overloaded("down")
    it = chain(
        target("a", default=down), target("b", default=down), target("c", default=down), layers=[watch]
    )
    await ask(it)
    assert spare == [True, True, False]
    spare.clear()
    with pytest.raises(Overloaded):
        await it(it.new_call(Request("", "hi")).evolve(spare=True))
    assert spare == [True, True, True]


async def test_nobody_waits_for_a_target_while_another_stands_ready():
    own, other = target("own", RateLimited("slow down", retry_after=40)), target("other", "theirs")
    said, _ = await ask(chain(own, other, layers=[Retry()]))
    assert (said, now()) == ("theirs", 0.0)


async def test_the_last_target_is_retried():
    own = target("own", default=Overloaded("down"))
    other = target("other", Overloaded("busy"), Overloaded("busy"), "at last")
    said, call = await ask(chain(own, other, layers=[Retry()]))
    assert said == "at last"
    assert len(call.ledger.attempts) == 4


# -- which errors go on


@pytest.mark.parametrize(
    ("error", "settings", "goes_on"),
    [
        (Overloaded("x"), {}, True),
        (LimitReached("x"), {}, True),
        (AuthenticationFailed("x"), {}, True),
        (QuotaExceeded("x"), {}, True),
        (ContextTooLong("x"), {}, True),
        (ContextTooLong("x"), {"on_context": False}, False),
        (ContentFiltered("x"), {}, False),
        (ContentFiltered("x"), {"on_policy": True}, True),
        (InvalidRequest("x"), {}, False),
        (InvalidRequest("x"), {"on_policy": True}, False),
        (DeadlineExceeded("x"), {}, False),
    ],
)
async def test_each_error_says_whether_another_target_could_help(error: LLMError, settings, goes_on: bool):
    said, _ = await ask(chain(target("own", error), target("other", "theirs"), **settings))
    assert said == ("theirs" if goes_on else error)


async def test_one_call_can_ask_for_more_than_the_others():
    it = chain(target("own", default=ContentFiltered("no")), target("other", default="theirs"))
    assert isinstance((await ask(it))[0], ContentFiltered)
    assert (await ask(it, options={Fallback: {"on_policy": True}}))[0] == "theirs"


async def test_an_alternative_that_alone_finds_the_request_wrong_does_not_end_it():
    targets = [target("a", Overloaded("1")), target("b", ModelNotFound("2")), target("c", "yes")]
    assert (await ask(chain(*targets)))[0] == "yes"


async def test_an_alternative_whose_policy_refuses_does():
    refused = ContentFiltered("no")
    said, _ = await ask(chain(target("a", Overloaded("1")), target("b", refused), target("c", "yes")))
    assert isinstance(said, Overloaded)
    assert [entry["type"] for entry in said.metadata["fallback"]] == ["SERVICE_UNAVAILABLE", "CONTENT_FILTER"]


async def test_an_error_nobody_classified_passes_unchanged():
    other = target("other", "theirs")
    with pytest.raises(ZeroDivisionError):
        await chain(target("own", ZeroDivisionError("a bug")), other).complete("hi")
    assert other.requests == []


async def test_cancellation_asks_nobody_else():
    other = target("other", "theirs")
    task = asyncio.create_task(chain(target("own", [Wait(9), "late"]), other).complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert other.requests == []


# -- which error is raised


async def raised(*errors: LLMError) -> LLMError:
    said, _ = await ask(chain(*(target(f"t{n}", error) for n, error in enumerate(errors)), on_policy=True))
    assert isinstance(said, LLMError)
    return said


async def test_an_error_that_came_alone_is_raised_as_it_is():
    error = InvalidRequest("wrong")
    assert await raised(error, Overloaded("never asked")) is error
    assert error.metadata == {}


@pytest.mark.parametrize(
    ("errors", "which"),
    [
        ((Overloaded("a"), Timeout("b")), 0),  # among equals the first
        ((Overloaded("a"), AuthenticationFailed("b")), 0),
        ((AuthenticationFailed("a"), Overloaded("b")), 1),  # a later try can succeed
        ((ContextTooLong("a"), RateLimited("b")), 1),
        ((CircuitOpen("a", retry_after=9), Overloaded("b")), 1),
        ((AuthenticationFailed("a"), LimitReached("b", retry_after=3)), 1),  # it says when
        ((CircuitOpen("a", retry_after=9), CircuitOpen("b", retry_after=4)), 1),  # the sooner one
        ((CircuitOpen("a"), AuthenticationFailed("b")), 1),  # somebody was asked
        ((AuthenticationFailed("a"), QuotaExceeded("b")), 0),
    ],
)
async def test_of_several_errors_the_most_useful_is_raised(errors, which: int):
    assert await raised(*errors) is errors[which]


async def test_the_raised_error_lists_what_all_targets_said():
    error = await raised(AuthenticationFailed("wrong key"), Overloaded("down"))
    assert error.metadata["fallback"] == [
        {
            "target": "t0/t0-1",
            "type": "AUTHENTICATION_ERROR",
            "status": 401,
            "message": str(error.metadata["fallback"][0]["message"]),
        },
        {"target": "t1/t1-1", "type": "SERVICE_UNAVAILABLE", "status": 503, "message": str(error)},
    ]
    assert "wrong key" in error.metadata["fallback"][0]["message"]


# -- time


async def test_no_alternative_is_begun_without_time_for_it():
    own, other = target("own", [Wait(5), Overloaded("late")]), target("other", "theirs")
    said, call = await ask(chain(own, other), timeout=5.3)
    assert isinstance(said, Overloaded)
    assert notes(call) == [("gave_up", "deadline")]
    assert other.requests == []
    said, _ = await ask(chain(target("own", [Wait(5), Overloaded("late")]), other), timeout=5.6)
    assert said == "theirs"


# -- circuits


async def tripped(*targets: MockProvider, count: int = 1, **settings) -> Chain:
    """A chain whose first `count` targets have open circuits."""
    it = chain(*targets, layers=[Breaker(consecutive=1)], **settings)
    board = Breaker().board(it.runtime)
    for place in range(count):
        provider = targets[place]
        board.isolate((provider.name, provider.endpoint, provider.model), now())
    return it


async def test_a_target_whose_circuit_is_open_is_passed_over_without_a_permit():
    own, other = target("own"), target("other", default="theirs")
    it = await tripped(own, other)
    said, call = await ask(it)
    assert said == "theirs"
    assert notes(call) == [("skipped", "own/own-1", "circuit")]
    assert Breaker().board(it.runtime).circuits["own", "mock", "own-1"].total == 0


async def test_an_alternative_whose_circuit_is_open_is_no_spare():
    """So the first target is waited for as if it were alone."""
    own, other = target("own", Overloaded("busy"), "mine"), target("other")
    it = chain(own, other, layers=[Retry(), Breaker()])
    Breaker().board(it.runtime).isolate(("other", "mock", "other-1"), now())
    said, call = await ask(it)
    assert said == "mine"
    assert call.ledger.notes[0].detail == {"target": "other/other-1", "reason": "circuit"}


async def test_a_circuit_that_opens_while_others_are_asked_is_seen():
    own, other, third = target("own", [Wait(3), Overloaded("x")]), target("other"), target("third", "yes")
    it = chain(own, other, third, layers=[Breaker()])
    task = asyncio.create_task(ask(it))
    await asyncio.sleep(1)
    Breaker().board(it.runtime).isolate(("other", "mock", "other-1"), now())
    said, call = await task
    assert said == "yes"
    assert ("skipped", "other/other-1", "circuit") in notes(call)


async def test_when_all_circuits_are_open_the_one_that_is_tried_soonest_says_when():
    targets = [
        target(name, default=Overloaded("down", retry_after=wait)) for name, wait in (("a", 90), ("b", 30))
    ]
    it = chain(*targets, layers=[Breaker(consecutive=1)])
    await ask(it)
    sent = sum(len(t.requests) for t in targets)
    said, call = await ask(it)
    assert isinstance(said, CircuitOpen)
    assert said.retry_after is not None
    assert 30 <= said.retry_after <= 33
    assert (said.provider, notes(call)) == ("b", [("gave_up", "circuits")])
    assert [entry["target"] for entry in said.metadata["fallback"]] == ["a/a-1", "b/b-1"]
    assert sum(len(t.requests) for t in targets) == sent


async def test_a_circuit_whose_time_is_up_gets_its_probe():
    own, other = target("own", Overloaded("down"), "back"), target("other", default="theirs")
    it = chain(own, other, layers=[Breaker(consecutive=1)])
    assert [(await ask(it))[0] for _ in range(2)] == ["theirs", "theirs"]
    await asyncio.sleep(6)
    assert (await ask(it))[0] == "back"


async def test_a_target_that_was_passed_over_is_listed_and_may_say_when():
    own, other, third = (
        target("own"),
        target("other", AuthenticationFailed("x")),
        target("third", QuotaExceeded("y")),
    )
    it = chain(own, other, third, layers=[Breaker(consecutive=1)])
    own._script = iter([Overloaded("down")])
    with pytest.raises(Overloaded):
        await it.complete("hi")
    third.default = AuthenticationFailed("z")
    await asyncio.sleep(1)
    resting = it.runtime.state("fallback", "fallback", dict)
    resting.pop((1, ("third", "mock", "third-1")))
    said, call = await ask(it)
    assert isinstance(said, CircuitOpen)  # the wrong key will not mend itself, the circuit may
    assert len(call.ledger.attempts) == 1
    entries = said.metadata["fallback"]
    assert [(entry["target"], entry["type"]) for entry in entries] == [
        ("third/third-1", "AUTHENTICATION_ERROR"),
        ("own/own-1", "CIRCUIT_OPEN"),
        ("other/other-1", "NOT_ASKED"),
    ]
    assert entries[2]["message"] == "AUTHENTICATION_ERROR before, it rests for another 29 s"


async def test_the_circuits_of_a_dry_run_keep_nobody_away():
    own, other = target("own", Overloaded("down"), "back"), target("other", default="theirs")
    it = chain(own, other, layers=[Breaker(consecutive=1, mode="metrics_only")])
    assert [(await ask(it))[0] for _ in range(2)] == ["theirs", "back"]


async def test_the_breaker_may_have_another_name():
    own, other = target("own", Overloaded("down")), target("other", default="theirs")
    it = chain(own, other, layers=[Breaker(consecutive=1, name="fuse")], breaker="fuse")
    await ask(it)
    _, call = await ask(it)
    assert notes(call)[0] == ("skipped", "own/own-1", "circuit")


# -- rest


async def test_a_target_that_wants_us_to_wait_is_left_alone_for_that_long():
    own, other = (
        target("own", RateLimited("slow down", retry_after=20), "mine"),
        target("other", default="theirs"),
    )
    it = chain(own, other)
    assert (await ask(it))[0] == "theirs"
    await asyncio.sleep(19.9)
    said, call = await ask(it)
    assert (said, notes(call)) == ("theirs", [("skipped", "own/own-1", "resting")])
    await asyncio.sleep(0.2)
    assert (await ask(it))[0] == "mine"


@pytest.mark.parametrize("error", [AuthenticationFailed("revoked"), QuotaExceeded("empty")])
async def test_a_target_that_refuses_the_key_is_passed_over_for_a_while(error: LLMError):
    own, other = target("own", error, "mine"), target("other", default="theirs")
    it = chain(own, other, cooldown=30.0)
    assert [(await ask(it))[0] for _ in range(3)] == ["theirs"] * 3
    assert len(own.requests) == 1
    await asyncio.sleep(30)
    assert (await ask(it))[0] == "mine"


@pytest.mark.parametrize("hint", [-5.0, math.nan])
async def test_a_hint_that_is_no_time_is_no_reason_to_ask_again_at_once(hint: float):
    own, other = (
        target("own", AuthenticationFailed("revoked", retry_after=hint), "mine"),
        target("other", default="theirs"),
    )
    it = chain(own, other, cooldown=30.0)
    assert [(await ask(it))[0] for _ in range(2)] == ["theirs"] * 2
    assert len(own.requests) == 1


async def test_accounts_of_one_provider_rest_apart():
    first, second = (target("openai", AuthenticationFailed("revoked")) for _ in range(2))
    third = target("openai", default="third key")
    it = chain(first, second, third)
    assert [(await ask(it))[0] for _ in range(3)] == ["third key"] * 3
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_when_all_rest_the_one_that_rests_shortest_is_asked_first():
    own = target("own", RateLimited("x", retry_after=60), default="mine")
    other = target("other", RateLimited("x", retry_after=20), default="theirs")
    it = chain(own, other)
    await ask(it)
    assert (await ask(it))[0] == "theirs"
    said, call = await ask(it)  # it answered, so it rests no more, and alone is ready
    assert (said, notes(call)) == ("theirs", [("skipped", "own/own-1", "resting")])


async def test_a_hint_beyond_reason_is_an_hour_at_most():
    own = target("own", RateLimited("x", retry_after=1e12), default="mine")
    it = chain(own, target("other", default="theirs"))
    await ask(it)
    await asyncio.sleep(3601)
    assert (await ask(it))[0] == "mine"


async def test_without_a_cooldown_nobody_rests():
    own = target("own", RateLimited("x", retry_after=20), AuthenticationFailed("x"), "mine")
    it = chain(own, target("other", default="theirs"), cooldown=0)
    assert [(await ask(it))[0] for _ in range(3)] == ["theirs", "theirs", "mine"]


# -- circles and settings


async def test_a_chain_that_falls_back_on_itself_is_refused_where_it_can_be_seen():
    it = Chain(target("own"))
    it.use(Fallback(it, name="first"))
    with pytest.raises(ConfigError, match="falls back on itself"):
        Fallback(it)


async def test_a_circle_that_could_not_be_seen_ends_with_the_error():
    own = target("own", default=Overloaded("down"))
    it = Chain(own)
    it.use(Fallback(it))
    said, _ = await ask(it)
    assert isinstance(said, Overloaded)
    assert len(own.requests) == 2
    assert (await ask(it))[0] is not None  # and the next call is its own


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ((), "at least one target"),
        (("claude",), "not a provider or chain"),
        ((None,), "not a provider or chain"),
        ((lambda call: None,), "not a provider or chain"),
    ],
)
def test_what_is_no_target_is_refused(targets, says: str):
    with pytest.raises(ConfigError, match=says):
        Fallback(*targets)


def test_a_target_given_twice_is_refused():
    one = target("one")
    with pytest.raises(ConfigError, match="'one' is given twice"):
        Fallback(one, target("two"), one)
    Fallback(one, target("one"))  # two accounts of one provider are two targets


def test_negative_seconds_are_refused():
    for settings in ({"cooldown": -1}, {"min_attempt": -1}):
        with pytest.raises(ConfigError, match="seconds"):
            Fallback(target("one"), **settings)


def test_an_unknown_setting_is_refused():
    with pytest.raises(TypeError, match="on_polcy"):
        Fallback(target("one"), on_polcy=True)  # type: ignore[call-arg]  # the point of the test


def test_a_fallback_can_be_changed_and_configured_by_name():
    one, two = target("one"), target("two")
    changed = evolve(Fallback(one, two), on_policy=True)  # type: ignore[call-arg]  # mypy looks at Unpack no deeper
    assert changed == Fallback(one, two, on_policy=True)
    assert Fallback(targets=[one, two]) == Fallback(one, two)


async def test_closing_a_chain_closes_its_alternatives_whatever_one_of_them_raises():
    closed: list[str] = []

    class Closing(MockProvider):
        async def aclose(self):
            closed.append(self.name)
            if self.name == "b":
                raise OSError("b would not close")

    async with Chain(Closing(name="own")):
        pass
    with pytest.raises(OSError, match="b would not close"):
        await chain(*(Closing(name=name) for name in "abcd")).aclose()
    assert set(closed) == {"own", *"abcd"}


async def test_closing_a_chain_that_falls_back_on_itself_ends():
    it = Chain(target("own"))
    it.use(Fallback(it))
    await it.aclose()


def test_the_worst_case_is_known():
    fallback = Fallback(target("one"), Chain(target("two")))
    assert fallback.worst_attempts(4) == 5
    assert fallback.worst_seconds(10.0) == 30.0
