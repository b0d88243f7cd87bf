"""The server's side of a stream: events in, the events Cohere would send out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects import sse
from llmpipe.dialects.cohere_chat.errors import error_words
from llmpipe.dialects.cohere_chat.messages import encode_tool_call
from llmpipe.dialects.cohere_chat.parts import NAME
from llmpipe.dialects.cohere_chat.reply import encode_finish
from llmpipe.dialects.cohere_chat.server import encode_thought
from llmpipe.dialects.cohere_chat.usage import encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.errors import LLMError
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Opaque,
    Ping,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Start,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    merge_extra,
)

__all__ = ("ChatEncoder",)

_dumps = orjson.dumps
_DELTA = (
    b'event: content-delta\ndata: {"type":"content-delta","index":%d,'
    b'"delta":{"message":{"content":{"%s":%s}}}}\n\n'
)
_DONE = b"data: [DONE]\n\n"
_Kind = Literal["text", "thinking", "refusal"]


class _Call:
    """A tool call that has begun. Its pieces are kept until it is its turn, and to know when it is whole."""

    __slots__ = ("first", "pieces", "sent")

    def __init__(self, first: ToolDelta) -> None:
        self.first = first
        self.pieces: list[str] = [first.arguments]
        self.sent = 0  # of `pieces`

    def whole(self) -> bool:
        try:
            orjson.loads("".join(self.pieces))
        except orjson.JSONDecodeError:
            return False
        return True


class ChatEncoder:
    """Events to the bytes of one stream.

    Content blocks and tool calls are numbered apart, each from 0. One is open at a time, as clients
    expect: a tool call that begins while another is not whole waits for it. The finish reason and the usage
    go into the ``message-end`` that `close` sends. What the wire has no form for is left out.
    """

    __slots__ = (
        "_called",
        "_calls",
        "_count",
        "_extra",
        "_finish",
        "_logprobs",
        "_open",
        "_own",
        "_plans",
        "_proof",
        "_started",
        "_usage",
    )

    def __init__(self) -> None:
        self._started = False
        self._own = True  # whether `extra` is in Cohere's words
        self._open: tuple[_Kind, int] | None = None
        self._count = 0  # of content blocks that have begun
        self._plans: set[int] = set()  # indexes of reasoning that is the tool plan
        self._proof = Reasoning()  # of the open thought: the wire has it at the end of the block
        self._calls: dict[int, _Call] = {}  # by the events' index, in the order they began
        self._called = 0  # how many of them have ended
        self._logprobs: list[Any] = []
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._extra: dict[str, Any] = {}

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if type(event) is TextDelta:  # the hot path: more text for the block that is open
            if self._open == ("text", event.index) and not event.extra:
                return _DELTA % (self._count - 1, b"text", _dumps(event.text)) if event.text else b""
            return self._block("text", event.index, event.text, event.extra)
        if isinstance(event, Start):
            return self._begin(event)
        if isinstance(event, Ping):
            return b": ping\n\n"
        if isinstance(event, UsageUpdate):
            self._usage = event.usage
            return b""
        if isinstance(event, Finish):
            self._finish = event
            self._keep(event.extra)
            return b""
        if isinstance(event, ToolDelta):
            return self._tool(event)
        if isinstance(event, ReasoningDelta):
            return self._reasoning(event)
        if isinstance(event, RefusalDelta):
            return self._block("refusal", event.index, event.text, None)
        if isinstance(event, Extra):
            return self._more(event)
        return b""

    def close(self) -> bytes:
        """``message-end`` with the finish reason and the usage, and ``[DONE]``."""
        out = [self._begin(Start()), *(self._logprob(item) for item in self._logprobs), self._stop()]
        out += [self._end_call(call) for call in list(self._calls.values())[self._called :]]
        told = self._extra.pop("finish_reason", None)
        finish = encode_finish(self._finish.reason if self._finish is not None else None, told)
        usage = encode_usage(self._usage, own=self._own)
        out.append(_event("message-end", {"delta": {"finish_reason": finish, "usage": usage, **self._extra}}))
        return b"".join([*out, _DONE])

    def fail(self, error: LLMError) -> bytes:
        """``message-end`` with the error, as Cohere ends a stream that fails."""
        kind, message = error_words(error)
        usage = encode_usage(self._usage, own=self._own)
        delta = {"finish_reason": "ERROR", "usage": usage, "error": message, "error_type": kind}
        return self._begin(Start()) + _event("message-end", {"delta": delta}) + _DONE

    def _begin(self, start: Start) -> bytes:
        """``message-start``, once."""
        if self._started:
            return b""
        self._started = True
        self._own = start.dialect in ("", NAME)
        self._keep(start.extra)
        self._logprobs += _items(self._extra.pop("logprobs", None))
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
        return _event("message-start", {"id": start.id, "delta": {"message": message}})

    def _keep(self, extra: Mapping[str, Any] | None) -> None:
        if self._own:
            merge_extra(self._extra, extra)

    def _block(self, kind: _Kind, index: int, text: str, extra: Mapping[str, Any] | None) -> bytes:
        """A piece of a content block, which begins where another is open."""
        extra = extra if self._own and extra else {}
        field = "thinking" if kind == "thinking" else "text"
        out = []
        if self._open != (kind, index):
            out = [self._begin(Start()), self._stop(), self._end_whole()]
            self._open = kind, index
            content = {"type": field, field: "", **extra}
            out.append(self._content("content-start", self._count, content))
            self._count += 1
        elif extra:
            out.append(self._content("content-delta", self._count - 1, {field: "", **extra}))
        if text:
            out.append(_DELTA % (self._count - 1, field.encode(), _dumps(text)))
        return b"".join(out)

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        extra = event.extra or {}
        if self._own and extra.get("field") == "tool_plan":
            self._plans.add(event.index)
        if event.index in self._plans:
            if not event.text:
                return b""
            message = {"tool_plan": event.text}
            return self._begin(Start()) + _event("tool-plan-delta", {"delta": {"message": message}})
        out = self._block("thinking", event.index, event.text, extra)
        if event.signature is not None or event.encrypted is not None:
            had = self._proof
            signature = None if event.signature is None else (had.signature or "") + event.signature
            encrypted = None if event.encrypted is None else (had.encrypted or "") + event.encrypted
            self._proof = Reasoning(
                "",
                had.signature if signature is None else signature,
                had.encrypted if encrypted is None else encrypted,
                origin=event.origin or had.origin,
            )
        return out

    def _stop(self) -> bytes:
        """The end of the content block that is open."""
        if self._open is None:
            return b""
        self._open, index = None, self._count - 1
        out = b""
        if self._proof.signature is not None or self._proof.encrypted is not None:
            proof = encode_thought(self._proof, own=False)
            del proof["type"]
            out = self._content("content-delta", index, proof)
            self._proof = Reasoning()
        return out + _event("content-end", {"index": index})

    def _tool(self, event: ToolDelta) -> bytes:
        call = self._calls.get(event.index)
        out = []
        if call is None:
            out = [self._begin(Start()), self._stop()]
            call = self._calls[event.index] = _Call(event)
        else:
            call.pieces.append(event.arguments)
        for current in list(self._calls.values())[self._called :]:
            out.append(self._send_call(current))  # the one whose turn it is
            if current is call or not current.whole():
                break
            out.append(self._end_call(current))
        return b"".join(out)

    def _end_whole(self) -> bytes:
        """The ends of the calls to which nothing can be added, in their order."""
        out = b""
        for call in list(self._calls.values())[self._called :]:
            if not call.whole():
                break
            out += self._end_call(call)
        return out

    def _send_call(self, call: _Call) -> bytes:
        """What of a call was not sent yet. The call is the one whose turn it is."""
        out = b""
        first, index = call.first, self._called
        if call.sent == 0:
            whole = ToolCall(first.id or "", first.name or "", "", first.extra or {})
            wire = encode_tool_call(whole, "" if self._own else "another", "", Losses())
            out = _event("tool-call-start", {"index": index, "delta": {"message": {"tool_calls": wire}}})
        if pieces := "".join(call.pieces[call.sent :]):
            calls = {"function": {"arguments": pieces}}
            out += _event("tool-call-delta", {"index": index, "delta": {"message": {"tool_calls": calls}}})
        call.sent = len(call.pieces)
        return out

    def _end_call(self, call: _Call) -> bytes:
        out = self._send_call(call) + _event("tool-call-end", {"index": self._called})
        self._called += 1
        return out

    def _more(self, event: Extra) -> bytes:
        out = [self._begin(Start())]
        part, data = event.part, dict(event.data or {}) if self._own else {}
        if isinstance(part, Opaque) and part.dialect == NAME:
            out += [
                self._stop(),
                self._end_whole(),
                self._content("content-start", self._count, dict(part.data)),
            ]
            out.append(_event("content-end", {"index": self._count}))
            self._count += 1
        elif isinstance(part, Refusal):
            out.append(self._block("refusal", -1, part.text, None))
        if event.of == "message":
            for number, citation in enumerate(_items(data.get("citations"))):
                message = {"citations": citation}
                out.append(_event("citation-start", {"index": number, "delta": {"message": message}}))
                out.append(_event("citation-end", {"index": number}))
        else:
            out += [self._logprob(item) for item in _items(data.pop("logprobs", None))]
            self._keep(data)
        return b"".join(out)

    def _logprob(self, item: object) -> bytes:
        """Log probabilities, which stand beside a piece of text: here an empty one."""
        index = max(self._count - 1, 0)
        delta = {"message": {"content": {"text": ""}}}
        return _event("content-delta", {"index": index, "delta": delta, "logprobs": item})

    def _content(self, name: str, index: int, content: dict[str, Any]) -> bytes:
        return _event(name, {"index": index, "delta": {"message": {"content": content}}})


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return sse.encode(_dumps({"type": name, **fields}), name)
