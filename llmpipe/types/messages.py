"""Messages and the parts they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import orjson
from attrs import field, frozen

from llmpipe.errors import ConfigError, InvalidRequest
from llmpipe.types.frozen import EMPTY

__all__ = (
    "Audio",
    "Content",
    "Document",
    "Image",
    "Message",
    "Opaque",
    "Part",
    "Reasoning",
    "Refusal",
    "Role",
    "Text",
    "ToolCall",
    "ToolResult",
)

Role = Literal["system", "user", "assistant", "tool"]


def _parts(content: Content | None) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if isinstance(content, _PART_TYPES):
        return (content,)
    parts: tuple[Any, ...] = tuple(content)
    for part in parts:
        if not isinstance(part, _PART_TYPES):
            return tuple([_part(part) for part in parts])
    return parts


def _part(part: Any) -> Part:
    if isinstance(part, str):
        return Text(part)
    if not isinstance(part, _PART_TYPES):
        raise ConfigError(
            f"a message part must be a str or one of "
            f"{', '.join(t.__name__ for t in _PART_TYPES)}, not {type(part).__name__}"
        )
    return part


@frozen
class Text:
    """Plain text."""

    text: str
    extra: Mapping[str, Any] = EMPTY


@frozen
class Image:
    """A picture, by `url` or as base64 `data` with its `media_type` (such as ``image/png``)."""

    url: str | None = None
    data: str | None = field(default=None, repr=False)
    media_type: str | None = None
    detail: str | None = None
    extra: Mapping[str, Any] = EMPTY


@frozen
class Document:
    """A file: by `url`, as base64 `data`, as plain `text`, or by the provider's `file_id`."""

    url: str | None = None
    data: str | None = field(default=None, repr=False)
    text: str | None = None
    file_id: str | None = None
    media_type: str | None = None
    name: str | None = None
    extra: Mapping[str, Any] = EMPTY


@frozen
class Audio:
    """Sound as base64 `data`; `format` is ``wav``, ``mp3`` and so on."""

    data: str = field(repr=False)
    format: str = "wav"
    extra: Mapping[str, Any] = EMPTY


@frozen
class Reasoning:
    """What the model thought before it answered.

    `signature` proves it to the provider when it is sent back. `encrypted` is thinking that the
    provider shows to nobody (Anthropic: ``redacted_thinking``); `text` is then empty. A part with a
    signature and no text signs the part that follows it (Gemini signs its tool calls so).

    `origin` names the dialect whose provider made the signature or the encrypted thought; ``""`` where
    that is not known. A proof means nothing to anybody else, so it goes back to its origin only.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    extra: Mapping[str, Any] = EMPTY
    origin: str = field(default="", eq=False)


@frozen
class ToolCall:
    """The model asks for a tool. `arguments` is the JSON text exactly as the wire gave it."""

    id: str
    name: str
    arguments: str = "{}"
    extra: Mapping[str, Any] = EMPTY

    @property
    def args(self) -> dict[str, Any]:
        """The arguments, parsed.

        Raises: InvalidRequest if they are not a JSON object (cut off, or the model's mistake).
        """
        try:
            args = orjson.loads(self.arguments or "{}")
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(
                f"arguments of tool call {self.name!r} are not JSON: {error}",
                code="tool_arguments",
            ) from None
        if not isinstance(args, dict):
            raise InvalidRequest(
                f"arguments of tool call {self.name!r} are a JSON {type(args).__name__}, not an object",
                code="tool_arguments",
            )
        return args


@frozen
class ToolResult:
    """What a tool answered. `id` is the id of the call it answers."""

    id: str
    content: tuple[Part, ...] = field(converter=_parts)
    is_error: bool = False
    name: str | None = None
    extra: Mapping[str, Any] = EMPTY

    @property
    def text(self) -> str:
        """All text of the result, joined."""
        return "".join(part.text for part in self.content if isinstance(part, Text))


@frozen
class Refusal:
    """The model declined, in its own words."""

    text: str
    extra: Mapping[str, Any] = EMPTY


@frozen
class Opaque:
    """A part we do not model, exactly as it stood on the wire of `dialect`."""

    dialect: str
    data: Mapping[str, Any]


Part: TypeAlias = Text | Image | Document | Audio | Reasoning | ToolCall | ToolResult | Refusal | Opaque
Content: TypeAlias = str | Part | Iterable[str | Part]
_PART_TYPES = (
    Text,
    Image,
    Document,
    Audio,
    Reasoning,
    ToolCall,
    ToolResult,
    Refusal,
    Opaque,
)


@frozen
class Message:
    """One turn of a conversation. `parts` may be given as a plain string.

    `dialect` names the wire format whose words stand in `extra`, of the message and of its parts: the one
    that the message was read from. ``""`` means the words of whoever the message is sent to.
    """

    role: Role
    parts: tuple[Part, ...] = field(converter=_parts)
    name: str | None = None
    extra: Mapping[str, Any] = EMPTY
    dialect: str = field(default="", eq=False)

    @property
    def text(self) -> str:
        """All text of the message, joined; refusals, reasoning and tools are not text."""
        return "".join([part.text for part in self.parts if type(part) is Text])

    @property
    def reasoning(self) -> str:
        """All visible reasoning of the message, joined."""
        return "".join([part.text for part in self.parts if type(part) is Reasoning])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the message, in order."""
        return tuple([part for part in self.parts if type(part) is ToolCall])

    @property
    def refusal(self) -> str | None:
        """The model's refusal, or None."""
        texts = [part.text for part in self.parts if type(part) is Refusal]
        return "".join(texts) if texts else None
