"""A chat request, from ours to the wire's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmpipe.dialects.openai_chat.content import NAME
from llmpipe.dialects.openai_chat.messages import encode_messages
from llmpipe.errors import Unsupported
from llmpipe.types import NamedTool, ReasoningOptions, Request, ResponseFormat, Tool

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("encode_request",)


def encode_request(request: Request, quirks: Quirks) -> dict[str, Any]:
    """The JSON body of a chat request. What is None or empty is not sent; `extra` goes in beside it.

    A stream is asked for together with its usage, which OpenAI does not send unasked.

    Raises: Unsupported for what this wire cannot say.
    """
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = encode_messages(request.messages, quirks)
    if request.tools:
        body["tools"] = [_encode_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        body["tool_choice"] = _encode_tool_choice(request.tool_choice)
    _encode_plain(request, quirks, body)
    if request.stop:
        body["stop"] = list(request.stop)
    if request.response_format is not None:
        body["response_format"] = _encode_response_format(request.response_format)
    if request.reasoning is not None:
        body.update(_encode_reasoning_options(request.reasoning, quirks))
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    # A field we model is never overridden: budgets and limits were checked on what the request says.
    body = {**request.extra, **body}
    options = body.pop("stream_options", None) or {}
    if request.stream:
        body["stream"] = True
        if quirks.stream_usage:
            body["stream_options"] = {**options, "include_usage": True}
    return body


def _encode_plain(request: Request, quirks: Quirks, body: dict[str, Any]) -> None:
    """Put plain values into `body`. One by one: a loop over names takes three times as long (measured)."""
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.frequency_penalty is not None:
        body["frequency_penalty"] = request.frequency_penalty
    if request.presence_penalty is not None:
        body["presence_penalty"] = request.presence_penalty
    if request.max_tokens is not None:
        body[quirks.max_tokens_field] = request.max_tokens
    if request.seed is not None:
        body[quirks.seed_field] = request.seed


def _encode_tool(tool: Tool) -> dict[str, Any]:
    """A function; or, where `extra` names another type, a server's own tool exactly as it is there."""
    if tool.extra.get("type", "function") != "function":
        return dict(tool.extra)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters)
    if tool.strict is not None:
        function["strict"] = tool.strict
    extra = dict(tool.extra)
    return {"type": "function", "function": {**function, **extra.pop("function", {})}, **extra}


def _encode_tool_choice(choice: str | NamedTool) -> str | dict[str, Any]:
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _encode_response_format(form: ResponseFormat) -> dict[str, Any]:
    extra = dict(form.extra)
    if form.type == "text":
        return {"type": "text", **extra}
    if form.type == "json":
        return {"type": "json_object", **extra}
    schema: dict[str, Any] = {"name": form.name, "schema": dict(form.schema or {})}
    if form.strict is not None:
        schema["strict"] = form.strict
    if form.description is not None:
        schema["description"] = form.description
    return {"type": "json_schema", "json_schema": {**schema, **extra.pop("json_schema", {})}, **extra}


def _encode_reasoning_options(options: ReasoningOptions, quirks: Quirks) -> dict[str, Any]:
    """OpenAI's ``reasoning_effort`` where that says it all, else OpenRouter's ``reasoning`` object.

    Raises: Unsupported if the server takes an effort only, and more was asked.
    """
    effort = options.effort
    if quirks.reasoning_param == "reasoning_effort":
        if options.max_tokens is not None or options.extra:
            raise Unsupported(
                f"{NAME} takes a reasoning effort here, no budget of tokens; set effort instead"
            )
        if options.enabled is False:
            effort = "none"
        return {} if effort is None else {"reasoning_effort": effort}
    only_effort = options.max_tokens is None and options.enabled is None and not options.extra
    if only_effort and quirks.reasoning_param == "auto":
        return {} if effort is None else {"reasoning_effort": effort}
    wire: dict[str, Any] = {}
    for name in ("effort", "max_tokens", "enabled"):
        value = getattr(options, name)
        if value is not None:
            wire[name] = value
    return {"reasoning": {**wire, **options.extra}}
