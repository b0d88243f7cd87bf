"""OpenAI, and its models at Azure."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import responses

__all__ = ("PROFILES",)

_CAN = Capabilities(embeddings=True, audio=True)

# By the types of OpenAI's SDK (openai/types/chat): reasoning models refuse max_tokens and every model has the
# newer name, messages have no field for reasoning, tools answer with text, and 4 stop sequences are the most.
# A file is sent, not fetched: https://developers.openai.com/api/docs/guides/pdf-files.
# A tool call's id of more than 40 characters is a 400: https://github.com/agno-agi/agno/issues/5382.
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
    # articles/ai-foundry/openai/api-version-lifecycle.md in MicrosoftDocs/azure-ai-docs. Recorded as well at
    # {resource}.services.ai.azure.com and .cognitiveservices.azure.com, which go in with base_url.
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
        version="2024-10-21",  # the last of the dated versions that was no preview, in August 2025
        base_url="https://{resource}.openai.azure.com/openai",
        chat_path="/deployments/{model}/chat/completions?api-version={api_version}",
        embeddings_path="/deployments/{model}/embeddings?api-version={api_version}",
        models_path="/models?api-version={api_version}",
        settings={"resource": None, "api_version": "2024-10-21"},
        also=responses(
            _CAN,
            chat_path="/responses?api-version={api_version}",
            # Responses came with 2025-03-01-preview; the documentation's own example has this one.
            settings={"resource": None, "api_version": "2025-04-01-preview"},
        ),
    ),
)
