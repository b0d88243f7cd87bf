"""The server's side of ``POST /v1/messages``: a caller's body as our request, our completion as the reply."""

from __future__ import annotations

from typing import Any, Literal

from llmpipe.dialects.anthropic_messages.blocks import DIALECT, MessageWriting, encode_part
from llmpipe.dialects.anthropic_messages.content import decode_content, decode_messages
from llmpipe.dialects.anthropic_messages.fields import Fields, invalid
from llmpipe.dialects.anthropic_messages.reply import encode_finish
from llmpipe.dialects.anthropic_messages.usage import encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.errors import BadReply
from llmpipe.types import (
    Audio,
    Completion,
    Message,
    NamedTool,
    Part,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Tool,
)

__all__ = ("decode_request", "encode_reply")

_CHOICE: dict[str, Literal["auto", "required", "none"]] = {
    "auto": "auto",
    "any": "required",
    "none": "none",
}


def decode_request(body: object) -> Request:
    """The request in a caller's body.

    `model` and `max_tokens` may be absent: Vertex and Bedrock name the model in the address, and
    count_tokens takes no limit.

    Fields we do not model are in `extra` at their level, so that `encode_request` gives the same
    JSON back but for these, which mean the same: a string and a list of one plain text block;
    ``system`` and a first message of role ``system``; user messages that follow each other, where
    the first has tool results; ``output_format``, which became ``output_config.format``; flags
    that say their default (``stream``, ``is_error``: false) and fields that are null or empty.

    Raises: InvalidRequest that names the field and what it should be.
    """
    fields = Fields(body)
    model = fields.text("model")
    system = fields.rest.pop("system", None)
    messages = fields.items("messages")
    if messages is None:
        raise invalid("messages", "Field required")
    decoded = decode_messages(messages)
    if system not in (None, "", []):
        decoded.insert(0, Message("system", decode_content(system, "system"), dialect=DIALECT))
    extra: dict[str, Any] = {}
    tools = tuple(_tool(tool, f"tools.{i}") for i, tool in enumerate(fields.items("tools") or ()))
    tool_choice, parallel = _tool_choice(fields, extra)
    effort, response_format = _output_config(fields, extra)
    return Request(
        model=model or "",
        messages=decoded,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=parallel,
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        max_tokens=fields.whole("max_tokens", 0),
        stop=_stop(fields),
        response_format=response_format,
        reasoning=_reasoning(fields, effort),
        stream=fields.flag("stream") or False,
        metadata=fields.table("metadata") or {},
        extra={**{name: value for name, value in fields.rest.items() if value is not None}, **extra},
        dialect=DIALECT,
    )


def _tool(wire: object, path: str) -> Tool:
    fields = Fields(wire, path)
    own = fields.rest.get("type") not in (None, "custom")  # one of Anthropic's, or a set of tools
    name = fields.text("name")
    if name is None and not own:
        raise invalid(fields.at("name"), "Field required")
    description = fields.text("description") or ""
    strict = fields.flag("strict")
    if own:
        return Tool(name or "", description, strict=strict, extra=fields.rest)
    schema = fields.table("input_schema")
    if schema is None:
        raise invalid(fields.at("input_schema"), "Field required")
    return Tool(name or "", description, schema, strict, fields.rest)


def _tool_choice(
    fields: Fields, extra: dict[str, Any]
) -> tuple[Literal["auto", "none", "required"] | NamedTool | None, bool | None]:
    if fields.rest.get("tool_choice") is None:
        fields.rest.pop("tool_choice", None)
        return None, None
    choice = fields.nested("tool_choice")
    kind = choice.need_text("type")
    alone = choice.flag("disable_parallel_tool_use")
    named = NamedTool(choice.need_text("name")) if kind == "tool" else None
    if named is None and kind not in _CHOICE:
        raise invalid(choice.at("type"), f"Input should be 'auto', 'any', 'tool' or 'none', not {kind!r}")
    if choice.rest:
        extra["tool_choice"] = choice.rest
    return named or _CHOICE[kind], None if alone is None else not alone


def _output_config(fields: Fields, extra: dict[str, Any]) -> tuple[str | None, ResponseFormat | None]:
    """The effort, and the format of the answer."""
    effort: str | None = None
    wanted = fields.table("output_format")
    path = "output_format"
    if fields.rest.get("output_config") is not None:
        config = fields.nested("output_config")
        effort = config.text("effort")
        if config.rest.get("format") is not None:
            wanted, path = config.table("format"), config.at("format")
        config.rest.pop("format", None)
        if config.rest:
            extra["output_config"] = config.rest
    if wanted is None:
        return effort, None
    answer = Fields(wanted, path)
    kind = answer.need_text("type")
    if kind != "json_schema":
        raise invalid(answer.at("type"), f"Input should be 'json_schema', not {kind!r}")
    schema = answer.table("schema")
    if schema is None:
        raise invalid(answer.at("schema"), "Field required")
    return effort, ResponseFormat("json_schema", schema, extra=answer.rest)


def _reasoning(fields: Fields, effort: str | None) -> ReasoningOptions | None:
    if fields.rest.get("thinking") is None:
        return None if effort is None else ReasoningOptions(effort)
    thinking = fields.nested("thinking")
    kind = thinking.need_text("type")
    enabled = {"disabled": False, "adaptive": True}.get(kind)
    budget = thinking.whole("budget_tokens", 0) if kind == "enabled" else None
    if kind == "enabled" and budget is None:
        raise invalid(thinking.at("budget_tokens"), "Field required")
    # A kind that came after this was written is carried as it is.
    extra = thinking.rest if kind in ("enabled", "disabled", "adaptive") else {"type": kind, **thinking.rest}
    return ReasoningOptions(effort, budget, enabled, extra)


def _stop(fields: Fields) -> tuple[str, ...]:
    stop = fields.items("stop_sequences") or []
    for position, one in enumerate(stop):
        if not isinstance(one, str):
            raise invalid(f"stop_sequences.{position}", "Input should be a valid string")
    return tuple(stop)


def encode_reply(completion: Completion) -> dict[str, Any]:
    """The JSON body of a full reply. `extra` is merged in under the wire's own names.

    What the wire has no form for is left out: audio, opaque parts of other dialects, and what these said
    beyond our fields.

    Raises: BadReply for a completion that finished with ``error``: the wire has no stop reason
        for it, and it must not look like a success.
    """
    if completion.finish_reason == "error":
        raise BadReply("the provider ended the reply with an error", partial=completion)
    said = completion.message
    writing = MessageWriting(said.dialect, Losses(), "assistant", answering=True)
    extra = {} if writing.foreign else dict(completion.extra)
    stop_reason = encode_finish(completion.finish_reason, extra.pop("stop_reason", None))
    blocks = [
        encode_part(piece, writing, "content")
        for part in said.parts
        if not isinstance(part, Audio)
        for piece in _pieces(part)
    ]
    return {
        "id": completion.id,
        "type": "message",
        "role": "assistant",
        "model": completion.model,
        "content": [block for block in blocks if block is not None],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": encode_usage(completion.usage, foreign=writing.foreign),
        **extra,
    }


def _pieces(part: Part) -> tuple[Part, ...]:
    """`part`, or what two blocks say: a thought that is shown, and its encrypted form (OpenAI's)."""
    if isinstance(part, Reasoning) and part.text and part.encrypted is not None:
        shown = Reasoning(part.text, part.signature, None, part.extra, part.origin)
        return shown, Reasoning("", None, part.encrypted, {}, part.origin)
    return (part,)
