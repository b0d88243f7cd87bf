"""A chat request, from ours to the wire's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.cohere_chat.messages import encode_messages
from llmpipe.dialects.cohere_chat.parts import NAME
from llmpipe.dialects.losses import Losses, function_only, native
from llmpipe.dialects.single import one_text
from llmpipe.dialects.writing import request_extra
from llmpipe.types import NamedTool, ReasoningOptions, Request, ResponseFormat, Tool
from llmpipe.types.copying import replace

__all__ = ("encode_request",)

_SHARED = frozenset(("k", "logprobs"))  # words of others that mean the same here
_LEAST_P, _MOST_P = 0.01, 0.99  # docs: Chat, `p`
_MOST_PENALTY = 1.0  # docs: Chat; OpenAI's go from -2 to 2


def encode_request(request: Request, losses: Losses) -> dict[str, Any]:
    """The JSON body of ``POST /v2/chat``. What is None or empty is not sent; `extra` goes in beside it.

    What the wire cannot say:

    * `tool_choice` ``auto``: left out, which means the same. A named tool: ``REQUIRED``, and that tool is
      the only one sent.
    * `parallel_tool_calls` False, a reasoning effort, `metadata`, `Message.name`: dropped. Of reasoning
      there is a budget of tokens; models that think do so unasked.
    * penalties out of [0, 1]: dropped; `top_p` out of [0.01, 0.99]: the nearest there is.
    * `Tool.strict` of some tools only: dropped; ``strict_tools`` is for all.
    * documents in a user's message: become the request's `documents`.
    * ``n`` above 1, audio, files, pictures that no user sent, other providers' tools: Unsupported.
    """
    extra = _own_words(request, losses)
    messages, documents = encode_messages(request, losses)
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = messages
    _encode_tools(request, body, losses)
    if documents:
        body["documents"] = [*extra.pop("documents", ()), *documents]
    _encode_plain(request, body, losses)
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format, request.dialect, losses)
    if request.reasoning is not None:
        thinking = _thinking(request.reasoning, request.dialect, losses)
        if thinking:
            body["thinking"] = thinking
    if request.metadata:
        losses.dropped("metadata", "Cohere has none")
    # A field we model is never overridden: budgets and limits were checked on what the request says.
    body = {**extra, **body}
    if request.stream:
        body["stream"] = True
    return body


def _own_words(request: Request, losses: Losses) -> dict[str, Any]:
    """The request's `extra` in Cohere's words; a few of others' are translated."""
    extra = dict(request.extra)
    own = request.dialect in ("", NAME)
    if not own or "n" in extra:
        one_text(extra, "Cohere")
    if not own:
        for name in ("stream_options", "store"):  # they ask for nothing that we do not do anyway
            extra.pop(name, None)
        if "top_k" in extra:
            extra["k"] = extra.pop("top_k")
    return dict(request_extra(replace(request, extra=extra), NAME, losses, keeps=_SHARED))


def _encode_tools(request: Request, body: dict[str, Any], losses: Losses) -> None:
    tools, choice = list(enumerate(request.tools)), request.tool_choice
    if isinstance(choice, NamedTool):
        tools = [(place, tool) for place, tool in tools if tool.name == choice.name]
        if not tools:
            raise invalid("tool_choice", f"there is no tool {choice.name!r} among the tools")
        body["tool_choice"] = "REQUIRED"
        if len(request.tools) > 1:
            losses.emulated("tool_choice", "Cohere forces no tool by name, so it got that tool alone")
    elif choice in ("required", "none"):
        body["tool_choice"] = choice.upper()
    if tools:
        body["tools"] = [_tool(tool, request.dialect, f"tools[{place}]", losses) for place, tool in tools]
    if request.parallel_tool_calls is False:
        losses.dropped("parallel_tool_calls", "Cohere's models decide that")
    strict = {tool.strict for _, tool in tools}
    if len(strict) == 1 and (told := strict.pop()) is not None:
        body["strict_tools"] = told
    elif True in strict:
        losses.dropped("tools.strict", "Cohere is strict with all tools or with none")


def _tool(tool: Tool, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """A function; or, in Cohere's own words, a tool of another type exactly as it is in `extra`."""
    kind = tool.extra.get("type", "function")
    if written_in in ("", NAME) and kind != "function":
        return dict(tool.extra)
    if written_in not in ("", NAME):
        function_only(tool, written_in, path)
    extra = dict(native(tool.extra, written_in, NAME, path, losses))
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters)
    inner = extra.pop("function", None)
    return {
        "type": "function",
        "function": {**function, **(inner if isinstance(inner, Mapping) else {})},
        **extra,
    }


def _encode_plain(request: Request, body: dict[str, Any], losses: Losses) -> None:
    """Put plain values into `body`. Those of Cohere's own callers pass as they are: it judges them itself."""
    exact = request.dialect == NAME
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if (top_p := request.top_p) is not None:
        body["p"] = top_p if exact else min(max(top_p, _LEAST_P), _MOST_P)
        if body["p"] != top_p:
            losses.emulated("top_p", f"Cohere takes {_LEAST_P} to {_MOST_P}")
    if request.seed is not None:
        body["seed"] = request.seed
    for name in ("frequency_penalty", "presence_penalty"):
        penalty = getattr(request, name)
        if penalty is None:
            continue
        if exact or 0 <= penalty <= _MOST_PENALTY:
            body[name] = penalty
        else:
            losses.dropped(name, "Cohere takes 0 to 1")
    if request.stop:
        body["stop_sequences"] = list(request.stop)


def _response_format(form: ResponseFormat, written_in: str, losses: Losses) -> dict[str, Any]:
    """The format. Cohere always enforces a schema, so `strict` says nothing, and it has no name."""
    extra: Mapping[str, Any] = native(form.extra, written_in, NAME, "response_format", losses)
    if form.type == "text":
        return {**extra, "type": "text"}
    wire: dict[str, Any] = {"type": "json_object"}
    if form.type == "json_schema":
        if form.schema is None:
            raise invalid("response_format.schema", "json_schema needs a schema")
        wire["json_schema"] = dict(form.schema)
        if form.description is not None:
            losses.dropped("response_format.description", "Cohere has none beside the schema's own")
    return {**extra, **wire}


def _thinking(options: ReasoningOptions, written_in: str, losses: Losses) -> dict[str, Any]:
    thinking: dict[str, Any] = {}
    if options.enabled is False or options.effort == "none" or options.max_tokens == 0:
        thinking["type"] = "disabled"
    else:
        if options.effort is not None:
            losses.dropped("reasoning.effort", "Cohere has a budget of tokens and no effort")
        if options.enabled or options.max_tokens is not None:
            thinking["type"] = "enabled"
        if options.max_tokens is not None:
            thinking["token_budget"] = options.max_tokens
    return {**thinking, **native(options.extra, written_in, NAME, "reasoning", losses)}
