"""Where a server puts the description of its error, and whether it is one: shared by all dialects.

Every compatible server has its own place for it, and many answer 200 all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.jsonbody import json_text
from llmpipe.errors import BadReply
from llmpipe.secret import scrub

__all__ = ("codes_of", "message_of", "object_of", "says_error", "stray_error")

_MESSAGES = (
    "message",
    "Message",  # AWS, Tencent
    "msg",  # Z.AI, SiliconFlow
    "Msg",
    "error_msg",  # Baidu
    "error_message",
    "errorMessage",
    "error_description",  # OAuth
    "status_msg",  # MiniMax
    "faultstring",  # Apigee
    "detail",  # FastAPI, RFC 9457
    "details",
    "error",
    "title",
)
_CODES = ("code", "Code", "error_code", "errorCode", "errcode", "reason", "statusCode")
_SAYS = (
    "error",
    "errors",
    "detail",
    "error_code",
    "error_msg",
    "error_message",
    "errorMessage",
    "fault",
)
_FINE = (None, 0, 200, "", "0", "200", "ok", "success")
_MAX_DETAIL_CHARS = 500

# MiniMax's own numbers, which mean other things elsewhere, in words that everybody uses. 1008 is as it was
# reported: https://github.com/MiniMax-AI/MiniMax-M2/issues/62. The others are assumed.
_MINIMAX = {
    1000: "server_error",
    1001: "timeout",
    1002: "rate_limit_exceeded",
    1004: "authentication_error",
    1008: "insufficient_balance",
    1013: "server_error",
    1024: "server_error",
    1026: "content_filter",
    1027: "content_filter",
    1033: "upstream_error",
    1039: "context_length_exceeded",
    1041: "rate_limit_exceeded",
    2013: "invalid_request_error",
    2049: "invalid_api_key",
    2056: "quota_exceeded",
}


def object_of(wire: object) -> dict[str, Any]:
    """The object that describes the error, wherever a server puts it."""
    if isinstance(wire, list):  # Google's endpoints send a list of one
        wire = wire[0] if wire else {}
    if not isinstance(wire, dict):
        return {"message": str(wire)}
    error = wire.get("error")
    if isinstance(error, dict):
        return _inner(error)
    if isinstance(error, str) and error:
        # xAI, Ollama, TGI: {"error": "words", …}; Nest, Spring: {"error": "Not Found", "message": "words"}
        kind = wire.get("type") or wire.get("error_type")
        said = next(
            (text for name in ("message", "error_description") if (text := _words(wire.get(name)))), ""
        )
        if not said:
            return {**wire, "message": error, "type": kind}
        return {**wire, "message": said, "type": kind or error}
    for name, place in _PLACES:
        found = wire.get(name)
        if isinstance(found, dict) and (place is None or isinstance(found := found.get(place), dict)):
            return _inner(found)
    response = wire.get("base_resp")
    if isinstance(response, dict):
        number = response.get("status_code")
        return {"code": _MINIMAX.get(number, number), "message": response.get("status_msg")}  # type: ignore[arg-type]  # any key may be asked for
    errors = wire.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):  # Cloudflare
        return errors[0]
    if errors and "message" not in wire:
        return {**wire, "message": errors}
    return wire  # vLLM, Mistral: {"object": "error", "message": …}; FastAPI: {"detail": …}


def message_of(error: Mapping[str, Any]) -> str:
    """What the error says, in the provider's own words; "" if it says nothing."""
    for name in _MESSAGES:
        if text := _words(error.get(name)):
            return text
    return _words(error.get("reason")) or _words(error.get("type"))


def codes_of(error: Mapping[str, Any]) -> list[object]:
    """What the error is called, most exact first: codes, Google's reasons, its status, its type."""
    codes = [error.get(name) for name in _CODES]
    details = error.get("details")
    if isinstance(details, list):
        codes += [detail.get("reason") for detail in details if isinstance(detail, dict)]
    codes += [error.get("status"), error.get("type")]
    return [scrub(str(code), max_chars=100) for code in codes if isinstance(code, (str, int))]


def says_error(body: Mapping[str, Any]) -> bool:
    """Whether a body that is no reply, or a chunk without choices, tells of an error."""
    if any(body.get(name) for name in _SAYS) or body.get("success") is False:
        return True
    response = body.get("base_resp")  # MiniMax
    if isinstance(response, dict):
        return response.get("status_code") not in _FINE
    response = body.get("Response")  # Tencent
    if isinstance(response, dict):
        return bool(response.get("Error") or response.get("ErrorMsg"))
    if not any(isinstance(body.get(name), str) and body[name] for name in ("message", "msg", "Message")):
        return False
    code = body.get("code")
    if isinstance(code, (str, int)) and code not in _FINE:
        return True
    # Words alone are an error's, unless whoever sends them says what else they are.
    return "code" not in body and not body.get("type") and not body.get("object")


def stray_error(stray: bytes) -> object | None:
    """The error that a server put into a stream as plain JSON instead of an event, or None.

    Args: stray holds the lines that are no field of an event. llama.cpp called the field ``error``.
    """
    stray = stray.strip()
    try:
        wire = orjson.loads(stray.removeprefix(b"error:"))
    except orjson.JSONDecodeError:
        return None
    if stray.startswith(b"error:"):
        return wire if isinstance(wire, dict) else {"message": wire}
    told = wire[0] if isinstance(wire, list) and wire else wire
    return wire if isinstance(told, dict) and says_error(told) else None


# Places of the error's object besides ``error``: under a name, or one level further down.
_PLACES = (("Response", "Error"), ("Response", "ErrorMsg"), ("fault", None), ("detail", None))


def _inner(error: dict[str, Any]) -> dict[str, Any]:
    """The error's object itself, which some wrap a second time."""
    nested, several = error.get("error"), error.get("errors")
    if isinstance(nested, dict) and "message" not in error:
        return nested
    if isinstance(several, list) and several and isinstance(several[0], dict) and not error.get("message"):
        return {**several[0], **error}
    if isinstance(fault := error.get("detail"), dict) and "errorcode" in fault:  # Apigee
        return {"code": fault["errorcode"], **error}
    return error


def _words(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict) and value:  # DeepInfra: {"detail": {"error": "words"}}
        for name in ("message", "error", "detail", "msg"):
            if isinstance(text := value.get(name), str) and text.strip():
                return text.strip()
    if isinstance(value, (dict, list)) and value:  # FastAPI's list of what failed validation
        try:
            return json_text(value, "a detail")[:_MAX_DETAIL_CHARS]
        except BadReply as error:
            return f"({error.message})"
    return ""
