"""Wire formats as pure functions, both directions, found by name.

A dialect does no I/O. Its client side encodes requests and decodes replies, streams and errors;
its server side does the opposite. The provider adapter, the gateway endpoint and the test
simulator are three users of the same module. One that has only the client's side raises Unsupported
from the other.

Some have more than chat, in methods of these names: `encode_embedding_request`, `decode_embeddings`,
`decode_embedding_request`, `encode_embeddings`; `encode_rerank_request`, `decode_ranking`,
`decode_rerank_request`, `encode_ranking`; `encode_count_request`, `decode_count`; `decode_models`,
`encode_models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from llmpipe.dialects.losses import Losses
from llmpipe.errors import ConfigError, LLMError
from llmpipe.types import Completion, Event, Request

__all__ = ("Dialect", "StreamDecoder", "StreamEncoder", "get", "names")


class StreamDecoder(Protocol):
    """One stream's bytes to events, however the bytes are cut."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises: LLMError for an error the provider reports inside the stream, BadReply for bytes
        that are not the protocol. Events completed before the failing one are always returned
        first; the error then comes from the next `feed` or from `close`.
        """
        ...

    def close(self) -> list[Event]:
        """The last events, at the end of the bytes.

        Raises: StreamBroken if the protocol's own end was not seen.
        """
        ...

    @property
    def finished(self) -> bool:
        """Whether the protocol's own end was seen, so that no more bytes are needed."""
        ...


class StreamEncoder(Protocol):
    """Events to one stream's bytes, as the server side of a dialect sends them."""

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        ...

    def close(self) -> bytes:
        """The protocol's own end."""
        ...

    def fail(self, error: LLMError) -> bytes:
        """The protocol's error inside a stream; nothing may follow it."""
        ...


@runtime_checkable
class Dialect(Protocol):
    """A wire format."""

    @property
    def name(self) -> str:
        """Stable name, such as ``"openai.chat"``."""
        ...

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body a provider expects; what is dropped or emulated is told to `losses`.

        Raises: Unsupported, with the field's path, for what the wire cannot say and must not leave out.
        """
        ...

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a provider's JSON body.

        Raises: LLMError where a 200 carries an error, BadReply where it is no reply at all.
        """
        ...

    def decoder(self, content_type: str = "text/event-stream") -> StreamDecoder:
        """A fresh decoder for one stream."""
        ...

    def decode_error(self, status: int, headers: Mapping[str, str], body: bytes) -> LLMError:
        """The classified error of a reply that is not a success. Never raises."""
        ...

    def decode_request(self, body: dict[str, Any]) -> Request:
        """The server's side: a caller's JSON body. Raises InvalidRequest naming the field."""
        ...

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """The server's side: the JSON body of a full reply."""
        ...

    def encoder(self, request: Request) -> StreamEncoder:
        """The server's side: a fresh encoder for one stream."""
        ...

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """The server's side: status, headers and JSON body of an error."""
        ...


_BUILT_IN = {
    "anthropic.messages": "llmpipe.dialects.anthropic_messages:AnthropicMessages",
    "bedrock.converse": "llmpipe.dialects.bedrock_converse:BedrockConverse",
    "cohere.chat": "llmpipe.dialects.cohere_chat:CohereChat",
    "gemini.generate": "llmpipe.dialects.gemini_generate:GeminiGenerate",
    "ollama.chat": "llmpipe.dialects.ollama_chat:OllamaChat",
    "openai.chat": "llmpipe.dialects.openai_chat:OpenAIChat",
    "openai.responses": "llmpipe.dialects.openai_responses:OpenAIResponses",
}
_cache: dict[str, Dialect] = {}


def names() -> list[str]:
    """All dialects that `get` knows: built in, and of entry-point group ``llmpipe.dialects``."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group="llmpipe.dialects"))})


def get(name: str) -> Dialect:
    """The dialect of that name.

    Raises: ConfigError that lists the known ones.
    """
    found = _cache.get(name)
    if found is None:
        if name in _BUILT_IN:
            module, _, attribute = _BUILT_IN[name].partition(":")
            found = getattr(import_module(module), attribute)()
        else:
            points = [p for p in entry_points(group="llmpipe.dialects") if p.name == name]
            if not points:
                raise ConfigError(f"unknown dialect {name!r}; known: {', '.join(names())}")
            found = points[0].load()()
        _cache[name] = found
    return found
