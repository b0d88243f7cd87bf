"""Why a candidate ended: Google's words, and ours.

Source: ``FinishReason`` of Google's Gen AI SDK and of the API references of both APIs.
"""

from __future__ import annotations

from llmpipe.types import FinishReason

__all__ = ("decode_finish", "encode_finish")

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "FINISH_REASON_UNSPECIFIED": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",  # reached the limit of one request; a token continues it
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "PUP_LIMITED_DISABLED": "error",
    "OTHER": "error",
    "IMAGE_OTHER": "error",
    "NO_IMAGE": "error",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    "MISSING_THOUGHT_SIGNATURE": "error",
}
# For ``$alt=json;enum-encoding=int``. From 6 on the two APIs number differently: 6 to 8 are filters in
# both, 9 is SPII or MALFORMED_FUNCTION_CALL, 10 the latter or MODEL_ARMOR.
_NUMBERS: dict[int, FinishReason] = {0: "stop", 1: "stop", 2: "length"}
_NUMBERS |= dict.fromkeys((3, 4, 6, 7, 8), "content_filter")
_WORDS: dict[FinishReason, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
    "refusal": "SAFETY",
    "error": "OTHER",
}


def decode_finish(word: object, *, has_calls: bool) -> tuple[FinishReason, object]:
    """Ours for the wire's word or number, and the wire's where ours does not tell it; else None.

    A word of tomorrow ended the candidate all the same.
    """
    if isinstance(word, str):
        reason = _FINISH.get(word, "stop")
    elif type(word) is int:
        reason = _NUMBERS.get(word, "error")
    else:
        reason, word = "stop", None
    if reason == "stop" and has_calls:
        reason = "tool_calls"  # Gemini has no word for it
    return reason, None if word is None or word in (_WORDS[reason], _NUMBER_OF.get(reason)) else word


def encode_finish(reason: FinishReason | None, told: object) -> str | None:
    """The wire's word: the one `told` in `extra`, where it still means `reason`."""
    if reason is None:
        return None
    meant = "stop" if reason == "tool_calls" else reason
    return told if isinstance(told, str) and _FINISH.get(told, "stop") == meant else _WORDS[reason]


_NUMBER_OF = {"stop": 1, "tool_calls": 1, "length": 2, "content_filter": 3, "error": 5}
