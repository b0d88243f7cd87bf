"""Ollama's own chat, the client's side: ``ollama.chat``; with it its vectors and its list of models.

Ollama speaks ``openai.chat`` too. Its own wire says more: options of the model and of its loading
(``options``, ``keep_alive``), thinking, and the durations of every reply. It streams JSON lines,
``application/x-ndjson``.

Sources: https://docs.ollama.com/api, Ollama's ``docs/api.md`` and ``api/types.go``; recorded traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.ollama_chat.embeddings import (
    decode_embeddings,
    decode_models,
    encode_embedding_request,
)
from llmpipe.dialects.ollama_chat.errors import decode_error
from llmpipe.dialects.ollama_chat.messages import NAME
from llmpipe.dialects.ollama_chat.reply import decode_reply
from llmpipe.dialects.ollama_chat.request import encode_request
from llmpipe.dialects.ollama_chat.stream import ChatDecoder
from llmpipe.dialects.whole import WholeReplyDecoder, is_json
from llmpipe.errors import LLMError, Unsupported
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, ModelInfo, Request

__all__ = ("OllamaChat",)


@frozen
class OllamaChat:
    """The dialect ``ollama.chat``. The server's side raises Unsupported.

    Attributes:
        max_event_bytes: the bound of one line of a stream.
    """

    max_event_bytes: int = 8 * 1024 * 1024

    name: ClassVar[str] = NAME

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /api/chat``. See `request.encode_request`."""
        return encode_request(request, Losses() if losses is None else losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "application/x-ndjson") -> StreamDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return ChatDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. Never raises."""
        return decode_error(status, headers, body, now=now)

    def encode_embedding_request(
        self, request: EmbeddingRequest, losses: Losses | None = None
    ) -> dict[str, Any]:
        """The JSON body for ``POST /api/embed``. Raises Unsupported for token ids."""
        return encode_embedding_request(request, Losses() if losses is None else losses)

    def decode_embeddings(self, body: dict[str, Any], headers: Mapping[str, str]) -> Embeddings:
        """The vectors in a provider's JSON body. Raises LLMError as `decode_reply` does."""
        return decode_embeddings(body, headers)

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]:
        """The models in the body of ``GET /api/tags``."""
        return decode_models(body)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """Raises Unsupported."""
        raise _no_server()

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """Raises Unsupported."""
        raise _no_server()

    def encoder(self, request: Request) -> StreamEncoder:
        """Raises Unsupported."""
        raise _no_server()

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Raises Unsupported."""
        raise _no_server()


def _no_server() -> Unsupported:
    return Unsupported(
        f"dialect {NAME!r} is for calling Ollama; it cannot serve callers who speak it: use openai.chat",
        phase="validate",
        rescue="none",
    )
