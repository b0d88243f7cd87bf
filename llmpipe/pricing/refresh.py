"""Make the packaged price file anew: ``python -m llmpipe.pricing.refresh``.

Needs the development dependency genai-prices, whose packaged table it rewrites into ours: only
prices per token, in integer nano-USD per million tokens, with the rules for names. Review the
difference before it is committed; upgrade genai-prices first to get a newer table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import orjson

__all__ = ("main", "table")

_KEYS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
}
_TIERS = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
}
_OUTPUT = Path(__file__).parent / "data" / "prices.json"


def table(providers: Iterable[Any], version: str, licence: str, today: date) -> dict[str, Any]:
    """The content of the price file, from the providers of genai-prices."""
    found = {}
    for provider in providers:
        models = [_model(model) for model in provider.models]
        entry: dict[str, Any] = {}
        if provider.model_match is not None:
            entry["match"] = list(_rules(provider.model_match))
        if provider.fallback_model_providers:
            entry["also"] = list(provider.fallback_model_providers)
        found[provider.id] = {**entry, "models": models}
    return {
        "source": {
            "name": "genai-prices",
            "url": "https://github.com/pydantic/genai-prices",
            "version": version,
            "date": today.isoformat(),
            "unit": "nano-USD per million tokens",
            "licence": licence,
        },
        "providers": found,
    }


def _model(model: Any) -> dict[str, Any]:
    """One model's entry. Without a price per token it has no prices, and so is known to be unknown."""
    conditional = model.prices if isinstance(model.prices, list) else None
    entries = []
    for price, constraint in (
        [(p.prices, p.constraint) for p in conditional] if conditional else [(model.prices, None)]
    ):
        rates = _rates(price)
        if not rates["rates"] and model.id.endswith(":free"):  # OpenRouter: free, and listed without prices
            rates = {"rates": {"input": 0, "output": 0}}
        if "input" in rates["rates"]:
            entries.append({**_condition(constraint), **rates})
    entry: dict[str, Any] = {"id": model.id, "match": list(_rules(model.match)), "prices": entries}
    if model.context_window:
        entry["context"] = model.context_window
    tiers = {}
    for variant in model.price_variants or ():
        tier = _TIERS.get(*variant.when.items()) if len(variant.when) == 1 else None
        rates = _rates(variant.prices)
        if tier is not None and rates["rates"]:
            tiers[tier] = {**_condition(variant.constraint), **rates}
    if tiers and entries:
        entry["tiers"] = tiers
    return entry


def _rates(price: Any) -> dict[str, Any]:
    base: dict[str, int] = {}
    above: dict[str, dict[str, int]] = {}
    for theirs, ours in _KEYS.items():
        value = getattr(price, theirs)
        if value is None:
            continue
        if isinstance(value, Decimal):
            base[ours] = _nano(value)
            continue
        base[ours] = _nano(value.base)
        for step in value.tiers:
            above.setdefault(str(step.start), {})[ours] = _nano(step.price)
    if isinstance(price.requests_kcount, Decimal):
        base["request"] = _nano(price.requests_kcount * 1000)
    ordered = {start: above[start] for start in sorted(above, key=int)}
    return {"rates": base, **({"above": ordered} if ordered else {})}


def _nano(usd: Decimal) -> int:
    return int((usd * 1_000_000_000).to_integral_value(rounding="ROUND_CEILING"))


def _condition(constraint: Any) -> dict[str, Any]:
    if constraint is None:
        return {}
    if hasattr(constraint, "start_date"):
        start = constraint.start_date
        return {"from": int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())}
    return {"hours": [_seconds(constraint.start_time), _seconds(constraint.end_time)]}


def _seconds(moment: time) -> int:
    if moment.utcoffset() not in (None, UTC.utcoffset(None)):
        raise ValueError(f"an hour of a price is not in UTC: {moment}")
    return moment.hour * 3600 + moment.minute * 60 + moment.second


_SIGNS = {"equals": "=", "starts_with": "^", "ends_with": "$", "contains": "~", "regex": "/"}


def _rules(clause: Any) -> Iterator[Any]:
    """A clause of genai-prices as rules, any of which may hold."""
    if hasattr(clause, "or_"):
        for part in clause.or_:
            yield from _rules(part)
    elif hasattr(clause, "and_"):
        parts = [list(_rules(part)) for part in clause.and_]
        if any(len(part) != 1 for part in parts):
            raise ValueError(f"a rule that our file cannot say: {clause}")
        yield [part[0] for part in parts]
    else:
        for name, sign in _SIGNS.items():
            text = getattr(clause, name, None)
            if text is not None:
                yield sign + (text if name == "regex" else text.lower())


def main(arguments: list[str] | None = None) -> int:
    """Write the price file and say what it holds."""
    from genai_prices.data import providers

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=_OUTPUT)
    chosen = parser.parse_args(arguments)
    package = distribution("genai-prices")
    licence = next(
        (Path(str(path.locate())).read_text() for path in package.files or () if path.name == "LICENSE"), ""
    )
    if "MIT" not in licence:
        raise SystemExit("genai-prices is no longer under the MIT licence; look before you take its table")
    content = table(providers, package.version, licence.strip(), datetime.now(UTC).date())
    chosen.output.write_bytes(_one_model_a_line(content))
    models = sum(len(entry["models"]) for entry in content["providers"].values())
    sys.stdout.write(
        f"{chosen.output}: {models} models of {len(content['providers'])} providers, "
        f"genai-prices {package.version}\n"
    )
    return 0


def _one_model_a_line(content: dict[str, Any]) -> bytes:
    """JSON whose differences can be read."""
    lines = [b'{"source":' + orjson.dumps(content["source"]) + b',"providers":{']
    providers = sorted(content["providers"].items())
    for place, (name, entry) in enumerate(providers):
        rest = {key: value for key, value in entry.items() if key != "models"}
        head = orjson.dumps(rest)[1:-1]
        lines.append(orjson.dumps(name) + b":{" + (head + b"," if head else b"") + b'"models":[')
        models = [orjson.dumps(model) for model in entry["models"]]
        lines.extend([model + b"," for model in models[:-1]] + [models[-1]])
        lines.append(b"]}" + (b"," if place < len(providers) - 1 else b""))
    lines.append(b"}}")
    return b"\n".join(lines) + b"\n"


if __name__ == "__main__":
    raise SystemExit(main())
