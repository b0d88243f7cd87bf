"""A full reply: from the wire's JSON to a completion. A stream's chunks are such replies too."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmpipe.dialects.gemini_generate.candidate import CANDIDATE_FIELDS, CandidateDecoder
from llmpipe.dialects.gemini_generate.errors import error_in
from llmpipe.dialects.gemini_generate.fields import NAME
from llmpipe.dialects.gemini_generate.usage import decode_usage
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply, ContentFiltered, LLMError
from llmpipe.secret import scrub
from llmpipe.types import Completion, Event, Start, UsageUpdate, fold

__all__ = ("CHUNK_FIELDS", "blocked", "created_at", "decode_reply", "split_extra", "start_of")

CHUNK_FIELDS = frozenset(("candidates", "createTime", "error", "modelVersion", "responseId", "usageMetadata"))
"""Fields of a reply that are modelled; others stand in a completion's `extra` under their own names."""


_NO_REASON = ("", 0, "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")


def decode_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
    """The completion in the JSON body of a 200.

    Parts that we do not model, such as code and its results, are `Opaque` in their place; what a
    candidate has besides (grounding, citations, ratings) is in `extra` under its name, and further
    candidates are in ``extra["candidates"]`` as they stand.

    Raises: ContentFiltered where the prompt was blocked, so that there is no candidate; the
        classified LLMError where the body holds an error; BadReply where it is no reply.
    """
    found = headers_of_interest(headers)
    first, others = _candidates(body, headers)
    events: list[Event] = [start_of(body, leftover(body, CHUNK_FIELDS))]
    decoder = CandidateDecoder(whole=True)
    decoder.take(first, events, _text(body.get("responseId")))
    events += decoder.finish()
    usage = decode_usage(body.get("usageMetadata"))
    if usage is not None:
        events.append(UsageUpdate(usage))
    done = fold(events)
    extra = {**done.extra, "candidates": others} if others else done.extra
    return Completion(
        id=done.id,
        model=done.model,
        message=done.message,
        finish_reason=done.finish_reason,
        usage=done.usage,
        created=done.created,
        request_id=request_id_in(found),
        headers=found,
        extra=extra,
    )


def start_of(chunk: Mapping[str, Any], extra: Mapping[str, Any]) -> Start:
    """The beginning of the reply that a body or a first chunk tells of."""
    return Start(
        id=_text(chunk.get("responseId")),
        model=_text(chunk.get("modelVersion")),
        created=created_at(chunk.get("createTime")),
        extra=dict(extra) or None,
        dialect=NAME,
    )


def blocked(feedback: object, phase: str) -> ContentFiltered | None:
    """The error that ``promptFeedback`` tells of: the prompt was blocked, and nothing was answered."""
    reason = feedback.get("blockReason") if isinstance(feedback, Mapping) else None
    if not isinstance(feedback, Mapping) or not isinstance(reason, (str, int)) or reason in _NO_REASON:
        return None
    said = feedback.get("blockReasonMessage")
    words = f": {scrub(said, max_chars=300)}" if isinstance(said, str) and said else ""
    ratings = feedback.get("safetyRatings")
    rated = [
        str(one.get("category"))[:60]
        for one in (ratings if isinstance(ratings, list) else ())
        if isinstance(one, Mapping) and (one.get("blocked") or one.get("probability") in ("HIGH", "MEDIUM"))
    ]
    return ContentFiltered(
        f"the prompt was blocked ({scrub(str(reason), max_chars=60)}){words}",
        code=scrub(str(reason), max_chars=60),
        phase=phase,
        metadata={"categories": rated} if rated else None,
    )


def split_extra(extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """A completion's `extra` by where it stands on the wire: body, candidate, other candidates."""
    top = dict(extra)
    candidate: dict[str, Any] = {name: top.pop(name) for name in CANDIDATE_FIELDS if name in top}
    more, others = top.pop("candidate", None), top.pop("candidates", None)
    candidate.update(more if isinstance(more, Mapping) else {})
    return top, candidate, list(others) if isinstance(others, list) else []


def created_at(value: object) -> float | None:
    """Unix time of an RFC 3339 instant, whose fraction may have nine digits."""
    if not isinstance(value, str) or not 19 <= len(value) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _candidates(
    body: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The candidate with index 0, else the first; and the others. Raises: as `decode_reply`."""
    listed = body.get("candidates")
    found = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if body.get("error") or not found:
        raise _no_reply(body, headers)
    first = next((one for one in found if not one.get("index")), found[0])
    return first, [one for one in found if one is not first]


def _no_reply(body: Mapping[str, Any], headers: Mapping[str, str]) -> LLMError:
    if body.get("error"):
        return error_in(body, headers=headers, phase="body")
    refusal = blocked(body.get("promptFeedback"), "body")
    if refusal is not None:
        return refusal
    if says_error(body):
        return error_in(body, headers=headers, phase="body")
    return BadReply("the reply has no candidates", code="no_candidates", phase="body")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
