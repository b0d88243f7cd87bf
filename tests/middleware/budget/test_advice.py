"""What could be saved, from journals of which that is known."""

from __future__ import annotations

from typing import Any

from llmpipe.middleware.budget import Rule
from llmpipe.middleware.budget.advice import advise
from llmpipe.middleware.budget.journal import prefix_of
from llmpipe.pipeline.chain import Chain
from llmpipe.pricing import PriceTable
from llmpipe.state import Spend
from llmpipe.types import Message, Request
from tests.middleware.budget.bank import budget, ledger_of, mock, runtime


def rows(count: int, **fields: Any) -> list[Spend]:
    base: dict[str, Any] = {"nano": 1000, "provider": "p", "model": "m", "at": 1.0}
    name = f"{sorted(fields.items())}"
    return [Spend(id=f"{name}{number}", **{**base, **fields}) for number in range(count)]


def test_a_cheaper_model_that_did_as_well_is_named_with_what_it_saves():
    journal = [
        *rows(100, model="large", nano=10_000, use_case="mail"),
        *rows(60, model="small", nano=1000, use_case="mail"),
        *rows(1, model="small", nano=1000, use_case="mail", status="error"),
        *rows(60, model="tiny", nano=10, use_case="mail"),
        *rows(20, model="tiny", nano=10, use_case="mail", status="error"),
        *rows(10, model="rare", nano=1, use_case="mail"),
        *rows(100, model="cheap", nano=1, use_case="other"),
        *rows(100, model="cheap", nano=1),
    ]
    found = [one for one in advise(journal) if one.kind == "model"]
    assert [(one.what, one.saving) for one in found] == [("mail", 900_000)]
    assert "use p/small in place of p/large" in found[0].text


def test_who_left_early_is_no_failure_of_the_model():
    journal = [
        *rows(60, model="large", nano=10_000, use_case="mail"),
        *rows(60, model="small", nano=1000, use_case="mail"),
        *rows(60, model="small", nano=1000, use_case="mail", status="abandoned"),
    ]
    assert [one.what for one in advise(journal)] == ["mail"]


def test_what_is_asked_again_could_be_cached_but_not_over_tenants():
    journal = [
        *rows(5, prompt="x", tenant="a"),
        *rows(1, prompt="x", tenant="b"),
        *rows(1, prompt="y", tenant="b"),
        *rows(3, prompt=""),
        *rows(3, prompt="z", status="error"),
    ]
    found = advise(journal)
    assert [(one.kind, one.calls, one.saving) for one in found] == [("cache", 4, 4000)]


def test_a_max_tokens_far_above_what_comes_is_named():
    journal = [
        *rows(95, asked_tokens=4096, output_tokens=100),
        *rows(5, asked_tokens=4096, output_tokens=900),
    ]
    found = advise(journal)
    assert [(one.kind, one.saving) for one in found] == [("max_tokens", 0)]
    assert "ask for 125 max_tokens in place of 4096" in found[0].text
    assert advise(rows(100, asked_tokens=200, output_tokens=150)) == []
    assert advise(rows(10, asked_tokens=4096, output_tokens=1)) == []


def test_prompts_that_begin_alike_and_are_not_kept_are_named():
    prices = PriceTable({"p/m": {"input": 2, "cached_input": 1, "output": 10}})
    cold = rows(100, prefix="x", input_tokens=2000, asked_tokens=None)
    assert [(one.kind, one.saving) for one in advise(cold, prices=prices)] == [
        ("prompt_cache", 1024 * 99 * 1000)
    ]
    warm = rows(100, prefix="x", input_tokens=2000, cached_input_tokens=1024)
    short = rows(100, prefix="y", input_tokens=900)
    assert advise([*warm, *short], prices=prices) == []
    assert advise(cold, prices=PriceTable({"p/m": {"input": 2, "output": 10}})) == []


def test_the_beginning_of_a_request_is_its_first_four_kilobytes():
    system = Message("system", "rule " * 1000)
    one = Request("m", [system, Message("user", "first")])
    other = Request("m", [system, Message("user", "second")])
    assert prefix_of(one) == prefix_of(other) != ""
    assert prefix_of(Request("n", one.messages)) != prefix_of(one)
    assert prefix_of(Request("m", "short")) == ""


async def test_digests_are_written_only_where_they_are_asked_for():
    for digests in (False, True):
        chain = Chain(mock(default="x"), budget(Rule(usd=1), digests=digests), runtime=runtime())
        for text in ("one", "two", "one"):
            await chain.complete(text, max_tokens=5)
        prompts = [row.prompt for row in await ledger_of(chain).spends()]
        assert len(set(prompts)) == (2 if digests else 1)
        assert ("" in prompts) is not digests
        assert not any("one" in prompt for prompt in prompts)
