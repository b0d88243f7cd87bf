"""A chat request, from ours to the wire's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.losses import Losses, function_only, native, refused
from llmpipe.dialects.ollama_chat.messages import NAME, encode_messages
from llmpipe.dialects.single import one_text
from llmpipe.dialects.writing import request_extra
from llmpipe.types import ReasoningOptions, Request, Tool
from llmpipe.types.copying import replace

__all__ = ("encode_request",)

_LEVELS = ("low", "medium", "high")
_SHARED = frozenset(("logprobs", "top_k", "top_logprobs"))  # words of others that mean the same here


def encode_request(request: Request, losses: Losses) -> dict[str, Any]:
    """The JSON body of ``POST /api/chat``. `extra` goes in beside it; its `options` join ours.

    What the wire cannot say:

    * `tool_choice` ``auto``: left out, which means the same; ``none``: the tools are left out.
      ``required`` and a named tool: Unsupported.
    * `parallel_tool_calls` False, `Tool.strict`, `metadata`, `Message.name`, a budget of thinking: dropped.
      An effort is for gpt-oss, which alone knows one; for other models it is dropped.
    * pictures by address, files, audio, ``n`` above 1, other providers' tools: Unsupported.
    """
    extra = _own_words(request, losses)
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = encode_messages(request.messages, losses)
    body["stream"] = request.stream  # Ollama streams where nobody says a word
    _encode_tools(request, body, losses)
    given = extra.pop("options", None)
    options = {**(given if isinstance(given, Mapping) else {}), **_options(request)}
    if "top_k" in extra:
        options.setdefault("top_k", extra.pop("top_k"))
    if options:
        body["options"] = options
    form = request.response_format
    if form is not None and form.type != "text":
        if form.type == "json_schema" and form.schema is None:
            raise invalid("response_format.schema", "json_schema needs a schema")
        body["format"] = "json" if form.schema is None else dict(form.schema)
    think = _think(request.reasoning, request.model, losses)
    if think is not None:
        body["think"] = think
    if request.metadata:
        losses.dropped("metadata", "Ollama has none")
    # A field we model is never overridden: budgets and limits were checked on what the request says.
    return {**extra, **body}


def _own_words(request: Request, losses: Losses) -> dict[str, Any]:
    extra = dict(request.extra)
    if "n" in extra or request.dialect not in ("", NAME):
        one_text(extra, "Ollama")
    if request.dialect not in ("", NAME):
        for name in ("stream_options", "store"):  # they ask for nothing that we do not do anyway
            extra.pop(name, None)
        if "k" in extra:  # Cohere's word
            extra["top_k"] = extra.pop("k")
    return dict(request_extra(replace(request, extra=extra), NAME, losses, keeps=_SHARED))


def _options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = {
        "num_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "stop": list(request.stop) or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _encode_tools(request: Request, body: dict[str, Any], losses: Losses) -> None:
    choice = request.tool_choice
    if choice not in (None, "auto", "none"):
        raise refused("tool_choice", "Ollama forces no model to call a tool")
    if request.parallel_tool_calls is False:
        losses.dropped("parallel_tool_calls", "Ollama's models decide that")
    if choice == "none" and request.tools:
        losses.emulated("tool_choice", "the tools were left out")
    elif request.tools:
        places = enumerate(request.tools)
        body["tools"] = [_tool(tool, request.dialect, f"tools[{i}]", losses) for i, tool in places]


def _tool(tool: Tool, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    if written_in not in ("", NAME):
        function_only(tool, written_in, path)
    if tool.strict:
        losses.dropped(f"{path}.strict", "Ollama has none")
    extra = dict(native(tool.extra, written_in, NAME, path, losses))
    inner = extra.pop("function", None)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters)
    return {
        "type": "function",
        "function": {**function, **(inner if isinstance(inner, Mapping) else {})},
        **extra,
    }


def _think(options: ReasoningOptions | None, model: str, losses: Losses) -> bool | str | None:
    if options is None:
        return None
    if options.enabled is False or options.effort == "none":
        return False
    if options.max_tokens is not None:
        losses.dropped("reasoning.max_tokens", "Ollama has no budget of thinking")
    if options.effort is not None:
        # Ollama refuses such a word for all models but these, and these take no other.
        if "gpt-oss" in model and options.effort in _LEVELS:
            return options.effort
        losses.dropped("reasoning.effort", "Ollama takes one with gpt-oss only: low, medium or high")
    return True if options.enabled else None
