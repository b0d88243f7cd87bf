"""What one server of OpenAI's chat format does in its own way, as data."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ("Quirks",)


@frozen
class Quirks:
    """How one server differs from the others.

    Attributes:
        max_tokens_field: ``max_completion_tokens`` for OpenAI's reasoning models and Azure's.
        seed_field: ``random_seed`` for Mistral.
        system_role: ``developer`` for OpenAI's reasoning models.
        stream_usage: whether `stream_options` is sent with a stream; False for servers that refuse it.
        reasoning_param: how thinking is asked for: ``reasoning_effort`` (OpenAI: an effort and
            nothing else), ``reasoning`` (OpenRouter's object), or ``auto``: the first where it
            says all, else the second.
        reasoning_field: the field in which plain reasoning is sent back; None leaves all reasoning
            out, for servers that refuse it (OpenAI, Groq).
        empty_content: what stands for no content beside tool calls; ``""`` for servers that
            refuse null.
        tool_id_chars: 9 for Mistral, which takes only ids of so many letters and digits.
        max_event_bytes: bound of one event of a stream.
    """

    max_tokens_field: str = "max_tokens"
    seed_field: str = "seed"
    system_role: str = "system"
    stream_usage: bool = True
    reasoning_param: Literal["auto", "reasoning_effort", "reasoning"] = "auto"
    reasoning_field: Literal["reasoning_content", "reasoning", "reasoning_details"] | None = (
        "reasoning_content"
    )
    empty_content: Literal[""] | None = None
    tool_id_chars: int | None = None
    max_event_bytes: int = 8 * 1024 * 1024
