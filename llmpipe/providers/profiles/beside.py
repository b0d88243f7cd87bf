"""The dialects that many providers speak beside their first: OpenAI's Responses and Anthropic's Messages."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities

__all__ = ("GOES_ON", "STATELESS", "VERSION", "messages", "responses")

VERSION = {"anthropic-version": "2023-06-01"}

GOES_ON = (
    "*claude-3*",
    "*claude-*-4",
    "*claude-*-4-0",
    "*claude-*-4[-@]20*",
    "*claude-*-4[-.]1*",
    "*claude-*-4[-.]5*",
)
"""The Claude models that go on from the beginning of an answer, as they are called in various places.

Every later one, from 4.6 on, refuses it with a 400: https://github.com/QwenLM/qwen-code/issues/8039, and
measured at 4.5, 4.6 and 5: https://github.com/router-for-me/CLIProxyAPI/issues/5319. New ones need no entry.
"""

STATELESS = {"encrypted_reasoning": False, "replay_plain_reasoning": True}
"""Quirks of Responses where open models think: in plain text, which goes back as plain text.

Recorded at DeepSeek (``deepseek/responses-test-deepseek-responses-replay-own-reasoning-history``). Assumed of
the others: they send no proof that could be wanted back.
"""


def responses(can: Capabilities, **changes: Any) -> dict[str, dict[str, Any]]:
    """For `Profile.also`: OpenAI's Responses at a provider that `can` that much in its first dialect."""
    able = evolve(can, audio=False, prefill=False, embeddings=False, rerank=False)
    return {
        "openai.responses": {
            "chat_path": "/responses",
            "embeddings_path": "",
            "rerank_path": "",
            "capabilities": able,
            **changes,
        }
    }


def messages(can: Capabilities, **changes: Any) -> dict[str, dict[str, Any]]:
    """For `Profile.also`: Anthropic's Messages, of open models unless `changes` say something else.

    These sign no thought and want it back, and none is held to a schema (assumed: what they document has
    neither).
    """
    able = evolve(
        can, audio=False, documents=False, embeddings=False, rerank=False, json_mode=False, json_schema=False
    )
    return {
        "anthropic.messages": {
            "chat_path": "/messages",
            "embeddings_path": "",
            "rerank_path": "",
            "headers": VERSION,
            "capabilities": evolve(able, count_tokens="count_path" in changes),
            "quirks": {
                "json_schema": False,
                "max_temperature": None,
                "replay_unsigned_thinking": True,
                "system_in_messages": False,
            },
            **changes,
        }
    }
