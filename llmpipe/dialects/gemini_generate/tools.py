"""Tools and how they may be used, both directions.

Functions stand in ``functionDeclarations``; Google's own tools (``googleSearch``, ``codeExecution``,
``urlContext``, …) each under their name, which is the name of our `Tool` and the key of its `extra`
under which their configuration stands: ``Tool("googleSearch", extra={"googleSearch": {}})``.

Normalised on the way: functions that stand in several entries come in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from llmpipe.dialects.gemini_generate.fields import NAME, Fields
from llmpipe.dialects.gemini_generate.schema import from_google, to_google
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import NamedTool, Tool

__all__ = ("Choice", "encode_choice", "encode_tools", "read_choice", "read_tools")

Choice = Literal["auto", "none", "required"] | NamedTool | None

_MODES: dict[str, Literal["auto", "none", "required"]] = {"AUTO": "auto", "ANY": "required", "NONE": "none"}
_WORDS = {choice: mode for mode, choice in _MODES.items()}
_NUMBERS = {0: "MODE_UNSPECIFIED", 1: "AUTO", 2: "ANY", 3: "NONE", 4: "VALIDATED"}
_CONFIG = "functionCallingConfig"


def encode_tools(
    tools: Iterable[Tool], written_in: str, losses: Losses, *, json_schema: bool
) -> list[dict[str, Any]]:
    """The wire's ``tools``. `written_in` is the dialect of the request.

    Raises: Unsupported naming the path for a server's own tool of another provider.
    """
    wire: list[dict[str, Any]] = []
    for position, tool in enumerate(tools):
        path = f"tools[{position}]"
        if isinstance(tool.extra.get(tool.name), Mapping) and written_in in ("", NAME):
            wire.append(dict(tool.extra))
            continue
        kind = tool.extra.get("type", "function")
        if kind not in ("function", "custom") or _is_text_tool(tool):
            raise refused(path, f"{tool.name!r} is a tool of another provider, which Gemini does not have")
        if not wire or "functionDeclarations" not in wire[-1]:
            wire.append({"functionDeclarations": []})
        wire[-1]["functionDeclarations"].append(_function(tool, written_in, path, losses, json_schema))
    return wire


def _is_text_tool(tool: Tool) -> bool:
    """Whether it is one of OpenAI's custom tools, whose input is text of a grammar and no JSON."""
    return tool.extra.get("type") == "custom" and isinstance(tool.extra.get("custom"), Mapping)


def _function(tool: Tool, written_in: str, path: str, losses: Losses, json_schema: bool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if json_schema:
        function["parametersJsonSchema"] = dict(tool.parameters)
    elif tool.parameters.get("properties"):  # an object without properties is refused; none means the same
        function["parameters"] = to_google(tool.parameters, f"{path}.parameters", losses)
    if tool.strict:
        losses.dropped(f"{path}.strict", "Gemini follows schemas as well as it can")
    return {**function, **native(tool.extra, written_in, NAME, path, losses)}


def read_tools(items: Iterable[Any]) -> tuple[Tool, ...]:
    """Our tools for a caller's. Raises: InvalidRequest naming the path."""
    tools: list[Tool] = []
    for position, item in enumerate(items):
        fields = Fields(item, f"tools[{position}]")
        functions = fields.items("functionDeclarations") or []
        # What stands beside functions in one entry is an entry of its own.
        for name, value in fields.unknown().items():
            tools.append(Tool(name, extra={name: value}))
        for place, function in enumerate(functions):
            tools.append(_read_function(Fields(function, f"{fields.at('functionDeclarations')}[{place}]")))
    return tuple(tools)


def _read_function(fields: Fields) -> Tool:
    name, description = fields.need_text("name"), fields.text("description") or ""
    schema, parameters = fields.table("parametersJsonSchema"), fields.table("parameters")
    if schema is None and parameters is not None:
        schema = from_google(parameters)
    if schema is None:
        return Tool(name, description, extra=fields.unknown())
    return Tool(name, description, schema, extra=fields.unknown())


def encode_choice(choice: Choice) -> dict[str, Any]:
    """The wire's ``toolConfig``; empty where nothing was chosen."""
    if choice is None:
        return {}
    if isinstance(choice, NamedTool):
        return {_CONFIG: {"mode": "ANY", "allowedFunctionNames": [choice.name]}}
    return {_CONFIG: {"mode": _WORDS[choice]}}


def read_choice(fields: Fields, extra: dict[str, Any]) -> Choice:
    """Our choice for a caller's ``toolConfig``; what ours cannot say of it is put into `extra`.

    ``VALIDATED`` is ``auto`` to everybody else: a call, of the schema, or an answer.
    """
    if fields.rest.get("toolConfig") is None:
        fields.take("toolConfig")
        return None
    config = fields.nested("toolConfig")
    choice: Choice = None
    if config.rest.get(_CONFIG) is not None:
        calling = config.nested(_CONFIG)
        mode = calling.take("mode")
        mode = _NUMBERS.get(mode, mode) if type(mode) is int else mode
        allowed = calling.rest.get("allowedFunctionNames")
        choice = _MODES.get(str(mode).upper())
        if choice == "required" and isinstance(allowed, list) and len(allowed) == 1:
            choice = NamedTool(str(calling.take("allowedFunctionNames")[0]))
        elif choice is None and isinstance(mode, str) and mode != "MODE_UNSPECIFIED":
            choice = "auto"
            calling.rest["mode"] = mode
        if more := calling.unknown():
            config.rest[_CONFIG] = more
    if rest := config.unknown():
        extra["toolConfig"] = rest
    return choice
