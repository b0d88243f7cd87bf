"""Our request as the JSON body of ``POST /v1/messages``.

What this wire cannot say:

======================================  ===========================================================
`seed`, both penalties                  dropped
`temperature` above `max_temperature`   emulated: lowered to it
`response_format` ``json``              emulated: asked for in the system prompt
`response_format` ``json_schema``       said; emulated where quirk `json_schema` is False. Its name and
                                        `strict` mean nothing here, its description is dropped
`reasoning.effort` ``minimal``          emulated: ``low``; ``none`` is thinking disabled
``n`` above 1                           refused
`metadata` of another dialect           dropped, but for ``user_id``; OpenAI's ``user`` is that
`extra` of another dialect              dropped, but for `top_k` and `cache_control`; refused where it
                                        says what is asked (``functions``, ``modalities``)
`tools` that another provider runs      refused
`messages[].name`, `detail` of images   dropped
`cache_control` of a message            said: on its last block
text, pictures, documents, tools        said; ids of calls that the API refuses are hashed
a refusal                               emulated: text
sound, files that only others have      refused
reasoning                               said with Anthropic's proof, else dropped; without one where the
                                        quirk `replay_unsigned_thinking` wants it
opaque parts of another dialect         dropped from an assistant's messages, else refused
======================================  ===========================================================

All else is said. Dropped and emulated is told to `losses`; refused is Unsupported, with the path.
A tool call in the history whose arguments are no JSON object is an InvalidRequest.

`ReasoningOptions`: `effort` is ``output_config.effort``, `max_tokens` the budget of ``thinking``,
`enabled` False disables it, `enabled` True without a budget is adaptive.

Tool messages that follow each other become one user message, and a user message after them joins it: the
API wants all results of a turn in the one message that follows the calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.anthropic_messages.blocks import (
    DIALECT,
    MessageWriting,
    content,
    encode_parts,
    is_blank,
)
from llmpipe.dialects.anthropic_messages.fields import invalid
from llmpipe.dialects.json_mode import instructed
from llmpipe.dialects.losses import Losses, function_only, native, refused, unwished
from llmpipe.dialects.writing import CACHE, request_extra
from llmpipe.types import (
    Message,
    NamedTool,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolResult,
)

if TYPE_CHECKING:
    from llmpipe.dialects.anthropic_messages.quirks import Quirks

__all__ = ("encode_request",)

_CHOICE = {"auto": "auto", "required": "any", "none": "none"}
_KEEPS = CACHE | {"top_k"}
_SAID = frozenset(("n", "safety_identifier", "stream_options", "user"))
"""OpenAI's words that are said in another place, or to whom we send the stream."""


def encode_request(request: Request, quirks: Quirks, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body for `request`. `extra` is merged in last, under the wire's own names.

    Raises: Unsupported, with the path, for what this wire cannot say and must not leave out;
        InvalidRequest for what no wire could say.
    """
    if losses is None:
        losses = Losses()
    wanted = request.response_format
    if wanted is not None and (wanted.type == "json" or (wanted.type != "text" and not quirks.json_schema)):
        request = instructed(request, losses)
    extra = request.extra
    if extra:
        extra = _extra(request, losses)
    system, messages = _conversation(request, quirks, losses)
    thinking, effort = _reasoning(request, losses)
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["max_tokens"] = _max_tokens(request, quirks.default_max_tokens)
    if system:
        body["system"] = content(system)
    body["messages"] = messages
    if request.tools:
        body["tools"] = [_tool(tool, at, request, losses) for at, tool in enumerate(request.tools)]
    choice = _tool_choice(request)
    if choice is not None:
        body["tool_choice"] = choice
    _encode_sampling(request, quirks, body, losses)
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if thinking is not None:
        body["thinking"] = thinking
    config = _output_config(effort, request, losses)
    if config is not None:
        body["output_config"] = config
    if request.metadata or request.extra:
        _encode_metadata(request, body, losses)
    if request.stream:
        body["stream"] = True
    for name, value in extra.items():
        ours = body.get(name)
        both = isinstance(ours, dict) and isinstance(value, Mapping)
        body[name] = {**ours, **value} if both else value  # type: ignore[dict-item]  # `both` narrows
    return body


def _encode_sampling(request: Request, quirks: Quirks, body: dict[str, Any], losses: Losses) -> None:
    """What there is of sampling here; the rest are hints, best effort everywhere."""
    temperature = request.temperature
    if temperature is not None:
        if quirks.max_temperature is not None and temperature > quirks.max_temperature:
            losses.emulated("temperature", f"lowered to {quirks.max_temperature:g}, the highest here")
            temperature = quirks.max_temperature
        body["temperature"] = temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.seed is not None:
        losses.dropped("seed", "Anthropic has none")
    if request.frequency_penalty is not None:
        losses.dropped("frequency_penalty", "Anthropic has none")
    if request.presence_penalty is not None:
        losses.dropped("presence_penalty", "Anthropic has none")


def _extra(request: Request, losses: Losses) -> Mapping[str, Any]:
    """Of the request's `extra`, what Anthropic understands. One answer is the number it has no word for."""
    extra = request.extra
    if extra.get("n") not in (None, 1):
        raise refused("n", "Anthropic answers once a request: n must be 1")
    if "n" in extra and request.dialect in ("", DIALECT):
        return {name: value for name, value in extra.items() if name != "n"}
    return request_extra(request, DIALECT, losses, keeps=_KEEPS, said=_SAID)


def _encode_metadata(request: Request, body: dict[str, Any], losses: Losses) -> None:
    """Metadata. The API knows one field of it, and refuses others."""
    if request.dialect in ("", DIALECT):
        if request.metadata:
            body["metadata"] = dict(request.metadata)
        return
    user = request.metadata.get("user_id")
    for name in ("user", "safety_identifier"):
        user = user or request.extra.get(name)
    for name in request.metadata:
        if name != "user_id":
            losses.dropped(f"metadata.{name}", "Anthropic takes user_id and nothing else")
    if isinstance(user, str) and user:
        body["metadata"] = {"user_id": user}


def _max_tokens(request: Request, default: int) -> int:
    """`max_tokens` has to leave room for the thinking budget, which it includes."""
    if request.max_tokens is not None:
        return request.max_tokens
    budget = request.reasoning.max_tokens if request.reasoning is not None else None
    return default + (budget or 0)


def _conversation(
    request: Request, quirks: Quirks, losses: Losses
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the messages."""
    leading = sum(1 for _ in takewhile(lambda message: message.role == "system", request.messages))
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    writing = MessageWriting("", losses, "user", unsigned=quirks.replay_unsigned_thinking)
    in_results = False  # the last of `messages` came from tool messages alone
    for position, message in enumerate(request.messages):
        role = message.role
        blocks, extra = _blocks(message, position, writing)
        if role == "system" and (position < leading or not quirks.system_in_messages):
            system += blocks
            for name in extra:
                losses.dropped(f"messages[{position}].{name}", "the system prompt has no such field")
            continue
        if message.parts and not blocks:
            continue  # nothing but what cannot be sent back; empty content is refused
        if role == "tool":
            role = "user"
        if in_results and role == "user" and not extra:
            messages[-1]["content"] += blocks
            in_results = message.role == "tool"
            continue
        in_results = message.role == "tool"
        messages.append({"role": role, "content": blocks, **extra})
    for wire in messages:
        if isinstance(wire["content"], list):
            wire["content"] = content(wire["content"])
    return [block for block in system if not is_blank(block)], messages


def _blocks(
    message: Message, position: int, writing: MessageWriting
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The blocks of a message, and what of its `extra` goes beside them."""
    parts, extra = message.parts, message.extra
    if len(parts) == 1 and not extra and message.name is None and message.role != "tool":
        only = parts[0]
        if type(only) is Text and not only.extra:  # nearly all of them
            return [{"type": "text", "text": only.text}], extra
    path = f"messages[{position}]"
    if message.role == "tool":
        _only_results(message, path)
    writing.turn_to(message)
    blocks = encode_parts(parts, writing, f"{path}.parts")
    if message.name is not None:
        writing.losses.dropped(f"{path}.name", "Anthropic has none")
    if extra:
        extra = writing.native(extra, path)
    if blocks and "cache_control" in extra and message.dialect != DIALECT:
        extra = dict(extra)
        blocks[-1] = {"cache_control": extra.pop("cache_control"), **blocks[-1]}
    return blocks, extra


def _only_results(message: Message, path: str) -> None:
    for position, part in enumerate(message.parts):
        if not isinstance(part, ToolResult):
            raise invalid(
                f"{path}.parts[{position}]",
                f"a tool message holds ToolResult parts, not {type(part).__name__}",
            )


def _tool(tool: Tool, at: int, request: Request, losses: Losses) -> dict[str, Any]:
    """A custom tool, or one of Anthropic's own, which `extra["type"]` names and which has no schema."""
    extra: Mapping[str, Any] = tool.extra
    if extra and request.dialect not in ("", DIALECT):
        function_only(tool, request.dialect, f"tools[{at}]")
        extra = native(extra, request.dialect, DIALECT, f"tools[{at}]", losses, keeps=CACHE)
    block: dict[str, Any] = {}
    if tool.name:
        block["name"] = tool.name
    if tool.description:
        block["description"] = tool.description
    if extra.get("type", "custom") == "custom":
        block["input_schema"] = {"type": "object", **tool.parameters}
    if tool.strict is not None:
        block["strict"] = tool.strict
    return {**block, **extra}


def _tool_choice(request: Request) -> dict[str, Any] | None:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    wire: dict[str, Any]
    if isinstance(choice, NamedTool):
        wire = {"type": "tool", "name": choice.name}
    elif choice is not None:
        wire = {"type": _CHOICE[choice]}
    elif parallel is False and request.tools:
        wire = {"type": "auto"}
    else:
        return None
    if parallel is not None and choice != "none":
        wire["disable_parallel_tool_use"] = not parallel
    return wire


def _reasoning(request: Request, losses: Losses) -> tuple[dict[str, Any] | None, str | None]:
    """The ``thinking`` field, and the effort."""
    options: ReasoningOptions | None = request.reasoning
    if options is None:
        return None, None
    thinking: dict[str, Any] = {}
    effort = options.effort
    if effort == "minimal":
        effort = "low"
        losses.emulated("reasoning.effort", "'minimal' is 'low' here")
    if options.enabled is False or effort == "none":
        thinking = {"type": "disabled"}
        effort = None if effort == "none" else effort
    elif options.max_tokens is not None:
        thinking = {"type": "enabled", "budget_tokens": options.max_tokens}
    elif options.enabled:
        thinking = {"type": "adaptive"}
    theirs = options.extra
    if theirs and request.dialect not in ("", DIALECT):
        theirs = unwished(theirs)
    extra = native(theirs, request.dialect, DIALECT, "reasoning", losses)
    return {**thinking, **extra} or None, effort


def _output_config(effort: str | None, request: Request, losses: Losses) -> dict[str, Any] | None:
    wanted: ResponseFormat | None = request.response_format
    config: dict[str, Any] = {}
    if effort is not None:
        config["effort"] = effort
    if wanted is not None and wanted.type == "json_schema":
        if wanted.schema is None:
            raise invalid("response_format.schema", "json_schema needs a schema")
        if wanted.description is not None:
            losses.dropped("response_format.description", "Anthropic has none")
        extra = native(wanted.extra, request.dialect, DIALECT, "response_format", losses)
        config["format"] = {"type": "json_schema", "schema": dict(wanted.schema), **extra}
    return config or None
