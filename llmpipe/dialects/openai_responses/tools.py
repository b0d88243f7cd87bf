"""Tools, and which of them is to be used, both directions.

A function is a `Tool`; a custom tool (whose input is text) and the tools that run on the provider's
side (web search, code interpreter, MCP) are kept whole in a tool's `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.losses import Losses, function_only, native
from llmpipe.dialects.openai_responses.items import NAME
from llmpipe.types import NamedTool, Request, Tool

__all__ = ("decode_tool", "decode_tool_choice", "encode_tool", "encode_tool_choice", "is_custom")

_CHAT = "openai.chat"


def encode_tool(tool: Tool, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """One tool.

    Functions are strict here unless they say otherwise, and OpenAI then rewrites their schema so that
    nothing in it is optional; everywhere else they are not. So where a request of no dialect or of
    another one does not say, `strict` is sent as false.

    Raises: Unsupported for a tool that runs at another provider.
    """
    if is_custom(tool, written_in):
        return _encode_custom(tool, written_in)
    if written_in not in ("", NAME):
        function_only(tool, written_in, path)
    elif tool.extra.get("type", "function") != "function":
        return dict(tool.extra)
    wire: dict[str, Any] = {"type": "function", "name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    wire["parameters"] = dict(tool.parameters)
    if tool.strict is not None or written_in != NAME:
        wire["strict"] = bool(tool.strict)
    if not tool.extra:
        return wire
    return {**wire, **native(tool.extra, written_in, NAME, path, losses)}


def encode_tool_choice(request: Request) -> str | dict[str, Any] | None:
    """Which tool is to be used: a word, or one tool by name; one of the provider's by its type."""
    choice = request.tool_choice
    if not isinstance(choice, NamedTool):
        return choice
    named = next((tool for tool in request.tools if tool.name == choice.name), None)
    kind = "function" if named is None else named.extra.get("type", "function")
    if named is None or kind == "function" or not (is_custom(named, request.dialect) or _is_own(request)):
        return {"type": "function", "name": choice.name}
    if kind == "custom":
        return {"type": "custom", "name": choice.name}
    place = "server_label"  # by which an MCP server is known
    return {"type": kind, **({place: named.extra[place]} if place in named.extra else {})}


def is_custom(tool: Tool, written_in: str) -> bool:
    """Whether a tool takes text. In Anthropic's words a plain function is called custom."""
    return tool.extra.get("type") == "custom" and written_in in ("", NAME, _CHAT)


def decode_tool(value: object, path: str) -> Tool:
    """One tool of a caller.

    Raises: InvalidRequest naming the path.
    """
    fields = Fields(value, path)
    whole = dict(fields.rest)
    kind = fields.need_text("type")
    if kind != "function":
        name = whole.get("name")
        return Tool(name if isinstance(name, str) and name else kind, extra=whole)
    if isinstance(whole.get("function"), dict):
        fields = _from_chat(fields)
    name, description = fields.need_text("name"), fields.text("description") or ""
    parameters, strict = fields.table("parameters"), fields.flag("strict")
    if parameters is None:
        return Tool(name, description, strict=strict, extra=fields.unknown())
    return Tool(name, description, parameters, strict, fields.unknown())


def decode_tool_choice(fields: Fields, extra: dict[str, Any]) -> Any:
    """A word or one function by name; other forms stay in `extra` as they are.

    Raises: InvalidRequest naming the path.
    """
    choice = fields.take("tool_choice")
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    if not isinstance(choice, dict):
        raise invalid("tool_choice", "auto, none, required or an object was expected")
    if choice.keys() == {"type", "name"} and choice["type"] in ("function", "custom"):
        return NamedTool(Fields(choice, "tool_choice").need_text("name"))
    extra["tool_choice"] = choice
    return None


def _is_own(request: Request) -> bool:
    return request.dialect in ("", NAME)


def _encode_custom(tool: Tool, written_in: str) -> dict[str, Any]:
    """A custom tool; OpenAI's older API has its fields one level down."""
    inner = tool.extra.get("custom")
    if written_in != _CHAT or not isinstance(inner, Mapping):
        return {
            "name": tool.name,
            **({"description": tool.description} if tool.description else {}),
            **tool.extra,
        }
    wire = {"type": "custom", "name": tool.name, **inner}
    form = wire.get("format")
    if isinstance(form, Mapping) and isinstance(form.get("grammar"), Mapping):
        wire["format"] = {"type": "grammar", **form["grammar"]}
    return wire


def _from_chat(fields: Fields) -> Fields:
    """A function in the words of OpenAI's older API, one level down, which OpenAI takes here as well."""
    inner = fields.nested("function")
    inner.rest.update(fields.unknown())
    return Fields(inner.rest, fields.path)
