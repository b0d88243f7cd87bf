"""A full reply: from the wire's JSON to a completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.openai_chat.content import lenient_part
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reasoning import decode_reasoning
from llmpipe.dialects.openai_chat.thoughts import in_order
from llmpipe.dialects.openai_chat.usage import decode_usage
from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply, LLMError
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
    "function_of",
    "list_of_calls",
    "usage_elsewhere",
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

MODELLED_OF_CHOICE = frozenset(("delta", "error", "finish_reason", "index", "message", "text", "usage"))
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
    "normal": "stop",  # Baidu Qianfan
    "length": "length",
    "max_tokens": "length",
    "max_length": "length",
    "max_new_tokens": "length",
    "model_context_window_exceeded": "length",  # Z.AI
    "context_length_exceeded": "length",
    "error_limit": "length",  # Cohere
    "model_length": "length",  # Mistral
    "max_output_tokens": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",  # Azure AI
    "tool_use": "tool_calls",
    "function_calls": "tool_calls",  # Groq's reasoning models
    "function_call": "tool_calls",  # OpenAI's functions of 2023
    "content_filter": "content_filter",
    "sensitive": "content_filter",  # Z.AI
    "safety": "content_filter",  # this and the next: Google's words, through gateways
    "recitation": "content_filter",
    "image_safety": "content_filter",
    "language": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "spii": "content_filter",
    "guardrail_intervened": "content_filter",  # Bedrock's
    "content_filtered": "content_filter",
    "error_toxic": "content_filter",  # Cohere
    "refusal": "refusal",
    "error": "error",
    "malformed_function_call": "error",  # Google's
    "unexpected_tool_call": "error",
    "function_call_filter": "error",  # Gemini's endpoint: "function_call_filter: UNEXPECTED_TOOL_CALL"
    "malformed_model_output": "error",  # Bedrock's
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
    extra: dict[str, Any] = {**body}  # of which all that is modelled is taken out
    take = extra.pop
    choices, kind = take("choices", None), take("object", None)
    if not isinstance(choices, list) or (first := _first(choices)) is None:
        raise _no_reply(body, headers)
    if take("error", None) or kind == "error" or ("base_resp" in body and says_error(body)):
        raise error_in(body, headers=headers, phase="body")
    if first.get("error"):
        raise error_in(first, headers=headers, phase="body")  # OpenRouter
    reply_id, model, created = _text(take("id", None)), _text(take("model", None)), take("created", None)
    usage = take("usage", None) or usage_elsewhere(body, first)
    if None in extra.values():
        extra = {name: value for name, value in extra.items() if value is not None}

    message, has_calls = _message(first, reply_id)
    if first.get("logprobs") is not None or not first.keys() <= _SILENT:
        for name, value in first.items():
            if name not in MODELLED_OF_CHOICE and value not in NOTHING:
                put_choice_field(extra, name, value)
    if len(choices) > 1:
        extra["choices"] = [choice for choice in choices if choice is not first and isinstance(choice, dict)]
    word = first.get("finish_reason") or _finish_details(first)
    reason = finish_reason(word, has_calls=has_calls)
    if word != reason and isinstance(word, str) and word:
        extra["finish_reason"] = word
    found = headers_of_interest(headers)
    return Completion(
        id=reply_id,
        model=model,
        message=message,
        finish_reason=reason,
        usage=decode_usage(usage),
        created=created_at(created),
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def _no_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> LLMError:
    """What a body without choices is: an error, in one of its many forms, or nothing known."""
    if body.get("object") == "error" or body.get("message") or says_error(body):
        return error_in(body, headers=headers, phase="body")
    return BadReply("the reply has no choices", code="no_choices", phase="body")


def finish_reason(word: object, *, has_calls: bool) -> FinishReason:
    """Ours for the wire's word; where it gives none (Snowflake), what the message says."""
    if isinstance(word, str) and word:
        known = _FINISH.get(word)
        if known is not None:
            return known
        if word != "null":
            return _FINISH.get(_plain(word), "stop")
    return "tool_calls" if has_calls else "stop"


def _plain(word: str) -> str:
    """A finish reason as the table has it, for ``STOP``, ``content-filter``, ``content_filter: OTHER``."""
    return word.partition(":")[0].strip().lower().replace("-", "_").removeprefix("finish_reason_")


def arguments_text(arguments: object) -> str:
    """The JSON text of a call's arguments; a few servers send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json_text(arguments, "the arguments of a tool call")


def created_at(value: object) -> float | None:
    """Unix time; Azure's first chunk and some servers say 0, which is no time."""
    return float(value) if isinstance(value, (int, float)) and value else None


def usage_elsewhere(body: Mapping[str, Any], choice: Mapping[str, Any]) -> object:
    """The usage that Groq puts into an object of its own, and Moonshot into the choice."""
    groq = body.get("x_groq")
    return groq.get("usage") if isinstance(groq, dict) else choice.get("usage")


def list_of_calls(calls: object) -> list[dict[str, Any]]:
    """The entries of `tool_calls`, each a copy; one alone may stand there without a list."""
    if isinstance(calls, dict):
        calls = [calls]
    return [dict(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def function_of(call: dict[str, Any], inner: object) -> dict[str, Any]:
    """What stands in a call's ``function`` or ``custom``; taken out of `call` itself where that lacks it."""
    if isinstance(inner, dict):
        return dict(inner)
    return {name: call.pop(name) for name in ("name", "arguments", "input") if name in call}


def put_choice_field(extra: dict[str, Any], name: str, value: object) -> None:
    """Keep a field of a choice that is not modelled."""
    if name in CHOICE_FIELDS and name not in extra:
        extra[name] = value
    else:
        extra.setdefault("choice", {})[name] = value


_SILENT = MODELLED_OF_CHOICE | {"logprobs"}
_CALLS = frozenset(("function_call", "tool_calls"))
_NO_LIST: tuple[object, ...] = (None, [])
_PLAIN = frozenset(("annotations", "content", "refusal", "role", "tool_calls"))


def _first(choices: list[Any]) -> dict[str, Any] | None:
    """The choice with index 0, else the first."""
    for choice in choices:
        if isinstance(choice, dict) and choice.get("index") == 0:
            return choice
    return next((choice for choice in choices if isinstance(choice, dict)), None)


def _message(choice: dict[str, Any], reply_id: str) -> tuple[Message, bool]:
    """The message of a choice, and whether it calls tools."""
    said = choice.get("message") or choice.get("delta") or choice.get("text")
    if isinstance(said, dict) and said.keys() <= _PLAIN:
        content = said.get("content")
        if (
            type(content) is str
            and content
            and not said.get("refusal")
            and said.get("tool_calls") in _NO_LIST
            and said.get("annotations") in NOTHING
        ):
            # Nothing but text, as most are: what comes below, in a third of the time.
            return Message("assistant", (Text(content),), None, EMPTY, NAME), False
    rest = dict(said) if isinstance(said, dict) else {"content": said} if said else {}
    thoughts = decode_reasoning(rest)
    parts = _message_parts(rest)
    calls = _calls(rest, reply_id)
    if calls and thoughts:
        parts = in_order(thoughts, parts, calls)
    elif calls or thoughts:
        parts = [*thoughts, *parts, *calls]
    return Message("assistant", parts, None, _unmodelled(rest) if rest else EMPTY, NAME), bool(calls)


def _message_parts(message: dict[str, Any]) -> list[Part]:
    """What a provider's message says, taken out of `message`: all its parts but thoughts and calls."""
    message.pop("role", None)
    parts: list[Part] = []
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
    items = enumerate(list_of_calls(message.pop("tool_calls", None)))
    found = [_tool_call(call, index, reply_id) for index, call in items]
    legacy = message.get("function_call")
    if isinstance(legacy, dict):
        del message["function_call"]
        if legacy.get("name") or legacy.get("arguments"):  # Snowflake sends an empty one
            name, arguments = _text(legacy.get("name")), arguments_text(legacy.get("arguments"))
            call_id = made_up_id(reply_id, len(found), name)
            found.append(ToolCall(call_id, name, arguments, {"type": "function_call"}))
    return found


def _tool_call(call: dict[str, Any], index: int, reply_id: str) -> ToolCall:
    extra = call
    call_id, kind = extra.pop("id", None), extra.pop("type", None) or "function"
    function, custom = extra.pop("function", None), extra.pop("custom", None)
    # Snowflake sends both, one of them empty.
    is_custom = isinstance(custom, dict) and bool(custom.get("name")) and kind == "custom"
    inner = function_of(extra, custom if is_custom else function)
    name = _text(inner.pop("name", None))
    arguments = arguments_text(inner.pop("input" if is_custom else "arguments", None))
    extra.pop("index", None)
    kept = {key: value for key, value in extra.items() if value is not None}
    if is_custom:
        kept["type"] = "custom"
    elif isinstance(kind, str) and kind not in ("function", "custom"):  # Moonshot's builtin_function
        kept["type"] = kind
    if inner := {key: value for key, value in inner.items() if value is not None}:
        kept["custom" if is_custom else "function"] = inner
    if not isinstance(call_id, str) or call_id in ("", "null"):  # Mistral once said "null"
        call_id = made_up_id(reply_id, index, name)
    return ToolCall(call_id, name, arguments, kept)


def _finish_details(choice: Mapping[str, Any]) -> object:
    details = choice.get("finish_details")  # the vision models of 2023
    return details.get("type") if isinstance(details, dict) else None


def _unmodelled(message: dict[str, Any]) -> dict[str, Any]:
    """What nobody took of a message, without what says nothing."""
    return {name: value for name, value in message.items() if value not in NOTHING}


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
