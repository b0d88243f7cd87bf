"""Text that is no Unicode: halves of surrogate pairs, which a caller's JSON may hold.

SQLite keeps any bytes as text, and compares them as bytes; so what UTF-8 has no form for is kept in the form
it would have (``surrogatepass``), different from all else and in the order of code points. Only Python's
module refuses to hand it over as text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

__all__ = ("as_bytes", "decoded", "from_json", "to_json")

decoded = partial(str, encoding="utf-8", errors="surrogatepass")
"""The text of what is kept. Still an error where it is nothing that was ever written."""


def as_bytes(sql: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """The statement and its values, with texts as bytes that SQLite takes for text again."""
    parts, given = sql.split("?"), list(values)
    for place, value in enumerate(given):
        is_text = isinstance(value, str)
        given[place] = value.encode("utf-8", "surrogatepass") if is_text else value
        parts[place] += "CAST(? AS TEXT)" if is_text else "?"
    return "".join(parts), given


def to_json(value: Any) -> str:
    """`value` as JSON, whatever its texts are."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # of orjson's, no text may have half a surrogate pair
        return json.dumps(value, separators=(",", ":"))


def from_json(text: str) -> Any:
    """The value of what `to_json` gave."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
