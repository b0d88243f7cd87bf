"""One message on its way to a wire: what of its `extra` that wire knows, and who is told of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.types import Message, Opaque, Request, Role

__all__ = ("CACHE", "Writing", "request_extra")

CACHE = frozenset(("cache_control",))
"""What parts, tools and messages may say in every dialect that knows it: keep the prompt up to here."""

_NONE = frozenset[str]()


class Writing:
    """How the parts of one message are written to a wire of `dialect`.

    Attributes:
        written_in: whose words `extra` is in; `foreign` where these are another dialect's.
        refuses: what this server takes in nobody's words, ``cache_control`` say.
    """

    __slots__ = ("dialect", "foreign", "losses", "refuses", "role", "written_in")

    def __init__(
        self, dialect: str, written_in: str, losses: Losses, role: Role, refuses: frozenset[str] = _NONE
    ) -> None:
        self.dialect = dialect
        self.written_in = written_in
        self.foreign = written_in not in ("", dialect)
        self.losses = losses
        self.role = role
        self.refuses = refuses

    def turn_to(self, message: Message) -> None:
        """Go on with another message: one of these for a whole request is enough."""
        self.role = message.role
        self.written_in = written_in = message.dialect
        self.foreign = written_in not in ("", self.dialect)

    def native(self, extra: Mapping[str, Any], path: str) -> Mapping[str, Any]:
        """Of the `extra` of what stands at `path`, what goes onto the wire; the rest is told."""
        if not extra:
            return extra
        if self.refuses and not self.refuses.isdisjoint(extra):
            for name in sorted(self.refuses.intersection(extra)):
                self.losses.dropped(f"{path}.{name}", "this server does not take it")
            extra = {name: value for name, value in extra.items() if name not in self.refuses}
        if not self.foreign:
            return extra
        return native(extra, self.written_in, self.dialect, path, self.losses, keeps=CACHE)

    def opaque(self, part: Opaque, path: str) -> dict[str, Any] | None:
        """An opaque part as it stood; None for one of another dialect that a model once answered.

        Raises: Unsupported for one of another dialect anywhere else: the question would be another.
        """
        if part.dialect == self.dialect:
            return dict(part.data)
        what = f"a {part.data.get('type', 'part')} of {part.dialect}"
        if self.role != "assistant":
            raise refused(
                path, f"{self.dialect} cannot say {what}; take it out or send it to another provider"
            )
        self.losses.dropped(path, f"{self.dialect} cannot say a part of {part.dialect}")
        return None


def request_extra(
    request: Request,
    dialect: str,
    losses: Losses,
    *,
    keeps: frozenset[str],
    said: frozenset[str] = frozenset(),
) -> Mapping[str, Any]:
    """Of a request's `extra`, what a wire of `dialect` understands; the rest is told.

    Args: keeps are other dialects' words that are spelled alike here, said those that are said elsewhere.
    Raises: Unsupported for another dialect's word without which the answer would be another.
    """
    extra = request.extra
    if request.dialect in ("", dialect):
        return extra
    for name in _MEANINGFUL.intersection(extra):
        value = extra[name]
        if value and (name != "modalities" or value != ["text"]):
            raise refused(name, f"{dialect} has no such field, and the answer would be another without it")
    left = {name: value for name, value in extra.items() if value not in _NOTHING and name not in said}
    return native(left, request.dialect, dialect, "", losses, keeps=keeps)


_NOTHING: tuple[object, ...] = (None, "", [], {})
_MEANINGFUL = frozenset(
    (
        "audio",  # OpenAI: the voice of the answer
        "cachedContent",  # Gemini: the beginning of the conversation
        "conversation",  # OpenAI's responses, and the next
        "function_call",  # OpenAI's tools of 2023, and the next
        "functions",
        "mcp_servers",  # Anthropic: tools
        "modalities",  # OpenAI: sound
        "previous_response_id",
        "prompt",
        "response_format",  # grammars
        "tool_choice",  # those that no field of ours holds
        "web_search_options",  # OpenAI
    )
)
"""Words of requests that say what is asked, not how."""
