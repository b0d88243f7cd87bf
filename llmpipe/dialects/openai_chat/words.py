"""The name of this dialect, and how the parts of one message are written to one of its servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmpipe.dialects.losses import Losses
from llmpipe.dialects.writing import CACHE, Writing
from llmpipe.types import Role

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("ChatWriting", "NAME")

NAME = "openai.chat"
_NOTHING = frozenset[str]()


class ChatWriting(Writing):
    """A message on its way to a server with these quirks."""

    __slots__ = ("quirks",)

    def __init__(self, written_in: str, losses: Losses, role: Role, quirks: Quirks) -> None:
        super().__init__(NAME, written_in, losses, role, _NOTHING if quirks.cache_control else CACHE)
        self.quirks = quirks
