"""OpenAI's chat completions, and what the many servers that speak them have made of it.

Sources: OpenAI's API reference ("Chat", "Embeddings", "Models", "Error codes", "Rate limits"),
the documentation of the servers named in comments, and recorded traffic of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat.embeddings import (
    decode_embedding_request,
    decode_embeddings,
    encode_embedding_request,
    encode_embeddings,
)
from llmpipe.dialects.openai_chat.encoder import ChatEncoder
from llmpipe.dialects.openai_chat.errors import decode_error, encode_error
from llmpipe.dialects.openai_chat.models import decode_models, encode_models
from llmpipe.dialects.openai_chat.quirks import Quirks
from llmpipe.dialects.openai_chat.reply import decode_reply
from llmpipe.dialects.openai_chat.request import encode_request
from llmpipe.dialects.openai_chat.rerank import decode_ranking, encode_rerank_request
from llmpipe.dialects.openai_chat.server import decode_request, encode_reply
from llmpipe.dialects.openai_chat.stream import ChatDecoder
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

__all__ = ("OpenAIChat",)


@frozen
class OpenAIChat(Quirks):
    """The dialect ``openai.chat``; its fields are the quirks of one server: see `Quirks`."""

    name: ClassVar[str] = "openai.chat"

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body a provider expects. See `request` for what becomes of each field."""
        return encode_request(request, self, losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a provider's JSON body. Raises LLMError where a 200 carries an error."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> ChatDecoder | WholeReplyDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return ChatDecoder(self)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. Never raises.

        Args: now is the Unix time for retry hints where the response has no ``Date``.
        """
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's JSON body. Raises InvalidRequest naming the field."""
        return decode_request(body, self)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply."""
        return encode_reply(completion, self)

    def encoder(self, request: Request) -> ChatEncoder:
        """A fresh encoder for one stream to the caller who sent `request`."""
        return ChatEncoder(request, self)

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error."""
        return encode_error(error)

    def encode_embedding_request(
        self, request: EmbeddingRequest, losses: Losses | None = None
    ) -> dict[str, Any]:
        """The JSON body of a request for vectors."""
        return encode_embedding_request(request, self, losses)

    def decode_embeddings(self, body: dict[str, Any], headers: Mapping[str, str]) -> Embeddings:
        """The vectors in a provider's JSON body. Raises LLMError as `decode_reply` does."""
        return decode_embeddings(body, headers)

    def decode_embedding_request(self, body: dict[str, Any]) -> EmbeddingRequest:
        """A caller's request for vectors. Raises InvalidRequest naming the field."""
        return decode_embedding_request(body)

    def encode_embeddings(
        self, embeddings: Embeddings, request: EmbeddingRequest | None = None
    ) -> dict[str, Any]:
        """The JSON body of a reply with vectors, as base64 where `request` asked for that."""
        return encode_embeddings(embeddings, request)

    def encode_rerank_request(self, request: RerankRequest, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body of a request to rank documents, for servers that have taken up Cohere's format."""
        return encode_rerank_request(request, losses)

    def decode_ranking(self, body: dict[str, Any], headers: Mapping[str, str]) -> Ranking:
        """The ranking in a provider's JSON body. Raises LLMError as `decode_reply` does."""
        return decode_ranking(body, headers)

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]:
        """The models in a provider's list. Raises LLMError as `decode_reply` does."""
        return decode_models(body)

    def encode_models(self, models: tuple[ModelInfo, ...]) -> dict[str, Any]:
        """The JSON body of a list of models."""
        return encode_models(models)
