"""One candidate of a reply, whole or chunk by chunk: from the wire's parts to events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.gemini_generate.fields import NAME
from llmpipe.dialects.gemini_generate.finish import decode_finish
from llmpipe.dialects.gemini_generate.media import media_part
from llmpipe.dialects.gemini_generate.partial import PartialArguments
from llmpipe.dialects.jsonbody import json_text
from llmpipe.errors import BadReply
from llmpipe.types import Event, Extra, Finish, Opaque, ReasoningDelta, TextDelta, ToolDelta

__all__ = ("CANDIDATE_FIELDS", "CandidateDecoder")

CANDIDATE_FIELDS = frozenset(
    (
        "avgLogprobs",
        "citationMetadata",
        "continuationToken",
        "finishMessage",
        "finishReason",
        "groundingAttributions",
        "groundingMetadata",
        "logprobsResult",
        "safetyRatings",
        "tokenCount",
        "urlContextMetadata",
    )
)
"""Fields of a candidate that stand in a completion's `extra` by name; others are in its ``"candidate"``."""

_MODELLED = frozenset(("content", "finishReason", "index"))
_CONTENT = frozenset(("parts", "role"))
_DATA = frozenset(("fileData", "functionCall", "inlineData", "text"))
_CALL = frozenset(("args", "id", "name", "partialArgs", "willContinue"))
# Of these each chunk has its own tokens; other lists are sent whole again, or their new entries are.
_JOINED = frozenset(("logprobsResult",))
_LATEST = frozenset(("safetyRatings",))


class CandidateDecoder:
    """The state of one candidate. `word` is its finish reason in the wire's words, None before it.

    Args: whole is whether each part is a part of its own, as in a full reply; in a stream, texts that
        follow each other are one.
    """

    __slots__ = (
        "_at",
        "_call",
        "_called",
        "_content",
        "_count",
        "_extra",
        "_kind",
        "_whole",
        "events",
        "index",
        "word",
    )

    def __init__(self, index: int = 0, *, whole: bool = False) -> None:
        self.index = index
        self.word: str | int | None = None
        self.events: list[Event] = []  # of candidates other than the first, which have no other place
        self._whole = whole
        self._kind = ""  # of the part under way: text, thought, or none that goes on
        self._at = -1  # its index
        self._count = 0
        self._called = 0
        self._call: PartialArguments | None = None
        self._extra: dict[str, Any] = {}
        self._content: dict[str, Any] = {}

    def take(self, candidate: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """Append the events of this candidate in one chunk.

        Raises: BadReply for what is not the protocol.
        """
        content = candidate.get("content")
        if isinstance(content, dict):
            parts = content.get("parts")
            if isinstance(parts, list):
                for part in parts:
                    self._part(part, events, reply_id)
            elif parts is not None:  # one alone: not Google's, but a gateway's
                self._part(parts, events, reply_id)
            if not content.keys() <= _CONTENT:
                self._content.update(
                    {k: v for k, v in content.items() if k not in _CONTENT and v is not None}
                )
        word = candidate.get("finishReason")
        if isinstance(word, (str, int)) and word not in ("", "FINISH_REASON_UNSPECIFIED", 0):
            self.word = word
        if not candidate.keys() <= _MODELLED:
            for name, value in candidate.items():
                if name not in _MODELLED and value is not None:
                    self._keep(name, value)

    def finish(self) -> list[Event]:
        """The end of the candidate: what could be told at the end only, and the finish."""
        events: list[Event] = []
        self._close_call(events)
        reason, told = decode_finish(self.word, has_calls=self._called > 0)
        extra: dict[str, Any] = {}
        for name, value in self._extra.items():
            if name in CANDIDATE_FIELDS:
                extra[name] = value
            else:
                extra.setdefault("candidate", {})[name] = value
        if told is not None:
            extra["finishReason"] = told
        if self._content:
            events.append(Extra(self._content, of="message"))
        events.append(Finish(reason, extra or None))
        return events

    def _part(self, part: object, events: list[Event], reply_id: str) -> None:
        if not isinstance(part, dict):
            raise BadReply("a part of the reply is no object", code="bad_part", phase="body")
        text = part.get("text")
        if type(text) is str and len(part) == 1:  # nearly all of them
            if text:
                events.append(TextDelta(text, self._place("text")))
            return
        thought, signature = part.get("thought"), part.get("thoughtSignature")
        rest = {k: v for k, v in part.items() if k not in ("thought", "thoughtSignature") and v is not None}
        if not isinstance(signature, str) or not signature:
            signature = None
        if thought and type(text) is str:
            self._thought(text, signature, rest, events)
        elif not rest or not rest.keys().isdisjoint(_DATA):
            if signature is not None:
                alone = not rest or (text == "" and len(rest) == 1)
                self._sign(signature, events, extra={"field": "text"} if alone else None)
            if thought and rest:
                rest["thought"] = thought
            self._data(part, rest, events, reply_id)
        else:
            self._opaque(part, events)

    def _data(self, part: dict[str, Any], rest: dict[str, Any], events: list[Event], reply_id: str) -> None:
        """A part of a kind that we model, whose signature was told."""
        text = rest.get("text")
        call = rest.get("functionCall")
        if isinstance(call, dict):
            self._function(call, rest, events, reply_id)
        elif isinstance(text, str):
            extra = {name: value for name, value in rest.items() if name != "text"}
            if extra:
                self._kind = ""
            if text or extra:
                events.append(TextDelta(text, self._place("text"), extra or None))
            if extra:
                self._kind = ""
        elif rest:
            self._close_call(events)
            media = media_part(_object(rest.get("inlineData")), _object(rest.get("fileData")))
            more = {k: v for k, v in rest.items() if k not in ("inlineData", "fileData")}
            if media is None or more:
                part = {name: value for name, value in part.items() if name != "thoughtSignature"}
            self._kind = ""
            events.append(Extra(part=Opaque(NAME, part) if media is None or more else media))

    def _opaque(self, part: dict[str, Any], events: list[Event]) -> None:
        """A part we do not model: with its signature, for it goes back as it is."""
        self._close_call(events)
        self._kind = ""
        events.append(Extra(part=Opaque(NAME, part)))

    def _place(self, kind: str) -> int:
        """The index of the part that a piece of this kind belongs to."""
        if self._kind != kind or self._whole:
            self._kind, self._at = kind, self._count
            self._count += 1
        return self._at

    def _thought(self, text: str, signature: str | None, rest: dict[str, Any], events: list[Event]) -> None:
        fresh = self._kind != "thought" or self._whole
        extra = {name: value for name, value in rest.items() if name != "text"}
        if fresh and not text and signature is not None:
            extra["field"] = "thought"
        if text or signature is not None or extra:
            place = self._place("thought")
            origin = NAME if signature is not None else ""
            events.append(ReasoningDelta(text, place, signature, None, extra or None, origin))
        if signature is not None:
            self._kind = ""  # another thought has a signature of its own

    def _sign(self, signature: str, events: list[Event], extra: dict[str, Any] | None) -> None:
        """A signature of a part that is no thought stands before it."""
        self._close_call(events)
        self._kind = ""
        events.append(ReasoningDelta("", self._place("signature"), signature, None, extra, NAME))
        self._kind = ""

    def _function(
        self, call: dict[str, Any], rest: dict[str, Any], events: list[Event], reply_id: str
    ) -> None:
        """A call, whole; or a piece of one.

        Where arguments were asked for in pieces (Vertex AI), each says whether another follows. Besides,
        streams were seen that name a call without any arguments, and send these later without its name.
        """
        name, call_id, args = call.get("name"), call.get("id"), call.get("args")
        pieces = call.get("partialArgs")
        goes_on = call.get("willContinue") is True
        if not (name or args or pieces or self._call):
            return  # the end of a call that had ended
        if name or self._call is None:
            self._close_call(events)
            self._kind = ""
            name = name if isinstance(name, str) else ""
            if not isinstance(call_id, str) or not call_id:
                key = f"{reply_id}\0{self.index}" if self.index else reply_id
                call_id = made_up_id(key, self._called, name)
            extra = {key: value for key, value in rest.items() if key != "functionCall"}
            if more := {key: value for key, value in call.items() if key not in _CALL and value is not None}:
                extra["functionCall"] = more
            self._called += 1
            place = self._place("call")
            if not goes_on and not pieces and (args or self._whole):
                events.append(ToolDelta(place, call_id, name, _arguments(args), extra or None))
                return
            self._call = PartialArguments(place)
            events.append(ToolDelta(place, call_id, name, "", extra or None))
            goes_on = goes_on or not pieces
        if isinstance(args, dict):
            self._call.args.update(args)
        if isinstance(pieces, list):
            self._call.add(pieces)
        if not goes_on:
            self._close_call(events)

    def _close_call(self, events: list[Event]) -> None:
        """The arguments of the call whose pieces came one by one."""
        call, self._call = self._call, None
        if call is not None:
            events.append(ToolDelta(call.index, arguments=_arguments(call.args)))
            self._kind = ""

    def _keep(self, name: str, value: Any) -> None:
        """Keep a field that we do not model, together with what earlier chunks said of it."""
        old = self._extra.get(name)
        if old is None or name in _LATEST:
            if value or old is None:
                self._extra[name] = value
        else:
            self._extra[name] = _together(old, value, joined=name in _JOINED)


def _together(old: Any, value: Any, *, joined: bool) -> Any:
    if isinstance(old, dict) and isinstance(value, dict):
        result = dict(old)
        for name, one in value.items():
            result[name] = _together(result[name], one, joined=joined) if name in result else one
        return result
    if isinstance(old, list) and isinstance(value, list):
        return old + (value if joined else [one for one in value if one not in old])
    return value


def _arguments(args: object) -> str:
    return "{}" if args is None else json_text(args, "the arguments of a tool call")


def _object(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
