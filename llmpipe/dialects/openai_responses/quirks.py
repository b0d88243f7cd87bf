"""What one server of OpenAI's Responses does in its own way, as data."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ("Quirks",)


@frozen
class Quirks:
    """How one server differs from the others, and how much it may keep.

    Attributes:
        store: what is sent where a request does not say itself whether the provider keeps the reply.
            False, because OpenAI keeps it for 30 days otherwise, and a conversation that is sent whole
            each time needs nothing kept; None sends nothing, for servers that refuse the field.
        encrypted_reasoning: whether ``reasoning.encrypted_content`` is asked for when reasoning is wanted
            and nothing is kept, so that the next turn can give the thoughts back. False for servers that
            refuse the word.
        replay_plain_reasoning: whether reasoning that nobody signed is sent back as ``reasoning_text``.
            OpenAI takes its own encrypted thoughts only, so it is left out; open-weight servers (vLLM,
            DeepSeek) want it back.
        system_role: ``developer`` for servers that take no ``system``.
        instructions_field: whether the system messages at the start go into ``instructions``, which some
            servers insist on and others do not know, in place of the input.
        max_event_bytes: bound of one event of a stream.
    """

    store: bool | None = False
    encrypted_reasoning: bool = True
    replay_plain_reasoning: bool = False
    system_role: Literal["system", "developer"] = "system"
    instructions_field: bool = False
    max_event_bytes: int = 8 * 1024 * 1024
