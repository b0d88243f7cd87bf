"""Which provider a command talks to: as asked, or as the environment has a key for, or the mock."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Mapping

from llmpipe.errors import ConfigError, LLMError
from llmpipe.pipeline.provider import Provider
from llmpipe.providers.factory import provider, provider_names
from llmpipe.providers.profiles import PROFILES, Profile

__all__ = ("add_provider_arguments", "found_in", "pick", "untold")

_DEFAULT_MODELS = {
    "anthropic": "claude-haiku-4-5",
    "cerebras": "gpt-oss-120b",
    "cohere": "command-a-03-2025",
    "deepseek": "deepseek-flash",
    "gemini": "gemini-3.5-flash",
    "groq": "openai/gpt-oss-20b",
    "mistral": "mistral-small-latest",
    "openai": "gpt-4o-mini",
    "openrouter": "openrouter/auto",
    "perplexity": "sonar",
}
_SHOWN = 8  # models, where somebody has to choose


def add_provider_arguments(parser: argparse.ArgumentParser) -> None:
    """``--provider``, ``--model`` and ``--base-url``."""
    parser.add_argument(
        "--provider",
        help="openai, anthropic, gemini, ollama … (`llmpipe doctor` lists them) or mock; "
        "by default, what there is a key for",
    )
    parser.add_argument("--model", help="model name; most providers have a default, or a single model")
    parser.add_argument("--base-url", help="another endpoint, such as http://localhost:11434/v1")


def found_in(environ: Mapping[str, str] = os.environ) -> str | None:
    """The first provider whose key is in the environment, or None; one that needs more is not meant."""
    if environ.get("LLM_BASE_URL"):
        return "openai-compatible"
    known = [profile for profile in PROFILES.values() if profile.key_required and not untold(profile)]
    return next((profile.name for profile in known if environ.get(profile.key_env)), None)


def untold(profile: Profile) -> list[str]:
    """The settings that this provider cannot be reached without, and that have no default."""
    return [name for name, default in profile.settings.items() if default is None]


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
    url = options.base_url
    if kind == "openai-compatible":
        url = url or os.environ.get("LLM_BASE_URL")
        if model and not url:
            raise ConfigError(
                "which server? Pass --base-url, such as http://localhost:11434/v1, or set LLM_BASE_URL"
            )
    elif not url and kind in PROFILES and "resource" in PROFILES[kind].settings:
        where = str(PROFILES[kind].base_url).replace("{resource}", "my-resource")
        raise ConfigError(f"which resource of {kind}? Pass --base-url, such as {where}")
    if not model:
        model = _model_at(kind, url)
    return provider(kind, model=model, base_url=url)


def _model_at(kind: str, url: str | None) -> str:
    """The model of a server that has one and no other.

    Raises: ConfigError where there are several, with their names, or where it cannot be asked.
    """
    offered: list[str] = []
    what = ""
    if url or kind != "openai-compatible":
        try:
            offered = asyncio.run(_offered(provider(kind, base_url=url)))
        except LLMError as error:
            what = f". Asked for its models, it failed: {error}"
    if len(offered) == 1:
        return offered[0]
    if offered:
        what = f"; it offers {', '.join(offered[:_SHOWN])}{', …' if len(offered) > _SHOWN else ''}"
    raise ConfigError(f"provider {kind!r} has no default model; pass --model, or set LLM_DEFAULT_MODEL{what}")


async def _offered(core: Provider) -> list[str]:
    """The names of the models that the provider lists. Raises LLMError."""
    try:
        return sorted({model.id for model in await core.get_models()})
    finally:
        await core.aclose()


def _said(request: object) -> str:
    text = request.messages[-1].text  # type: ignore[attr-defined]  # chat sends nothing but chat requests
    return (
        f"You said: {text.strip()[:200]!r}. I am a mock: I answer without a key and without a network. "
        "Set OPENAI_API_KEY, ANTHROPIC_API_KEY or another key that `llmpipe doctor` names to talk to a model."
    )
