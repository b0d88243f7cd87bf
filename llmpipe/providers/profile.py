"""What a provider is, as data."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from attrs import Factory, evolve, field, frozen

from llmpipe.pipeline.provider import Capabilities

__all__ = ("Profile",)


@frozen
class Profile:
    """What sets one provider apart from others that speak its dialect.

    Paths and the base URL may have settings of the provider in braces (``{api_version}``), and paths
    ``{model}``, for providers that are told the model there.

    Attributes:
        dialect: name of the wire format.
        quirks: fields of the dialect that differ here.
        base_url: with the version path; None where the user must say.
        key_header, key_prefix: how the key travels; `key_env` is where it is looked for.
        key_required: False for servers that need none.
        chat_path, embeddings_path, models_path, rerank_path, count_path: below `base_url`; "" where there
            is none.
        stream_path: of a chat that is streamed, where it is another; stream_type: what comes back then.
        model_prefix: put before a model that has no slash, in a path.
        headers: sent with every request.
        body: sent with every chat; without: fields of the dialect that are not.
        settings: what `base_url` and paths need to know, and what it is by default; None where the
            user must say.
        prefill_models: patterns of the models that go on from the beginning of an answer, where others here
            refuse it or answer anew. () for all, if `capabilities` has it.
        also: other dialects this provider speaks, each with the fields of this profile that differ then.
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
    stream_path: str = ""
    stream_type: str = "text/event-stream"
    rerank_path: str = ""
    count_path: str = ""
    model_prefix: str = ""
    body: Mapping[str, Any] = Factory(dict)
    without: tuple[str, ...] = ()
    settings: Mapping[str, str | None] = Factory(dict)
    also: Mapping[str, Mapping[str, Any]] = Factory(dict)
    prefill_models: tuple[str, ...] = ()

    def capabilities_of(self, model: str) -> Capabilities:
        """`capabilities`, without what `model` is not known to have; "" stands for the right model."""
        can = self.capabilities
        if not (model and can.prefill and self.prefill_models):
            return can
        known = any(fnmatchcase(model, pattern) for pattern in self.prefill_models)
        return can if known else evolve(can, prefill=False)
