"""Tools, and which of them to call: ours as the wire's ``toolConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.bedrock_converse.families import caches_tools
from llmpipe.dialects.bedrock_converse.parts import DIALECT, cache_point
from llmpipe.dialects.bedrock_converse.reply import is_ours
from llmpipe.dialects.losses import Losses, function_only, native, refused
from llmpipe.types import NamedTool, Request, Tool

__all__ = ("NO_TOOLS_INSTRUCTION", "encode_tools", "one_call_at_a_time")

NO_TOOLS_INSTRUCTION = "Do not call any tool now. Answer with what you know already."
"""What closes the system prompt where tools must be declared and none may be called."""

_STUB = "Was used earlier in this conversation and is not available any more. Never call it."


def encode_tools(
    request: Request, messages: list[dict[str, Any]], of: str, losses: Losses
) -> tuple[dict[str, Any] | None, bool]:
    """The wire's ``toolConfig``, and whether `NO_TOOLS_INSTRUCTION` has to be given.

    The wire knows `auto`, `any` and one tool, but not `none`. Where the conversation has no calls yet,
    tools that may not be called are simply left out. Where it has, the API refuses a request that
    declares none: so they are declared, and the model is asked not to call them.
    """
    none = request.tool_choice == "none"
    used = _used(messages)
    if none and request.tools:
        losses.emulated("tool_choice", "by an instruction" if used else "the tools are left out")
    tools = [] if none and not used else _tools(request, of, losses)
    if not tools:
        if not used:
            if isinstance(request.tool_choice, NamedTool) or request.tool_choice == "required":
                raise refused("tool_choice", "there are no tools to choose from")
            return None, False
        losses.emulated(
            "tools", "the conversation has calls, so their tools are declared, and said to be gone"
        )
        tools = list(used.values())
        none = True
    config: dict[str, Any] = {"tools": tools}
    choice = None if none else _choice(request)
    if choice is not None:
        config["toolChoice"] = choice
    return config, none


def one_call_at_a_time(request: Request, of: str, losses: Losses) -> dict[str, Any]:
    """What goes to the model's own fields for `parallel_tool_calls`, which the wire lacks: Claude has it.

    Beside a `toolChoice` that forces a call, Bedrock refuses a second word on the same.
    """
    wanted = request.parallel_tool_calls
    if wanted is None or not request.tools or request.tool_choice == "none":
        return {}
    if of == "anthropic" and request.tool_choice is None:
        return {"tool_choice": {"type": "auto", "disable_parallel_tool_use": not wanted}}
    if not wanted:
        losses.dropped("parallel_tool_calls", "Converse cannot say it, but to Claude where no call is forced")
    return {}


def _tools(request: Request, of: str, losses: Losses) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = []
    for position, tool in enumerate(request.tools):
        path = f"tools[{position}]"
        if request.dialect not in ("", DIALECT):
            function_only(tool, request.dialect, path)
        extra = dict(native(tool.extra, request.dialect, DIALECT, path, losses, keeps=("cache_control",)))
        control = extra.pop("cache_control", None)
        tools.append(_tool(tool, extra))
        if control is None:
            continue
        if caches_tools(of):
            tools.append(cache_point(control))
        else:
            losses.dropped(f"{path}.cache_control", "models of this family have no cache for tools")
    return tools


def _tool(tool: Tool, extra: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of the caller's, or one of Bedrock's own: ``Tool("", extra={"systemTool": {"name": …}})``."""
    if "systemTool" in extra:
        return dict(extra)
    spec: dict[str, Any] = {"name": tool.name}
    if tool.description:
        spec["description"] = tool.description
    spec["inputSchema"] = {"json": {"type": "object", **tool.parameters}}
    if tool.strict is not None:
        spec["strict"] = tool.strict
    return {"toolSpec": {**spec, **extra}}


def _stub(name: str) -> dict[str, Any]:
    schema = {"json": {"type": "object", "properties": {}}}
    return {"toolSpec": {"name": name, "description": _STUB, "inputSchema": schema}}


def _choice(request: Request) -> dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        return {"tool": {"name": choice.name}}
    if choice == "required":
        return {"any": {}}
    return {"auto": {}} if choice == "auto" else None


def _used(messages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Declarations of the tools that the conversation has calls of, by name."""
    blocks = [block for message in messages for block in message["content"]]
    used: dict[str, dict[str, Any]] = {}
    for block in blocks:
        call = block.get("toolUse")
        if isinstance(call, Mapping) and isinstance(name := call.get("name"), str):
            used[name] = _stub(name) if is_ours(call) else {"systemTool": {"name": name}}
    if not used and any("toolResult" in block for block in blocks):  # a result without its call
        used["unknown"] = _stub("unknown")
    return used
