"""The list of models, both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reply import created_at
from llmpipe.types import ModelInfo

__all__ = ("decode_models", "encode_models")


def decode_models(body: object) -> tuple[ModelInfo, ...]:
    """The models a provider lists; Together sends the bare list. Entries without an id are left out.

    Raises: the classified LLMError where the body holds no list.
    """
    entries = body.get("data") if isinstance(body, dict) else body
    if not isinstance(entries, list):
        raise error_in(body, phase="body")
    return tuple([_model(entry) for entry in entries if isinstance(entry, dict) and entry.get("id")])


def encode_models(models: Iterable[ModelInfo]) -> dict[str, Any]:
    """The JSON body of a list of models."""
    return {"object": "list", "data": [_encode_model(model) for model in models]}


def _model(entry: dict[str, Any]) -> ModelInfo:
    extra = {
        name: value for name, value in entry.items() if name not in ("id", "object", "created", "owned_by")
    }
    return ModelInfo(
        id=str(entry["id"]),
        owner=str(entry.get("owned_by") or ""),
        created=created_at(entry.get("created")),
        extra=extra,
    )


def _encode_model(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": int(model.created or 0),
        "owned_by": model.owner,
        **model.extra,
    }
