"""``GET /v1/models``: the list of models, both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from llmpipe.dialects.jsonbody import leftover
from llmpipe.errors import BadReply
from llmpipe.types import ModelInfo

__all__ = ("decode_models", "encode_models")

_KNOWN = frozenset(("created_at", "id", "type"))
_LISTED = "active"  # "available for use": what a model is of which nothing else is said. The SDK needs it


def decode_models(body: object) -> tuple[ModelInfo, ...]:
    """The models of one page, in the provider's order (newest first).

    More pages follow while ``has_more`` is true; the next is asked for with ``after_id`` set to
    the page's ``last_id``.

    Raises: BadReply if it is no list of models.
    """
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, list):
        raise BadReply("the reply is no list of models: it has no data", code="no_models", phase="body")
    return tuple(
        ModelInfo(
            id=item["id"],
            owner="anthropic",
            created=_seconds(item.get("created_at")),
            extra=_extra(item),
            context_tokens=_tokens(item.get("max_input_tokens")),
            max_output_tokens=_tokens(item.get("max_tokens")),
        )
        for item in data
        if isinstance(item, Mapping) and isinstance(item.get("id"), str)
    )


def encode_models(models: Iterable[ModelInfo]) -> dict[str, Any]:
    """One page with all `models`."""
    data = [
        {
            "type": "model",
            "id": model.id,
            "display_name": model.id,
            # The API itself sends the epoch where a date is unknown.
            "created_at": datetime.fromtimestamp(model.created or 0, UTC).isoformat().replace("+00:00", "Z"),
            "lifecycle": _LISTED,
            **model.extra,
        }
        for model in models
    ]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


def _extra(item: Mapping[str, Any]) -> dict[str, Any]:
    extra = dict(leftover(item, _KNOWN))
    if extra.get("lifecycle") == _LISTED:
        del extra["lifecycle"]
    return extra


def _tokens(count: object) -> int | None:
    return count if type(count) is int and count > 0 else None


def _seconds(instant: object) -> float | None:
    """Unix time of an RFC 3339 instant; None where there is none, and for the epoch itself."""
    if not isinstance(instant, str):
        return None
    try:
        moment = datetime.fromisoformat(instant)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() or None
