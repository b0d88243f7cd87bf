"""Our request as the JSON body of ``:generateContent`` and ``:streamGenerateContent``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.gemini_generate.contents import Conversation
from llmpipe.dialects.gemini_generate.fields import NAME, camel, merged
from llmpipe.dialects.gemini_generate.generation import GENERATION_FIELDS, encode_generation
from llmpipe.dialects.gemini_generate.tools import encode_choice, encode_tools
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import Request

if TYPE_CHECKING:
    from llmpipe.dialects.gemini_generate.quirks import Quirks

__all__ = ("encode_request",)

# Other dialects' words without which the answer would be another one.
_MEANING = (
    "conversation",
    "function_call",
    "functions",
    "mcp_servers",
    "previous_response_id",
    "prompt",
    "response_format",
    "tool_choice",
    "web_search_options",
)
# Those that say how the reply is sent; ours says that itself.
_TRANSPORT = ("store", "stream", "stream_options")
_TIERS = {"default": "standard", "standard_only": "standard", "flex": "flex", "priority": "priority"}


def encode_request(request: Request, quirks: Quirks, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body for `request`; model and stream are in the address. `extra` is merged in last.

    What the wire cannot say, and is told to `losses`:

    * `parallel_tool_calls`, `strict` of tools and formats, names of messages and files, `Image.detail`,
      metadata (but for Vertex AI's labels): left out.
    * reasoning and opaque parts of other providers in the model's turns: left out.
    * system messages after others: moved into the one system instruction.
    * an effort before Gemini 3: a budget of tokens; no thinking where a model cannot do without: the least.
    * tools of other providers' servers, and what else would change the answer: Unsupported.
    * a tool call whose arguments are no JSON object, a result that names no function: InvalidRequest.

    Of another dialect's words ``n``, ``top_k``, ``logprobs``, ``modalities`` and ``service_tier`` are
    said in Google's.
    """
    losses = Losses() if losses is None else losses
    extra = _extra(request, losses)
    said = Conversation(request.model, quirks, losses)
    said.add_all(request.messages)
    contents, system = said.contents, said.system
    if system and not contents:
        losses.emulated("messages", "the system message is the user's: Gemini answers nothing else")
        contents, system = [{"role": "user", "parts": system}], []
    if request.parallel_tool_calls is False and request.tools:
        losses.dropped("parallel_tool_calls", "Gemini calls as many tools at once as it likes")
    body: dict[str, Any] = {"contents": contents}
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        body["tools"] = encode_tools(request.tools, request.dialect, losses, json_schema=quirks.json_schema)
    more: dict[str, Any] = {
        "toolConfig": encode_choice(request.tool_choice),
        "generationConfig": encode_generation(request, quirks, losses),
        "labels": _labels(request, quirks, losses),
    }
    body.update({name: found for name, found in more.items() if found})
    return merged(body, extra)


def _extra(request: Request, losses: Losses) -> dict[str, Any]:
    """What `extra` adds to the body, fields of ``generationConfig`` inside that."""
    extra = dict(request.extra)
    if request.dialect not in ("", NAME):
        extra = _translated(extra, request.dialect, losses)
    config = extra.get("generationConfig")
    inside = dict(config) if isinstance(config, Mapping) else {}
    for name in [name for name in extra if camel(name) in GENERATION_FIELDS]:
        inside[camel(name)] = extra.pop(name)
    if inside:
        extra["generationConfig"] = inside
    return extra


def _translated(extra: dict[str, Any], written_in: str, losses: Losses) -> dict[str, Any]:
    for name in _MEANING:
        if extra.get(name) is not None:
            raise refused(name, "Gemini cannot be asked for this")
    for name in _TRANSPORT:
        extra.pop(name, None)
    found: dict[str, Any] = {}
    if type(count := extra.pop("n", None)) is int and count > 1:
        found["candidateCount"] = count
    if (top := extra.pop("top_k", extra.pop("k", None))) is not None:
        found["topK"] = top
    if wanted := extra.pop("logprobs", None):
        found["responseLogprobs"] = True
        count = wanted if type(wanted) is int else extra.pop("top_logprobs", None)
        if type(count) is int:
            found["logprobs"] = count
    if isinstance(kinds := extra.get("modalities"), list) and all(isinstance(kind, str) for kind in kinds):
        found["responseModalities"] = [kind.upper() for kind in extra.pop("modalities")]
    if (tier := extra.get("service_tier")) is not None and (told := _TIERS.get(str(tier))) is not None:
        found["serviceTier"] = told
        del extra["service_tier"]
    return {**native(extra, written_in, NAME, "", losses), **found}


def _labels(request: Request, quirks: Quirks, losses: Losses) -> dict[str, str]:
    """Vertex AI's labels, which are strings."""
    labels = {}
    for name, value in request.metadata.items():
        if quirks.labels and isinstance(value, str):
            labels[name] = value
        else:
            why = "labels are strings" if quirks.labels else "the Gemini API has no metadata"
            losses.dropped(f"metadata.{name}", why)
    return labels
