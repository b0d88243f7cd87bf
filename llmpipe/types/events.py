"""What a stream is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from attrs import field, frozen

from llmpipe.types.messages import Part
from llmpipe.types.replies import FinishReason, Usage

__all__ = (
    "Event",
    "Extra",
    "Finish",
    "Ping",
    "ReasoningDelta",
    "RefusalDelta",
    "Start",
    "TextDelta",
    "ToolDelta",
    "UsageUpdate",
)


# Hot path: one of these is made for every chunk, so they are small and carry `extra` only as
# None unless the wire had something more.


@frozen
class Start:
    """The reply has begun. Comes first and at most once. `dialect`: see `Message.dialect`."""

    id: str = ""
    model: str = ""
    provider: str = ""
    created: float | None = None
    request_id: str | None = None
    headers: Mapping[str, str] | None = None
    extra: Mapping[str, Any] | None = None
    dialect: str = field(default="", eq=False)


@frozen
class TextDelta:
    """More text. `index` names the text part it belongs to; `extra` is merged into that part's."""

    text: str
    index: int = 0
    extra: Mapping[str, Any] | None = None


@frozen
class ReasoningDelta:
    """More reasoning. A `signature` or `encrypted` piece is appended to what the part has."""

    text: str = ""
    index: int = 0
    signature: str | None = None
    encrypted: str | None = None
    extra: Mapping[str, Any] | None = None
    origin: str = field(default="", eq=False)


@frozen
class RefusalDelta:
    """More of the model's refusal."""

    text: str
    index: int = 0


@frozen
class ToolDelta:
    """More of tool call `index`: its `id` and `name` once, then pieces of its JSON arguments."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    extra: Mapping[str, Any] | None = None


@frozen
class UsageUpdate:
    """The usage so far; each replaces the one before."""

    usage: Usage


@frozen
class Extra:
    """Something the wire said that we do not model.

    `data` is merged into the `extra` of the reply, or of its message; a `part`, where given, joins
    the message as is.
    """

    data: Mapping[str, Any] | None = None
    part: Part | None = None
    of: Literal["reply", "message"] = "reply"


@frozen
class Finish:
    """The model is done. At most once; only `UsageUpdate`, `Extra` and `Ping` may follow."""

    reason: FinishReason
    extra: Mapping[str, Any] | None = None


@frozen
class Ping:
    """A sign of life without content."""


Event: TypeAlias = (
    Start | TextDelta | ReasoningDelta | RefusalDelta | ToolDelta | UsageUpdate | Extra | Finish | Ping
)
