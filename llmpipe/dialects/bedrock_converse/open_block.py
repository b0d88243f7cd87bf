"""A content block of a stream that cannot be given out in pieces, while it is open."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects.bedrock_converse.attachments import decode_media
from llmpipe.dialects.bedrock_converse.parts import DIALECT
from llmpipe.types import Opaque, Part

__all__ = ("OpenBlock", "string_of")


class OpenBlock:
    """A content block that has started and not stopped.

    ``tool``: a call, `silent` until arguments came. ``hidden``: reasoning that nobody may read.
    ``opaque``: all else, under its name on the wire, with the fields of its start.
    """

    __slots__ = ("data", "index", "kind", "name", "pieces", "silent")

    def __init__(
        self,
        kind: Literal["tool", "hidden", "opaque"],
        index: int,
        name: str = "",
        data: dict[str, Any] | None = None,
    ) -> None:
        self.kind = kind
        self.index = index  # of its events: the wire's, unless another block had that
        self.name = name
        self.data = data if data is not None else {}
        self.silent = True
        self.pieces: list[str] = []  # a call's input as text, or binary content in base64

    def add(self, kind: str, value: Any) -> None:
        """Merge a delta: a result's content is joined, a picture's bytes are, the rest is replaced."""
        if kind == "toolResult":
            self.data["content"] = [*self.data.get("content", ()), *value]
        elif isinstance(value, Mapping):
            source = value.get("source")
            if isinstance(source, Mapping) and isinstance(piece := source.get("bytes"), str):
                self.pieces.append(piece)
            self.data.update(value)

    def joined(self) -> str:
        """Its binary content as one base64 text. Each piece is one of its own, with an end of its own."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        return b64encode(b"".join(map(b64decode, self.pieces))).decode()

    def part(self) -> Part:
        """The block, whole. Raises: ValueError if its binary content is no base64."""
        data = self.data
        if self.name == "toolUse":
            text = "".join(self.pieces)
            try:
                data["input"] = orjson.loads(text or "{}")
            except orjson.JSONDecodeError:
                data["input"] = text  # cut by maxTokens it stays the text it is, never an invented {}
        elif self.pieces:
            data["source"] = {"bytes": self.joined()}
        found = decode_media(self.name, data) if self.name in ("image", "audio") else None
        return found or Opaque(DIALECT, {self.name: data})


def string_of(value: object) -> str:
    """`value`, a string. Raises: TypeError for anything else, as reaching into wrong JSON does."""
    if type(value) is str:
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")
