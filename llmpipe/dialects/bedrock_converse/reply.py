"""A full reply's JSON body as our completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.bedrock_converse.attachments import decode_media
from llmpipe.dialects.bedrock_converse.errors import error_in_body
from llmpipe.dialects.bedrock_converse.parts import DIALECT
from llmpipe.dialects.bedrock_converse.usage import decode_usage
from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text, leftover
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Opaque, Part, Reasoning, Text, ToolCall

__all__ = ("decode_finish", "decode_reply", "is_ours", "tool_extra")

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
}
_USUAL = frozenset(("end_turn", "tool_use", "max_tokens", "content_filtered"))
"""Reasons that our finish reason tells in full."""

_BODY = frozenset(("output", "stopReason", "usage"))
_MESSAGE = frozenset(("role", "content"))
_TOOL_USE = frozenset(("toolUseId", "name", "input"))
_REASONING = frozenset(("reasoningText", "redactedContent"))
_REASONING_TEXT = frozenset(("text", "signature"))
_CITED = frozenset(("content",))


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the body of a 200. The wire names neither an id nor the model.

    What the wire has beyond our fields stands in `extra` under its own names: `stopReason` (only where
    it says more than `finish_reason`), `metrics`, `trace`, `additionalModelResponseFields`, … Blocks we
    do not model, such as the calls of Bedrock's own tools and their results, are `Opaque` parts.

    Raises: the classified error where the body is one in spite of the 200; BadReply where it is neither
        a reply nor an error.
    """
    output = body.get("output")
    message = output.get("message") if isinstance(output, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(content, list):
        if says_error(body) or isinstance(body.get("Output"), dict):
            raise error_in_body(body, headers)
        raise BadReply("the reply has no output.message.content", code="no_content", phase="body")
    parts = [part for index, block in enumerate(content) if (part := _part(block, index)) is not None]
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    finish, extra = decode_finish(body.get("stopReason"), has_calls=has_calls)
    extra.update(leftover(body, _BODY))
    found = headers_of_interest(headers)
    return Completion(
        message=Message("assistant", parts, None, leftover(message, _MESSAGE), DIALECT),
        finish_reason=finish,
        usage=decode_usage(body.get("usage")),
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def decode_finish(reason: object, *, has_calls: bool) -> tuple[FinishReason, dict[str, Any]]:
    """Our finish reason, and the wire's for `extra` where ours does not tell it.

    Bedrock says ``end_turn`` of some turns that call a tool, and ``tool_use`` of some that call none:
    what is in the reply decides between these two.
    """
    word = reason if isinstance(reason, str) else ""
    finish = _FINISH.get(word, "stop")  # one that we do not know ended the turn all the same
    if finish in ("stop", "tool_calls"):
        meant: FinishReason = "tool_calls" if has_calls else "stop"
        told = not word or (meant == finish and word in _USUAL)
        return meant, {} if told else {"stopReason": word}
    return finish, {} if word in _USUAL else {"stopReason": word}


def is_ours(tool_use: Mapping[str, Any]) -> bool:
    """Whether the caller is to run the tool; Bedrock runs its own."""
    return tool_use.get("type") in (None, "tool_use")


def tool_extra(tool_use: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a call has beyond our fields."""
    return leftover(tool_use, _TOOL_USE)


def _part(block: object, index: int) -> Part | None:
    """The part of a block; None for empty text, which some models put before what they say."""
    if not isinstance(block, dict) or not block:
        raise BadReply(f"content[{index}] of the reply is no block", code="bad_block", phase="body")
    kind = next(iter(block))
    try:
        return _read(kind, block[kind], index) if len(block) == 1 else Opaque(DIALECT, block)
    except (KeyError, TypeError, AttributeError) as problem:
        # Reaching into JSON of another shape than the protocol's raises one of these.
        raise BadReply(
            f"content[{index}] of the reply, {kind[:40]}, is not the protocol's ({type(problem).__name__})",
            code="bad_block",
            phase="body",
        ) from None


def _read(kind: str, value: Any, index: int) -> Part | None:
    if kind == "text":
        return Text(_string(value)) if value else None
    if kind == "toolUse" and is_ours(value):
        name = _string(value["name"])
        call_id = _string(value.get("toolUseId") or made_up_id("", index, name))
        given = value.get("input")
        arguments = (
            "{}" if given is None else given if isinstance(given, str) else json_text(given, "a tool's input")
        )
        return ToolCall(call_id, name, arguments, tool_extra(value))
    if kind == "reasoningContent":
        return _reasoning(value)
    if kind == "citationsContent":
        pieces = [_string(piece["text"]) for piece in value.get("content") or ()]
        extra = leftover(value, _CITED)
        return Text("".join(pieces), extra) if any(pieces) or extra else None
    if kind in ("image", "audio") and (part := decode_media(kind, value)) is not None:
        return part
    return Opaque(DIALECT, {kind: value})


def _reasoning(value: Mapping[str, Any]) -> Part:
    extra = dict(leftover(value, _REASONING))
    hidden = value.get("redactedContent")
    if hidden is not None:
        return Reasoning("", None, _string(hidden), extra, DIALECT)
    told = value["reasoningText"]
    extra.update(leftover(told, _REASONING_TEXT))
    signature = (
        _string(told.get("signature") or "") or None
    )  # an empty one is none: it could not be sent back
    return Reasoning(_string(told.get("text") or ""), signature, None, extra, DIALECT if signature else "")


def _string(value: object) -> str:
    if type(value) is str:
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")
