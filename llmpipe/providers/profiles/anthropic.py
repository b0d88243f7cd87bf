"""Anthropic, and its models at Azure and Google Cloud."""

from __future__ import annotations

from attrs import evolve

from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.profile import Profile
from llmpipe.providers.profiles.beside import GOES_ON, VERSION

__all__ = ("PROFILES",)

_ANTHROPIC = Profile(
    "anthropic",
    "anthropic.messages",
    "https://api.anthropic.com/v1",
    version=VERSION["anthropic-version"],
    key_env="ANTHROPIC_API_KEY",
    key_header="x-api-key",
    key_prefix="",
    chat_path="/messages",
    embeddings_path="",
    models_path="/models?limit=1000",  # as many as one page can have; by default it has 20
    count_path="/messages/count_tokens",
    headers=VERSION,
    capabilities=Capabilities(json_mode=False, prefill=True, count_tokens=True),  # no JSON without a schema
    prefill_models=GOES_ON,
    prices="anthropic",
)

PROFILES = (
    _ANTHROPIC,
    evolve(
        _ANTHROPIC,
        name="azure-anthropic",
        base_url="https://{resource}.services.ai.azure.com/anthropic/v1",
        key_env="ANTHROPIC_FOUNDRY_API_KEY",
        # As Anthropic's SDK has it (anthropic/lib/foundry.py): no models, and counts as at Anthropic.
        models_path="",
        settings={"resource": None},
    ),
    evolve(
        _ANTHROPIC,
        name="vertex-anthropic",
        base_url="https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}",
        version="vertex-2023-10-16",
        key_env="",  # a token of Google Cloud, see llmpipe.providers.google_auth
        key_header="Authorization",
        key_prefix="Bearer ",
        chat_path="/{model}:rawPredict",
        stream_path="/{model}:streamRawPredict",
        # The model is in the body there, and not every location has it:
        # https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/count-tokens
        count_path="/publishers/anthropic/models/count-tokens:rawPredict",
        models_path="",
        model_prefix="publishers/anthropic/models/",
        headers={},
        body={"anthropic_version": "vertex-2023-10-16"},
        without=("model",),
        settings={"project": None, "location": "global"},
        prices="google",
    ),
)
