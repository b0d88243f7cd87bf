"""Servers of one's own, and any other that speaks OpenAI's format."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import STATELESS, messages, responses

__all__ = ("PROFILES",)

# Assumed, as of hosted ones: the same is said in ways that all of them take.
_PLAIN = {"cache_control": False, "tool_media": False, "lacks": ("messages.developer",)}

# What the model can, nobody else knows; what the server has no words for, it cannot.
_OLLAMA = Capabilities(embeddings=True, documents=False, prefill=True)
_SERVER = Capabilities(embeddings=True, rerank=True, audio=True, documents=False, prefill=True)
_ANY = Capabilities(embeddings=True, rerank=True, audio=True)

PROFILES = (
    Profile(
        "ollama",
        "openai.chat",
        "http://localhost:11434/v1",
        key_env="OLLAMA_API_KEY",  # of ollama.com, which is base_url="https://ollama.com/v1"
        key_required=False,
        # Continuing is the template's: most do (https://github.com/ollama/ollama/issues/6778), some did not
        # (…/5775), and nobody says which.
        capabilities=_OLLAMA,
        # https://docs.ollama.com/api/openai-compatibility.md, with Responses
        quirks={
            **_PLAIN,
            "reasoning_param": "reasoning_effort",
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
        },
        also={
            "ollama.chat": {
                "base_url": "http://localhost:11434/api",
                "chat_path": "/chat",
                "embeddings_path": "/embed",
                "models_path": "/tags",
                "stream_type": "application/x-ndjson",
            },
            **responses(_OLLAMA, quirks=STATELESS),
            **messages(_OLLAMA),  # https://docs.ollama.com/api/anthropic-compatibility
        },
        prices="ollama",
    ),
    Profile(
        "vllm",
        "openai.chat",
        "http://localhost:8000/v1",
        key_env="VLLM_API_KEY",
        key_required=False,
        rerank_path="/rerank",
        capabilities=_SERVER,
        # docs/serving/openai_compatible_server.md in vllm-project/vllm: chats, vectors, rankings as Cohere's.
        quirks={
            **_PLAIN,
            "reasoning_param": "reasoning_effort",
            # The other field is overlooked: https://github.com/vllm-project/vllm/issues/38488
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
            "prefill": "continue",
            "top_k": True,
        },
        # vllm/entrypoints/anthropic has Messages. That they, and Responses, continue nothing is assumed.
        also={**responses(_SERVER, quirks=STATELESS), **messages(evolve(_SERVER, prefill=False))},
        prices="vllm",
    ),
    Profile(
        "llama-cpp",
        "openai.chat",
        "http://localhost:8080/v1",
        key_env="LLAMA_API_KEY",  # which the server itself reads
        key_required=False,
        rerank_path="/rerank",
        capabilities=_SERVER,
        # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, with Responses, Messages,
        # rankings, and "prefilling of assistant messages similar to the Claude API"
        quirks={**_PLAIN, "reasoning_param": "reasoning_effort", "reasoning_moved": True, "top_k": True},
        also={
            **responses(_SERVER, quirks=STATELESS),
            **messages(_SERVER, count_path="/messages/count_tokens"),
        },
        prices="llama-cpp",
    ),
    Profile(
        "openai-compatible",
        "openai.chat",
        None,
        key_env="LLM_API_KEY",
        key_required=False,
        rerank_path="/rerank",
        capabilities=_ANY,
        also=responses(_ANY),
    ),
)
