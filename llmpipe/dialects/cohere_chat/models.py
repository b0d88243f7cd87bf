"""The list of models: ``GET /v1/models``, both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llmpipe.dialects.cohere_chat.errors import error_in
from llmpipe.dialects.cohere_chat.usage import count_of
from llmpipe.errors import BadReply
from llmpipe.types import ModelInfo

__all__ = ("decode_models", "encode_models")

_SHOWN = (
    "is_deprecated",
    "endpoints",
    "finetuned",
    "tokenizer_url",
    "default_endpoints",
    "features",
    "sampling_defaults",
)


def decode_models(body: object) -> tuple[ModelInfo, ...]:
    """The models of one page, or the one that was asked for by name (``GET /v1/models/{name}``).

    More pages follow while there is a ``next_page_token``.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no list.
    """
    if isinstance(body, Mapping):
        found = [body] if "name" in body and "models" not in body else body.get("models")
        if isinstance(found, list):
            return tuple([_model(item) for item in found if isinstance(item, Mapping) and _named(item)])
        if body.get("message"):
            raise error_in(body, phase="body")
    raise BadReply("the reply is no list of models", code="no_models", phase="body")


def encode_models(models: Iterable[ModelInfo]) -> dict[str, Any]:
    """One page with all `models`."""
    return {"models": [_encode_model(model) for model in models]}


def _named(item: Mapping[str, Any]) -> bool:
    return isinstance(item.get("name"), str) and bool(item["name"])


def _model(item: Mapping[str, Any]) -> ModelInfo:
    extra = {name: value for name, value in item.items() if name not in ("name", "context_length")}
    config = item.get("config")
    longest = config.get("max_output_tokens") if isinstance(config, Mapping) else None
    return ModelInfo(
        item["name"],
        "cohere",
        extra=extra,
        context_tokens=count_of(item.get("context_length")) or None,
        max_output_tokens=count_of(longest) or None,
    )


def _encode_model(model: ModelInfo) -> dict[str, Any]:
    """A model; what it does is said where it is known."""
    wire: dict[str, Any] = {"name": model.id, "endpoints": ["chat"], "finetuned": False}
    if model.context_tokens is not None:
        wire["context_length"] = model.context_tokens
    return {**wire, **{name: model.extra[name] for name in _SHOWN if name in model.extra}}
