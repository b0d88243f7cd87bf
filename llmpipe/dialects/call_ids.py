"""Ids for tool calls that came without one."""

from __future__ import annotations

import hashlib

__all__ = ("made_up_id",)


def made_up_id(reply_id: str, index: int, name: object) -> str:
    """An id for a tool call that came without one (Gemini's endpoint, some local servers).

    The same for the same reply, so that every decoding agrees, and at most 40 characters, which
    is what OpenAI takes.
    """
    digest = hashlib.blake2s(f"{reply_id}\0{index}\0{name}".encode("utf-8", "replace"), digest_size=12)
    return f"call_{digest.hexdigest()}"
