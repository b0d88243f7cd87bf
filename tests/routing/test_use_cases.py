"""Use cases instead of model names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import AuthenticationFailed, ConfigError, InvalidRequest, Overloaded
from llmpipe.middleware.fallback import Fallback
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.routing.use_cases import PREFERENCES, Entry, UseCases

CASES = tuple(PREFERENCES)


def target(model: str, name: str = "") -> MockProvider:
    return MockProvider(default=model, name=name or model.partition("-")[0], model=model)


# The table of the router that this is made after.
MINI = Entry(target("gpt-4o-mini"), ("draft", "summary", "general", "voice"), default=True, max_tokens=16384)
GPT = Entry(target("gpt-4o"), ("vision", "complex"))
HAIKU = Entry(target("claude-haiku-4-5"), ("draft", "summary"))
SONNET = Entry(target("claude-sonnet-4-5"), ("complex",))
ACME = Entry(target("gpt-4o-mini", "acme"), ("draft", "summary"), account="acme")
TABLE = (MINI, GPT, HAIKU, SONNET, ACME)


@pytest.mark.parametrize(
    ("use_case", "chosen"),
    [
        ("draft", HAIKU),
        ("summary", HAIKU),
        ("complex", SONNET),
        ("vision", GPT),
        ("general", MINI),
        ("voice", MINI),
        ("", MINI),
    ],
)
def test_each_use_case_goes_to_the_model_it_prefers(use_case: str, chosen: Entry):
    assert UseCases(TABLE).choose(use_case) is chosen


def test_an_accounts_own_entry_goes_before_the_global_one_that_is_preferred():
    table = UseCases(TABLE)
    assert table.choose("draft", account="acme") is ACME
    assert table.choose("draft", account="other") is HAIKU
    assert table.choose("complex", account="acme") is SONNET


def test_a_named_model_goes_before_the_use_case_and_the_accounts_own_before_the_global_one():
    table = UseCases(TABLE)
    assert table.choose("draft", model="gpt-4o") is GPT
    assert table.choose("draft", model="gpt-4o-mini") is MINI
    assert table.choose("draft", model="gpt-4o-mini", account="acme") is ACME
    assert table.choose("draft", model="unheard-of") is None


def test_what_is_preferred_goes_before_what_is_no_default_and_that_before_the_default():
    one, two, three = target("a-1"), target("b-1"), target("c-1")
    table = UseCases(
        [Entry(one, "draft", default=True), Entry(two, "draft"), Entry(three, "draft", default=True)],
        preferences={"draft": ["c-1"]},
    )
    assert table.choose("draft").target is three
    assert UseCases(table.entries[:2], preferences={"draft": ()}).choose("draft").target is two


def test_a_dated_version_of_a_preferred_model_is_that_model_and_a_longer_name_is_not():
    dated, other = target("claude-haiku-4-5-20251001"), target("claude-haiku-4-5-fast")
    table = UseCases([Entry(other, "draft"), Entry(dated, "draft")])
    assert table.choose("draft").target is dated


def test_without_an_entry_for_the_use_case_the_default_answers_the_accounts_own_first():
    mine = Entry(target("m-1"), account="acme", default=True)
    table = UseCases([Entry(target("g-1"), default=True), mine])
    assert table.choose("vision").target.model == "g-1"
    assert table.choose("vision", account="acme") is mine
    assert UseCases([Entry(target("g-1"), "draft")]).choose("vision") is None


def test_an_entry_that_is_not_active_is_not_there():
    table = UseCases([Entry(target("a-1"), "draft", active=False), Entry(target("b-1"), default=True)])
    assert table.choose("draft").target.model == "b-1"
    assert table.choose(model="a-1") is None


entries = st.builds(
    lambda model, cases, account, default, active: Entry(
        target(model, f"of-{account}"), cases, account=account, default=default, active=active
    ),
    st.sampled_from(["gpt-4o", "gpt-4o-mini", "claude-haiku-4-5", "own-1"]),
    st.lists(st.sampled_from(CASES), max_size=3),
    st.sampled_from(["", "acme", "other"]),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(entries, min_size=1, max_size=6), st.sampled_from(CASES), st.sampled_from(["", "acme"]))
def test_the_order_of_choice_holds_for_every_table(table: list[Entry], use_case: str, account: str):
    chosen = UseCases(table).choose(use_case, account=account)
    mine = [one for one in table if one.active and one.account in ("", account)]
    listed = [one for one in mine if use_case in one.use_cases]
    if chosen is None:
        assert not listed
        assert not any(one.default for one in mine)
        return
    assert chosen in mine
    rivals = listed or [one for one in mine if one.default]
    assert chosen in rivals
    assert chosen.account or not any(one.account for one in rivals)
    if listed and chosen.default:
        equals = [
            one for one in listed if one.account == chosen.account and one.target.model == chosen.target.model
        ]
        assert all(one.default for one in equals)


# -- in a chain


def chain(table: Any = TABLE, *layers: Any, **settings: Any) -> tuple[Chain, MockProvider]:
    own = MockProvider(default="own", name="own", model="own-1")
    return Chain(own, UseCases(table, **settings), *layers), own


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tag_and_the_tenant_of_a_call_choose(stream: bool):
    it, own = chain()
    for tags, tenant, answer in (
        ({"use_case": "draft"}, "", "claude-haiku-4-5"),
        ({"use_case": "draft"}, "acme", "gpt-4o-mini"),
        ({}, "", "gpt-4o-mini"),
    ):
        if stream:
            async with it.stream("hi", tags=tags, tenant=tenant) as reply:
                done = await reply.full()
        else:
            done = await it.complete("hi", tags=tags, tenant=tenant)
        assert (done.text, done.model) == (answer, answer)
    assert own.requests == []


async def test_a_model_that_no_entry_has_goes_to_the_chains_own_target_as_it_is():
    it, own = chain()
    await it.complete("hi", model="unheard-of", tags={"use_case": "draft"})
    assert own.requests[0].model == "unheard-of"


async def test_the_bound_of_an_entry_is_for_requests_that_have_none():
    mini = target("gpt-4o-mini")
    it, _ = chain([Entry(mini, "general", max_tokens=100)], use_case="general")
    await it.complete("hi")
    await it.complete("hi", max_tokens=500)
    assert [request.max_tokens for request in mini.requests] == [100, 500]


async def test_a_use_case_that_is_not_known_is_refused_with_those_that_are():
    it, own = chain()
    with pytest.raises(
        InvalidRequest, match=r"unknown use case 'darft'; known are draft, .*; did you mean 'draft'"
    ) as no:
        await it.complete("hi", tags={"use_case": "darft"})
    assert (no.value.sent, no.value.code, own.requests) == (False, "use_case", [])


async def test_embeddings_go_to_the_chains_own_target():
    it, own = chain()
    await it.embed("hi", tags={"use_case": "draft"})
    assert len(own.requests) == 1


async def test_a_chain_can_be_an_entry_and_fallback_takes_over_where_one_fails():
    down = MockProvider(default=Overloaded("down"), name="down", model="down-1")
    inner = Chain(target("inner-1"))
    table = [Entry(down, "draft"), Entry(inner, "voice")]
    it, own = chain(table, Fallback(target("other-1")))
    assert (await it.complete("hi", tags={"use_case": "voice"})).text == "inner-1"
    assert (await it.complete("hi", tags={"use_case": "draft"})).text == "other-1"
    assert own.requests == []


async def test_a_call_can_name_its_own_preferences():
    it, _ = chain([Entry(target("a-1"), "draft"), Entry(target("b-1"), "draft")])
    options = {UseCases: {"preferences": {"draft": ["b-1"]}}}
    done = await it.complete("hi", tags={"use_case": "draft"}, options=options)
    assert done.text == "b-1"


async def test_closing_closes_each_target_once():
    closed = []

    class Closing(MockProvider):
        async def aclose(self) -> None:
            closed.append(self.name)

    one = Closing(name="one")
    await UseCases([Entry(one, "draft"), Entry(one, "voice")]).aclose()
    assert closed == ["one"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: UseCases([]), "needs an entry"),
        (lambda: UseCases([target("a-1")]), "entry 1 of the use cases is a MockProvider; expected an Entry"),
        (lambda: UseCases([Entry(target("a-1"), "poetry")]), "unknown use case 'poetry'; known are draft"),
        (lambda: UseCases([Entry(target("a-1"))], use_case="poetry"), "unknown use case 'poetry'"),
        (lambda: Entry("gpt"), "the target of a use case is a str"),
        (lambda: Entry(MockProvider), "the class MockProvider"),
        (lambda: Entry(target("a-1"), max_tokens=0), "max_tokens of 'a' is 0"),
        (lambda: Entry(target("a-1"), [3]), "use cases are names"),
    ],
)
def test_a_wrong_table_is_refused(make: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        make()


def test_a_use_case_of_ones_own_is_one_more_preference():
    table = UseCases([Entry(target("a-1"), "poetry")], preferences={**PREFERENCES, "poetry": ()})
    assert table.choose("poetry").target.model == "a-1"


def test_targets_of_two_accounts_that_would_share_a_circuit_are_refused():
    """Else a key that one account lets expire would rest the other's target as well."""
    ours, theirs = target("gpt-4o", "openai"), target("gpt-4o", "openai")
    with pytest.raises(ConfigError, match="would share circuits and limits; give one a name of its own"):
        UseCases([Entry(ours, "draft"), Entry(theirs, "draft", account="acme")])
    UseCases([Entry(ours, "draft"), Entry(ours, "draft", account="acme")])  # it is the same
    UseCases([Entry(ours, "draft"), Entry(target("gpt-4o", "openai-of-acme"), "draft", account="acme")])


async def test_a_key_that_one_account_let_expire_rests_nobody_elses_target():
    class Expired(MockProvider):
        async def __call__(self, call: Any) -> Any:
            self.requests.append(call.request)
            raise AuthenticationFailed("expired")

    acme = Expired(name="openai-of-acme", model="gpt-4o")
    table = [Entry(target("gpt-4o", "openai"), "draft"), Entry(acme, "draft", account="acme")]
    it, _ = chain(table, Fallback(target("spare")))
    for _ in range(3):
        assert (await it.complete("hi", tenant="acme", tags={"use_case": "draft"})).text == "spare"
        assert (await it.complete("hi", tenant="other", tags={"use_case": "draft"})).text == "gpt-4o"
    assert len(acme.requests) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(CASES), st.booleans(), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "a", "b", "c", "A", "a "]),
    st.sampled_from(["", *CASES]),
    st.sampled_from(["", "m0", "m1", "m5"]),
)
def test_no_tenant_ever_gets_what_is_anothers(lines: Any, tenant: str, case: str, model: str):
    table = [
        Entry(target(f"m{at}", f"p{at}"), case, account=account, default=default, active=active)
        for at, (account, case, default, active) in enumerate(lines)
    ]
    chosen = UseCases(table).choose(case, account=tenant, model=model)
    assert chosen is None or (chosen.account in ("", tenant) and chosen.active)


@pytest.mark.parametrize("tag", [7, ["draft"], "x" * 1000])
async def test_a_tag_that_is_no_use_case_of_any_kind_is_refused(tag: Any):
    it, own = chain()
    with pytest.raises(InvalidRequest, match="unknown use case"):
        await it.complete("hi", tags={"use_case": tag})
    assert own.requests == []
