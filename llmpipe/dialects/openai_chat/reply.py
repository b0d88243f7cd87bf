"""A full reply: from the wire's JSON to a completion."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.openai_chat.content import lenient_part
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reasoning import decode_reasoning
from llmpipe.dialects.openai_chat.usage import decode_usage
from llmpipe.errors import BadReply
from llmpipe.types import Completion, FinishReason, Message, Part, Refusal, Text, ToolCall
from llmpipe.types.frozen import EMPTY

__all__ = (
    "CHOICE_FIELDS",
    "MODELLED_OF_CHOICE",
    "NOTHING",
    "arguments_text",
    "created_at",
    "decode_reply",
    "finish_reason",
    "made_up_id",
    "usage_of_groq",
)

CHOICE_FIELDS = frozenset(
    (
        "content_filter_results",
        "finish_details",
        "logprobs",
        "matched_stop",
        "native_finish_reason",
        "stop_reason",
    )
)
"""Fields of a choice that stand in a completion's `extra` by name; others are in its ``"choice"``."""

MODELLED_OF_CHOICE = frozenset(("delta", "error", "finish_reason", "index", "message", "text"))
"""Fields of a choice that are modelled, or repeat one: Together's `text`, Perplexity's second message."""

NOTHING: tuple[object, ...] = (None, "", [], {})
"""What a field says that says nothing: which of them, or none at all, differs from chunk to chunk."""

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",  # Together
    "eos_token": "stop",  # TGI
    "stop_sequence": "stop",
    "end_turn": "stop",
    "stop_token": "stop",
    "complete": "stop",
    "completed": "stop",
    "done": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "max_output_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",  # Azure AI
    "tool_use": "tool_calls",
    "function_call": "tool_calls",  # OpenAI's functions of 2023
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # Z.AI
    "safety": "content_filter",  # this and the next: Google's words, through gateways
    "recitation": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "guardrail_intervened": "content_filter",  # Bedrock's
    "refusal": "refusal",
    "error": "error",
    "malformed_function_call": "error",  # Google's
    "timeout": "error",
    "cancelled": "error",
    "abort": "error",  # SGLang, vLLM: the server gave up
    "network_error": "error",  # Z.AI
    "insufficient_system_resource": "error",  # DeepSeek
}


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the JSON body of a 200.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no reply.
    """
    choices = body.get("choices")
    first = _first(choices) if isinstance(choices, list) else None
    if body.get("error") or body.get("object") == "error" or first is None:
        if first is None and not _says_error(body):
            raise BadReply("the reply has no choices", code="no_choices", phase="body")
        raise error_in(body, headers=headers, phase="body")
    if first.get("error"):
        raise error_in(first, headers=headers, phase="body")  # OpenRouter

    extra: dict[str, Any] = {
        name: value for name, value in body.items() if name not in _BODY_FIELDS and value is not None
    }
    message = first.get("message") or first.get("delta")
    message = dict(message) if isinstance(message, dict) else {}
    reply_id = _text(body.get("id"))
    parts = _message_parts(message)
    calls = _calls(message, reply_id)
    for name, value in first.items():
        if name not in MODELLED_OF_CHOICE and value not in NOTHING:
            put_choice_field(extra, name, value)
    assert isinstance(choices, list)
    if len(choices) > 1:
        extra["choices"] = [choice for choice in choices if choice is not first]
    word = first.get("finish_reason") or _finish_details(first)
    reason = finish_reason(word, has_calls=bool(calls))
    if word != reason and isinstance(word, str) and word:
        extra["finish_reason"] = word
    usage = body.get("usage") or usage_of_groq(body)
    found = headers_of_interest(headers)
    return Completion(
        id=reply_id,
        model=_text(body.get("model")),
        message=Message("assistant", (*parts, *calls), extra=_unmodelled(message) if message else EMPTY),
        finish_reason=reason,
        usage=decode_usage(usage),
        created=created_at(body.get("created")),
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def finish_reason(word: object, *, has_calls: bool) -> FinishReason:
    """Ours for the wire's word; where it gives none (Snowflake), what the message says."""
    if isinstance(word, str) and word:
        return _FINISH.get(word.lower(), "stop")
    return "tool_calls" if has_calls else "stop"


def made_up_id(reply_id: str, index: int, name: object) -> str:
    """An id for a tool call that came without one (Gemini's endpoint, some local servers).

    The same for the same reply, so that every decoding agrees, and at most 40 characters, which
    is what OpenAI takes.
    """
    digest = hashlib.blake2s(f"{reply_id}\0{index}\0{name}".encode("utf-8", "replace"), digest_size=12)
    return f"call_{digest.hexdigest()}"


def arguments_text(arguments: object) -> str:
    """The JSON text of a call's arguments; a few servers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json_text(arguments, "the arguments of a tool call")


def created_at(value: object) -> float | None:
    """Unix time; Azure's first chunk and some servers say 0, which is no time."""
    return float(value) if isinstance(value, (int, float)) and value else None


def usage_of_groq(body: Mapping[str, Any]) -> object:
    """The usage that Groq puts into an object of its own, where there is no other."""
    groq = body.get("x_groq")
    return groq.get("usage") if isinstance(groq, dict) else None


def put_choice_field(extra: dict[str, Any], name: str, value: object) -> None:
    """Keep a field of a choice that is not modelled."""
    if name in CHOICE_FIELDS and name not in extra:
        extra[name] = value
    else:
        extra.setdefault("choice", {})[name] = value


_BODY_FIELDS = frozenset(("choices", "created", "error", "id", "model", "object", "usage"))
_CALLS = frozenset(("function_call", "tool_calls"))


def _first(choices: list[Any]) -> dict[str, Any] | None:
    """The choice with index 0, else the first."""
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index") == 0:
            return choice
    return next((choice for choice in choices if isinstance(choice, dict)), None)


def _says_error(body: Mapping[str, Any]) -> bool:
    return any(body.get(name) for name in ("error", "errors", "detail", "message", "error_msg"))


def _message_parts(message: dict[str, Any]) -> list[Part]:
    """The parts of a provider's message but its calls; what is understood is taken out of `message`."""
    message.pop("role", None)
    parts: list[Part] = [*decode_reasoning(message)]
    content = message.pop("content", None)
    if isinstance(content, str):
        if content:
            parts.append(Text(content))
    elif isinstance(content, list):
        parts += [lenient_part(part) if isinstance(part, dict) else Text(str(part)) for part in content]
    elif content is not None:  # Cloudflare: an object, where JSON was asked for
        parts.append(Text(json_text(content, "the reply's content")))
    refusal = message.pop("refusal", None)
    if isinstance(refusal, str) and refusal:
        parts.append(Refusal(refusal))
    return parts


def _calls(message: dict[str, Any], reply_id: str) -> list[ToolCall]:
    """The tool calls of a provider's message, taken out of it; a call without an id is given one."""
    if _CALLS.isdisjoint(message):
        return []
    calls = message.pop("tool_calls", None)
    items = enumerate(calls if isinstance(calls, list) else ())
    found = [_tool_call(call, index, reply_id) for index, call in items if isinstance(call, dict)]
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        del message["function_call"]
        if legacy.get("name") or legacy.get("arguments"):  # Snowflake sends an empty one
            name, arguments = _text(legacy.get("name")), arguments_text(legacy.get("arguments"))
            call_id = made_up_id(reply_id, len(found), name)
            found.append(ToolCall(call_id, name, arguments, {"type": "function_call"}))
    return found


def _tool_call(call: dict[str, Any], index: int, reply_id: str) -> ToolCall:
    extra = dict(call)
    call_id, kind = extra.pop("id", None), extra.pop("type", None) or "function"
    function, custom = extra.pop("function", None), extra.pop("custom", None)
    # Snowflake sends both, one of them empty.
    is_custom = isinstance(custom, dict) and bool(custom.get("name")) and kind == "custom"
    inner = (
        dict(custom if is_custom else function) if isinstance(custom if is_custom else function, dict) else {}
    )
    name = _text(inner.pop("name", None))
    arguments = arguments_text(inner.pop("input" if is_custom else "arguments", None))
    extra.pop("index", None)
    kept = {key: value for key, value in extra.items() if value is not None}
    if is_custom:
        kept["type"] = "custom"
    if inner := {key: value for key, value in inner.items() if value is not None}:
        kept["custom" if is_custom else "function"] = inner
    if not isinstance(call_id, str) or call_id in ("", "null"):  # Mistral once said "null"
        call_id = made_up_id(reply_id, index, name)
    return ToolCall(call_id, name, arguments, kept)


def _finish_details(choice: Mapping[str, Any]) -> object:
    details = choice.get("finish_details")  # the vision models of 2023
    return details.get("type") if isinstance(details, dict) else choice.get("finish_reason")


def _unmodelled(message: dict[str, Any]) -> dict[str, Any]:
    """What nobody took of a message, without what says nothing."""
    return {name: value for name, value in message.items() if value not in NOTHING}


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
