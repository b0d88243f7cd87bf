"""What the caller asked for is wrong, or a policy refuses it; no retry can help."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.errors.base import Billed, LLMError, Rescue, Verdict

__all__ = (
    "ContentFiltered",
    "ContextTooLong",
    "InvalidRequest",
    "ModelNotFound",
    "RequestTooLarge",
    "Unsupported",
)


class InvalidRequest(LLMError):
    """The request itself is wrong; sending it again changes nothing."""

    type = "INVALID_REQUEST"
    wire_type = "invalid_request_error"
    default_status = 400
    default_health: ClassVar[Verdict] = "success"


class ContextTooLong(InvalidRequest):
    """The prompt and the room asked for do not fit the model's context."""

    type = "CONTEXT_LENGTH"
    wire_type = "context_length_error"
    default_rescue: ClassVar[Rescue] = "context"


class RequestTooLarge(InvalidRequest):
    """The request has more bytes than the provider, or our own limit, takes."""

    default_status = 413


class ModelNotFound(InvalidRequest):
    """No such model, or not one this key may use."""

    type = "MODEL_NOT_FOUND"
    wire_type = "not_found_error"
    default_status = 404


class Unsupported(InvalidRequest):
    """The target cannot do what was asked; known, and said, before anything was sent."""

    default_sent = False
    default_health: ClassVar[Verdict] = "ignore"
    default_rescue: ClassVar[Rescue] = "any"


class ContentFiltered(LLMError):
    """A content policy refused the prompt or the answer."""

    type = "CONTENT_FILTER"
    wire_type = "content_filter_error"
    default_status = 400
    default_health: ClassVar[Verdict] = "success"
    default_rescue: ClassVar[Rescue] = "policy"
    default_billed: ClassVar[Billed] = "unknown"
