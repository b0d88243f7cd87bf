"""Content blocks of requests: our parts as the wire's blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import Factory, define

from llmpipe.dialects.bedrock_converse.attachments import Attachments, audio_block, image_block
from llmpipe.dialects.bedrock_converse.families import caches
from llmpipe.dialects.checked import arguments_of
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import (
    Audio,
    Document,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("DIALECT", "Parts", "cache_point", "is_blank")

DIALECT = "bedrock.converse"

_CACHE = "cache_control"
_TOOL_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_FAILED = "The tool failed and said nothing."

Role = Literal["system", "user", "assistant", "tool"]


def cache_point(control: object) -> dict[str, Any]:
    """The block that stands behind what the portable marker ``cache_control`` stands on."""
    point = {"type": "default"}
    if isinstance(control, Mapping) and isinstance(ttl := control.get("ttl"), str):
        point["ttl"] = ttl
    return {"cachePoint": point}


def is_blank(block: Mapping[str, Any]) -> bool:
    """Whether a block is text without a visible character: the API refuses that."""
    text = block.get("text")  # of another kind only where `extra` says so
    return len(block) == 1 and isinstance(text, str) and not text.strip()


@define
class Parts:
    """Writes the parts of one request: for which `family` of models, and where losses are told.

    `unsigned` reasoning is sent back only where that is said: Claude refuses it.
    """

    losses: Losses
    family: str
    unsigned: bool = False
    attachments: Attachments = Factory(lambda self: Attachments(self.losses), takes_self=True)

    def blocks(self, parts: Iterable[Part], path: str, role: Role, words: str) -> list[dict[str, Any]]:
        """The blocks of a message's `parts`, each cache marker behind its own; blank text is left out.

        Args: words names the dialect that the parts' `extra` is written in.
        Raises: Unsupported, naming the path, for what the wire cannot carry and must not lose.
        """
        blocks: list[dict[str, Any]] = []
        for position, part in enumerate(parts):
            at = f"{path}.parts[{position}]"
            extra: dict[str, Any] = {}
            if not isinstance(part, Opaque):
                # Reasoning is the provider's, whoever reads: nothing but its origin could use its extra.
                extra = dict(native(part.extra, words, DIALECT, at, self.losses, keeps=_keeps(part)))
            control = extra.pop(_CACHE, None)
            block = self._block(part, at, role, extra, words)
            if block is not None and not is_blank(block):
                blocks.append(block)
            if control is not None and blocks:
                self._mark(blocks, control, f"{at}.{_CACHE}")
        return blocks

    def _mark(self, blocks: list[dict[str, Any]], control: object, path: str) -> None:
        if caches(self.family):
            blocks.append(cache_point(control))
        else:
            self.losses.dropped(path, "models of this family have no prompt cache")

    def _block(
        self, part: Part, at: str, role: Role, extra: dict[str, Any], words: str
    ) -> dict[str, Any] | None:
        if isinstance(part, Text):
            return _text(part, extra)
        if isinstance(part, Opaque):
            return self._opaque(part, at, role)
        if role == "system":
            raise refused(at, f"Bedrock's system prompt is text, and cannot hold {_name(part)}")
        if isinstance(part, Reasoning):
            return self._reasoning(part, at, extra)
        if isinstance(part, Refusal):
            self.losses.emulated(at, "a refusal is text")
            return {"text": part.text, **extra}
        if isinstance(part, ToolCall):
            return {"toolUse": _tool_use(part, at, extra)}
        if isinstance(part, ToolResult):
            return {"toolResult": self._tool_result(part, at, extra, words)}
        return self._media(part, at, extra)

    def _media(self, part: Image | Document | Audio, at: str, extra: dict[str, Any]) -> dict[str, Any]:
        if isinstance(part, Image):
            if part.detail is not None:
                self.losses.dropped(f"{at}.detail", "Bedrock has none")
            return image_block(part, at, extra)
        if isinstance(part, Document):
            return self.attachments.document(part, at, extra)
        return audio_block(part, extra)

    def _opaque(self, part: Opaque, at: str, role: Role) -> dict[str, Any] | None:
        if part.dialect == DIALECT:
            return dict(part.data)
        if role != "assistant":
            raise refused(at, f"Bedrock's messages cannot carry a part of {part.dialect}")
        self.losses.dropped(at, f"a part of {part.dialect}, which no other understands")
        return None

    def _reasoning(self, part: Reasoning, at: str, extra: dict[str, Any]) -> dict[str, Any] | None:
        own = part.origin in ("", DIALECT)
        if part.encrypted is not None and part.signature is None:
            if own:
                return {"reasoningContent": {"redactedContent": part.encrypted, **extra}}
            self.losses.dropped(at, f"encrypted reasoning of {part.origin}, which no other can read")
            return None
        signed = own and bool(part.signature)
        if not signed and not (self.unsigned and part.text):
            self.losses.dropped(at, "reasoning that Bedrock did not sign")
            return None
        text = {"text": part.text, **({"signature": part.signature} if signed else {})}
        return {"reasoningContent": {"reasoningText": text, **extra}}

    def _tool_result(self, part: ToolResult, at: str, extra: dict[str, Any], words: str) -> dict[str, Any]:
        """Success is what a result says that says nothing: only Claude and Nova know the field."""
        content = []
        for position, inner in enumerate(part.content):
            path = f"{at}.content[{position}]"
            if not isinstance(inner, Text | Image | Document | Opaque | Refusal):
                raise refused(path, f"a tool's result cannot hold {_name(inner)}")
            kept: dict[str, Any] = {}
            if not isinstance(inner, Opaque):
                kept = dict(native(inner.extra, words, DIALECT, path, self.losses, keeps=_keeps(inner)))
                if kept.pop(_CACHE, None) is not None:
                    self.losses.dropped(f"{path}.{_CACHE}", "no cache point can stand inside a tool's result")
            block = self._block(inner, path, "tool", kept, words)
            if block is not None and not is_blank(block):
                content.append(block)
        if part.is_error and not content:
            content = [{"text": _FAILED}]  # refused where it is empty
        result: dict[str, Any] = {"toolUseId": _tool_id(part.id), "content": content}
        if part.is_error:
            result["status"] = "error"
        return {**result, **extra}


def _text(part: Text, extra: dict[str, Any]) -> dict[str, Any]:
    """Text, with the citations that the model gave for it."""
    if "citations" not in extra:
        return {"text": part.text, **extra}
    content = [{"text": part.text}] if part.text else []
    return {"citationsContent": {"content": content, **extra}}


def _tool_use(part: ToolCall, at: str, extra: dict[str, Any]) -> dict[str, Any]:
    if extra.get("type") == "tool_use":  # Nova says it, and the API refuses it
        del extra["type"]
    return {"toolUseId": _tool_id(part.id), "name": part.name, "input": arguments_of(part, at), **extra}


def _tool_id(call_id: str) -> str:
    """`call_id`; or, where the API would refuse it, one made of it: the same for a call and its result."""
    if _TOOL_ID.fullmatch(call_id):
        return call_id
    return f"call_{hashlib.blake2s(call_id.encode('utf-8', 'replace'), digest_size=12).hexdigest()}"


def _keeps(part: Part) -> tuple[str, ...]:
    """What others spell as this one does: the cache marker, and Anthropic two fields of a document."""
    return (_CACHE, "citations", "context") if isinstance(part, Document) else (_CACHE,)


def _name(part: Part) -> str:
    return f"{'an' if isinstance(part, Audio | Image) else 'a'} {type(part).__name__}"
