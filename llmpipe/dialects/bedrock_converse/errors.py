"""Errors of the wire: of a status, inside a 200, inside a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.headers import lower_case
from llmpipe.dialects.jsonbody import excerpt
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.status import error_for_status
from llmpipe.errors import LLMError
from llmpipe.secret import scrub

__all__ = ("decode_error", "error_in_body", "error_of_event")

# AWS's names for what others call in these words. Where it has no access key, no valid signature, or
# one whose time is over, AWS answers 403 (and 400), which is not that the key may not do this.
_NAMES = {
    "unrecognizedclientexception": "invalid_api_key",
    "invalidclienttokenid": "invalid_api_key",
    "invalidsignatureexception": "invalid_api_key",
    "signaturedoesnotmatch": "invalid_api_key",
    "incompletesignature": "invalid_api_key",
    "incompletesignatureexception": "invalid_api_key",
    "missingauthenticationtoken": "invalid_api_key",
    "missingauthenticationtokenexception": "invalid_api_key",
    "expiredtoken": "invalid_api_key",
    "expiredtokenexception": "invalid_api_key",
    "requestexpired": "invalid_api_key",
    "modelnotreadyexception": "engine_overloaded",  # with 429: it is being loaded
    "toomanyrequestsexception": "throttlingexception",
    "requestentitytoolargeexception": "request_too_large",
    "modelerrorexception": "upstream_error",
    "unknownoperationexception": "not_found",
}

# The one table of texts. AWS has one name, ValidationException or ThrottlingException, for each of
# these and for what no other model or account could answer.
_TEXTS = {
    "validationexception": {
        "model identifier is invalid": "model_not_found",
        "model id is invalid": "model_not_found",
        "on-demand throughput isn": "model_not_found",  # only its inference profile can be called
        "reached the end of its life": "model_not_found",
        "input tokens exceeded": "context_length_exceeded",  # Nova
        "too many input tokens": "context_length_exceeded",
        "total text bytes": "context_length_exceeded",
        "expected maxlength": "context_length_exceeded",
    },
    "throttlingexception": {"per day": "quota_exceeded"},
    "resourcenotfoundexception": {"end of its life": "model_not_found"},
}
_PER_STATUS = {400: "validationexception", 429: "throttlingexception"}  # where the type was not kept


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply that is not a success, whatever its body is. Never raises.

    AWS names it in the header `x-amzn-errortype` or in the body's `__type`, each with an address
    around it, and says it in `message`.

    Args: now is the Unix time for retry hints where the response has no ``Date``.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        parsed = {"message": excerpt(body, max_chars=512)}
    return _classify(status, parsed, headers, phase="headers", now=now)


def error_in_body(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> LLMError:
    """The classified error that a 200 turned out to be."""
    return _classify(None, body, headers or {}, phase="body")


def error_of_event(headers: Mapping[str, Any], payload: bytes) -> LLMError:
    """The classified error of a message that is no event.

    An ``exception`` is one of the API's own, named in `:exception-type`, with its JSON; an ``error``
    is anything else, all of it in `:error-code` and `:error-message`.
    """
    try:
        parsed = orjson.loads(payload)
    except orjson.JSONDecodeError:
        parsed = None
    body = dict(parsed) if isinstance(parsed, dict) else {"message": excerpt(payload, max_chars=512)}
    name = headers.get(":exception-type") or headers.get(":error-code")
    if isinstance(headers.get(":error-message"), str):
        body["message"] = headers[":error-message"]
    elif not body.get("message") and isinstance(body.get("originalMessage"), str):
        body["message"] = body["originalMessage"]
    return _classify(None, {"__type": name, **body}, {}, phase="stream")


def _classify(
    status: int | None,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    phase: str,
    now: float | None = None,
) -> LLMError:
    inner = body.get("Output")  # what stands behind an address that is no operation's
    error = object_of(dict(inner) if isinstance(inner, dict) else dict(body))
    said = message_of({name: value for name, value in error.items() if name != "__type"})
    names = [_bare(lower_case(headers).get("x-amzn-errortype")), _bare(error.get("__type"))]
    codes = [name for name in (*names, *map(_bare, codes_of(error))) if name]
    low = codes[0].lower() if codes else _PER_STATUS.get(status or 0, "")
    texts = _TEXTS.get(low, {})
    exact = next((code for text, code in texts.items() if text in said.lower()), None) or _NAMES.get(low)
    original = error.get("originalStatusCode")
    result = error_for_status(
        status,
        codes=(exact, *codes),
        message=said,
        headers=headers,
        now=now,
        phase=phase,
        metadata={"original_status": original} if isinstance(original, int) else None,
    )
    if codes:
        result.code = codes[0]
    return result


def _bare(name: object) -> str:
    """The name of an error without what stands round it: ``com.amazon.coral.service#Name``, ``Name:http://…``."""
    if not isinstance(name, str):
        return ""
    return scrub(name.rpartition("#")[2].partition(":")[0].strip(), max_chars=100)
