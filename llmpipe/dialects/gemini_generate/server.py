"""The server's side of full calls: a caller's request in, a reply out.

Strict about what callers send; a request keeps all of it: what is not modelled travels in `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.conversation import read_contents, read_parts
from llmpipe.dialects.gemini_generate.fields import NAME, Fields, bare_model
from llmpipe.dialects.gemini_generate.finish import encode_finish
from llmpipe.dialects.gemini_generate.generation import read_generation
from llmpipe.dialects.gemini_generate.media import Media, encode_media
from llmpipe.dialects.gemini_generate.reply import split_extra
from llmpipe.dialects.gemini_generate.signatures import is_foreign, signature_for_caller
from llmpipe.dialects.gemini_generate.tools import read_choice, read_tools
from llmpipe.dialects.gemini_generate.usage import encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.errors import InvalidRequest
from llmpipe.types import (
    Completion,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
)

__all__ = (
    "BROKEN_CALL",
    "args_of",
    "created_text",
    "decode_request",
    "encode_candidate",
    "encode_part",
    "encode_reply",
)

BROKEN_CALL = "MALFORMED_FUNCTION_CALL"
"""The finish reason of a reply whose call has arguments that are no JSON object: Gemini's own for it."""


def decode_request(body: object) -> Request:
    """The request in a caller's body. Its model and whether it is streamed are in the address: "", False.

    What is normalised on the way is told by `conversation`, `tools` and `schema`; besides, Google's
    schemas become JSON Schema, and names are lowerCamelCase.

    Raises: InvalidRequest naming the field's path, which is also in its metadata as ``param``.
    """
    fields = Fields(body)
    contents = fields.need("contents").take("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list):
        raise invalid("contents", "a list of contents was expected", code="invalid_type")
    if not contents:
        raise invalid("contents", "must have at least one content")
    messages: list[Message] = []
    if fields.rest.get("systemInstruction") is not None:
        system = fields.nested("systemInstruction")
        if parts := tuple(read_parts(system)):
            messages.append(Message("system", parts, dialect=NAME))
    messages += read_contents(contents)
    extra: dict[str, Any] = {}
    found = read_generation(fields, extra)
    tools = read_tools(fields.items("tools") or ())
    choice = read_choice(fields, extra)
    return Request(
        model=bare_model(fields.text("model") or ""),
        messages=tuple(messages),
        tools=tools,
        tool_choice=choice,
        metadata=fields.table("labels") or {},
        extra={**fields.unknown(), **extra},
        dialect=NAME,
        **found,
    )


def encode_reply(completion: Completion) -> dict[str, Any]:
    """The JSON body of a full reply. `extra` is shown where it is in Google's words."""
    native = completion.message.dialect in ("", NAME)
    top, _, others = split_extra(completion.extra if native else {})
    body: dict[str, Any] = {"candidates": [encode_candidate(completion, 0, native=native), *others]}
    if completion.usage is not None:
        body["usageMetadata"] = encode_usage(completion.usage, native=native)
    body["modelVersion"] = completion.model
    if (created := created_text(completion.created)) is not None:
        body["createTime"] = created
    body["responseId"] = completion.id
    return {**body, **top}


def encode_candidate(completion: Completion, index: int, *, native: bool) -> dict[str, Any]:
    """One candidate of a full reply."""
    message = completion.message
    _, extra, _ = split_extra(completion.extra if native else {})
    parts, broken_call = _parts(message)
    content = {"parts": parts, "role": "model", **(message.extra if native else {})}
    told = extra.pop("finishReason", None)
    wire: dict[str, Any] = {"content": content}
    reason = encode_finish(completion.finish_reason, told)
    if broken_call is not None and reason == "STOP":
        reason, extra = BROKEN_CALL, {"finishMessage": broken_call, **extra}
    if reason is not None:
        wire["finishReason"] = reason
    return {**wire, "index": index, **extra}


def _parts(message: Message) -> tuple[list[dict[str, Any]], str | None]:
    """The wire's parts, and what is wrong with the first call that cannot be one of them."""
    parts: list[dict[str, Any]] = []
    signature: str | None = None
    problem: str | None = None
    for part in message.parts:
        if isinstance(part, ToolCall) and args_of(part.arguments) is None:
            problem = problem or f"Malformed function call: {part.name}({part.arguments})"
            continue
        if isinstance(part, Reasoning):
            proof = signature_for_caller(part, message.dialect)
            if not part.text and not is_foreign(part, message.dialect) and "field" not in part.extra:
                if signature is not None:
                    parts.append({"text": "", "thoughtSignature": signature})
                signature = proof or signature
                continue
            if part.extra.get("field") == "text":
                wire: dict[str, Any] | None = {"text": ""}
            else:
                wire = {"text": part.text, "thought": True}
            if proof is not None and wire is not None:
                wire["thoughtSignature"] = proof
        else:
            wire = encode_part(part, message.dialect)
        if wire is None:
            continue
        if signature is not None and "thoughtSignature" in wire:
            parts.append({"text": "", "thoughtSignature": signature})
        elif signature is not None:
            wire["thoughtSignature"] = signature
        signature = None
        parts.append(wire)
    if signature is not None:
        parts.append({"text": "", "thoughtSignature": signature})
    return parts, problem


def encode_part(part: Part, written_in: str) -> dict[str, Any] | None:
    """A part of a reply but for reasoning; None for what the wire has no form for."""
    native = written_in in ("", NAME)
    extra: Mapping[str, Any] = getattr(part, "extra", {}) if native else {}
    if isinstance(part, Text | Refusal):
        return {"text": part.text, **extra}
    if isinstance(part, ToolCall):
        rest = dict(extra)
        inner = {"id": part.id} if part.id else {}
        more = rest.pop("functionCall", None)
        call = {**inner, "name": part.name, "args": args_of(part.arguments) or {}}
        return {"functionCall": {**call, **(more if isinstance(more, Mapping) else {})}, **rest}
    if isinstance(part, Media):
        try:
            return encode_media(part, written_in, "part", Losses())
        except InvalidRequest:  # there is nothing in it
            return None
    if isinstance(part, Opaque) and part.dialect == NAME:
        return dict(part.data)
    return None


def args_of(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call, an object; None for anything else, which the wire cannot carry."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None


def created_text(created: float | None) -> str | None:
    """A Unix time in RFC 3339, as Google writes it; None for none, and for one that is no instant.

    Some servers count milliseconds where others count seconds.
    """
    try:
        moment = None if created is None else datetime.fromtimestamp(created, UTC)
    except (OverflowError, ValueError, OSError):  # beyond the year 9999, or what the platform takes
        moment = None
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
