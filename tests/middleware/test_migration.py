"""Moving from an old target to a new one."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.errors import ConfigError, InvalidRequest, LLMError, Overloaded
from llmpipe.middleware.migration import Migration
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import conform
from llmpipe.types import Request


def chain(new=("new",), *, layers=(), **settings) -> tuple[Chain, MockProvider, MockProvider]:
    after = MockProvider(new, default="new", name="after", model="after-1")
    before = MockProvider(default="old", name="before", model="before-1")
    it = Chain(after, Migration(before, **settings), *layers, runtime=Runtime(seed=1))
    return it, after, before


async def share_of_new(it: Chain, callers: int) -> list[int]:
    """Which of so many users are answered by the new target."""
    return [n for n in range(callers) if (await it.complete("hi", user=f"user-{n}")).text == "new"]


async def test_nobody_is_moved_at_first():
    it, after, before = chain()
    assert (await it.complete("hi", model="any")).text == "old"
    assert (after.requests, before.requests[0].model) == ([], "before-1")


async def test_everybody_is_moved_in_the_end():
    it, after, before = chain(share=1.0)
    assert (await it.complete("hi", model="any")).text == "new"
    assert (after.requests[0].model, before.requests) == ("any", [])


async def test_a_share_moves_about_that_many_callers_and_a_larger_one_the_same_and_more():
    third, _, _ = chain(share=0.3)
    half, _, _ = chain(share=0.5)
    moved, later = await share_of_new(third, 1000), await share_of_new(half, 1000)
    assert 220 < len(moved) < 380
    assert 420 < len(later) < 580
    assert set(moved) < set(later)


async def test_a_name_that_is_no_utf8_is_drawn_like_any_other():
    it, _, _ = chain(share=0.5)
    assert (await it.complete("hi", user="\ud800")).text in ("old", "new")


async def test_a_caller_stays_where_it_is():
    it, _, _ = chain(share=0.5)
    for user in ("ann", "bob", "cem", "dan"):
        said = {(await it.complete("hi", user=user, tenant="t")).text for _ in range(10)}
        assert len(said) == 1


async def test_callers_without_a_name_are_drawn_anew():
    it, _, _ = chain(share=0.5)
    assert {(await it.complete("hi")).text for _ in range(40)} == {"new", "old"}


@pytest.mark.parametrize("error", [Overloaded("down"), InvalidRequest("the new client encodes it wrongly")])
async def test_whatever_fails_at_the_new_target_the_old_one_answers(error: LLMError):
    it, after, _ = chain([error], share=1.0)
    call = it.new_call(Request("", "hi"))
    assert (await (await it(call)).full()).text == "old"
    assert len(after.requests) == 1
    assert [(note.kind, note.detail) for note in call.ledger.notes] == [
        ("migration.returned", {"error": error.type})
    ]


async def test_nobody_waits_for_the_new_target():
    it, after, _ = chain([Overloaded("down")], share=1.0, layers=[Retry()])
    assert (await it.complete("hi")).text == "old"
    assert (len(after.requests), asyncio.get_running_loop().time()) == (1, 0.0)


async def test_a_flag_decides_for_each_call():
    it, _, _ = chain(flag=lambda call: call.user == "tester")
    assert (await it.complete("hi", user="tester")).text == "new"
    assert (await it.complete("hi", user="other")).text == "old"


async def test_a_flag_may_have_to_be_looked_up():
    async def look(call) -> bool:
        await asyncio.sleep(0.01)
        return True

    it, _, _ = chain(flag=look)
    assert (await it.complete("hi")).text == "new"


async def test_the_old_target_is_not_asked_without_time_for_it():
    it, _, before = chain([[Wait(5), Overloaded("late")]], share=1.0)
    with pytest.raises(Overloaded):
        await it.complete("hi", timeout=5.2)
    assert before.requests == []


async def test_the_old_one_may_be_a_whole_chain():
    old = Chain(MockProvider([Overloaded("busy"), "old"], name="before"), Retry())
    it = Chain(MockProvider([Overloaded("down")]), Migration(old, share=1.0), runtime=Runtime(seed=1))
    assert (await it.complete("hi")).text == "old"


async def test_closing_a_chain_closes_the_old_target():
    class Closing(MockProvider):
        closed = False

        async def aclose(self):
            self.closed = True

    old = Closing()
    await Chain(MockProvider(), Migration(old)).aclose()
    assert old.closed


async def test_a_migration_keeps_the_laws_of_the_pipeline():
    """That it answers what failed at the new target is no breach: another target has answered."""
    await conform(lambda: Migration(MockProvider(default=["o", "ld"]), share=1.0))


def test_what_is_no_target_and_no_share_is_refused():
    with pytest.raises(ConfigError, match="old provider"):
        Migration("claude")
    with pytest.raises(ConfigError, match="share"):
        Migration(MockProvider(), share=1.5)
