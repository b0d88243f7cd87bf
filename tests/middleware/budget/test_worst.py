"""What is held is never less than what is charged, whatever a caller or a provider says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import BudgetExceeded
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.budget.meter import FACTOR, SLACK, Meter
from llmpipe.middleware.budget.worst import capped, worst
from llmpipe.middleware.fallback import Fallback
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import Price, Rates, worst_case
from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import (
    Event,
    Finish,
    ReasoningDelta,
    ReasoningOptions,
    RefusalDelta,
    Request,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
)
from tests.middleware.budget.bank import balance, budget, ledger_of, mock, runtime

DAY = Rule(usd=1, period="day")
RATE = st.integers(0, 10**12)


@given(
    st.text(max_size=200),
    st.none() | st.integers(1, 10**6),
    st.builds(Rates, RATE, RATE, RATE, st.none() | RATE, st.none() | RATE, st.integers(0, 10**12)),
    st.integers(0, 100),
    st.dictionaries(st.sampled_from(["n", "best_of", "seed"]), st.integers(-5, 50), max_size=2),
)
def test_the_short_way_to_the_worst_case_is_the_long_way(
    text: str, most: int | None, rates: Rates, above: int, extra: dict[str, Any]
):
    other = Rates(1, 2)
    price = Price("p", "m", rates, ((above, other),) if above else ())
    request = Request("m", text, max_tokens=most, extra=extra)
    cost = worst_case(request, price, default_output_tokens=77)
    assert cost is not None
    assert worst(request, price, estimate_request(request), 77) == (
        cost.input_nano + cost.output_nano,
        cost.input_nano,
    )


PRICE = Price("p", "m", Rates(2_000_000_000, 10_000_000_000))


@pytest.mark.parametrize(
    ("extra", "answers", "tokens"),
    [
        ({"n": 1000}, 1000, 10),
        ({"n": "1000"}, 1000, 10),
        ({"n": 1000.0}, 1000, 10),
        ({"best_of": 7, "n": 3}, 7, 10),
        ({"n": -4}, 1, 10),
        ({"n": float("inf")}, 1, 10),
        ({"n": "many"}, 1, 10),
        ({"n": None}, 1, 10),
        ({"max_completion_tokens": 5000}, 1, 5000),
        ({"max_output_tokens": "5000"}, 1, 5000),
        ({"max_tokens": 3}, 1, 10),
        ({"generationConfig": {"maxOutputTokens": 5000, "candidateCount": 4}}, 4, 5000),
        ({"options": {"num_predict": 5000}}, 1, 5000),
    ],
)
def test_what_is_asked_for_in_other_words_is_held_too(extra: dict[str, Any], answers: int, tokens: int):
    found = worst(Request("m", "hi", max_tokens=10, extra=extra), PRICE, 38, 4096)
    assert found is not None
    nano, likely = found
    assert nano - likely == answers * tokens * 10_000


@pytest.mark.parametrize(("told", "sent"), [(None, 4096), (0, 4096), (-1, 4096), (-(10**9), 4096), (7, 7)])
async def test_a_provider_always_gets_a_cap_where_a_budget_limits(told: int | None, sent: int):
    provider = mock(default="x")
    await Chain(provider, budget(DAY), runtime=runtime()).complete("hi", max_tokens=told)
    assert provider.requests[0].max_tokens == sent


async def test_a_cap_leaves_room_for_the_thinking_that_was_asked_for():
    request = Request(messages="hi", reasoning=ReasoningOptions(max_tokens=8000))
    assert capped(request, 4096).max_tokens == 12_096


async def test_where_nothing_limits_a_request_goes_as_it_is():
    provider = mock(default="x")
    await Chain(provider, budget(Rule(usd=1, action="alert")), runtime=runtime()).complete("hi")
    assert provider.requests[0].max_tokens is None


@pytest.mark.parametrize("most", [10**9, 10**15, 10**30])
async def test_a_request_for_a_world_of_tokens_never_fits_and_breaks_no_store(most: int):
    config = budget(DAY, Rule(usd=1, action="alert", name="tells"))
    chain = Chain(mock(default="x"), config, runtime=runtime())
    with pytest.raises(BudgetExceeded) as caught:
        await chain.complete("hi", max_tokens=most)
    assert caught.value.code == "never_fits"
    assert caught.value.retry_after is None
    telling = budget(Rule(usd=1, action="alert", name="tells"), name="tells")
    only = Chain(mock(default=["x"]), telling, runtime=runtime())
    async with only.stream("hi", max_tokens=most) as reply:
        held = await telling.status(only.runtime)
        assert held[0].held < 2**53
        await reply.full()


async def test_a_provider_that_tells_a_world_of_tokens_breaks_no_store():
    config = budget(Rule(usd=1, action="alert"))
    chain = Chain(
        mock(default="x", usage=Usage(10**40, -5, reasoning_tokens=10**30)), config, runtime=runtime()
    )
    await chain.complete("hi", max_tokens=5)
    used, held = await balance(chain, config)
    assert (used, held) == (10**15, 0)
    row = (await ledger_of(chain).spends())[0]
    assert (row.input_tokens, row.output_tokens) == (2**53 - 1, 0)


async def test_a_refusal_says_whose_budget_what_is_left_and_when_it_begins_anew():
    config = budget(Rule(usd="0.0004", period="day", per="account"))
    chain = Chain(mock(default="fine"), config, runtime=runtime())
    with pytest.raises(BudgetExceeded) as caught:
        for _ in range(10):
            await chain.complete("hi", max_tokens=20, tenant="acme")
    error = caught.value
    assert (error.code, error.status, error.sent, error.billed) == ("exceeded", 402, False, "no")
    assert error.retry_after == 12 * 3600
    assert "'acme'" in str(error)
    assert "2026-10-02T00:00:00+00:00" in str(error)
    used, held = await balance(chain, config, account="acme")
    assert error.metadata["left_usd"] == f"{(400_000 - used) / 1e9:.9f}".rstrip("0")
    assert held == 0


# ------------------------------------------------------------ downgrades


async def test_a_budget_that_is_used_up_goes_on_with_the_cheaper_model():
    provider = mock(default="fine")
    config = budget(Rule(usd="0.0004", period="day", action="downgrade", downgrade_to="small"))
    chain = Chain(provider, config, runtime=runtime())
    for _ in range(6):
        await chain.complete("hi", max_tokens=20)
    models = [request.model or "m" for request in provider.requests]
    assert models[0] == "m"
    assert models[-1] == "small"
    assert len(set(models)) == 2
    rows = await ledger_of(chain).spends()
    assert (await balance(chain, config))[0] == sum(row.nano for row in rows)


async def test_rules_that_send_to_each_others_model_end():
    one = Rule(usd="0.0000001", action="downgrade", downgrade_to="small", name="one")
    two = Rule(usd="0.0000001", action="downgrade", downgrade_to="m", name="two")
    provider = mock(default="x")
    chain = Chain(provider, budget(one, two), runtime=runtime())
    async with asyncio.timeout(5):
        with pytest.raises(BudgetExceeded):
            await chain.complete("hi", max_tokens=20)
    assert provider.requests == []


async def test_embeddings_are_never_made_by_another_model():
    provider = mock(default="x")
    config = budget(Rule(usd="0.000000001", action="downgrade", downgrade_to="small"))
    with pytest.raises(BudgetExceeded):
        await Chain(provider, config, runtime=runtime()).embed(["one"])
    assert provider.requests == []


async def test_a_fallback_can_help_where_a_budget_is_of_one_provider():
    config = budget(Rule(usd="0.000001", per="provider", when={"provider": "p"}))
    chain = Chain(mock(default="x"), config, Fallback(mock(default="spare", name="q")), runtime=runtime())
    assert (await chain.complete("hi", max_tokens=5)).text == "spare"


# ------------------------------------------------------------ alerts


async def test_each_share_is_told_once_a_period_and_the_first_of_a_call_that_passes_two():
    config = budget(Rule(usd="0.002", alert_at=(0.5, 0.8, 0.1), per="account"))
    chain = Chain(mock(default="fine"), config, runtime=runtime())
    told: list[tuple[str, float]] = []
    for tenant in ("a", "b"):
        for _ in range(30):
            call = chain.new_call(Request(messages="hi", max_tokens=20), tenant=tenant)
            try:
                await (await chain(call)).full()
            except BudgetExceeded:
                break
            finally:
                alerts = [note.detail for note in call.ledger.notes if note.kind == "budget.alert"]
                told += [(tenant, detail["share"]) for detail in alerts]
    assert told == [(tenant, share) for tenant in ("a", "b") for share in (0.1, 0.5, 0.8)]


# ------------------------------------------------------------ cutting


def endless(text: str = "word ") -> Any:
    return lambda request: [text] * 5000


@pytest.mark.parametrize("text", ["word ", "x", "一二三", "0123456789", "AKJ" * 30, "🦊🐻"])
async def test_a_stream_that_ignores_its_cap_is_cut_within_the_bound_and_billed(text: str):
    config = budget(DAY)
    chain = Chain(mock(default=endless(text)), config, runtime=runtime())
    with pytest.raises(BudgetExceeded) as caught:
        async with chain.stream("hi", max_tokens=50) as reply:
            async for _ in reply:
                pass
    error = caught.value
    assert (error.code, error.sent, error.billed, error.phase) == ("cut", True, "yes", "stream")
    assert error.partial is not None
    row = (await ledger_of(chain).spends())[0]
    assert FACTOR * 50 < row.output_tokens <= FACTOR * 50 + SLACK + 3.1 * SLACK + estimate_tokens(text) + 3
    assert row.status == "error"
    assert await balance(chain, config) == (row.nano, 0)


async def test_a_stream_that_keeps_to_its_cap_is_never_cut_nor_one_without_a_budget():
    for config in (budget(DAY, cut=False), budget(), budget(Rule(usd=1, action="alert"))):
        chain = Chain(mock(default=endless()), config, runtime=runtime())
        async with chain.stream("hi", max_tokens=50) as reply:
            done: Any = await reply.full()
        assert len(done.text) == 25_000
    chain = Chain(mock(default=["word "] * 50), budget(DAY), runtime=runtime())
    async with chain.stream("hi", max_tokens=50) as reply:
        await reply.full()


@given(st.lists(st.text(max_size=40), max_size=60), st.integers(1, 60))
def test_what_is_not_cut_is_not_changed_and_what_is_cut_was_too_much(pieces: list[str], cap: int):
    meter, came = Meter(lambda: cap), []
    cut = False
    for piece in pieces:
        try:
            came += meter.feed(TextDelta(piece))
        except BudgetExceeded:
            cut = True
            break
    assert [event.text for event in came] == pieces[: len(came)]
    total = estimate_tokens("".join(pieces[: len(came) + 1]))
    most = FACTOR * cap + SLACK
    if cut:  # the sum of parts is above that of the whole, by what each is rounded up
        assert total + 3 * (len(came) + 1) > most
    else:
        assert total <= most + 3.1 * SLACK + 3.1 * 40


def test_what_the_provider_tells_goes_before_the_estimate():
    meter = Meter(lambda: 100)
    for event in (Start(), UsageUpdate(Usage(5, 90)), ToolDelta(arguments="x" * 400), Finish("stop")):
        assert [*meter.feed(event)] == [event]
    with pytest.raises(BudgetExceeded):
        Meter(lambda: 100).feed(UsageUpdate(Usage(5, 1000)))


@pytest.mark.parametrize(
    "piece",
    [TextDelta("word " * 30), ReasoningDelta("word " * 30), RefusalDelta("word " * 30),
     ToolDelta(arguments="word " * 30), UsageUpdate(Usage(5, 1000))],
)  # fmt: skip
def test_all_that_comes_together_is_counted_whatever_its_kind(piece: Event):
    meter = Meter(lambda: 100)
    meter.see([Start(), TextDelta("a")])
    with pytest.raises(BudgetExceeded):
        meter.see([TextDelta("a"), *[piece] * 20])


class AtOnce:
    """A provider whose whole stream comes in one read."""

    name, endpoint, model = "p", "p", "m"

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    async def __call__(self, _call: Call) -> Reply:
        async def nothing() -> AsyncIterator[Event]:
            for event in ():
                yield event

        return Reply.stream(nothing(), self.events)


@pytest.mark.parametrize("after", [True, False])
async def test_a_reply_that_has_come_to_its_end_is_not_cut_for_what_its_provider_tells_then(after: bool):
    """OpenAI's usage comes behind the finish, Anthropic's with it: to cut there saves nothing."""
    told, finish = UsageUpdate(Usage(10, 10**6)), Finish("stop")
    last: list[Event] = [finish, told] if after else [told, finish]
    config = budget(DAY)
    chain = Chain(AtOnce([Start(model="m"), TextDelta("fine"), *last]), config, runtime=runtime())
    async with chain.stream("hi", max_tokens=20) as reply:
        done: Any = await reply.full()
    assert (done.text, done.finish_reason) == ("fine", "stop")
    row = (await ledger_of(chain).spends())[0]
    assert (row.status, row.output_tokens) == ("ok", 10**6)
    assert await balance(chain, config) == (row.nano, 0)


# ------------------------------------------------------------ numbers that are none


@pytest.mark.parametrize(
    "usage", [Usage(10.5, 3.5), Usage(40.0, 2, 1.5), Usage(float("nan"), 1), Usage(1, float("inf"))]  # type: ignore[arg-type]  # as a provider of somebody else's may tell
)  # fmt: skip
async def test_a_provider_whose_counts_are_no_whole_numbers_keeps_no_hold(usage: Usage):
    config = budget(DAY)
    chain = Chain(mock(default="fine", usage=usage), config, runtime=runtime())
    await chain.complete("hi")
    row = (await ledger_of(chain).spends())[0]
    assert row.nano is None or (type(row.nano) is int and row.nano > 0)
    assert await balance(chain, config) == (row.nano or 0, 0)


@pytest.mark.parametrize("rates", [{"input": 2}, {"output": 10}])
async def test_a_price_that_lacks_a_rate_is_not_known_where_a_budget_limits(rates: dict[str, Any]):
    """Held at nothing, and charged nothing, such a model would be without a budget."""
    chain = Chain(mock(default="fine"), Budget(rules=DAY, prices={"m": rates}), runtime=runtime())
    with pytest.raises(BudgetExceeded) as caught:
        await chain.complete("hi")
    assert caught.value.code == "unknown_price"
    allowed = Budget(rules=DAY, prices={"m": rates}, unknown_price="allow")
    await Chain(mock(default="fine"), allowed, runtime=runtime()).complete("hi")
    told = Budget(rules=Rule(usd=1, action="alert"), prices={"m": rates})
    await Chain(mock(default="fine"), told, runtime=runtime()).complete("hi")
    if "input" in rates:  # all that embeddings need
        await chain.embed(["one"])
