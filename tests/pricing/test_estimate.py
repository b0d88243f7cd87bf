"""From tokens to money."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.pricing import Price, Rates, cost_of, prices, worst_case, worst_case_cost
from llmpipe.tokens import estimate_request
from llmpipe.types import EmbeddingRequest, Request, RerankRequest, Text, ToolResult, Usage

USD = 1_000_000_000
HAIKU = Price("anthropic", "haiku", Rates(USD, 5 * USD, USD // 10, 5 * USD // 4, 2 * USD))
LONG = Price(
    "google",
    "pro",
    Rates(5 * USD // 4, 10 * USD),
    above=((200_000, Rates(5 * USD // 2, 15 * USD)), (500_000, Rates(4 * USD, 20 * USD))),
)

counts = st.integers(-1000, 10**9)
rates = st.none() | st.integers(0, 10**12)


def test_a_call_costs_what_its_price_list_says():
    cost = cost_of(Usage(1000, 500), HAIKU)
    assert cost is not None
    assert (cost.input_nano, cost.output_nano) == (1_000_000, 2_500_000)
    assert str(cost.usd) == "0.003500000"
    assert not cost.estimated


def test_cached_and_written_input_have_their_own_rates():
    usage = Usage(
        1000,
        0,
        cached_input_tokens=600,
        cache_write_tokens=300,
        extra={"cache_creation": {"ephemeral_1h_input_tokens": 100}},
    )
    cost = cost_of(usage, HAIKU)
    assert cost is not None
    assert cost.input_nano == 100 * 1000 + 600 * 100 + 200 * 1250 + 100 * 2000


def test_where_a_discount_is_not_known_the_full_rate_is_paid():
    cost = cost_of(
        Usage(1000, 0, cached_input_tokens=400, cache_write_tokens=100), Price("p", "m", Rates(USD, USD))
    )
    assert cost is not None
    assert cost.input_nano == 1_000_000


def test_a_long_prompt_pays_the_higher_rate_for_all_its_tokens():
    at_the_edge, beyond, far_beyond = (cost_of(Usage(n, 100), LONG) for n in (200_000, 200_001, 500_001))
    assert at_the_edge is not None
    assert beyond is not None
    assert far_beyond is not None
    assert at_the_edge.input_nano == 250_000_000
    assert beyond.input_nano == 500_002_500
    assert beyond.output_nano == 1_500_000
    assert far_beyond.input_nano == 2_000_004_000


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once_a_line():
    cost = cost_of(Usage(3, 1), Price("p", "m", Rates(37_500_000, 1)))
    assert cost is not None
    assert (cost.input_nano, cost.output_nano) == (113, 1)  # 112.5 and a millionth


def test_a_charge_for_each_request_is_added():
    cost = cost_of(Usage(0, 0), Price("p", "m", Rates(USD, USD, request=12 * 1_000_000 * 1_000_000)))
    assert cost is not None
    assert cost.total_nano == 12_000_000


def test_an_estimate_of_usage_makes_an_estimate_of_cost():
    cost = cost_of(Usage(1, 1, source="estimated"), HAIKU)
    assert cost is not None
    assert cost.estimated


def test_unknown_is_none_and_never_zero():
    assert cost_of(Usage(1, 1), None) is None
    assert cost_of(Usage(1, 1), Price("p", "embed", Rates(USD))) is None  # no rate for output
    assert cost_of(Usage(1, 0), Price("p", "m", Rates(None, USD))) is None
    assert cost_of(Usage(7, 0), Price("p", "embed", Rates(USD))) is not None
    assert worst_case(Request(messages="hi"), None) is None
    assert worst_case_cost("openai", "gpt-99", Request(messages="hi")) is None


@given(counts, counts, counts, counts, rates, rates, rates, rates)
def test_money_is_never_negative_never_too_little_and_off_by_less_than_one_nano(i, o, c, w, a, b, d, e):
    cost = cost_of(Usage(i, o, c, w), Price("p", "m", Rates(a, b, d, e)))
    i, o = max(0, i), max(0, o)
    if cost is None:
        assert (a is None and i) or (b is None and o)
        return
    cached = min(max(0, c), i)
    written = min(max(0, w), i - cached)
    exact = Fraction(
        (i - cached - written) * (a or 0)
        + cached * ((a or 0) if d is None else d)
        + written * ((a or 0) if e is None else e),
        10**6,
    )
    assert 0 <= cost.input_nano - exact < 1
    assert 0 <= cost.output_nano - Fraction(o * (b or 0), 10**6) < 1


@given(st.integers(0, 10**6), st.integers(0, 10**5), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_worst_case_covers_every_split_of_the_same_tokens(i, o, c, w):
    for price in (HAIKU, LONG):
        worst = worst_case(Request(messages="x", max_tokens=o), price, input_tokens=i)
        cost = cost_of(Usage(i, o, c, w), price)
        assert worst is not None
        assert cost is not None
        assert worst.total_nano >= cost.total_nano
        assert worst.estimated


def test_the_worst_case_counts_input_output_and_answers():
    request = Request(messages="hello there", max_tokens=100, extra={"n": 3})
    worst = worst_case(request, HAIKU)
    assert worst is not None
    assert worst.input_nano == estimate_request(request) * 1250
    assert worst.output_nano == 3 * 100 * 5000


@pytest.mark.parametrize(
    ("extra", "answers"),
    [
        ({"n": "3"}, 3),
        ({"n": " 3 "}, 3),
        ({"n": 3.0}, 3),
        ({"n": "3.0"}, 3),
        ({"n": 2.5}, 3),
        ({"best_of": "4", "n": 2}, 4),
        ({"generationConfig": {"candidateCount": "2"}}, 2),
        ({"n": 10**400}, 10**400),
        ({"n": "three"}, 1),
        ({"n": float("nan")}, 1),
        ({"n": float("inf")}, 1),
        ({"n": "-inf"}, 1),
        ({"n": -2.0}, 1),
        ({"n": [3]}, 1),
        ({"n": None}, 1),
        ({"generationConfig": "3"}, 1),
    ],
)
def test_answers_are_counted_however_their_number_is_written(extra: dict[str, object], answers: int):
    worst = worst_case(Request(messages="hello", max_tokens=100, extra=extra), HAIKU)
    assert worst is not None
    assert worst.output_nano == answers * 100 * 5000


def test_without_a_limit_the_worst_case_takes_the_default_one():
    worst = worst_case(Request(messages="hello"), HAIKU, default_output_tokens=1000)
    assert worst is not None
    assert worst.output_nano == 1000 * 5000


def test_a_count_below_zero_reserves_no_less_than_nothing():
    cost = worst_case(Request(messages="x", max_tokens=-5), HAIKU, input_tokens=-1000)
    assert cost is not None
    assert cost.total_nano == 0


@pytest.mark.parametrize("within", [False, True])
def test_a_prompt_cached_for_an_hour_is_reserved_at_that_rate(within: bool):
    part: Any = Text("long", {"cache_control": {"type": "ephemeral", "ttl": "1h"}})
    if within:  # what a tool has answered is kept too
        part = ToolResult("call-1", (Text("short"), part))
    request = Request(messages=[{"role": "user", "content": [part]}], max_tokens=0)
    worst = worst_case(request, HAIKU, input_tokens=1000)
    usage = Usage(1000, 0, 0, 1000, extra={"cache_creation": {"ephemeral_1h_input_tokens": 1000}})
    cost = cost_of(usage, HAIKU)
    assert worst is not None
    assert cost is not None
    assert worst.total_nano == cost.total_nano == 2_000_000


@pytest.mark.parametrize(
    "request_",
    [EmbeddingRequest("text-embedding-3-small", ["a b c", "d"]), RerankRequest("m", "q", ["a", "b"])],
)
def test_what_makes_no_text_costs_its_input(request_):
    price = prices().find("openai", "text-embedding-3-small")
    worst = worst_case(request_, price)
    assert worst is not None
    assert worst.output_nano == 0
    assert worst.input_nano > 0


def test_the_cost_of_a_request_is_found_by_names():
    worst = worst_case_cost("openai", "gpt-4o-mini", Request(messages="hello", max_tokens=10))
    assert worst is not None
    assert worst.output_nano == 6000
