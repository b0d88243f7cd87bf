"""The journal against the providers' own files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import ConfigError
from llmpipe.middleware.budget.invoice import read_invoice
from llmpipe.middleware.budget.reconcile import reconcile
from llmpipe.state import Spend

NOON = datetime(2026, 9, 28, 12, tzinfo=UTC).timestamp()


def row(number: int, usd: float, **fields: Any) -> Spend:
    return Spend(
        **{"id": str(number), "at": NOON, "nano": round(usd * 10**9), "model": "gpt-4o-mini", **fields}
    )


def file(tmp_path: Path, text: str, name: str = "invoice.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


_DAY = "1790553600,1790640000,2026-09-28T00:00:00+00:00,2026-09-29T00:00:00+00:00"
OPENAI_COSTS = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,line_item\n"
    f'{_DAY},0.25,usd,1,"gpt-4o-mini-2024-07-18, input"\n'
    f'{_DAY},0.75,usd,1,"gpt-4o-mini-2024-07-18, output"\n'
)
OPENAI_JSON = json.dumps(
    {
        "object": "page",
        "data": [
            {
                "start_time": 1790553600,
                "results": [{"amount": {"value": 1.0, "currency": "usd"}, "line_item": "gpt-4o-mini, input"}],
            }
        ],
        "has_more": False,
    }
)
ANTHROPIC_COSTS = (
    "usage_date_utc,model,workspace,api_key,token_type,cost_usd,list_price_usd\n"
    "2026-09-28,Claude Haiku 3.5,Default,key,input_no_cache,0.4,0.4\n"
    "2026-09-28,Claude Haiku 3.5,Default,key,output,0.6,0.6\n"
)
ANTHROPIC_JSON = json.dumps(
    {
        "data": [
            {
                "starting_at": "2026-09-28T00:00:00Z",
                "results": [{"amount": "100.0", "currency": "USD", "model": "claude-3-5-haiku-20241022"}],
            }
        ],
        "has_more": False,
    }
)
FILES = {
    "openai csv": (OPENAI_COSTS, "gpt-4o-mini-2024-07-18"),
    "openai json": (OPENAI_JSON, "gpt-4o-mini"),
    "anthropic csv": (ANTHROPIC_COSTS, "claude-3-5-haiku-20241022"),
    "anthropic json": (ANTHROPIC_JSON, "claude-3-5-haiku"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_costs_agrees_with_a_journal_of_the_same_day_and_model(tmp_path: Path, name: str):
    text, model = FILES[name]
    lines = read_invoice(file(tmp_path, text))
    assert {line.day for line in lines} == {"2026-09-28"}
    same = reconcile([row(1, 0.4, model=model), row(2, 0.6, model=model)], lines)
    assert (same.exit_code, same.journal, same.invoice) == (0, 10**9, 10**9)
    less = reconcile([row(1, 0.4, model=model)], lines)
    assert [one.status for one in less.rows] == ["differs"]
    assert less.exit_code == 1


def test_what_only_one_side_has_is_named():
    lines = read_invoice_of([{"d": "2026-09-27", "m": "gpt-4o-mini", "usd": 1}])
    found = reconcile([row(1, 2.0), row(2, 0.0, model="failed-for-nothing")], lines)
    assert {(one.day, one.status, one.journal, one.invoice) for one in found.differences} == {
        ("2026-09-27", "only in the invoice", None, 10**9),
        ("2026-09-28", "only in the journal", 2 * 10**9, None),
    }
    assert len(found.rows) == 3


def read_invoice_of(rows: list[dict[str, Any]], **more: str) -> Any:
    import tempfile

    columns = {"day": "d", "model": "m", "usd": "usd", **more}
    with tempfile.TemporaryDirectory() as folder:
        return read_invoice(file(Path(folder), json.dumps(rows), "x.json"), columns)


def test_requests_are_compared_where_the_file_names_them():
    lines = read_invoice_of(
        [
            {"d": "2026-09-28", "m": "x", "usd": "0.5", "id": "one"},
            {"d": "2026-09-28", "m": "x", "usd": "0.5", "id": "two"},
        ],
        request_id="id",
    )
    found = reconcile([row(1, 0.5, request_id="one"), row(2, 0.5, request_id="three")], lines)
    assert found.by == "request"
    assert {(one.request_id, one.status) for one in found.rows} == {
        ("one", "same"),
        ("two", "only in the invoice"),
        ("three", "only in the journal"),
    }
    assert found.journal == found.invoice


def test_a_file_of_usage_is_compared_by_tokens(tmp_path: Path):
    text = (
        "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_read,usage_output_tokens\n"
        "2026-09-28,claude-haiku-4-5,100,50,7\n"
    )
    lines = read_invoice(file(tmp_path, text))
    journal = [row(1, 1, model="claude-haiku-4-5", input_tokens=150, output_tokens=7)]
    found = reconcile(journal, lines)
    assert (found.tokens, found.exit_code, found.invoice) == (True, 0, 157)


def test_a_tolerance_takes_what_files_round_and_unknown_prices_never_agree():
    lines = read_invoice_of([{"d": "2026-09-28", "m": "gpt-4o-mini", "usd": "$1,000.004"}])
    assert reconcile([row(1, 1000.0)], lines).exit_code == 0
    assert reconcile([row(1, 1000.0)], lines, tolerance_usd="0.001").exit_code == 1
    unpriced = Spend(id="u", at=NOON, nano=None, model="gpt-4o-mini")
    found = reconcile([row(1, 1000.0), unpriced], lines)
    assert (found.exit_code, found.rows[0].unpriced) == (1, 1)


BAD: dict[str, tuple[str, str]] = {
    "nothing known": ("a,b\n1,2\n", "name its columns: a, b"),
    "a number that is none": (OPENAI_COSTS.replace("0.75", "dear"), "line 3"),
    "not finite": (OPENAI_COSTS.replace("0.75", "NaN"), "line 3"),
    "another currency": (OPENAI_COSTS.replace("0.75,usd", "0.75,eur"), "line 3: is in eur"),
    "a day that is none": (ANTHROPIC_COSTS.replace("2026-09-28,Claude", "yesterday,Claude", 1), "line 2"),
    "too few cells": (ANTHROPIC_COSTS + "2026-09-28,x\n", "line 4"),
    "no json": ('{"data": [\n{]}', "line 2"),
    "no list": ('{"rows": []}', "no list of lines"),
    "a page": (OPENAI_JSON.replace("false", "true"), "one page of several"),
    "no object": ("[1]", "data[0]"),
    "results": ('[{"results": 3}]', "data[0].results"),
    "half a token": (
        "start_time_iso,model,input_tokens,output_tokens\n2026-09-28,m,1.5,1\n",
        "line 2: '1.5' is no number of tokens",
    ),
    "a decimal comma": (OPENAI_COSTS.replace("0.75", '"12,34"'), "line 3: '12,34' is no amount"),
    "a point for thousands": (OPENAI_COSTS.replace("0.75", '"1.234,56"'), "line 3: '1.234,56' is no amount"),
    "more than a number can be": (OPENAI_COSTS.replace("0.75", "9e999999"), "line 3"),
    "more than there is": (OPENAI_COSTS.replace("0.75", "9e99"), "line 3: '9e99' is no amount"),
    "a world of tokens": (
        "start_time_iso,model,input_tokens,output_tokens\n2026-09-28,m,1e9999,1\n",
        "line 2: '1e9999' is no number of tokens",
    ),
    "a number of thousands of digits": ('{"data": [' + "9" * 5000 + "]}", "a number that is none"),
    "an open quote": ('usage_date_utc,model,cost_usd\n2026-09-28,"x,1\n', "line"),
}


@pytest.mark.parametrize(
    ("told", "nano"),
    [
        ("1,234.50", 1_234_500_000_000),
        ("-$0.5", -500_000_000),
        ("$1,000", 10**12),
        ("1E-7", 100),
        (".5", 500_000_000),
        ("", 0),
    ],
)
def test_amounts_are_what_they_say(told: str, nano: int):
    (line,) = read_invoice_of([{"d": "2026-09-28", "m": "x", "usd": told}])
    assert line.nano == nano


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_a_line_of_a_file_ends_at_its_end_alone(tmp_path: Path, sign: str):
    text = f"usage_date_utc,model,cost_usd\n2026-09-28,a{sign}b,1\r\n2026-09-28,c,2\n"
    assert [(one.model, one.nano) for one in read_invoice(file(tmp_path, text))] == [
        (f"a{sign}b", 10**9),
        ("c", 2 * 10**9),
    ]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error_with_its_line(tmp_path: Path, case: str):
    text, told = BAD[case]
    with pytest.raises(ConfigError) as caught:
        read_invoice(file(tmp_path, text))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_column_there_is_not(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_invoice(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="columns are of day"):
        read_invoice(file(tmp_path, "a\n1\n"), {"dya": "a"})
    with pytest.raises(ConfigError, match="has no 'b'"):
        read_invoice(file(tmp_path, "a\n1\n"), {"usd": "b"})
    binary = tmp_path / "x.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_invoice(binary)
