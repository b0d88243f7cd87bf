"""Several models answer one request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ConfigError,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
    Timeout,
    Unsupported,
)
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.answers import Answer, best_of, choice_in, same
from llmpipe.routing.ensemble import Ensemble
from llmpipe.runtime import Runtime
from llmpipe.testing import no_leaks
from llmpipe.types import (
    Completion,
    Message,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolCall,
    Usage,
    UsageUpdate,
    fold,
)


def now() -> float:
    return asyncio.get_running_loop().time()


def member(name: str, *script: Any, default: Any = None) -> MockProvider:
    return MockProvider(script, name=name, model=f"{name}-1", usage=Usage(10, 1), default=default)


def chain(*targets: Any, layers: Any = (), **settings: Any) -> Chain:
    return Chain(Ensemble(*targets, **settings), *layers, runtime=Runtime(seed=1))


async def ask(it: Chain, *, stream: bool = False, **options: Any) -> tuple[Any, Call]:
    call = it.new_call(Request("", "hi", stream=stream), **options)
    reply = await it(call)
    async with reply:
        if stream:
            async for _ in reply:
                pass
            return reply.completion, call
        return await reply.full(), call


def told(done: Completion) -> list[tuple[str, str]]:
    return [(one["member"], one["status"]) for one in done.extra["ensemble"]["members"]]


# -- synthesis


@pytest.mark.parametrize("stream", [False, True])
async def test_the_judge_writes_one_answer_from_all(stream: bool):
    a, b, judge = member("a", "it is 3"), member("b", "it is 4"), member("j", "it is 4, not 3")
    done, call = await ask(chain(a, b, judge=judge), stream=stream)
    assert (done.text, done.provider, done.model) == ("it is 4, not 3", "j", "j-1")
    asked = judge.requests[0]
    assert asked.stream is stream
    assert [request.stream for request in (*a.requests, *b.requests)] == [False, False]
    assert asked.messages[0] == Message("user", "hi")
    assert '"answer": "it is 3"' in asked.messages[1].text
    assert '"answer": "it is 4"' in asked.messages[1].text
    assert "a-1" not in asked.messages[1].text  # judges favour names
    assert told(done) == [("a/a-1", "ok"), ("b/b-1", "ok")]
    assert [(attempt.number, attempt.provider) for attempt in call.ledger.attempts] == [
        (1, "a"),
        (2, "b"),
        (3, "j"),
    ]
    assert done.warnings == ()


async def test_without_a_judge_the_first_member_that_answered_writes():
    a, b, c = member("a", Overloaded("down")), member("b", "x", "both"), member("c", "y")
    done, _ = await ask(chain(a, b, c))
    assert (done.text, done.provider) == ("both", "b")
    assert done.warnings == ("ensemble: a/a-1 did not answer: SERVICE_UNAVAILABLE",)


async def test_a_synthesis_streams_and_its_events_tell_the_usage_of_all():
    judge = member("j", ["one ", Wait(5), "two"])
    async with chain(member("a", "x"), member("b", "y"), judge=judge).stream("hi") as reply:
        events = []
        async for event in reply:
            events.append((type(event).__name__, now()))
            if isinstance(event, UsageUpdate):
                assert event.usage == Usage(30, 3)
        assert reply.completion.usage == Usage(30, 3)
    assert ("TextDelta", 0) in events
    assert ("TextDelta", 5) in events


async def test_of_one_answer_nothing_is_combined():
    judge = member("j", "never")
    done, _ = await ask(chain(member("a", "x"), member("b", Overloaded("down")), judge=judge))
    assert (done.text, judge.requests) == ("x", [])


async def test_answers_with_tool_calls_are_voted_on():
    def calls(city: str) -> Completion:
        call = ToolCall(f"c-{city}", "weather", f'{{"city": "{city}"}}')
        return Completion(message=Message("assistant", call), finish_reason="tool_calls")

    it = chain(member("a", "hm"), member("b", calls("Oslo")), member("c", calls("Oslo")))
    call = it.new_call(Request("", "hi", tools=[Tool("weather")]))
    done = await (await it(call)).full()
    assert done.tool_calls[0].id == "c-Oslo"
    assert done.warnings == ("ensemble: voted instead of synthesis: tool calls",)


async def test_the_conversations_tools_are_not_called_in_a_synthesis():
    judge = member("j", "both")
    it = chain(member("a", "x"), member("b", "y"), judge=judge)
    await it.complete("hi", tools=[Tool("weather")], max_tokens=9)
    asked = judge.requests[0]
    assert (asked.tool_choice, len(asked.tools), asked.max_tokens) == ("none", 1, 9)


# -- vote and judge


async def test_the_answer_that_most_gave_wins_in_the_words_of_its_first():
    it = chain(member("a", "Paris."), member("b", "Lyon"), member("c", " paris"), combine="vote")
    done, _ = await ask(it)
    assert (done.text, done.provider) == ("Paris.", "a")
    assert done.extra["ensemble"]["winner"] == "a/a-1"


async def test_a_vote_on_a_streamed_call_can_be_read_as_a_stream():
    it = chain(member("a", "x"), member("b", "x"), combine="vote")
    async with it.stream("hi") as reply:
        done = fold([event async for event in reply])
    assert (done.text, done.usage) == ("x", Usage(20, 2))


async def test_what_makes_two_answers_the_same_can_be_said():
    it = chain(
        member("a", "yes"), member("b", "no, because"), member("c", "no way"), combine="vote",
        key=lambda done: done.text[:2],
    )  # fmt: skip
    done, _ = await ask(it)
    assert done.text == "no, because"


@pytest.mark.parametrize("said", ["2", "Answer 2.", "**2**\n", "The best is number 2"])
async def test_a_judge_names_the_best(said: str):
    judge = member("j", said)
    done, _ = await ask(chain(member("a", "x"), member("b", "y"), combine="judge", judge=judge), stream=False)
    assert (done.text, done.usage) == ("y", Usage(30, 3))
    assert judge.requests[0].messages[-1].text.endswith("number alone.")


@pytest.mark.parametrize("said", ["neither", "1 or 2", "7", "0", ""])
async def test_a_judge_who_names_none_is_replaced_by_the_vote(said: str):
    targets = member("a", "x"), member("b", "x"), member("c", "y")
    done, call = await ask(chain(*targets, combine="judge", judge=member("j", said)))
    assert done.text == "x"
    assert done.warnings == ("ensemble: voted instead of judge: no choice",)
    assert done.usage == Usage(40, 4)  # the judge's too
    assert [(note.kind, note.detail["reason"]) for note in call.ledger.notes] == [
        ("ensemble.voted", "no choice")
    ]


@pytest.mark.parametrize("combine", ["synthesis", "judge"])
async def test_a_judge_that_fails_is_replaced_by_the_vote(combine: str):
    targets = member("a", "x"), member("b", "y"), member("c", "y")
    done, _ = await ask(chain(*targets, combine=combine, judge=member("j", Overloaded("down"))))
    assert done.text == "y"
    assert done.warnings == (f"ensemble: voted instead of {combine}: SERVICE_UNAVAILABLE",)


async def test_strict_ensembles_fail_with_their_judge():
    for script, error in ((Overloaded("down"), Overloaded), ("neither", BadReply)):
        it = chain(
            member("a", "x"), member("b", "y"), combine="judge", judge=member("j", script), strict=True
        )
        with pytest.raises(error):
            await it.complete("hi")


async def test_a_synthesis_that_breaks_is_broken():
    judge = member("j", ["half", StreamBroken("cut")])
    async with chain(member("a", "x"), member("b", "y"), judge=judge).stream("hi") as reply:
        with pytest.raises(StreamBroken) as broken:
            async for _ in reply:
                pass
    assert broken.value.partial.text == "half"


# -- failures and time


async def test_partial_failures_are_tolerated_and_told():
    it = chain(
        member("a", "x"), member("b", RateLimited("no", retry_after=3)), member("c", [Wait(99), "late"]),
        combine="vote", deadline=10,
    )  # fmt: skip
    done, call = await ask(it)
    assert now() == pytest.approx(10)
    assert told(done) == [("a/a-1", "ok"), ("b/b-1", "RATE_LIMIT"), ("c/c-1", "LATE")]
    assert done.warnings == (
        "ensemble: b/b-1 did not answer: RATE_LIMIT",
        "ensemble: c/c-1 did not answer: LATE",
    )
    assert [(note.detail["member"], note.detail["error"]) for note in call.ledger.notes] == [
        ("b/b-1", "RATE_LIMIT"),
        ("c/c-1", "LATE"),
    ]
    assert {attempt.provider: attempt.status for attempt in call.ledger.attempts} == {
        "a": "ok", "b": "error", "c": "cancelled",
    }  # fmt: skip
    assert done.extra["ensemble"]["members"][2]["seconds"] == pytest.approx(10)


async def test_when_all_fail_the_error_that_tells_most_is_raised_with_all_of_them():
    it = chain(member("a", AuthenticationFailed("no")), member("b", Overloaded("down", retry_after=4)))
    with pytest.raises(Overloaded) as failed:
        await it.complete("hi")
    assert [one["status"] for one in failed.value.metadata["ensemble"]] == [
        "AUTHENTICATION",
        "SERVICE_UNAVAILABLE",
    ] or [one["status"] for one in failed.value.metadata["ensemble"]] == [
        AuthenticationFailed.type,
        Overloaded.type,
    ]


async def test_when_nobody_answers_in_time_it_is_a_timeout():
    it = chain(member("a", [Wait(99), "x"]), member("b", [Wait(99), "x"]), deadline=3)
    with pytest.raises(Timeout, match="of 2 members 0 answered within 3 s"):
        await it.complete("hi")
    assert now() == pytest.approx(3)


async def test_fewer_answers_than_the_quorum_fail_as_soon_as_that_is_certain():
    it = chain(
        member("a", "x"),
        member("b", Overloaded("down")),
        member("c", [Wait(50), "late"]),
        quorum=3,
        combine="vote",
    )
    with pytest.raises(Overloaded) as failed:
        await it.complete("hi")
    assert now() == 0
    assert failed.value.partial.text == "x"
    assert [one["status"] for one in failed.value.metadata["ensemble"]] == ["ok", Overloaded.type, "SPARED"]


async def test_when_enough_have_answered_the_others_are_cancelled_and_leave_nothing():
    async with no_leaks():
        slow = member("c", [Wait(50), "late"])
        it = chain(member("a", "x"), member("b", [Wait(2), "x"]), slow, enough=2, combine="vote")
        done, call = await ask(it)
        assert now() == pytest.approx(2)
        assert told(done)[2] == ("c/c-1", "SPARED")
        assert done.warnings == ()  # nothing went wrong
        assert call.ledger.attempts[-1].status == "cancelled"
        assert slow.open == 0


async def test_cancelling_the_call_cancels_all_members():
    async with no_leaks():
        it = chain(*[member(name, [Wait(50), "late"]) for name in "abc"])
        call = it.new_call(Request("", "hi"))
        task = asyncio.create_task(it(call))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [attempt.status for attempt in call.ledger.attempts] == ["cancelled"] * 3


async def test_a_bug_in_a_member_is_no_failure_of_a_model():
    async with no_leaks():
        it = chain(MockProvider(), member("b", [Wait(50), "late"]))
        with pytest.raises(LookupError):
            await it.complete("hi")
        assert now() == 0


async def test_the_calls_own_deadline_bounds_the_members():
    seen = []

    from llmpipe.pipeline.function import layer

    @layer(priority=1)
    async def look(call: Any, call_next: Any) -> Any:
        seen.append(call.deadline)
        return await call_next(call)

    it = chain(Chain(member("b", "y"), look), combine="vote", deadline=30)
    await it.complete("hi", timeout=7)
    assert seen == [pytest.approx(7)]


# -- members


async def test_members_answer_with_their_own_models_and_one_without_gets_the_callers():
    a, b = member("a", "x"), MockProvider(["x"], name="b", model="")
    it = chain(a, b, combine="vote")
    await it.complete("hi", model="theirs")
    assert [a.requests[0].model, b.requests[0].model] == ["a-1", "theirs"]


async def test_a_member_may_be_asked_twice():
    a = member("a", "x", "y", "both")
    done, _ = await ask(chain(a, a))
    assert done.text == "both"
    assert [label for label, _ in told(done)] == ["a/a-1#1", "a/a-1#2"]


async def test_each_member_has_the_retries_of_its_chain_to_itself():
    busy = [lambda _: Overloaded("busy")] * 2
    members = [Chain(member(name, *busy, "x"), Retry(attempts=3)) for name in "abc"]
    judge = Chain(member("j", *busy, "one"), Retry(attempts=3))
    done, call = await ask(chain(*members, judge=judge))
    assert (done.text, len(call.ledger.attempts)) == ("one", 12)
    assert [attempt.number for attempt in call.ledger.attempts] == [*range(1, 13)]
    errors = [attempt for attempt in call.ledger.attempts if attempt.error is not None]
    assert all(attempt.error.attempt == attempt.number for attempt in errors)
    waits = [note for note in call.ledger.notes if note.kind == "retry.wait"]
    assert len(waits) == 8
    assert [note.at for note in call.ledger.notes] == sorted(note.at for note in call.ledger.notes)


async def test_ensembles_nest_and_stand_behind_fallbacks():
    inner = Chain(Ensemble(member("a", "x"), member("b", "x"), combine="vote"))
    it = Chain(
        member("z", Overloaded("down")), Fallback(Chain(Ensemble(inner, member("c", "x"), combine="vote")))
    )
    done, call = await ask(it)
    assert (done.text, done.usage) == ("x", Usage(30, 3))
    assert sorted(attempt.provider for attempt in call.ledger.attempts) == ["a", "b", "c", "z"]


# -- money

PRICES = {name: {"input": price, "output": 0} for name, price in (("a-1", 1), ("b-1", 10), ("j-1", 100))}


@pytest.mark.parametrize("stream", [False, True])
async def test_cost_round_the_ensemble_prices_every_attempt(stream: bool):
    it = chain(member("a", "x"), member("b", "y"), judge=member("j", "z"), layers=[Cost(prices=PRICES)])
    done, _ = await ask(it, stream=stream)
    assert done.charge.total_nano == 10 * 1_000 + 10 * 10_000 + 10 * 100_000
    assert done.usage == Usage(30, 3)
    totals = Cost.totals(it.runtime)
    assert (totals.all.calls, totals.all.attempts, totals.all.nano) == (1, 3, done.charge.total_nano)
    assert totals.by_model["b-1"].nano == 100_000


@pytest.mark.parametrize("combine", ["synthesis", "vote", "judge"])
async def test_costs_in_the_members_are_summed(combine: str):
    members = [Chain(member(name, "x"), Cost(prices=PRICES)) for name in "ab"]
    judge = Chain(member("j", "1"), Cost(prices=PRICES))
    done, _ = await ask(chain(*members, combine=combine, judge=judge))
    assert done.charge.total_nano == 110_000 + (0 if combine == "vote" else 1_000_000)
    assert [one["cost_usd"] for one in done.extra["ensemble"]["members"]] == ["0.000010000", "0.000100000"]


async def test_a_member_without_a_price_makes_the_sum_unknown_and_not_zero():
    members = [Chain(member("a", "x"), Cost(prices=PRICES)), member("b", "x")]
    done, _ = await ask(chain(*members, combine="vote"))
    assert (done.charge, done.cost) == (None, None)


async def test_attempts_without_a_price_are_each_told_once():
    members = [Chain(member(name, "x"), Cost()) for name in ("odd", "odder")]
    it = chain(*members, combine="vote", layers=[Cost()])
    _, call = await ask(it)
    unknown = [note.detail["attempt"] for note in call.ledger.notes if note.kind == "cost.unknown_price"]
    assert sorted(unknown) == [1, 2]
    assert Cost.totals(it.runtime).all.unknown == 2


# -- at their worst


async def test_a_member_that_cancels_itself_is_a_bug_and_not_the_callers_cancellation():
    with pytest.raises(RuntimeError, match="member a/a-1 of the ensemble cancelled itself"):
        await ask(chain(member("a", asyncio.CancelledError()), member("b", [Wait(1), "x"])))


@pytest.mark.parametrize("combine", ["vote", "judge", "synthesis"])
async def test_an_answer_that_says_nothing_is_none_beside_others(combine: str):
    empty = Completion(
        message=Message("assistant", [Text(" "), Reasoning("hm")]), finish_reason="content_filter"
    )
    judge = member("j", "never asked")
    done, _ = await ask(
        chain(member("a", empty), member("b", empty), member("c", "real"), combine=combine, judge=judge)
    )
    assert (done.text, len(told(done)), judge.requests) == ("real", 3, [])
    done, _ = await ask(chain(member("a", empty), member("b", empty), combine="vote"))
    assert done.finish_reason == "content_filter"


@pytest.mark.parametrize("combine", ["vote", "judge", "synthesis"])
async def test_at_the_calls_own_deadline_there_is_the_answer_that_has_come(combine: str):
    """Whether or not a layer holds the members to it."""
    judge = member("j", "never asked")
    members = [member("a", [Wait(50), "late"]), member("b", "x"), member("c", "y")]
    done, call = await ask(chain(*members, combine=combine, judge=judge), timeout=5)
    assert (done.text, now(), judge.requests) == ("x", 5, [])
    assert told(done)[0] == ("a/a-1", "LATE")
    if combine != "vote":
        assert [note.detail for note in call.ledger.notes if note.kind == "ensemble.voted"] == [
            {"reason": "deadline"}
        ]


async def test_a_judge_that_fails_costs_what_it_did():
    members = [Chain(member(name, "x"), Cost(prices=PRICES)) for name in "ab"]
    judge = Chain(member("j", ServiceUnavailable("500")), Cost(prices=PRICES))
    done, call = await ask(chain(*members, judge=judge))
    (lost,) = [attempt.charge for attempt in call.ledger.attempts if attempt.provider == "j"]
    assert lost.total_nano > 0
    assert done.charge.total_nano == 110_000 + lost.total_nano
    free = member("j", ServiceUnavailable("500"))
    done, _ = await ask(chain(*[Chain(member(name, "x"), Cost(prices=PRICES)) for name in "ab"], judge=free))
    assert done.charge is None  # not known, which is not nothing


async def test_text_that_no_json_carries_fails_nothing():
    done, _ = await ask(chain(member("a", "\ud800"), member("b", "x"), judge=member("j", "z")))
    assert done.text == "z"


def test_ensembles_in_ensembles_are_bounded():
    def five(**settings: Any) -> Ensemble:
        return Ensemble(*[member(str(at)) for at in range(5)], **settings)

    Ensemble(*[five() for _ in range(4)], combine="vote")  # 24
    Ensemble(*[Chain(five(combine="vote")) for _ in range(5)])  # 26
    with pytest.raises(ConfigError, match="one call would be 31 requests"):
        Ensemble(*[Chain(member("x"), Fallback(five())) for _ in range(5)])
    with pytest.raises(ConfigError, match="one call would be 50 requests"):
        Ensemble(*[Ensemble(*[five(combine="vote")] * 2, combine="vote") for _ in range(5)], combine="vote")


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_at_every_moment_twice_nothing_is_left_and_all_attempts_have_ended(stream: bool):
    async def once(at: float) -> bool:
        members = [member(name, ["", Wait(1), "x", Wait(1), "y"]) for name in "ab"]
        judge = member("j", [Wait(1), "z", Wait(1), "w"])
        async with no_leaks():
            it = chain(*members, judge=judge)
            call = it.new_call(Request("", "hi", stream=stream))

            async def read() -> None:
                async with await it(call) as reply:
                    async for _ in reply:
                        pass

            task = asyncio.create_task(read())
            await asyncio.sleep(at)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            ended = await asyncio.gather(task, return_exceptions=True)
        assert [one.open for one in (*members, judge)] == [0, 0, 0]
        assert all(attempt.status != "open" for attempt in call.ledger.attempts)
        assert [attempt.number for attempt in call.ledger.attempts] == [
            *range(1, len(call.ledger.attempts) + 1)
        ]
        return isinstance(ended[0], asyncio.CancelledError)

    cancelled = [await once(at / 2) for at in range(11)]
    assert cancelled[1]
    assert not cancelled[-1]


@pytest.mark.parametrize("left_after", range(4))
async def test_a_synthesis_that_is_left_early_costs_what_it_had_used(left_after: int):
    it = chain(
        member("a", "x"),
        member("b", "y"),
        judge=member("j", ["one ", Wait(1), "two ", Wait(1), "three"]),
        layers=[Cost(prices=PRICES)],
    )
    async with no_leaks():
        stream = it.stream("hi")
        async with stream as reply:
            for _ in range(left_after):
                await anext(reply)
        call = stream.call
    assert [attempt.provider for attempt in call.ledger.attempts] == ["a", "b", "j"]
    assert all(attempt.charge is not None and attempt.status != "open" for attempt in call.ledger.attempts)
    charges = [one.charge.total_nano for one in call.ledger.attempts if one.charge is not None]
    assert Cost.totals(it.runtime).all.nano == sum(charges)


# -- what is refused


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"targets": ()}, "needs members"),
        ({"targets": [MockProvider()] * 6}, "5 members at most, not 6"),
        ({"targets": ["gpt"]}, "member 1 of the ensemble is a str"),
        ({"targets": [MockProvider]}, "the class MockProvider"),
        ({"judge": "gpt"}, "the judge of the ensemble is a str"),
        ({"combine": "blend"}, "combine is 'blend'; it takes synthesis, vote, judge"),
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"quorum": 3}, "quorum is 3; expected 1 to 2"),
        ({"quorum": 0}, "quorum is 0"),
        ({"enough": 5}, "enough is 5"),
        ({"quorum": 2, "enough": 1}, "less than the quorum"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        Ensemble(**{"targets": [MockProvider(), MockProvider()], **settings})


async def test_an_ensemble_that_leads_back_to_itself_is_refused():
    inner = Chain(member("a", Overloaded("down"), default=Overloaded("down")))
    ensemble = Ensemble(inner, member("b", default="x"), combine="vote", quorum=2)
    inner.use(Fallback(Chain(ensemble)))
    with pytest.raises(ConfigError, match="leads back to the ensemble itself"):
        await Chain(ensemble).complete("hi")


async def test_only_chat_requests_are_answered():
    with pytest.raises(Unsupported, match="not EmbeddingRequest"):
        await chain(MockProvider()).embed("x")


async def test_closing_closes_members_and_judge_once_each():
    closed = []

    class Closing(MockProvider):
        async def aclose(self) -> None:
            closed.append(self.name)

    a, judge = Closing(name="a"), Closing(name="j")
    await Chain(Ensemble(a, a, judge=judge)).aclose()
    assert sorted(closed) == ["a", "j"]


# -- the pure parts


@given(st.lists(st.sampled_from(["a", "A.", "b", " b ", "c"]), min_size=1, max_size=5))
def test_the_winner_of_a_vote_has_most_votes_and_is_the_first_of_those(texts: list[str]):
    answers = [
        Answer(str(at), Completion(message=Message("assistant", text))) for at, text in enumerate(texts)
    ]
    plain = [text.strip(" .").lower() for text in texts]
    won = int(best_of(answers).label)
    assert plain.count(plain[won]) == max(map(plain.count, plain))
    assert plain.index(plain[won]) == won
    assert all(plain.count(one) < plain.count(plain[won]) for one in plain[:won])


@given(st.integers(1, 5), st.integers(0, 2000))
def test_a_number_in_range_is_a_choice_and_any_other_is_none(count: int, number: int):
    assert (
        choice_in(f"number {number}", count) == (number - 1 if 1 <= number <= count else None) or number < 0
    )


def test_a_choice_is_no_part_of_another_number():
    assert [choice_in(text, 5) for text in ("2.5", "12", "1.2.3", "v2", "2,", "(3)")] == [
        None,
        None,
        None,
        1,
        1,
        2,
    ]


def test_arguments_written_otherwise_are_the_same_call():
    def asks(arguments: str) -> Completion:
        return Completion(message=Message("assistant", ToolCall("x", "f", arguments)))

    assert same(asks('{"a":1,"b":2}')) == same(asks('{ "b": 2, "a": 1 }'))
    assert same(asks("{broken")) == same(asks("{broken"))
    assert same(asks("{}")) != same(asks('{"a":1}'))


def test_the_errors_are_ours():
    assert issubclass(Timeout, LLMError)
