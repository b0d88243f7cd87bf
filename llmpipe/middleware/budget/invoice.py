"""A provider's invoice, cost or usage file, as lines that can be compared.

=================================  ===============================================================
file                               columns, or fields, that it is known by
=================================  ===============================================================
OpenAI, costs (CSV)                ``start_time_iso``, ``amount_value``, ``amount_currency``, ``line_item``
OpenAI, costs (JSON)               ``data[].start_time``, ``results[].amount.value``, ``line_item``
OpenAI, usage (CSV)                ``start_time_iso``, ``model``, ``input_tokens``, ``output_tokens``
Anthropic, cost (CSV)              ``usage_date_utc``, ``model``, ``cost_usd``
Anthropic, cost (JSON)             ``data[].starting_at``, ``results[].amount`` (cents), ``model``
Anthropic, usage (CSV)             ``usage_date_utc``, ``model_version``, ``usage_*_tokens_*``
a bill by request                  all of `FIELDS`, under these names
any other (CSV, or a JSON list)    named by `columns`
=================================  ===============================================================

Sources: https://platform.openai.com/docs/api-reference/usage/costs,
https://platform.claude.com/docs/en/api/admin/cost_report, and the export buttons of both consoles.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, DecimalException
from io import StringIO
from pathlib import Path
from typing import Any

from attrs import frozen

from llmpipe.errors import ConfigError

__all__ = ("FIELDS", "InvoiceLine", "read_invoice")

FIELDS = ("day", "input_tokens", "model", "output_tokens", "request_id", "usd")
"""What `columns` can name."""

_MAX_BYTES = 200_000_000
_MOST_USD, _MOST_TOKENS = 10**9, 10**15  # of a line; whoever bills more has not told a number
# Dollars as these files write them. A comma parts thousands: "12,34" is no 1,234.
_USD = re.compile(r"[-+]?\$?-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,3})?")
_LAYOUTS: tuple[Mapping[str, str], ...] = (
    {name: name for name in FIELDS},
    {"day": "start_time_iso", "usd": "amount_value", "currency": "amount_currency", "model": "line_item"},
    {"day": "usage_date_utc", "usd": "cost_usd", "model": "model"},
    {
        "day": "usage_date_utc",
        "model": "model_version",
        "input_tokens": "usage_input_tokens_no_cache",
        "output_tokens": "usage_output_tokens",
    },
    {
        "day": "start_time_iso",
        "model": "model",
        "input_tokens": "input_tokens",
        "output_tokens": "output_tokens",
    },
)
# Anthropic tells the parts of the input apart; ours counts all of it.
_MORE_INPUT = (
    "usage_input_tokens_cache_write_5m",
    "usage_input_tokens_cache_write_1h",
    "usage_input_tokens_cache_read",
)


@frozen(kw_only=True)
class InvoiceLine:
    """One line. `day` is ISO 8601, in UTC; `nano` is None in a file that only counts tokens."""

    where: str
    day: str = ""
    model: str = ""
    nano: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    request_id: str = ""


def read_invoice(path: str | Path, columns: Mapping[str, str] | None = None) -> list[InvoiceLine]:
    """The lines of a provider's file.

    Args: columns maps `FIELDS` to the file's own names, for a file of no known provider.
    Raises: ConfigError that says in which line what is wrong.
    """
    path = Path(path)
    if columns is not None and (wrong := [name for name in columns if name not in FIELDS]):
        raise ConfigError(f"columns are of {', '.join(FIELDS)}, not {', '.join(map(str, wrong))}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; take one month at a time")
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    told = _json(path, text) if text.lstrip()[:1] in ("{", "[") else _csv(path, text)
    return [*_lines(path, told, columns)]


def _csv(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Not `splitlines`, which ends a line at U+2028 and others that may stand in a name.
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"{path}, line {reader.line_num}: has not as many cells as the first line")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {reader.line_num}: {error}") from None


def _json(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each result as a flat row, in the words of the CSV files."""
    try:
        data = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deep") from None
    except ValueError:  # CPython refuses to read whole numbers of thousands of digits
        raise ConfigError(f"{path}: has a number that is none") from None
    rows = data.get("data") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: has no list of lines, nor a field `data` with one")
    if isinstance(data, dict) and data.get("has_more"):
        raise ConfigError(f"{path}: is one page of several (has_more); put all pages into one file")
    for place, row in enumerate(rows):
        where = f"data[{place}]"
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, {where}: is a {type(row).__name__}, not an object")
        results = row.get("results")
        if results is None:
            yield where, row
            continue
        if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
            raise ConfigError(f"{path}, {where}.results: is no list of objects")
        for at, one in enumerate(results):
            yield f"{where}.results[{at}]", _flat(row, one)


def _flat(bucket: Mapping[str, Any], result: Mapping[str, Any]) -> Mapping[str, Any]:
    amount = result.get("amount")
    if "starting_at" in bucket and "amount" in result:
        # Anthropic's amounts are in cents: "123.45" is 1.23 USD.
        model = result.get("model") or result.get("description") or ""
        cents = {"usage_date_utc": bucket["starting_at"], "model": model, "cost_usd": amount, "cents": True}
        return {**cents, "amount_currency": result.get("currency", "USD")}
    if isinstance(amount, Mapping):
        return {
            "start_time_iso": bucket.get("start_time"),
            "amount_value": amount.get("value"),
            "amount_currency": amount.get("currency", "usd"),
            "line_item": result.get("line_item") or "",
        }
    return {"start_time_iso": bucket.get("start_time"), **result}


def _lines(
    path: Path, told: Iterator[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str] | None
) -> Iterator[InvoiceLine]:
    layout: Mapping[str, str] | None = columns
    for where, row in told:
        if layout is None:
            layout = next((known for known in _LAYOUTS if all(name in row for name in known.values())), None)
            if layout is None:
                raise ConfigError(
                    f"{path}: is of no provider that is known; name its columns: {', '.join(map(str, row))}"
                )
        elif missing := [name for name in layout.values() if name not in row]:
            raise ConfigError(f"{path}, {where}: has no {missing[0]!r}; it has {', '.join(map(str, row))}")
        currency = str(row.get(layout.get("currency", "amount_currency")) or "usd")
        if currency.lower() != "usd":
            raise ConfigError(f"{path}, {where}: is in {currency}, and the ledger in USD")
        try:
            yield _line(where, row, layout)
        except (DecimalException, ValueError, OverflowError, OSError) as error:
            raise ConfigError(f"{path}, {where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return "a number is none" if isinstance(error, DecimalException) else str(error)


def _line(where: str, row: Mapping[str, Any], layout: Mapping[str, str]) -> InvoiceLine:
    def cell(name: str) -> Any:
        return row.get(layout[name]) if name in layout else None

    usd, day = cell("usd"), cell("day")
    nano = None if "usd" not in layout else _nano(usd, 7 if row.get("cents") else 9)
    input_tokens = _count(cell("input_tokens"))
    if input_tokens is not None:
        input_tokens += sum([_count(row.get(name)) or 0 for name in _MORE_INPUT])
    return InvoiceLine(
        where=where,
        day=_day(day) if "day" in layout else "",
        model=str(cell("model") or "").partition(", ")[0],  # OpenAI: "gpt-4o-mini-2024-07-18, input"
        nano=nano,
        input_tokens=input_tokens,
        output_tokens=_count(cell("output_tokens")),
        request_id=str(cell("request_id") or ""),
    )


def _nano(value: Any, digits: int) -> int:
    """Nano-USD of an amount of which one nano-USD is the last of so many digits behind the point."""
    told = str(value).strip()
    if told and not _USD.fullmatch(told):
        raise ValueError(f"{value!r} is no amount")
    amount = Decimal(told.replace("$", "").replace(",", "") or "0")
    if abs(amount) > _MOST_USD:
        raise ValueError(f"{value!r} is no amount")
    return round(amount.scaleb(digits))


def _count(value: Any) -> int | None:
    if value is None or value == "":
        return None
    count = Decimal(str(value))
    if not (count.is_finite() and 0 <= count <= _MOST_TOKENS) or count != int(count):
        raise ValueError(f"{value!r} is no number of tokens")
    return int(count)


def _day(value: Any) -> str:
    """The day in UTC of a day, a moment, or seconds since the epoch."""
    told = str(value).strip()
    if told.isdigit() and len(told) != len("20261231"):
        return datetime.fromtimestamp(int(told), UTC).date().isoformat()
    try:
        if len(told) <= len("2026-12-31"):
            return date.fromisoformat(told).isoformat()
        moment = datetime.fromisoformat(told)
    except ValueError:
        raise ValueError(f"{value!r} is no day") from None
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).date().isoformat()
