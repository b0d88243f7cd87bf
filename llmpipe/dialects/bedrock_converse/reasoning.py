"""How much to think: each family of models has its own word for it, and the wire one for effort."""

from __future__ import annotations

from typing import Any

from llmpipe.dialects.bedrock_converse.parts import DIALECT
from llmpipe.dialects.losses import Losses, native
from llmpipe.types import Request

__all__ = ("encode_reasoning",)

_EFFORT = {"minimal": "low"}
_THREE = {"minimal": "low", "xhigh": "high", "max": "high"}  # for models that know low, medium and high


def encode_reasoning(request: Request, of: str, losses: Losses) -> tuple[dict[str, Any], str | None]:
    """What goes to the model's own fields (``additionalModelRequestFields``), and ``outputConfig.effort``.

    Claude: `max_tokens` is the budget of ``thinking``, `enabled` switches it on or off, `effort` is the
    wire's. Nova 2 (``reasoningConfig``), OpenAI's open models (``reasoning_effort``) and Qwen
    (``reasoning_config``) know an effort only. Of models whose id does not tell whose they are, the
    wire's own field is all that is said. The rest cannot be told, and a warning says so.
    """
    options = request.reasoning
    if options is None:
        return {}, None
    effort = options.effort
    off = options.enabled is False or effort == "none"
    fields: dict[str, Any] = {}
    told: str | None = None
    lost = []
    if of == "anthropic":
        if off:
            fields["thinking"] = {"type": "disabled"}
        elif options.max_tokens is not None:
            fields["thinking"] = {"type": "enabled", "budget_tokens": options.max_tokens}
        elif options.enabled:
            fields["thinking"] = {"type": "adaptive"}
        told = None if effort in (None, "none") else _EFFORT.get(effort, effort)
    else:
        lost = _others(of, effort, off, fields)
        if of == "" and effort not in (None, "none"):
            told = effort
        if options.max_tokens is not None:
            lost.append("max_tokens")
        if options.enabled and effort is None and "reasoningConfig" not in fields:
            lost.append("enabled")
    for name in lost:
        losses.dropped(f"reasoning.{name}", "there is no word for it to models of this family")
    fields.update(native(options.extra, request.dialect, DIALECT, "reasoning", losses))
    return fields, told


def _others(of: str, effort: str | None, off: bool, fields: dict[str, Any]) -> list[str]:
    """Put the effort where the family has it; the names of what it has no word for."""
    level = None if effort in (None, "none") else _THREE.get(effort, effort)
    if of == "nova-2":
        if off:
            fields["reasoningConfig"] = {"type": "disabled"}
        elif level is not None:
            fields["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": level}
        return []
    if off:
        return ["enabled"]
    if level is not None and of in ("openai", "qwen"):
        fields["reasoning_effort" if of == "openai" else "reasoning_config"] = level
        return []
    return ["effort"] if level is not None and of else []
