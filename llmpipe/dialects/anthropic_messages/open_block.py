"""A content block of a stream while it is open, and how an opaque one grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects.anthropic_messages.blocks import DIALECT
from llmpipe.types import Opaque

__all__ = ("OpenBlock", "is_json", "string_of")


class OpenBlock:
    """A content block that has started and not stopped.

    `silent` until something of it was given out: nothing is at its start where the block is still
    empty, because the first content commits a reply, and an empty block is none.
    """

    __slots__ = ("data", "held", "index", "kind", "pieces", "silent")

    def __init__(
        self, kind: Literal["text", "thinking", "tool", "opaque"], data: dict[str, Any], index: int
    ) -> None:
        self.kind = kind
        self.data = data
        self.index = index  # of its events: the wire's, unless another block had that
        self.silent = True
        self.held = ""  # tool: the input of its start; thinking: the signature
        self.pieces: dict[str, list[Any]] = {}  # opaque: what its deltas add to its fields

    def add(self, delta: Mapping[str, Any]) -> None:
        """Merge a delta into an opaque block: what is known to be in pieces is joined, the rest replaced."""
        field = _PIECES.get(delta["type"])
        if field is None:  # signature_delta, and compaction_delta, which is whole
            self.data.update({name: value for name, value in delta.items() if name != "type"})
            return
        piece, into = field
        self.pieces.setdefault(into, []).append(
            delta[piece] if piece == "citation" else string_of(delta[piece])
        )

    def part(self) -> Opaque:
        """The opaque block, whole."""
        data = self.data
        for field, pieces in self.pieces.items():
            if field == "citations":
                data[field] = [*(data.get(field) or ()), *pieces]
            elif field != "input":
                data[field] = "".join([data.get(field) or "", *pieces])
            elif text := "".join(pieces):
                # Cut by max_tokens it stays the text it is, never an invented {}.
                data[field] = orjson.loads(text) if is_json(text) else text
        return Opaque(DIALECT, data)


# Deltas that come in pieces: where the piece stands, and to which field of the block it belongs.
_PIECES = {
    "input_json_delta": ("partial_json", "input"),
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "citations_delta": ("citation", "citations"),
}


def is_json(raw: bytes | str) -> bool:
    """Whether `raw` is one whole JSON text."""
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def string_of(value: object) -> str:
    """`value`, a string. Raises: TypeError for anything else, as reaching into wrong JSON does."""
    if type(value) is str:
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")
