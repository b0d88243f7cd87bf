"""Google's generateContent, both directions: ``gemini.generate``.

The same wire is spoken by the Gemini API and by Vertex AI, which differ in their addresses, in how
they are told who calls, and in the few ways that `Quirks` names. Model and streaming are in the
address, not in the body. Below the Gemini API's ``…/v1beta`` and Vertex AI's
``…/v1/projects/{project}/locations/{location}/publishers/google`` that is:

* a reply: ``/models/{model}:generateContent``
* a stream: ``/models/{model}:streamGenerateContent?alt=sse``; without ``alt`` it is a JSON array
* tokens: ``/models/{model}:countTokens``
* vectors: ``/models/{model}:batchEmbedContents``; at Vertex AI ``:predict``, or ``:embedContent``
* the list of models: ``/models?pageSize=1000``; Vertex AI has it without a project, in ``v1beta1``

Sources: https://ai.google.dev/api; Vertex AI's API reference; the types of Google's Gen AI SDK for
Python; recorded traffic of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.gemini_generate import count, embeddings
from llmpipe.dialects.gemini_generate.encoder import GenerateEncoder
from llmpipe.dialects.gemini_generate.errors import decode_error, encode_error
from llmpipe.dialects.gemini_generate.models import decode_models, encode_models
from llmpipe.dialects.gemini_generate.quirks import Quirks
from llmpipe.dialects.gemini_generate.reply import decode_reply
from llmpipe.dialects.gemini_generate.request import encode_request
from llmpipe.dialects.gemini_generate.server import decode_request, encode_reply
from llmpipe.dialects.gemini_generate.stream import ArrayDecoder, EventDecoder
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.whole import is_json
from llmpipe.errors import LLMError
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, ModelInfo, Request

__all__ = ("GeminiGenerate",)


@frozen
class GeminiGenerate(Quirks):
    """The dialect ``gemini.generate``; its fields are the quirks of one server: see `Quirks`."""

    name: ClassVar[str] = "gemini.generate"

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body, without model and stream. See `request.encode_request`."""
        return encode_request(request, self, losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> StreamDecoder:
        """A fresh decoder for one stream: of events, or one JSON array (without ``alt=sse``)."""
        if is_json(content_type):
            return ArrayDecoder(self.max_event_bytes)
        return EventDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. Never raises.

        Args: now is the Unix time for retry hints where the response has no ``Date``.
        """
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's body; the address has the model, and whether to stream. See `server.decode_request`."""
        return decode_request(body)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply. See `server.encode_reply`."""
        return encode_reply(completion)

    def encoder(self, request: Request) -> StreamEncoder:
        """A fresh encoder for one stream of events, which names the request's model unless a `Start` does."""
        return GenerateEncoder(request.model)

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error."""
        return encode_error(error)

    def encode_embedding_request(
        self, request: EmbeddingRequest, losses: Losses | None = None
    ) -> dict[str, Any]:
        """The JSON body of a request for vectors, for the method that `embeddings_api` names."""
        return embeddings.encode_embedding_request(request, self, losses)

    def decode_embeddings(self, body: dict[str, Any], headers: Mapping[str, str]) -> Embeddings:
        """The vectors in a reply of any of the three methods. Raises LLMError as `decode_reply` does."""
        return embeddings.decode_embeddings(body, headers)

    def decode_embedding_request(self, body: dict[str, Any]) -> EmbeddingRequest:
        """A caller's request for vectors. Raises InvalidRequest naming the field."""
        return embeddings.decode_embedding_request(body)

    def encode_embeddings(self, found: Embeddings, request: EmbeddingRequest | None = None) -> dict[str, Any]:
        """The JSON body of a reply with vectors, in the form of the method that `request` came by."""
        return embeddings.encode_embeddings(found, request)

    def encode_count_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``:countTokens``."""
        body = self.encode_request(request, losses)
        return count.encode_count_request(body, request.model, whole=self.count_whole)

    def decode_count(self, body: Mapping[str, Any]) -> int:
        """The tokens in a reply to ``:countTokens``. Raises BadReply where there are none."""
        return count.decode_count(body)

    def decode_count_request(self, body: dict[str, Any]) -> Request:
        """A caller's body of ``:countTokens``. Raises InvalidRequest naming the field."""
        return decode_request(count.unwrapped(body))

    def encode_count(self, tokens: int) -> dict[str, Any]:
        """The JSON body of a count."""
        return count.encode_count(tokens)

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]:
        """The models of one page of the list. Raises LLMError as `decode_reply` does."""
        return decode_models(body)

    def encode_models(self, models: Iterable[ModelInfo]) -> dict[str, Any]:
        """The JSON body of a list of models, all on one page."""
        return encode_models(models)
