"""What a wire cannot say of a request, told rather than swallowed.

A dialect that encodes a request either says a field, says it in another way (``emulated``), leaves it
out (``dropped``), or refuses it (`Unsupported`, with the field's path). Which of them, is that
dialect's policy for that field: it leaves out what only hints or describes, and refuses what would
change the meaning of the answer. What was dropped or emulated becomes a warning on the reply.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from llmpipe.errors import Unsupported
from llmpipe.types import Tool

__all__ = ("Losses", "function_only", "native", "refused", "unwished")

# What the dialects note in `extra` to give a part back as it came. Others miss nothing without it.
_MARKS = frozenset(("field", "index", "item", "object", "role", "status", "type"))
_OF_PARTS = frozenset(("format", "id"))
# Words of requests, and what they say where that is what happens anyway.
_ANYWAY: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "include": (["reasoning.encrypted_content"],),  # proofs of reasoning come unasked
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "service_tier": ("auto", "default", "standard_only"),
    "store": (False,),
    "text": ({"verbosity": "medium"},),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "verbosity": ("medium",),
}
# Those that are about the wire between the caller and us, or about where a provider looks first.
_ABOUT_THE_WAY = frozenset(("prompt_cache_key", "stream_options"))
_NOTHING: tuple[object, ...] = (None, "", [], {})
_TO_SEE = frozenset(("display", "generate_summary", "includeThoughts", "include_thoughts", "summary"))


class Losses:
    """The warnings of one encoding; of several of one kind, the first with how many there were."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[str, int]] = {}

    def dropped(self, path: str, why: str) -> None:
        """The field at `path`, such as ``messages[0].parts[1].name``, was left out; `why`, in few words."""
        self._add(path, f"dropped: {why}")

    def emulated(self, path: str, how: str) -> None:
        """The field at `path` is said in another way; `how`, in few words."""
        self._add(path, f"emulated: {how}")

    def _add(self, path: str, what: str) -> None:
        key = (path.rpartition(".")[2].rstrip("[0123456789]"), what)
        first, count = self._found.get(key, (path, 0))
        self._found[key] = first, count + 1

    @property
    def warnings(self) -> tuple[str, ...]:
        """What goes into `Completion.warnings`, such as ``seed dropped: Anthropic has none``."""
        return tuple(
            f"{path} {what}" if count == 1 else f"{path} (and {count - 1} more) {what}"
            for (_, what), (path, count) in self._found.items()
        )

    def __bool__(self) -> bool:
        return bool(self._found)


def native(
    extra: Mapping[str, Any],
    written_in: str,
    dialect: str,
    path: str,
    losses: Losses,
    *,
    keeps: Collection[str] = (),
) -> Mapping[str, Any]:
    """Of `extra`, what a wire of `dialect` understands; what it does not is told to `losses`.

    All of it where it was `written_in` that dialect, or in nobody's words but the user's own (``""``).
    Of another dialect's words only those in `keeps`, which this one spells the same (``cache_control``).
    What is None or empty, what dialects note for themselves, and what says no more than what happens
    anyway (``"n": 1``), is left out without a word.
    """
    if not extra or written_in in ("", dialect):
        return extra
    kept = {}
    for name, value in extra.items():
        if name in keeps:
            kept[name] = value
        elif value not in _NOTHING and not _is_no_loss(name, value, path):
            losses.dropped(f"{path}.{name}" if path else name, f"{dialect} has no such field")
    return kept


def unwished(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `extra` of reasoning options without the wish to see the thoughts, for who shows them anyway."""
    if _TO_SEE.isdisjoint(extra):
        return extra
    return {
        name: value
        for name, value in extra.items()
        if name not in _TO_SEE or value in (False, "omitted", "none", "off")
    }


def _is_no_loss(name: str, value: object, path: str) -> bool:
    if path:
        # Log probabilities tell a model nothing of what it said.
        note = name in _MARKS and (path, name) != ("reasoning", "type")  # which is a way to think
        note = note or (name in _OF_PARTS and ".parts[" in path)
        return note or (name == "logprobs" and path != "response_format")
    return name in _MARKS or name in _ABOUT_THE_WAY or value in _ANYWAY.get(name, ())


def function_only(tool: Tool, written_in: str, path: str) -> None:
    """Make sure that a `tool` in another dialect's words is a function, which everybody has.

    Raises: Unsupported for one that its provider runs (a web search), or that takes no JSON: without it the
    answer would be another.
    """
    kind = tool.extra.get("type") or "function"
    plain = "custom" if written_in.startswith("anthropic.") else "function"
    if not tool.name or kind not in ("function", plain):
        raise refused(path, f"a tool of {written_in} ({kind}) that nobody else has; take it out")


def refused(path: str, problem: str) -> Unsupported:
    """The error for what a wire cannot say and must not leave out; nothing was sent."""
    return Unsupported(f"{path}: {problem}", phase="validate", metadata={"param": path})
