"""Token counts: from what OpenAI-compatible wires say to one convention, and back."""

from __future__ import annotations

from typing import Any

from llmpipe.types import Usage

__all__ = ("decode_usage", "encode_usage")

_INPUTS, _OUTPUTS = "prompt_tokens_details", "completion_tokens_details"
_OPENAI = {"prompt_tokens", "completion_tokens", "total_tokens", _INPUTS, _OUTPUTS}
_ABSURD = 1_000_000_000
"""Tokens. No count reaches it; a wire that says so is wrong (F36), and its usage is no usage."""


def decode_usage(wire: object) -> Usage | None:
    """The usage in a reply's `usage` object, or None where it says nothing that can be true.

    Reasoning and cached tokens become subsets of output and input. OpenAI counts so already. xAI
    and Gemini's compatible endpoint leave reasoning out of `completion_tokens`, and Mistral leaves
    audio out of `prompt_tokens`; `total_tokens` gives them away. Whatever is not modelled stays in
    `extra` under its own name.
    """
    if not isinstance(wire, dict):
        return None
    if wire.keys() <= _OPENAI and (usage := _straight(wire)) is not None:
        return usage
    extra = dict(wire)
    prompt = _either(extra, "prompt_tokens", "input_tokens")  # the second names are OpenAI's newer API's
    completion = _either(extra, "completion_tokens", "output_tokens")
    total = _take(extra, "total_tokens")
    if prompt is None or (completion is None and total is None):
        return None
    if completion is None:
        completion = max(total - prompt, 0) if total is not None else 0
    inputs, outputs = _details(extra.pop(_INPUTS, None)), _details(extra.pop(_OUTPUTS, None))
    reasoning = _first(_take(outputs, "reasoning_tokens"), _take(extra, "reasoning_tokens"))
    cached = _first(
        _take(inputs, "cached_tokens"),
        _take(extra, "cached_tokens"),  # Together, Moonshot
        _take(extra, "prompt_cache_hit_tokens"),  # DeepSeek
        _take(extra, "cache_read_input_tokens"),  # Databricks
        _take(extra, "num_cached_tokens"),  # Mistral
    )
    written = _first(_take(inputs, "cache_write_tokens"), _take(extra, "cache_creation_input_tokens"))
    if inputs:
        extra[_INPUTS] = inputs
    if outputs:
        extra[_OUTPUTS] = outputs

    left_out = total - prompt - completion if total is not None else 0
    if left_out > 0:
        if left_out == reasoning:
            completion += left_out
        elif left_out in (_count(inputs.get("audio_tokens")), cached + written):
            prompt += left_out
        elif not reasoning and not outputs:
            # Gemini's compatible endpoint: the thoughts are in the total and nowhere else.
            completion, reasoning = completion + left_out, left_out
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cached_input_tokens=min(cached, prompt),
        cache_write_tokens=min(written, prompt),
        reasoning_tokens=min(reasoning, completion),
        extra=extra,
    )


def encode_usage(usage: Usage, *, foreign: bool = False) -> dict[str, Any]:
    """The `usage` object OpenAI would send; without its `extra` where that is `foreign`, in other words."""
    extra = {} if foreign else dict(usage.extra)
    inputs, outputs = _details(extra.pop(_INPUTS, None)), _details(extra.pop(_OUTPUTS, None))
    inputs["cached_tokens"] = usage.cached_input_tokens
    if usage.cache_write_tokens:
        inputs["cache_write_tokens"] = usage.cache_write_tokens
    outputs["reasoning_tokens"] = usage.reasoning_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        _INPUTS: inputs,
        _OUTPUTS: outputs,
        **extra,
    }


def _straight(wire: dict[str, Any]) -> Usage | None:
    """The usage of a wire whose counts are all plain and add up, as most do; None where they do not."""
    prompt: Any = wire.get("prompt_tokens")
    completion: Any = wire.get("completion_tokens")
    cached = written = reasoning = 0
    extra: dict[str, Any] = {}
    if inputs := _details(wire.get(_INPUTS)):
        cached, written = inputs.pop("cached_tokens", 0), inputs.pop("cache_write_tokens", 0)
        if inputs:
            extra[_INPUTS] = inputs
    if outputs := _details(wire.get(_OUTPUTS)):
        reasoning = outputs.pop("reasoning_tokens", 0)
        if outputs:
            extra[_OUTPUTS] = outputs
    if not type(prompt) is type(completion) is type(cached) is type(written) is type(reasoning) is int:
        return None
    if not (0 <= cached <= prompt < _ABSURD and 0 <= reasoning <= completion < _ABSURD):
        return None
    if not 0 <= written <= prompt or prompt + completion != wire.get("total_tokens"):
        return None
    return Usage(prompt, completion, cached, written, reasoning, extra=extra)


def _count(value: object) -> int | None:
    """A token count, or None: not a number, negative, absurd. Some servers send floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value < _ABSURD:
        return value
    return None


def _take(wire: dict[str, Any], name: str) -> int | None:
    return _count(wire.pop(name, None))


def _either(wire: dict[str, Any], name: str, other: str) -> int | None:
    count = _take(wire, name)
    return count if count is not None or other not in wire else _take(wire, other)


def _details(details: object) -> dict[str, Any]:
    return dict(details) if isinstance(details, dict) else {}


def _first(*counts: int | None) -> int:
    return next((count for count in counts if count is not None), 0)
