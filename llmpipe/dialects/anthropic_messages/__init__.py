"""Anthropic's Messages API, both directions: ``anthropic.messages``.

The same wire is spoken by Anthropic itself, by Google Vertex AI and Azure AI Foundry (which
differ in their addresses, keys and error bodies only) and by many compatible servers.

What the wire cannot say, and what happens to it, is told by `request.encode_request`; what
changes its shape without changing its meaning on the way through us, by `server.decode_request`.

Sources: https://platform.claude.com/docs/en/api/messages, …/build-with-claude/streaming,
…/api/errors, …/api/versioning; the types of Anthropic's Python SDK.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.anthropic_messages import count_tokens, errors, models, reply, request, server
from llmpipe.dialects.anthropic_messages.encoder import MessageEncoder
from llmpipe.dialects.anthropic_messages.stream import MessageDecoder
from llmpipe.errors import LLMError
from llmpipe.types import Completion, ModelInfo, Request

__all__ = ("AnthropicMessages",)


@frozen
class AnthropicMessages:
    """The wire format of Anthropic's Messages API.

    Args:
        default_max_tokens: sent where a request names no `max_tokens`, which this wire requires;
            a thinking budget is added to it.
        system_in_messages: whether a system message in the middle of a conversation is sent where
            it stands. Models before Claude Opus 4.8 refuse that; False moves such messages into
            the system prompt, as Anthropic's own OpenAI-compatible endpoint does.
        replay_unsigned_thinking: whether reasoning without a signature is sent back as a thinking
            block. Anthropic refuses that, so it is left out; some compatible servers sign
            nothing and want it back.
    """

    default_max_tokens: int = 4096
    system_in_messages: bool = True
    replay_unsigned_thinking: bool = False

    @property
    def name(self) -> str:
        """``"anthropic.messages"``."""
        return "anthropic.messages"

    def encode_request(self, request_: Request) -> dict[str, Any]:
        """The JSON body for ``POST /v1/messages``. See `request.encode_request`."""
        return request.encode_request(
            request_,
            default_max_tokens=self.default_max_tokens,
            system_in_messages=self.system_in_messages,
            unsigned_thinking=self.replay_unsigned_thinking,
        )

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return reply.decode_reply(body, headers)

    def decoder(self, content_type: str = "text/event-stream") -> StreamDecoder:
        """A fresh decoder for one stream of server-sent events; there is no other framing."""
        return MessageDecoder()

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The classified error of a reply that is not a success. See `errors.decode_error`."""
        return errors.decode_error(status, headers, body)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """A caller's body of ``POST /v1/messages``. See `server.decode_request`."""
        return server.decode_request(body)

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The JSON body of a full reply. See `server.encode_reply`."""
        return server.encode_reply(completion)

    def encoder(self, request: Request) -> StreamEncoder:
        """A fresh encoder for one stream, which names the request's model unless a `Start` names one."""
        return MessageEncoder(request.model)

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Status, headers and JSON body of an error. See `errors.encode_error`."""
        return errors.encode_error(error)

    def encode_count_tokens(self, request_: Request) -> dict[str, Any]:
        """The JSON body for ``POST /v1/messages/count_tokens``."""
        return count_tokens.encode_count_tokens(self.encode_request(request_))

    def decode_count_tokens(self, body: Mapping[str, Any]) -> int:
        """The input tokens that a reply to ``count_tokens`` tells. Raises BadReply where it does not."""
        return count_tokens.decode_count_tokens(body)

    def decode_models(self, body: Mapping[str, Any]) -> tuple[ModelInfo, ...]:
        """The models of one page of ``GET /v1/models``."""
        return models.decode_models(body)

    def encode_models(self, listed: Iterable[ModelInfo]) -> dict[str, Any]:
        """The server's side of ``GET /v1/models``: all of them on one page."""
        return models.encode_models(listed)
