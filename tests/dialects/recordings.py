"""Recorded exchanges with providers, and a few made by hand for where there are none.

The recordings lie beside the repository (``../shared/wire``; LLMPIPE_WIRE names another place).
Their form is described there: one JSON file an exchange.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "data"
WIRE = Path(os.environ.get("LLMPIPE_WIRE") or Path(__file__).parents[3] / "shared" / "wire")

Exchange = dict[str, Any]


@cache
def _load(folder: Path) -> tuple[Exchange, ...]:
    exchanges = []
    for path in sorted(folder.glob("*/*.json")):
        exchange = json.loads(path.read_text("utf-8"))
        exchange["name"] = f"{path.parent.name}/{path.stem}"
        exchanges.append(exchange)
    return tuple(exchanges)


def exchanges(wanted: Callable[[Exchange], bool]) -> list[Any]:
    """The exchanges that `wanted` picks, as parameters of a test."""
    found = [exchange for folder in (HERE, WIRE) for exchange in _load(folder) if wanted(exchange)]
    return [pytest.param(exchange, id=exchange["name"]) for exchange in found]


def bytes_of(exchange: Exchange) -> bytes:
    """The body of a reply that is not a success."""
    if "response" in exchange:
        return json.dumps(exchange["response"]).encode()
    return (exchange.get("response_text") or exchange.get("body") or "").encode()
