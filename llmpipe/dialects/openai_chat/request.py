"""A chat request, from ours to the wire's.

What this wire, or this server, cannot say:

======================================  ===========================================================
`response_format` (quirk `json`)        emulated: asked for in the system prompt
`reasoning.max_tokens`                  emulated: the effort it amounts to, where that is all there is
`reasoning.effort` (quirk `efforts`)    emulated: the nearest that the server knows
`stop` beyond quirk `max_stop`          refused
`metadata.user_id`, Anthropic's         said: as `user`
`extra` of another dialect              dropped, but for `n`, `user`, and what OpenAI's other wire has alike;
                                        refused where it says what is asked (``mcp_servers``)
`tools` that another provider runs      refused
`cache_control`, `top_k`, `lacks`       dropped, where the quirk says so
`messages[].name`, `tools[].strict`     dropped, where `lacks` has them
text, pictures, sound, files            said; a document of text is text (emulated), without its name
files by address (quirk `file_urls`)    refused
media of tools (quirk `tool_media`)     emulated: in a user message after the tools'
`is_error` of a tool result             dropped
reasoning                               said in the server's field, without proofs for others (dropped);
                                        dropped where the server takes none back
opaque parts of another dialect         dropped from an assistant's messages, else refused
======================================  ===========================================================

All else is said. Dropped and emulated is told to `losses`; refused is Unsupported, with the path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from llmpipe.dialects.json_mode import instructed
from llmpipe.dialects.losses import Losses, function_only, native, refused, unwished
from llmpipe.dialects.openai_chat.messages import encode_messages
from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.dialects.writing import CACHE, request_extra
from llmpipe.types import NamedTool, ReasoningOptions, Request, ResponseFormat, Tool

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("encode_request",)

# Words of requests that other dialects spell and mean alike.
_ALIKE: Mapping[str, frozenset[str]] = {
    "openai.responses": frozenset(
        (
            "logprobs",
            "n",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "top_logprobs",
            "user",
            "verbosity",
        )
    ),
}
_USER = frozenset(("n", "user"))
_LOGPROBS = "message.output_text.logprobs"
_MEANINGFUL = {
    "functions": (),
    "n": (1,),
    "response_format": (),
    "stop": (),
    "tool_choice": ("auto",),
    "tools": (),
}
"""What a server may lack without harm at these values only: another answer would come."""


def encode_request(request: Request, quirks: Quirks, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body of a chat request. What is None or empty is not sent; `extra` goes in beside it.

    A stream is asked for together with its usage, which OpenAI does not send unasked.

    Raises: Unsupported, with the path, for what this wire cannot say and must not leave out.
    """
    if losses is None:
        losses = Losses()
    if request.response_format is not None and quirks.json != "both":
        request = _with_json(request, quirks.json, losses)
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["messages"] = encode_messages(request.messages, quirks, losses)
    if request.tools:
        body["tools"] = [
            _encode_tool(tool, at, request, quirks, losses) for at, tool in enumerate(request.tools)
        ]
    if request.tool_choice is not None:
        body["tool_choice"] = _encode_tool_choice(request.tool_choice)
    _encode_plain(request, quirks, body)
    if request.stop:
        body["stop"] = _stop(request.stop, quirks)
    if request.response_format is not None:
        body["response_format"] = _encode_response_format(request.response_format, request, losses)
    if request.reasoning is not None:
        body.update(_encode_reasoning_options(request.reasoning, request, quirks, losses))
    if request.metadata:
        _encode_metadata(request, body, losses)
    if request.extra:
        # A field we model is never overridden: budgets and limits were checked on what the request says.
        body = {**_extra(request, quirks, losses), **body}
    options = body.pop("stream_options", None) or {}
    if request.stream:
        body["stream"] = True
        if quirks.stream_usage:
            body["stream_options"] = {**options, "include_usage": True}
    if quirks.prefill != "plain":
        _mark_prefill(body, quirks.prefill)
    if quirks.lacks:
        _leave_out(body, quirks, losses)
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


def _with_json(request: Request, has: str, losses: Losses) -> Request:
    """The request to a server that has not both kinds of JSON."""
    wanted = request.response_format
    assert wanted is not None
    if wanted.type == "text" or (wanted.type == "json_schema" and has == "schema"):
        return request
    if wanted.type == "json":
        return request if has == "object" else instructed(request, losses)
    return instructed(request, losses, rest=ResponseFormat("json") if has == "object" else None)


def _encode_tool(tool: Tool, at: int, request: Request, quirks: Quirks, losses: Losses) -> dict[str, Any]:
    """A function; or, where `extra` names another type, a server's own tool exactly as it is there."""
    extra = dict(tool.extra)
    if extra and request.dialect not in ("", NAME):
        function_only(tool, request.dialect, f"tools[{at}]")
        extra = dict(native(extra, request.dialect, NAME, f"tools[{at}]", losses, keeps=CACHE))
    if extra and "cache_control" in extra and not quirks.cache_control:
        del extra["cache_control"]
        losses.dropped(f"tools[{at}].cache_control", "this server does not take it")
    if extra.get("type", "function") != "function":
        return extra
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters)
    if tool.strict is not None:
        if "tools.strict" in quirks.lacks:
            losses.dropped(f"tools[{at}].strict", "this server does not take it")
        else:
            function["strict"] = tool.strict
    return {"type": "function", "function": {**function, **extra.pop("function", {})}, **extra}


def _encode_tool_choice(choice: str | NamedTool) -> str | dict[str, Any]:
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return choice


def _stop(stop: tuple[str, ...], quirks: Quirks) -> list[str]:
    if quirks.max_stop is not None and len(stop) > quirks.max_stop:
        raise refused("stop", f"this server takes at most {quirks.max_stop} sequences, not {len(stop)}")
    return list(stop)


def _encode_response_format(form: ResponseFormat, request: Request, losses: Losses) -> dict[str, Any]:
    extra = dict(native(form.extra, request.dialect, NAME, "response_format", losses))
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


def _encode_reasoning_options(
    options: ReasoningOptions, request: Request, quirks: Quirks, losses: Losses
) -> dict[str, Any]:
    """OpenAI's ``reasoning_effort`` where that says it all, else OpenRouter's ``reasoning`` object."""
    effort, extra = options.effort, options.extra
    if quirks.reasoning_param != "reasoning_effort" and request.dialect not in ("", NAME):
        extra = unwished(extra)
    extra = native(extra, request.dialect, NAME, "reasoning", losses)
    if quirks.reasoning_param in ("reasoning_effort", "thinking"):
        thinking = quirks.reasoning_param == "thinking"
        for name in extra:
            if not thinking:
                losses.dropped(f"reasoning.{name}", "this server takes an effort and nothing else")
        if options.enabled is False:
            effort = "none"
        elif options.max_tokens is not None:
            if effort is None:
                effort = _effort_of(options.max_tokens)
                losses.emulated("reasoning.max_tokens", f"as effort {effort!r}")
            else:
                losses.dropped("reasoning.max_tokens", "this server takes an effort and nothing else")
        elif options.enabled and effort is None and not thinking:
            losses.dropped("reasoning.enabled", "this server takes an effort and nothing else")
        if effort is not None and quirks.efforts and effort not in quirks.efforts:
            effort = _nearest(effort, quirks.efforts)
            losses.emulated("reasoning.effort", f"as {effort!r}")
        if thinking:
            return _thinking(effort, options.enabled, extra)
        return {} if effort is None else {"reasoning_effort": effort}
    only_effort = options.max_tokens is None and options.enabled is None and not extra
    if only_effort and quirks.reasoning_param == "auto":
        return {} if effort is None else {"reasoning_effort": effort}
    wire: dict[str, Any] = {}
    for name in ("effort", "max_tokens", "enabled"):
        value = getattr(options, name)
        if value is not None:
            wire[name] = value
    return {"reasoning": {**wire, **extra}}


def _thinking(effort: str | None, enabled: bool | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSeek's and Z.AI's: an effort, and an object where thinking is turned on or off.

    Source: https://api-docs.deepseek.com/guides/thinking_mode
    """
    if effort == "none":
        return {"thinking": {**extra, "type": "disabled"}}
    fields: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if enabled or extra:
        fields["thinking"] = {"type": "enabled", **extra}
    return fields


_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _nearest(effort: str, known: tuple[str, ...]) -> str:
    """The one of `known` that is nearest to `effort`, the higher of two; no thinking only for none."""
    ranks = {name: rank for rank, name in enumerate(_EFFORTS)}
    wanted = ranks.get(effort, ranks["medium"])
    some = [name for name in known if name != "none"] or list(known)
    return min(some, key=lambda name: (abs(ranks.get(name, 3) - wanted), -ranks.get(name, 3)))


def _mark_prefill(body: dict[str, Any], how: str) -> None:
    """Say that the assistant's message at the end, where there is one, is to be continued.

    Sources: AssistantMessage in Mistral's SDK (docs/models/assistantmessage.md in mistralai/client-python);
    https://api-docs.deepseek.com/guides/chat_prefix_completion; ChatCompletionRequest in vLLM.
    """
    last = body["messages"][-1] if body["messages"] else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return
    if how == "prefix":
        last.setdefault("prefix", True)
    else:
        body.setdefault("add_generation_prompt", False)
        body.setdefault("continue_final_message", True)


def _effort_of(budget: int) -> str:
    """The effort that a budget of tokens amounts to: what models spend on each, about."""
    return "low" if budget < 4096 else "medium" if budget < 16384 else "high"


def _encode_metadata(request: Request, body: dict[str, Any], losses: Losses) -> None:
    """Metadata; of Anthropic's, the one field it has is OpenAI's `user`."""
    metadata = dict(request.metadata)
    if request.dialect == "anthropic.messages":
        user = metadata.pop("user_id", None)
        if isinstance(user, str) and user:
            # OpenAI takes 64 characters; those of Claude Code are three times that.
            short = len(user) <= 64
            body["user"] = user if short else hashlib.sha256(user.encode("utf-8", "replace")).hexdigest()
            if not short:
                losses.emulated("metadata.user_id", "as user, by its hash")
    if metadata:
        body["metadata"] = metadata


def _extra(request: Request, quirks: Quirks, losses: Losses) -> Mapping[str, Any]:
    """Of the request's `extra`, what this server understands."""
    if request.dialect == "openai.responses":
        request = _from_responses(request)
    keeps = _ALIKE.get(request.dialect, _USER) | CACHE
    if quirks.top_k:
        keeps |= {"top_k"}
    extra = request_extra(request, NAME, losses, keeps=keeps)
    if "cache_control" in extra and not quirks.cache_control:
        losses.dropped("cache_control", "this server does not take it")
        extra = {name: value for name, value in extra.items() if name != "cache_control"}
    return extra


def _from_responses(request: Request) -> Request:
    """The request with what OpenAI's other wire says elsewhere under this one's names."""
    extra = dict(request.extra)
    text, include = extra.get("text"), extra.get("include")
    if isinstance(text, Mapping) and "verbosity" in text:
        extra["verbosity"] = text["verbosity"]
        extra["text"] = {name: value for name, value in text.items() if name != "verbosity"}
    if isinstance(include, list) and _LOGPROBS in include:
        extra["logprobs"] = True
        extra["include"] = [name for name in include if name != _LOGPROBS]
    else:
        extra.pop("top_logprobs", None)  # of which nothing was to be shown
    return evolve(request, extra=extra)


def _leave_out(body: dict[str, Any], quirks: Quirks, losses: Losses) -> None:
    """Take out of `body` what the server refuses.

    Raises: Unsupported where that would change the answer.
    """
    for name in quirks.lacks:
        if name not in body:
            continue
        ours = _OURS.get(name) or ("seed" if name == quirks.seed_field else name)
        harmless = _MEANINGFUL.get(name)
        if harmless is None:
            losses.dropped(ours, "this server does not take it")
        elif body[name] not in harmless:
            raise refused(ours, "this server does not take it")
        del body[name]


_OURS = {"reasoning_effort": "reasoning.effort", "max_completion_tokens": "max_tokens"}
