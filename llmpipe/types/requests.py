"""What is asked of a provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.types.frozen import EMPTY
from llmpipe.types.messages import Message

__all__ = (
    "AnyRequest",
    "EmbeddingRequest",
    "NamedTool",
    "ReasoningOptions",
    "Request",
    "RerankRequest",
    "ResponseFormat",
    "Tool",
)


@frozen
class Tool:
    """A function the model may call. `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = Factory(lambda: {"type": "object", "properties": {}})
    strict: bool | None = None
    extra: Mapping[str, Any] = EMPTY


@frozen
class NamedTool:
    """A tool choice that forces one tool."""

    name: str


@frozen
class ResponseFormat:
    """``text``, any JSON object (``json``), or JSON of a schema (``json_schema``)."""

    type: Literal["text", "json", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None
    name: str = "response"
    strict: bool | None = None
    description: str | None = None
    extra: Mapping[str, Any] = EMPTY


@frozen
class ReasoningOptions:
    """How much to think: an `effort` word, or at most `max_tokens`; `enabled` False: not at all."""

    effort: str | None = None
    max_tokens: int | None = None
    enabled: bool | None = None
    extra: Mapping[str, Any] = EMPTY


def _messages(
    value: str | Message | Mapping[str, Any] | Iterable[Any],
) -> tuple[Message, ...]:
    """Messages from what people write: a string, a message, ``{"role", "content"}``, or a list of these."""
    if isinstance(value, str):
        return (Message("user", value),)
    if isinstance(value, (Message, Mapping)):
        value = (value,)
    messages = []
    for position, item in enumerate(value):
        if isinstance(item, Message):
            messages.append(item)
        elif isinstance(item, str):
            messages.append(Message("user", item))
        elif isinstance(item, Mapping) and "role" in item:
            unknown = set(item) - {"role", "content", "name"}
            if unknown:
                raise ConfigError(
                    f"messages[{position}] has {sorted(unknown)}; a plain mapping takes role, content "
                    f"and name. For a provider's JSON use dialects.get(...).decode_request"
                )
            messages.append(Message(item["role"], item.get("content"), item.get("name")))
        else:
            raise ConfigError(
                f"messages[{position}] is a {type(item).__name__}; expected a Message, a string or a "
                f"mapping with role and content"
            )
    return tuple(messages)


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(value)


def _tools(value: Any) -> tuple[Any, ...]:
    tools = _tuple(value)
    for position, tool in enumerate(tools):
        if isinstance(tool, Mapping):
            raise _wire_json(f"tools[{position}]", "Tool(name, description, parameters)")
    return tools


def _response_format(value: Any) -> Any:
    if isinstance(value, Mapping):
        raise _wire_json("response_format", "ResponseFormat('json_schema', schema)")
    return value


def _wire_json(where: str, expected: str) -> ConfigError:
    return ConfigError(
        f"{where} is a mapping; expected {expected}. "
        f"For a provider's JSON use dialects.get(...).decode_request"
    )


@frozen(slots=False)  # copied on the way of many calls, and copying a dict takes a third of the time
class Request:
    """A chat request. Fields left None are not sent, so the provider's default applies.

    `max_tokens` bounds the output, reasoning included. `stop` holds stop sequences. `extra` is
    passed through under the wire's own names. `metadata` is the provider's metadata field.

    `dialect` names the wire format whose words stand in `extra`, of the request, its tools and its
    options: the one that a caller's JSON was read from. ``""`` means the words of whoever the request is
    sent to. What another dialect's words mean to a provider is translated, or left out with a warning on
    the reply; the words of the provider's own dialect reach it as they are.
    """

    model: str = ""
    messages: tuple[Message, ...] = field(default=(), converter=_messages)
    tools: tuple[Tool, ...] = field(default=(), converter=_tools)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = field(default=(), converter=_tuple)
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: ResponseFormat | None = field(default=None, converter=_response_format)
    reasoning: ReasoningOptions | None = None
    stream: bool = False
    metadata: Mapping[str, Any] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    dialect: str = field(default="", eq=False)

    @property
    def system(self) -> str:
        """All system text, joined by blank lines."""
        return "\n\n".join(m.text for m in self.messages if m.role == "system")


@frozen
class EmbeddingRequest:
    """Vectors for `inputs`: strings, or token id lists. `dimensions` shortens them where supported.

    `input_type` says what the vectors are for, where a model makes different ones for that.
    """

    model: str = ""
    inputs: tuple[str | Sequence[int], ...] = field(default=(), converter=_tuple)
    dimensions: int | None = None
    metadata: Mapping[str, Any] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    dialect: str = field(default="", eq=False)
    input_type: Literal["query", "document", "classification", "clustering"] | None = None

    stream: ClassVar[bool] = False


@frozen
class RerankRequest:
    """Order `documents` by how well they answer `query`; keep the best `top_n`."""

    model: str = ""
    query: str = ""
    documents: tuple[str, ...] = field(default=(), converter=_tuple)
    top_n: int | None = None
    metadata: Mapping[str, Any] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    dialect: str = field(default="", eq=False)

    stream: ClassVar[bool] = False


AnyRequest: TypeAlias = Request | EmbeddingRequest | RerankRequest
