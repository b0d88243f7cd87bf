"""Anthropic's Messages API, both directions: ``anthropic.messages``.

The same wire is spoken by Anthropic itself, by Google Vertex AI and Azure AI Foundry (which
differ in their addresses, keys and error bodies only) and by many compatible servers.

What the wire cannot say, and what happens to it, is told by `request`; what
changes its shape without changing its meaning on the way through us, by `server.decode_request`.

Sources: https://platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming,
…/api/errors; the types of Anthropic's Python SDK.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.anthropic_messages.count_tokens import decode_count, encode_count_request
from llmpipe.dialects.anthropic_messages.encoder import MessageEncoder
from llmpipe.dialects.anthropic_messages.errors import decode_error, encode_error
from llmpipe.dialects.anthropic_messages.models import decode_models, encode_models
from llmpipe.dialects.anthropic_messages.quirks import Quirks
from llmpipe.dialects.anthropic_messages.reply import decode_reply
from llmpipe.dialects.anthropic_messages.request import encode_request
from llmpipe.dialects.anthropic_messages.server import decode_request, encode_reply
from llmpipe.dialects.anthropic_messages.stream import MessageDecoder
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.whole import WholeReplyDecoder, is_json
from llmpipe.errors import LLMError
from llmpipe.types import Completion, ModelInfo, Request

__all__ = ("AnthropicMessages",)


@frozen
class AnthropicMessages(Quirks):
    """The dialect ``anthropic.messages``; its fields are the quirks of one server: see `Quirks`."""

    name: ClassVar[str] = "anthropic.messages"

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v1/messages``. See `request` for what becomes of each field."""
        return encode_request(request, self, losses)

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> StreamDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return MessageDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. See `errors.decode_error`."""
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's body of ``POST /v1/messages``. See `server.decode_request`."""
        return decode_request(body)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply. See `server.encode_reply`."""
        return encode_reply(completion)

    def encoder(self, request: Request) -> StreamEncoder:
        """A fresh encoder for one stream, which names the request's model unless a `Start` names one."""
        return MessageEncoder(request.model)

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error. See `errors.encode_error`."""
        return encode_error(error)

    def encode_count_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for ``POST /v1/messages/count_tokens``."""
        return encode_count_request(self.encode_request(request, losses))

    def decode_count(self, body: Mapping[str, Any]) -> int:
        """The input tokens that a reply to ``count_tokens`` tells. Raises BadReply where it does not."""
        return decode_count(body)

    def decode_models(self, body: object) -> tuple[ModelInfo, ...]:
        """The models of one page of ``GET /v1/models``."""
        return decode_models(body)

    def encode_models(self, listed: Iterable[ModelInfo]) -> dict[str, Any]:
        """The server's side of ``GET /v1/models``: all of them on one page."""
        return encode_models(listed)
