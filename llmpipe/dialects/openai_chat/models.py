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
        context_tokens=_first(entry, _CONTEXT),
        max_output_tokens=_size_of_answer(entry),
    )


# What servers call the size of a model's window, and of its answer: OpenRouter and Together, Groq, Mistral
# and Fireworks, vLLM, Vercel; Groq, OpenRouter (within top_provider) and Vercel.
_CONTEXT = ("context_length", "context_window", "max_context_length", "max_model_len")
_OUTPUT = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def _first(entry: object, names: tuple[str, ...]) -> int | None:
    """The first of these fields that is a number of tokens."""
    found = [entry.get(name) for name in names] if isinstance(entry, dict) else []
    return next((value for value in found if type(value) is int and value > 0), None)


def _size_of_answer(entry: dict[str, Any]) -> int | None:
    return _first(entry, _OUTPUT) or _first(entry.get("top_provider"), _OUTPUT[:1])


def _encode_model(model: ModelInfo) -> dict[str, Any]:
    """One model. Its sizes go by OpenRouter's names and Groq's, where `extra` does not have them already."""
    wire = {
        "id": model.id,
        "object": "model",
        "created": int(model.created or 0),
        "owned_by": model.owner,
        **model.extra,
    }
    if model.context_tokens is not None and _first(wire, _CONTEXT) is None:
        wire["context_length"] = model.context_tokens
    if model.max_output_tokens is not None and _size_of_answer(wire) is None:
        wire["max_completion_tokens"] = model.max_output_tokens
    return wire
