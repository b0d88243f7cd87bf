"""Our request as the JSON body of ``POST /v1/messages``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from llmpipe.dialects.anthropic_messages.blocks import content, encode_parts, is_blank
from llmpipe.dialects.anthropic_messages.fields import invalid
from llmpipe.errors import Unsupported
from llmpipe.types import (
    Message,
    NamedTool,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Tool,
    ToolResult,
)

__all__ = ("JSON_INSTRUCTION", "encode_request")

JSON_INSTRUCTION = (
    "Respond with a single valid JSON object and nothing else: no text before or after it, no code fence."
)
"""What stands in for JSON mode, which the wire has only together with a schema."""

# Effort words of other wires that this one spells differently; "none" becomes thinking disabled.
_EFFORT = {"minimal": "low"}
_CHOICE = {"auto": "auto", "required": "any", "none": "none"}


def encode_request(
    request: Request,
    *,
    default_max_tokens: int,
    system_in_messages: bool = True,
    unsigned_thinking: bool = False,
) -> dict[str, Any]:
    """The JSON body for `request`. `extra` is merged in last, under the wire's own names.

    What the wire cannot say:

    * `seed`, `frequency_penalty`, `presence_penalty`: left out; they are hints, best effort
      everywhere, and the answer stays an answer without them.
    * `response_format` ``json`` without a schema: `JSON_INSTRUCTION` closes the system prompt. A
      schema's name, description and `strict` are left out: the API always enforces it.
    * `Message.name`, `Image.detail`: left out.
    * reasoning without signature: left out, unless `unsigned_thinking`.
    * ``n`` above 1, audio, opaque parts of other dialects: Unsupported.
    * a tool call in the history whose arguments are no JSON object: InvalidRequest.

    `ReasoningOptions`: `effort` is ``output_config.effort``, `max_tokens` the budget of
    ``thinking``, `enabled` False disables it, `enabled` True without a budget is adaptive.

    Tool messages that follow each other become one user message, and a user message after them
    joins it: the API wants all results of a turn in the one message that follows the calls.
    """
    extra = dict(request.extra)
    if extra.pop("n", None) not in (None, 1):
        raise Unsupported("Anthropic answers once a request: n must be 1", phase="validate")
    system, messages = _conversation(request, system_in_messages, unsigned_thinking)
    thinking, effort = _reasoning(request.reasoning)
    body: dict[str, Any] = {
        "model": request.model or None,
        "max_tokens": _max_tokens(request, default_max_tokens),
        "system": content(system) or None,
        "messages": messages,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop_sequences": list(request.stop) or None,
        "thinking": thinking,
        "output_config": _output_config(effort, request.response_format),
        "metadata": dict(request.metadata) or None,
        "stream": request.stream or None,
    }
    body = {name: value for name, value in body.items() if value is not None}
    for name, value in extra.items():
        ours = body.get(name)
        both = isinstance(ours, dict) and isinstance(value, Mapping)
        body[name] = {**ours, **value} if both else value  # type: ignore[dict-item]  # `both` narrows
    return body


def _max_tokens(request: Request, default: int) -> int:
    """`max_tokens` has to leave room for the thinking budget, which it includes."""
    if request.max_tokens is not None:
        return request.max_tokens
    budget = request.reasoning.max_tokens if request.reasoning is not None else None
    return default + (budget or 0)


def _conversation(
    request: Request, system_in_messages: bool, unsigned_thinking: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the messages."""
    leading = sum(1 for _ in takewhile(lambda message: message.role == "system", request.messages))
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    in_results = False  # the last of `messages` came from tool messages alone
    for position, message in enumerate(request.messages):
        path = f"messages.{position}"
        blocks = encode_parts(message.parts, f"{path}.parts", unsigned_thinking=unsigned_thinking)
        if message.role == "system" and (position < leading or not system_in_messages):
            system += blocks
            continue
        if message.parts and not blocks:
            continue  # nothing but reasoning that cannot be sent back; empty content is refused
        role = message.role
        if role == "tool":
            _only_results(message, path)
            role = "user"
        if in_results and role == "user" and not message.extra:
            messages[-1]["content"] += blocks
            in_results = message.role == "tool"
            continue
        in_results = message.role == "tool"
        messages.append({"role": role, "content": blocks, **message.extra})
    for wire in messages:
        if isinstance(wire["content"], list):
            wire["content"] = content(wire["content"])
    if request.response_format is not None and request.response_format.type == "json":
        system.append({"type": "text", "text": JSON_INSTRUCTION})
    return [block for block in system if not is_blank(block)], messages


def _only_results(message: Message, path: str) -> None:
    for position, part in enumerate(message.parts):
        if not isinstance(part, ToolResult):
            raise invalid(
                f"{path}.parts.{position}",
                f"a tool message holds ToolResult parts, not {type(part).__name__}",
            )


def _tool(tool: Tool) -> dict[str, Any]:
    """A custom tool, or one of Anthropic's own, which `extra["type"]` names and which has no schema."""
    block: dict[str, Any] = {}
    if tool.name:
        block["name"] = tool.name
    if tool.description:
        block["description"] = tool.description
    if tool.extra.get("type", "custom") == "custom":
        block["input_schema"] = {"type": "object", **tool.parameters}
    if tool.strict is not None:
        block["strict"] = tool.strict
    return {**block, **tool.extra}


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


def _reasoning(options: ReasoningOptions | None) -> tuple[dict[str, Any] | None, str | None]:
    """The ``thinking`` field, and the effort."""
    if options is None:
        return None, None
    thinking: dict[str, Any] = {}
    effort = _EFFORT.get(options.effort or "", options.effort)
    if options.enabled is False or effort == "none":
        thinking = {"type": "disabled"}
        effort = None if effort == "none" else effort
    elif options.max_tokens is not None:
        thinking = {"type": "enabled", "budget_tokens": options.max_tokens}
    elif options.enabled:
        thinking = {"type": "adaptive"}
    return {**thinking, **options.extra} or None, effort


def _output_config(effort: str | None, wanted: ResponseFormat | None) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    if effort is not None:
        config["effort"] = effort
    if wanted is not None and wanted.type == "json_schema":
        if wanted.schema is None:
            raise invalid("response_format.schema", "json_schema needs a schema")
        config["format"] = {"type": "json_schema", "schema": dict(wanted.schema), **wanted.extra}
    return config or None
