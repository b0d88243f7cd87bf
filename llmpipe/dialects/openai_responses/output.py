"""A completion as the items of a reply's output: the server's side, full and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from llmpipe.dialects.openai_responses.items import ITEM, NAME, is_content, made_up_item_id
from llmpipe.dialects.openai_responses.reasoning import encode_reasoning, sealed
from llmpipe.dialects.openai_responses.usage import encode_usage
from llmpipe.types import (
    FinishReason,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
)
from llmpipe.types.frozen import EMPTY

__all__ = (
    "CALL_PREFIX",
    "Outcome",
    "encode_output",
    "joins",
    "mark_in",
    "outcome",
    "response_body",
    "whole_item",
)

CALL_PREFIX = {"function_call": "fc", "custom_tool_call": "ctc"}
"""What ids of items that call a tool begin with."""


@frozen
class Outcome:
    """How a reply ended, in the wire's words."""

    status: str
    incomplete_details: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


def outcome(reason: FinishReason | None, extra: Mapping[str, Any], *, refused: bool) -> Outcome:
    """The ending for a finish reason; `refused` says whether the reply holds the refusal itself."""
    if reason == "error":
        return Outcome("failed", None, {"code": "server_error", "message": "the provider ended the reply"})
    if reason == "length":
        return Outcome("incomplete", extra.get("incomplete_details") or {"reason": "max_output_tokens"})
    if reason == "content_filter" or (reason == "refusal" and not refused):
        return Outcome("incomplete", {"reason": "content_filter"})
    if reason is None:
        status = extra.get("status")
        return Outcome(status) if isinstance(status, str) else Outcome("incomplete", {"reason": None})
    return Outcome("completed")


def response_body(
    *,
    reply_id: str,
    model: str,
    created: float | None,
    output: list[dict[str, Any]],
    ending: Outcome,
    usage: Usage | None,
    extra: Mapping[str, Any],
    own: bool,
) -> dict[str, Any]:
    """The response object. What it must have and we do not know has OpenAI's default.

    `extra` is shown where it is in this wire's `own` words, but for ``instructions``: what a chain
    told the model in its owner's name is not the caller's.
    """
    hidden = ("incomplete_details", "instructions", "status")
    shown = {name: value for name, value in extra.items() if name not in hidden} if own else {}
    return {
        "id": reply_id,
        "object": "response",
        "created_at": int(created or 0),
        "status": ending.status,
        "background": False,
        "error": ending.error,
        "incomplete_details": ending.incomplete_details,
        "instructions": None,
        "max_output_tokens": None,
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None if usage is None else encode_usage(usage, own=own),
        "user": None,
        "metadata": {},
        **shown,
    }


def encode_output(parts: tuple[Part, ...], reply_id: str, *, own: bool) -> list[dict[str, Any]]:
    """The items of a reply. Texts that follow each other are one message, unless their marks name two.

    What the wire has no form for is left out: opaque parts of other dialects, sound, files.
    """
    items: list[dict[str, Any]] = []
    content: list[dict[str, Any]] | None = None  # of the message that is the last of the items
    current: Mapping[str, Any] = EMPTY
    for part in parts:
        mark = mark_in(part, own=own)
        if isinstance(part, Text | Refusal) or (isinstance(part, Opaque) and _is_said(part)):
            if content is None or not joins(mark, current):
                content, current = [], mark
                made_up = made_up_item_id("msg", reply_id, len(items))
                items.append(message_item(made_up, mark, content))
            content.append(said_part(part, own=own))
            continue
        item = whole_item(part, mark, reply_id, len(items))
        if item is not None:
            items.append(item)
            content = None
    return items


def joins(mark: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether a text of that mark belongs to the message whose mark is `current`."""
    return mark.get("id") in (None, current.get("id"))


def message_item(
    made_up: str, mark: Mapping[str, Any], content: list[dict[str, Any]], status: str = "completed"
) -> dict[str, Any]:
    """An assistant's message."""
    return {
        "id": made_up,
        "type": "message",
        "status": status,
        "role": "assistant",
        **mark,
        "content": content,
    }


def said_part(part: Text | Refusal | Opaque, *, own: bool) -> dict[str, Any]:
    """One part of a message's content."""
    if isinstance(part, Opaque):
        return dict(part.data)
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text}
    extra = {name: value for name, value in part.extra.items() if name != ITEM} if own else {}
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": part.text, **extra}


def whole_item(part: Part, mark: Mapping[str, Any], reply_id: str, at: int) -> dict[str, Any] | None:
    """The item of a part that is one of its own; None where the wire has no form for it."""
    if isinstance(part, ToolCall):
        return call_item(part, mark, reply_id, at)
    if isinstance(part, Reasoning):
        item = encode_reasoning(part, mark, sealed(part))
        return {"id": made_up_item_id("rs", reply_id, at), **item}
    if isinstance(part, Opaque) and part.dialect == NAME:
        return dict(part.data)
    if isinstance(part, Image) and part.data is not None:
        made_up = made_up_item_id("ig", reply_id, at)
        return {"type": "image_generation_call", "id": made_up, "status": "completed", "result": part.data}
    return None


def call_item(
    call: ToolCall, mark: Mapping[str, Any], reply_id: str, at: int, status: str = "completed"
) -> dict[str, Any]:
    """A call of a function, or of a custom tool."""
    custom = call.extra.get("type") == "custom"
    kind = "custom_tool_call" if custom else "function_call"
    return {
        "id": made_up_item_id(CALL_PREFIX[kind], reply_id, at),
        "type": kind,
        "status": status,
        "call_id": call.id,
        "name": call.name,
        "input" if custom else "arguments": call.arguments,
        **mark,
    }


def mark_in(part: Part, *, own: bool) -> Mapping[str, Any]:
    """What the item of a part had besides, where the part is this wire's `own`."""
    if not own or isinstance(part, Opaque):
        return EMPTY
    mark = part.extra.get(ITEM)
    return mark if isinstance(mark, Mapping) else EMPTY


def _is_said(part: Opaque) -> bool:
    return part.dialect == NAME and is_content(part.data.get("type"))
