"""The server's side of full calls: a caller's request in, a reply out.

Strict about what callers send, as every wrong field that passes here fails somewhere worse. A request
keeps all of it: what is not modelled (``previous_response_id``, ``store``, ``include``, ``prompt``)
travels in `extra`.
"""

from __future__ import annotations

from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.openai_responses.input import decode_input
from llmpipe.dialects.openai_responses.items import NAME
from llmpipe.dialects.openai_responses.output import encode_output, outcome, response_body
from llmpipe.dialects.openai_responses.tools import decode_tool, decode_tool_choice
from llmpipe.types import Completion, Message, ReasoningOptions, Request, ResponseFormat, Text

__all__ = ("decode_request", "encode_reply")

# Any of these tells the provider what was said, so that nothing more has to be.
_INSTEAD_OF_INPUT = ("conversation", "previous_response_id", "prompt")
_TYPES: dict[str, tuple[type, ...]] = {
    "background": (bool,),
    "conversation": (str, dict),
    "include": (list,),
    "previous_response_id": (str,),
    "prompt": (dict,),
    "store": (bool,),
    "stream_options": (dict,),
    "user": (str,),
}


def decode_request(body: object) -> Request:
    """The request in a caller's JSON body.

    Raises: InvalidRequest naming the field's path, which is also in its metadata as ``param``.
    """
    fields = Fields(body)
    if fields.rest.get("input") is None and not any(fields.rest.get(name) for name in _INSTEAD_OF_INPUT):
        fields.need("input")
    extra: dict[str, Any] = {}
    given = fields.take("input")
    instructions = fields.text("instructions")
    messages = [] if given is None else decode_input(given)
    if instructions is not None:
        messages.insert(
            0, Message("system", Text(instructions), extra={"field": "instructions"}, dialect=NAME)
        )
    request = Request(
        model=fields.text("model") or "",
        messages=tuple(messages),
        tools=tuple(
            [decode_tool(item, f"tools[{at}]") for at, item in enumerate(fields.items("tools") or [])]
        ),
        tool_choice=decode_tool_choice(fields, extra),
        parallel_tool_calls=fields.flag("parallel_tool_calls"),
        temperature=fields.number("temperature", 0),
        top_p=fields.number("top_p", 0, 1),
        max_tokens=fields.whole("max_output_tokens", 1),
        response_format=_decode_text(fields, extra),
        reasoning=_decode_reasoning(fields),
        stream=bool(fields.flag("stream")),
        metadata=fields.table("metadata") or {},
        extra=extra,
        dialect=NAME,
    )
    for name, expected in _TYPES.items():
        value = fields.rest.get(name)
        if value is not None and type(value) not in expected:
            raise invalid(name, f"a {expected[0].__name__} was expected", code="invalid_type")
    extra.update(fields.unknown())
    return request


def encode_reply(completion: Completion) -> dict[str, Any]:
    """The JSON body of a full reply."""
    message = completion.message
    own = message.dialect in ("", NAME)
    extra = completion.extra if own else {}
    return response_body(
        reply_id=completion.id,
        model=completion.model,
        created=completion.created,
        output=encode_output(message.parts, completion.id, own=own),
        ending=outcome(completion.finish_reason, extra, refused=completion.refusal is not None),
        usage=completion.usage,
        extra=extra,
        own=own,
    )


def _decode_text(fields: Fields, extra: dict[str, Any]) -> ResponseFormat | None:
    """``text.format``; what else stands in ``text`` stays in `extra`."""
    value = fields.table("text")
    if value is None:
        return None
    text = Fields(value, "text")
    form = text.table("format")
    if rest := text.unknown():
        extra["text"] = rest
    if form is None:
        return None
    inner = Fields(form, "text.format")
    kind = inner.need_text("type")
    if kind == "text":
        return ResponseFormat("text", extra=inner.unknown())
    if kind == "json_object":
        return ResponseFormat("json", extra=inner.unknown())
    if kind != "json_schema":  # a grammar
        extra["text"] = value
        return None
    schema = inner.need("schema").table("schema")
    name, strict, description = inner.text("name"), inner.flag("strict"), inner.text("description")
    return ResponseFormat("json_schema", schema, name or "response", strict, description, inner.unknown())


def _decode_reasoning(fields: Fields) -> ReasoningOptions | None:
    value = fields.table("reasoning")
    if value is None:
        return None
    options = Fields(value, "reasoning")
    return ReasoningOptions(
        options.text("effort"), options.whole("max_tokens", 0), None, extra=options.unknown()
    )
