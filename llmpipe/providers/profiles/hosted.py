"""Providers with an API of their own over the models of many, or over theirs."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import GOES_ON, STATELESS, messages, responses

__all__ = ("PROFILES",)

# Assumed of these servers: no developer's role, no marks for caching, no pictures in a tool's answer. The
# same is said in ways that all of them take, so nothing is lost where that is wrong.
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
        # Of one model, and only such as are sent, not fetched:
        # https://inference-docs.cerebras.ai/capabilities/image-inputs
        capabilities=_IMAGES,
        quirks={
            **_PLAIN,
            "max_tokens_field": "max_completion_tokens",
            "reasoning_param": "reasoning_effort",
            # Others are a 400, and so is "none" with some models:
            # https://github.com/egoist/chatwise-releases/issues/1325
            "efforts": ("none", "low", "medium", "high"),
            # reasoning_content is refused: https://github.com/QwenLM/qwen-code/issues/11045
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
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
        # Pictures, sound and files as they are; whether a beginning is continued depends on who is behind it.
        # Recorded of Claude (openrouter/chat-chat-with-params-openrouter-claude-haiku-4-5-supports-top-k);
        # others may begin anew and say nothing of it, as OpenAI's did (rmusser01/tldw_chatbook, pull 735).
        capabilities=_ROUTER,
        prefill_models=GOES_ON,
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
        # "Assistant Message Prefilling", of all models: https://console.groq.com/docs/prompting
        capabilities=evolve(_IMAGES, prefill=True),
        quirks={
            **_PLAIN,
            "max_tokens_field": "max_completion_tokens",
            "reasoning_param": "reasoning_effort",
            # Recorded are "none" and "low"; "default" is Qwen's. Assumed: there are no others.
            "efforts": ("none", "low", "medium", "high", "default"),
            # reasoning_content is refused: https://github.com/agentjido/req_llm/issues/772
            "reasoning_field": "reasoning",
            "reasoning_moved": True,
            "max_stop": 4,
            # By Groq's SDK (types/chat/completion_create_params.py), where no model supports any of them; of
            # names and the role it is assumed.
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
        # `prefix`, the efforts and `document_url` are those of Mistral's SDK (docs/models/*.md in
        # mistralai/client-python). That it refuses what is left out here is assumed: nothing recorded has it.
        capabilities=Capabilities(embeddings=True, audio=True, prefill=True),
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
            "json": "object",  # https://platform.deepseek.com/api-docs/guides/json_mode/
            "prefill": "prefix",
            "max_stop": 16,
        },
        also={
            # https://api-docs.deepseek.com/guides/responses_api. It holds answers to a schema, by
            # https://api-docs.deepseek.com/api/create-response as quoted in
            # https://github.com/moona3k/macparakeet/pull/1087; a chat refuses one:
            # https://github.com/llm-exe/llm-exe/issues/662.
            **responses(_IMAGES, quirks=STATELESS),
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
        # The one that is developed further: https://docs.x.ai/developers/model-capabilities/text/comparison.
        # It takes files by address or id, not the files themselves, and searches them with a tool of its own
        # (https://docs.x.ai/docs/guides/files/chat-with-files): that is for whoever asks for it.
        also=responses(_IMAGES),
        prices="x-ai",
    ),
    Profile(
        "together",
        "openai.chat",
        "https://api.together.ai/v1",  # https://docs.together.ai/docs/inference/openai-compatibility
        key_env="TOGETHER_API_KEY",
        rerank_path="/rerank",  # as Cohere's: https://docs.together.ai/docs/together-and-llamarank
        capabilities=_RERANKS,
        quirks={
            **_PLAIN,
            "stream_usage": False,  # comes unasked
            # Some models know `reasoning`, which turns it on and off, and some `reasoning_effort`:
            # https://docs.together.ai/docs/inference/chat/reasoning. That it goes back in the field it came
            # in is assumed.
            "reasoning_param": "auto",
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
            # Of Perplexity's SDK, types/chat/completion_create_params.py.
            "efforts": ("minimal", "low", "medium", "high"),
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
        rerank_path="/rerank",
        capabilities=_RERANKS,
        # https://docs.fireworks.ai/guides/reasoning. The efforts are the model's.
        quirks={**_PLAIN, "reasoning_param": "reasoning_effort", "reasoning_moved": True, "top_k": True},
        # https://docs.fireworks.ai/api-reference/post-responses
        also=responses(_RERANKS, quirks=STATELESS),
        prices="fireworks",
    ),
)  # fmt: skip
