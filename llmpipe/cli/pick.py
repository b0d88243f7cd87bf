"""Which provider a command talks to: as asked, or as the environment has a key for, or the mock."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from llmpipe.errors import ConfigError
from llmpipe.pipeline.provider import Provider
from llmpipe.providers.factory import provider, provider_names
from llmpipe.providers.profiles import PROFILES

__all__ = ("add_provider_arguments", "found_in", "pick")

_DEFAULT_MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}


def add_provider_arguments(parser: argparse.ArgumentParser) -> None:
    """``--provider``, ``--model`` and ``--base-url``."""
    parser.add_argument(
        "--provider", help="openai, anthropic, openai-compatible or mock; by default, what there is a key for"
    )
    parser.add_argument("--model", help="model name; each provider has a default")
    parser.add_argument("--base-url", help="another endpoint, such as http://localhost:11434/v1")


def found_in(environ: Mapping[str, str] = os.environ) -> str | None:
    """The first provider whose key is in the environment, or None."""
    if environ.get("LLM_BASE_URL"):
        return "openai-compatible"
    known = [profile for profile in PROFILES.values() if profile.base_url is not None]
    return next((profile.name for profile in known if environ.get(profile.key_env)), None)


def pick(options: argparse.Namespace) -> Provider:
    """The provider that the options and the environment mean.

    ``LLM_BASE_URL`` and ``LLM_DEFAULT_MODEL`` stand for ``--base-url`` and ``--model``.

    Raises: ConfigError where a real one is asked for and its key, its model or its address is missing.
    """
    kind = options.provider or ("openai-compatible" if options.base_url else found_in()) or "mock"
    if kind == "mock":
        return provider("mock", default=_said, model=options.model or "mock-1")
    if kind not in provider_names():
        provider(kind)  # it knows what to say
    model = options.model or os.environ.get("LLM_DEFAULT_MODEL") or _DEFAULT_MODELS.get(kind, "")
    if not model:
        raise ConfigError(f"provider {kind!r} has no default model; pass --model, or set LLM_DEFAULT_MODEL")
    url = options.base_url
    if kind == "openai-compatible":
        url = url or os.environ.get("LLM_BASE_URL")
        if not url:
            raise ConfigError(
                "which server? Pass --base-url, such as http://localhost:11434/v1, or set LLM_BASE_URL"
            )
    return provider(kind, model=model, base_url=url)


def _said(request: object) -> str:
    text = request.messages[-1].text  # type: ignore[attr-defined]  # chat sends nothing but chat requests
    return (
        f"You said: {text.strip()[:200]!r}. I am a mock: I answer without a key and without a network. "
        "Set OPENAI_API_KEY or ANTHROPIC_API_KEY to talk to a model."
    )
