"""Our request as the JSON body of ``POST /v1/responses``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.openai_responses.items import NAME
from llmpipe.dialects.openai_responses.messages import Plan, encode_input
from llmpipe.dialects.openai_responses.quirks import Quirks
from llmpipe.dialects.openai_responses.tools import encode_tool, encode_tool_choice
from llmpipe.dialects.writing import request_extra
from llmpipe.types import Message, Request, ResponseFormat, Text

__all__ = ("ENCRYPTED", "encode_request")

ENCRYPTED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"

# Words of other dialects that mean the same here.
_KEEPS = frozenset(
    (
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "top_logprobs",
        "user",
    )
)
# Those that are said in another place.
_SAID = frozenset(("logprobs", "n", "stream_options", "verbosity"))
_ANTHROPIC_TIERS = {"standard_only": "default"}
# By these the provider finds what was said before, and it can be that nothing more is said.
_STATE = ("conversation", "previous_response_id", "prompt")


def encode_request(request: Request, quirks: Quirks, losses: Losses) -> dict[str, Any]:
    """The JSON body for `request`. What is None or empty is not sent; `extra` goes in beside it.

    The whole conversation is sent each time and nothing is kept: ``store`` is false unless `extra` says
    otherwise, or the request came from a caller who speaks this dialect, whose words are left alone.
    Where reasoning is wanted and nothing is kept, ``include`` asks for ``reasoning.encrypted_content``,
    so that the reply's thoughts can be sent back with the next turn. It is not asked for otherwise:
    models that do not reason refuse the word with a 400.

    What the wire cannot say:

    * `seed`, `frequency_penalty`, `presence_penalty`, `Message.name`, `ToolResult.is_error`,
      `ReasoningOptions.max_tokens`: left out with a warning.
    * a `Document` of text: sent as text.
    * `stop`, ``n`` above 1, audio, parts and tools of other dialects: Unsupported.
    """
    verbatim = request.dialect == NAME
    extra = dict(_extra(request, losses))
    store = extra.get("store", None if verbatim or _STATE[0] in extra else quirks.store)
    plan = Plan(verbatim, store is not False, quirks, losses)
    instructions, messages = _instructions(request, quirks)
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    if instructions is not None:
        body["instructions"] = instructions
    items = encode_input(messages, plan)
    if items or not any(extra.get(name) for name in _STATE):
        body["input"] = items
    if request.tools:
        body["tools"] = [
            encode_tool(tool, request.dialect, f"tools[{at}]", losses)
            for at, tool in enumerate(request.tools)
        ]
    if request.tool_choice is not None:
        body["tool_choice"] = encode_tool_choice(request)
    _plain(request, body, losses)
    _merge(body, "text", _text(request.response_format, request, losses), extra)
    _merge(body, "reasoning", _reasoning(request, losses), extra)
    if request.metadata:
        _metadata(request, body)
    if store is not None:
        body["store"] = store
    include = list(extra.pop("include", None) or [])
    if not verbatim and store is False and quirks.encrypted_reasoning and _wants_reasoning(request, body):
        include += [] if ENCRYPTED in include else [ENCRYPTED]
    if include:
        body["include"] = include
    if request.stream:
        body["stream"] = True
    # A field we model is never overridden: budgets and limits were checked on what the request says.
    return {**extra, **body}


def _plain(request: Request, body: dict[str, Any], losses: Losses) -> None:
    if request.stop:
        raise refused("stop", f"{NAME} has no stop sequences")
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.max_tokens is not None:
        body["max_output_tokens"] = request.max_tokens
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(request, name) is not None:
            losses.dropped(name, f"{NAME} has no such field")


def _instructions(request: Request, quirks: Quirks) -> tuple[str | None, tuple[Message, ...]]:
    """What goes into ``instructions``, and the messages that are left.

    A system message that came from there goes back there; and all of them at the start where the server
    insists. Elsewhere they stay where they stand: the model reads both alike, and xAI for one took long
    to know the field.
    """
    messages = request.messages
    first = messages[0] if messages else None
    if first is not None and _is_plain_system(first) and first.extra.get("field") == "instructions":
        return first.text, messages[1:]
    count = 0
    if quirks.instructions_field and "instructions" not in request.extra:
        while count < len(messages) and _is_plain_system(messages[count]):
            count += 1
    text = "\n\n".join([message.text for message in messages[:count]])
    return (text if count else None), messages[count:]


def _is_plain_system(message: Message) -> bool:
    return message.role == "system" and all(type(part) is Text for part in message.parts)


def _extra(request: Request, losses: Losses) -> Mapping[str, Any]:
    """The request's `extra`, in this wire's words.

    Raises: Unsupported for what would change the answer.
    """
    extra = dict(request.extra)
    if extra.get("n") not in (None, 1):
        raise refused("n", f"{NAME} answers once a request")
    if request.dialect in ("", NAME):
        extra.pop("n", None)
        return extra
    found = dict(request_extra(request, NAME, losses, keeps=_KEEPS, said=_SAID))
    if request.dialect == "anthropic.messages" and isinstance(tier := extra.get("service_tier"), str):
        found["service_tier"] = _ANTHROPIC_TIERS.get(tier, tier)
    logprobs, verbosity = extra.get("logprobs"), extra.get("verbosity")
    if logprobs is True:
        found["include"] = [_LOGPROBS]
    if verbosity is not None:
        found["text"] = {"verbosity": verbosity}
    return found


def _text(form: ResponseFormat | None, request: Request, losses: Losses) -> dict[str, Any]:
    if form is None:
        return {}
    extra = native(form.extra, request.dialect, NAME, "response_format", losses)
    if form.type == "text":
        return {"format": {"type": "text", **extra}}
    if form.type == "json":
        return {"format": {"type": "json_object", **extra}}
    wire: dict[str, Any] = {"type": "json_schema", "name": form.name, "schema": dict(form.schema or {})}
    if form.strict is not None:
        wire["strict"] = form.strict
    if form.description is not None:
        wire["description"] = form.description
    return {"format": {**wire, **extra}}


def _reasoning(request: Request, losses: Losses) -> dict[str, Any]:
    options = request.reasoning
    if options is None:
        return {}
    wire: dict[str, Any] = {}
    effort = "none" if options.enabled is False else options.effort
    if effort is not None:
        wire["effort"] = effort
    if options.max_tokens is not None:
        if request.dialect == NAME:  # OpenRouter's
            wire["max_tokens"] = options.max_tokens
        else:
            losses.dropped("reasoning.max_tokens", f"{NAME} takes an effort, no budget of tokens")
    return {
        **wire,
        **native(options.extra, request.dialect, NAME, "reasoning", losses, keeps=("summary",)),
    }


def _wants_reasoning(request: Request, body: Mapping[str, Any]) -> bool:
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else None
    return effort != "none" and (bool(reasoning) or request.reasoning is not None)


def _merge(body: dict[str, Any], name: str, ours: dict[str, Any], extra: dict[str, Any]) -> None:
    """One object of ours and `extra`'s; ours wins."""
    theirs = extra.pop(name, None)
    both = {**theirs, **ours} if isinstance(theirs, Mapping) else ours
    if both:
        body[name] = both
    elif theirs is not None:
        body[name] = theirs


def _metadata(request: Request, body: dict[str, Any]) -> None:
    """The metadata; of Anthropic's, which is one user's id, the user."""
    metadata = dict(request.metadata)
    if request.dialect == "anthropic.messages" and isinstance(user := metadata.pop("user_id", None), str):
        body["user"] = user
    if metadata:
        body["metadata"] = metadata
