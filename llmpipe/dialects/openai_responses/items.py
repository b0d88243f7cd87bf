"""What all items of input and output have in common.

An item is more than the parts that we make of it: it has an id, a status, a phase. These stand in the
`extra` of its parts under ``item``, so that the item can be given back as it came; the words of another
dialect have no such place, and nobody else misses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = ("ITEM", "NAME", "changes", "is_content", "made_up_item_id", "mark_of", "of_the_model", "with_mark")

NAME = "openai.responses"
ITEM = "item"

# Types of content begin so; everything else that we do not model is an item of its own.
_CONTENT = ("input_", "output_", "refusal", "text", "summary_text", "reasoning_text", "image_url")
# Items that the model, or a tool on the provider's side, made. All others are the caller's.
_MADE_BY_THE_MODEL = frozenset(
    (
        "compaction",
        "compaction_summary",
        "mcp_approval_request",
        "mcp_list_tools",
        "program",
        "program_output",
        "tool_search_output",
    )
)


def mark_of(item: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """What `item` has beyond the `known` fields; a status says something only where it is not over."""
    return {
        name: value
        for name, value in item.items()
        if name not in known and value is not None and not (name == "status" and value == "completed")
    }


def with_mark(extra: dict[str, Any], mark: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` with the mark of the item it belongs to, where that has one."""
    if mark:
        extra[ITEM] = mark
    return extra


def is_content(kind: object) -> bool:
    """Whether something of that type stands inside a message, and is no item of its own."""
    return isinstance(kind, str) and kind.startswith(_CONTENT)


def of_the_model(kind: str) -> bool:
    """Whether an item of that type is the model's, so that it belongs into an assistant's message."""
    return kind.endswith("_call") or kind in _MADE_BY_THE_MODEL


def made_up_item_id(prefix: str, reply_id: str, index: int) -> str:
    """An id for an item that came without one; the same in a full reply and in a stream."""
    digest = hashlib.blake2s(f"{reply_id}\0{index}".encode("utf-8", "replace"), digest_size=16)
    return f"{prefix}_{digest.hexdigest()}"


def changes(told: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What `now` says that `told` did not, so that merging the two gives `now`.

    Lists grow at their end. What cannot be said so, an entry that changed or went away, is left out.
    """
    found: dict[str, Any] = {}
    for name, value in now.items():
        old = told.get(name)
        if value is None or value == old:
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = changes(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            value = value[len(old) :]
        else:
            found[name] = value
            continue
        if value:
            found[name] = value
    return found
