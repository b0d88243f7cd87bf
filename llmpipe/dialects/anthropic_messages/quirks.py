"""What one server of Anthropic's messages does in its own way, as data."""

from __future__ import annotations

from attrs import frozen

__all__ = ("Quirks",)


@frozen
class Quirks:
    """How one server differs from Anthropic's own.

    Attributes:
        default_max_tokens: sent where a request names no `max_tokens`, which this wire requires;
            a thinking budget is added to it.
        system_in_messages: whether a system message in the middle of a conversation is sent where
            it stands. Models before Claude Opus 4.8 refuse that; False moves such messages into
            the system prompt, as Anthropic's own OpenAI-compatible endpoint does.
        replay_unsigned_thinking: whether reasoning without a signature is sent back as a thinking
            block. Anthropic refuses that, so it is left out; some compatible servers sign
            nothing and want it back.
        json_schema: whether answers can be held to a schema; False for older models and for most
            compatible servers, which are asked for it in the system prompt.
        max_temperature: the highest, 1 here and 2 elsewhere; a higher one is lowered to it. None: any.
        max_event_bytes: the bound of one event of a stream.
    """

    default_max_tokens: int = 4096
    system_in_messages: bool = True
    replay_unsigned_thinking: bool = False
    json_schema: bool = True
    max_temperature: float | None = 1.0
    max_event_bytes: int = 8 * 1024 * 1024
