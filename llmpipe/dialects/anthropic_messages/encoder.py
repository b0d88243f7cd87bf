"""Our events as a stream of the wire, in the sequence the real API sends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects import sse
from llmpipe.dialects.anthropic_messages.blocks import DIALECT, MessageWriting, encode_part
from llmpipe.dialects.anthropic_messages.errors import error_body
from llmpipe.dialects.anthropic_messages.reply import encode_finish
from llmpipe.dialects.anthropic_messages.usage import encode_usage
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.proofs import seal
from llmpipe.errors import BadReply, LLMError
from llmpipe.types import (
    Audio,
    Event,
    Extra,
    Finish,
    Part,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
    merge_extra,
)

__all__ = ("MessageEncoder",)

_dumps = orjson.dumps

# Parts of the reply's `extra` that the wire tells at the end, and where: in the delta of
# `message_delta`, or beside it.
_LAST = ("stop_reason", "stop_sequence", "stop_details", "container")
_BESIDE = ("context_management", "input_transformations")

_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%s}}\n\n'
)
_TEXT = b'"text_delta","text":%s'
_THINKING = b'"thinking_delta","thinking":%s'
_INPUT = b'"input_json_delta","partial_json":%s'

_Kind = Literal["text", "tool", "reasoning"]


class _Block:
    """A content block that was started and not stopped; `index` is its place on the wire."""

    __slots__ = ("encrypted", "extra", "index", "kind", "origin", "pieces", "signature")

    def __init__(self, kind: _Kind, index: int) -> None:
        self.kind = kind
        self.index = index  # -1: nothing was sent of it yet
        self.pieces: list[str] = []  # tool: of its arguments
        self.signature = ""
        self.encrypted = ""
        self.origin = DIALECT  # of these two
        self.extra: dict[str, Any] = {}  # of encrypted reasoning

    def whole(self) -> bool:
        """Whether nothing more is to come, as far as one can tell when another block begins."""
        if self.kind != "tool":
            return True
        try:
            orjson.loads("".join(self.pieces))
        except orjson.JSONDecodeError:
            return False
        return True


class MessageEncoder:
    """Events to the bytes of one stream.

    Blocks are numbered in the order in which they begin, and each is stopped before the next
    starts; only tool calls whose arguments are not whole yet stay open, because some providers
    send parallel calls interleaved. `message_start` waits for the first event after `Start`, so
    that the usage of the input, where it is known by then, is in it. The last usage and the
    finish go into the one `message_delta` that `close` sends.

    What the wire has no form for is left out: audio, opaque parts of other dialects and what these said
    beyond our fields, `extra` of the message (it has none of its own), and `extra` of a part that comes after
    its first event, citations excepted.
    """

    __slots__ = (
        "_blocks",
        "_called",
        "_count",
        "_extra",
        "_finish",
        "_model",
        "_pinged",
        "_start",
        "_started",
        "_usage",
        "_writing",
    )

    def __init__(self, model: str = "") -> None:
        self._model = model
        self._writing = MessageWriting("", Losses(), "assistant", answering=True)
        self._start: Start | None = None
        self._started = False
        self._pinged = False
        self._blocks: dict[tuple[_Kind, int], _Block] = {}
        self._called: set[int] = set()
        self._count = 0
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._extra: dict[str, Any] = {}

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if isinstance(event, TextDelta):
            return self._text(event.text, event.index, event.extra and self._own(event.extra))
        if isinstance(event, ToolDelta):
            return self._tool(event)
        if isinstance(event, ReasoningDelta):
            return self._reasoning(event)
        if isinstance(event, RefusalDelta):
            return self._text(event.text, ~event.index, None)  # a text of its own
        if isinstance(event, Start):
            self._start = event
            if event.dialect:
                self._writing = MessageWriting(event.dialect, Losses(), "assistant", answering=True)
            for name, value in self._own(event.extra).items():
                if name in _LAST or name in _BESIDE:
                    self._extra[name] = value
            return b""
        if isinstance(event, UsageUpdate):
            self._usage = event.usage
            return b""
        if isinstance(event, Finish):
            self._finish = event
            merge_extra(self._extra, self._own(event.extra))
            return b""
        if isinstance(event, Extra):
            if event.of == "reply":
                merge_extra(self._extra, self._own(event.data))
            return self._whole_part(event.part) if event.part is not None else b""
        return (self._begin() if self._start is not None else b"") + _event("ping", {})

    def close(self) -> bytes:
        """``message_delta`` with the stop reason and the usage, and ``message_stop``.

        Where the reply finished with ``error`` it is an ``error`` event instead: this wire has
        no stop reason for it.
        """
        if self._finish is not None and self._finish.reason == "error":
            return self.fail(BadReply("the provider ended the reply with an error", phase="stream"))
        out = [self._begin(), *(self._stop(key) for key in list(self._blocks))]
        extra = dict(self._extra)
        told = extra.pop("stop_reason", None)
        finish = self._finish.reason if self._finish is not None else None
        beside = {name: extra.pop(name) for name in _BESIDE if name in extra}
        delta = {"stop_reason": encode_finish(finish, told), "stop_sequence": None, **extra}
        out.append(_event("message_delta", {"delta": delta, "usage": self._told(), **beside}))
        out.append(_event("message_stop", {}))
        return b"".join(out)

    def fail(self, error: LLMError) -> bytes:
        """An ``error`` event; nothing may follow it."""
        return sse.encode(_dumps(error_body(error)), "error")

    def _begin(self) -> bytes:
        """``message_start``, once."""
        if self._started:
            return b""
        self._started = True
        start = self._start or Start()
        late = (*_LAST, *_BESIDE)
        extra = {name: value for name, value in self._own(start.extra).items() if name not in late}
        message = {
            "model": start.model or self._model,
            "id": start.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._told(),
            **extra,
        }
        return _event("message_start", {"message": message})

    def _text(self, text: str, index: int, extra: Mapping[str, Any] | None) -> bytes:
        """The hot path is its first lines: more text for the block that is open."""
        block = self._blocks.get(("text", index))
        if block is not None and not extra:
            return _DELTA % (block.index, _TEXT % _dumps(text)) if text else b""
        out = []
        citations: Any = ()
        if extra and isinstance(extra.get("citations"), list):
            citations = extra["citations"]
            extra = {name: value for name, value in extra.items() if name != "citations"}
        if block is None:
            shown: dict[str, Any] = {"citations": []} if citations else {}
            out.append(self._open("text", index, {"type": "text", "text": "", **shown, **(extra or {})}))
            block = self._blocks["text", index]
        out += [_delta(block.index, {"type": "citations_delta", "citation": one}) for one in citations]
        if text:
            out.append(_DELTA % (block.index, _TEXT % _dumps(text)))
        return b"".join(out)

    def _tool(self, event: ToolDelta) -> bytes:
        block = self._blocks.get(("tool", event.index))
        out = b""
        if block is None:
            if event.id is None and event.index in self._called:
                return b""  # its arguments were whole; nothing but blanks can follow
            self._called.add(event.index)
            wire = {"type": "tool_use", "id": event.id or "", "name": event.name or "", "input": {}}
            out = self._open("tool", event.index, {**wire, **self._own(event.extra)})
            block = self._blocks["tool", event.index]
        if event.arguments:
            block.pieces.append(event.arguments)
            out += _DELTA % (block.index, _INPUT % _dumps(event.arguments))
        return out

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        """Signature and encrypted thinking are gathered until the block ends: the wire has them whole."""
        key: tuple[_Kind, int] = ("reasoning", event.index)
        out = b""
        if event.encrypted is None and (key not in self._blocks or self._blocks[key].index < 0):
            wire = {"type": "thinking", "thinking": "", "signature": ""}
            out = self._open("reasoning", event.index, {**wire, **self._own(event.extra)})
        elif key not in self._blocks:
            out = self._begin() + self._stop_whole()
            self._blocks[key] = _Block("reasoning", -1)
        block = self._blocks[key]
        block.signature += event.signature or ""
        block.encrypted += event.encrypted or ""
        if event.origin or self._writing.foreign:
            block.origin = event.origin or self._writing.written_in
        if block.index < 0:
            merge_extra(block.extra, self._own(event.extra))
        if event.text:
            out += _DELTA % (block.index, _THINKING % _dumps(event.text))
        return out

    def _whole_part(self, part: Part) -> bytes:
        """A part that comes in one piece. Of server tools the wire streams the input, as here."""
        wire = None if isinstance(part, Audio) else encode_part(part, self._writing, "part")
        if wire is None:
            return b""
        given = wire.get("input")
        streamed = wire.get("type") == "server_tool_use" and isinstance(given, dict)
        out = [self._begin(), self._stop_whole()]
        index, self._count = self._count, self._count + 1  # after the blocks that have just ended
        out.append(_block_start(index, {**wire, "input": {}} if streamed else wire))
        if streamed and given:
            piece = {"type": "input_json_delta", "partial_json": _dumps(given).decode()}
            out.append(_delta(index, piece))
        out.append(_event("content_block_stop", {"index": index}))
        return b"".join(out)

    def _own(self, extra: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """What the wire had beyond our fields, where it was this one."""
        return {} if extra is None or self._writing.foreign else extra

    def _told(self) -> dict[str, Any]:
        return encode_usage(self._usage, foreign=self._writing.foreign)

    def _open(self, kind: _Kind, index: int, wire: dict[str, Any]) -> bytes:
        """Begin the next block, after those that are whole were stopped."""
        out = self._begin() + self._stop_whole()
        self._blocks[kind, index] = _Block(kind, self._count)
        out += _block_start(self._count, wire)
        self._count += 1
        if not self._pinged:  # the real API sends one after the first block's start
            self._pinged = True
            out += _event("ping", {})
        return out

    def _stop_whole(self) -> bytes:
        return b"".join([self._stop(key) for key, block in list(self._blocks.items()) if block.whole()])

    def _stop(self, key: tuple[_Kind, int]) -> bytes:
        block = self._blocks.pop(key)
        out = b""
        if block.index >= 0:
            if block.signature:
                out = _delta(
                    block.index,
                    {"type": "signature_delta", "signature": seal(block.signature, block.origin, DIALECT)},
                )
            out += _event("content_block_stop", {"index": block.index})
        if block.encrypted:
            index, self._count = self._count, self._count + 1
            out += _block_start(
                index,
                {
                    "type": "redacted_thinking",
                    "data": seal(block.encrypted, block.origin, DIALECT),
                    **block.extra,
                },
            )
            out += _event("content_block_stop", {"index": index})
        return out


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return sse.encode(_dumps({"type": name, **fields}), name)


def _block_start(index: int, wire: Mapping[str, Any]) -> bytes:
    return _event("content_block_start", {"index": index, "content_block": wire})


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event("content_block_delta", {"index": index, "delta": delta})
