"""A full reply: from the wire's JSON to a completion."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reply import arguments_text, created_at
from llmpipe.dialects.openai_responses.errors import error_of_reply
from llmpipe.dialects.openai_responses.items import NAME, mark_of, with_mark
from llmpipe.dialects.openai_responses.reasoning import decode_reasoning
from llmpipe.dialects.openai_responses.usage import decode_usage
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Opaque, Part, Refusal, Text, ToolCall

__all__ = (
    "CALLS",
    "FAILED",
    "MESSAGE_FIELDS",
    "content_of",
    "decode_reply",
    "extra_of",
    "finish_of",
    "is_answer",
    "parts_of",
    "said",
    "text_of",
    "tool_call",
)

FAILED = ("failed", "cancelled")
"""Statuses of a response that is no answer."""

CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that call a tool of the caller's, and where their arguments stand."""

MESSAGE_FIELDS = frozenset(("content", "role", "type"))
# The last two are of the event that it came in; Amazon Bedrock leaves them in the item at the end.
_CALL_FIELDS = frozenset(("arguments", "call_id", "input", "name", "type", "item_id", "output_index"))
_TEXT_FIELDS = frozenset(("text", "type"))
_BODY_FIELDS = frozenset(("created_at", "error", "id", "model", "object", "output", "status", "usage"))
_OVER = ("completed", "incomplete", *FAILED)
_WHY: dict[str, FinishReason] = {
    "max_output_tokens": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the JSON body of a 200.

    A response that runs in the background and is not over has no finish reason, and its status in
    `extra`.

    Raises: the classified LLMError where the response failed, BadReply where it is no reply.
    """
    output = body.get("output")
    if output is None and body.get("status") in ("queued", "in_progress"):
        output = []
    if not isinstance(output, list):
        if body.get("error") or says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no output", code="no_output", phase="body")
    if not is_answer(body):
        raise error_of_reply(body, headers=headers, phase="body")
    reply_id = text_of(body.get("id"))
    parts = [part for at, item in enumerate(output) for part in parts_of(item, at, reply_id)]
    found = headers_of_interest(headers)
    return Completion(
        id=reply_id,
        model=text_of(body.get("model")),
        message=Message("assistant", parts, dialect=NAME),
        finish_reason=finish_of(body, set(map(type, parts))),
        usage=decode_usage(body.get("usage")),
        created=created_at(body.get("created_at")),
        request_id=request_id_in(found),
        headers=found,
        extra=extra_of(body),
    )


def is_answer(response: Mapping[str, Any]) -> bool:
    """Whether a response object is an answer, or one under way, and not a failure."""
    status = response.get("status")
    return status not in FAILED and (not response.get("error") or status in _OVER)


def parts_of(item: object, at: int, reply_id: str) -> list[Part]:
    """The parts of one item of the output."""
    if not isinstance(item, dict):
        raise BadReply(f"output[{at}] of the reply is no item", code="bad_item", phase="body")
    kind = item.get("type")
    if kind == "message" and item.get("role", "assistant") == "assistant":
        mark = mark_of(item, MESSAGE_FIELDS)
        return [said(part, mark) for part in content_of(item) if isinstance(part, dict)]
    if isinstance(kind, str) and kind in CALLS:
        return [tool_call(item, at, reply_id)]
    if kind == "reasoning":
        return [decode_reasoning(item)]
    return [Opaque(NAME, item)]


def content_of(item: Mapping[str, Any]) -> list[Any]:
    """The content of a message item, as a list in any case."""
    content = item.get("content")
    if isinstance(content, str):  # not OpenAI's, yet easily understood
        return [{"type": "output_text", "text": content}]
    return content if isinstance(content, list) else []


def said(part: Mapping[str, Any], mark: Mapping[str, Any]) -> Part:
    """One part of what the model said."""
    kind = part.get("type")
    if kind in ("output_text", "text"):
        extra = {
            name: value
            for name, value in part.items()
            if name not in _TEXT_FIELDS and value is not None and value != []
        }
        return Text(text_of(part.get("text")), with_mark(extra, mark))
    if kind == "refusal":
        return Refusal(text_of(part.get("refusal")))
    return Opaque(NAME, part)


def tool_call(item: Mapping[str, Any], at: int, reply_id: str) -> ToolCall:
    """The call of an item; its id is the one that the result names."""
    kind = item["type"]
    name = text_of(item.get("name"))
    call_id = text_of(item.get("call_id")) or text_of(item.get("id")) or made_up_id(reply_id, at, name)
    extra: dict[str, Any] = {"type": "custom"} if kind == "custom_tool_call" else {}
    mark = mark_of(item, _CALL_FIELDS)
    if "id" not in mark and item.get("item_id"):
        mark["id"] = item["item_id"]
    return ToolCall(call_id, name, arguments_text(item.get(CALLS[kind])), with_mark(extra, mark))


def finish_of(response: Mapping[str, Any], kinds: Collection[type]) -> FinishReason | None:
    """Why the model stopped, having made parts of those `kinds`; None where it has not.

    Incomplete without a reason that we know is cut off, whatever cut it. A refusal is one where nothing
    else was said: this wire has no word for it, only a place.
    """
    status = response.get("status")
    if status in ("queued", "in_progress"):
        return None
    if status == "incomplete":
        details = response.get("incomplete_details")
        why = details.get("reason") if isinstance(details, Mapping) else None
        return _WHY.get(why, "length") if isinstance(why, str) else "length"
    if ToolCall in kinds:
        return "tool_calls"
    return "refusal" if Refusal in kinds and Text not in kinds else "stop"


def extra_of(response: Mapping[str, Any]) -> dict[str, Any]:
    """What a response object says besides; nulls are left out, and so is a reason that we have a word for."""
    extra = {
        name: value for name, value in response.items() if name not in _BODY_FIELDS and value is not None
    }
    if extra.get("incomplete_details") in ({"reason": "max_output_tokens"}, {"reason": "content_filter"}):
        del extra["incomplete_details"]
    status = response.get("status")
    if status not in (None, *_OVER):
        extra["status"] = status
    return extra


def text_of(value: object) -> str:
    """A string as it is, nothing as ``""``."""
    return value if isinstance(value, str) else "" if value is None else str(value)
