"""Whose model it is, told by its id, where the one wire of all of them is not quite one."""

from __future__ import annotations

import re

__all__ = ("caches", "caches_tools", "family")

# us.anthropic.claude-…, arn:aws:bedrock:…:inference-profile/eu.amazon.nova-…, qwen.qwen3-32b-v1:0
_ID = re.compile(
    r"(?:^|[./])(ai21|amazon|anthropic|cohere|deepseek|google|meta|minimax|mistral|moonshotai|moonshot|nvidia"
    r"|openai|qwen|stability|twelvelabs|writer|zai)\.([a-z0-9]*(?:-\d+(?![a-z0-9]))?)"
)


def family(model: str) -> str:
    """The vendor in the id of a model; of Amazon's own the line too: ``nova``, ``nova-2``, ``titan``.

    ``""`` where the id does not tell: an application inference profile, an imported or tuned model, a
    prompt. Whoever uses such a one knows what stands behind it, so nothing is kept from it.
    """
    found = _ID.search(model)
    if found is None:
        return ""
    vendor, line = found.groups()
    return line if vendor == "amazon" else vendor


def caches(of: str) -> bool:
    """Whether models of that family take cache points in messages and in the system prompt.

    The others refuse the whole request for one.
    Source: https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
    """
    return of in ("", "anthropic") or of.startswith("nova")


def caches_tools(of: str) -> bool:
    """Whether they take them between tools: Nova refuses (``extraneous key [cachePoint]``)."""
    return of in ("", "anthropic")
