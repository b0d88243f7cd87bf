"""Messages of a request, from ours to the wire's.

Normalised on the way: an assistant's empty text is left out, and a message with several tool results
becomes one message each, as this wire has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import evolve

from llmpipe.dialects.cohere_chat.parts import NAME, encode_document, encode_part, shorthand
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import (
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("encode_messages", "encode_tool_call", "is_plan")


def encode_messages(
    request: Request, losses: Losses
) -> tuple[list[dict[str, Any]], list[dict[str, Any] | str]]:
    """The wire's messages, and the documents that stood in messages: here they are the request's own.

    Raises: Unsupported, with the path, for what this wire cannot say.
    """
    wire: list[dict[str, Any]] = []
    documents: list[dict[str, Any] | str] = []
    options = request.reasoning
    thinks = (
        options is not None and options.enabled is not False and bool(options.enabled or options.max_tokens)
    )
    for position, message in enumerate(request.messages):
        path = f"messages[{position}]"
        if message.name is not None:
            losses.dropped(f"{path}.name", "Cohere has no names of speakers")
        places = [(f"{path}.parts[{place}]", part) for place, part in enumerate(message.parts)]
        results = [(where, part) for where, part in places if isinstance(part, ToolResult)]
        for where, result in results:
            wire.append(_tool_message(message, result, where, losses))
        places = [(where, part) for where, part in places if not isinstance(part, ToolResult)]
        if results and not places:
            continue
        if message.role == "assistant":
            wire.append(_assistant(message, places, path, thinks, losses))
        elif message.role == "tool":
            raise refused(places[0][0] if places else path, "a tool message holds ToolResult parts")
        else:
            wire.append(_said(message, places, path, documents, losses))
    return wire, documents


def encode_tool_call(call: ToolCall, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """One entry of `tool_calls`. Arguments that are empty are those of a call without any."""
    extra = dict(native(call.extra, written_in, NAME, path, losses))
    inner = extra.pop("function", None)
    function = {"name": call.name, "arguments": call.arguments}
    return {
        "id": call.id,
        "type": "function",
        "function": {**function, **(inner if isinstance(inner, dict) else {})},
        **extra,
    }


def is_plan(part: Part) -> bool:
    """Whether the part is Cohere's tool plan."""
    return isinstance(part, Reasoning) and part.extra.get("field") == "tool_plan"


def _said(
    message: Message,
    places: Sequence[tuple[str, Part]],
    path: str,
    documents: list[dict[str, Any] | str],
    losses: Losses,
) -> dict[str, Any]:
    """A user's or the system's message; its documents go to `documents`."""
    content = []
    for where, part in places:
        if isinstance(part, Document) and message.role == "user":
            documents.append(encode_document(part, message.dialect, where, losses))
            if message.dialect != NAME:
                losses.emulated(where, "it is among the request's documents")
        elif isinstance(part, Image) and message.role != "user":
            raise refused(where, "Cohere takes pictures of users only")
        elif isinstance(part, Reasoning):
            losses.dropped(where, "only the assistant's thoughts have a place")
        else:
            content.append(encode_part(part, message.dialect, where, losses))
    extra = native(message.extra, message.dialect, NAME, path, losses)
    return {**extra, "role": message.role, "content": shorthand(content) if content else []}


def _assistant(
    message: Message, places: Sequence[tuple[str, Part]], path: str, thinks: bool, losses: Losses
) -> dict[str, Any]:
    """The assistant's message: content, plan and tool calls, each in its own field.

    Beside tool calls Cohere takes no text ("text content is not allowed when tool_calls are provided"), so
    what another model said there is sent as its plan, which it is.
    """
    own = message.dialect in ("", NAME)
    calls = [
        encode_tool_call(_called(part), message.dialect, where, losses)
        for where, part in places
        if isinstance(part, ToolCall)
    ]
    content: list[dict[str, Any]] = []
    plan: list[str] = []
    for where, part in places:
        if isinstance(part, ToolCall):
            continue
        if isinstance(part, Reasoning):
            if own and is_plan(part):
                plan.append(part.text)
            elif (thought := _thought(part, message, where, own or thinks, losses)) is not None:
                content.append(thought)
        elif isinstance(part, Opaque) and part.dialect != NAME:
            losses.dropped(where, f"Cohere knows no part of {part.dialect}")
        elif isinstance(part, Text | Refusal) and calls and message.dialect != NAME:
            if part.text.strip():
                plan.append(part.text)
                losses.emulated(where, "beside tool calls Cohere takes it as the tool plan only")
        elif isinstance(part, Image):
            raise refused(where, "Cohere takes pictures of users only")
        elif not isinstance(part, Text) or part.text or part.extra:
            content.append(encode_part(part, message.dialect, where, losses))
    wire: dict[str, Any] = {**native(message.extra, message.dialect, NAME, path, losses), "role": "assistant"}
    if content or not (calls or plan):
        wire["content"] = shorthand(content)
    if plan:
        wire["tool_plan"] = "\n".join(plan)
    if calls:
        wire["tool_calls"] = calls
    return wire


def _called(call: ToolCall) -> ToolCall:
    return call if call.arguments.strip() else evolve(call, arguments="{}")


def _thought(
    part: Reasoning, message: Message, path: str, taken: bool, losses: Losses
) -> dict[str, Any] | None:
    """The block of a thought; None where it is left out.

    Of others' thoughts it is the text, and only where thinking is asked for: other models refuse it.
    """
    if not part.text:
        losses.dropped(path, "a signature without its thought means nothing to Cohere")
        return None
    if not taken:
        losses.dropped(path, "Cohere takes thoughts of other models only with thinking enabled")
        return None
    extra = native(part.extra, message.dialect, NAME, path, losses)
    return {**extra, "type": "thinking", "thinking": part.text}


def _tool_message(message: Message, result: ToolResult, path: str, losses: Losses) -> dict[str, Any]:
    """One tool's answer. There is no field for is_error: the text has to say it, and tools' own texts do."""
    content: list[dict[str, Any]] = []
    for place, part in enumerate(result.content):
        where = f"{path}.content[{place}]"
        if isinstance(part, Document):
            document = encode_document(part, message.dialect, where, losses)
            content.append({"type": "document", "document": document})
        elif isinstance(part, Text | Opaque):
            content.append(encode_part(part, message.dialect, where, losses))
        else:
            raise refused(
                where, f"a tool's answer to Cohere is text and documents, not {type(part).__name__}"
            )
    if result.is_error:
        losses.dropped(f"{path}.is_error", "there is no such field; the text has to say it")
    extra = {
        **native(result.extra, message.dialect, NAME, path, losses),
        **(native(message.extra, message.dialect, NAME, path, losses) if message.role == "tool" else {}),
    }
    return {**extra, "role": "tool", "tool_call_id": result.id, "content": shorthand(content)}
