"""Who pays for a batch: each member for its own part, before it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import BudgetExceeded, ServiceUnavailable
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.charging import charge_for
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.share import Share
from llmpipe.pricing import Price, PriceTable, Rates
from llmpipe.providers.mock import MockProvider
from llmpipe.testing import run
from llmpipe.tokens import estimate_request
from llmpipe.types import Cost as Charge
from llmpipe.types import EmbeddingRequest, Embeddings, Usage


def answer(request: Any) -> Embeddings:
    """A vector for each input."""
    return Embeddings(
        vectors=tuple((0.5, 0.5) for _ in request.inputs), usage=Usage(7 * len(request.inputs), 0)
    )


PRICES: dict[str, Any] = {"*": {"input": 1, "output": 1}}


async def test_every_member_holds_its_own_part():
    budget = Budget(rules=Rule(usd=1, period="day", per="user"), prices=PRICES)
    held: list[int] = []

    class Looking(MockProvider):
        async def __call__(self, call: Any) -> Any:
            for user in ("ada", "bob"):
                held.extend(one.held for one in await budget.status(call.runtime, user=user))
            return await super().__call__(call)

    provider = Looking(default=answer)
    chain: Any = Chain(provider, budget, Batch(across_users=True))
    await asyncio.gather(*[chain.embed(["some text"], user=user) for user in ("ada", "bob")])
    assert len(provider.requests) == 1
    assert held[0] == held[1] > 0
    spent = [(await budget.status(chain.runtime, user=user))[0] for user in ("ada", "bob")]
    assert all(one.spent > 0 and not one.held for one in spent)


async def test_a_member_without_money_is_refused_and_the_others_are_sent_together():
    rules = [Rule(usd="0.000000001", period="day", per="user", when={"user": "poor"}, name="poor"),
             Rule(usd=1, period="day", per="user")]  # fmt: skip
    budget, ledgers = Budget(rules=rules, prices=PRICES), Ledgers()
    chain: Any = Chain(MockProvider(default=answer), budget, Batch(across_users=True), ledgers)
    users = ("ada", "poor", "bob", "cy")
    found: Any = await asyncio.gather(
        *[chain.embed([f"a text of {user}"], user=user) for user in users], return_exceptions=True
    )
    assert [type(one) for one in found] == [Embeddings, BudgetExceeded, Embeddings, Embeddings]
    assert [request.inputs for request in chain.provider.requests] == [
        ("a text of ada", "a text of bob", "a text of cy")
    ]
    assert [note.kind for note in ledgers.of["poor"].notes] == [
        "batch.sent", "budget.refused", "batch.parted"
    ]  # fmt: skip
    assert dict(ledgers.of["ada"].notes[-1].detail) == {"calls": 4, "into": 2}
    for user in ("ada", "bob", "cy"):
        [status] = [one for one in await budget.status(chain.runtime, user=user) if one.rule != "poor"]
        assert (status.spent, status.held) == (7000, 0)


async def test_nobody_hears_why_another_one_was_refused():
    rules = [Rule(usd="0.000000001", period="day", per="user")]
    chain: Any = Chain(
        MockProvider(default=answer), Budget(rules=rules, prices=PRICES), Batch(across_users=True)
    )
    found: Any = await asyncio.gather(
        *[chain.embed(["some text"], user=user) for user in ("ada", "bob")], return_exceptions=True
    )
    for user, error in zip(("ada", "bob"), found, strict=True):
        assert isinstance(error, BudgetExceeded)
        assert f"user={user}" in error.metadata["scope"]
    assert chain.provider.requests == []


async def test_money_for_one_of_two_is_spent_on_one():
    budget = Budget(rules=Rule(usd="0.000009", period="day", per="user"), prices=PRICES)
    chain: Any = Chain(MockProvider(default=answer), budget, Batch())
    text = "a text of some seven tokens"
    found = await asyncio.gather(*[chain.embed([text], user="ada") for _ in range(2)], return_exceptions=True)
    assert [type(one) for one in found] == [Embeddings, BudgetExceeded]
    assert [len(request.inputs) for request in chain.provider.requests] == [1]
    [status] = await budget.status(chain.runtime, user="ada")
    assert (status.spent, status.held) == (7000, 0)


async def test_a_refused_member_goes_where_a_fallback_sends_it_and_the_others_do_not():
    rules = [Rule(usd="0.000000001", period="day", per="user", when={"user": "poor", "model": "dear"})]
    dear, cheap = (MockProvider(default=answer, name=name, model=name) for name in ("dear", "cheap"))
    chain: Any = Chain(dear, Budget(rules=rules, prices=PRICES), Batch(across_users=True), Fallback(cheap))
    await asyncio.gather(*[chain.embed([user], user=user) for user in ("ada", "poor", "bob")])
    assert [request.inputs for request in dear.requests] == [("ada", "bob")]
    assert [request.inputs for request in cheap.requests] == [("poor",)]


async def test_an_attempt_is_paid_from_the_budget_of_the_model_that_it_goes_to():
    rules = [
        Rule(usd=1, period="day", per=("user", "model"), name="each"),
        Rule(usd=1, period="day", per="user", name="all"),
    ]
    budget = Budget(
        rules=rules, prices={"dear": {"input": 5, "output": 0}, "cheap": {"input": 1, "output": 0}}
    )
    dear = MockProvider(default=ServiceUnavailable("no", sent=True, billed="yes"), name="dear", model="dear")
    cheap = MockProvider(default=answer, name="cheap", model="cheap")
    chain: Any = Chain(dear, budget, Batch(across_users=True), Fallback(cheap))
    await asyncio.gather(*[chain.embed(["some text"], user=user, model="dear") for user in ("ada", "bob")])
    assert len(dear.requests) == len(cheap.requests) == 1
    for user in ("ada", "bob"):
        spent = {
            model: {one.rule: one.spent for one in await budget.status(chain.runtime, user=user, model=model)}
            for model in ("dear", "cheap")
        }
        assert spent["cheap"]["each"] == 7000
        assert spent["dear"]["each"] > 0
        assert spent["dear"]["each"] % 5000 == 0
        assert spent["cheap"]["all"] == spent["dear"]["each"] + spent["cheap"]["each"]


# ---------------------------------------------------------------- what guards change


class Steering:
    """Puts a guard on every call, which sends some users to another model, or refuses them."""

    name, priority = "steering", 510

    def __init__(self, models: dict[str, str], refuse: dict[str, int] | None = None) -> None:
        self.models, self.refuse = models, refuse or {}
        self.asked: list[str] = []

    async def __call__(self, call: Call, call_next: Any) -> Any:
        async def guard(attempt: Call) -> Call:
            self.asked.append(attempt.user)
            await asyncio.sleep(0)
            if len([user for user in self.asked if user == attempt.user]) == self.refuse.get(attempt.user):
                raise BudgetExceeded(f"not {attempt.user}")
            model = self.models.get(attempt.user, attempt.request.model)
            return attempt.evolve(request=evolve(attempt.request, model=model))

        return await call_next(call.evolve(guards=(*call.guards, guard)))


class Ledgers:
    """Keeps the ledger of each user's latest call."""

    name, priority = "ledgers", 100

    def __init__(self) -> None:
        self.of: dict[str, Any] = {}

    async def __call__(self, call: Call, call_next: Any) -> Any:
        self.of[call.user] = call.ledger
        return await call_next(call)


async def embed_all(chain: Any, *users: str) -> Any:
    return await asyncio.gather(
        *[chain.embed([f"of {user}"], user=user) for user in users], return_exceptions=True
    )


async def vectors_of(text: str) -> Any:
    return (await Chain(MockProvider(default="ok")).embed([text])).vectors


async def test_a_member_that_is_sent_to_another_model_goes_by_itself_and_all_get_their_own():
    steering, ledgers = Steering({"bob": "small", "cy": "small", "di": "tiny"}), Ledgers()
    chain: Any = Chain(MockProvider(default="ok"), steering, Batch(across_users=True), ledgers)
    users = ("ada", "bob", "cy", "di", "ed")
    found = await embed_all(chain, *users)
    sent = {request.model: request.inputs for request in chain.provider.requests}
    assert sent == {"": ("of ada", "of ed"), "small": ("of bob", "of cy"), "tiny": ("of di",)}
    assert [one.vectors for one in found] == [await vectors_of(f"of {user}") for user in users]
    assert sorted(steering.asked) == sorted(users)  # once: each has paid for the attempt
    for user in users:
        [attempt] = ledgers.of[user].attempts
        assert attempt.request.inputs == (f"of {user}",)
        assert attempt.asked_model == (steering.models.get(user) or "mock-1")
        assert attempt.usage.input_tokens == attempt.outcome.completion.usage.input_tokens > 0


async def test_members_that_are_all_sent_to_one_model_stay_together():
    chain: Any = Chain(
        MockProvider(default="ok"), Steering(dict.fromkeys("ab", "small")), Batch(across_users=True)
    )
    await embed_all(chain, "a", "b")
    assert [(request.model, len(request.inputs)) for request in chain.provider.requests] == [("small", 2)]


async def test_who_is_refused_at_a_retry_leaves_and_the_others_go_on():
    steering, ledgers = Steering({}, refuse={"bob": 2}), Ledgers()
    provider = MockProvider([ServiceUnavailable("no")], default="ok")
    chain: Any = Chain(provider, steering, Batch(across_users=True), Retry(base=0.1, cap=0.1), ledgers)
    found = await embed_all(chain, "ada", "bob", "cy")
    assert [type(one) for one in found] == [Embeddings, BudgetExceeded, Embeddings]
    assert [request.inputs for request in provider.requests] == [
        ("of ada", "of bob", "of cy"), ("of ada", "of cy")
    ]  # fmt: skip
    assert [one.vectors for one in (found[0], found[2])] == [
        await vectors_of("of ada"), await vectors_of("of cy")
    ]  # fmt: skip
    assert [attempt.status for attempt in ledgers.of["ada"].attempts] == ["error", "ok"]
    assert [attempt.status for attempt in ledgers.of["bob"].attempts] == ["error"]


async def test_a_guard_that_fails_fails_for_all():
    class Broken(Steering):
        async def __call__(self, call: Call, call_next: Any) -> Any:
            async def guard(attempt: Call) -> Call:
                raise KeyError("bug")

            return await call_next(call.evolve(guards=(guard,)))

    chain: Any = Chain(MockProvider(default="ok"), Broken({}), Batch(across_users=True))
    assert [type(one) for one in await embed_all(chain, "a", "b")] == [KeyError, KeyError]
    assert chain.provider.requests == []


async def test_all_who_wait_for_parted_requests_may_leave():
    class Never(MockProvider):
        busy = 0

        async def __call__(self, call: Any) -> Any:
            self.busy += 1
            try:
                await asyncio.sleep(1000)
            finally:
                self.busy -= 1

    chain: Any = Chain(Never(), Steering({"bob": "small"}), Batch(across_users=True))
    tasks = [asyncio.create_task(chain.embed(["x"], user=user)) for user in ("ada", "bob")]
    await asyncio.sleep(1)
    assert chain.provider.busy == 2
    for task in tasks:
        task.cancel()
    assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [
        asyncio.CancelledError, asyncio.CancelledError
    ]  # fmt: skip
    assert chain.provider.busy == 0
    assert not chain.runtime._tasks


# ---------------------------------------------------------------- to the nano-USD

RATES = {"input": "0.0137", "output": 0}  # a token is 13.7 nano-USD


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ok", "unknown", "no"]),
)
def test_what_the_members_pay_is_what_the_whole_costs(
    words: list[int], books: bool, fails: bool, billed: Any
):
    async def main() -> None:
        budget = Budget(rules=Rule(usd=1, period="day"), prices={"*": RATES})
        script: list[Any] = [ServiceUnavailable("no", sent=True, billed=billed)] if fails else []
        layers: list[Any] = [Cost(prices={"*": RATES})] if books else []
        ledgers = Ledgers()
        provider = MockProvider(script, default="ok")
        chain: Any = Chain(
            provider, budget, Batch(across_users=True), Retry(base=0.1, cap=0.1), ledgers, *layers
        )
        texts = ["word " * count for count in words]
        found = await asyncio.gather(*[chain.embed([text], user=f"u{n}") for n, text in enumerate(texts)])
        whole = await Chain(MockProvider(default="ok")).embed(texts)
        told: Any = whole.usage
        nano = -(-told.input_tokens * 13_700 // 1000)
        if fails and billed != "no":
            nano += -(-estimate_request(EmbeddingRequest(inputs=tuple(texts))) * 13_700 // 1000)
        [status] = await budget.status(chain.runtime)
        assert (status.spent, status.held) == (nano, 0)
        if books:
            assert Cost.totals(chain.runtime).all.nano == nano
            attempts = [attempt for ledger in ledgers.of.values() for attempt in ledger.attempts]
            assert sum(attempt.charge.total_nano for attempt in attempts) == nano
            assert sum(one.charge.total_nano for one in found) == nano

    run(main())


async def test_a_fee_for_each_request_is_paid_once_and_a_tier_is_that_of_the_whole():
    plain, dear = (
        Rates(input=1_000_000_000, output=0, request=3_000_000),
        Rates(input=9_000_000_000, output=0),
    )
    price = Price("p", "m", plain)
    whole = Usage(100, 0)
    attempt = Attempt(1, "p", "m", EmbeddingRequest(inputs=("x",)), 0.0)
    for above, nano in (((), 100_003), (((99, dear),), 900_000)):
        table = PriceTable({"m": evolve(price, above=above)})
        parts = [
            charge_for(table, evolve(attempt, share=Share(whole, [1, 1, 1], place)), "m", Usage(33, 0))
            for place in range(3)
        ]
        assert sum(part.total_nano for part in parts if part is not None) == nano


def test_a_part_of_what_has_no_price_has_none():
    attempt = Attempt(1, "p", "m", EmbeddingRequest(inputs=("x",)), 0.0, share=Share(Usage(9, 0), [1, 2], 0))
    assert charge_for(PriceTable({}), evolve(attempt, provider="nobody"), "unheard-of", Usage(3, 0)) is None
    assert charge_for(PriceTable({}), attempt, "m", None) == Charge()  # it was not sent
