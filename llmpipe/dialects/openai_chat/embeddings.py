"""Embeddings, both directions."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.losses import Losses, native
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.usage import decode_usage
from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.errors import BadReply
from llmpipe.types import EmbeddingRequest, Embeddings, Usage

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = (
    "decode_embedding_request",
    "decode_embeddings",
    "encode_embedding_request",
    "encode_embeddings",
)


def encode_embedding_request(
    request: EmbeddingRequest, quirks: Quirks, losses: Losses | None = None
) -> dict[str, Any]:
    """The JSON body of a request for vectors: always a list of inputs.

    Left out are metadata, which OpenAI has for chats only, and what the vectors are for, where the server
    has no field for that.
    """
    losses = Losses() if losses is None else losses
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["input"] = [item if isinstance(item, str) else list(item) for item in request.inputs]
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    if request.input_type is not None:
        if quirks.input_type_field is None:
            losses.dropped("input_type", "this server makes one kind of vectors")
        else:
            body[quirks.input_type_field] = quirks.input_types.get(request.input_type, request.input_type)
    if request.metadata:
        losses.dropped("metadata", "requests for vectors have none")
    return {**body, **native(request.extra, request.dialect, NAME, "", losses, keeps=("user",))}


def decode_embedding_request(body: dict[str, Any]) -> EmbeddingRequest:
    """A caller's request: `input` is a string, token ids, or a list of either.

    Raises: InvalidRequest naming the field.
    """
    fields = Fields(body)
    return EmbeddingRequest(
        model=fields.text("model") or "",
        inputs=tuple(_inputs(fields.need("input").take("input"))),
        dimensions=fields.whole("dimensions", 1),
        extra=dict(fields.rest),
        dialect=NAME,
    )


def decode_embeddings(body: Mapping[str, Any], headers: Mapping[str, str]) -> Embeddings:
    """The vectors, in the order of the inputs; lists of floats, whichever way the wire has them.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no reply.
    """
    data = body.get("data")
    if body.get("error") or not isinstance(data, list):
        raise error_in(body, headers=headers, phase="body")
    vectors: dict[int, list[float]] = {}
    for position, item in enumerate(data):
        if not isinstance(item, dict):
            raise _bad(position, "is not an object")
        index = item.get("index", position)
        if type(index) is not int or not 0 <= index < len(data) or index in vectors:
            raise _bad(position, f"has index {str(index)[:40]!r}, which is none or twice there")
        vectors[index] = _vector(item.get("embedding"), position)
    usage = decode_usage(_with_completion(body.get("usage")))
    found = headers_of_interest(headers)
    return Embeddings(
        vectors=tuple([vectors[index] for index in range(len(data))]),
        model=str(body.get("model") or ""),
        usage=usage,
        id=str(body.get("id") or ""),
        request_id=request_id_in(found),
        headers=found,
        extra=leftover(body, _MODELLED),
    )


def encode_embeddings(embeddings: Embeddings, request: EmbeddingRequest | None = None) -> dict[str, Any]:
    """The JSON body of a reply; base64 of little-endian 32-bit floats where `request` asks for it."""
    told = request.extra if request is not None and request.dialect in ("", NAME) else {}
    as_base64 = told.get("encoding_format") == "base64"
    usage = embeddings.usage or Usage()
    body: dict[str, Any] = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if as_base64 else list(vector),
            }
            for index, vector in enumerate(embeddings.vectors)
        ],
        "model": embeddings.model,
        "usage": {"prompt_tokens": usage.input_tokens, "total_tokens": usage.total_tokens, **usage.extra},
    }
    if embeddings.id:
        body["id"] = embeddings.id
    return {**body, **embeddings.extra}


_MODELLED = frozenset(("data", "error", "id", "model", "object", "usage"))


def _inputs(value: object) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [value]
        for index, item in enumerate(value):
            if type(item) is not str and not (
                type(item) is list and item and all(type(token) is int for token in item)
            ):
                raise invalid(
                    f"input[{index}]", "a string or a list of token ids was expected", code="invalid_type"
                )
        return value
    raise invalid("input", "a string, token ids, or a list of either was expected", code="invalid_type")


def _vector(value: object, position: int) -> list[float]:
    if isinstance(value, str):
        try:
            floats = array("f", b64decode(value, validate=True))
        except ValueError as error:
            raise _bad(position, f"is not base64 of 32-bit floats: {error}") from None
        if sys.byteorder == "big":
            floats.byteswap()
        return floats.tolist()
    if isinstance(value, list) and all(type(item) is float or type(item) is int for item in value):
        return value
    raise _bad(position, "has no list of numbers")


def _base64(vector: Sequence[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode()


def _with_completion(usage: object) -> object:
    """Embeddings complete nothing; some servers leave the count out, some the prompt's."""
    if not isinstance(usage, dict):
        return usage
    prompt = usage.get("prompt_tokens", usage.get("total_tokens"))
    return {**usage, "prompt_tokens": prompt, "completion_tokens": usage.get("completion_tokens") or 0}


def _bad(position: int, problem: str) -> BadReply:
    return BadReply(f"data[{position}] of the embeddings {problem}", code="bad_embeddings", phase="body")
