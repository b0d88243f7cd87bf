"""Cohere's chat, version 2, both directions: ``cohere.chat``; with it its vectors, rankings and models.

There is no counting of tokens: ``/v1/tokenize`` takes one text, and knows neither messages nor tools nor
what Cohere adds to a prompt.

Sources: the types of Cohere's Python SDK; https://docs.cohere.com/reference/errors; recorded traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.cohere_chat.embeddings import (
    decode_embedding_request,
    decode_embeddings,
    encode_embedding_request,
    encode_embeddings,
)
from llmpipe.dialects.cohere_chat.encoder import ChatEncoder
from llmpipe.dialects.cohere_chat.errors import decode_error, encode_error
from llmpipe.dialects.cohere_chat.models import decode_models, encode_models
from llmpipe.dialects.cohere_chat.parts import NAME
from llmpipe.dialects.cohere_chat.reply import decode_reply
from llmpipe.dialects.cohere_chat.request import encode_request
from llmpipe.dialects.cohere_chat.rerank import (
    decode_ranking,
    decode_rerank_request,
    encode_ranking,
    encode_rerank_request,
)
from llmpipe.dialects.cohere_chat.server import decode_request, encode_reply
from llmpipe.dialects.cohere_chat.stream import ChatDecoder
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.whole import WholeReplyDecoder, is_json
from llmpipe.errors import LLMError
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Embeddings,
    ModelInfo,
    Ranking,
    Request,
    RerankRequest,
)

__all__ = ("CohereChat",)


@frozen
class CohereChat:
    """The dialect ``cohere.chat``.

    Attributes:
        max_event_bytes: the bound of one event of a stream.
    """

    max_event_bytes: int = 8 * 1024 * 1024

    name: ClassVar[str] = NAME

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v2/chat``. See `request.encode_request`."""
        return encode_request(request, Losses() if losses is None else losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> StreamDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return ChatDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. See `errors.decode_error`."""
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's body of ``POST /v2/chat``. See `server.decode_request`."""
        return decode_request(body)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply. See `server.encode_reply`."""
        return encode_reply(completion)

    def encoder(self, request: Request) -> StreamEncoder:
        """A fresh encoder for one stream."""
        return ChatEncoder()

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error."""
        return encode_error(error)

    def encode_embedding_request(
        self, request: EmbeddingRequest, losses: Losses | None = None
    ) -> dict[str, Any]:
        """The JSON body for ``POST /v2/embed``. Raises Unsupported for token ids."""
        return encode_embedding_request(request, losses)

    def decode_embeddings(self, body: dict[str, Any], headers: Mapping[str, str]) -> Embeddings:
        """The vectors in a provider's JSON body. Raises LLMError as `decode_reply` does."""
        return decode_embeddings(body, headers)

    def decode_embedding_request(self, body: dict[str, Any]) -> EmbeddingRequest:
        """A caller's request for vectors. Raises InvalidRequest naming the field."""
        return decode_embedding_request(body)

    def encode_embeddings(
        self, embeddings: Embeddings, request: EmbeddingRequest | None = None
    ) -> dict[str, Any]:
        """The JSON body of a reply with vectors, in the forms that `request` asked for, floats by default."""
        return encode_embeddings(embeddings, request)

    def encode_rerank_request(self, request: RerankRequest, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v2/rerank``."""
        return encode_rerank_request(request, losses)

    def decode_ranking(self, body: dict[str, Any], headers: Mapping[str, str]) -> Ranking:
        """The ranking in a provider's JSON body. Raises LLMError as `decode_reply` does."""
        return decode_ranking(body, headers)

    def decode_rerank_request(self, body: dict[str, Any]) -> RerankRequest:
        """A caller's request to rank documents. Raises InvalidRequest naming the field."""
        return decode_rerank_request(body)

    def encode_ranking(self, ranking: Ranking, request: RerankRequest | None = None) -> dict[str, Any]:
        """The JSON body of a ranking."""
        return encode_ranking(ranking, request)

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]:
        """The models of one page of ``GET /v1/models``."""
        return decode_models(body)

    def encode_models(self, models: Iterable[ModelInfo]) -> dict[str, Any]:
        """The server's side of ``GET /v1/models``: all of them on one page."""
        return encode_models(models)
