"""Proofs of reasoning on this wire: whose each is, where it goes and where it does not.

A block of ``reasoning_details`` says whose it is in OpenRouter's `format`. For ``anthropic-claude-v1`` and
``google-gemini-v1`` that is their origin, and such a block goes to a caller as OpenRouter would send it.
Anthropic says that its signatures "are compatible across platforms (Claude APIs, Amazon Bedrock, and Google
Cloud)". Of Gemini's nothing was found that says so; that one made behind OpenRouter is valid at Google's own
door is assumed here. OpenAI's are bound to an organisation: behind OpenRouter they are OpenRouter's own, and
ours go to callers sealed.

Source: https://platform.claude.com/docs/en/build-with-claude/extended-thinking ("Thinking encryption").

Gemini's signature without text signs what follows it. On this wire that is a block
``reasoning.encrypted`` with the `id` of the tool call, which it is put before when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.dialects.proofs import seal, unseal
from llmpipe.dialects.writing import Writing
from llmpipe.types import Part, Reasoning, ToolCall

__all__ = (
    "GEMINI",
    "SIGNERS",
    "as_block",
    "for_caller",
    "for_server",
    "in_order",
    "once",
    "only_signs",
    "origin_of",
    "unsealed",
)

GEMINI = "gemini.generate"
_ORIGINS = {"anthropic-claude-v1": "anthropic.messages", "google-gemini-v1": GEMINI}
_FORMATS = {
    "anthropic.messages": "anthropic-claude-v1",
    GEMINI: "google-gemini-v1",
    "openai.responses": "openai-responses-v1",
}
_PORTABLE = frozenset(_ORIGINS.values())
_KNOWN = frozenset((*_FORMATS.values(), "azure-openai-responses-v1", "unknown", "xai-responses-v1"))
SIGNERS = frozenset((*_FORMATS, "bedrock.converse"))
"""The dialects whose providers sign what they think."""


def origin_of(block: Mapping[str, Any]) -> str:
    """Whose the proof in a block is, or in the `extra` that was one."""
    form = block.get("format")
    return _ORIGINS.get(form, NAME) if isinstance(form, str) else NAME


def once(form: str) -> str:
    """The format of a block, said once.

    OpenAI's SDK puts a stream together by joining all strings but ``type``, so that a block that came in
    two pieces is of the format ``anthropic-claude-v1anthropic-claude-v1`` when a caller gives it back.
    """
    if form in _KNOWN:
        return form
    unit = form[: (form + form).find(form, 1)]
    return unit if unit in _KNOWN else form


def unsealed(part: Reasoning) -> Reasoning:
    """A caller's `part`, whose proof may be one that we sealed."""
    signature, encrypted, origin = part.signature, part.encrypted, part.origin
    if signature is not None:
        signature, origin = unseal(signature, origin)
    if encrypted is not None:
        encrypted, origin = unseal(encrypted, origin)
    if origin == part.origin:
        return part
    return Reasoning(part.text, signature, encrypted, part.extra, origin)


def in_order(thoughts: Sequence[Reasoning], content: Sequence[Part], calls: Sequence[ToolCall]) -> list[Part]:
    """The parts of a message: its thoughts first, but those that sign a call right before it."""
    if not thoughts:
        return [*content, *calls]
    signing: dict[str, list[Reasoning]] = {call.id: [] for call in calls}
    first: list[Part] = []
    for part in thoughts:
        before = signing.get(str(part.extra.get("id"))) if only_signs(part) else None
        (first if before is None else before).append(part)
    ordered = [*first, *content]
    for call in calls:
        ordered += signing.pop(call.id, ())
        ordered.append(call)
    return ordered


def for_server(
    part: Reasoning, following: Part | None, writing: Writing, path: str, *, details: bool, number: int
) -> Reasoning | None:
    """What a server is sent of `part`: nothing that proves it to somebody else. None for nothing.

    Args: details tells whether the server takes the proofs of others; number is the block's.
    """
    proof = part.signature is not None or part.encrypted is not None
    if not writing.foreign and (
        not proof or part.origin in ("", NAME) or part.origin == origin_of(part.extra)
    ):
        return part
    extra = {} if writing.foreign else part.extra
    if writing.foreign and part.extra:
        writing.native(part.extra, path)
    if proof and details and part.origin in _PORTABLE:
        return as_block(part, following, number)
    if proof:
        writing.losses.dropped(
            path, f"the proof of a thought is for {part.origin or writing.written_in} only"
        )
    return Reasoning(part.text, extra=extra) if part.text else None


def for_caller(part: Reasoning, following: Part | None, *, foreign: bool, number: int) -> Reasoning | None:
    """What a caller is sent of `part`: all of it, sealed where its block would not say whose it is."""
    own = part.origin in ("", NAME) or (not foreign and part.origin == origin_of(part.extra))
    if part.signature is None and part.encrypted is None:
        return Reasoning(part.text) if foreign else part
    return part if own and not foreign else as_block(part, following, number, string=True)


def as_block(part: Reasoning, following: Part | None, number: int, *, string: bool = False) -> Reasoning:
    """`part` in the words of ``reasoning_details``; its text in the string beside it too, with `string`."""
    origin = part.origin or NAME
    signs = only_signs(part) and origin == GEMINI
    extra: dict[str, Any] = {"type": "reasoning.encrypted" if signs or part.encrypted else "reasoning.text"}
    if isinstance(following, ToolCall) and signs:
        extra["id"] = following.id
    extra["format"] = _FORMATS.get(origin, "unknown")
    extra["index"] = number
    if part.text and string:
        extra["field"] = "reasoning_content"
    portable = origin_of(extra) == origin
    signature, encrypted = part.signature, part.encrypted
    if signature is not None and not portable:
        signature = seal(signature, origin, NAME)
    if encrypted is not None and not portable:
        encrypted = seal(encrypted, origin, NAME)
    return Reasoning(part.text, signature, encrypted, extra, origin)


def only_signs(part: Reasoning) -> bool:
    """Whether the part says nothing but that what follows it is signed."""
    return not part.text and part.signature is not None and part.encrypted is None
