"""Reasoning beside the content of a message, in the three fields that servers use for it.

``reasoning_content`` (DeepSeek, xAI, Z.AI, llama.cpp) and ``reasoning`` (Groq, Cerebras, vLLM,
Ollama, OpenRouter) are strings, and so is ``thinking`` where a server has it.
``reasoning_details`` (OpenRouter, Vercel, Snowflake) is a list of typed blocks, which hold
signatures and encrypted thoughts and must be sent back as they were; the
string, where it stands beside them, repeats their text.

A part remembers where it stood in `extra`, under the wire's own names: the fields of its block, and
``field`` for the string fields it stood in (joined by ``+``), where that is not
``reasoning_content`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from llmpipe.dialects.openai_chat.thoughts import once, origin_of
from llmpipe.types import Reasoning

__all__ = (
    "IN_CONTENT",
    "block_of",
    "decode_reasoning",
    "encode_reasoning",
    "is_block",
    "moved",
    "take_string",
)

_STRINGS = ("reasoning", "reasoning_content", "thinking")
_FIELDS = frozenset((*_STRINGS, "reasoning_details"))
IN_CONTENT = ("thinking", "reasoning")
"""Types of reasoning that stands in the list of the content: Mistral's and Databricks'."""


def decode_reasoning(message: dict[str, Any]) -> list[Reasoning]:
    """The reasoning of a message or of a stream's delta; its fields are taken out of `message`.

    A field that is no string, or repeats nothing that is known, is left where it is.
    """
    if _FIELDS.isdisjoint(message):
        return []
    origin, text = take_string(message)
    details = message.get("reasoning_details")
    if not isinstance(details, list) or not all(isinstance(item, dict) for item in details):
        details = []
    elif details:
        del message["reasoning_details"]
    if not details:
        return (
            [Reasoning(text, extra={} if origin == "reasoning_content" else {"field": origin})]
            if text
            else []
        )
    parts = [block_of(item) for item in details]
    visible = "".join(part.text for part in parts)
    if not text:
        return parts
    if visible == text:  # the string repeats the blocks: one part each, and each adds to it again
        return [evolve(part, extra={**part.extra, "field": origin}) if part.text else part for part in parts]
    if not visible:
        return [Reasoning(text, extra={"field": origin}), *parts]
    return [Reasoning(text, extra={"field": origin, "reasoning_details": details})]


def encode_reasoning(parts: Iterable[Reasoning], field: str, *, lossless: bool = False) -> dict[str, Any]:
    """The fields of a message that hold `parts`; those without an origin go into `field`.

    Args: with `lossless`, a part with a signature or encrypted thoughts becomes a block even where
        `field` is a string; without it that part is proof for another provider, and left out.
    """
    strings: dict[str, list[str]] = {}
    details: list[dict[str, Any]] = []
    for part in parts:
        origin = part.extra.get("field")
        only_block = origin is None and (is_block(part) or field == "reasoning_details")
        if "reasoning_details" in part.extra:
            details.extend(part.extra["reasoning_details"])
        elif only_block or is_block(part) or (lossless and (part.signature or part.encrypted)):
            details.append(_encode_block(part))
        if part.text and not only_block:
            for name in (origin or field).split("+"):
                strings.setdefault(name, []).append(part.text)
    fields: dict[str, Any] = {name: "".join(texts) for name, texts in strings.items()}
    if details:
        fields["reasoning_details"] = details
    return fields


def moved(part: Reasoning, field: str) -> Reasoning | None:
    """`part`, wherever it came from, for a server that has it in `field` only; None for what has no text.

    A field of ``reasoning_details`` takes all there is.
    """
    if field == "reasoning_details" or (field == "thinking" and part.extra.get("type") == "thinking"):
        return part
    if not part.text:
        return None
    return Reasoning(part.text, extra={"type": "thinking"} if field == "thinking" else {})


def take_string(message: dict[str, Any]) -> tuple[str, str]:
    """Origin and text of the string field, taken out of `message`; ``("", "")`` without one.

    Some clients and servers send both fields alike, which is one text; where they differ, the
    other stays.
    """
    origin = text = ""
    if _FIELDS.isdisjoint(message):
        return origin, text
    for name in _STRINGS:
        value = message.get(name)
        if not isinstance(value, str):
            if value is None:
                message.pop(name, None)
        elif value in ("", text):
            del message[name]
            origin = f"{origin}+{name}" if value else origin
        elif not text:
            origin, text = name, message.pop(name)
    return origin, text


def block_of(item: Mapping[str, Any]) -> Reasoning:
    """One block of ``reasoning_details``."""
    extra = {key: value for key, value in item.items() if value is not None and value != ""}
    if isinstance(form := extra.get("format"), str):
        extra["format"] = once(form)
    text = extra.pop("text", None)
    if not isinstance(text, str):
        text = extra.pop("summary", None)
    signature, encrypted = extra.pop("signature", None), extra.pop("data", None)
    signature = signature if isinstance(signature, str) else None
    encrypted = encrypted if isinstance(encrypted, str) else None
    if signature is None and encrypted is None:
        return Reasoning(text if isinstance(text, str) else "", extra=extra)
    origin = origin_of(extra)
    if signature is None and _is_googles(extra):
        signature, encrypted = encrypted, None
    return Reasoning(text if isinstance(text, str) else "", signature, encrypted, extra, origin)


def is_block(part: Reasoning) -> bool:
    """Whether the part came as a block of ``reasoning_details``."""
    return str(part.extra.get("type", "")).startswith("reasoning.")


def _encode_block(part: Reasoning) -> dict[str, Any]:
    block = {key: value for key, value in part.extra.items() if key != "field"}
    kind = block.setdefault("type", "reasoning.encrypted" if part.encrypted else "reasoning.text")
    signature, encrypted = part.signature, part.encrypted
    if encrypted is None and _is_googles(block):
        signature, encrypted = None, signature
    if part.text:
        block["summary" if kind == "reasoning.summary" else "text"] = part.text
    if encrypted is not None:
        block["data"] = encrypted
    if signature is not None:
        block["signature"] = signature
    return block


def _is_googles(block: Mapping[str, Any]) -> bool:
    """Whether the data of a block is a signature of what follows it, as Gemini's is."""
    return block.get("format") == "google-gemini-v1" and block.get("type") == "reasoning.encrypted"
