"""The server's side of full calls: a caller's request in, a reply out.

Strict about what callers send, as every wrong field that passes here fails somewhere worse. A
request keeps all of it: what is not modelled travels in `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat.messages import decode_message, encode_assistant
from llmpipe.dialects.openai_chat.reasoning import IN_CONTENT
from llmpipe.dialects.openai_chat.reply import CHOICE_FIELDS
from llmpipe.dialects.openai_chat.usage import encode_usage
from llmpipe.dialects.openai_chat.words import NAME, ChatWriting
from llmpipe.types import (
    Completion,
    FinishReason,
    NamedTool,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
)

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("decode_request", "encode_choice", "encode_reply", "finish_word", "split_extra")

_FINISH_WORDS: dict[FinishReason | None, str | None] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",  # clients know OpenAI's words and no others
    "error": "error",
    None: None,
}


def decode_request(body: object, quirks: Quirks) -> Request:
    """The request in a caller's JSON body.

    Raises: InvalidRequest naming the field's path, which is also in its metadata as ``param``.
    """
    fields = Fields(body)
    stop = fields.take("stop")
    messages = fields.need("messages").items("messages") or []
    if not messages:
        raise invalid("messages", "must have at least one message")
    extra: dict[str, Any] = {}
    request = Request(
        model=fields.text("model") or "",
        messages=tuple([decode_message(item, f"messages[{i}]") for i, item in enumerate(messages)]),
        tools=tuple(
            [_decode_tool(item, f"tools[{i}]") for i, item in enumerate(fields.items("tools") or [])]
        ),
        tool_choice=_decode_tool_choice(fields, extra),
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        temperature=fields.number("temperature", 0),
        top_p=fields.number("top_p", 0, 1),
        max_tokens=_decode_max_tokens(fields),
        stop=_decode_stop(stop),
        seed=_decode_seed(fields, quirks),
        frequency_penalty=fields.number("frequency_penalty"),
        presence_penalty=fields.number("presence_penalty"),
        response_format=_decode_response_format(fields, extra),
        reasoning=_decode_reasoning_options(fields),
        stream=bool(fields.flag("stream")),
        metadata=_decode_metadata(fields),
    )
    for name, expected in (
        ("stream_options", dict),
        ("functions", list),
        ("logit_bias", dict),
        ("user", str),
    ):
        value = fields.rest.get(name)
        if value is not None and type(value) is not expected:
            raise invalid(name, f"a {expected.__name__} was expected", code="invalid_type")
    choices = Fields({"n": fields.rest.get("n")}).whole("n", 1, 128)
    if choices is None:
        fields.rest.pop("n", None)
    return evolve(request, extra={**extra, **fields.rest}, dialect=NAME)


def encode_reply(completion: Completion, quirks: Quirks) -> dict[str, Any]:
    """The JSON body of a full reply. What another dialect said beyond our fields is not shown."""
    foreign = completion.message.dialect not in ("", NAME)
    top, choice, others = split_extra({} if foreign else completion.extra)
    wire = {**encode_choice(completion, quirks), **choice}
    body: dict[str, Any] = {
        "id": completion.id,
        "object": "chat.completion",
        "created": int(completion.created or 0),
        "model": completion.model,
        "choices": [wire, *others],
    }
    if completion.usage is not None:
        body["usage"] = encode_usage(completion.usage, foreign=foreign)
    return {**body, **top}


def encode_choice(completion: Completion, quirks: Quirks, index: int = 0) -> dict[str, Any]:
    """One choice. Its content is one string, whatever it was: clients take nothing else."""
    said = completion.message
    writing = ChatWriting(said.dialect, Losses(), "assistant", quirks)
    parts: list[Part] = []
    for part in said.parts:
        if type(part) is Reasoning and part.extra.get("type") in IN_CONTENT:  # out of a list
            parts.append(Reasoning(part.text, part.signature, part.encrypted, {}, part.origin))
        elif isinstance(part, (Reasoning, ToolCall)):
            parts.append(part)
    if refusal := completion.refusal:
        parts.append(Refusal(refusal))
    if text := completion.text:
        parts.append(Text(text))
    message = encode_assistant(parts, writing, "parts", lossless=True)
    message.setdefault("refusal", None)
    return {
        "index": index,
        "message": message if writing.foreign else {**message, **said.extra},
        "logprobs": None,
        "finish_reason": finish_word(completion.finish_reason, refused=bool(completion.refusal)),
    }


def finish_word(reason: FinishReason | None, *, refused: bool) -> str | None:
    """The wire's word; `refused` says whether the reply holds the refusal itself.

    One that does ends with ``stop`` at OpenAI: whoever parses a reply that ends with ``content_filter``
    gets an error from OpenAI's SDK in its place, and never sees the refusal.
    """
    return "stop" if refused and reason == "refusal" else _FINISH_WORDS[reason]


def split_extra(
    extra: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """A completion's `extra` by where it stands on the wire: body, choice, other choices."""
    top = dict(extra)
    choice: dict[str, Any] = {name: top.pop(name) for name in CHOICE_FIELDS if name in top}
    choice.update(top.pop("choice", {}))
    word = top.pop("finish_reason", None)
    if word is not None:
        # A provider's own word would break clients that know five; OpenRouter has a place for it.
        choice.setdefault("native_finish_reason", word)
    return top, choice, list(top.pop("choices", []))


def _decode_tool(value: object, path: str) -> Tool:
    """A function; a server's own tool is kept whole in `extra`."""
    fields = Fields(value, path)
    whole = dict(fields.rest)
    kind = fields.text("type") or "function"
    if kind != "function":
        name = whole.get("name")
        return Tool(name if isinstance(name, str) and name else kind, extra=whole)
    function = fields.nested("function")
    name, description = function.need_text("name"), function.text("description") or ""
    parameters, strict = function.table("parameters"), function.flag("strict")
    extra = fields.unknown()
    if more := function.unknown():
        extra["function"] = more
    if parameters is None:
        return Tool(name, description, strict=strict, extra=extra)
    return Tool(name, description, parameters, strict, extra)


def _decode_tool_choice(
    fields: Fields, extra: dict[str, Any]
) -> Literal["auto", "none", "required"] | NamedTool | None:
    choice = fields.take("tool_choice")
    if choice is None or choice in ("auto", "none", "required"):
        return choice  # type: ignore[no-any-return]  # one of the three, or None
    if choice == "any":  # Mistral's word
        return "required"
    if isinstance(choice, dict):
        function = choice.get("function")
        if choice.get("type") == "function" and isinstance(function, dict):
            return NamedTool(Fields(function, "tool_choice.function").need_text("name"))
        extra["tool_choice"] = choice  # allowed_tools, custom tools, other servers' forms
        return None
    raise invalid("tool_choice", "auto, none, required or an object was expected")


def _decode_max_tokens(fields: Fields) -> int | None:
    """Under both of OpenAI's names; where both are there, the smaller, which breaks neither bound."""
    found = [fields.whole(name, 1) for name in ("max_tokens", "max_completion_tokens")]
    return min((bound for bound in found if bound is not None), default=None)


def _decode_seed(fields: Fields, quirks: Quirks) -> int | None:
    seed = fields.whole("seed")
    return fields.whole(quirks.seed_field) if seed is None else seed


def _decode_stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(type(item) is str for item in value):
        return tuple(value)
    raise invalid("stop", "a string or a list of strings was expected", code="invalid_type")


def _decode_response_format(fields: Fields, extra: dict[str, Any]) -> ResponseFormat | None:
    value = fields.table("response_format")
    if value is None:
        return None
    form = Fields(value, "response_format")
    kind = form.need_text("type")
    if kind == "text":
        return ResponseFormat("text", extra=form.unknown())
    if kind == "json_object":
        return ResponseFormat("json", extra=form.unknown())
    if kind != "json_schema":  # grammar, regex: some servers' own
        extra["response_format"] = value
        return None
    schema = form.nested("json_schema")
    found = schema.need("schema").table("schema")
    name, strict, description = schema.text("name"), schema.flag("strict"), schema.text("description")
    rest = form.unknown()
    if more := schema.unknown():
        rest["json_schema"] = more
    return ResponseFormat("json_schema", found, name or "response", strict, description, rest)


def _decode_reasoning_options(fields: Fields) -> ReasoningOptions | None:
    """``reasoning_effort``, or OpenRouter's ``reasoning`` object, which wins where both are there."""
    value = fields.table("reasoning")
    if value is None:
        effort = fields.text("reasoning_effort")
        return None if effort is None else ReasoningOptions(effort)
    options = Fields(value, "reasoning")
    return ReasoningOptions(
        options.text("effort"), options.whole("max_tokens", 0), options.flag("enabled"), options.unknown()
    )


def _decode_metadata(fields: Fields) -> dict[str, Any]:
    return fields.table("metadata") or {}
