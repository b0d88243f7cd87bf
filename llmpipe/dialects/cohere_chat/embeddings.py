"""Vectors: ``POST /v2/embed``, both directions."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.cohere_chat.errors import error_in
from llmpipe.dialects.cohere_chat.parts import NAME
from llmpipe.dialects.cohere_chat.usage import count_of
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import EmbeddingRequest, Embeddings, Usage

__all__ = (
    "decode_embedding_request",
    "decode_embeddings",
    "encode_embedding_request",
    "encode_embeddings",
    "usage_of_meta",
)

_Purpose = Literal["query", "document", "classification", "clustering"]
_INPUT_TYPES: dict[_Purpose | None, str] = {
    None: "search_document",  # the wire insists on one, and most vectors are stored
    "document": "search_document",
    "query": "search_query",
    "classification": "classification",
    "clustering": "clustering",
}
_PURPOSES: dict[str, _Purpose] = {word: purpose for purpose, word in _INPUT_TYPES.items() if purpose}
_KINDS = ("float", "base64", "int8", "uint8", "binary", "ubinary")
"""Forms of a vector, the one we take first, first."""
_BODY = frozenset(("embeddings", "id"))
_SHOWN = ("texts", "images")


def encode_embedding_request(request: EmbeddingRequest, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body of a request for vectors. Those that are not text stand in `extra`: `images`, `inputs`.

    Raises: Unsupported for token ids.
    """
    losses = Losses() if losses is None else losses
    for position, item in enumerate(request.inputs):
        if not isinstance(item, str):
            raise refused(f"inputs[{position}]", "Cohere makes vectors of text, not of token ids")
    given = dict(request.extra)
    if request.dialect not in ("", NAME):
        given.pop("encoding_format", None)  # how the caller wants it is between the caller and us
    extra = dict(native(given, request.dialect, NAME, "", losses))
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    kind, forms = extra.pop("input_type", None), extra.pop("embedding_types", None)
    body["input_type"] = _INPUT_TYPES[request.input_type] if request.input_type or not kind else kind
    if request.inputs or not ({"images", "inputs"} & extra.keys()):
        body["texts"] = list(request.inputs)
    body["embedding_types"] = forms or ["float"]
    if request.dimensions is not None:
        body["output_dimension"] = request.dimensions
    if request.metadata:
        losses.dropped("metadata", "Cohere has none")
    return {**extra, **body}


def decode_embedding_request(body: dict[str, Any]) -> EmbeddingRequest:
    """A caller's request for vectors of texts, of images or of both.

    Raises: InvalidRequest naming the field.
    """
    fields = Fields(body)
    texts = fields.items("texts")
    for position, text in enumerate(texts or ()):
        if type(text) is not str:
            raise invalid(f"texts[{position}]", "a string was expected", code="invalid_type")
    if not texts and not any(fields.rest.get(name) for name in ("images", "inputs")):
        raise invalid("texts", "is required, or images or inputs", code="missing_required_parameter")
    kind = fields.need_text("input_type")
    purpose = _PURPOSES.get(kind)
    kinds = fields.items("embedding_types")
    model, dimensions, extra = (
        fields.text("model") or "",
        fields.whole("output_dimension", 1),
        fields.unknown(),
    )
    if purpose is None:
        extra["input_type"] = kind  # image, and what came after this was written
    if kinds and kinds != ["float"]:
        for position, one in enumerate(kinds):
            if one not in _KINDS:
                raise invalid(f"embedding_types[{position}]", f"must be one of {', '.join(_KINDS)}")
        extra["embedding_types"] = kinds
    return EmbeddingRequest(model, texts or (), dimensions, extra=extra, dialect=NAME, input_type=purpose)


def decode_embeddings(body: Mapping[str, Any], headers: Mapping[str, str]) -> Embeddings:
    """The vectors, in the order of the inputs: floats, where there are any.

    Of several forms the others stay in ``extra["embeddings"]``; a form other than floats is named in
    ``extra["embedding_type"]``.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no reply.
    """
    found = body.get("embeddings")
    forms: dict[str, Any] = dict(found) if isinstance(found, dict) else {"float": found}
    kind = next((kind for kind in _KINDS if isinstance(forms.get(kind), list)), None)
    if kind is None:
        if body.get("message") or says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no embeddings", code="no_embeddings", phase="body")
    vectors = tuple([_vector(item, place) for place, item in enumerate(forms.pop(kind))])
    extra = dict(leftover(body, _BODY))
    if kind not in ("float", "base64"):
        extra["embedding_type"] = kind
    if rest := {name: value for name, value in forms.items() if value}:
        extra["embeddings"] = rest
    low = headers_of_interest(headers)
    return Embeddings(
        vectors=vectors,
        usage=usage_of_meta(body),
        id=body["id"] if isinstance(body.get("id"), str) else "",
        request_id=request_id_in(low),
        headers=low,
        extra=extra,
    )


def encode_embeddings(embeddings: Embeddings, request: EmbeddingRequest | None = None) -> dict[str, Any]:
    """The JSON body of a reply; floats, and base64 of little-endian 32-bit floats where `request` asks."""
    asked = (request.extra.get("embedding_types") if request is not None else None) or ["float"]
    kind = embeddings.extra.get("embedding_type")
    forms: dict[str, Any] = {}
    if kind in _KINDS:
        forms[kind] = [list(vector) for vector in embeddings.vectors]
    else:
        if "float" in asked or "base64" not in asked:
            forms["float"] = [list(vector) for vector in embeddings.vectors]
        if "base64" in asked:
            forms["base64"] = [_base64(vector) for vector in embeddings.vectors]
    more = embeddings.extra.get("embeddings")
    if isinstance(more, Mapping):
        forms.update({name: value for name, value in more.items() if name in _KINDS and name not in forms})
    tokens = 0 if embeddings.usage is None else embeddings.usage.input_tokens
    meta = embeddings.extra.get("meta")
    own = {name: embeddings.extra[name] for name in _SHOWN if name in embeddings.extra}
    if request is not None and request.inputs:
        own.setdefault("texts", [item for item in request.inputs if isinstance(item, str)])
    return {
        "id": embeddings.id,
        **own,
        "embeddings": forms,
        "meta": meta or {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
        "response_type": "embeddings_by_type",
    }


def usage_of_meta(body: Mapping[str, Any]) -> Usage | None:
    """The tokens that ``meta`` says are billed; what is billed otherwise stays in ``extra["meta"]``."""
    meta = body.get("meta")
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    tokens = count_of(billed.get("input_tokens")) if isinstance(billed, dict) else None
    return None if tokens is None else Usage(tokens)


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


def _bad(position: int, problem: str) -> BadReply:
    return BadReply(f"vector {position} of the embeddings {problem}", code="bad_embeddings", phase="body")
