"""Replies, full and streamed: each line of a stream is a reply with a piece of the message."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text, leftover
from llmpipe.dialects.ollama_chat.errors import error_in
from llmpipe.dialects.ollama_chat.messages import NAME
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Part, Reasoning, Text, ToolCall, Usage

__all__ = ("MESSAGE", "calls_of", "created_at", "decode_finish", "decode_reply", "decode_usage", "rest_of")

_FINISH: dict[object, FinishReason] = {"stop": "stop", "length": "length"}
_BODY = frozenset(("created_at", "done", "done_reason", "message", "model"))
_COUNTED = _BODY | {"eval_count", "prompt_eval_count"}
MESSAGE = frozenset(("content", "role", "thinking", "tool_calls"))
"""Fields of a message that are modelled."""


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the body of a 200. Ollama's durations, in nanoseconds, are in its `extra`.

    Raises: the classified error where the body is one, BadReply where it is neither, or is not done.
    """
    message = body.get("message")
    if body.get("error") or not isinstance(message, dict):
        if says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no message", code="no_message", phase="body")
    if body.get("done") is False:
        raise BadReply("the reply is not done", code="not_done", phase="body")
    parts: list[Part] = []
    if thought := _text(message.get("thinking")):
        parts.append(Reasoning(thought))
    if text := _text(message.get("content")):
        parts.append(Text(text))
    calls = calls_of(message, f"{body.get('model')}\0{body.get('created_at')}", 0)
    usage = decode_usage(body)
    finish, extra = decode_finish(body.get("done_reason"), has_calls=bool(calls))
    found = headers_of_interest(headers)
    return Completion(
        model=_text(body.get("model")),
        message=Message("assistant", (*parts, *calls), None, _unmodelled(message), NAME),
        finish_reason=finish,
        usage=usage,
        created=created_at(body.get("created_at")),
        request_id=request_id_in(found),
        headers=found,
        extra={**extra, **rest_of(body, usage)},
    )


def decode_finish(word: object, *, has_calls: bool) -> tuple[FinishReason, dict[str, Any]]:
    """Our finish reason, and the wire's for `extra` where ours does not tell it (``load``)."""
    finish = _FINISH.get(word, "stop") if isinstance(word, str) else "stop"
    extra = {} if word in (None, "", finish) else {"done_reason": word}
    return ("tool_calls" if has_calls and finish == "stop" else finish), extra


def decode_usage(body: Mapping[str, Any]) -> Usage | None:
    """The tokens read and written, or None where one is missing.

    Ollama leaves out the prompt's where it had the prompt in its cache: how many there were is unknown
    then, which is not none.
    """
    given, made = _count(body.get("prompt_eval_count")), _count(body.get("eval_count"))
    return None if given is None or made is None else Usage(given, made)


def rest_of(body: Mapping[str, Any], usage: Usage | None) -> Mapping[str, Any]:
    """What a reply has beyond our fields."""
    return leftover(body, _BODY if usage is None else _COUNTED)


def calls_of(message: Mapping[str, Any], reply_id: str, first: int) -> list[ToolCall]:
    """The tool calls of a message, each whole; older servers give them no ids.

    Args: first is the number of the first of them within the reply.
    """
    wire = message.get("tool_calls")
    calls = []
    for index, call in enumerate(wire if isinstance(wire, list) else (), first):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise BadReply("a tool call of the reply has no function", code="bad_call", phase="body")
        name, arguments = _text(function.get("name")), function.get("arguments")
        text = arguments if isinstance(arguments, str) else json_text(arguments or {}, "a call's arguments")
        extra = dict(leftover(call, _CALL))
        if more := leftover(function, _FUNCTION):
            extra["function"] = more
        calls.append(ToolCall(_text(call.get("id")) or made_up_id(reply_id, index, name), name, text, extra))
    return calls


def created_at(instant: object) -> float | None:
    """Unix time of an RFC 3339 instant with up to nine digits of a second; None where there is none."""
    if not isinstance(instant, str):
        return None
    try:
        moment = datetime.fromisoformat(instant)
    except ValueError:
        return None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if seconds > 0 else None  # Go's zero time is the year 1


_CALL = frozenset(("function", "id", "type"))
_FUNCTION = frozenset(("arguments", "index", "name"))


def _unmodelled(message: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in leftover(message, MESSAGE).items() if value not in ("", [], {})}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1_000_000_000 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
