"""Our request as the JSON body of ``POST /model/{modelId}/converse``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from llmpipe.dialects.bedrock_converse.families import caches, family
from llmpipe.dialects.bedrock_converse.parts import DIALECT, Parts, cache_point
from llmpipe.dialects.bedrock_converse.reasoning import encode_reasoning
from llmpipe.dialects.bedrock_converse.tools import NO_TOOLS_INSTRUCTION, encode_tools, one_call_at_a_time
from llmpipe.dialects.json_mode import instructed
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.single import one_text
from llmpipe.dialects.writing import request_extra
from llmpipe.errors import BadReply
from llmpipe.types import Message, Request, ToolResult
from llmpipe.types.copying import replace

__all__ = ("encode_request",)

_NONE = frozenset[str]()
_SENDING = frozenset(("store", "stream", "stream_options"))  # how others are told to send the reply
_MAX_TEMPERATURE = 1
_MAX_METADATA = 16
_METADATA = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,\-.]{0,256}")
_TIERS = {"default": "default", "flex": "flex", "priority": "priority", "standard_only": "default"}


def encode_request(
    request: Request,
    losses: Losses,
    *,
    json_schema: bool = True,
    system_in_messages: bool = False,
    unsigned_reasoning: bool = False,
) -> dict[str, Any]:
    """The JSON body for `request`; its model and whether it streams are said by the address.

    `extra` is merged in last, under the wire's own names: ``guardrailConfig``, ``promptVariables``,
    ``additionalModelRequestFields``, ``performanceConfig``, … Its objects are merged with ours.

    What the wire cannot say:

    * `seed`, `frequency_penalty`, `presence_penalty`, `Message.name`, `Image.detail`, and
      `parallel_tool_calls` to models other than Claude: left out, with a warning.
    * `tool_choice` ``none``: see `tools.encode_tools`.
    * `response_format` ``json``, and a schema where not `json_schema`: an instruction closes the system
      prompt.
    * a system message in the middle, unless `system_in_messages`: it joins the system prompt.
    * `temperature` above 1: lowered to it.
    * reasoning that Bedrock did not sign: left out with a warning, unless `unsigned_reasoning`.
    * the caller's `metadata` where the wire takes neither its length nor its characters: left out.
    * ``n`` above 1, URLs of pictures and documents, file ids, opaque parts of other dialects in
      what the user says: Unsupported.
    * a tool call in the history whose arguments are no JSON object: InvalidRequest.

    Messages that follow each other in one role become one, as turns have to alternate.
    """
    of = family(request.model)
    wanted = "text" if request.response_format is None else request.response_format.type
    if wanted == "json" or (wanted == "json_schema" and not json_schema):
        request = instructed(request, losses)
    extra, ours = _split(request, of, losses)
    parts = Parts(losses, of, unsigned_reasoning)
    system, messages = _conversation(request, parts, system_in_messages)
    if system and not messages:
        losses.emulated("messages", "the system message is the user's: Bedrock answers nothing else")
        messages, system = [{"role": "user", "content": system}], []
    tools, silent = encode_tools(request, messages, of, losses)
    if silent:
        system.append({"text": NO_TOOLS_INSTRUCTION})
    fields, effort = encode_reasoning(request, of, losses)
    fields.update(one_call_at_a_time(request, of, losses))
    output = {**_text_format(request, losses), **({} if effort is None else {"effort": effort})}
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if getattr(request, name) is not None:
            losses.dropped(name, "Converse has none")
    temperature = request.temperature
    if temperature is not None and temperature > _MAX_TEMPERATURE:
        losses.emulated("temperature", f"lowered to {_MAX_TEMPERATURE}, the highest here")
        temperature = _MAX_TEMPERATURE
    inference = {
        "maxTokens": request.max_tokens,
        "temperature": temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
    }
    body: dict[str, Any] = {
        "messages": messages,
        "system": system,
        "inferenceConfig": {name: value for name, value in inference.items() if value is not None},
        "toolConfig": tools,
        "additionalModelRequestFields": fields,
        "requestMetadata": _metadata(request, losses),
        "outputConfig": output,
    }
    body = {name: value for name, value in body.items() if value or name == "messages"}
    _merge(body, ours)
    _merge(body, extra)
    return body


def _merge(body: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put `more` over `body`; objects that both have are joined."""
    for name, value in more.items():
        ours = body.get(name)
        both = isinstance(ours, dict) and isinstance(value, Mapping)
        body[name] = {**ours, **value} if both else value  # type: ignore[dict-item]  # `both` narrows


def _split(request: Request, of: str, losses: Losses) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of `extra` goes onto the wire as it is; and what other dialects' well-known words are here."""
    extra = dict(request.extra)
    if "n" in extra or request.dialect not in ("", DIALECT):
        one_text(extra, "Bedrock")
    ours: dict[str, Any] = {}
    if request.dialect not in ("", DIALECT):
        top_k = extra.get("top_k")
        if isinstance(top_k, int) and of == "anthropic":
            ours["additionalModelRequestFields"] = {"top_k": extra.pop("top_k")}
        elif isinstance(top_k, int) and of.startswith("nova"):
            ours["additionalModelRequestFields"] = {"inferenceConfig": {"topK": extra.pop("top_k")}}
        tier = extra.get("service_tier")
        if tier == "auto":  # which is to say nothing
            del extra["service_tier"]
        elif isinstance(tier, str) and tier in _TIERS:
            ours["serviceTier"] = {"type": _TIERS[extra.pop("service_tier")]}
        user = extra.get("user")
        if isinstance(user, str) and _METADATA.fullmatch(user):
            ours["requestMetadata"] = {"user_id": extra.pop("user")}
    asked = replace(request, extra=extra)
    return dict(request_extra(asked, DIALECT, losses, keeps=_NONE, said=_SENDING)), ours


def _metadata(request: Request, losses: Losses) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in request.metadata.items():
        text = value if isinstance(value, str) else None
        if text is None or not name or not _METADATA.fullmatch(name) or not _METADATA.fullmatch(text):
            losses.dropped(f"metadata.{name}", "Bedrock takes 256 letters, digits and few signs")
        elif len(kept) == _MAX_METADATA:
            losses.dropped(f"metadata.{name}", f"Bedrock takes {_MAX_METADATA} pairs")
        else:
            kept[name] = text
    return kept


def _conversation(
    request: Request, parts: Parts, system_in_messages: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system prompt's blocks, and the messages."""
    leading = sum(1 for _ in takewhile(lambda message: message.role == "system", request.messages))
    losses = parts.losses
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for position, message in enumerate(request.messages):
        path = f"messages[{position}]"
        if message.name is not None:
            losses.dropped(f"{path}.name", "Converse has none")
        words = message.dialect
        extra = dict(native(message.extra, words, DIALECT, path, losses, keeps=("cache_control",)))
        control = extra.pop("cache_control", None)
        if message.role == "tool":
            _only_results(message, path)
        blocks = parts.blocks(message.parts, path, message.role, words)
        if control is not None and blocks:
            if caches(parts.family):
                blocks.append(cache_point(control))
            else:
                losses.dropped(f"{path}.cache_control", "models of this family have no prompt cache")
        if message.role == "system" and (position < leading or not system_in_messages):
            if position >= leading:
                losses.emulated(path, "it is in the system prompt")
            system += blocks
            continue
        role = "user" if message.role == "tool" else message.role
        if not blocks:
            if role != "user":
                continue  # blank, or nothing but reasoning that cannot be sent back; empty content is refused
            if messages and messages[-1]["role"] == role:
                continue  # it adds nothing to that turn
            raise refused(path, "Bedrock takes no message that says nothing")
        last = messages[-1] if messages else {}
        if last.get("role") == role and last.keys() == {"role", "content"} and not extra:
            last["content"] += blocks
        else:
            messages.append({**extra, "role": role, "content": blocks})
    return system, messages


def _only_results(message: Message, path: str) -> None:
    for position, part in enumerate(message.parts):
        if not isinstance(part, ToolResult):
            raise refused(
                f"{path}.parts[{position}]",
                f"a tool message holds ToolResult parts, not {type(part).__name__}",
            )


def _text_format(request: Request, losses: Losses) -> dict[str, Any]:
    """The schema of the answer, which the wire has as text in ``outputConfig``."""
    wanted = request.response_format
    if wanted is None or wanted.type != "json_schema":
        return {}
    if wanted.schema is None:
        raise refused("response_format.schema", "json_schema needs a schema")
    try:
        schema = json_text(dict(wanted.schema), "it")
    except BadReply as error:
        raise refused("response_format.schema", error.message) from None
    described = {} if wanted.description is None else {"description": wanted.description}
    described |= native(wanted.extra, request.dialect, DIALECT, "response_format", losses)
    structure = {"jsonSchema": {"name": wanted.name, "schema": schema, **described}}
    return {"textFormat": {"type": "json_schema", "structure": structure}}
