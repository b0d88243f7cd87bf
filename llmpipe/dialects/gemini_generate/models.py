"""``GET …/models``: the list of models, both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmpipe.dialects.gemini_generate.errors import error_in
from llmpipe.dialects.gemini_generate.fields import bare_model, full_model
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import ModelInfo

__all__ = ("decode_models", "encode_models")

_KNOWN = frozenset(("inputTokenLimit", "name", "outputTokenLimit"))
_LISTS = ("models", "publisherModels", "tunedModels")


def decode_models(body: object) -> tuple[ModelInfo, ...]:
    """The models of one page, without ``models/`` before their names.

    More pages follow while ``nextPageToken`` is there; the next is asked for with ``pageToken``.

    Raises: the classified LLMError where the body is one, BadReply where it is no list of models.
    """
    if isinstance(body, Mapping):
        listed = next((body[name] for name in _LISTS if isinstance(body.get(name), list)), None)
        if listed is not None:
            return tuple([_model(one) for one in listed if isinstance(one, dict) and _named(one)])
        if not body:
            return ()  # an empty list is left out of JSON for protocol buffers
        if says_error(body):
            raise error_in(body, phase="body")
    raise BadReply("the reply is no list of models", code="no_models", phase="body")


def encode_models(models: Iterable[ModelInfo]) -> dict[str, Any]:
    """One page with all `models`."""
    return {"models": [_encoded(model) for model in models]}


def _named(wire: Mapping[str, Any]) -> bool:
    return isinstance(wire.get("name"), str) and bool(wire["name"])


def _model(wire: Mapping[str, Any]) -> ModelInfo:
    return ModelInfo(
        id=bare_model(wire["name"]),
        owner="google",
        extra=leftover(wire, _KNOWN),
        context_tokens=_count(wire.get("inputTokenLimit")),
        max_output_tokens=_count(wire.get("outputTokenLimit")),
    )


def _encoded(model: ModelInfo) -> dict[str, Any]:
    wire: dict[str, Any] = {"name": full_model(model.id), "displayName": model.id}
    if model.context_tokens is not None:
        wire["inputTokenLimit"] = model.context_tokens
    if model.max_output_tokens is not None:
        wire["outputTokenLimit"] = model.max_output_tokens
    if model.owner != "google":  # its extra is in other words than Google's
        return {**wire, "supportedGenerationMethods": ["generateContent", "countTokens"]}
    return {**wire, **model.extra}


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
