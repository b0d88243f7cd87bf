"""JSON as an instruction, for servers that cannot be held to it.

A server that has no JSON mode, or none with a schema, is asked for JSON in the system prompt. It mostly
obeys; whoever must be sure reads the warning on the reply, and looks at the JSON.
"""

from __future__ import annotations

from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.losses import Losses, refused
from llmpipe.errors import BadReply
from llmpipe.types import Message, Request, ResponseFormat, Text
from llmpipe.types.copying import replace

__all__ = ("JSON_INSTRUCTION", "SCHEMA_INSTRUCTION", "instructed", "instruction")

JSON_INSTRUCTION = (
    "Respond with a single valid JSON object and nothing else: no text before or after it, no code fence."
)
SCHEMA_INSTRUCTION = (
    "Respond with a single valid JSON value that follows the JSON Schema below, and nothing else: "
    "no text before or after it, no code fence."
)


def instruction(wanted: ResponseFormat) -> str:
    """What a model is told where `wanted` is ``json`` or ``json_schema``.

    Raises: Unsupported where the schema is none, or cannot be written as JSON.
    """
    if wanted.type == "json":
        return JSON_INSTRUCTION
    if wanted.schema is None:
        raise refused("response_format.schema", "json_schema needs a schema")
    try:
        schema = json_text(dict(wanted.schema), "it")
    except BadReply as error:
        raise refused("response_format.schema", error.message) from None
    about = f"\nIt is: {wanted.description}" if wanted.description else ""
    return f"{SCHEMA_INSTRUCTION}{about}\n{schema}"


def instructed(request: Request, losses: Losses, *, rest: ResponseFormat | None = None) -> Request:
    """`request` with its response format said at the end of the system prompt; `rest` takes its place.

    A system prompt of plain text stays one text, which every server takes.
    """
    wanted = request.response_format
    assert wanted is not None
    text = instruction(wanted)
    path = "response_format" if wanted.type == "json" else "response_format.schema"
    losses.emulated(path, "the system prompt asks for JSON")
    messages = list(request.messages)
    last = -1
    while last + 1 < len(messages) and messages[last + 1].role == "system":
        last += 1
    if last < 0:
        messages.insert(0, Message("system", text))
    else:
        prompt = messages[last]
        parts = prompt.parts
        if len(parts) == 1 and type(parts[0]) is Text and not parts[0].extra and not prompt.extra:
            parts = (Text(f"{parts[0].text}\n\n{text}" if parts[0].text else text),)
        else:
            parts = (*parts, Text(text))  # its own part, after what is marked to be cached
        messages[last] = replace(prompt, parts=parts)
    return replace(request, messages=tuple(messages), response_format=rest)
