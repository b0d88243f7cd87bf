"""A full reply's JSON body as our completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.anthropic_messages.blocks import DIALECT
from llmpipe.dialects.anthropic_messages.errors import error_in_body
from llmpipe.dialects.anthropic_messages.usage import decode_usage
from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text, leftover
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Opaque, Part, Reasoning, Text, ToolCall
from llmpipe.types.frozen import EMPTY

__all__ = ("arguments", "decode_finish", "decode_reply", "encode_finish", "extra_of")

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",  # a long server-tool turn was paused; sent back as it is, it goes on
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}
# Words of other wires, which servers that translate let through; our callers never get them.
_FOREIGN: dict[str, FinishReason] = {
    "length": "length",
    "max_output_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "sensitive": "content_filter",
    "guardrail_intervened": "content_filter",
    "error": "error",
    "abort": "error",
}
_STOP_REASON: dict[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "content_filter": "refusal",  # the wire has one word for both
}
_MESSAGE = frozenset(("id", "type", "role", "model", "content", "stop_reason", "usage"))


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the body of a 200.

    What the wire has beyond our fields stands in `extra` under its own names, where it is not
    null: `stop_reason` (only where it says more than `finish_reason`), `stop_sequence`,
    `stop_details`, `container`, `context_management`, … Blocks we do not model, such as server
    tools and their results, are `Opaque` parts in their place.

    Raises: the classified error where the body is one in spite of the 200; BadReply where it is
        neither a message nor an error.
    """
    blocks = body.get("content")
    if body.get("type") == "error" or body.get("error") or ("base_resp" in body and says_error(body)):
        raise error_in_body(body, headers)
    if not isinstance(blocks, list):
        if blocks is None and says_error(body):
            raise error_in_body(body, headers)
        raise BadReply("the reply is no message: it has no content", code="no_content", phase="body")
    finish, extra = decode_finish(body.get("stop_reason"))
    extra.update(leftover(body, _MESSAGE))
    found = headers_of_interest(headers)
    parts = [_part(block, index, body) for index, block in enumerate(blocks)]
    return Completion(
        id=_text(body.get("id")),
        model=_text(body.get("model")),
        message=Message("assistant", parts, None, EMPTY, DIALECT),
        finish_reason=finish,
        usage=decode_usage(body.get("usage")),
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def decode_finish(stop_reason: object) -> tuple[FinishReason | None, dict[str, Any]]:
    """Our finish reason, and the wire's for `extra` where ours does not tell it."""
    if not isinstance(stop_reason, str):
        return None, {}
    # The versioning policy allows new reasons; one we do not know ended the turn all the same.
    finish = _FINISH.get(stop_reason) or _FOREIGN.get(stop_reason.lower(), "stop")
    return finish, {} if _STOP_REASON.get(finish) == stop_reason else {"stop_reason": stop_reason}


def encode_finish(finish: FinishReason | None, told: object) -> str | None:
    """The wire's stop reason: the one `told` in `extra` where it still means `finish`."""
    if finish is None:
        return None
    if isinstance(told, str) and told not in _FOREIGN and _FINISH.get(told, "stop") == finish:
        return told
    return _STOP_REASON[finish]


def extra_of(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a block of a modelled type has beyond our fields, without nulls and an empty list of citations.

    Whether a server sends that or nothing differs between full replies and streams.
    """
    extra = leftover(block, _BLOCKS[block["type"]])
    return extra if extra.get("citations") != [] else leftover(extra, _CITATIONS)


def arguments(tool_input: object) -> str:
    """The JSON text of a tool call's `input`. Raises: BadReply if it is nested too deep to be written."""
    if isinstance(tool_input, str):  # what `blocks.tool_input` puts where there is no object
        return tool_input
    return "{}" if tool_input is None else json_text(tool_input, "the input of a tool call")


_CITATIONS = frozenset(("citations",))
_BLOCKS = {
    "text": frozenset(("type", "text")),
    "thinking": frozenset(("type", "thinking", "signature")),
    "redacted_thinking": frozenset(("type", "data")),
    "tool_use": frozenset(("type", "id", "name", "input")),
}


def _part(block: object, index: int, body: Mapping[str, Any]) -> Part:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise BadReply(f"content.{index} of the reply is no block", code="bad_block", phase="body")
    kind = block["type"]
    try:
        if kind == "text":
            return Text("" if block.get("text", 0) is None else _need(block, "text"), extra_of(block))
        if kind == "tool_use":
            name = _need(block, "name")
            call_id = _text(block.get("id")) or made_up_id(_text(body.get("id")), index, name)
            return ToolCall(call_id, name, arguments(block.get("input")), extra_of(block))
        if kind == "thinking":
            # An empty signature is none: it could not be sent back.
            signature = _need(block, "signature") if block.get("signature") else None
            text = "" if block.get("thinking") is None else _need(block, "thinking")
            return Reasoning(text, signature, None, extra_of(block), "" if signature is None else DIALECT)
        if kind == "redacted_thinking":
            return Reasoning("", None, _need(block, "data"), extra_of(block), DIALECT)
    except KeyError as missing:
        raise BadReply(
            f"content.{index} of the reply, {kind}, has no {missing.args[0]}", code="bad_block", phase="body"
        ) from None
    return Opaque(DIALECT, block)


def _need(block: Mapping[str, Any], name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise KeyError(name)
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
