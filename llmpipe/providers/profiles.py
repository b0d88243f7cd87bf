"""Providers as data: which dialect, where, how the key is sent, and what each can do."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, field, frozen

from llmpipe.pipeline.provider import Capabilities

__all__ = ("PROFILES", "Profile")


@frozen
class Profile:
    """What sets one provider apart from others that speak its dialect.

    Attributes:
        dialect: name of the wire format.
        quirks: fields of the dialect that differ here.
        base_url: with the version path; None where the user must say.
        key_header, key_prefix: how the key travels; `key_env` is where it is looked for.
        key_required: False for servers that need none.
        chat_path, embeddings_path, models_path: below `base_url`; "" where there is none.
        headers: sent with every request.
        prices: the name the price table knows the provider by; "" for none.
    """

    name: str
    dialect: str
    base_url: str | None
    version: str = "v1"
    key_env: str = ""
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    key_required: bool = True
    chat_path: str = "/chat/completions"
    embeddings_path: str = "/embeddings"
    models_path: str = "/models"
    headers: Mapping[str, str] = Factory(dict)
    capabilities: Capabilities = field(factory=Capabilities)
    quirks: Mapping[str, object] = Factory(dict)
    prices: str = ""


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "openai",
            "openai.chat",
            "https://api.openai.com/v1",
            key_env="OPENAI_API_KEY",
            capabilities=Capabilities(embeddings=True),
            # Reasoning models refuse max_tokens; every current model takes the newer name. Reasoning is
            # asked for by effort, and never taken back in a conversation.
            quirks={
                "max_tokens_field": "max_completion_tokens",
                "reasoning_param": "reasoning_effort",
                "reasoning_field": None,
            },
            prices="openai",
        ),
        Profile(
            "anthropic",
            "anthropic.messages",
            "https://api.anthropic.com/v1",
            version="2023-06-01",
            key_env="ANTHROPIC_API_KEY",
            key_header="x-api-key",
            key_prefix="",
            chat_path="/messages",
            embeddings_path="",
            models_path="/models?limit=1000",  # as many as one page can have; by default it has 20
            headers={"anthropic-version": "2023-06-01"},
            prices="anthropic",
        ),
        Profile(
            "openai-compatible",
            "openai.chat",
            None,
            key_env="LLM_API_KEY",
            key_required=False,
            capabilities=Capabilities(embeddings=True),
        ),
    )
}
