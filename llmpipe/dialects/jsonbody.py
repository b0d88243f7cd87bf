"""JSON from a peer: an object, or one typed error that shows what came instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.errors import BadReply
from llmpipe.secret import scrub
from llmpipe.types.frozen import EMPTY

__all__ = ("excerpt", "json_text", "leftover", "lines_of_json", "parse_object")

_BOM = b"\xef\xbb\xbf"


def parse_object(body: bytes, what: str, *, phase: str = "body") -> dict[str, Any]:
    """The JSON object in `body`, which is UTF-8; a byte order mark before it is tolerated.

    orjson refuses what would harm later: NaN, invalid UTF-8, lone surrogates, numbers past
    a double, nesting of more than 1024 levels (without recursion, so 100,000 levels cost nothing).

    Args: what names the body in the error, such as ``"the reply"``.
    Raises: BadReply for anything else, with the position and the first characters, scrubbed.
    """
    body = body.removeprefix(_BOM)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body or body.isspace():
            said, code = f"{what} is empty; a JSON object was expected", "empty_reply"
        else:
            said = f"{what} is not JSON: {error.msg} at character {error.pos}; it begins {excerpt(body)!r}"
            code = "reply_not_json"
        raise BadReply(said, code=code, phase=phase) from None
    if type(value) is not dict:
        raise BadReply(
            f"{what} is a JSON {type(value).__name__}, not an object; it begins {excerpt(body)!r}",
            code="reply_not_object",
            phase=phase,
        )
    return value


def excerpt(body: bytes, *, max_chars: int = 200) -> str:
    """The first characters of `body`, fit for an error: credentials and control characters replaced."""
    text = body[: 8 * max_chars].decode("utf-8", "replace").strip()
    text = scrub(text, max_chars=4 * max_chars)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def leftover(wire: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    """What `wire` has beyond the `known` names, in its order; nulls are left out."""
    if wire.keys() <= known:
        return EMPTY
    return {name: value for name, value in wire.items() if name not in known and value is not None}


def lines_of_json(data: bytes, end: bytes) -> list[bytes]:
    """The lines of `data` where each is JSON of its own, or the word for the end; else none at all."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) < 2:
        return []
    for line in lines:
        try:
            if line.strip() != end:
                orjson.loads(line)
        except orjson.JSONDecodeError:
            return []
    return lines


def json_text(value: object, what: str) -> str:
    """`value`, which came out of JSON, as the text of JSON.

    Raises: BadReply if it is nested more than 254 levels deep: orjson reads 1024, and writes that.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise BadReply(f"{what} cannot be written as JSON: {error}", code="reply_not_json") from None
