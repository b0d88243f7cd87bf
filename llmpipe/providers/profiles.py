"""Providers as data: which dialect, where, how the key is sent, and what each can do.

Sources: each provider's API reference, and recorded traffic of most.
"""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile

__all__ = ("PROFILES", "Profile")

# OpenAI's reasoning models refuse max_tokens, and every current model takes the newer name. Reasoning is
# asked for by effort, and never taken back in a conversation of this dialect. Caching needs no marks.
_OPENAI = {
    "max_tokens_field": "max_completion_tokens",
    "reasoning_param": "reasoning_effort",
    "reasoning_field": None,
    "cache_control": False,
}
_RESPONSES = {"openai.responses": {"chat_path": "/responses"}}
_ALL = Capabilities(embeddings=True, audio=True)
_TEXT_AND_IMAGES = Capabilities(documents=False)
_LOCAL = Capabilities(embeddings=True, audio=True, prefill=True)  # what the model can, nobody else knows

_GEMINI = Profile(
    "gemini",
    "gemini.generate",
    "https://generativelanguage.googleapis.com/v1beta",
    version="v1beta",
    key_env="GEMINI_API_KEY",
    key_header="x-goog-api-key",
    key_prefix="",
    chat_path="/{model}:generateContent",
    stream_path="/{model}:streamGenerateContent?alt=sse",
    embeddings_path="/{model}:batchEmbedContents",
    count_path="/{model}:countTokens",
    models_path="/models?pageSize=1000",
    model_prefix="models/",
    capabilities=Capabilities(embeddings=True, audio=True, prefill=True, count_tokens=True),
    prices="google",
)
_ANTHROPIC = Profile(
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
    count_path="/messages/count_tokens",
    headers={"anthropic-version": "2023-06-01"},
    capabilities=Capabilities(prefill=True, count_tokens=True),
    prices="anthropic",
)
_AZURE = Profile(
    "azure",
    "openai.chat",
    "https://{resource}.openai.azure.com/openai/v1",
    key_env="AZURE_OPENAI_API_KEY",
    key_header="api-key",
    key_prefix="",
    capabilities=_ALL,
    quirks=_OPENAI,
    settings={"resource": None},
    also=_RESPONSES,
    prices="azure",
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "openai",
            "openai.chat",
            "https://api.openai.com/v1",
            key_env="OPENAI_API_KEY",
            capabilities=_ALL,
            quirks=_OPENAI,
            also=_RESPONSES,
            prices="openai",
        ),
        _ANTHROPIC,
        _AZURE,
        evolve(
            _AZURE,
            name="azure-deployments",  # the API before v1, with the deployment in the path
            base_url="https://{resource}.openai.azure.com/openai",
            chat_path="/deployments/{model}/chat/completions?api-version={api_version}",
            embeddings_path="/deployments/{model}/embeddings?api-version={api_version}",
            models_path="/models?api-version={api_version}",
            settings={"resource": None, "api_version": "2024-10-21"},
            also={"openai.responses": {"chat_path": "/responses?api-version={api_version}"}},
        ),
        evolve(
            _ANTHROPIC,
            name="azure-anthropic",
            base_url="https://{resource}.services.ai.azure.com/anthropic/v1",
            key_env="AZURE_ANTHROPIC_API_KEY",
            models_path="",
            settings={"resource": None},
        ),
        _GEMINI,
        evolve(
            _GEMINI,
            name="vertex",
            base_url="https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}",
            version="v1",
            key_env="GOOGLE_API_KEY",
            embeddings_path="/{model}:predict",
            models_path="",
            model_prefix="publishers/google/models/",
            settings={"project": None, "location": "us-central1"},
        ),
        evolve(
            _ANTHROPIC,
            name="vertex-anthropic",
            base_url="https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}",
            key_env="GOOGLE_API_KEY",
            key_header="x-goog-api-key",
            chat_path="/{model}:rawPredict",
            stream_path="/{model}:streamRawPredict",
            count_path="/publishers/anthropic/models/count-tokens:rawPredict",
            models_path="",
            model_prefix="publishers/anthropic/models/",
            headers={},
            body={"anthropic_version": "vertex-2023-10-16"},
            without=("model",),
            settings={"project": None, "location": "us-east5"},
            prices="google",
        ),
        Profile(
            "cohere",
            "cohere.chat",
            "https://api.cohere.com",
            version="v2",
            key_env="CO_API_KEY",
            chat_path="/v2/chat",
            embeddings_path="/v2/embed",
            rerank_path="/v2/rerank",
            models_path="/v1/models?page_size=1000",
            capabilities=Capabilities(embeddings=True, rerank=True, documents=False),
            prices="cohere",
        ),
        Profile(
            "cerebras",
            "openai.chat",
            "https://api.cerebras.ai/v1",
            key_env="CEREBRAS_API_KEY",
            embeddings_path="",
            capabilities=Capabilities(vision=False, documents=False),
            quirks={"max_tokens_field": "max_completion_tokens", "reasoning_field": "reasoning"},
            prices="cerebras",
        ),
        Profile(
            "openrouter",
            "openai.chat",
            "https://openrouter.ai/api/v1",
            key_env="OPENROUTER_API_KEY",
            capabilities=Capabilities(embeddings=True, audio=True, prefill=True),
            quirks={"reasoning_param": "reasoning", "reasoning_field": "reasoning_details"},
            also=_RESPONSES,
            prices="openrouter",
        ),
        Profile(
            "groq",
            "openai.chat",
            "https://api.groq.com/openai/v1",
            key_env="GROQ_API_KEY",
            embeddings_path="",
            capabilities=_TEXT_AND_IMAGES,
            quirks={"max_tokens_field": "max_completion_tokens", "reasoning_field": None},
            prices="groq",
        ),
        Profile(
            "mistral",
            "openai.chat",
            "https://api.mistral.ai/v1",
            key_env="MISTRAL_API_KEY",
            capabilities=Capabilities(embeddings=True, audio=True, prefill=True),
            quirks={"seed_field": "random_seed", "tool_id_chars": 9, "stream_usage": False},
            prices="mistral",
        ),
        Profile(
            "deepseek",
            "openai.chat",
            "https://api.deepseek.com",
            key_env="DEEPSEEK_API_KEY",
            embeddings_path="",
            capabilities=Capabilities(vision=False, documents=False),
            also=_RESPONSES,
            prices="deepseek",
        ),
        Profile(
            "xai",
            "openai.chat",
            "https://api.x.ai/v1",
            key_env="XAI_API_KEY",
            embeddings_path="",
            capabilities=_TEXT_AND_IMAGES,
            also=_RESPONSES,
            prices="x-ai",
        ),
        Profile(
            "together",
            "openai.chat",
            "https://api.together.xyz/v1",
            key_env="TOGETHER_API_KEY",
            capabilities=evolve(_TEXT_AND_IMAGES, embeddings=True),
            prices="together",
        ),
        Profile(
            "perplexity",
            "openai.chat",
            "https://api.perplexity.ai",
            key_env="PERPLEXITY_API_KEY",
            embeddings_path="",
            models_path="",
            capabilities=Capabilities(tools=False, parallel_tools=False),
            prices="perplexity",
        ),
        Profile(
            "fireworks",
            "openai.chat",
            "https://api.fireworks.ai/inference/v1",
            key_env="FIREWORKS_API_KEY",
            capabilities=evolve(_TEXT_AND_IMAGES, embeddings=True),
            prices="fireworks",
        ),
        Profile(
            "ollama",
            "openai.chat",
            "http://localhost:11434/v1",
            key_env="OLLAMA_API_KEY",
            key_required=False,
            capabilities=_LOCAL,
            also={
                "ollama.chat": {
                    "base_url": "http://localhost:11434/api",
                    "chat_path": "/chat",
                    "embeddings_path": "/embed",
                    "models_path": "/tags",
                    "stream_type": "application/x-ndjson",
                }
            },
            prices="ollama",
        ),
        Profile(
            "vllm",
            "openai.chat",
            "http://localhost:8000/v1",
            key_env="VLLM_API_KEY",
            key_required=False,
            capabilities=_LOCAL,
            also=_RESPONSES,
            prices="vllm",
        ),
        Profile(
            "llama-cpp",
            "openai.chat",
            "http://localhost:8080/v1",
            key_env="LLAMA_API_KEY",
            key_required=False,
            capabilities=_LOCAL,
            prices="llama-cpp",
        ),
        Profile(
            "openai-compatible",
            "openai.chat",
            None,
            key_env="LLM_API_KEY",
            key_required=False,
            capabilities=_ALL,
            also=_RESPONSES,
        ),
    )
}
