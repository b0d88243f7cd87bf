"""Providers with an API of their own over the models of many, or over theirs."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import STATELESS, messages, responses

__all__ = ("PROFILES",)

# These servers cache by themselves, and document neither a developer's role nor pictures in a tool's answer:
# the same is said in ways that all of them take.
_PLAIN = {"cache_control": False, "tool_media": False, "lacks": ("messages.developer",)}

_IMAGES = Capabilities(documents=False)
_ROUTER = Capabilities(embeddings=True, rerank=True, audio=True, prefill=True)
_RERANKS = evolve(_IMAGES, embeddings=True, rerank=True)

PROFILES = (
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
        capabilities=Capabilities(embeddings=True, rerank=True),  # documents are what an answer cites
        prices="cohere",
    ),
    Profile(
        "cerebras",
        "openai.chat",
        "https://api.cerebras.ai/v1",
        key_env="CEREBRAS_API_KEY",
        embeddings_path="",
        capabilities=_IMAGES,  # https://inference-docs.cerebras.ai/models/gemma-4-31b
        quirks={
            **_PLAIN,
            "max_tokens_field": "max_completion_tokens",
            "reasoning_param": "reasoning_effort",
            # reasoning_content is refused: https://github.com/QwenLM/qwen-code/issues/11045
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
            "empty_content": "",
            "max_stop": 4,
            # Taken and never applied: https://github.com/pydantic/pydantic-ai/pull/7653
            "lacks": ("logit_bias", "messages.developer"),
        },
        prices="cerebras",
    ),
    Profile(
        "openrouter",
        "openai.chat",
        "https://openrouter.ai/api/v1",
        key_env="OPENROUTER_API_KEY",
        rerank_path="/rerank",
        capabilities=_ROUTER,
        # https://openrouter.ai/docs/use-cases/reasoning-tokens
        quirks={"reasoning_param": "reasoning", "reasoning_field": "reasoning_details", "top_k": True},
        also={
            **responses(_ROUTER),
            **messages(
                _ROUTER,
                capabilities=Capabilities(json_mode=False, json_schema=False, prefill=True),
                quirks={"json_schema": False, "max_temperature": None, "system_in_messages": False},
            ),
        },
        prices="openrouter",
    ),
    Profile(
        "groq",
        "openai.chat",
        "https://api.groq.com/openai/v1",
        key_env="GROQ_API_KEY",
        embeddings_path="",
        capabilities=evolve(_IMAGES, prefill=True),  # https://console.groq.com/docs/prefilling
        quirks={
            **_PLAIN,
            "max_tokens_field": "max_completion_tokens",
            "reasoning_param": "reasoning_effort",
            # reasoning_content is refused: https://github.com/agentjido/req_llm/issues/772
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
            "max_stop": 4,
            # A 400 each: https://console.groq.com/docs/openai
            "lacks": ("logit_bias", "logprobs", "messages.developer", "messages.name", "n", "top_logprobs"),
        },
        also=responses(_IMAGES, quirks=STATELESS),
        prices="groq",
    ),
    Profile(
        "mistral",
        "openai.chat",
        "https://api.mistral.ai/v1",
        key_env="MISTRAL_API_KEY",
        capabilities=Capabilities(embeddings=True, audio=True, prefill=True),
        # A field that it does not know is a 422: https://docs.mistral.ai/api/endpoint/chat has those it does.
        quirks={
            "seed_field": "random_seed",
            "tool_id_chars": 9,
            "stream_usage": False,  # comes unasked
            "reasoning_param": "reasoning_effort",
            "efforts": ("none", "high"),
            "reasoning_field": "thinking",
            "media": "mistral",
            "prefill": "prefix",
            "cache_control": False,
            "lacks": (
                "logit_bias", "logprobs", "messages.developer", "messages.name", "prompt_cache_retention",
                "safety_identifier", "service_tier", "store", "top_logprobs", "user", "verbosity",
            ),
        },
        prices="mistral",
    ),
    Profile(
        "deepseek",
        "openai.chat",
        "https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
        embeddings_path="",
        # Pictures: https://api-docs.deepseek.com/guides/vision. Prefill is at base_url=…/beta only:
        # https://api-docs.deepseek.com/guides/chat_prefix_completion
        capabilities=evolve(_IMAGES, json_schema=False),
        quirks={
            **_PLAIN,
            # Where a turn calls tools, its reasoning_content must come back:
            # https://api-docs.deepseek.com/guides/thinking_mode
            "reasoning_param": "thinking",
            "reasoning_moved": True,
            "json": "object",  # https://api-docs.deepseek.com/guides/json_mode
            "prefill": "prefix",
            "max_stop": 16,
        },
        also={
            **responses(_IMAGES, quirks=STATELESS),  # https://api-docs.deepseek.com/guides/responses_api
            **messages(  # https://api-docs.deepseek.com/guides/anthropic_api
                _IMAGES,
                base_url="https://api.deepseek.com/anthropic/v1",
                models_path="",
                key_header="x-api-key",
                key_prefix="",
            ),
        },
        prices="deepseek",
    ),
    Profile(
        "xai",
        "openai.chat",
        "https://api.x.ai/v1",
        key_env="XAI_API_KEY",
        embeddings_path="",
        capabilities=_IMAGES,
        quirks={
            **_PLAIN,
            "max_tokens_field": "max_completion_tokens",
            "reasoning_param": "reasoning_effort",
            "reasoning_moved": True,
        },
        # https://docs.x.ai/developers/model-capabilities/text/comparison: the one that is developed further
        also=responses(_IMAGES),
        prices="x-ai",
    ),
    Profile(
        "together",
        "openai.chat",
        "https://api.together.ai/v1",  # https://docs.together.ai/docs/inference/openai-compatibility
        key_env="TOGETHER_API_KEY",
        rerank_path="/rerank",
        capabilities=_RERANKS,
        quirks={
            **_PLAIN,
            "stream_usage": False,  # comes unasked
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
            "top_k": True,
        },
        # https://docs.together.ai/docs/inference/responses-api
        also=responses(_RERANKS, quirks=STATELESS),
        prices="together",
    ),
    Profile(
        "perplexity",
        "openai.chat",
        "https://api.perplexity.ai",
        key_env="PERPLEXITY_API_KEY",
        embeddings_path="",  # its vectors are base64 of 8-bit integers, which no dialect here reads
        models_path="",
        capabilities=Capabilities(tools=False, parallel_tools=False, documents=False, json_mode=False),
        quirks={
            **_PLAIN,
            "reasoning_param": "reasoning_effort",
            "efforts": ("minimal", "low", "medium", "high"),  # of its SDK
            "reasoning_field": None,
            "json": "schema",  # https://docs.perplexity.ai/guides/structured-outputs
            "top_k": True,
            "lacks": ("messages.developer", "seed"),
        },
        prices="perplexity",
    ),
    Profile(
        "fireworks",
        "openai.chat",
        "https://api.fireworks.ai/inference/v1",
        key_env="FIREWORKS_API_KEY",
        rerank_path="/rerank",  # https://docs.fireworks.ai/guides/querying-embeddings-models
        capabilities=_RERANKS,
        # https://docs.fireworks.ai/guides/reasoning
        quirks={**_PLAIN, "reasoning_param": "reasoning_effort", "reasoning_moved": True, "top_k": True},
        also=responses(_RERANKS, quirks=STATELESS),
        prices="fireworks",
    ),
)  # fmt: skip
