"""OpenAI, and its models at Azure."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import responses

__all__ = ("PROFILES",)

_CAN = Capabilities(embeddings=True, audio=True)

# Reasoning models refuse max_tokens, and every current model takes the newer name. Reasoning is never taken
# back in a conversation of this dialect. Caching needs no marks. Tools answer with text only, and a file is
# sent, not fetched. https://platform.openai.com/docs/api-reference/chat/create
_QUIRKS = {
    "max_tokens_field": "max_completion_tokens",
    "reasoning_param": "reasoning_effort",
    "reasoning_field": None,
    "cache_control": False,
    "tool_media": False,
    "file_urls": False,
    "max_stop": 4,
    "max_tool_id": 40,
}

_AZURE = Profile(
    "azure",
    "openai.chat",
    # The same API is at {resource}.services.ai.azure.com and .cognitiveservices.azure.com, with base_url.
    # https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
    "https://{resource}.openai.azure.com/openai/v1",
    key_env="AZURE_OPENAI_API_KEY",
    key_header="api-key",
    key_prefix="",
    capabilities=_CAN,
    quirks=_QUIRKS,
    settings={"resource": None},
    also=responses(_CAN),
    prices="azure",
)

PROFILES = (
    Profile(
        "openai",
        "openai.chat",
        "https://api.openai.com/v1",
        key_env="OPENAI_API_KEY",
        capabilities=_CAN,
        quirks=_QUIRKS,
        also=responses(
            _CAN,
            count_path="/responses/input_tokens",
            capabilities=Capabilities(count_tokens=True),
        ),
        prices="openai",
    ),
    _AZURE,
    evolve(
        _AZURE,
        name="azure-deployments",  # the API before v1, with the deployment in the path
        version="2024-10-21",  # the last of the dated versions that is no preview
        base_url="https://{resource}.openai.azure.com/openai",
        chat_path="/deployments/{model}/chat/completions?api-version={api_version}",
        embeddings_path="/deployments/{model}/embeddings?api-version={api_version}",
        models_path="/models?api-version={api_version}",
        settings={"resource": None, "api_version": "2024-10-21"},
        also=responses(
            _CAN,
            chat_path="/responses?api-version={api_version}",
            # Before 2025-03-01-preview there were none.
            settings={"resource": None, "api_version": "2025-04-01-preview"},
        ),
    ),
)
