"""The packaged price file against the table it is made from. Needs genai-prices."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest

from llmpipe.pricing import PriceTable, cost_of, refresh
from llmpipe.types import Usage

genai_prices = pytest.importorskip("genai_prices")

MOMENTS = (datetime(2025, 6, 1, 12, tzinfo=UTC), datetime(2026, 11, 21, 2, 30, tzinfo=UTC))
USAGES = (Usage(1000, 500, 300, 100), Usage(300_000, 777, 1000, 2000))


def their_nano(model, provider, usage: Usage, moment: datetime) -> Decimal | None:
    """genai-prices' own answer; None where it sells by something else than tokens too."""
    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    price = model.get_prices(moment)
    known = (*refresh._KEYS, "requests_kcount")
    if price.input_mtok is None or price.output_mtok is None:
        return None
    if any(
        value is not None for key, value in vars(price).items() if key.endswith("_mtok") and key not in known
    ):
        return None
    return model.calc_price(counts, provider, genai_request_timestamp=moment).total_price * 10**9


def test_a_fresh_table_costs_what_genai_prices_says(tmp_path):
    from genai_prices.data import providers

    output = tmp_path / "prices.json"
    assert refresh.main(["--output", str(output)]) == 0
    table, compared = PriceTable(data=output.read_bytes()), 0
    for provider in providers:
        for model in provider.models:
            for moment in MOMENTS:
                price = table.find(provider.id, model.id, at=moment.timestamp())
                for usage in USAGES:
                    with warnings.catch_warnings(action="ignore"):
                        theirs = their_nano(model, provider, usage, moment)
                    if theirs is None:
                        continue
                    ours = cost_of(usage, price)
                    assert ours is not None, f"{provider.id}/{model.id}"
                    assert 0 <= ours.total_nano - theirs < 2, f"{provider.id}/{model.id} {usage} {moment}"
                    compared += 1
    assert compared > 5000


def test_a_fresh_file_has_one_model_a_line_and_is_json():
    from genai_prices.data import providers

    content = refresh.table(providers[:2], "1", "MIT", MOMENTS[0].date())
    text = refresh._one_model_a_line(content)
    assert orjson.loads(text) == content
    assert text.count(b"\n") > sum(len(entry["models"]) for entry in content["providers"].values())
