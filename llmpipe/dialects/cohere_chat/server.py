"""The server's side of full calls: a caller's request in, a reply out.

A request keeps all that it says: what is not modelled travels in `extra`, under Cohere's names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from attrs import evolve

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.cohere_chat.messages import encode_tool_call, is_plan
from llmpipe.dialects.cohere_chat.parts import BARE, NAME, PLAN, decode_content, decode_document
from llmpipe.dialects.cohere_chat.reply import encode_finish
from llmpipe.dialects.cohere_chat.usage import encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.proofs import seal, unseal
from llmpipe.types import (
    Completion,
    Document,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

__all__ = ("decode_request", "encode_reply", "encode_thought", "own_extra")

_ROLES = ("system", "user", "assistant", "tool")
_CHOICES: dict[object, Literal["required", "none"]] = {"REQUIRED": "required", "NONE": "none"}
_TYPES: Mapping[str, type] = {
    "citation_options": dict,
    "documents": list,
    "k": int,
    "logprobs": bool,
    "safety_mode": str,
}


def decode_request(body: object) -> Request:
    """The request in a caller's JSON body.

    `encode_request` gives the same JSON back but for these, which mean the same: a string and a list of one
    plain text part; an assistant's text that is empty; a call's arguments that are; ``stream`` false;
    ``schema`` of a response format, which is ``json_schema``; lists that are empty and fields that are null.

    Raises: InvalidRequest naming the field's path, which is also in its metadata as ``param``.
    """
    fields = Fields(body)
    wire = fields.need("messages").items("messages") or []
    if not wire:
        raise invalid("messages", "must have at least one message")
    messages = [_message(item, f"messages[{i}]") for i, item in enumerate(wire)]
    _take_documents(fields, messages)
    strict = fields.flag("strict_tools")
    tools = fields.items("tools") or []
    choice = fields.take("tool_choice")
    if choice is not None and choice not in ("REQUIRED", "NONE"):
        raise invalid("tool_choice", "REQUIRED or NONE was expected; without it the model chooses")
    stop = fields.items("stop_sequences") or []
    for position, one in enumerate(stop):
        if type(one) is not str:
            raise invalid(f"stop_sequences[{position}]", "a string was expected", code="invalid_type")
    return Request(
        model=fields.text("model") or "",
        messages=messages,
        tools=tuple([_tool(item, f"tools[{i}]", strict) for i, item in enumerate(tools)]),
        tool_choice=_CHOICES.get(choice),
        temperature=fields.number("temperature", 0),
        top_p=fields.number("p", 0, 1),
        max_tokens=fields.whole("max_tokens", 0),
        stop=tuple(stop),
        seed=fields.whole("seed"),
        frequency_penalty=fields.number("frequency_penalty"),
        presence_penalty=fields.number("presence_penalty"),
        response_format=_response_format(fields),
        reasoning=_reasoning(fields),
        stream=bool(fields.flag("stream")),
        extra=_rest(fields, {} if strict is None or tools else {"strict_tools": strict}),
        dialect=NAME,
    )


def _rest(fields: Fields, extra: dict[str, Any]) -> dict[str, Any]:
    for name, expected in _TYPES.items():
        value = fields.rest.get(name)
        if value is not None and type(value) is not expected:
            raise invalid(name, f"a {expected.__name__} was expected", code="invalid_type")
    return {**fields.unknown(), **extra}


def _take_documents(fields: Fields, messages: list[Message]) -> None:
    """Put the request's documents where all dialects have them: into the last message of the user."""
    place = max((i for i, message in enumerate(messages) if message.role == "user"), default=None)
    wire = fields.rest.get("documents")
    if place is None or type(wire) is not list:
        return
    documents = []
    for position, item in enumerate(fields.take("documents")):
        if isinstance(item, str):
            documents.append(Document(text=item, extra=BARE))
        else:
            documents.append(decode_document(Fields(item, f"documents[{position}]")))
    messages[place] = evolve(messages[place], parts=(*documents, *messages[place].parts))


def _message(value: object, path: str) -> Message:
    fields = Fields(value, path)
    role = fields.need_text("role")
    if role not in _ROLES:
        raise invalid(fields.at("role"), f"must be one of {', '.join(_ROLES)}, not {role!r}")
    if role == "assistant":
        return Message("assistant", tuple(_assistant(fields)), None, fields.unknown(), NAME)
    content = decode_content(
        fields.need("content").take("content"), fields.at("content"), of_tool=role == "tool"
    )
    if role == "tool":
        result = ToolResult(fields.need_text("tool_call_id"), content)
        return Message("tool", (result,), None, fields.unknown(), NAME)
    return Message(role, content, None, fields.unknown(), NAME)  # type: ignore[arg-type]  # it is in _ROLES


def _assistant(fields: Fields) -> Iterator[Part]:
    plan = fields.text("tool_plan")
    if plan:
        yield Reasoning(plan, extra=PLAN)
    for part in decode_content(fields.take("content"), fields.at("content")):
        if isinstance(part, Opaque) and part.data["type"] == "thinking":
            thought = _thought(Fields(part.data, fields.at("content")))
            if thought.text or thought.signature or thought.encrypted:
                yield thought
        elif not isinstance(part, Text) or part.text or part.extra:
            yield part
    for index, wire in enumerate(fields.items("tool_calls") or []):
        call = Fields(wire, f"{fields.at('tool_calls')}[{index}]")
        kind = call.text("type") or "function"
        if kind != "function":
            raise invalid(call.at("type"), f"must be function, not {kind!r}")
        function = call.nested("function")
        name, arguments = function.need_text("name"), function.text("arguments") or ""
        arguments = arguments if arguments.strip() else "{}"
        extra: dict[str, Any] = {}
        if more := function.unknown():
            extra["function"] = more
        yield ToolCall(call.need_text("id"), name, arguments, {**extra, **call.unknown()})


def _thought(fields: Fields) -> Reasoning:
    """A thought that a caller gives back, with the proof that we put beside it: the wire has none."""
    text, extra = fields.need_text("thinking"), fields.unknown()
    del extra["type"]
    proofs: dict[str, str] = {}
    origin = ""
    for name in ("signature", "encrypted"):
        proof, whose = unseal(str(extra.get(name) or ""), NAME)
        if whose != NAME:
            del extra[name]
            proofs[name], origin = proof, whose
    return Reasoning(text, proofs.get("signature"), proofs.get("encrypted"), extra, origin)


def _tool(value: object, path: str, strict: bool | None) -> Tool:
    """A function; a tool of another type is kept whole in `extra`."""
    fields = Fields(value, path)
    whole = dict(fields.rest)
    kind = fields.text("type") or "function"
    if kind != "function":
        return Tool(kind, strict=strict, extra=whole)
    function = fields.nested("function")
    name, description = function.need_text("name"), function.text("description") or ""
    parameters = function.table("parameters")
    extra: dict[str, Any] = {}
    if more := function.unknown():
        extra["function"] = more
    extra.update(fields.unknown())
    if parameters is None:
        return Tool(name, description, strict=strict, extra=extra)
    return Tool(name, description, parameters, strict, extra)


def _response_format(fields: Fields) -> ResponseFormat | None:
    if fields.rest.get("response_format") is None:
        fields.take("response_format")
        return None
    form = fields.nested("response_format")
    kind = form.need_text("type")
    if kind == "text":
        return ResponseFormat("text", extra=form.unknown())
    if kind != "json_object":
        raise invalid(form.at("type"), f"must be text or json_object, not {kind!r}")
    schema, old = form.table("json_schema"), form.table("schema")  # the second is version 1's name
    found = old if schema is None else schema
    return ResponseFormat("json" if found is None else "json_schema", found, extra=form.unknown())


def _reasoning(fields: Fields) -> ReasoningOptions | None:
    if fields.rest.get("thinking") is None:
        fields.take("thinking")
        return None
    thinking = fields.nested("thinking")
    kind = thinking.need_text("type")
    enabled = {"enabled": True, "disabled": False}.get(kind)
    budget = thinking.whole("token_budget", 1)
    # A kind that came after this was written is carried as it is.
    extra = thinking.unknown() if enabled is not None else {"type": kind, **thinking.unknown()}
    return ReasoningOptions(None, budget, enabled, extra)


def encode_reply(completion: Completion) -> dict[str, Any]:
    """The JSON body of a full reply. What the wire has no form for is left out: pictures, other parts."""
    own = own_extra(completion)
    extra = dict(completion.extra) if own else {}
    finish = encode_finish(completion.finish_reason, extra.pop("finish_reason", None))
    message: dict[str, Any] = {"role": "assistant"}
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    plan: list[str] = []
    for part in completion.message.parts:
        if isinstance(part, ToolCall):
            calls.append(encode_tool_call(part, completion.message.dialect, "", Losses()))
        elif isinstance(part, Reasoning) and own and is_plan(part):
            plan.append(part.text)
        elif isinstance(part, Reasoning):
            content.append(encode_thought(part, own=own))
        elif isinstance(part, Text):
            content.append({**(part.extra if own else {}), "type": "text", "text": part.text})
        elif isinstance(part, Refusal):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Opaque) and part.dialect == NAME:
            content.append(dict(part.data))
    if content or not (plan or calls):
        message["content"] = content
    if plan:
        message["tool_plan"] = "".join(plan)
    if calls:
        message["tool_calls"] = calls
    body = {
        "id": completion.id,
        "finish_reason": finish,
        "message": {**(completion.message.extra if own else {}), **message},
        "usage": encode_usage(completion.usage, own=own),
    }
    return {**body, **extra}


def own_extra(completion: Completion) -> bool:
    """Whether what stands in `extra` is in Cohere's words, or in nobody's but the user's own."""
    return completion.message.dialect in ("", NAME)


def encode_thought(part: Reasoning, *, own: bool) -> dict[str, Any]:
    """The block of a thought.

    A proof, for which the wire has no field, goes along in one of ours: callers who send the block back
    as it is send it too.
    """
    block: dict[str, Any] = {**(part.extra if own else {}), "type": "thinking", "thinking": part.text}
    if part.signature is not None:
        block["signature"] = seal(part.signature, part.origin, NAME)
    if part.encrypted is not None:
        block["encrypted"] = seal(part.encrypted, part.origin, NAME)
    return block
