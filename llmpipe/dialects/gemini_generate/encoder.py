"""The server's side of a stream: events in, server-sent events with replies out."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import define

from llmpipe.dialects import sse
from llmpipe.dialects.gemini_generate.errors import error_body
from llmpipe.dialects.gemini_generate.fields import NAME
from llmpipe.dialects.gemini_generate.finish import encode_finish
from llmpipe.dialects.gemini_generate.reply import split_extra
from llmpipe.dialects.gemini_generate.server import BROKEN_CALL, args_of, created_text, encode_part
from llmpipe.dialects.gemini_generate.signatures import signature_for_caller
from llmpipe.dialects.gemini_generate.usage import encode_usage
from llmpipe.errors import LLMError
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Part,
    Ping,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Start,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    merge_extra,
)

__all__ = ("GenerateEncoder",)

_dumps = orjson.dumps


@define
class _Thought:
    """The reasoning part under way: whether it was shown, and what proves it, which is sent whole."""

    index: int
    shown: bool = False
    signature: str | None = None
    encrypted: str | None = None
    origin: str = ""
    field: str | None = None


@define
class _Call:
    """A tool call under way: the wire has calls whole."""

    id: str
    name: str
    pieces: list[str]
    extra: dict[str, Any]


class GenerateEncoder:
    """Events to the bytes of one stream.

    Texts go out as they come; a signature waits for the part that it signs, a call for its last
    argument. The last chunk has the finish reason, the usage and all that the wire tells of a reply
    besides. There is no other end, and no word for a ping.

    What the wire has no form for is left out: opaque parts and `extra` of other dialects. A call whose
    arguments are no JSON object is one that Gemini calls malformed, in the finish reason.
    """

    __slots__ = (
        "_calls",
        "_created",
        "_dialect",
        "_extra",
        "_finish",
        "_message",
        "_native",
        "_problem",
        "_signature",
        "_tail",
        "_thought",
        "_usage",
    )

    def __init__(self, model: str = "") -> None:
        self._tail = b""
        self._created: float | None = None
        self._dialect = ""
        self._native = True
        self._calls: dict[int, _Call] = {}
        self._thought: _Thought | None = None
        self._signature: str | None = None  # of the part that comes next
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._extra: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._problem: str | None = None
        self._begin(Start(model=model))

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if type(event) is TextDelta:  # the hot path is its last line
            if self._thought is not None or self._signature is not None or self._calls or event.extra:
                return self._part(Text(event.text, event.extra or {}))
            return self._text(event.text) if event.text else b""
        if isinstance(event, ReasoningDelta):
            return self._reasoning(event)
        if isinstance(event, ToolDelta):
            return self._tool(event)
        if isinstance(event, RefusalDelta):
            return self._part(Text(event.text)) if event.text else b""
        if isinstance(event, Start):
            self._begin(event)
        elif isinstance(event, UsageUpdate):
            self._usage = event.usage
        elif isinstance(event, Finish):
            self._finish = event
            merge_extra(self._extra, event.extra)
        elif isinstance(event, Extra):
            merge_extra(self._extra if event.of == "reply" else self._message, event.data)
            return self._part(event.part) if event.part is not None else b""
        else:
            assert isinstance(event, Ping)
        return b""

    def close(self) -> bytes:
        """What was held back, and the chunk with the finish reason."""
        out = self._settle()
        if self._signature is not None:
            out += self._chunk({"text": "", "thoughtSignature": self._signature})
            self._signature = None
        top, extra, others = split_extra(self._extra if self._native else {})
        told = extra.pop("finishReason", None)
        reason = encode_finish(self._finish.reason if self._finish is not None else None, told)
        if self._problem is not None and reason == "STOP":
            reason, extra = BROKEN_CALL, {"finishMessage": self._problem, **extra}
        content = {"parts": [{"text": ""}], "role": "model", **(self._message if self._native else {})}
        candidate: dict[str, Any] = {"content": content}
        if reason is not None:
            candidate["finishReason"] = reason
        body: dict[str, Any] = {"candidates": [{**candidate, "index": 0, **extra}, *others]}
        if self._usage is not None:
            body["usageMetadata"] = encode_usage(self._usage, native=self._native)
        return out + sse.encode(_dumps({**body, **top})[:-1] + self._tail)

    def fail(self, error: LLMError) -> bytes:
        """An error inside the stream; nothing may follow it."""
        return sse.encode(_dumps(error_body(error)))

    def _begin(self, start: Start) -> None:
        if start.dialect:
            self._dialect = start.dialect
            self._native = start.dialect == NAME
        head: dict[str, Any] = {"modelVersion": start.model}
        if (created := created_text(start.created)) is not None:
            head["createTime"] = created
        self._tail = b"," + _dumps({**head, "responseId": start.id})[1:]
        merge_extra(self._extra, start.extra)

    def _text(self, text: str) -> bytes:
        return (
            b'data: {"candidates":[{"content":{"parts":[{"text":'
            + _dumps(text)
            + b'}],"role":"model"},"index":0}]'
            + self._tail
            + b"\n\n"
        )

    def _chunk(self, part: dict[str, Any]) -> bytes:
        content = {"parts": [part], "role": "model"}
        return sse.encode(_dumps({"candidates": [{"content": content, "index": 0}]})[:-1] + self._tail)

    def _part(self, part: Part) -> bytes:
        """A whole part, after what was held back before it."""
        out = self._settle()
        wire = encode_part(part, self._dialect)
        if wire is None:
            return out
        signature, self._signature = self._signature, None
        if signature is not None and "thoughtSignature" in wire:
            out += self._chunk({"text": "", "thoughtSignature": signature})
        elif signature is not None:
            wire["thoughtSignature"] = signature
        return out + self._chunk(wire)

    def _settle(self) -> bytes:
        """The thought and the calls under way, as nothing more of them will come."""
        out = self._end_thought()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            out += self._whole_call(call)
        return out

    def _whole_call(self, call: _Call) -> bytes:
        arguments = "".join(call.pieces)
        if args_of(arguments) is None:
            self._problem = self._problem or f"Malformed function call: {call.name}({arguments})"
            return b""
        wire = encode_part(ToolCall(call.id, call.name, arguments, call.extra), self._dialect)
        assert wire is not None
        if self._signature is not None:
            wire["thoughtSignature"], self._signature = self._signature, None
        return self._chunk(wire)

    def _tool(self, event: ToolDelta) -> bytes:
        out = self._end_thought()
        call = self._calls.get(event.index)
        if call is None:
            # Those before it, if they are whole: some providers send parallel calls interleaved.
            if all(args_of("".join(one.pieces)) is not None and one.pieces for one in self._calls.values()):
                out += self._settle()
            call = self._calls[event.index] = _Call("", "", [], {})
        call.id = event.id or call.id
        call.name = event.name or call.name
        call.pieces.append(event.arguments)
        merge_extra(call.extra, event.extra)
        return out

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        out = b""
        thought = self._thought
        if thought is None or thought.index != event.index:
            out = self._settle()
            field = (event.extra or {}).get("field")
            thought = self._thought = _Thought(event.index, field=field if self._native else None)
        if event.signature is not None:
            thought.signature = (thought.signature or "") + event.signature
        if event.encrypted is not None:
            thought.encrypted = (thought.encrypted or "") + event.encrypted
        thought.origin = event.origin or thought.origin
        if event.text:
            if self._signature is not None:
                out += self._chunk({"text": "", "thoughtSignature": self._signature})
                self._signature = None
            thought.shown = True
            out += self._chunk({"text": event.text, "thought": True})
        return out

    def _end_thought(self) -> bytes:
        """The proof of the thought under way: in a part of its own, or on the part that comes next."""
        thought, self._thought = self._thought, None
        if thought is None:
            return b""
        part = Reasoning("", thought.signature, thought.encrypted, {}, thought.origin)
        proof = signature_for_caller(part, self._dialect)
        if proof is None:
            return b""
        out = b""
        if self._signature is not None:
            out = self._chunk({"text": "", "thoughtSignature": self._signature})
            self._signature = None
        if thought.field == "text":
            return out + self._chunk({"text": "", "thoughtSignature": proof})
        foreign = (thought.origin or self._dialect) not in ("", NAME)
        if thought.shown or foreign or thought.field is not None:
            return out + self._chunk({"text": "", "thought": True, "thoughtSignature": proof})
        self._signature = proof
        return out
