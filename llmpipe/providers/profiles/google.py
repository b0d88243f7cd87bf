"""Gemini, at Google's own API and at Google Cloud."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile

__all__ = ("PROFILES",)

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
    # Not documented, and seen to go on: https://github.com/rmusser01/tldw_chatbook/pull/735. Others had an
    # error: https://github.com/livekit/agents/issues/2570.
    capabilities=Capabilities(embeddings=True, audio=True, prefill=True, count_tokens=True),
    prices="google",
)

PROFILES = (
    _GEMINI,
    evolve(
        _GEMINI,
        name="vertex",
        base_url="https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}",
        version="v1",
        key_env="",  # a token of Google Cloud, see llmpipe.providers.google_auth
        key_header="Authorization",
        key_prefix="Bearer ",
        embeddings_path="/{model}:predict",
        models_path="",
        model_prefix="publishers/google/models/",
        quirks={"labels": True, "embeddings_api": "predict", "count_whole": False},
        settings={"project": None, "location": "global"},  # google-genai's default; every model is there
    ),
)
