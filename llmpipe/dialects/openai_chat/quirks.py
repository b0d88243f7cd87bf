"""What one server of OpenAI's chat format does in its own way, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

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
            nothing else, so a budget of tokens becomes one), ``reasoning`` (OpenRouter's object),
            ``thinking`` (DeepSeek and Z.AI: an effort, and an object that turns it on and off), or
            ``auto``: the first where it says all, else the second.
        efforts: those that the server knows; another becomes the nearest of them. () for all.
        reasoning_field: the field in which plain reasoning is sent back; None leaves all reasoning
            out, for servers that refuse it (OpenAI). ``reasoning_details`` (OpenRouter, Vercel)
            also takes the proofs of the providers behind it; ``thinking`` (Mistral) is a part of the content.
        reasoning_moved: whether reasoning that came in another field goes into that one too, for servers
            that refuse or overlook the others (Cerebras, DeepSeek); else it goes back where it was.
        empty_content: what stands for no content beside tool calls; ``""`` for servers that
            refuse null.
        tool_id_chars: 9 for Mistral, which takes only ids of so many letters and digits.
        max_tool_id: characters of a tool call's id, 40 for OpenAI; a longer one is hashed.
        tool_media: whether a tool's message may hold pictures and files; False (OpenAI takes text only)
            shows them in a user message after the tools'.
        file_urls: whether a file may be an address; False for OpenAI, which fetches pictures only.
        media: how sound and files are said: as OpenAI does (``input_audio`` with a format, ``file``), or as
            Mistral does (``input_audio`` that is the sound itself, ``document_url``).
        cache_control: whether parts, tools and messages may be marked to be cached (OpenRouter, LiteLLM,
            Databricks, Vercel); False for OpenAI, which caches unasked.
        top_k: whether the server has `top_k`, which OpenAI has not.
        json: which of ``json_object`` and ``json_schema`` the server has: ``object`` for DeepSeek, ``schema``
            for Perplexity. What it lacks is asked for in the system prompt.
        prefill: how an assistant's message at the end is marked to be continued: ``plain`` (not at all),
            ``prefix`` (a field of that message: Mistral, DeepSeek), ``continue`` (of the request: vLLM).
        max_stop: how many stop sequences it takes, 4 for OpenAI.
        lacks: fields that the server refuses, by their names on the wire (``seed``, ``logprobs``), and
            ``messages.name``, ``tools.strict``, and the role ``messages.developer``, which becomes
            system's. Hints are left out; a request that needs another is refused.
        input_type_field: the field of an embedding request for what the vectors are for: ``input_type``
            (Voyage, NVIDIA), ``task`` (Jina). `input_types` has its words where they are not ours.
        max_event_bytes: bound of one event of a stream.
    """

    max_tokens_field: str = "max_tokens"
    seed_field: str = "seed"
    system_role: str = "system"
    stream_usage: bool = True
    reasoning_param: Literal["auto", "reasoning_effort", "reasoning", "thinking"] = "auto"
    efforts: tuple[str, ...] = field(default=(), converter=tuple)
    reasoning_field: Literal["reasoning_content", "reasoning", "reasoning_details", "thinking"] | None = (
        "reasoning_content"
    )
    reasoning_moved: bool = False
    empty_content: Literal[""] | None = None
    tool_id_chars: int | None = None
    max_tool_id: int | None = None
    tool_media: bool = True
    file_urls: bool = True
    media: Literal["openai", "mistral"] = "openai"
    cache_control: bool = True
    top_k: bool = False
    json: Literal["both", "object", "schema", "none"] = "both"
    prefill: Literal["plain", "prefix", "continue"] = "plain"
    max_stop: int | None = None
    lacks: tuple[str, ...] = field(default=(), converter=tuple)
    input_type_field: str | None = None
    input_types: Mapping[str, str] = field(factory=dict, hash=False)
    max_event_bytes: int = 8 * 1024 * 1024
