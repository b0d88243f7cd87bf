"""``generationConfig``: how the answer is made, both directions; thinking and the answer's format in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.fields import NAME, Fields, generation, is_pro
from llmpipe.dialects.gemini_generate.schema import from_google, to_google
from llmpipe.dialects.losses import Losses, native
from llmpipe.types import ReasoningOptions, Request, ResponseFormat

if TYPE_CHECKING:
    from llmpipe.dialects.gemini_generate.quirks import Quirks

__all__ = ("GENERATION_FIELDS", "encode_generation", "read_generation")

GENERATION_FIELDS = frozenset(
    (
        "audioTimestamp",
        "audioTranscriptionConfig",
        "candidateCount",
        "enableAffectiveDialog",
        "enableEnhancedCivicAnswers",
        "imageConfig",
        "logprobs",
        "mediaResolution",
        "modelSelectionConfig",
        "responseFormat",
        "responseJsonSchema",
        "responseLogprobs",
        "responseMimeType",
        "responseModalities",
        "responseSchema",
        "routingConfig",
        "speechConfig",
        "topK",
        "translationConfig",
    )
)
"""Fields that we do not model: in a request's `extra` they stand by name, and go where they belong."""

_JSON = "application/json"
# What Google's own OpenAI-compatible endpoint makes of an effort (ai.google.dev/gemini-api/docs/openai).
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
_LEVELS = {"max": "high"}
_OFF_LEAST = 128
"""Tokens: the smallest budget of Gemini 2.5 Pro, which cannot be told not to think."""


def encode_generation(request: Request, quirks: Quirks, losses: Losses) -> dict[str, Any]:
    """The wire's ``generationConfig`` but for what `extra` has of it; it may be empty."""
    config: dict[str, Any] = {
        "temperature": request.temperature,
        "topP": request.top_p,
        "maxOutputTokens": request.max_tokens,
        "stopSequences": list(request.stop) or None,
        "seed": request.seed,
        "presencePenalty": request.presence_penalty,
        "frequencyPenalty": request.frequency_penalty,
        **_format(request, quirks, losses),
        "thinkingConfig": _thinking(request, quirks, losses) or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _format(request: Request, quirks: Quirks, losses: Losses) -> dict[str, Any]:
    wanted = request.response_format
    if wanted is None:
        return {}
    extra = native(wanted.extra, request.dialect, NAME, "response_format", losses)
    if wanted.type == "text":
        return {"responseMimeType": "text/plain", **extra}
    if wanted.type == "json":
        return {"responseMimeType": _JSON, **extra}
    if wanted.schema is None:
        raise invalid("response_format.schema", "json_schema needs a schema")
    if wanted.description is not None:
        losses.dropped("response_format.description", "Gemini has no such field")
    if quirks.json_schema:
        return {"responseMimeType": _JSON, "responseJsonSchema": dict(wanted.schema), **extra}
    schema = to_google(wanted.schema, "response_format.schema", losses)
    return {"responseMimeType": _JSON, "responseSchema": schema, **extra}


def _thinking(request: Request, quirks: Quirks, losses: Losses) -> dict[str, Any]:
    """``thinkingConfig``. Thoughts are shown to whoever asks for thinking in other words than Google's."""
    options = request.reasoning
    if options is None:
        return {}
    age = generation(request.model)
    levels = quirks.thinking == "level" or (quirks.thinking == "auto" and (age is None or age >= 3))
    effort = options.effort.lower() if options.effort is not None else None
    config: dict[str, Any] = {}
    if options.enabled is False or effort == "none":
        config = _off(request.model, losses, levels=levels and age is not None)
    else:
        if options.max_tokens is not None:
            config["thinkingBudget"] = options.max_tokens
            if effort is not None:
                losses.dropped("reasoning.effort", "Gemini takes a budget or an effort; the budget is sent")
        elif effort is not None:
            config = _effort(effort, request.model, losses, levels=levels)
        elif options.enabled and not (levels and age is not None):
            config["thinkingBudget"] = -1  # as much as the model likes
        if request.dialect != NAME:
            config["includeThoughts"] = True
    return {**config, **native(options.extra, request.dialect, NAME, "reasoning", losses)}


def _off(model: str, losses: Losses, *, levels: bool) -> dict[str, Any]:
    if levels:
        level = "LOW" if is_pro(model) else "MINIMAL"
        losses.emulated("reasoning.enabled", f"as the lowest level: {model} cannot be told not to think")
        return {"thinkingLevel": level}
    if is_pro(model):
        losses.emulated("reasoning.enabled", f"as the smallest budget: {model} cannot be told not to think")
        return {"thinkingBudget": _OFF_LEAST}
    return {"thinkingBudget": 0}


def _effort(effort: str, model: str, losses: Losses, *, levels: bool) -> dict[str, Any]:
    if not levels:
        budget = _BUDGETS.get(effort, _BUDGETS["medium"])
        losses.emulated("reasoning.effort", f"as a budget of {budget} tokens: {model} has no levels")
        return {"thinkingBudget": budget}
    level = _LEVELS.get(effort, effort)
    if level == "minimal" and is_pro(model):
        losses.emulated("reasoning.effort", f"as low, the least that {model} has")
        level = "low"
    return {"thinkingLevel": level.upper()}


def read_generation(fields: Fields, extra: dict[str, Any]) -> dict[str, Any]:
    """The fields of our request in a caller's ``generationConfig``; the rest is put into `extra`.

    Raises: InvalidRequest naming the path.
    """
    if fields.rest.get("generationConfig") is None:
        fields.take("generationConfig")
        return {}
    config = fields.nested("generationConfig")
    found: dict[str, Any] = {
        "temperature": config.number("temperature", 0),
        "top_p": config.number("topP", 0, 1),
        "max_tokens": config.whole("maxOutputTokens", 1),
        "stop": _stop(config),
        "seed": config.whole("seed"),
        "presence_penalty": config.number("presencePenalty"),
        "frequency_penalty": config.number("frequencyPenalty"),
        "response_format": _read_format(config),
        "reasoning": _read_thinking(config),
    }
    unknown: dict[str, Any] = {}
    for name, value in config.unknown().items():
        (extra if name in GENERATION_FIELDS else unknown)[name] = value
    if unknown:
        extra["generationConfig"] = unknown
    return {name: value for name, value in found.items() if value is not None}


def _stop(config: Fields) -> tuple[str, ...]:
    stop = config.items("stopSequences") or []
    for position, one in enumerate(stop):
        if not isinstance(one, str):
            raise invalid(f"{config.at('stopSequences')}[{position}]", "a string was expected")
    return tuple(stop)


def _read_format(config: Fields) -> ResponseFormat | None:
    """Our format. Another type than JSON and plain text (an enum's) stays as it is, in `extra`."""
    kind = config.rest.get("responseMimeType")
    if kind not in (None, _JSON, "text/plain"):
        return None
    schema = config.rest.get("responseJsonSchema")
    if not isinstance(schema, Mapping):
        schema = from_google(config.rest.get("responseSchema"))
    if kind != _JSON:
        if kind is not None and not isinstance(schema, Mapping):
            config.take("responseMimeType")
            return ResponseFormat("text")
        return None
    config.take("responseMimeType")
    if isinstance(schema, Mapping):
        config.take("responseJsonSchema")
        config.take("responseSchema")
        return ResponseFormat("json_schema", schema)
    return ResponseFormat("json")


def _read_thinking(config: Fields) -> ReasoningOptions | None:
    if config.rest.get("thinkingConfig") is None:
        config.take("thinkingConfig")
        return None
    thinking = config.nested("thinkingConfig")
    budget, level = thinking.whole("thinkingBudget", -1), thinking.text("thinkingLevel")
    if level is not None and level.upper() == "THINKING_LEVEL_UNSPECIFIED":
        level = None
    enabled = {0: False, -1: True}.get(budget) if budget is not None else None
    return ReasoningOptions(
        level.lower() if level is not None else None,
        budget if budget is not None and budget > 0 else None,
        enabled,
        thinking.unknown(),
    )
