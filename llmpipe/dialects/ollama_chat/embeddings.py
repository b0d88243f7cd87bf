"""Vectors, ``POST /api/embed``, and the list of models, ``GET /api/tags``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.ollama_chat.errors import error_in
from llmpipe.dialects.ollama_chat.messages import NAME
from llmpipe.dialects.ollama_chat.reply import created_at
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import EmbeddingRequest, Embeddings, ModelInfo, Usage

__all__ = ("decode_embeddings", "decode_models", "encode_embedding_request")

_BODY = frozenset(("embedding", "embeddings", "model", "prompt_eval_count"))


def encode_embedding_request(request: EmbeddingRequest, losses: Losses) -> dict[str, Any]:
    """The JSON body of a request for vectors. Raises: Unsupported for token ids."""
    for position, item in enumerate(request.inputs):
        if not isinstance(item, str):
            raise refused(f"inputs[{position}]", "Ollama makes vectors of text, not of token ids")
    given = dict(request.extra)
    if request.dialect not in ("", NAME):
        given.pop("encoding_format", None)  # how the caller wants it is between the caller and us
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["input"] = list(request.inputs)
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.input_type is not None:
        losses.dropped("input_type", "Ollama has none")
    if request.metadata:
        losses.dropped("metadata", "Ollama has none")
    return {**native(given, request.dialect, NAME, "", losses), **body}


def decode_embeddings(body: Mapping[str, Any], headers: Mapping[str, str]) -> Embeddings:
    """The vectors, in the order of the inputs; of the older ``/api/embeddings`` the one.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no reply.
    """
    vectors = body.get("embeddings") or ([body["embedding"]] if body.get("embedding") else None)
    if body.get("error") or not isinstance(vectors, list):
        if says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no embeddings", code="no_embeddings", phase="body")
    for position, vector in enumerate(vectors):
        if not isinstance(vector, list) or not all(type(item) in (float, int) for item in vector):
            raise BadReply(f"embeddings[{position}] is no vector", code="bad_embeddings", phase="body")
    tokens, model = body.get("prompt_eval_count"), body.get("model")
    found = headers_of_interest(headers)
    return Embeddings(
        vectors=tuple(vectors),
        model=model if isinstance(model, str) else "",
        usage=Usage(tokens) if type(tokens) is int and 0 <= tokens < 1_000_000_000 else None,
        request_id=request_id_in(found),
        headers=found,
        extra=leftover(body, _BODY),
    )


def decode_models(body: object) -> tuple[ModelInfo, ...]:
    """The models that the server has. Raises BadReply if it is no list of them."""
    models = body.get("models") if isinstance(body, Mapping) else None
    if not isinstance(models, list):
        if isinstance(body, Mapping) and says_error(body):
            raise error_in(body, phase="body")
        raise BadReply("the reply is no list of models", code="no_models", phase="body")
    found = []
    for item in models:
        name = item.get("model") or item.get("name") if isinstance(item, Mapping) else None
        if isinstance(name, str) and name:
            extra = {key: value for key, value in item.items() if key != "model"}
            found.append(ModelInfo(name, created=created_at(item.get("modified_at")), extra=extra))
    return tuple(found)
