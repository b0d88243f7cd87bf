"""OpenAI's Responses API, both directions: ``openai.responses``.

The same wire is spoken by Azure, xAI, DeepSeek, OpenRouter, Amazon Bedrock, vLLM and others. A reply is a
list of items (messages, reasoning, calls), not one message; the parts of ours remember the item they came
from in `extra` (see `items`). What is kept where, and so what is sent back with the next turn, is told by
`messages` and `request`: nothing is kept unless asked for.

Sources: OpenAI's API reference ("Responses", "Streaming events"), its guides "Reasoning", "Conversation
state" and "Migrate to the Responses API", the types of its Python SDK, and recorded traffic of those servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat.models import decode_models, encode_models
from llmpipe.dialects.openai_responses.count import decode_count, encode_count
from llmpipe.dialects.openai_responses.encoder import ResponseEncoder
from llmpipe.dialects.openai_responses.errors import decode_error, encode_error
from llmpipe.dialects.openai_responses.quirks import Quirks
from llmpipe.dialects.openai_responses.reply import decode_reply
from llmpipe.dialects.openai_responses.request import encode_request
from llmpipe.dialects.openai_responses.server import decode_request, encode_reply
from llmpipe.dialects.openai_responses.stream import ResponseDecoder
from llmpipe.dialects.whole import WholeReplyDecoder, is_json
from llmpipe.errors import LLMError
from llmpipe.types import Completion, ModelInfo, Request

__all__ = ("OpenAIResponses",)


@frozen
class OpenAIResponses(Quirks):
    """The dialect ``openai.responses``; its fields are the quirks of one server: see `Quirks`."""

    name: ClassVar[str] = "openai.responses"

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v1/responses``. See `request.encode_request`."""
        return encode_request(request, self, Losses() if losses is None else losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a provider's JSON body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> ResponseDecoder | WholeReplyDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return ResponseDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. Never raises.

        Args: now is the Unix time for retry hints where the response has no ``Date``.
        """
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's JSON body. Raises InvalidRequest naming the field."""
        return decode_request(body)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply."""
        return encode_reply(completion)

    def encoder(self, request: Request) -> ResponseEncoder:
        """A fresh encoder for one stream, which names the request's model unless a `Start` names one."""
        return ResponseEncoder(request.model)

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error."""
        return encode_error(error)

    def encode_count_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v1/responses/input_tokens``."""
        return encode_count(self.encode_request(request, losses))

    def decode_count(self, body: dict[str, Any]) -> int:
        """The input tokens that a reply to it tells. Raises BadReply where it does not."""
        return decode_count(body)

    def encode_count(self, tokens: int) -> dict[str, Any]:
        """The JSON body of a count."""
        return {"object": "response.input_tokens", "input_tokens": tokens}

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]:
        """The models in a provider's list. Raises LLMError as `decode_reply` does."""
        return decode_models(body)

    def encode_models(self, models: tuple[ModelInfo, ...]) -> dict[str, Any]:
        """The JSON body of a list of models."""
        return encode_models(models)
