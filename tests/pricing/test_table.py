"""Finding prices: spellings, hosts, overrides, times; and that the packaged file is what it says."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest

from llmpipe.errors import ConfigError
from llmpipe.pricing import Price, PriceTable, Rates, prices

USD = 1_000_000_000  # nano-USD; a rate of 1 USD per million tokens


def file(**providers) -> bytes:
    return orjson.dumps({"source": {}, "providers": providers})


def model(name, *rules, rate=USD, **more):
    prices = more.pop("prices", [{"rates": {"input": rate, "output": 2 * rate}}])
    return {"id": name, "match": list(rules or ("=" + name,)), "prices": prices, **more}


@pytest.mark.parametrize(
    ("provider", "name", "found", "input_usd"),
    [
        ("openai", "gpt-4o", ("openai", "gpt-4o"), "2.5"),
        ("openai", "gpt-4o-2024-08-06", ("openai", "gpt-4o"), "2.5"),
        ("openai", "gpt-4o-2024-05-13", ("openai", "gpt-4o-2024-05-13"), "5"),
        ("openai", "GPT-4o-mini", ("openai", "gpt-4o-mini"), "0.15"),
        ("OpenAI", "gpt-4o-mini-2031-12-24", ("openai", "gpt-4o-mini"), "0.15"),
        ("openrouter", "openai/gpt-4o", ("openrouter", "openai/gpt-4o"), "2.5"),
        ("anthropic", "claude-haiku-4-5-20251001", ("anthropic", "claude-haiku-4-5"), "1"),
        ("vertex", "claude-haiku-4-5@20251001", ("google", "claude-haiku-4-5"), "1"),
        ("gemini", "models/gemini-2.5-flash", ("google", "gemini-2.5-flash"), "0.3"),
        ("vertex_ai", "publishers/google/models/gemini-2.5-flash", ("google", "gemini-2.5-flash"), "0.3"),
        ("azure", "gpt-4o-mini", ("azure", "gpt-4o-mini"), "0.15"),
        ("xai", "grok-4", ("x-ai", "grok-4-0709"), "3"),
    ],
)
def test_the_packaged_table_knows_the_spellings_of_a_model(provider, name, found, input_usd):
    price = prices().find(provider, name)
    assert price is not None
    assert (price.provider, price.model) == found
    assert price.rates.input == int(Decimal(input_usd) * USD)


def test_the_packaged_file_says_where_it_is_from():
    source = prices().source
    assert source["name"] == "genai-prices"
    assert source["unit"] == "nano-USD per million tokens"
    assert source["date"] > "2026-01-01"
    assert "MIT License" in source["licence"]
    assert "Copyright" in source["licence"]


def test_every_price_in_the_packaged_file_can_be_resolved():
    table, known = PriceTable(), 0
    for provider, name in table.models():
        price = table.find(provider, name)
        if price is None:
            continue
        known += 1
        assert price.model == name, f"{provider}/{name} is taken for {price.model}"
        for rates in (price.rates, *(rates for _, rates in price.above)):
            assert rates.input is not None
            assert all(
                value is None or value >= 0 for value in (rates.input, rates.output, rates.cached_input)
            )
        starts = [start for start, _ in price.above]
        assert starts == sorted(set(starts))
    assert known > 2000


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "gpt-99"),
        ("openai", ""),
        ("openai", "claude-haiku-4-5"),  # another maker's model is not OpenAI's
        ("ollama", "gpt-oss:20b"),
        ("vllm", "gpt-4o"),
        ("nobody", "some-model"),
        ("openrouter", "openai/gpt-4o:nitro"),  # another host, at another price
    ],
)
def test_an_unknown_price_is_none_and_never_zero(provider, name):
    assert prices().find(provider, name) is None


def test_a_provider_the_table_does_not_have_is_a_label_for_the_maker_of_the_model():
    for label in ("", "primary", "my_gateway"):
        price = prices().find(label, "gpt-4o-mini")
        assert price is not None
        assert price.provider == "openai"
        vendor = prices().find(label, "anthropic/claude-haiku-4-5")
        assert vendor is not None
        assert vendor.provider == "anthropic"


def test_a_model_that_its_host_lists_without_a_price_does_not_get_the_makers():
    table = PriceTable(
        data=file(
            maker={"models": [model("x-1")], "match": ["^x"]}, host={"models": [model("x-1", prices=[])]}
        )
    )
    assert table.find("host", "x-1") is None
    assert table.find("maker", "x-1") is not None


def test_a_host_that_sells_other_makers_models_passes_their_prices_on():
    data = file(maker={"models": [model("x-1")]}, host={"also": ["maker"], "models": [model("y")]})
    price = PriceTable(data=data).find("host", "x-1")
    assert price is not None
    assert (price.provider, price.model) == ("host", "x-1")


@pytest.mark.parametrize(
    ("rules", "hits", "misses"),
    [
        (("=ab",), ("ab", "AB"), ("abc", "a")),
        (("^ab",), ("ab", "abc"), ("xab",)),
        (("$ab",), ("ab", "xab"), ("abx",)),
        (("~ab",), ("xabx",), ("axb",)),
        (("/^a[0-9]$",), ("a1",), ("a11",)),
        ((["^a", "$z"],), ("a-z",), ("a", "z")),
        (("=q", "^ab"), ("q", "abc"), ("c",)),
    ],
)
def test_the_rules_of_names(rules, hits, misses):
    table = PriceTable(data=file(p={"models": [model("some-id", *rules)]}))
    for name in hits:
        assert table.find("p", name) is not None, name
    for name in misses:
        assert table.find("p", name) is None, name


def test_an_exact_name_goes_before_a_rule_that_also_holds():
    table = PriceTable(data=file(p={"models": [model("wide", "^m"), model("m-small", "=other", rate=7)]}))
    found = table.find("p", "m-small")
    assert found is not None
    assert found.rates.input == 7


def test_prices_change_on_their_day_and_at_their_hours():
    day = int(datetime(2026, 3, 13, tzinfo=UTC).timestamp())
    entries = [
        {"rates": {"input": 10}},
        {"from": day, "rates": {"input": 20}},
        {"hours": [3600, 7200], "rates": {"input": 30}},
        {"hours": [82800, 1800], "rates": {"input": 40}},  # over midnight
    ]
    table = PriceTable(data=file(p={"models": [model("m", prices=entries)]}))

    def at(moment: float) -> int | None:
        found = table.find("p", "m", at=moment)
        assert found is not None
        return found.rates.input

    assert at(day - 43200) == 10
    assert at(day + 43200) == 20
    assert at(day + 3600) == 30
    assert at(day + 7200) == 20
    assert at(day - 1) == 40
    assert at(day + 1799) == 40
    assert at(day + 1800) == 20


def test_a_tier_has_its_own_rates_and_the_standard_ones_where_it_names_none():
    day = int(datetime(2026, 10, 14, tzinfo=UTC).timestamp())
    standard = [{"rates": {"input": 100, "output": 200, "cached_input": 10}, "above": {"50": {"input": 150}}}]
    batch = {"from": day, "rates": {"input": 40, "output": 80}}
    table = PriceTable(data=file(p={"models": [model("m", prices=standard, tiers={"batch": batch})]}))
    before = table.find("p", "m", tier="batch", at=day - 1)
    after = table.find("p", "m", tier="batch", at=day)
    assert before is not None
    assert after is not None
    assert before.rates.input == 100
    assert (after.rates.input, after.rates.output, after.rates.cached_input) == (40, 80, 10)
    assert after.rates_for(51).input == 40  # no long-prompt rate is listed for the tier
    other = table.find("p", "m", tier="flex", at=day)
    assert other is not None
    assert other.rates.input == 100


def test_overrides_go_before_the_file_most_exact_first():
    table = PriceTable(
        {
            "openai/gpt-4o": {"input": "1.5", "output": 3},
            "gpt-4o": {"input": 7},
            "my-tune-*": {"input": Decimal("0.0375"), "output": 0.6},
            "my-*": {"input": 9},
            "ollama/*": {"input": 0, "output": 0},
            "house": Price("us", "house", Rates(5, 6)),
        }
    )

    def input_rate(provider: str, name: str) -> int | None:
        found = table.find(provider, name)
        assert found is not None
        return found.rates.input

    assert input_rate("openai", "GPT-4o") == 3 * USD // 2
    assert input_rate("azure", "gpt-4o") == 7 * USD
    assert input_rate("x", "my-tune-7") == 37_500_000
    assert input_rate("x", "my-other") == 9 * USD
    assert input_rate("ollama", "llama3") == 0
    assert input_rate("any", "house") == 5
    assert input_rate("openai", "gpt-4o-mini") == 150_000_000  # the file still holds the rest


def test_ones_own_price_holds_for_the_dated_names_that_a_model_answers_by():
    """What is asked for as gpt-4o is answered by gpt-4o-2024-08-06, and billed at the price agreed on."""
    own = {"input": 1, "output": 4}
    for key in ("gpt-4o", "openai/gpt-4o", "GPT-4o"):
        table = PriceTable({key: own})
        for name in ("gpt-4o", "gpt-4o-2024-08-06"):
            found = table.find("openai", name)
            assert found is not None
            assert found.rates.output == 4 * USD, name
        older = table.find("openai", "gpt-4o-2024-05-13")  # dearer, with a price of its own in the file
        assert older is not None
        assert older.rates.output == 15 * USD
        mini = table.find("openai", "gpt-4o-mini-2024-07-18")
        assert mini is not None
        assert mini.rates.input == 150_000_000
    exact = PriceTable({"gpt-4o": own, "gpt-4o-2024-08-06": {"input": 2, "output": 9}})
    dated = exact.find("openai", "gpt-4o-2024-08-06")
    assert dated is not None
    assert dated.rates.output == 9 * USD


def test_a_provider_under_a_name_of_ones_own_asks_what_it_is_sold_as():
    """Not the maker's price: what a reseller takes for the same model may be five times that."""
    table = PriceTable({"mine/deepseek/deepseek-r1": {"input": 3, "output": 3}})
    for provider, sold_as, name in (
        ("backup", "openrouter", "deepseek/deepseek-r1"),
        ("fast", "groq", "llama-3.3-70b-versatile"),
        ("eu", "azure", "gpt-4o"),
        ("openai", "azure", "gpt-4o"),
    ):
        found = table.find(provider, name, sold_as=sold_as)
        assert found is not None
        assert found == table.find(sold_as, name)
        assert found.provider == sold_as
    mine = table.find("mine", "deepseek/deepseek-r1", sold_as="openrouter")
    assert mine is not None
    assert mine.rates.input == 3 * USD
    assert table.find("my-box", "gpt-4o", sold_as="vllm") is None  # one's own machine
    assert table.find("eu", "gpt-4o", sold_as="nobody-we-know") == table.find("eu", "gpt-4o")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"inptu": 1},
        {"input": "a lot"},
        {"input": -1},
        {"input": "nan"},
        {"input": "inf"},
        {"input": None},
        {"input": "1e7"},
        {"input": "1e99999"},
        {"input": "1e999999"},
        {5: 1},
        "input",
        7,
        [1],
        None,
        Price("us", "house", Rates(-5, 6)),
        Price("us", "house", Rates(5, float("nan"))),
        Price("us", "house", Rates(5, 6), above=((10, Rates(5, -6)),)),
    ],
)
def test_an_override_that_is_no_price_is_refused_with_its_name(wrong):
    with pytest.raises(ConfigError, match="gpt-x"):
        PriceTable({"gpt-x": wrong})


def test_names_made_up_by_callers_do_not_fill_the_memory():
    table = PriceTable(data=file(p={"models": [model("m")]}))
    for number in range(10_000):
        table.find("p", f"made-up-{number}")
    assert len(table._found) <= 4096
    assert table.find("p", "m") is not None
    assert table.find("p", "m" * 1000) is None
    assert max(len(name) for _, name in table._found) < 1000


@pytest.mark.parametrize("wrong", [b"", b"no json", b"[]", b"{}", b'{"providers": []}'])
def test_a_file_that_holds_no_prices_is_refused_when_it_is_given_and_not_in_the_first_call(wrong):
    with pytest.raises(ConfigError, match="no file of prices"):
        PriceTable(data=wrong)


def test_prices_that_are_no_mapping_are_refused():
    with pytest.raises(ConfigError, match="prices are a list"):
        PriceTable([("gpt-x", {"input": 1})])
