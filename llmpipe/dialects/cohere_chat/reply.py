"""A full reply: from the wire's JSON to a completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.cohere_chat.errors import error_in
from llmpipe.dialects.cohere_chat.parts import NAME, PLAN
from llmpipe.dialects.cohere_chat.usage import decode_usage
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text, leftover
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Opaque, Part, Reasoning, Text, ToolCall

__all__ = (
    "NOTHING",
    "arguments_text",
    "call_of",
    "decode_finish",
    "decode_reply",
    "encode_finish",
    "unmodelled",
)

NOTHING: tuple[object, ...] = (None, "", [], {})
"""What a field says that says nothing; streams begin with a message of empty fields."""

_FINISH: dict[str, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
    "ERROR": "error",
    "TIMEOUT": "error",
    "ERROR_LIMIT": "length",  # this and the next two: version 1's, which some servers still say
    "ERROR_TOXIC": "content_filter",
    "USER_CANCEL": "error",
}
_WORDS: dict[FinishReason, str] = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR_TOXIC",
    "refusal": "COMPLETE",  # version 2 has no word for it, and the text says it
    "error": "ERROR",
}
_BODY = frozenset(("finish_reason", "id", "message", "usage"))
_MESSAGE = frozenset(("content", "role", "tool_calls", "tool_plan"))


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the body of a 200.

    The tool plan is reasoning, with ``{"field": "tool_plan"}`` in its `extra`; citations are in the
    `extra` of the message, log probabilities in that of the completion, under the wire's own names.

    Raises: the classified error where the body is one in spite of the 200, BadReply where it is neither.
    """
    message = body.get("message")
    if not isinstance(message, dict):
        if message or says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no message", code="no_message", phase="body")
    if body.get("error"):
        raise error_in(body, headers=headers, phase="body")
    reply_id = _text(body.get("id"))
    parts, calls = _parts(message), _calls(message, reply_id)
    finish, extra = decode_finish(body.get("finish_reason"))
    extra.update(leftover(body, _BODY))
    found = headers_of_interest(headers)
    return Completion(
        id=reply_id,
        message=Message("assistant", (*parts, *calls), None, unmodelled(message, _MESSAGE), NAME),
        finish_reason=finish or ("tool_calls" if calls else "stop"),
        usage=decode_usage(body.get("usage")),
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def decode_finish(word: object) -> tuple[FinishReason | None, dict[str, Any]]:
    """Our finish reason, and the wire's for `extra` where ours does not tell it."""
    if not isinstance(word, str) or not word:
        return None, {}
    finish = _FINISH.get(word.upper(), "stop")
    return finish, {} if _WORDS[finish] == word else {"finish_reason": word}


def encode_finish(finish: FinishReason | None, told: object) -> str | None:
    """The wire's finish reason: the one `told` in `extra` where it still means `finish`."""
    if finish is None:
        return None
    if isinstance(told, str) and decode_finish(told)[0] == finish:
        return told
    return _WORDS[finish]


def call_of(wire: Mapping[str, Any], reply_id: str, index: int) -> ToolCall:
    """A tool call, of a full reply or of a stream's start; one without an id is given one."""
    function = wire.get("function")
    inner: Mapping[str, Any] = function if isinstance(function, dict) else {}
    name = _text(inner.get("name"))
    extra = {key: value for key, value in wire.items() if key not in _CALL and value is not None}
    if kind := wire.get("type"):
        extra.update({} if kind == "function" else {"type": kind})
    if more := leftover(inner, _FUNCTION):
        extra["function"] = more
    call_id = _text(wire.get("id")) or made_up_id(reply_id, index, name)
    return ToolCall(call_id, name, arguments_text(inner.get("arguments")), extra)


def arguments_text(arguments: object) -> str:
    """The JSON text of a call's arguments, should a server send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json_text(arguments, "the arguments of a tool call")


def unmodelled(wire: Mapping[str, Any], known: frozenset[str]) -> Mapping[str, Any]:
    """What `wire` has beyond the `known` names and says something."""
    return {name: value for name, value in leftover(wire, known).items() if value not in NOTHING}


_CALL = frozenset(("function", "id", "type"))
_FUNCTION = frozenset(("arguments", "name"))
_TEXT = frozenset(("text", "type"))
_THINKING = frozenset(("thinking", "type"))


def _parts(message: Mapping[str, Any]) -> list[Part]:
    """The plan and the content."""
    parts: list[Part] = []
    plan, content = message.get("tool_plan"), message.get("content")
    if isinstance(plan, str) and plan:
        parts.append(Reasoning(plan, extra=PLAN))
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            raise BadReply("a content block of the reply is no object", code="bad_block", phase="body")
        part = _part(block)
        if not isinstance(part, Text | Reasoning) or part.text or part.extra:
            parts.append(part)
    return parts


def _part(block: dict[str, Any]) -> Part:
    kind = block.get("type") or ("thinking" if "thinking" in block else "text")
    if kind not in ("text", "thinking"):
        return Opaque(NAME, block)
    text = block.get(kind) or ""
    if not isinstance(text, str):
        raise BadReply(f"a {kind} block of the reply has no {kind}", code="bad_block", phase="body")
    if kind == "text":
        return Text(text, leftover(block, _TEXT))
    return Reasoning(text, extra=leftover(block, _THINKING))


def _calls(message: Mapping[str, Any], reply_id: str) -> list[ToolCall]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return []
    return [call_of(call, reply_id, index) for index, call in enumerate(calls) if isinstance(call, dict)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
