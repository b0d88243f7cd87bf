"""Which address of the simulator speaks which dialect, and what is asked there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import orjson
from aiohttp import web
from attrs import evolve, frozen

from llmpipe import dialects
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import AnyRequest, Request

__all__ = ("DOORS", "Door", "body_of", "key_of", "listing_dialect", "open_door")

Kind: TypeAlias = Literal["chat", "embed", "rerank", "count"]

DOORS = (
    "/{at:(.*/)?}chat/completions",
    "/{at:(.*/)?}responses",
    "/{at:(.*/)?}responses/input_tokens",
    "/{at:(.*/)?}messages",
    "/{at:(.*/)?}messages/count_tokens",
    "/{at:(.*/)?}embeddings",
    "/{at:(.*/)?}v2/chat",
    "/{at:(.*/)?}v2/embed",
    "/{at:(.*/)?}rerank",
    "/{at:(.*/)?}models/{model:[^/:]+}:{verb:[A-Za-z]+}",
)
"""Paths of requests. What stands before the last part of a path says nothing, as with providers' own
prefixes (``/v1``, ``/openai/deployments/x``, ``/v1/projects/p/locations/l/publishers/google``)."""

_BY_END: dict[str, tuple[str, Kind]] = {
    "chat/completions": ("openai.chat", "chat"),
    "responses": ("openai.responses", "chat"),
    "responses/input_tokens": ("openai.responses", "count"),
    "messages": ("anthropic.messages", "chat"),
    "messages/count_tokens": ("anthropic.messages", "count"),
    "embeddings": ("openai.chat", "embed"),
    "v2/chat": ("cohere.chat", "chat"),
    "v2/embed": ("cohere.chat", "embed"),
    "rerank": ("cohere.chat", "rerank"),
}
_BY_VERB: dict[str, tuple[str, Kind, bool]] = {
    "generateContent": ("gemini.generate", "chat", False),
    "streamGenerateContent": ("gemini.generate", "chat", True),
    "countTokens": ("gemini.generate", "count", False),
    "batchEmbedContents": ("gemini.generate", "embed", False),
    "predict": ("gemini.generate", "embed", False),
    "rawPredict": ("anthropic.messages", "chat", False),
    "streamRawPredict": ("anthropic.messages", "chat", True),
}
_READERS: dict[Kind, str] = {
    "chat": "decode_request",
    "embed": "decode_embedding_request",
    "rerank": "decode_rerank_request",
    "count": "decode_count_request",
}


@frozen
class Door:
    """What is asked, in which dialect, with what the address says of it."""

    dialect: Any
    kind: Kind
    model: str = ""
    stream: bool | None = None

    def read(self, body: dict[str, Any]) -> AnyRequest:
        """The request in a body, with the model and the way of the reply that the address names.

        Raises: InvalidRequest; Unsupported where the dialect has no such thing.
        """
        if self.model and self.dialect.name != "gemini.generate":
            body = {"model": self.model, **body}
        read: Callable[[dict[str, Any]], AnyRequest] | None = getattr(self.dialect, _READERS[self.kind], None)
        if read is None and self.kind == "count":
            read = self.dialect.decode_request
        if read is None:
            raise Unsupported(f"{self.dialect.name} has no such call")
        request = read(body)
        if self.model:
            request = evolve(request, model=self.model)
        if self.stream is not None and isinstance(request, Request):
            request = evolve(request, stream=self.stream)
        return request

    def counted(self, tokens: int) -> dict[str, Any]:
        """The reply to a count."""
        encode = getattr(self.dialect, "encode_count", None)
        counted: dict[str, Any] = {"input_tokens": tokens} if encode is None else encode(tokens)
        return counted


def open_door(http: web.Request) -> Door:
    """The door that a request came through. Raises InvalidRequest for a verb that nobody knows."""
    model, verb = http.match_info.get("model", ""), http.match_info.get("verb")
    if verb is None:
        path = http.path.lstrip("/")
        at = max((end for end in _BY_END if path == end or path.endswith(f"/{end}")), key=len)
        dialect, kind = _BY_END[at]
        deployment = path.rpartition("deployments/")[2].partition("/")[0] if "deployments/" in path else ""
        return Door(dialects.get(dialect), kind, deployment)
    if verb not in _BY_VERB:
        raise InvalidRequest(f"there is no method {verb!r}", sent=False)
    dialect, kind, stream = _BY_VERB[verb]
    if model == "count-tokens":  # Anthropic's, on Vertex AI
        return Door(dialects.get(dialect), "count")
    found: Any = dialects.get(dialect)
    if verb == "predict":
        found = evolve(found, embeddings_api="predict")
    return Door(found, kind, model, stream)


def listing_dialect(http: web.Request) -> Any:
    """The dialect of whoever asks for a list of models, as far as the request shows it."""
    if "anthropic-version" in http.headers or "x-api-key" in http.headers:
        return dialects.get("anthropic.messages")
    if "x-goog-api-key" in http.headers or "v1beta" in http.path:
        return dialects.get("gemini.generate")
    cohere = "page_size" in http.query or "cohere" in http.headers.get("X-Fern-SDK-Name", "")
    return dialects.get("cohere.chat" if cohere else "openai.chat")


def key_of(http: web.Request) -> str:
    """The key in a request, wherever its dialect puts it."""
    for name in ("x-api-key", "api-key", "x-goog-api-key"):
        if name in http.headers:
            return http.headers[name]
    return http.headers.get("Authorization", "").removeprefix("Bearer ")


async def body_of(http: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises InvalidRequest."""
    try:
        body = orjson.loads(await http.read())
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body
